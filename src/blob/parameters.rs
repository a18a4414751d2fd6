//! What a caller asks for: conditions, options and permissions, as values. Data only.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::blob::names::{BlobRef, ETag, Invalid};

/// A user-defined name and value of a blob or container, at most 8 KiB in all.
pub type Metadata = BTreeMap<String, String>;

/// Metadata's size limit in bytes, names and values (Setting and retrieving properties and metadata).
const METADATA_MAX: usize = 8 << 10;

/// What must be true of a blob for a request to be carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing. A request that was delayed in the network may then replace what was written after it.
    #[default]
    Always,
    /// There is no such blob (`If-None-Match: *`).
    Absent,
    /// The blob is unchanged since this tag was seen (`If-Match`).
    Matches(ETag),
}

/// What a write of a whole block blob carries beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    pub condition: Condition,
    pub metadata: Metadata,
    /// `application/octet-stream` if nothing is said.
    pub content_type: Option<&'static str>,
}

impl PutOptions {
    /// Creates, and never replaces.
    pub fn create() -> Self {
        PutOptions {
            condition: Condition::Absent,
            ..PutOptions::default()
        }
    }

    /// Replaces only what `etag` was seen of.
    pub fn replace(etag: ETag) -> Self {
        PutOptions {
            condition: Condition::Matches(etag),
            ..PutOptions::default()
        }
    }

    #[must_use]
    pub fn json(mut self) -> Self {
        self.content_type = Some("application/json");
        self
    }

    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

/// Whether a delete takes snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteSnapshots {
    /// The blob alone; it is refused while the blob has snapshots. The only choice when a snapshot is named.
    None,
    /// The blob and all its snapshots.
    Include,
    /// All its snapshots, and not the blob.
    Only,
}

/// What a listing tells beside the blobs themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include {
    pub snapshots: bool,
    pub metadata: bool,
}

/// What to do with the lease of a blob. The id is the caller's, so that a repeat is the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// For 15 to 60 seconds, or without end. Acquiring it again with the same id succeeds.
    Acquire {
        id: Uuid,
        lasting: Option<Duration>,
    },
    Renew {
        id: Uuid,
    },
    Release {
        id: Uuid,
    },
    /// Ends anyone's lease at once.
    Break,
}

/// Where Copy Blob takes its content from: the same account, so that no signature is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    pub container: String,
    pub blob: BlobRef,
}

/// The rights of a shared access signature on a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub read: bool,
    /// Make a new blob; never change one.
    pub create: bool,
    /// Change and replace blobs.
    pub write: bool,
    pub delete: bool,
    pub list: bool,
}

impl Permissions {
    /// What an agent may do in its inbox (DESIGN §4).
    pub const INBOX: Permissions = Permissions {
        read: true,
        create: true,
        write: false,
        delete: false,
        list: true,
    };
    /// What an agent may do in its replica (DESIGN §4).
    pub const REPLICA: Permissions = Permissions {
        create: false,
        ..Permissions::INBOX
    };

    /// The letters in the order that signatures demand.
    pub fn letters(self) -> String {
        let letters = [
            (self.read, 'r'),
            (self.create, 'c'),
            (self.write, 'w'),
            (self.delete, 'd'),
            (self.list, 'l'),
        ];
        letters
            .into_iter()
            .filter_map(|(granted, letter)| granted.then_some(letter))
            .collect()
    }
}

/// Metadata that survives the way through headers: lower-case identifiers, visible ASCII without outer spaces.
pub(crate) fn check_metadata(metadata: &Metadata) -> Result<(), Invalid> {
    let identifier = |name: &str| {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        !name.is_empty()
            && name.len() <= 128
            && !name.as_bytes()[0].is_ascii_digit()
            && name.bytes().all(known)
    };
    let plain = |value: &str| {
        value.trim() == value && value.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
    };
    let size: usize = metadata.iter().map(|(n, v)| n.len() + v.len()).sum();
    if size > METADATA_MAX {
        return Err(Invalid::new(
            format!("{size} bytes of metadata"),
            "metadata has at most 8 KiB",
        ));
    }
    match metadata
        .iter()
        .find(|(name, value)| !identifier(name) || !plain(value))
    {
        Some((name, _)) => Err(Invalid::new(
            format!("metadata `{}`", name.escape_debug()),
            "its name is of a-z, 0-9 and _, its value of visible ASCII without outer spaces",
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_in_the_order_that_is_signed() {
        assert_eq!(Permissions::INBOX.letters(), "rcl");
        assert_eq!(Permissions::REPLICA.letters(), "rl");
    }

    #[test]
    fn metadata_that_a_header_would_change_is_refused() {
        let one = |name: &str, value: &str| Metadata::from([(name.to_owned(), value.to_owned())]);
        assert!(check_metadata(&one("epoch", "42 or so")).is_ok());
        for (name, value) in [
            ("Epoch", "1"),
            ("a-b", "1"),
            ("1a", "1"),
            ("", "1"),
            ("a", " 1"),
            ("a", "ä"),
            ("a", "x\r\ny"),
        ] {
            assert!(check_metadata(&one(name, value)).is_err(), "{name}={value}");
        }
        assert!(check_metadata(&one("a", &"x".repeat(9000))).is_err());
    }
}
