//! `ProtectedVM`: one virtual machine that shall survive its site.

#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns repeat their keys"
)]
#![expect(
    unreachable_pub,
    reason = "the derive of KubeSchema repeats each type inside of a function"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hyperv_site::ObjectRef;
use super::policy::PolicyOverride;
use super::vm_status::ProtectedVMStatus;

/// A virtual machine whose disks are replicated to the site's storage account.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "siterecovery.dev",
    version = "v1alpha1",
    kind = "ProtectedVM",
    plural = "protectedvms",
    shortname = "pvm",
    category = "siterecovery",
    namespaced,
    derive = "PartialEq",
    status = "ProtectedVMStatus",
    doc = "A virtual machine whose disks are replicated to the site's storage account.",
    selectable = ".spec.siteRef.name",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.health"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.activeSide"),
    printcolumn(
        name = "RPO",
        type_ = "date",
        json_path = ".status.recoveryPoints.latest.time",
        description = "Age of the newest recovery point"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Host",
        type_ = "string",
        priority = 1,
        json_path = ".status.host"
    ),
    printcolumn(
        name = "Points",
        type_ = "integer",
        priority = 1,
        json_path = ".status.recoveryPoints.count"
    ),
    printcolumn(
        name = "Next-Retry",
        type_ = "string",
        priority = 1,
        json_path = ".status.retry.nextRetryTime"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.siteRef.name == oldSelf.siteRef.name").message("siteRef cannot be changed: the replica is in that site's storage; create another ProtectedVM"),
)]
pub struct ProtectedVMSpec {
    /// The HyperVSite that the VM belongs to, in the same namespace.
    pub site_ref: ObjectRef,
    /// Which virtual machine: exactly one of name and id.
    pub vm: VmSelector,
    /// Which disks are replicated.
    #[serde(default)]
    pub disks: DiskSelection,
    /// What this VM does otherwise than its site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_policy: Option<PolicyOverride>,
    /// The machine that it becomes in Azure. What is absent is derived from the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Pauses replication. The pause costs a longer catching up, or a resynchronization; it never blocks a failover.
    #[serde(default)]
    pub suspend: bool,
    /// What happens in Azure when this object is deleted: Retain keeps everything, DeleteReplica removes the replica.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// A virtual machine of the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) != has(self.id)").message("vm needs exactly one of name and id"))]
pub struct VmSelector {
    /// The name that Hyper-V Manager shows. If two VMs of the site have it, use id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub name: Option<String>,
    /// The VM's GUID in lower case (Get-VM | select Id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 36),
        regex(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
    )]
    pub id: Option<String>,
}

/// Which disks are replicated: all but those that are excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskSelection {
    /// Disks that are not replicated, by their place: scsi:0:2 is location 2 of SCSI controller 0. Not the boot disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 16), regex(pattern = "^(ide|scsi):[0-9]{1,3}:[0-9]{1,3}$")),
        extend("x-kubernetes-list-type" = "set"))]
    pub exclude: Vec<String>,
}

/// What happens in Azure when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    DeleteReplica,
}

/// The machine in Azure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The name of the Azure VM. Absent: the source's, as far as Azure allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$")
    )]
    pub vm_name: Option<String>,
    /// The size, such as Standard_D4s_v5. Absent: the smallest that fits the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub size: Option<String>,
    /// The resource group. Absent: the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 90))]
    pub resource_group: Option<String>,
    /// The availability zone: 1, 2 or 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[1-3]$"))]
    pub availability_zone: Option<String>,
    /// The disk encryption set of the managed disks.
    #[serde(
        default,
        rename = "diskEncryptionSetID",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 512))]
    pub disk_encryption_set_id: Option<String>,
    /// Tags of everything that is created.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 40))]
    pub tags: BTreeMap<String, String>,
    /// How the source's network adapters appear in Azure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["source"]))]
    pub network_interfaces: Vec<TargetNetworkInterface>,
    /// The kind of managed disk, by disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub disks: Vec<TargetDisk>,
}

/// A network adapter of the source, as it appears in Azure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetNetworkInterface {
    /// The source's adapter, by name.
    #[schemars(length(min = 1, max = 100))]
    pub source: String,
    /// The subnet. Absent: the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 80))]
    pub subnet: Option<String>,
    /// A static private address. Absent: the next that is free.
    #[serde(default, rename = "privateIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub private_ip: Option<String>,
    /// Whether it gets a public address.
    #[serde(default, rename = "publicIP")]
    pub public_ip: bool,
    /// The network security group.
    #[serde(
        default,
        rename = "networkSecurityGroupID",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(min = 1, max = 512))]
    pub network_security_group_id: Option<String>,
    /// Whether it is the primary adapter. Absent everywhere: the first is.
    #[serde(default)]
    pub primary: bool,
    /// What is different in a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestNetworkInterface>,
}

/// A network adapter in a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestNetworkInterface {
    /// The subnet of the test network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 80))]
    pub subnet: Option<String>,
    /// A static private address in it.
    #[serde(default, rename = "privateIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub private_ip: Option<String>,
}

/// A disk of the source, as it becomes in Azure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetDisk {
    /// The source's disk, by its place, such as scsi:0:1.
    #[schemars(
        length(max = 16),
        regex(pattern = "^(ide|scsi):[0-9]{1,3}:[0-9]{1,3}$")
    )]
    pub id: String,
    /// The kind of managed disk.
    #[serde(rename = "type")]
    pub type_: DiskType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DiskType {
    #[serde(rename = "Standard_LRS")]
    StandardLrs,
    #[serde(rename = "StandardSSD_LRS")]
    StandardSsdLrs,
    #[serde(rename = "StandardSSD_ZRS")]
    StandardSsdZrs,
    #[serde(rename = "Premium_LRS")]
    PremiumLrs,
    #[serde(rename = "Premium_ZRS")]
    PremiumZrs,
}
