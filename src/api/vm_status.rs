//! The status of a `ProtectedVM`. Names of states are plain text in the schema, so that an older reader understands an
//! object that a newer controller wrote.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::time::Time;

/// What the controller knows of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedVMStatus {
    /// The generation of the spec that this status answers; -1 before the first.
    #[serde(default)]
    pub observed_generation: i64,
    /// What was observed: Ready says whether the VM is as its spec wants it, the others why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where replication stands, such as InitialReplication or Protected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub state: Option<ReplicationState>,
    /// Normal, Warning or Critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub health: Option<Health>,
    /// Why health is not Normal: each reason's code, what it is, with the numbers. What comes and goes within five minutes
    /// is no reason, unless it waits for a human.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub health_reasons: Vec<String>,
    /// How much of the current copy is done, such as 43%, or its place in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The steps of the current job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
    /// The host that the VM is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The VM's id at the hypervisor.
    #[serde(default, rename = "vmID", skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// The replica's id: its containers in the storage account are named by it.
    #[serde(default, rename = "replicaID", skip_serializing_if = "Option::is_none")]
    pub replica_id: Option<String>,
    /// Each replicated disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskStatus>,
    /// The points in time that the VM can be brought back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_points: Option<RecoveryPointsStatus>,
    /// What is being tried again, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What has to be compared with the replica, and when. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resynchronization: Option<ResynchronizationStatus>,
    /// The side that was last commanded active: OnPremises or Azure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_side: Option<String>,
    /// How many runs that were no tests have been admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// Until when the host's agent can work without the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_expire: Option<Time>,
    /// What can be done now, and why the rest cannot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// The tokens of annotations that were acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled: Option<LastHandled>,
}

/// The states of replication. Those of a newer version read as Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicationState {
    /// Something that it needs is not there yet: the site, the agent.
    Pending,
    /// Prerequisites are checked and the replica is set up.
    EnablingProtection,
    /// Set up, and in the queue for its first copy.
    WaitingForInitialReplication,
    InitialReplication,
    /// Target settings are resolved.
    FinalizingProtection,
    Protected,
    /// Disks have to be compared with their replica, and that waits for its hours or for a word.
    ResynchronizationRequired,
    /// Disks are being compared with their replica.
    Resynchronizing,
    Suspended,
    /// Protection could not be enabled: see `Validated`.
    EnablingFailed,
    Deleting,
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    Normal,
    Warning,
    Critical,
    #[serde(other)]
    Unknown,
}

/// A comparison of disks with their replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResynchronizationStatus {
    /// Why it is needed, in one word for programs such as TrackingLost. Absent while one that was asked for has not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when.
    pub since: Time,
    /// The disks, by their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
    /// Whether it runs.
    pub running: bool,
    /// When the site's window opens next. Absent while it may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_window: Option<Time>,
    /// The token of siterecovery.dev/resynchronize by which it may run at any hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// What the step does.
    pub name: String,
    /// NotStarted, InProgress, Succeeded, Failed.
    #[schemars(with = "String")]
    pub state: TaskState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended, well or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    NotStarted,
    InProgress,
    Succeeded,
    Failed,
    #[serde(other)]
    Unknown,
}

/// A replicated disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// Its place at the VM, such as scsi:0:1.
    pub id: String,
    /// Our id: its page blob is named by it.
    #[serde(rename = "replicaDiskID")]
    pub replica_disk_id: String,
    /// Size, such as 40 GiB.
    pub size: String,
    /// Copying, Applying, Consistent: what the page blob holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// How far the current copy of the disk is. Absent when none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyProgress>,
}

/// How far the copy of a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CopyProgress {
    /// Of the allocated part of the disk.
    pub percent: i32,
    /// Bytes read and compared, such as 12.5 GiB.
    pub done: String,
    /// Bytes to read in all.
    pub total: String,
    /// Bytes that went over the network.
    pub sent: String,
    /// Such as 110 MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Such as 2h 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_left: Option<String>,
    /// What holds it back: Source, Cap, Network, Storage, Slot, Window or Merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
}

/// The points in time that a VM can be brought back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPointsStatus {
    /// How many there are.
    pub count: i32,
    /// The newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<RecoveryPointStatus>,
    /// The newest of those that were taken with the guest quiesced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_application_consistent: Option<RecoveryPointStatus>,
    /// The oldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<RecoveryPointStatus>,
    /// The newest ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newest: Vec<RecoveryPointStatus>,
}

/// A point in time that a VM can be brought back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryPointStatus {
    /// By which it is chosen.
    pub id: String,
    /// The instant that the machine would go back to.
    pub time: Time,
    /// Crash, Application or Final.
    pub consistency: String,
}

/// What is being tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Attempts that failed in a row.
    pub attempts: i32,
    /// What is tried: a step of the controller such as Relate or ReadFence, Replicate (the agent), Apply (the data path).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// When the first of them began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When the next attempt is made. Absent where only a human can help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_retry_time: Option<Time>,
    /// Why the last attempt failed.
    pub last_error: LastError,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// One word for programs. It is part of the API.
    pub code: String,
    /// What happened, to which object.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Whether something can be done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// What can be asked for, such as TestFailover.
    pub action: String,
    /// Whether it would be admitted now.
    pub allowed: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The values of annotations that were acted upon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastHandled {
    /// Of siterecovery.dev/retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<String>,
    /// Of siterecovery.dev/sync-now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_now: Option<String>,
    /// Of siterecovery.dev/resynchronize.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resynchronize: Option<String>,
}
