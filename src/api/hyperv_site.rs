//! `HyperVSite`: the hosts of one place, and the Azure target that protects them.

#![expect(
    clippy::duplicated_attributes,
    reason = "printer columns repeat their keys"
)]
#![expect(
    unreachable_pub,
    reason = "the derive of KubeSchema repeats each type inside of a function"
)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::policy::ReplicationPolicy;
use super::quantity::{BANDWIDTH_PATTERN, TIME_OF_DAY_PATTERN};
use super::time::Time;

/// A Hyper-V site: the hosts (not managed by System Center VMM) whose virtual machines are replicated to one Azure
/// target.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "siterecovery.dev",
    version = "v1alpha1",
    kind = "HyperVSite",
    plural = "hypervsites",
    shortname = "hvsite",
    category = "siterecovery",
    namespaced,
    derive = "PartialEq",
    status = "HyperVSiteStatus",
    doc = "A Hyper-V site: the hosts whose virtual machines are replicated to one Azure target.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Hosts", type_ = "string", json_path = ".status.hostsConnected"),
    printcolumn(
        name = "VMs",
        type_ = "string",
        json_path = ".status.virtualMachinesProtected"
    ),
    printcolumn(
        name = "Critical",
        type_ = "integer",
        json_path = ".status.virtualMachines.critical"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Account",
        type_ = "string",
        priority = 1,
        json_path = ".spec.azure.storage.account"
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
pub struct HyperVSiteSpec {
    /// The hosts of the site, standalone or nodes of a failover cluster. Each runs an agent.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"]))]
    pub hosts: Vec<SiteHost>,
    /// Where the site is replicated to.
    pub azure: AzureTarget,
    /// How the VMs of the site are replicated, unless a VM says otherwise.
    #[serde(default)]
    pub replication_policy: ReplicationPolicy,
    /// When replicas that fell behind are compared with their source.
    #[serde(default)]
    pub resynchronization: Resynchronization,
    /// How much of the uplink replication may use. Absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Pauses replication of all VMs of the site. It never blocks a failover.
    #[serde(default)]
    pub suspend: bool,
}

/// A host of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteHost {
    /// The host's name in lower case, as its agent's certificate has it.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9][a-z0-9._-]*$"))]
    pub name: String,
    /// The failover cluster that the host is a node of. VMs move freely between hosts of one cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster: Option<String>,
    /// Whether somebody works on the host: replication of its VMs holds, nothing of it is alarming, and it goes on when
    /// this is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
}

/// The Azure side of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.location == oldSelf.location").message("azure.location cannot be changed: replicas live in it; create another HyperVSite"),
    validation = Rule::new("!has(oldSelf.tenantID) || (has(self.tenantID) && self.tenantID == oldSelf.tenantID)").message("azure.tenantID cannot be changed once set; create another HyperVSite"),
    validation = Rule::new("!has(oldSelf.subscriptionID) || (has(self.subscriptionID) && self.subscriptionID == oldSelf.subscriptionID)").message("azure.subscriptionID cannot be changed once set; create another HyperVSite"),
)]
pub struct AzureTarget {
    /// Which Azure: Public, USGovernment or China.
    #[serde(default)]
    pub cloud: Cloud,
    /// The Entra tenant. Needed for every credential but an account key, and for failover.
    #[serde(default, rename = "tenantID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub tenant_id: Option<String>,
    /// The subscription that VMs are failed over into.
    #[serde(
        default,
        rename = "subscriptionID",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub subscription_id: Option<String>,
    /// The resource group that VMs are failed over into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 90))]
    pub resource_group: Option<String>,
    /// The region, such as westeurope. The storage account and the network must be in it.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z0-9]+$"))]
    pub location: String,
    /// By which right the controller uses the storage account and Azure.
    pub credentials: Credentials,
    /// The storage account that holds the replicas.
    pub storage: Storage,
    /// The network that VMs are failed over into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The isolated network that tests are run in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_network: Option<Network>,
}

const GUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Cloud {
    #[default]
    Public,
    USGovernment,
    China,
}

/// By which right the controller acts. Secrets are read by name, from the site's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type in ['AccountKey', 'ClientSecret'] == has(self.secretRef)").message("credentials of type AccountKey and ClientSecret need secretRef, the others must not have one"),
    validation = Rule::new("self.type != 'ClientSecret' || has(self.clientID)").message("credentials of type ClientSecret need clientID"),
)]
pub struct Credentials {
    /// WorkloadIdentity or ManagedIdentity (of the controller's pod; only from namespaces that the chart allows),
    /// ClientSecret (key `clientSecret` of the Secret) or AccountKey (key `accountKey`).
    #[serde(rename = "type")]
    pub type_: CredentialType,
    /// The Secret that holds the client secret or the account key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectRef>,
    /// The client id of the application or of a user-assigned identity.
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = GUID))]
    pub client_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CredentialType {
    WorkloadIdentity,
    ManagedIdentity,
    ClientSecret,
    AccountKey,
}

/// An object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct ObjectRef {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The storage account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.account == oldSelf.account").message("azure.storage.account cannot be changed: the replicas are in it; create another HyperVSite"),
    validation = Rule::new("self.containerPrefix == oldSelf.containerPrefix").message("azure.storage.containerPrefix cannot be changed: the replicas are named by it; create another HyperVSite"),
)]
pub struct Storage {
    /// The account's name: standard, general-purpose v2, without hierarchical namespace, in the site's region.
    #[schemars(length(min = 3, max = 24), regex(pattern = "^[a-z0-9]+$"))]
    pub account: String,
    /// The blob endpoint, where it is not the cloud's own, such as a private endpoint's. HTTPS, except on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = "^https?://[^ ?#]+[^/ ?#]$"))]
    pub endpoint: Option<String>,
    /// What the names of all containers start with.
    #[serde(default = "default_prefix")]
    #[schemars(length(min = 1, max = 20), regex(pattern = "^[a-z0-9]+(-[a-z0-9]+)*$"))]
    pub container_prefix: String,
}

fn default_prefix() -> String {
    "sr".to_owned()
}

/// A virtual network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The full resource id of the virtual network.
    #[serde(rename = "virtualNetworkID")]
    #[schemars(length(min = 1, max = 512))]
    pub virtual_network_id: String,
    /// The subnet of adapters that do not name another.
    #[schemars(length(min = 1, max = 80))]
    pub subnet: String,
}

/// When replicas that fell behind are compared with their source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resynchronization {
    /// Whether a VM that needs it is resynchronized in the window without being asked.
    #[serde(default = "yes")]
    pub automatic: bool,
    /// The hours in which it may run.
    #[serde(default)]
    pub window: Window,
}

/// Hours of every day; an end before the start is of the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Such as 18:30.
    #[serde(default = "half_past_six")]
    #[schemars(regex(pattern = TIME_OF_DAY_PATTERN))]
    pub start: String,
    /// Such as 06:00.
    #[serde(default = "six")]
    #[schemars(regex(pattern = TIME_OF_DAY_PATTERN))]
    pub end: String,
    /// The IANA time zone of both, such as Europe/Berlin.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

/// How much of the uplink replication may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// The most that one host sends, such as 100Mbit (per second). Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = BANDWIDTH_PATTERN))]
    pub per_host: Option<String>,
    /// Other limits at certain hours; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub schedule: Vec<BandwidthHours>,
}

/// A limit at certain hours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthHours {
    /// Days of the week, such as Mon. Absent: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
    /// The hours of the limit.
    pub hours: Window,
    /// The most that one host sends in these hours, such as 20Mbit.
    #[schemars(length(max = 16), regex(pattern = BANDWIDTH_PATTERN))]
    pub per_host: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// What the controller knows of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HyperVSiteStatus {
    /// The generation of the spec that this status answers; -1 before the first.
    #[serde(default)]
    pub observed_generation: i64,
    /// What was observed: Ready says whether the site is usable, the others why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Connected hosts of all, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts_connected: Option<String>,
    /// Each host as its agent last described it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostStatus>,
    /// Protected VMs of all ProtectedVMs of the site, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machines_protected: Option<String>,
    /// The site's ProtectedVMs, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machines: Option<VirtualMachineCounts>,
    /// Agents that were turned away, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_agents: Vec<RefusedAgent>,
    /// What stands between a mistake and many replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_breaker: Option<DeletionBreaker>,
}

/// The breaker of deletions: once tripped, replicas are kept whatever deletionPolicy says, until it is armed again with
/// the annotation siterecovery.dev/allow-deletions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletionBreaker {
    /// When it tripped. Absent: it has not, or is armed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tripped: Option<Time>,
    /// When it was armed again: deletions from before do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub armed: Option<Time>,
    /// The token of siterecovery.dev/allow-deletions that was acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled: Option<String>,
}

/// A host as its agent last described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// The host's name.
    pub name: String,
    /// Whether its agent is connected to the controller.
    pub connected: bool,
    /// When the connection was made or lost.
    pub since: Time,
    /// The version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Virtual machines on the host, protected or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_machines: Option<i32>,
    /// Volumes that hold virtual disks; free space is rounded, so that it stays quiet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeStatus>,
}

/// A volume that holds virtual disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// The volume's name at the host.
    pub name: String,
    /// Free space in percent, in steps of 5.
    pub free_percent: i32,
}

/// ProtectedVMs, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineCounts {
    /// ProtectedVMs of the site.
    pub total: i32,
    /// Those that are Protected.
    pub protected: i32,
    /// Those whose health is Warning.
    pub warning: i32,
    /// Those whose health is Critical: they say why, and whether a human must act.
    pub critical: i32,
}

/// An agent that was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedAgent {
    /// The host that it said it was.
    pub host: String,
    /// Why it was turned away.
    pub reason: String,
    /// When it was turned away first.
    pub since: Time,
}

impl Default for Resynchronization {
    fn default() -> Self {
        Resynchronization {
            automatic: true,
            window: Window::default(),
        }
    }
}

impl Default for Window {
    fn default() -> Self {
        Window {
            start: half_past_six(),
            end: six(),
            time_zone: utc(),
        }
    }
}

fn yes() -> bool {
    true
}

fn half_past_six() -> String {
    "18:30".to_owned()
}

fn six() -> String {
    "06:00".to_owned()
}

fn utc() -> String {
    "UTC".to_owned()
}
