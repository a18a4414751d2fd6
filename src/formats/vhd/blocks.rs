//! The part of a VHD that only disks with a table have: opening it, and finding what is where.

use crate::formats::bitmap::BitOrder;
use crate::formats::bytes::Utf16;
use crate::formats::cache::MetadataCache;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::extent::{Place, Run};
use crate::formats::info::{ParentReference, RecordedPath};
use crate::formats::source::{Access, Source};
use crate::formats::vhd::footer::{FOOTER_SIZE, Footer};
use crate::formats::vhd::header::{DynamicHeader, HEADER_SIZE, ParentFields};
use crate::formats::vhd::table::{ABSENT, Table};
use crate::formats::vhd::write::Session;
use crate::units::{ByteRange, to_u64, to_usize};

/// Pages of the cache: a sector, because bitmaps are sectors between guest data.
pub(super) const PAGE: usize = 512;

/// The table and its blocks.
pub(crate) struct Blocks {
    pub(super) table: Table,
    pub(super) cache: MetadataCache,
    pub(super) differencing: bool,
    /// Blocks in the file.
    pub(super) present: u64,
    /// The footer as it stands in the file.
    pub(super) footer: Box<[u8; FOOTER_SIZE]>,
    /// Only while the image is open for writing.
    pub(super) session: Option<Session>,
}

impl Blocks {
    /// Reads and checks the header, the table, and what is said of a parent.
    pub(super) fn open(
        source: &Source,
        footer: &Footer,
        footer_bytes: Box<[u8; FOOTER_SIZE]>,
        access: Access,
    ) -> Result<(Self, Option<ParentReference>)> {
        let header = source.read_array::<HEADER_SIZE>(footer.data_offset)?;
        let header = DynamicHeader::parse(&header, footer.is_differencing())
            .map_err(|flaw| flaw.within(source.path(), footer.data_offset))?;
        let table = Table::new(header.table_offset, footer.size, header.block_size);
        if table.blocks > u64::from(header.table_entries) {
            let (found, expected) = (header.table_entries, table.blocks);
            let detail = format!("the table has {found} entries, the disk needs {expected}");
            let error = Error::new(Kind::Corrupt, source.path(), detail);
            return Err(error.at(footer.data_offset.saturating_add(28)));
        }
        let taken = structures(source, footer, &header, &table)?;
        let survey = table.survey(source, footer.size, &taken)?;
        let parent = header
            .parent
            .as_ref()
            .map(|p| reference(source, p))
            .transpose()?;
        let session = match access {
            Access::Read => None,
            Access::Write => Some(Session::begin(source, &footer_bytes, &taken, survey.end)?),
        };
        let blocks = Blocks {
            table,
            cache: MetadataCache::new(PAGE),
            differencing: footer.is_differencing(),
            present: survey.present,
            footer: footer_bytes,
            session,
        };
        Ok((blocks, parent))
    }

    pub(super) const fn block_size(&self) -> u64 {
        self.table.block_size
    }

    /// Bytes of the blocks that are in the file.
    pub(super) const fn allocated(&self) -> u64 {
        self.present * self.table.block_size
    }

    /// The run at `offset`, at most `limit` bytes; both inside the disk.
    pub(super) fn run_at(&self, source: &Source, offset: u64, limit: u64) -> Result<Run> {
        let size = self.table.block_size;
        let (block, within) = (offset / size, offset % size);
        let (entry, equal) = self.entries(source, block, (within + limit).div_ceil(size))?;
        if entry == ABSENT {
            return Ok(Run {
                len: limit.min(equal * size - within),
                place: if self.differencing {
                    Place::Parent
                } else {
                    Place::Zero
                },
            });
        }
        let start = 512 * u64::from(entry);
        let limit = limit.min(size - within);
        // The bitmap of a dynamic disk says only which sectors were ever written; the others are zero in the file too.
        let (present, len) = if self.differencing {
            self.sectors(source, start, within, limit)?
        } else {
            (true, limit)
        };
        let data = start + self.table.bitmap_size + within;
        Ok(Run {
            len,
            place: if present {
                Place::File(data)
            } else {
                Place::Parent
            },
        })
    }

    /// The table's entry for a block.
    pub(super) fn entry(&self, source: &Source, block: u64) -> Result<u32> {
        Ok(self.entries(source, block, 1)?.0)
    }

    /// The table's entry for a block, and how many blocks from there, at most `most`, are known to be absent like it.
    fn entries(&self, source: &Source, block: u64, most: u64) -> Result<(u32, u64)> {
        let most = to_usize(most.min(self.table.blocks - block));
        let place = self.table.entry_offset(block);
        self.cache.read(source, place, |page, at| {
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
            let detail = format!("the structure at {range} overlaps the one at {other}");
            return Err(corrupt(detail));
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
