//! What is sent to Azure to make a resource: just the fields that are used, in Azure's words.
//!
//! Nothing optional is sent empty: absent means that Azure decides.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::azure::id::{ResourceId, ResourceKind};

/// Tags by name.
pub type Tags = BTreeMap<String, String>;

/// The body of a resource of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Body {
    Disk(Disk),
    Snapshot(Snapshot),
    PublicAddress(PublicAddress),
    NetworkInterface(NetworkInterface),
    VirtualMachine(Box<VirtualMachine>),
}

impl Body {
    pub const fn kind(&self) -> ResourceKind {
        match self {
            Body::Disk(_) => ResourceKind::Disk,
            Body::Snapshot(_) => ResourceKind::Snapshot,
            Body::PublicAddress(_) => ResourceKind::PublicAddress,
            Body::NetworkInterface(_) => ResourceKind::NetworkInterface,
            Body::VirtualMachine(_) => ResourceKind::VirtualMachine,
        }
    }

    pub const fn tags(&self) -> &Tags {
        match self {
            Body::Disk(body) => &body.tags,
            Body::Snapshot(body) => &body.tags,
            Body::PublicAddress(body) => &body.tags,
            Body::NetworkInterface(body) => &body.tags,
            Body::VirtualMachine(body) => &body.tags,
        }
    }
}

/// A resource group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    pub location: String,
    pub tags: Tags,
    properties: Nothing,
}

/// An object without anything in it: Azure's schema asks for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Nothing {}

impl Group {
    pub fn new(location: &str, tags: Tags) -> Self {
        Group {
            location: location.to_owned(),
            tags,
            properties: Nothing {},
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sku {
    pub name: String,
}

/// A reference to a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reference {
    pub id: ResourceId,
}

impl From<ResourceId> for Reference {
    fn from(id: ResourceId) -> Self {
        Reference { id }
    }
}

/// A managed disk, imported from a page blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    pub location: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    pub sku: Sku,
    pub tags: Tags,
    pub properties: DiskProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskProperties {
    /// Of the disk that the machine starts from; absent otherwise, like the generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_type: Option<OsType>,
    #[serde(rename = "hyperVGeneration", skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    pub creation_data: DiskCreation,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<DiskEncryption>,
    /// `DenyAll`: nobody gets a signature to its bytes; `AllowAll`: whoever may, by role. A failback reads its snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_access_policy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum OsType {
    Windows,
    Linux,
}

/// The firmware of a machine; Hyper-V and Azure number it alike, and it cannot be changed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Generation {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "createOption")]
pub enum DiskCreation {
    /// From a page blob that holds a fixed VHD, of an account of the same region. Not from a snapshot of it.
    #[serde(rename_all = "camelCase")]
    Import {
        source_uri: String,
        storage_account_id: ResourceId,
    },
    /// From a disk or a disk snapshot.
    #[serde(rename_all = "camelCase")]
    Copy { source_resource_id: ResourceId },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskEncryption {
    #[serde(rename = "diskEncryptionSetId")]
    pub set: ResourceId,
    #[serde(rename = "type")]
    pub type_: &'static str,
}

impl DiskEncryption {
    /// With the customer's key, by this set.
    pub const fn with(set: ResourceId) -> Self {
        DiskEncryption {
            set,
            type_: "EncryptionAtRestWithCustomerKey",
        }
    }
}

/// An incremental snapshot of a managed disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub location: String,
    /// `Standard_LRS`, or `Standard_ZRS` where the region has it.
    pub sku: Sku,
    pub tags: Tags,
    pub properties: SnapshotProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotProperties {
    /// Always: two of one family can be compared, and only what changed is paid for.
    pub incremental: bool,
    pub creation_data: DiskCreation,
}

impl Snapshot {
    /// A snapshot of `disk` as it is now.
    pub fn of(disk: ResourceId, location: &str, tags: Tags) -> Self {
        Snapshot {
            location: location.to_owned(),
            sku: Sku {
                name: "Standard_LRS".to_owned(),
            },
            tags,
            properties: SnapshotProperties {
                incremental: true,
                creation_data: DiskCreation::Copy {
                    source_resource_id: disk,
                },
            },
        }
    }
}

/// A public IPv4 address: standard, static.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicAddress {
    pub location: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    pub sku: PublicAddressSku,
    pub tags: Tags,
    pub properties: PublicAddressProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicAddressSku {
    pub name: &'static str,
    pub tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicAddressProperties {
    #[serde(rename = "publicIPAllocationMethod")]
    pub allocation: &'static str,
    #[serde(rename = "publicIPAddressVersion")]
    pub version: &'static str,
}

impl PublicAddress {
    pub fn new(location: &str, zones: Vec<String>, tags: Tags) -> Self {
        PublicAddress {
            location: location.to_owned(),
            zones,
            sku: PublicAddressSku {
                name: "Standard",
                tier: "Regional",
            },
            tags,
            properties: PublicAddressProperties {
                allocation: "Static",
                version: "IPv4",
            },
        }
    }
}

/// A network adapter of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkInterface {
    pub location: String,
    pub tags: Tags,
    pub properties: InterfaceProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceProperties {
    pub enable_accelerated_networking: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_security_group: Option<Reference>,
    pub ip_configurations: Vec<IpConfiguration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpConfiguration {
    pub name: String,
    pub properties: IpProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpProperties {
    pub primary: bool,
    #[serde(rename = "privateIPAllocationMethod")]
    pub allocation: &'static str,
    /// Of a static allocation.
    #[serde(rename = "privateIPAddress", skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub subnet: Reference,
    #[serde(rename = "publicIPAddress", skip_serializing_if = "Option::is_none")]
    pub public_address: Option<Reference>,
}

impl IpConfiguration {
    /// The one configuration of an adapter: in `subnet`, at `address` or at any that is free.
    pub fn new(subnet: ResourceId, address: Option<String>, public: Option<ResourceId>) -> Self {
        IpConfiguration {
            name: "ipconfig1".to_owned(),
            properties: IpProperties {
                primary: true,
                allocation: match address {
                    Some(_) => "Static",
                    None => "Dynamic",
                },
                address,
                subnet: subnet.into(),
                public_address: public.map(Reference::from),
            },
        }
    }
}

/// A virtual machine of disks and adapters that exist. Without `osProfile`: the guest is what its disk holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualMachine {
    pub location: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    pub tags: Tags,
    pub properties: MachineProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineProperties {
    pub hardware_profile: HardwareProfile,
    pub storage_profile: StorageProfile,
    pub network_profile: NetworkProfile,
    pub diagnostics_profile: DiagnosticsProfile,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_set: Option<Reference>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HardwareProfile {
    pub vm_size: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageProfile {
    pub os_disk: OsDisk,
    pub data_disks: Vec<DataDisk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OsDisk {
    pub os_type: OsType,
    pub create_option: &'static str,
    pub caching: Caching,
    pub delete_option: DeleteOption,
    pub managed_disk: Reference,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DataDisk {
    pub lun: u32,
    pub create_option: &'static str,
    pub caching: Caching,
    pub delete_option: DeleteOption,
    pub managed_disk: Reference,
}

/// Host caching; disks of 4 TiB and more have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Caching {
    None,
    ReadOnly,
    ReadWrite,
}

/// What becomes of it when the machine is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DeleteOption {
    Delete,
    Detach,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkProfile {
    pub network_interfaces: Vec<AttachedInterface>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttachedInterface {
    pub id: ResourceId,
    pub properties: AttachedProperties,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachedProperties {
    pub primary: bool,
    pub delete_option: DeleteOption,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiagnosticsProfile {
    pub boot_diagnostics: BootDiagnostics,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootDiagnostics {
    pub enabled: bool,
}

impl OsDisk {
    pub fn attached(disk: ResourceId, os_type: OsType, caching: Caching) -> Self {
        OsDisk {
            os_type,
            create_option: "Attach",
            caching,
            delete_option: DeleteOption::Detach,
            managed_disk: disk.into(),
        }
    }
}

impl DataDisk {
    pub fn attached(lun: u32, disk: ResourceId, caching: Caching) -> Self {
        DataDisk {
            lun,
            create_option: "Attach",
            caching,
            delete_option: DeleteOption::Detach,
            managed_disk: disk.into(),
        }
    }
}

impl VirtualMachine {
    /// A machine that starts from `os_disk`; its first adapter is the primary one. Disks and adapters outlive it: a run
    /// deletes by name what it has written down.
    pub fn new(
        location: &str,
        size: &str,
        os_disk: OsDisk,
        data_disks: Vec<DataDisk>,
        interfaces: Vec<ResourceId>,
        tags: Tags,
    ) -> Self {
        let attach = |(place, id)| AttachedInterface {
            id,
            properties: AttachedProperties {
                primary: place == 0,
                delete_option: DeleteOption::Detach,
            },
        };
        VirtualMachine {
            location: location.to_owned(),
            zones: Vec::new(),
            tags,
            properties: MachineProperties {
                hardware_profile: HardwareProfile {
                    vm_size: size.to_owned(),
                },
                storage_profile: StorageProfile {
                    os_disk,
                    data_disks,
                },
                network_profile: NetworkProfile {
                    network_interfaces: interfaces.into_iter().enumerate().map(attach).collect(),
                },
                diagnostics_profile: DiagnosticsProfile {
                    boot_diagnostics: BootDiagnostics { enabled: true },
                },
                availability_set: None,
            },
        }
    }
}
