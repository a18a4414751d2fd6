//! The metadata region of a VHDX: the size, sectors and identity of the disk, and the parent locator.
//!
//! ```text
//! 0 `metadata`   10 entry count   32 + 32·n  item id, 16 bytes │ offset, 4 │ length, 4 │ flags, 4 │ 0
//!                12 zeroes        64 KiB and behind: items, unordered, unaligned
//! ```
//! Little-endian; `[MS-VHDX]` 2.6. Items have no checksum. An item that is required and unknown refuses the file.

use uuid::{Uuid, uuid};

use crate::formats::bytes::{field, put};
use crate::formats::error::{Flaw, Kind, Parsed, Result};
use crate::formats::file::Source;
use crate::formats::vhdx::locator::ParentLocator;
use crate::units::{ByteRange, KIB, MIB, to_u64, to_usize};

/// Bytes in the table, before the first item.
const TABLE_SIZE: u64 = 64 * KIB;
const ENTRIES_MAX: u16 = 2047;
const ITEM_MAX: u64 = MIB;
/// The largest disk.
const SIZE_MAX: u64 = 64 << 40;

const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
const DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
const DISK_ID: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
const LOGICAL_SECTOR: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
const PHYSICAL_SECTOR: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");

const IS_USER: u32 = 1;
const IS_VIRTUAL_DISK: u32 = 2;
const IS_REQUIRED: u32 = 4;
/// The bits of the file parameters: all blocks stay allocated; there is a parent.
const LEAVE_ALLOCATED: u32 = 1;
const HAS_PARENT: u32 = 2;

/// What the metadata says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) block_size: u32,
    pub(crate) fixed: bool,
    pub(crate) size: u64,
    pub(crate) identifier: Uuid,
    pub(crate) logical_sector: u32,
    pub(crate) physical_sector: u32,
    pub(crate) locator: Option<ParentLocator>,
}

/// Where in the file the items are that a writer changes.
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

    pub(crate) const fn region(&self) -> ByteRange {
        self.region
    }

    /// Reads what the items say.
    pub(crate) fn metadata(&self, source: &Source) -> Result<Metadata> {
        let parameters = self.array::<8>(source, FILE_PARAMETERS)?;
        let flags = u32::from_le_bytes(field(&parameters, 4));
        let metadata = Metadata {
            block_size: u32::from_le_bytes(field(&parameters, 0)),
            fixed: flags & LEAVE_ALLOCATED != 0 && flags & HAS_PARENT == 0,
            size: u64::from_le_bytes(self.array(source, DISK_SIZE)?),
            identifier: Uuid::from_bytes_le(self.array(source, DISK_ID)?),
            logical_sector: u32::from_le_bytes(self.array(source, LOGICAL_SECTOR)?),
            physical_sector: u32::from_le_bytes(self.array(source, PHYSICAL_SECTOR)?),
            locator: self.locator(source, flags & HAS_PARENT != 0)?,
        };
        let flaw = match flags & !(LEAVE_ALLOCATED | HAS_PARENT) {
            0 => metadata.check(),
            unknown => Err(Flaw::new(
                Kind::Unsupported,
                0,
                format!("file parameters have unknown bits {unknown:#x}"),
            )),
        };
        flaw.map_err(|flaw| flaw.within(source.path(), self.region.start()))?;
        Ok(metadata)
    }

    fn locator(&self, source: &Source, has_parent: bool) -> Result<Option<ParentLocator>> {
        let within = |flaw: Flaw| flaw.within(source.path(), self.region.start());
        match (has_parent, self.find(PARENT_LOCATOR)) {
            (false, None) => Ok(None),
            (true, Some(entry)) => {
                // An item has at most a MiB.
                let mut bytes = vec![0; to_usize(entry.range.len())];
                let start = self.region.start() + entry.range.start();
                source.read_exact_at(start, &mut bytes)?;
                let locator = ParentLocator::parse(&bytes);
                Ok(Some(
                    locator.map_err(|flaw| flaw.within(source.path(), start))?,
                ))
            }
            (true, None) => Err(within(Flaw::corrupt(
                0,
                "the file has a parent and no parent locator",
            ))),
            (false, Some(_)) => Err(within(Flaw::corrupt(
                0,
                "the file has a parent locator and no parent",
            ))),
        }
    }

    fn find(&self, id: Uuid) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.is(id))
    }

    fn array<const N: usize>(&self, source: &Source, id: Uuid) -> Result<[u8; N]> {
        let within = |flaw: Flaw| flaw.within(source.path(), self.region.start());
        let entry = self
            .find(id)
            .ok_or_else(|| within(Flaw::corrupt(0, format!("metadata item {id} is missing"))))?;
        if entry.range.len() != to_u64(N) {
            let detail = format!(
                "metadata item {id} has {} bytes, expected {N}",
                entry.range.len()
            );
            return Err(within(Flaw::corrupt(entry.range.start(), detail)));
        }
        source.read_array(self.region.start() + entry.range.start())
    }

    /// The changes that put `locator` in the place of the one that is there.
    ///
    /// They belong into one log entry: the table and the item change together.
    pub(crate) fn replace_locator(&mut self, locator: &ParentLocator) -> Parsed<Vec<Change>> {
        let bytes = locator.encode();
        let end = self
            .entries
            .iter()
            .map(|entry| entry.range.end())
            .fold(TABLE_SIZE, u64::max);
        let region = self.region;
        let mut entries = self.entries.iter_mut().enumerate();
        let found = entries.find(|(_, entry)| entry.is(PARENT_LOCATOR));
        let (index, entry) =
            found.ok_or_else(|| Flaw::corrupt(0, "the file has no parent locator"))?;
        let len = to_u64(bytes.len());
        let start = if len <= entry.range.len() {
            entry.range.start()
        } else {
            end.next_multiple_of(8)
        };
        let range = ByteRange::at(start, len).filter(|range| range.end() <= region.len());
        let range = range.ok_or_else(|| {
            let detail = format!("the metadata region has no room for {len} bytes more");
            Flaw::new(Kind::TooLarge, 0, detail)
        })?;
        entry.range = range;
        let place = region.start() + 32 + 32 * to_u64(index) + 16;
        let fields = [range.start(), len].map(|v| u32::try_from(v).expect("inside the region"));
        Ok(vec![
            (region.start() + range.start(), bytes),
            (place, fields.map(u32::to_le_bytes).concat()),
        ])
    }

    /// The change that gives the disk another id.
    pub(crate) fn replace_identifier(&self, identifier: Uuid) -> Option<Change> {
        let entry = self.find(DISK_ID)?;
        let place = self.region.start() + entry.range.start();
        Some((place, identifier.to_bytes_le().to_vec()))
    }
}

impl Metadata {
    /// Whether a VHDX may say this.
    pub(crate) fn check(&self) -> Parsed<()> {
        let corrupt = |detail: String| Err(Flaw::corrupt(0, detail));
        let block = u64::from(self.block_size);
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return corrupt(format!(
                "block size is {block}, expected a power of two of 1 to 256 MiB"
            ));
        }
        for sector in [self.logical_sector, self.physical_sector] {
            if !matches!(sector, 512 | 4096) {
                return corrupt(format!("sector size is {sector}, expected 512 or 4096"));
            }
        }
        if self.size == 0 || !self.size.is_multiple_of(u64::from(self.logical_sector)) {
            return corrupt(format!("disk size {} is not whole sectors", self.size));
        }
        if self.size > SIZE_MAX {
            let detail = format!("disk size is {}, more than {SIZE_MAX}", self.size);
            return Err(Flaw::new(Kind::TooLarge, 0, detail));
        }
        Ok(())
    }

    /// Writes the region of a new file; false if the locator does not fit.
    pub(crate) fn create(&self, source: &Source, region: ByteRange) -> Result<bool> {
        let parent = if self.locator.is_some() {
            HAS_PARENT
        } else {
            0
        };
        let fixed = if self.fixed { LEAVE_ALLOCATED } else { 0 };
        let disk = IS_REQUIRED | IS_VIRTUAL_DISK;
        let mut items = vec![
            (
                FILE_PARAMETERS,
                IS_REQUIRED,
                [self.block_size, parent | fixed]
                    .map(u32::to_le_bytes)
                    .concat(),
            ),
            (DISK_SIZE, disk, self.size.to_le_bytes().to_vec()),
            (DISK_ID, disk, self.identifier.to_bytes_le().to_vec()),
            (
                LOGICAL_SECTOR,
                disk,
                self.logical_sector.to_le_bytes().to_vec(),
            ),
            (
                PHYSICAL_SECTOR,
                disk,
                self.physical_sector.to_le_bytes().to_vec(),
            ),
        ];
        if let Some(locator) = &self.locator {
            items.push((PARENT_LOCATOR, IS_REQUIRED, locator.encode()));
        }
        let mut bytes = vec![0; to_usize(TABLE_SIZE)];
        put(&mut bytes, 0, b"metadata");
        put(
            &mut bytes,
            10,
            &u16::try_from(items.len()).expect("six items").to_le_bytes(),
        );
        for (index, (id, flags, item)) in items.iter().enumerate() {
            let at = 32 + 32 * index;
            let [offset, length] =
                [bytes.len(), item.len()].map(|v| u32::try_from(v).expect("a region of a MiB"));
            put(&mut bytes, at, &id.to_bytes_le());
            put(&mut bytes, at + 16, &offset.to_le_bytes());
            put(&mut bytes, at + 20, &length.to_le_bytes());
            put(&mut bytes, at + 24, &flags.to_le_bytes());
            bytes.extend(item);
        }
        let fits = to_u64(bytes.len()) <= region.len();
        if fits {
            source.write_all_at(region.start(), &bytes)?;
        }
        Ok(fits)
    }
}

fn parse_table(table: &[u8], region: u64) -> Parsed<Vec<Entry>> {
    if !table.starts_with(b"metadata") {
        return Err(Flaw::corrupt(
            0,
            "this is no metadata table: it lacks `metadata`",
        ));
    }
    let count = u16::from_le_bytes(field(table, 10));
    if count > ENTRIES_MAX {
        let detail = format!("the metadata table has {count} entries, at most {ENTRIES_MAX} fit");
        return Err(Flaw::corrupt(10, detail));
    }
    let entries = table[32..].as_chunks::<32>().0.iter().zip(0..count);
    let entries =
        entries.map(|(bytes, index)| parse_entry(bytes, 32 + 32 * u64::from(index), region));
    let entries = entries.collect::<std::result::Result<Vec<_>, _>>()?;
    let mut by_name: Vec<_> = entries.iter().map(|e| (e.id, e.flags & IS_USER)).collect();
    by_name.sort_unstable();
    if let Some(twice) = by_name.windows(2).find(|pair| pair[0] == pair[1]) {
        let detail = format!("metadata item {} is listed twice", twice[0].0);
        return Err(Flaw::corrupt(32, detail));
    }
    let mut by_place: Vec<_> = entries
        .iter()
        .map(|e| e.range)
        .filter(|r| !r.is_empty())
        .collect();
    by_place.sort_unstable();
    if let Some(pair) = by_place
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
    let known = [
        FILE_PARAMETERS,
        DISK_SIZE,
        DISK_ID,
        LOGICAL_SECTOR,
        PHYSICAL_SECTOR,
        PARENT_LOCATOR,
    ];
    if flags & IS_REQUIRED != 0 && (flags & IS_USER != 0 || !known.contains(&id)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;
    use std::sync::Arc;

    const REGION: ByteRange = ByteRange::to(1 << 20);

    fn metadata() -> Metadata {
        Metadata {
            block_size: 2 << 20,
            fixed: false,
            size: 1 << 30,
            identifier: Uuid::from_u128(4),
            logical_sector: 512,
            physical_sector: 4096,
            locator: Some(ParentLocator::new(Uuid::from_u128(3), &[])),
        }
    }

    fn file(metadata: &Metadata) -> Source {
        let source = Source::new("a.vhdx", Arc::new(Memory::new(vec![0; 1 << 20])));
        assert!(metadata.create(&source, REGION).unwrap());
        source
    }

    fn read(source: &Source) -> Result<Metadata> {
        Items::read(source, REGION)?.metadata(source)
    }

    #[test]
    fn metadata_comes_back_as_it_was_written() {
        for locator in [None, metadata().locator] {
            let metadata = Metadata {
                locator,
                ..metadata()
            };
            assert_eq!(read(&file(&metadata)).unwrap(), metadata);
        }
    }

    #[test]
    fn a_longer_locator_moves_and_a_shorter_one_stays() {
        let source = file(&metadata());
        let mut items = Items::read(&source, REGION).unwrap();
        let mut locator = metadata().locator.unwrap();
        for round in 10..12 {
            locator.link(Uuid::from_u128(round), Uuid::from_u128(round + 1));
            for (offset, bytes) in items.replace_locator(&locator).unwrap() {
                source.write_all_at(offset, &bytes).unwrap();
            }
            assert_eq!(read(&source).unwrap().locator.as_ref(), Some(&locator));
        }
        let (offset, bytes) = items.replace_identifier(Uuid::from_u128(77)).unwrap();
        source.write_all_at(offset, &bytes).unwrap();
        assert_eq!(read(&source).unwrap().identifier, Uuid::from_u128(77));
    }

    #[test]
    fn impossible_disks_are_refused() {
        let refused = |change: &dyn Fn(&mut Metadata)| {
            let mut bad = metadata();
            change(&mut bad);
            read(&file(&bad)).unwrap_err().kind()
        };
        assert_eq!(refused(&|m| m.block_size = 3 << 20), Kind::Corrupt);
        assert_eq!(refused(&|m| m.block_size = 1 << 29), Kind::Corrupt);
        assert_eq!(refused(&|m| m.logical_sector = 520), Kind::Corrupt);
        assert_eq!(refused(&|m| m.size = 513), Kind::Corrupt);
        assert_eq!(refused(&|m| m.size = 0), Kind::Corrupt);
        assert_eq!(refused(&|m| m.size = (64 << 40) + 512), Kind::TooLarge);
    }

    #[test]
    fn damaged_tables_are_refused() {
        let refused = |at: u64, bytes: &[u8]| {
            let source = file(&metadata());
            source.write_all_at(at, bytes).unwrap();
            read(&source).unwrap_err().kind()
        };
        assert_eq!(refused(0, b"x"), Kind::Corrupt, "signature");
        assert_eq!(refused(10, &[0, 8]), Kind::Corrupt, "count");
        assert_eq!(refused(10, &[4, 0]), Kind::Corrupt, "a missing item");
        assert_eq!(
            refused(32, &[7]),
            Kind::Unsupported,
            "an unknown required item"
        );
        assert_eq!(
            refused(48, &[0, 0, 0, 0]),
            Kind::Corrupt,
            "an item in the table"
        );
        assert_eq!(
            refused(50, &[0x0f, 0]),
            Kind::Corrupt,
            "items that overlap or leave"
        );
        assert_eq!(refused(52, &[4]), Kind::Corrupt, "a wrong length");
        assert_eq!(
            refused(64, &FILE_PARAMETERS.to_bytes_le()),
            Kind::Corrupt,
            "twice"
        );
    }
}
