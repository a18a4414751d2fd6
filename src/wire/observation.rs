//! What an agent observes: its host, and each VM that it replicates.
//!
//! Items carry what they are, never what changed: a lost poll loses nothing. An answer has the items that are newer than
//! the revision that the controller has seen, of this session; everything, if it has seen none of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::Machine;
use crate::ids::{DiskId, ReplicaId, VmId};
use crate::report::Fault;
use crate::retry::Trouble;
use crate::units::{Generation, Sequence};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observations {
    pub session: Uuid,
    /// What to ask after next time.
    pub revision: u64,
    /// The host, if it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostObservation>,
    /// The replications that changed.
    #[serde(default)]
    pub replications: Vec<ReplicationObservation>,
    /// All replications that exist.
    #[serde(default)]
    pub existing: Vec<ReplicaId>,
}

/// The host's machines, replicated or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostObservation {
    pub machines: Vec<Machine>,
    /// Why the machines could not be listed; they are then those of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// A VM that the agent replicates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationObservation {
    pub replica: ReplicaId,
    pub vm: VmId,
    pub generation: Generation,
    pub phase: Phase,
    pub disks: Vec<DiskObservation>,
    /// The last sequence that the agent has sealed or found sealed.
    pub sealed: Sequence,
    pub credentials_expire: Timestamp,
    /// Up to which instant everything is sealed in the inbox, by the host's clock; absent before the first barrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronized: Option<Timestamp>,
    #[serde(default)]
    pub cycles: Cycles,
    /// What has to be compared, or is being compared, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<Resync>,
    /// Why the last point that should have been application-consistent is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesce: Option<Fault>,
    /// What stands in the way now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

/// What barriers came to. The numbers grow; when the engine is started anew they begin at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cycles {
    /// Barriers whose changes are sealed.
    pub completed: u64,
    /// Barriers that were due while an earlier one was on its way, and were not taken.
    pub missed: u64,
    /// Bytes of changes that were captured.
    pub changed: u64,
    /// Milliseconds from the barriers to their seals.
    pub latency: u64,
}

/// A comparison of disks with their replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    pub disks: Vec<DiskId>,
    pub reason: Fault,
    /// Whether it has begun.
    pub running: bool,
}

/// What an engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The relationship exists; replication was not started.
    Created,
    /// Finding out from storage and hypervisor where to go on.
    Resuming,
    /// A frozen point is being taken.
    Freezing,
    /// The frozen point is being copied.
    Copying,
    /// The frozen point was released, and its differencing disks are being merged.
    Merging,
    /// Changes since the last barrier are being captured into logs.
    Capturing,
    /// Logs are on their way.
    Shipping,
    /// Everything is sealed; the next barrier is not due.
    Replicating,
    /// Some disks have to be compared with their replica, and it is not allowed yet.
    ResyncRequired,
    /// Nothing is done until the relationship says otherwise.
    Suspended,
    /// A phase of a newer agent.
    #[serde(other)]
    Unknown,
}

/// How far a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskObservation {
    pub disk: DiskId,
    /// Bytes that the present phase has to look at, and has looked at.
    pub total: u64,
    pub done: u64,
    /// Bytes that went over the network in this copy.
    pub sent: u64,
    /// Bytes per second of `done`, over the last minute.
    pub rate: u64,
    /// Bytes of changes that are captured and not sealed yet.
    #[serde(default)]
    pub pending: u64,
    /// Bytes of changes that were sealed; zero again when the engine is started anew.
    #[serde(default)]
    pub changed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<Limit>,
}

/// What holds a copy back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// The source disk cannot be read faster.
    Source,
    /// The bandwidth cap.
    Cap,
    Network,
    /// The storage service asks to slow down.
    Storage,
    /// Another VM's first copy comes first.
    Slot,
    /// The hour at which first copies start.
    Window,
    /// Differencing disks are being merged.
    Merge,
    #[serde(other)]
    Unknown,
}
