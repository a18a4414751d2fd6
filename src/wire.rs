//! What controller and agent say to each other. Data only; its JSON is frozen by golden files.
//!
//! The agent opens the connection and serves; the controller asks. HTTP/2, JSON, one connection per host:
//!
//! | request | body → answer | |
//! |---|---|---|
//! | `POST /v1/hello` | [`Hello`] → [`HelloReply`] | first on every connection: versions, leadership |
//! | `GET /v1/observations?session=&after=` | → [`Observations`] | a long poll, at most [`POLL`] |
//! | `PUT /v1/settings` | [`HostCommand`]`<`[`Settings`]`>` → [`Answer`] | what holds for the whole host |
//! | `PUT /v1/replications/{replica}` | [`Command`]`<`[`Relationship`]`>` → [`Answer`] | CreateReplicationRelationship |
//! | `POST /v1/replications/{replica}/start` | [`Command`]`<`[`Start`]`>` → [`Answer`] | StartReplication |
//! | `POST /v1/replications/{replica}/synchronize` | [`Command`]`<`[`Synchronize`]`>` → [`Answer`] | a barrier now |
//! | `POST /v1/replications/{replica}/resynchronize` | [`Command`]`<`[`Resynchronize`]`>` → [`Answer`] | compare all disks |
//! | `POST /v1/replications/{replica}/remove` | [`Command`]`<`[`Remove`]`>` → [`Answer`] | RemoveReplicationRelationship |
//!
//! A failed request answers with a [`Fault`] as its body and a status by [`status_of`]. Both sides ignore fields that they do
//! not know, and a field is only ever added; what cannot be said so raises the version. A side speaks its own version
//! and the one before.

pub mod observation;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{DiskId, DiskSlot, HostName, ObjectName, OperationId, ReplicaId, VmId};
use crate::report::{Code, Fault};
use crate::secret::SasToken;
use crate::units::Generation;

pub use observation::{Observations, ReplicationObservation};

/// The newest version that this side speaks.
pub const VERSION: u32 = 1;
/// The oldest.
pub const OLDEST: u32 = 1;
/// How long an agent holds a poll when it has nothing new.
pub const POLL: Duration = Duration::from_secs(25);
/// The longest body of a request; a relationship of 260 disks is a tenth of it.
pub const REQUEST_MAX: usize = 1 << 20;
/// The longest body of an answer: the inventory of a thousand VMs with tens of disks each.
pub const ANSWER_MAX: usize = 64 << 20;

/// A range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub oldest: u32,
    pub newest: u32,
}

impl Versions {
    /// What this side speaks.
    pub const OURS: Versions = Versions {
        oldest: OLDEST,
        newest: VERSION,
    };

    /// The newest version that both sides speak.
    pub fn common(self, other: Versions) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// What the controller says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    pub versions: Versions,
    /// The controller's release.
    pub release: String,
    /// Whether this replica of the controller acts. If not, the agent tries again elsewhere.
    pub leader: bool,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloReply {
    /// The version that both will speak.
    pub version: u32,
    /// The agent's release.
    pub release: String,
    pub host: HostName,
    /// Drawn at the agent's start: observations of another session are void.
    pub session: Uuid,
}

/// A command: what to do, for whom, as which operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command<T> {
    /// The VM's generation, as its fence says; a lower one than was seen is refused.
    pub generation: Generation,
    /// The same operation again gets the recorded answer.
    pub operation: OperationId,
    /// The recovery run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    pub body: T,
}

/// A command to the host as a whole.
///
/// It has no generation, because a generation is a VM's: there is no fence of a host in storage that a lower one could be
/// told by. So it must carry only what does no harm when a controller that is not leader any more says it late: a wish
/// that the leader tells again to each session of the agent, nothing that starts, ends or moves a replication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostCommand<T> {
    /// The same operation again comes to the same end.
    pub operation: OperationId,
    pub body: T,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub operation: OperationId,
    /// Whether the answer was recorded before this request.
    #[serde(default)]
    pub repeated: bool,
}

/// What holds for a whole host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Bytes per second of all replication of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
}

/// That a VM is replicated, and how. A repeat with other content changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relationship {
    pub replica: ReplicaId,
    /// For messages.
    pub object: ObjectName,
    pub vm: VmId,
    pub disks: Vec<RelatedDisk>,
    pub policy: Policy,
    /// Nothing is frozen, captured or shipped as long as this holds; writes go on being tracked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspended: bool,
    /// Whether a resynchronization may run now. First copies do not wait for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub resynchronize: bool,
    pub storage: StorageAccess,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A replicated disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelatedDisk {
    pub id: DiskId,
    pub slot: DiskSlot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Seconds between two barriers.
    pub copy_interval: u32,
    /// Hours between application-consistent points; 0 for never.
    pub application_consistent_hours: u32,
    /// Whether logs are compressed on their way.
    pub compress: bool,
}

/// By which right the agent reaches a replica's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageAccess {
    /// The account's name.
    pub account: String,
    /// The blob endpoint, such as `https://account.blob.core.windows.net`.
    pub endpoint: String,
    /// Create, read, list; never overwrite.
    pub inbox: ContainerAccess,
    /// Read, list.
    pub replica: ContainerAccess,
    pub expires: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerAccess {
    pub container: String,
    pub sas: SasToken,
}

/// Begin the first copy, or go on with what storage says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {}

/// Take a barrier now, beside those of the copy interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Synchronize {}

/// Compare all disks with the replica, whether or not anything demands it. It begins when the relationship allows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resynchronize {}

/// End replication on the host: tracking, checkpoints and logs of ours go, the VM and its disks stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {}

/// The HTTP status of a failed request.
pub const fn status_of(code: Code) -> u16 {
    match code {
        Code::InvalidRequest => 400,
        Code::HostAuthorization => 403,
        Code::VmNotFound | Code::NotReplicating => 404,
        Code::GenerationStale | Code::AgentIncompatible | Code::InvalidVmState | Code::Fenced => {
            409
        }
        Code::Unsupported | Code::BrokenDiskChain | Code::DiskFormat => 422,
        Code::HostBusy | Code::HostTimeout | Code::HypervisorUnavailable => 503,
        Code::HostDiskFull => 507,
        Code::HostMemory
        | Code::GuestQuiesceFailed
        | Code::HostIo
        | Code::TrackingLost
        | Code::DiskChangedOffline
        | Code::DiskSetChanged
        | Code::TooManyChanges
        | Code::ResyncRequested
        | Code::AgentStateDamaged
        | Code::Configuration
        | Code::AgentUnreachable
        | Code::SealInvalid
        | Code::SequenceGap
        | Code::FormatTooNew
        | Code::ReplicaDamaged
        | Code::ForeignBlob
        | Code::ManagedByAnotherCluster
        | Code::Internal => 500,
        Code::StorageUnreachable
        | Code::StorageBusy
        | Code::StorageServerError
        | Code::WaitingForCredentials
        | Code::StorageUnauthorized
        | Code::StorageNotFound
        | Code::StorageConflict
        | Code::StorageChanged
        | Code::StorageIntegrity
        | Code::StorageRefused
        | Code::AccountUnsuitable
        | Code::AzureUnreachable
        | Code::AzureBusy
        | Code::AzureServerError
        | Code::AzureUnauthorized
        | Code::AzureForbidden
        | Code::AzurePolicy
        | Code::AzureNotFound
        | Code::AzureConflict
        | Code::AzureNameTaken
        | Code::AzureQuotaExceeded
        | Code::AzureNoCapacity
        | Code::AzureSizeUnavailable
        | Code::AzureAddressUnusable
        | Code::AzureDiskRefused
        | Code::AzureRefused => 502,
    }
}

/// The body of a failed answer: what the peer said, or that it said nothing that can be understood.
pub fn fault_of(status: u16, body: &[u8]) -> Fault {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let said: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Fault::new(
            Code::InvalidRequest,
            format!("the agent answered {status}: {said}"),
        )
    })
}

#[cfg(test)]
mod tests;
