//! Virtual Hard Disk, version 1.
//!
//! ```text
//! fixed         the disk's bytes │ footer
//! dynamic,      footer copy │ dynamic header │ block table │ (parent's paths) │ block, block, … │ footer
//! differencing  0             512              usually 1536
//! ```
//! Source: *Virtual Hard Disk Image Format Specification*, Microsoft 2006; where writers differ from it, the comments
//! say so. The size of the disk is the footer's current size, as in Hyper-V and Azure, never the geometry.
//!
//! For a disk with a table the footer copy at the start is believed before the one at the end: a guest cannot write it,
//! while after a crash the last sector of the file may be the guest's.

mod create;
mod footer;
mod geometry;
mod header;
mod table;
mod write;

use jiff::Timestamp;
use uuid::Uuid;

use crate::formats::bitmap::BitOrder;
use crate::formats::bytes::Utf16;
use crate::formats::cache::MetadataCache;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::extent::{Place, Run};
use crate::formats::file::{Access, Source};
use crate::formats::info::{DiskKind, Format, ImageInfo, ParentReference, RecordedPath};
use crate::formats::vhd::footer::{DiskType, FOOTER_SIZE, Footer};
use crate::formats::vhd::header::{DynamicHeader, HEADER_SIZE, ParentFields};
use crate::formats::vhd::table::{ABSENT, Table};
use crate::formats::vhd::write::Session;
use crate::units::{ByteRange, to_u64, to_usize};

pub(crate) use create::create;
pub(crate) use footer::COOKIE;

/// The largest disk with a table: its 32-bit sector numbers end soon after.
pub(crate) const TABLE_DISK_MAX: u64 = 2040 << 30;
/// The largest fixed disk that is served: what VHDX allows, far more than any page blob holds.
pub(crate) const FIXED_DISK_MAX: u64 = 64 << 40;
/// Pages of the cache: a sector, because bitmaps are sectors between guest data.
const PAGE: usize = 512;

/// The footer that makes `size` bytes of disk a fixed VHD: the last 512 bytes of the file or page blob.
///
/// Azure takes only sizes of whole MiB; `created` is when the disk was made.
pub fn fixed_footer(size: u64, identifier: Uuid, created: Timestamp) -> [u8; 512] {
    Footer::new(DiskType::Fixed, size, identifier, created).encode()
}

/// What the last 512 bytes of a file are.
pub(crate) enum EndMark {
    /// The footer of a fixed VHD with exactly the bytes before it.
    Fixed,
    /// Another footer, or a damaged one.
    Other,
}

/// The footer at the end of a file, if there is one.
pub(crate) fn end_mark(source: &Source, file_size: u64) -> Result<Option<EndMark>> {
    let footer = read_footer(source, file_size.checked_sub(to_u64(FOOTER_SIZE)))?;
    Ok(footer.map(|footer| match footer {
        Ok((footer, _)) if is_fixed(&footer, file_size) => EndMark::Fixed,
        Ok(_) | Err(_) => EndMark::Other,
    }))
}

fn is_fixed(footer: &Footer, file_size: u64) -> bool {
    footer.disk_type == DiskType::Fixed
        && Some(footer.size) == file_size.checked_sub(to_u64(FOOTER_SIZE))
}

/// An open VHD.
pub(crate) struct Vhd {
    source: Source,
    info: ImageInfo,
    blocks: Option<Blocks>,
    session: Option<Session>,
}

/// What a dynamic or differencing disk has besides.
struct Blocks {
    table: Table,
    cache: MetadataCache,
    /// The footer as it stands in the file, with what its creator put there.
    footer: Box<[u8; FOOTER_SIZE]>,
}

impl Vhd {
    /// Opens and checks the whole image. Nothing is written before the first change.
    pub(crate) fn open(source: Source, access: Access) -> Result<Self> {
        let file_size = source.size()?;
        let (footer, bytes) = choose_footer(&source, file_size)?;
        match footer.disk_type {
            DiskType::Fixed => Self::open_fixed(source, &footer, file_size),
            DiskType::Dynamic | DiskType::Differencing => {
                Self::open_blocks(source, &footer, bytes, access)
            }
        }
    }

    fn open_fixed(source: Source, footer: &Footer, file_size: u64) -> Result<Self> {
        let expected = footer.size.saturating_add(to_u64(FOOTER_SIZE));
        if footer.size > FIXED_DISK_MAX {
            let detail = format!(
                "the disk has {} bytes, more than {FIXED_DISK_MAX}",
                footer.size
            );
            return Err(Error::new(Kind::TooLarge, source.path(), detail));
        }
        if file_size != expected {
            let kind = if file_size < expected {
                Kind::Truncated
            } else {
                Kind::Corrupt
            };
            let detail = format!("the file has {file_size} bytes, its footer expects {expected}");
            return Err(Error::new(kind, source.path(), detail));
        }
        let info = describe(&source, footer, DiskKind::Fixed);
        Ok(Vhd {
            source,
            info: ImageInfo {
                allocated: footer.size,
                ..info
            },
            blocks: None,
            session: None,
        })
    }

    fn open_blocks(
        source: Source,
        footer: &Footer,
        footer_bytes: Box<[u8; FOOTER_SIZE]>,
        access: Access,
    ) -> Result<Self> {
        if footer.size > TABLE_DISK_MAX {
            let detail = format!(
                "the disk has {} bytes, more than {TABLE_DISK_MAX}",
                footer.size
            );
            return Err(Error::new(Kind::TooLarge, source.path(), detail));
        }
        let differencing = footer.disk_type == DiskType::Differencing;
        let header = source.read_array::<HEADER_SIZE>(footer.data_offset)?;
        let header = DynamicHeader::parse(&header, differencing)
            .map_err(|flaw| flaw.within(source.path(), footer.data_offset))?;
        let table = Table::new(header.table_offset, footer.size, header.block_size);
        if table.blocks > u64::from(header.table_entries) {
            let (found, expected) = (header.table_entries, table.blocks);
            let detail = format!("the table has {found} entries, the disk needs {expected}");
            let error = Error::new(Kind::Corrupt, source.path(), detail);
            return Err(error.at(footer.data_offset.saturating_add(28)));
        }
        let taken = structures(&source, footer, &header, &table)?;
        let survey = table.survey(&source, footer.size, &taken)?;
        let kind = if differencing {
            DiskKind::Differencing
        } else {
            DiskKind::Dynamic
        };
        let parent = header.parent.as_ref();
        let parent = parent.map(|p| reference(&source, p)).transpose()?;
        let info = ImageInfo {
            block_size: Some(header.block_size),
            parent,
            allocated: survey.present * table.block_size,
            ..describe(&source, footer, kind)
        };
        let session = match access {
            Access::Read => None,
            Access::Write => Some(Session::begin(&source, &footer_bytes, &taken, survey.end)?),
        };
        Ok(Vhd {
            source,
            info,
            blocks: Some(Blocks {
                table,
                cache: MetadataCache::new(PAGE),
                footer: footer_bytes,
            }),
            session,
        })
    }

    pub(crate) const fn info(&self) -> &ImageInfo {
        &self.info
    }

    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// The run at `offset`, at most `limit` bytes; both inside the disk.
    pub(crate) fn run_at(&self, offset: u64, limit: u64) -> Result<Run> {
        let Some(blocks) = &self.blocks else {
            return Ok(Run {
                len: limit,
                place: Place::File(offset),
            });
        };
        let size = blocks.table.block_size;
        let (block, within) = (offset / size, offset % size);
        let (entry, equal) =
            blocks.entries(&self.source, block, (within + limit).div_ceil(size))?;
        let differencing = self.info.kind == DiskKind::Differencing;
        if entry == ABSENT {
            return Ok(Run {
                len: limit.min(equal * size - within),
                place: if differencing {
                    Place::Parent
                } else {
                    Place::Zero
                },
            });
        }
        let start = 512 * u64::from(entry);
        let data = start + blocks.table.bitmap_size + within;
        let limit = limit.min(size - within);
        // The bitmap of a dynamic disk says only which sectors were ever written; the others are zero in the file too.
        let (present, len) = if differencing {
            blocks.sectors(&self.source, start, within, limit)?
        } else {
            (true, limit)
        };
        Ok(Run {
            len,
            place: if present {
                Place::File(data)
            } else {
                Place::Parent
            },
        })
    }
}

impl Blocks {
    /// The table's entry for a block.
    fn entry(&self, source: &Source, block: u64) -> Result<u32> {
        Ok(self.entries(source, block, 1)?.0)
    }

    /// The table's entry for a block, and how many blocks from there, at most `most`, are known to be absent like it.
    fn entries(&self, source: &Source, block: u64, most: u64) -> Result<(u32, u64)> {
        let most = to_usize(most.min(self.table.blocks - block).min(to_u64(PAGE)));
        self.cache
            .read(source, self.table.entry_offset(block), |page, at| {
                let entries = page[at..].as_chunks::<4>().0;
                let mut entries = entries.iter().take(most).map(|e| u32::from_be_bytes(*e));
                let first = entries.next().unwrap_or(ABSENT);
                let more = entries.take_while(|&entry| entry == ABSENT);
                let count = if first == ABSENT {
                    1 + to_u64(more.count())
                } else {
                    1
                };
                (first, count)
            })
    }

    /// Whether the byte at `within` of the block at `start` is in this file, and how far that holds, at most `limit`.
    fn sectors(&self, source: &Source, start: u64, within: u64, limit: u64) -> Result<(bool, u64)> {
        let sector = within / 512;
        let last = (within + limit).div_ceil(512);
        let bits = to_u64(8 * PAGE);
        let page = start + sector / bits * to_u64(PAGE);
        let from = to_usize(sector % bits);
        let to = from + to_usize((last - sector).min(bits - sector % bits));
        self.cache.read(source, page, |bytes, _| {
            let (present, count) = BitOrder::MostFirst.run(bytes, from, to);
            let end = 512 * (sector + to_u64(count));
            (present, limit.min(end - within))
        })
    }
}

type FooterBytes = Box<[u8; FOOTER_SIZE]>;

/// The footer that tells the truth, and its bytes.
fn choose_footer(source: &Source, file_size: u64) -> Result<(Footer, FooterBytes)> {
    let last = read_footer(source, file_size.checked_sub(to_u64(FOOTER_SIZE)))?;
    let first = read_footer(source, Some(0))?;
    match (first, last) {
        (Some(Ok((first, bytes))), last) if first.disk_type != DiskType::Fixed => match last {
            Some(Ok((last, _))) if is_fixed(&last, file_size) => {
                let detail = "it starts as a VHD with a table and ends as a fixed one";
                Err(Error::new(Kind::Corrupt, source.path(), detail))
            }
            _ => Ok((first, bytes)),
        },
        (_, Some(last)) => last,
        (Some(Err(error)), None) => Err(error),
        (Some(Ok(_)) | None, None) => {
            let detail = "there is no VHD footer at the end of the file";
            Err(Error::new(Kind::Corrupt, source.path(), detail))
        }
    }
}

/// The footer at `offset`, if there is one; the inner error says what is wrong with it.
fn read_footer(
    source: &Source,
    offset: Option<u64>,
) -> Result<Option<Result<(Footer, FooterBytes)>>> {
    let Some(offset) = offset else {
        return Ok(None);
    };
    let bytes = match source.read_array::<FOOTER_SIZE>(offset) {
        Err(error) if error.kind() == Kind::Truncated => return Ok(None),
        other => Box::new(other?),
    };
    if !bytes.starts_with(&COOKIE) {
        return Ok(None);
    }
    let footer = Footer::parse(&bytes).map_err(|flaw| flaw.within(source.path(), offset));
    Ok(Some(footer.map(|footer| (footer, bytes))))
}

fn describe(source: &Source, footer: &Footer, kind: DiskKind) -> ImageInfo {
    ImageInfo {
        path: source.path().to_owned(),
        format: Format::Vhd,
        kind,
        virtual_size: footer.size,
        logical_sector: 512,
        physical_sector: 512,
        block_size: None,
        identifier: Some(footer.identifier),
        data_write: None,
        parent: None,
        allocated: 0,
        log_replayed: false,
    }
}

/// The ranges of the file that no block may touch.
fn structures(
    source: &Source,
    footer: &Footer,
    header: &DynamicHeader,
    table: &Table,
) -> Result<Vec<ByteRange>> {
    let locators = header.parent.iter().flat_map(|parent| &parent.locators);
    let locators = locators.map(|locator| (locator.offset, u64::from(locator.len)));
    let fixed = [
        (0, to_u64(FOOTER_SIZE)),
        (footer.data_offset, to_u64(HEADER_SIZE)),
        (table.offset, table.bytes()),
    ];
    let mut ranges: Vec<ByteRange> = Vec::new();
    for (start, len) in fixed.into_iter().chain(locators) {
        let corrupt = |detail| Error::new(Kind::Corrupt, source.path(), detail).at(start);
        let range = ByteRange::at(start, len)
            .ok_or_else(|| corrupt(format!("no file holds a structure of {len} bytes here")))?;
        if let Some(other) = ranges.iter().find(|r| !r.intersect(range).is_empty()) {
            return Err(corrupt(format!(
                "the structure at {range} overlaps the one at {other}"
            )));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn reference(source: &Source, fields: &ParentFields) -> Result<ParentReference> {
    let mut paths = Vec::new();
    for locator in &fields.locators {
        // Bounded by the header's parser.
        let mut bytes = vec![0; to_usize(u64::from(locator.len))];
        source.read_exact_at(locator.offset, &mut bytes)?;
        // Some writers count a closing NUL.
        let text = bytes.strip_suffix(&[0, 0]).unwrap_or(&bytes);
        if let Some(text) = Utf16::Little.decode(text) {
            paths.push(RecordedPath {
                kind: locator.kind,
                text,
            });
        }
    }
    let named = fields.name_as_path();
    paths.extend(named.filter(|name| !paths.contains(name)));
    Ok(ParentReference {
        linkage: vec![fields.identifier],
        paths,
    })
}
