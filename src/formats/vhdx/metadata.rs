//! What the metadata of a VHDX says: the size, sectors and identity of the disk, and its parent.
//!
//! `[MS-VHDX]` 2.6.2. Where the items stand is the business of `items`.

use uuid::Uuid;

use crate::formats::bytes::field;
use crate::formats::error::{Flaw, Kind, Parsed, Result};
use crate::formats::source::Source;
use crate::formats::vhdx::items::{
    self, Change, DISK_ID, DISK_SIZE, FILE_PARAMETERS, IS_REQUIRED, IS_VIRTUAL_DISK, Items,
    LOGICAL_SECTOR, PARENT_LOCATOR, PHYSICAL_SECTOR,
};
use crate::formats::vhdx::locator::ParentLocator;
use crate::units::{ByteRange, MIB};

/// The largest disk.
const SIZE_MAX: u64 = 64 << 40;
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

impl Metadata {
    pub(crate) fn read(source: &Source, items: &Items) -> Result<Self> {
        let parameters = items.array::<8>(source, FILE_PARAMETERS)?;
        let flags = u32::from_le_bytes(field(&parameters, 4));
        let unknown = flags & !(LEAVE_ALLOCATED | HAS_PARENT);
        if unknown != 0 {
            let detail = format!("file parameters have unknown bits {unknown:#x}");
            return Err(items.corrupt(source, 0, detail));
        }
        let metadata = Metadata {
            block_size: u32::from_le_bytes(field(&parameters, 0)),
            fixed: flags & LEAVE_ALLOCATED != 0 && flags & HAS_PARENT == 0,
            size: u64::from_le_bytes(items.array(source, DISK_SIZE)?),
            identifier: Uuid::from_bytes_le(items.array(source, DISK_ID)?),
            logical_sector: u32::from_le_bytes(items.array(source, LOGICAL_SECTOR)?),
            physical_sector: u32::from_le_bytes(items.array(source, PHYSICAL_SECTOR)?),
            locator: read_locator(source, items, flags & HAS_PARENT != 0)?,
        };
        metadata
            .check()
            .map_err(|flaw| flaw.within(source.path(), items.start()))?;
        Ok(metadata)
    }

    /// Whether a VHDX may say this.
    pub(crate) fn check(&self) -> Parsed<()> {
        let corrupt = |detail: String| Err(Flaw::corrupt(0, detail));
        let block = u64::from(self.block_size);
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            let expected = "a power of two of 1 to 256 MiB";
            return corrupt(format!("block size is {block}, expected {expected}"));
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
        let parameters = [self.block_size, parent | fixed];
        let disk = IS_REQUIRED | IS_VIRTUAL_DISK;
        let number = |value: u32| value.to_le_bytes().to_vec();
        let mut all = vec![
            (
                FILE_PARAMETERS,
                IS_REQUIRED,
                parameters.map(u32::to_le_bytes).concat(),
            ),
            (DISK_SIZE, disk, self.size.to_le_bytes().to_vec()),
            (DISK_ID, disk, self.identifier.to_bytes_le().to_vec()),
            (LOGICAL_SECTOR, disk, number(self.logical_sector)),
            (PHYSICAL_SECTOR, disk, number(self.physical_sector)),
        ];
        if let Some(locator) = &self.locator {
            all.push((PARENT_LOCATOR, IS_REQUIRED, locator.encode()));
        }
        items::create(source, region, &all)
    }
}

fn read_locator(source: &Source, items: &Items, has_parent: bool) -> Result<Option<ParentLocator>> {
    match (has_parent, items.bytes(source, PARENT_LOCATOR)?) {
        (false, None) => Ok(None),
        (true, Some((start, bytes))) => {
            let locator = ParentLocator::parse(&bytes);
            Ok(Some(
                locator.map_err(|flaw| flaw.within(source.path(), start))?,
            ))
        }
        (true, None) => {
            let detail = "the file has a parent and no parent locator".to_owned();
            Err(items.corrupt(source, 0, detail))
        }
        (false, Some(_)) => {
            let detail = "the file has a parent locator and no parent".to_owned();
            Err(items.corrupt(source, 0, detail))
        }
    }
}

/// The changes that put `locator` in the place of the one that is there.
pub(crate) fn replace_locator(items: &mut Items, locator: &ParentLocator) -> Parsed<Vec<Change>> {
    items.replace(PARENT_LOCATOR, locator.encode())
}

/// The changes that give the disk another id.
pub(crate) fn replace_identifier(items: &mut Items, identifier: Uuid) -> Parsed<Vec<Change>> {
    items.replace(DISK_ID, identifier.to_bytes_le().to_vec())
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
        Metadata::read(source, &Items::read(source, REGION)?)
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
            for (offset, bytes) in replace_locator(&mut items, &locator).unwrap() {
                source.write_all_at(offset, &bytes).unwrap();
            }
            assert_eq!(read(&source).unwrap().locator.as_ref(), Some(&locator));
        }
        for (offset, bytes) in replace_identifier(&mut items, Uuid::from_u128(77)).unwrap() {
            source.write_all_at(offset, &bytes).unwrap();
        }
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
