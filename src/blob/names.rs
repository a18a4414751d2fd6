//! What storage calls things: tags, snapshots, numbers and names, checked once where they enter.
//!
//! Nothing here may reach a request unchecked: a blob's name comes from listings of a container that others write to,
//! and a name such as `../x` would otherwise leave its container when the URL is put together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::{MIB, SECTOR};

/// The largest body of one Put Blob that we send (DESIGN §4: a log is at most this long; the service takes more).
pub const PUT_MAX: u64 = 256 * MIB;
/// The largest body of one Put Page.
pub const PAGES_MAX: u64 = 4 * MIB;
/// The largest page blob: 8 TiB; a disk of 8,191 GiB and its footer fit.
pub const PAGE_BLOB_MAX: u64 = 8 << 40;
/// The most blocks that a block list may name (Put Block List reference).
pub const BLOCKS_MAX: u32 = 50_000;
/// Azure: a blob's name has at most 1,024 characters.
const BLOB_NAME_MAX: usize = 1024;

/// A text, number or range that storage would not accept, or that would mean something else there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {rule}")]
pub struct Invalid {
    pub(crate) what: String,
    pub(crate) rule: &'static str,
}

impl Invalid {
    pub(crate) fn new(what: impl Into<String>, rule: &'static str) -> Self {
        let what: String = what.into();
        Invalid {
            what: what.chars().take(120).collect(),
            rule,
        }
    }
}

/// The version of a blob's content and properties, as the service made it up; equal means unchanged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag(String);

impl ETag {
    /// With the quotation marks that headers carry.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ETag {
    type Err = Invalid;

    /// Reads a tag with quotation marks (headers) or without (listings).
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bare = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text);
        let graphic = bare.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
        if (1..=128).contains(&bare.len()) && graphic {
            Ok(ETag(format!("\"{bare}\"")))
        } else {
            Err(Invalid::new(text, "an ETag is 1 to 128 visible characters"))
        }
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A blob snapshot of one blob: the service's time of its making; later ones sort after earlier ones.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let known = |b: u8| b.is_ascii_alphanumeric() || b"-:.+".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(known) {
            Ok(SnapshotId(text.to_owned()))
        } else {
            Err(Invalid::new(
                text,
                "a snapshot id is a time such as 2026-01-31T12:00:00.0000000Z",
            ))
        }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> String {
        id.0
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A page blob's sequence number: it changes only on request, so it fences writers (DESIGN §4, one writer of pages).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct SequenceNumber(u64);

impl SequenceNumber {
    pub const ZERO: SequenceNumber = SequenceNumber(0);

    /// The number, or nothing if it is above the 2⁶³-1 that the service can hold.
    pub const fn new(value: u64) -> Option<Self> {
        if value <= i64::MAX.unsigned_abs() {
            Some(SequenceNumber(value))
        } else {
            None
        }
    }

    pub const fn value(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for SequenceNumber {
    type Error = &'static str;

    fn try_from(value: u64) -> Result<Self, Self::Error> {
        SequenceNumber::new(value).ok_or("a sequence number has at most 63 bits")
    }
}

impl From<SequenceNumber> for u64 {
    fn from(number: SequenceNumber) -> u64 {
        number.0
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One block of a block blob under construction, by its place; all ids of a blob have the same length, as they must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u32);

impl BlockId {
    /// The block at `place`, or nothing if a block list could not name it.
    pub const fn at(place: u32) -> Option<Self> {
        if place < BLOCKS_MAX {
            Some(BlockId(place))
        } else {
            None
        }
    }

    /// As requests carry it.
    pub fn encoded(self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("{:09}", self.0))
    }
}

/// A blob as it is now, or one of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobRef {
    pub name: String,
    pub snapshot: Option<SnapshotId>,
}

impl BlobRef {
    /// The blob as it is now.
    pub fn head(name: impl Into<String>) -> Self {
        BlobRef {
            name: name.into(),
            snapshot: None,
        }
    }

    /// The blob as it was when the snapshot was taken.
    pub fn at(name: impl Into<String>, snapshot: SnapshotId) -> Self {
        BlobRef {
            name: name.into(),
            snapshot: Some(snapshot),
        }
    }
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A container's name: 3 to 63 of `a-z`, `0-9` and single hyphens (Naming and Referencing Containers).
pub(crate) fn check_container(name: &str) -> Result<(), Invalid> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let hyphens = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    if (3..=63).contains(&name.len()) && name.bytes().all(known) && !hyphens {
        Ok(())
    } else {
        Err(Invalid::new(
            format!("container `{name}`"),
            "a container's name is 3 to 63 of a-z, 0-9 and single hyphens",
        ))
    }
}

/// A blob's name that stays itself in a URL: no empty name, no `.` or `..` between slashes, no control characters.
pub(crate) fn check_blob(name: &str) -> Result<(), Invalid> {
    let rule = if name.is_empty() || name.chars().count() > BLOB_NAME_MAX {
        "a blob's name has 1 to 1024 characters"
    } else if name.split('/').any(|part| part == "." || part == "..") {
        "a blob's name has no `.` or `..` between slashes"
    } else if name.chars().any(char::is_control) {
        "a blob's name has no control characters"
    } else {
        return Ok(());
    };
    Err(Invalid::new(
        format!("blob `{}`", name.escape_debug()),
        rule,
    ))
}

/// A range of whole pages, not empty.
pub(crate) fn check_pages(offset: u64, len: u64) -> Result<(), Invalid> {
    let aligned = offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR);
    if aligned && len > 0 && offset.checked_add(len).is_some() {
        Ok(())
    } else {
        Err(Invalid::new(
            format!("{len} bytes at {offset}"),
            "pages are whole and aligned to 512 bytes",
        ))
    }
}

/// A page blob's size.
pub(crate) fn check_page_blob_size(size: u64) -> Result<(), Invalid> {
    if size.is_multiple_of(SECTOR) && size <= PAGE_BLOB_MAX {
        Ok(())
    } else {
        Err(Invalid::new(
            format!("{size} bytes"),
            "a page blob has whole 512-byte pages and at most 8 TiB",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_container_are_refused() {
        for name in ["", "..", "a/../../other/b", "./a", "a/.", "a\nb"] {
            assert!(check_blob(name).is_err(), "{name:?}");
        }
        for name in [
            "a",
            "000000000000002a/sealed.json",
            "ä b%2e%2e?#",
            "a//b",
            "...",
        ] {
            assert!(check_blob(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn container_names_follow_the_services_rules() {
        for name in ["ab", "A-b", "a--b", "-ab", "ab-", "$root", "a_b", "a/b"] {
            assert!(check_container(name).is_err(), "{name}");
        }
        assert!(check_container("prod-i-abcdefghijklmnopqrstuvwxyz").is_ok());
    }

    #[test]
    fn an_etag_is_the_same_from_a_header_and_from_a_listing() {
        let header: ETag = "\"0x8D4BCC2E4835CD0\"".parse().unwrap();
        let listing: ETag = "0x8D4BCC2E4835CD0".parse().unwrap();
        assert_eq!(header, listing);
        assert_eq!(header.as_str(), "\"0x8D4BCC2E4835CD0\"");
        assert!("\"\"".parse::<ETag>().is_err());
        assert!("a\r\nb".parse::<ETag>().is_err());
    }

    #[test]
    fn block_ids_are_equally_long() {
        let first = BlockId::at(0).unwrap().encoded();
        let last = BlockId::at(BLOCKS_MAX - 1).unwrap().encoded();
        assert_eq!(first.len(), last.len());
        assert_eq!(BlockId::at(BLOCKS_MAX), None);
    }

    #[test]
    fn a_sequence_number_fits_the_services_signed_64_bits() {
        assert!(SequenceNumber::new(u64::MAX).is_none());
        assert_eq!(
            SequenceNumber::new(i64::MAX.unsigned_abs()).map(SequenceNumber::value),
            Some(i64::MAX.unsigned_abs())
        );
    }
}
