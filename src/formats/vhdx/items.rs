//! The metadata region of a VHDX: a table of items, and the items.
//!
//! ```text
//! 0 `metadata`   10 entry count   32 + 32·n  item id, 16 bytes │ offset, 4 │ length, 4 │ flags, 4 │ 0
//!                12 zeroes        64 KiB and behind: items, unordered, unaligned
//! ```
//! Little-endian; `[MS-VHDX]` 2.6.1. Items have no checksum. An item that is required and unknown refuses the file.

use uuid::{Uuid, uuid};

use crate::formats::bytes::{field, put};
use crate::formats::error::{Error, Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::units::{ByteRange, KIB, MIB, to_u64, to_usize};

/// Bytes in the table, before the first item.
const TABLE_SIZE: u64 = 64 * KIB;
const ENTRIES_MAX: u16 = 2047;
const ITEM_MAX: u64 = MIB;

pub(super) const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
pub(super) const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
pub(super) const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
pub(super) const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
pub(super) const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
pub(super) const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
const KNOWN: [Uuid; 6] = [
    FILE_PARAMETERS,
    DISK_SIZE,
    DISK_ID,
    LOGICAL_SECTOR,
    PHYSICAL_SECTOR,
    PARENT_LOCATOR,
];

const IS_USER: u32 = 1;
pub(super) const IS_VIRTUAL_DISK: u32 = 2;
pub(super) const IS_REQUIRED: u32 = 4;

/// The items of a file: where they are.
#[derive(Clone, Debug)]
pub(crate) struct Items {
    region: ByteRange,
    entries: Vec<Entry>,
}

/// A change of bytes in the metadata region, by file offset.
pub(crate) type Change = (u64, Vec<u8>);

#[derive(Clone, Debug)]
struct Entry {
    id: Uuid,
    /// Of the item in the region; empty items have no place.
    range: ByteRange,
    flags: u32,
}

impl Entry {
    /// Whether this is the system's item `id`.
    fn is(&self, id: Uuid) -> bool {
        self.id == id && self.flags & IS_USER == 0
    }
}

impl Items {
    /// Reads and checks the table of the region.
    pub(crate) fn read(source: &Source, region: ByteRange) -> Result<Self> {
        let mut table = vec![0; to_usize(TABLE_SIZE)];
        source.read_exact_at(region.start(), &mut table)?;
        let entries = parse_table(&table, region.len())
            .map_err(|flaw| flaw.within(source.path(), region.start()))?;
        Ok(Items { region, entries })
    }

    /// Where in the file the region starts.
    pub(crate) const fn start(&self) -> u64 {
        self.region.start()
    }

    fn find(&self, id: Uuid) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(id))
    }

    /// An error about the region, `offset` bytes into it.
    pub(super) fn corrupt(&self, source: &Source, offset: u64, detail: String) -> Error {
        Flaw::corrupt(offset, detail).within(source.path(), self.region.start())
    }

    /// The bytes of an item that must be there and have this length.
    pub(super) fn array<const N: usize>(&self, source: &Source, id: Uuid) -> Result<[u8; N]> {
        let entry = self
            .find(id)
            .ok_or_else(|| self.corrupt(source, 0, format!("metadata item {id} is missing")))?;
        if entry.range.len() != to_u64(N) {
            let found = entry.range.len();
            let detail = format!("metadata item {id} has {found} bytes, expected {N}");
            return Err(self.corrupt(source, entry.range.start(), detail));
        }
        source.read_array(self.region.start() + entry.range.start())
    }

    /// The bytes of an item and where in the file it starts, if it is there.
    pub(super) fn bytes(&self, source: &Source, id: Uuid) -> Result<Option<(u64, Vec<u8>)>> {
        let Some(entry) = self.find(id) else {
            return Ok(None);
        };
        let start = self.region.start() + entry.range.start();
        // An item has at most a MiB.
        let mut bytes = vec![0; to_usize(entry.range.len())];
        source.read_exact_at(start, &mut bytes)?;
        Ok(Some((start, bytes)))
    }

    /// The changes that put `bytes` in the place of the item `id`. A longer item moves behind all others.
    ///
    /// They belong into one log entry: the table and the item change together.
    pub(super) fn replace(&mut self, id: Uuid, bytes: Vec<u8>) -> Parsed<Vec<Change>> {
        let ends = self.entries.iter().map(|entry| entry.range.end());
        let end = ends.fold(TABLE_SIZE, u64::max).next_multiple_of(8);
        let region = self.region;
        let mut entries = self.entries.iter_mut().enumerate();
        let (index, entry) = entries
            .find(|(_, entry)| entry.is(id))
            .ok_or_else(|| Flaw::corrupt(0, format!("metadata item {id} is missing")))?;
        let len = to_u64(bytes.len());
        let start = if len <= entry.range.len() {
            entry.range.start()
        } else {
            end
        };
        let range = ByteRange::at(start, len).filter(|range| range.end() <= region.len());
        entry.range = range.ok_or_else(|| {
            let detail = format!("the metadata region has no room for {len} bytes more");
            Flaw::new(Kind::TooLarge, 0, detail)
        })?;
        let place = region.start() + 32 + 32 * to_u64(index) + 16;
        let fields = [start, len].map(|v| u32::try_from(v).expect("inside a region of 32 bits"));
        Ok(vec![
            (region.start() + start, bytes),
            (place, fields.map(u32::to_le_bytes).concat()),
        ])
    }
}

/// Writes the region of a new file: the items with their flags, in this order. False if they do not fit.
pub(super) fn create(
    source: &Source,
    region: ByteRange,
    items: &[(Uuid, u32, Vec<u8>)],
) -> Result<bool> {
    let mut bytes = vec![0; to_usize(TABLE_SIZE)];
    let count = u16::try_from(items.len()).expect("a new file has few items");
    put(&mut bytes, 0, b"metadata");
    put(&mut bytes, 10, &count.to_le_bytes());
    for (index, (id, flags, item)) in items.iter().enumerate() {
        let at = 32 + 32 * index;
        let fields = [bytes.len(), item.len()];
        let fields = fields.map(|v| u32::try_from(v).expect("a new file's items are small"));
        put(&mut bytes, at, &id.to_bytes_le());
        put(&mut bytes, at + 16, &fields.map(u32::to_le_bytes).concat());
        put(&mut bytes, at + 24, &flags.to_le_bytes());
        bytes.extend(item);
    }
    let fits = to_u64(bytes.len()) <= region.len();
    if fits {
        source.write_all_at(region.start(), &bytes)?;
    }
    Ok(fits)
}

fn parse_table(table: &[u8], region: u64) -> Parsed<Vec<Entry>> {
    if !table.starts_with(b"metadata") {
        let detail = "this is no metadata table: it lacks `metadata`";
        return Err(Flaw::corrupt(0, detail));
    }
    let count = u16::from_le_bytes(field(table, 10));
    if count > ENTRIES_MAX {
        let detail = format!("the metadata table has {count} entries, at most {ENTRIES_MAX} fit");
        return Err(Flaw::corrupt(10, detail));
    }
    let entries = table[32..].as_chunks::<32>().0.iter().zip(0..count);
    let entries = entries
        .map(|(bytes, index)| parse_entry(bytes, 32 + 32 * u64::from(index), region))
        .collect::<Parsed<Vec<_>>>()?;
    let mut names: Vec<_> = entries.iter().map(|e| (e.id, e.flags & IS_USER)).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let detail = format!("metadata item {} is listed twice", twice[0].0);
        return Err(Flaw::corrupt(32, detail));
    }
    let mut places: Vec<_> = entries
        .iter()
        .map(|e| e.range)
        .filter(|r| !r.is_empty())
        .collect();
    places.sort_unstable();
    if let Some(pair) = places
        .windows(2)
        .find(|pair| pair[0].end() > pair[1].start())
    {
        let detail = format!("the metadata items at {} and {} overlap", pair[0], pair[1]);
        return Err(Flaw::corrupt(32, detail));
    }
    Ok(entries)
}

fn parse_entry(bytes: &[u8; 32], at: u64, region: u64) -> Parsed<Entry> {
    let id = Uuid::from_bytes_le(field(bytes, 0));
    let [offset, length] = [16, 20].map(|at| u64::from(u32::from_le_bytes(field(bytes, at))));
    let flags = u32::from_le_bytes(field(bytes, 24));
    if flags & IS_REQUIRED != 0 && (flags & IS_USER != 0 || !KNOWN.contains(&id)) {
        let detail = format!("metadata item {id} is required and unknown here");
        return Err(Flaw::new(Kind::Unsupported, at, detail));
    }
    let range = ByteRange::at(offset, length).unwrap_or(ByteRange::to(0));
    let empty = offset == 0 && length == 0;
    let inside = offset >= TABLE_SIZE && length <= ITEM_MAX && range.end() <= region;
    if empty || (inside && length > 0) {
        return Ok(Entry { id, range, flags });
    }
    let detail = format!("metadata item {id} at {offset} of {length} bytes is not in its region");
    Err(Flaw::corrupt(at + 16, detail))
}
