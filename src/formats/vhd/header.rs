//! The VHD dynamic header: where the table of blocks is, and who the parent of a differencing disk is.
//!
//! ```text
//!  0 `cxsparse`      24 version             40 parent's unique id    64 parent's name, UTF-16 big-endian
//!  8 all ones        28 table entries       56 parent's timestamp   576 8 locators: code, space, length, 0, offset
//! 16 table offset    32 block size          60 0                    768 zeroes to 1024
//!                    36 checksum
//! ```
//! Big-endian. A locator points to a path of the parent elsewhere in the file, in UTF-16 little-endian.

use uuid::Uuid;

use crate::formats::bytes::{Utf16, field, put};
use crate::formats::error::{Flaw, Kind, Parsed};
use crate::formats::info::{PathKind, RecordedPath};
use crate::formats::vhd::footer::{NO_OFFSET, check_sum, checksum};
use crate::units::{KIB, MIB, to_u64};

/// Bytes in a dynamic header.
pub(crate) const HEADER_SIZE: usize = 1024;
const COOKIE: [u8; 8] = *b"cxsparse";
const VERSION: u32 = 0x0001_0000;
const LOCATORS: usize = 8;
const NAME_BYTES: usize = 512;
/// Hyper-V makes blocks of 512 KiB and 2 MiB. The lower bound keeps the check of the table small, the upper one a run.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 512 * KIB..=256 * MIB;
/// No path is longer: 32,767 UTF-16 units are Windows' own limit.
const PATH_BYTES_MAX: u32 = 1 << 16;

/// Relative and absolute path of the parent in UTF-16.
const RELATIVE: [u8; 4] = *b"W2ru";
const ABSOLUTE: [u8; 4] = *b"W2ku";

/// Where a path of the parent is in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locator {
    pub(crate) kind: PathKind,
    pub(crate) offset: u64,
    /// Bytes of the path itself.
    pub(crate) len: u32,
    /// Bytes kept for it. The specification says sectors; what Virtual PC and Hyper-V write is bytes.
    pub(crate) space: u32,
}

/// A dynamic header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DynamicHeader {
    pub(crate) table_offset: u64,
    pub(crate) table_entries: u32,
    pub(crate) block_size: u32,
    pub(crate) parent: Option<ParentFields>,
}

/// The fields that only a differencing disk has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentFields {
    pub(crate) identifier: Uuid,
    /// When the parent was last modified, in seconds since 2000. Copying a file changes it, so we never check it.
    pub(crate) timestamp: u32,
    /// The parent's name, perhaps with a path; empty if it cannot be read.
    pub(crate) name: String,
    pub(crate) locators: Vec<Locator>,
}

impl DynamicHeader {
    /// # Errors
    /// If the bytes are no dynamic header of version 1, or lie outside the bounds that are served.
    pub(crate) fn parse(bytes: &[u8; HEADER_SIZE], differencing: bool) -> Parsed<Self> {
        if field::<8>(bytes, 0) != COOKIE {
            return Err(Flaw::corrupt(
                0,
                "this is no dynamic header: it lacks `cxsparse`",
            ));
        }
        check_sum(bytes, 36, "dynamic header")?;
        let version = u32::from_be_bytes(field(bytes, 24));
        if version >> 16 != VERSION >> 16 {
            let detail = format!("header version is {version:#010x}, expected {VERSION:#010x}");
            return Err(Flaw::new(Kind::Unsupported, 24, detail));
        }
        let table_offset = u64::from_be_bytes(field(bytes, 16));
        if !table_offset.is_multiple_of(512) {
            let detail = format!("table offset is {table_offset}, expected a multiple of 512");
            return Err(Flaw::corrupt(16, detail));
        }
        let block_size = u32::from_be_bytes(field(bytes, 32));
        if !is_block_size(u64::from(block_size)) {
            let detail = format!(
                "block size is {block_size}, expected a power of two of 512 KiB to 256 MiB"
            );
            return Err(Flaw::new(Kind::Unsupported, 32, detail));
        }
        Ok(DynamicHeader {
            table_offset,
            table_entries: u32::from_be_bytes(field(bytes, 28)),
            block_size,
            parent: differencing
                .then(|| ParentFields::parse(bytes))
                .transpose()?,
        })
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        put(&mut bytes, 0, &COOKIE);
        put(&mut bytes, 8, &NO_OFFSET.to_be_bytes());
        put(&mut bytes, 16, &self.table_offset.to_be_bytes());
        put(&mut bytes, 24, &VERSION.to_be_bytes());
        put(&mut bytes, 28, &self.table_entries.to_be_bytes());
        put(&mut bytes, 32, &self.block_size.to_be_bytes());
        if let Some(parent) = &self.parent {
            parent.encode_into(&mut bytes);
        }
        let sum = checksum(&bytes, 36);
        put(&mut bytes, 36, &sum.to_be_bytes());
        bytes
    }
}

/// Whether blocks of `size` bytes are served.
pub(crate) fn is_block_size(size: u64) -> bool {
    size.is_power_of_two() && BLOCK_SIZES.contains(&size)
}

impl ParentFields {
    fn parse(bytes: &[u8; HEADER_SIZE]) -> Parsed<Self> {
        let name = &bytes[64..64 + NAME_BYTES];
        let units = name.as_chunks::<2>().0;
        let end = units.iter().position(|&unit| unit == [0, 0]);
        let name = &name[..2 * end.unwrap_or(units.len())];
        let mut locators = Vec::new();
        for index in 0..LOCATORS {
            let at = 576 + 24 * index;
            let kind = match field::<4>(bytes, at) {
                RELATIVE => PathKind::Relative,
                ABSOLUTE => PathKind::Absolute,
                // Unused, of another system, or in a code page that the file does not name.
                _ => continue,
            };
            let len = u32::from_be_bytes(field(bytes, at + 8));
            if len > PATH_BYTES_MAX {
                let detail = format!("a parent's path has {len} bytes, more than {PATH_BYTES_MAX}");
                return Err(Flaw::new(Kind::TooLarge, to_u64(at), detail));
            }
            locators.push(Locator {
                kind,
                offset: u64::from_be_bytes(field(bytes, at + 16)),
                len,
                space: u32::from_be_bytes(field(bytes, at + 4)),
            });
        }
        // Relative before absolute, as Windows looks for a parent.
        locators.sort_by_key(|locator| locator.kind != PathKind::Relative);
        Ok(ParentFields {
            identifier: Uuid::from_bytes(field(bytes, 40)),
            timestamp: u32::from_be_bytes(field(bytes, 56)),
            name: Utf16::Big.decode(name).unwrap_or_default(),
            locators,
        })
    }

    /// Writes the fields. A name that does not fit is left out: the locators say the same.
    fn encode_into(&self, bytes: &mut [u8; HEADER_SIZE]) {
        put(bytes, 40, self.identifier.as_bytes());
        put(bytes, 56, &self.timestamp.to_be_bytes());
        let name = Utf16::Big.encode(&self.name);
        if name.len() < NAME_BYTES {
            put(bytes, 64, &name);
        }
        for (index, locator) in self.locators.iter().take(LOCATORS).enumerate() {
            let at = 576 + 24 * index;
            let code = match locator.kind {
                PathKind::Relative => RELATIVE,
                PathKind::Absolute | PathKind::Volume => ABSOLUTE,
            };
            put(bytes, at, &code);
            put(bytes, at + 4, &locator.space.to_be_bytes());
            put(bytes, at + 8, &locator.len.to_be_bytes());
            put(bytes, at + 16, &locator.offset.to_be_bytes());
        }
    }

    /// The parent's name as a path to try after the locators.
    pub(crate) fn name_as_path(&self) -> Option<RecordedPath> {
        let absolute = self.name.starts_with('\\') || self.name.contains(':');
        (!self.name.is_empty()).then(|| RecordedPath {
            kind: if absolute {
                PathKind::Absolute
            } else {
                PathKind::Relative
            },
            text: self.name.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> DynamicHeader {
        DynamicHeader {
            table_offset: 1536,
            table_entries: 32,
            block_size: 2 << 20,
            parent: Some(ParentFields {
                identifier: Uuid::from_u128(7),
                timestamp: 11,
                name: "parent.vhd".to_owned(),
                locators: vec![Locator {
                    kind: PathKind::Relative,
                    offset: 2048,
                    len: 24,
                    space: 512,
                }],
            }),
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        assert_eq!(
            DynamicHeader::parse(&header().encode(), true).unwrap(),
            header()
        );
    }

    #[test]
    fn a_dynamic_disk_has_no_parent_whatever_the_fields_say() {
        let parsed = DynamicHeader::parse(&header().encode(), false).unwrap();
        assert_eq!(parsed.parent, None);
    }

    #[test]
    fn a_name_that_is_no_text_or_does_not_fit_is_no_name() {
        let mut long = header();
        let parent = long.parent.as_mut().unwrap();
        parent.name = "x".repeat(300);
        let parsed = DynamicHeader::parse(&long.encode(), true).unwrap();
        assert_eq!(parsed.parent.unwrap().name, "");
    }

    #[test]
    fn absurd_block_sizes_and_paths_are_refused() {
        let refused = |change: &dyn Fn(&mut DynamicHeader)| {
            let mut bad = header();
            change(&mut bad);
            DynamicHeader::parse(&bad.encode(), true).unwrap_err().kind
        };
        assert_eq!(refused(&|h| h.block_size = 0), Kind::Unsupported);
        assert_eq!(refused(&|h| h.block_size = 3 << 20), Kind::Unsupported);
        assert_eq!(refused(&|h| h.table_offset = 1), Kind::Corrupt);
        let long = |h: &mut DynamicHeader| h.parent.as_mut().unwrap().locators[0].len = u32::MAX;
        assert_eq!(refused(&long), Kind::TooLarge);
    }
}
