//! Names of containers and blobs, both ways.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{DiskId, ObjectName, ReplicaId};
use crate::units::Sequence;

pub const OWNER: &str = "owner.json";
pub const FENCE: &str = "fence.json";
pub const MANIFEST: &str = "replica.json";
pub const TROUBLE: &str = "trouble.json";

/// What the names of all containers of a site start with: 1 to 20 of `[a-z0-9-]`, each hyphen between two others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

/// A prefix that would make an illegal container name.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{0}` is not a container prefix: 1 to 20 of a-z, 0-9 and single hyphens between them")]
pub struct NotAPrefix(String);

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let words = text.split('-').all(|word| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
        if words && text.len() <= 20 {
            Ok(Prefix(text.to_owned()))
        } else {
            Err(NotAPrefix(text.chars().take(64).collect()))
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = NotAPrefix;

    fn try_from(text: String) -> Result<Self, NotAPrefix> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Prefix {
    /// The container that a replica's agent may create blobs in.
    pub fn inbox(&self, replica: &ReplicaId) -> String {
        format!("{}-i-{replica}", self.0)
    }

    /// The container that a replica's agent may only read.
    pub fn replica(&self, replica: &ReplicaId) -> String {
        format!("{}-r-{replica}", self.0)
    }

    /// The container of a site: named by a hash, because object names are longer than container names may be.
    pub fn site(&self, site: &ObjectName) -> String {
        let hash = blake3::hash(site.to_string().as_bytes());
        let text = BASE32_NOPAD
            .encode(&hash.as_bytes()[..16])
            .to_ascii_lowercase();
        format!("{}-s-{text}", self.0)
    }
}

/// What a container is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Inbox(ReplicaId),
    Replica(ReplicaId),
    /// Whose site it is, its owner says: the name is a hash.
    Site,
}

/// Reads the name of a container; nothing if it is none of ours.
pub fn container(name: &str) -> Option<(Prefix, Place)> {
    let (front, id) = name.rsplit_once('-')?;
    let (prefix, letter) = front.rsplit_once('-')?;
    let (prefix, id) = (prefix.parse().ok()?, id.parse().ok()?);
    let place = match letter {
        "i" => Place::Inbox(id),
        "r" => Place::Replica(id),
        "s" => Place::Site,
        _ => return None,
    };
    Some((prefix, place))
}

/// In a site's container: where all records are.
pub const RECORDS: &str = "vms/";

/// In a site's container: which replica an object has.
pub fn record(object: &ObjectName) -> String {
    format!("vms/{}/{}.json", object.namespace(), object.name())
}

/// In a site's container: what a run imports of a disk.
pub fn import(run: &ObjectName, disk: &DiskId) -> String {
    format!("imports/{}/{}/{disk}.vhd", run.namespace(), run.name())
}

/// In a replica container: where all disks are.
pub const DISKS: &str = "disks/";

/// In a replica container: the page blob of a disk.
pub fn disk(disk: &DiskId) -> String {
    format!("disks/{disk}.vhd")
}

/// In a replica container: the chunk table of what the sequences `from..=to` changed on a disk. `salt` keeps two
/// attempts apart, for tables are never overwritten.
pub fn table(disk: &DiskId, from: Sequence, to: Sequence, salt: u32) -> String {
    format!("tables/{disk}/{from}-{to}-{salt:08x}.chunks")
}

/// In an inbox: a log.
pub fn log(sequence: Sequence, log: &Uuid) -> String {
    format!("{sequence}/{}.hrl", log.hyphenated())
}

/// In an inbox: the commit mark of a sequence.
pub fn seal(sequence: Sequence) -> String {
    format!("{sequence}/sealed.json")
}

/// What a blob of an inbox is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxBlob {
    Log(Sequence, Uuid),
    Seal(Sequence),
    /// Nothing that an agent of ours would write.
    Foreign,
}

/// Reads the name of a blob of an inbox.
pub fn inbox_blob(name: &str) -> InboxBlob {
    let Some((folder, file)) = name.split_once('/') else {
        return InboxBlob::Foreign;
    };
    let Ok(sequence) = folder.parse() else {
        return InboxBlob::Foreign;
    };
    if file == "sealed.json" {
        return InboxBlob::Seal(sequence);
    }
    match file.strip_suffix(".hrl").map(Uuid::parse_str) {
        Some(Ok(id)) if name == log(sequence, &id) => InboxBlob::Log(sequence, id),
        Some(_) | None => InboxBlob::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_names_are_legal_for_the_longest_prefix_and_object() {
        let prefix: Prefix = "a1234567890123456789".parse().unwrap();
        let replica = ReplicaId::from_random(u128::MAX);
        let site = ObjectName::new(&"n".repeat(63), &"s".repeat(253)).unwrap();
        for name in [
            prefix.inbox(&replica),
            prefix.replica(&replica),
            prefix.site(&site),
        ] {
            assert!((3..=63).contains(&name.len()), "{name}");
            assert!(!name.contains("--"), "{name}");
        }
    }

    #[test]
    fn a_container_name_reads_back() {
        let prefix: Prefix = "a-s-b".parse().unwrap();
        let replica = ReplicaId::from_random(7);
        let site = ObjectName::new("dr", "berlin").unwrap();
        let read = |name: String| container(&name).map(|(_, place)| place);
        assert_eq!(
            container(&prefix.inbox(&replica)),
            Some((prefix.clone(), Place::Inbox(replica.clone())))
        );
        assert_eq!(
            read(prefix.replica(&replica)),
            Some(Place::Replica(replica))
        );
        assert_eq!(read(prefix.site(&site)), Some(Place::Site));
        for foreign in [
            "logs",
            "sr-r-short",
            "$web",
            "sr-x-aaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            assert_eq!(container(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn prefixes_that_would_make_illegal_names_are_refused() {
        for wrong in ["", "-a", "a-", "a--b", "A", "a_b", "a12345678901234567890"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_inbox_name_reads_back_in_one_spelling_only() {
        let id = Uuid::from_u128(5);
        let sequence = Sequence::new(0x1f);
        assert_eq!(
            inbox_blob(&log(sequence, &id)),
            InboxBlob::Log(sequence, id)
        );
        assert_eq!(inbox_blob(&seal(sequence)), InboxBlob::Seal(sequence));
        let upper = log(sequence, &id).replace("1f/", "1F/");
        let braced = format!("{sequence}/{{{id}}}.hrl");
        for foreign in [
            upper.as_str(),
            braced.as_str(),
            "sealed.json",
            "x/y/sealed.json",
            "",
        ] {
            assert_eq!(inbox_blob(foreign), InboxBlob::Foreign, "{foreign}");
        }
    }
}
