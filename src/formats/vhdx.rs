//! Virtual Hard Disk, version 2.
//!
//! ```text
//! 0      mark, two headers, two region tables      1 MiB each step from here on, in any order:
//! log │ metadata region │ block allocation table │ payload blocks and, with a parent, sector bitmaps
//! ```
//! Source: `[MS-VHDX]` v20240423. A file is read through its log, which is replayed in memory. Opening writes nothing,
//! for writing either: only when the caller has checked the whole chain, the log is applied and cleared.

mod bat;
mod crc;
mod create;
mod header;
mod identity;
mod items;
mod locator;
mod log;
mod metadata;
mod overlay;
mod region;
mod replay;
mod session;
mod space;
mod structure;
mod survey;
mod write;

use std::sync::Arc;

use crate::formats::bitmap::BitOrder;
use crate::formats::cache::MetadataCache;
use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::extent::{Place, Run};
use crate::formats::info::{DiskKind, ImageInfo};
use crate::formats::source::{Access, Source};
use crate::formats::vhdx::bat::{Entry, State, Table};
use crate::formats::vhdx::header::Headers;
use crate::formats::vhdx::items::Items;
use crate::formats::vhdx::log::SECTOR;
use crate::formats::vhdx::metadata::Metadata;
use crate::formats::vhdx::overlay::{Overlay, Patches};
use crate::formats::vhdx::session::Session;
use crate::formats::vhdx::structure::Structure;
use crate::units::{to_u64, to_usize};

pub(crate) use create::create;
pub(crate) use header::SIGNATURE;

/// An open VHDX.
pub(crate) struct Vhdx {
    source: Source,
    info: ImageInfo,
    table: Table,
    items: Items,
    metadata: Metadata,
    cache: MetadataCache,
    session: Option<Session>,
    /// The log, until [`Vhdx::begin_writing`].
    pending: Option<Pending>,
}

/// What a file's log would change in it, and the file below it.
struct Pending {
    file: Source,
    patches: Arc<Patches>,
}

impl Vhdx {
    /// Opens and checks the whole image. Nothing is written: before [`Vhdx::begin_writing`] the file is as it was.
    pub(crate) fn open(source: Source, access: Access) -> Result<Self> {
        let headers = Headers::read(&source)?;
        if access == Access::Write {
            headers.check_growth(&source)?;
        }
        let patches = replay::read(&source, headers.current())?.map(Arc::new);
        let (source, pending) = match patches {
            None => (source, None),
            Some(patches) => {
                let view =
                    source.wrapped(|file| Arc::new(Overlay::new(file, Arc::clone(&patches))));
                let file = source;
                (view, Some(Pending { file, patches }))
            }
        };
        let structure = Structure::check(&source, headers.current())?;
        let mut info = structure.describe(&source, headers.current())?;
        info.log_replayed = pending.is_some();
        let session = match access {
            Access::Read => None,
            Access::Write => Some(Session::new(headers, structure.end)),
        };
        Ok(Vhdx {
            source,
            info,
            table: structure.table,
            items: structure.items,
            metadata: structure.metadata,
            cache: MetadataCache::new(SECTOR),
            session,
            pending,
        })
    }

    /// Applies and clears the log, if there is one. To be called once before the first change, when all that the disk
    /// consists of has been found to be right; an image that was opened for reading stays as it is.
    pub(crate) fn begin_writing(&mut self) -> Result<()> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        if let Some(Pending { file, patches }) = self.pending.take() {
            session.apply_log(&file, &patches)?;
            self.source = file;
        }
        Ok(())
    }

    pub(crate) const fn info(&self) -> &ImageInfo {
        &self.info
    }

    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// The run at `offset`, at most `limit` bytes; both inside the disk.
    pub(crate) fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let size = self.table.block_size;
        let (block, within) = (offset / size, offset % size);
        let (entry, equal) = self.entries(block, (within + limit).div_ceil(size))?;
        let absent = |place| Run {
            len: limit.min(equal * size - within),
            place,
        };
        let limit = limit.min(size - within);
        Ok(match entry.state {
            State::NotPresent if self.info.kind == DiskKind::Differencing => absent(Place::Parent),
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => {
                absent(Place::Zero)
            }
            State::Full => Run {
                len: limit,
                place: Place::File(entry.offset + within),
            },
            State::Partial => {
                let (present, len) = self.sectors(block, within, limit)?;
                Run {
                    len,
                    place: if present {
                        Place::File(entry.offset + within)
                    } else {
                        Place::Parent
                    },
                }
            }
        })
    }

    /// The entry of a payload block.
    fn entry(&self, block: u64) -> Result<Entry> {
        Ok(self.entries(block, 1)?.0)
    }

    /// The entry of a payload block, and how many blocks from there, at most `most`, are known to have the same state.
    fn entries(&self, block: u64, most: u64) -> Result<(Entry, u64)> {
        let first = self.table.payload_entry(block);
        let scan = |page: &[u8], at: usize| -> Parsed<(Entry, u64)> {
            let raw = |entry: u64| {
                let at = at + to_usize(entry - first);
                let bytes = page.get(at..)?.first_chunk::<8>()?;
                Some(u64::from_le_bytes(*bytes))
            };
            let entry = Entry::parse(raw(first).unwrap_or_default())?;
            let more = block + 1..self.table.blocks().min(block + most);
            let same = more.map_while(|block| raw(self.table.payload_entry(block)));
            let same =
                same.take_while(|raw| Entry::parse(*raw).is_ok_and(|e| e.state == entry.state));
            // Blocks with contents lie anywhere: only of absent ones does a run tell anything.
            let count = if entry.is_present() {
                1
            } else {
                1 + to_u64(same.count())
            };
            Ok((entry, count))
        };
        let found = self.cache.read(&self.source, first, scan)?;
        found.map_err(|flaw| self.entry_flaw(first, &flaw))
    }

    fn entry_flaw(&self, offset: u64, flaw: &Flaw) -> Error {
        let detail = format!("the block table's entry {}", flaw.detail);
        Error::new(flaw.kind, self.source.path(), detail).at(offset)
    }

    /// The place of a chunk's bitmap, if it has one.
    fn bitmap(&self, chunk: u64) -> Result<Option<u64>> {
        let place = self.table.bitmap_entry(chunk);
        let raw = self.cache.read(&self.source, place, |page, at| {
            page.get(at..)
                .and_then(|rest| rest.first_chunk::<8>())
                .copied()
        })?;
        let raw = u64::from_le_bytes(raw.unwrap_or_default());
        bat::bitmap_offset(raw).map_err(|flaw| self.entry_flaw(place, &flaw))
    }

    /// Whether the byte at `within` of a partial block is in this file, and how far that holds, at most `limit`.
    fn sectors(&self, block: u64, within: u64, limit: u64) -> Result<(bool, u64)> {
        let chunk = self.table.chunk(block);
        let bitmap = self.bitmap(chunk)?.ok_or_else(|| {
            let detail = format!("block {block} is partially present, but has no sector bitmap");
            let place = self.table.bitmap_entry(chunk);
            Error::new(Kind::Corrupt, self.source.path(), detail).at(place)
        })?;
        let first = self.table.first_bit(block);
        let bit = first + within / self.table.sector;
        let last = first + (within + limit).div_ceil(self.table.sector);
        let bits = to_u64(8 * SECTOR);
        let page = bitmap + bit / bits * to_u64(SECTOR);
        let from = to_usize(bit % bits);
        let to = from + to_usize((last - bit).min(bits - bit % bits));
        self.cache.read(&self.source, page, |bytes, _| {
            let (present, count) = BitOrder::LeastFirst.run(bytes, from, to);
            let end = (bit - first + to_u64(count)) * self.table.sector;
            (present, limit.min(end - within))
        })
    }
}
