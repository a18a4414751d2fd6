//! Names of things: each its own type, checked once where it enters.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

/// A text that is not the kind of name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: {rule}")]
pub struct Invalid {
    kind: &'static str,
    rule: &'static str,
    text: String,
}

impl Invalid {
    fn new(kind: &'static str, rule: &'static str, text: &str) -> Self {
        Invalid {
            kind,
            rule,
            text: text.chars().take(80).collect(),
        }
    }
}

/// A text newtype: parsed by `$valid`, ordered, hashed, (de)serialized and shown as its text.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok($name(text.to_owned())) } else { Err(Invalid::new($kind, $rule, text)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// 26 characters of base32: 128 random bits that we drew, safe in container and blob names.
fn is_base32(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
}

fn base32(random: u128) -> String {
    BASE32_NOPAD
        .encode(&random.to_be_bytes())
        .to_ascii_lowercase()
}

/// An id of ours: `text_id!` over base32, drawn from 128 random bits.
macro_rules! drawn_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        text_id!($(#[$doc])* $name, $kind, "26 characters of a-z and 2-7", is_base32);

        impl $name {
            /// The id that stands for these random bits.
            pub fn from_random(random: u128) -> Self {
                $name(base32(random))
            }
        }
    };
}

drawn_id!(
    /// One replica of one virtual machine in one storage account, for its whole life.
    ReplicaId,
    "replica id"
);
drawn_id!(
    /// One disk of a replica. Ours, because VM ids and VirtualDiskIds are cloned by templates and change on import.
    DiskId,
    "disk id"
);
drawn_id!(
    /// One unbroken run of seals: from a first copy or a resynchronization to the next.
    ChainId,
    "chain id"
);
drawn_id!(
    /// One recovery point of a replica.
    RecoveryPointId,
    "recovery point id"
);
drawn_id!(
    /// One command of the controller; a repeat carries the same id and gets the recorded answer.
    OperationId,
    "operation id"
);

text_id!(
    /// `Msvm_ComputerSystem.Name`: the GUID by which a hypervisor knows a virtual machine; lower case.
    VmId,
    "VM id",
    "a GUID in lower case",
    |text| uuid::Uuid::parse_str(text).is_ok_and(|id| id.hyphenated().to_string() == text)
);

text_id!(
    /// What the hypervisor calls a frozen point of a VM (on Hyper-V: the recovery checkpoint's InstanceID).
    FrozenPointId,
    "frozen point id",
    "1 to 256 visible ASCII characters",
    |text| (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
);

text_id!(
    /// How the hypervisor tells one disk of a VM from the others, stable over checkpoints and merges.
    ///
    /// On Hyper-V the controller's place: `scsi:0:1`. VirtualDiskIds do not serve: templates clone them.
    DiskSlot,
    "disk slot",
    "`ide:<controller>:<location>` or `scsi:<controller>:<location>`",
    is_slot
);

fn is_slot(text: &str) -> bool {
    let mut parts = text.split(':');
    let bus = parts
        .next()
        .is_some_and(|bus| bus == "ide" || bus == "scsi");
    let mut number = || {
        parts
            .next()
            .is_some_and(|n| n.parse::<u8>().is_ok_and(|v| v.to_string() == n))
    };
    let (controller, location) = (number(), number());
    bus && controller && location && parts.next().is_none()
}

text_id!(
    /// A Hyper-V host as its site names it: a NetBIOS or DNS name, compared without case by being lower case.
    HostName,
    "host name",
    "1 to 253 of a-z, 0-9, `-`, `.` and `_`, starting with a letter or digit",
    |text| {
        (1..=253).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))
    }
);

/// A name that Kubernetes accepts for an object (RFC 1123 subdomain).
fn is_object_name(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=253).contains(&text.len())
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text
            .chars()
            .all(|c| alphanumeric(c) || c == '-' || c == '.')
}

/// A namespaced object: `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName {
    namespace: String,
    name: String,
}

impl ObjectName {
    /// # Errors
    /// If either part is not a name that Kubernetes accepts.
    pub fn new(namespace: &str, name: &str) -> Result<Self, Invalid> {
        if is_object_name(namespace) && is_object_name(name) {
            Ok(ObjectName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(Invalid::new(
                "object name",
                "`namespace/name`",
                &format!("{namespace}/{name}"),
            ))
        }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for ObjectName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| Invalid::new("object name", "`namespace/name`", text))?;
        ObjectName::new(namespace, name)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> String {
        name.to_string()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 128 bits that nobody can guess, for the ids that we draw.
pub fn random() -> u128 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_id_is_26_characters_and_parses_back() {
        for random in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef] {
            let id = ReplicaId::from_random(random);
            assert_eq!(id.as_str().len(), 26);
            assert_eq!(id.as_str().parse::<ReplicaId>().unwrap(), id);
        }
    }

    #[test]
    fn names_that_would_escape_their_place_are_refused() {
        assert!("../../etc/passwd".parse::<HostName>().is_err());
        assert!("a/b/c".parse::<ObjectName>().is_err());
        assert!("Prod/web".parse::<ObjectName>().is_err());
        assert!(
            "6F9619FF-8B86-D011-B42D-00C04FC964FF"
                .parse::<VmId>()
                .is_err()
        );
    }

    #[test]
    fn a_disk_slot_names_bus_controller_and_location_in_one_spelling() {
        assert!("scsi:0:63".parse::<DiskSlot>().is_ok());
        for wrong in [
            "scsi:0",
            "scsi:00:1",
            "nvme:0:0",
            "scsi:0:1:2",
            "scsi:-1:0",
            "ide:0:256",
        ] {
            assert!(wrong.parse::<DiskSlot>().is_err(), "{wrong}");
        }
    }
}
