//! What the lab hypervisor and its clients say to each other: one line of JSON each way, over a Unix socket.
//!
//! ```text
//! client ──► {"freeze":{"vm":…,"disks":[…],"wanted":"Crash"}}
//! client ◄── {"done":{…}}    or    {"failed":{"kind":"Busy","disk":null,"detail":"…"}}
//! ```
//! Both sides are of one build. What a guest wrote is never sent here: clients read frozen images themselves.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::lab::failure::Failure;
use crate::host::lab::fault::Fault;
use crate::host::lab::spec::{Arrival, DiskSpec, MachineSpec, Settings};
use crate::host::{Consistency, PowerOperation, PowerState, Revision, StartAction, TrackingCursor};
use crate::ids::{DiskSlot, FrozenPointId, VmId};
use crate::units::{ByteRange, MIB};

/// The longest request in bytes: a machine with 256 disks, or a list of cursors, is far smaller.
pub const REQUEST_MAX: u64 = MIB;
/// The longest reply in bytes: a thousand machines, or the ranges of one answer.
pub const REPLY_MAX: u64 = 32 * MIB;
/// The longest that the hypervisor waits in one call of `WaitForChange` or `AwaitHeld`, in milliseconds.
pub const WAIT_MAX_MS: u64 = 30_000;

/// A request. Up to `SetStartAction` these are the calls of [`crate::host::Hypervisor`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Call {
    Machines,
    Machine {
        vm: VmId,
    },
    WaitForChange {
        seen: Revision,
        patience_ms: u64,
    },
    StartTracking {
        vm: VmId,
        disks: Vec<DiskSlot>,
    },
    StopTracking {
        vm: VmId,
    },
    Freeze {
        vm: VmId,
        disks: Vec<DiskSlot>,
        wanted: Consistency,
    },
    Points {
        vm: VmId,
    },
    /// Answered with a [`FrozenChain`].
    Open {
        vm: VmId,
        point: FrozenPointId,
        disk: DiskSlot,
    },
    /// Answered with [`Changed`].
    Changes {
        vm: VmId,
        point: FrozenPointId,
        disk: DiskSlot,
        since: TrackingCursor,
        window: ByteRange,
    },
    Commit {
        vm: VmId,
        point: FrozenPointId,
    },
    Abandon {
        vm: VmId,
        point: FrozenPointId,
    },
    Forget {
        vm: VmId,
        keep: Vec<TrackingCursor>,
    },
    Power {
        vm: VmId,
        operation: PowerOperation,
        patience_ms: u64,
    },
    SetStartAction {
        vm: VmId,
        action: StartAction,
    },
    Manage(Manage),
}

/// What only a lab can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Manage {
    /// Answered with [`About`].
    About,
    /// Answered with the machine's id.
    Create(Box<MachineSpec>),
    /// Removes a machine that is off; with its images, those that it made itself.
    Delete {
        vm: VmId,
        images: bool,
    },
    /// Ends a machine here and puts its folder at `to`.
    HandOver {
        vm: VmId,
        to: PathBuf,
    },
    /// Takes in a machine whose folder is at `from`. Answered with its id.
    TakeIn {
        from: PathBuf,
        arrival: Arrival,
    },
    Attach {
        vm: VmId,
        disk: DiskSpec,
    },
    Detach {
        vm: VmId,
        disk: DiskSlot,
    },
    /// Answered with the machine's [`Settings`].
    Settings {
        vm: VmId,
    },
    Configure {
        vm: VmId,
        settings: Box<Settings>,
    },
    /// Brings a running machine into Paused, Saved or another state in which no guest runs.
    Suspend {
        vm: VmId,
        state: PowerState,
    },
    /// Takes a checkpoint as its owner would. Answered with [`UserCheckpoint`].
    Checkpoint {
        vm: VmId,
        name: String,
    },
    /// Answered with all [`UserCheckpoint`]s, oldest first.
    Checkpoints {
        vm: VmId,
    },
    ApplyCheckpoint {
        vm: VmId,
        checkpoint: Uuid,
    },
    /// Merges the newest checkpoint away.
    DeleteCheckpoint {
        vm: VmId,
        checkpoint: Uuid,
    },
    Fault(Fault),
    ClearFaults,
    /// Waits until something is held at a gate. Answered with whether it is.
    AwaitHeld {
        gate: String,
        patience_ms: u64,
    },
    /// Lets all pass that is held at a gate, and whatever comes to it later.
    Release {
        gate: String,
    },
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Done(serde_json::Value),
    Failed(Failure),
}

/// The files that a frozen disk is read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenChain {
    /// The image, its parent, the parent's parent. None of them is written while the marker stands.
    pub layers: Vec<PathBuf>,
    /// A file that is unlinked before the first byte of `layers` changes: whoever has it open and sees it without a
    /// name must not believe what it read before.
    pub marker: PathBuf,
}

/// Ranges that may have changed, below `covered`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub ranges: Vec<ByteRange>,
    pub covered: u64,
}

/// The process that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    pub process: u32,
    /// Where guests reach their disks over TCP.
    pub nbd: Option<SocketAddr>,
    /// Where guests reach their disks over a Unix socket.
    pub nbd_socket: Option<PathBuf>,
}

/// A checkpoint that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserCheckpoint {
    pub id: Uuid,
    pub name: String,
    pub taken_at: jiff::Timestamp,
}
