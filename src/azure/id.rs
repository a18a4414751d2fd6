//! What resources are called: `/subscriptions/S/resourceGroups/G/providers/NAMESPACE/TYPE/NAME`.
//!
//! Azure does not tell upper from lower case in any part of it, and writes it back in whatever case it likes. So two ids
//! are equal if their letters are.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest part of a name that Azure gives to anything.
const PART_MAX: usize = 90;

/// The types that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    Disk,
    Snapshot,
    VirtualMachine,
    AvailabilitySet,
    DiskEncryptionSet,
    NetworkInterface,
    PublicAddress,
    SecurityGroup,
    VirtualNetwork,
    /// Its name is that of its network and its own.
    Subnet,
    StorageAccount,
}

impl ResourceKind {
    const ALL: [ResourceKind; 11] = [
        ResourceKind::Disk,
        ResourceKind::Snapshot,
        ResourceKind::VirtualMachine,
        ResourceKind::AvailabilitySet,
        ResourceKind::DiskEncryptionSet,
        ResourceKind::NetworkInterface,
        ResourceKind::PublicAddress,
        ResourceKind::SecurityGroup,
        ResourceKind::VirtualNetwork,
        ResourceKind::Subnet,
        ResourceKind::StorageAccount,
    ];

    pub const fn namespace(self) -> &'static str {
        match self {
            ResourceKind::Disk
            | ResourceKind::Snapshot
            | ResourceKind::VirtualMachine
            | ResourceKind::AvailabilitySet
            | ResourceKind::DiskEncryptionSet => "Microsoft.Compute",
            ResourceKind::NetworkInterface
            | ResourceKind::PublicAddress
            | ResourceKind::SecurityGroup
            | ResourceKind::VirtualNetwork
            | ResourceKind::Subnet => "Microsoft.Network",
            ResourceKind::StorageAccount => "Microsoft.Storage",
        }
    }

    /// The type, and of a child the type within its parent.
    const fn types(self) -> (&'static str, Option<&'static str>) {
        match self {
            ResourceKind::Disk => ("disks", None),
            ResourceKind::Snapshot => ("snapshots", None),
            ResourceKind::VirtualMachine => ("virtualMachines", None),
            ResourceKind::AvailabilitySet => ("availabilitySets", None),
            ResourceKind::DiskEncryptionSet => ("diskEncryptionSets", None),
            ResourceKind::NetworkInterface => ("networkInterfaces", None),
            ResourceKind::PublicAddress => ("publicIPAddresses", None),
            ResourceKind::SecurityGroup => ("networkSecurityGroups", None),
            ResourceKind::VirtualNetwork => ("virtualNetworks", None),
            ResourceKind::Subnet => ("virtualNetworks", Some("subnets")),
            ResourceKind::StorageAccount => ("storageAccounts", None),
        }
    }

    /// `Microsoft.Compute/disks`, `Microsoft.Network/virtualNetworks/subnets`.
    pub fn type_name(self) -> String {
        match self.types() {
            (parent, None) => format!("{}/{parent}", self.namespace()),
            (parent, Some(child)) => format!("{}/{parent}/{child}", self.namespace()),
        }
    }

    /// The version of its interface that every request asks for.
    pub const fn api_version(self) -> &'static str {
        match self {
            ResourceKind::Disk | ResourceKind::Snapshot | ResourceKind::DiskEncryptionSet => {
                "2024-03-02"
            }
            ResourceKind::VirtualMachine | ResourceKind::AvailabilitySet => "2024-07-01",
            ResourceKind::NetworkInterface
            | ResourceKind::PublicAddress
            | ResourceKind::SecurityGroup
            | ResourceKind::VirtualNetwork
            | ResourceKind::Subnet => "2024-05-01",
            ResourceKind::StorageAccount => "2023-05-01",
        }
    }

    /// As people call it.
    pub const fn word(self) -> &'static str {
        match self {
            ResourceKind::Disk => "managed disk",
            ResourceKind::Snapshot => "disk snapshot",
            ResourceKind::VirtualMachine => "virtual machine",
            ResourceKind::AvailabilitySet => "availability set",
            ResourceKind::DiskEncryptionSet => "disk encryption set",
            ResourceKind::NetworkInterface => "network interface",
            ResourceKind::PublicAddress => "public address",
            ResourceKind::SecurityGroup => "network security group",
            ResourceKind::VirtualNetwork => "virtual network",
            ResourceKind::Subnet => "subnet",
            ResourceKind::StorageAccount => "storage account",
        }
    }
}

/// A text that is no id, or no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the id of an Azure resource: {rule}")]
pub struct NotAnId {
    text: String,
    rule: &'static str,
}

impl NotAnId {
    fn new(text: &str, rule: &'static str) -> Self {
        NotAnId {
            text: text.chars().take(200).collect(),
            rule,
        }
    }
}

/// A resource group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupId {
    subscription: String,
    group: String,
}

impl GroupId {
    /// # Errors
    /// If one of them cannot stand in a path.
    pub fn new(subscription: &str, group: &str) -> Result<Self, NotAnId> {
        check_part(subscription, subscription)?;
        check_part(group, group)?;
        Ok(GroupId {
            subscription: subscription.to_owned(),
            group: group.to_owned(),
        })
    }

    pub fn subscription(&self) -> &str {
        &self.subscription
    }

    pub fn name(&self) -> &str {
        &self.group
    }

    /// A resource of this group.
    ///
    /// # Errors
    /// If the name cannot stand in a path.
    pub fn resource(&self, kind: ResourceKind, name: &str) -> Result<ResourceId, NotAnId> {
        check_part(name, name)?;
        let child = kind.types().1.is_some();
        if child {
            return Err(NotAnId::new(name, "it is a part of another resource"));
        }
        Ok(ResourceId {
            group: self.clone(),
            kind,
            name: name.to_owned(),
            child: None,
        })
    }
}

impl PartialEq for GroupId {
    fn eq(&self, other: &Self) -> bool {
        self.to_string().eq_ignore_ascii_case(&other.to_string())
    }
}

impl Eq for GroupId {}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GroupId {
            subscription,
            group,
        } = self;
        write!(f, "/subscriptions/{subscription}/resourceGroups/{group}")
    }
}

/// A resource of a type that is used here. (De)serialized as its text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceId {
    group: GroupId,
    kind: ResourceKind,
    name: String,
    child: Option<String>,
}

impl ResourceId {
    pub const fn kind(&self) -> ResourceKind {
        self.kind
    }

    pub const fn group(&self) -> &GroupId {
        &self.group
    }

    /// Its own name; of a subnet, the subnet's.
    pub fn name(&self) -> &str {
        self.child.as_deref().unwrap_or(&self.name)
    }

    /// A subnet of this virtual network.
    ///
    /// # Errors
    /// If this is no virtual network, or the name cannot stand in a path.
    pub fn subnet(&self, name: &str) -> Result<ResourceId, NotAnId> {
        check_part(name, name)?;
        if self.kind != ResourceKind::VirtualNetwork {
            return Err(NotAnId::new(
                &self.to_string(),
                "it is no virtual network, so it has no subnets",
            ));
        }
        Ok(ResourceId {
            kind: ResourceKind::Subnet,
            child: Some(name.to_owned()),
            ..self.clone()
        })
    }

    /// An id that must be of this type.
    ///
    /// # Errors
    /// If it is no id, or one of another type.
    pub fn of_kind(text: &str, kind: ResourceKind) -> Result<Self, NotAnId> {
        let id: ResourceId = text.parse()?;
        match id.kind == kind {
            true => Ok(id),
            false => Err(NotAnId::new(text, "it is of another type")),
        }
    }

    fn key(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }
}

impl FromStr for ResourceId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parts: Vec<&str> = text.split('/').collect();
        let fixed = |at: usize, word: &str| {
            parts
                .get(at)
                .is_some_and(|part| part.eq_ignore_ascii_case(word))
        };
        let shaped = matches!(parts.len(), 9 | 11)
            && parts.first() == Some(&"")
            && fixed(1, "subscriptions")
            && fixed(3, "resourceGroups")
            && fixed(5, "providers");
        if !shaped {
            return Err(NotAnId::new(
                text,
                "it is not /subscriptions/…/resourceGroups/…/providers/…/…/…",
            ));
        }
        for part in &parts[1..] {
            check_part(part, text)?;
        }
        let child = parts.get(9).copied();
        let kind = ResourceKind::ALL.into_iter().find(|kind| {
            let (parent, own) = kind.types();
            fixed(6, kind.namespace())
                && fixed(7, parent)
                && own.is_some() == child.is_some()
                && own.is_none_or(|own| fixed(9, own))
        });
        Ok(ResourceId {
            group: GroupId::new(parts[2], parts[4])?,
            kind: kind.ok_or_else(|| NotAnId::new(text, "its type is not used here"))?,
            name: parts[8].to_owned(),
            child: parts.get(10).map(|name| (*name).to_owned()),
        })
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parent, child) = self.kind.types();
        let namespace = self.kind.namespace();
        write!(
            f,
            "{}/providers/{namespace}/{parent}/{}",
            self.group, self.name
        )?;
        match (child, &self.child) {
            (Some(type_), Some(name)) => write!(f, "/{type_}/{name}"),
            (None, _) | (_, None) => Ok(()),
        }
    }
}

impl fmt::Debug for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for ResourceId {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ResourceId {}

impl Hash for ResourceId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl TryFrom<String> for ResourceId {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl From<ResourceId> for String {
    fn from(id: ResourceId) -> String {
        id.to_string()
    }
}

/// Whether a part may stand in a path as it is: nothing that would have to be encoded, or would leave its place.
pub(crate) fn check_part(part: &str, text: &str) -> Result<(), NotAnId> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.()".contains(&b);
    if part.is_empty() || part.len() > PART_MAX {
        return Err(NotAnId::new(text, "a part has 1 to 90 characters"));
    }
    if part.bytes().all(|b| b == b'.') || !part.bytes().all(known) {
        return Err(NotAnId::new(
            text,
            "a part is letters, digits, hyphens, underscores, dots and parentheses",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_back_as_it_is_written() {
        let group = GroupId::new("0000", "g-1").unwrap();
        for kind in ResourceKind::ALL {
            let id = match kind {
                ResourceKind::Subnet => group
                    .resource(ResourceKind::VirtualNetwork, "v")
                    .and_then(|network| network.subnet("n1")),
                kind => group.resource(kind, "n1"),
            };
            let id = id.unwrap();
            assert_eq!(
                (id.to_string().parse().as_ref(), id.name()),
                (Ok(&id), "n1")
            );
        }
    }

    #[test]
    fn ids_differ_by_letters_and_not_by_case() {
        let id = |text: &str| text.parse::<ResourceId>().unwrap();
        let one = id("/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/disks/D1");
        let other = id("/Subscriptions/s/resourcegroups/g/providers/microsoft.compute/Disks/d1");
        let third = id("/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/disks/D2");
        assert_eq!(one, other);
        assert_ne!(one, third);
    }

    #[test]
    fn what_would_leave_its_place_in_a_path_is_no_id() {
        for text in [
            "",
            "disks/d1",
            "/subscriptions/s/resourceGroups/g",
            "/subscriptions/s/resourceGroups/../providers/Microsoft.Compute/disks/d",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/a%2Fb",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/a?x=1",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Other/things/d",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/other/d",
        ] {
            assert!(text.parse::<ResourceId>().is_err(), "{text}");
        }
    }
}
