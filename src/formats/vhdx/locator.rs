//! The parent locator of a differencing VHDX: which file the parent is, and where.
//!
//! ```text
//!  0 locator type, GUID   20 + 12·n  key offset, 4 │ value offset, 4 │ key length, 2 │ value length, 2
//! 16 0, 18 entry count               keys and values: UTF-16 little-endian, no NUL, anywhere behind
//! ```
//! Little-endian; `[MS-VHDX]` 2.6.2.6. `parent_linkage` is the parent's DataWriteGuid. `parent_linkage2` is a second
//! value that it may have: while a child is merged into its parent the parent changes, and there is no moment at which
//! both files could change together.

use uuid::{Uuid, uuid};

use crate::formats::bytes::{Utf16, field};
use crate::formats::error::{Flaw, Kind, Parsed};
use crate::formats::info::{ParentReference, PathKind, RecordedPath};
use crate::units::to_u64;

const LOCATOR_TYPE: Uuid = uuid!("B04AEFB7-D19E-4A81-B789-25B8E9445913");
const LINKAGE: &str = "parent_linkage";
const LINKAGE_WHILE_MERGING: &str = "parent_linkage2";
/// The keys of paths, in the order in which they are to be tried.
const PATHS: [(&str, PathKind); 3] = [
    ("relative_path", PathKind::Relative),
    ("volume_path", PathKind::Volume),
    ("absolute_win32_path", PathKind::Absolute),
];
/// Windows writes five entries. More would only cost memory: each may claim 128 KiB of the same bytes.
const ENTRIES_MAX: u16 = 64;

/// A parent locator: keys and values, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentLocator {
    entries: Vec<(String, String)>,
}

impl ParentLocator {
    pub(crate) fn new(linkage: Uuid, paths: &[RecordedPath]) -> Self {
        let mut entries = vec![(LINKAGE.to_owned(), braced(linkage))];
        for (key, kind) in PATHS {
            if let Some(path) = paths.iter().find(|path| path.kind == kind) {
                entries.push((key.to_owned(), path.text.clone()));
            }
        }
        ParentLocator { entries }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Parsed<Self> {
        let Some((header, table)) = bytes.split_first_chunk::<20>() else {
            let detail = format!(
                "the parent locator has {} bytes, at least 20 are needed",
                bytes.len()
            );
            return Err(Flaw::corrupt(0, detail));
        };
        let kind = Uuid::from_bytes_le(field(header, 0));
        if kind != LOCATOR_TYPE {
            let detail = format!("the parent is of type {kind}, only VHDX is known");
            return Err(Flaw::new(Kind::Unsupported, 0, detail));
        }
        let count = u16::from_le_bytes(field(header, 18));
        if count > ENTRIES_MAX {
            let detail = format!("the parent locator has {count} entries, more than {ENTRIES_MAX}");
            return Err(Flaw::new(Kind::TooLarge, 18, detail));
        }
        let table = table.as_chunks::<12>().0;
        if table.len() < usize::from(count) {
            let detail = format!("{count} entries do not fit into the parent locator");
            return Err(Flaw::corrupt(18, detail));
        }
        let mut entries: Vec<(String, String)> = Vec::new();
        for (entry, index) in table.iter().zip(0..count) {
            let at = 20 + 12 * u64::from(index);
            let key = text(bytes, field(entry, 0), field(entry, 8), at)?;
            let value = text(bytes, field(entry, 4), field(entry, 10), at)?;
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(Flaw::corrupt(at, format!("key `{key}` is listed twice")));
            }
            entries.push((key, value));
        }
        Ok(ParentLocator { entries })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut table = LOCATOR_TYPE.to_bytes_le().to_vec();
        let count = u16::try_from(self.entries.len()).expect("a locator has few entries");
        table.extend([0, 0]);
        table.extend(count.to_le_bytes());
        let mut strings = Vec::new();
        let first = table.len() + 12 * self.entries.len();
        for (key, value) in &self.entries {
            let (key, value) = (Utf16::Little.encode(key), Utf16::Little.encode(value));
            let offset = |len: usize| u32::try_from(first + len).expect("strings are short");
            let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("paths are short");
            table.extend(offset(strings.len()).to_le_bytes());
            table.extend(offset(strings.len() + key.len()).to_le_bytes());
            table.extend(length(&key).to_le_bytes());
            table.extend(length(&value).to_le_bytes());
            strings.extend(key);
            strings.extend(value);
        }
        table.extend(strings);
        table
    }

    /// What the locator says about the parent.
    pub(crate) fn reference(&self) -> Parsed<ParentReference> {
        let mut linkage = Vec::new();
        for key in [LINKAGE, LINKAGE_WHILE_MERGING] {
            if let Some(value) = self.get(key) {
                let guid = Uuid::parse_str(value).map_err(|_| {
                    Flaw::corrupt(
                        0,
                        format!("`{key}` is `{value}`, expected a GUID in braces"),
                    )
                })?;
                // Windows may leave the second one there with nothing in it.
                if !guid.is_nil() {
                    linkage.push(guid);
                }
            } else if key == LINKAGE {
                return Err(Flaw::corrupt(
                    0,
                    format!("the parent locator lacks `{key}`"),
                ));
            }
        }
        let paths = PATHS.into_iter().filter_map(|(key, kind)| {
            let text = self.get(key)?.to_owned();
            Some(RecordedPath { kind, text })
        });
        Ok(ParentReference {
            linkage,
            paths: paths.collect(),
        })
    }

    /// Says that the parent may have either of two ids.
    pub(crate) fn link(&mut self, linkage: Uuid, while_merging: Uuid) {
        for (key, guid) in [(LINKAGE, linkage), (LINKAGE_WHILE_MERGING, while_merging)] {
            match self.entries.iter_mut().find(|(known, _)| known == key) {
                Some((_, value)) => *value = braced(guid),
                None => self.entries.push((key.to_owned(), braced(guid))),
            }
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.entries.iter().find(|(known, _)| known == key)?;
        Some(value)
    }
}

fn braced(guid: Uuid) -> String {
    guid.braced().to_string()
}

/// The string of `length` bytes at `offset` of the locator; `at` is where the entry stands.
fn text(bytes: &[u8], offset: [u8; 4], length: [u8; 2], at: u64) -> Parsed<String> {
    let (offset, length) = (u32::from_le_bytes(offset), u16::from_le_bytes(length));
    let found = usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(usize::from(length))?))
        .filter(|bytes| !bytes.is_empty())
        .and_then(|bytes| Utf16::Little.decode(bytes));
    found.ok_or_else(|| {
        let size = to_u64(bytes.len());
        let detail = format!("{length} bytes at {offset} of {size} hold no UTF-16 text");
        Flaw::corrupt(at, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locator() -> ParentLocator {
        let path = |kind, text: &str| RecordedPath {
            kind,
            text: text.to_owned(),
        };
        let paths = [
            path(PathKind::Absolute, "\\\\?\\D:\\p.vhdx"),
            path(PathKind::Relative, ".\\p.vhdx"),
        ];
        ParentLocator::new(Uuid::from_u128(3), &paths)
    }

    #[test]
    fn a_locator_comes_back_as_it_was_written_with_its_paths_in_order() {
        let parsed = ParentLocator::parse(&locator().encode()).unwrap();
        assert_eq!(parsed, locator());
        let reference = parsed.reference().unwrap();
        assert_eq!(reference.linkage, [Uuid::from_u128(3)]);
        let kinds: Vec<_> = reference.paths.iter().map(|path| path.kind).collect();
        assert_eq!(kinds, [PathKind::Relative, PathKind::Absolute]);
        assert_eq!(
            parsed.get(LINKAGE),
            Some("{00000000-0000-0000-0000-000000000003}")
        );
    }

    #[test]
    fn while_merging_there_are_two_linkages_and_linking_again_changes_them() {
        let mut locator = locator();
        locator.link(Uuid::from_u128(4), Uuid::from_u128(5));
        let size = locator.encode().len();
        locator.link(Uuid::from_u128(5), Uuid::from_u128(6));
        assert_eq!(locator.encode().len(), size);
        let reference = ParentLocator::parse(&locator.encode())
            .unwrap()
            .reference()
            .unwrap();
        assert_eq!(reference.linkage, [Uuid::from_u128(5), Uuid::from_u128(6)]);
    }

    #[test]
    fn an_empty_second_linkage_is_none() {
        let mut locator = locator();
        locator.link(Uuid::from_u128(3), Uuid::nil());
        assert_eq!(locator.reference().unwrap().linkage, [Uuid::from_u128(3)]);
    }

    #[test]
    fn hostile_locators_are_refused() {
        let refused = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = locator().encode();
            change(&mut bytes);
            ParentLocator::parse(&bytes).unwrap_err().kind
        };
        assert_eq!(refused(&|b| b.truncate(19)), Kind::Corrupt);
        assert_eq!(refused(&|b| b.truncate(40)), Kind::Corrupt);
        assert_eq!(refused(&|b| b[0] = 0), Kind::Unsupported);
        assert_eq!(refused(&|b| b[19] = 0xff), Kind::TooLarge);
        assert_eq!(refused(&|b| b[23] = 0xff), Kind::Corrupt, "key offset");
        assert_eq!(refused(&|b| b[28] = 0), Kind::Corrupt, "empty key");
        assert_eq!(
            refused(&|b| b.copy_within(20..32, 32)),
            Kind::Corrupt,
            "key twice"
        );
    }
}
