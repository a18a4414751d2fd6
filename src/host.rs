//! The hypervisor edge: what replication asks of the host that a virtual machine runs on.
//!
//! The trait is Hyper-V's own cycle (see the table) and nothing that only a lab could do. It is synchronous, because
//! WMI and `virtdisk.dll` are; callers move it off their runtime. Implementations: [`lab`], a client of the lab
//! hypervisor, and on Windows `hyperv`.
//!
//! | here | Hyper-V (Server 2016 and later) |
//! |---|---|
//! | `freeze` | `CreateSnapshot` of type 32768 (recovery checkpoint) over all disks of the VM |
//! | `open` | the checkpoint's read-only `.vhdx`/`.avhdx` chain through `virtdisk` |
//! | `FrozenDisk::allocated` | the block allocation tables of that chain |
//! | `FrozenDisk::changes` | `QueryChangesVirtualDisk` since an RCT id |
//! | `commit` | `ConvertToReferencePoint`: the checkpoint merges away, its RCT ids become cursors |
//! | `abandon` | `DestroySnapshot` |
//! | `forget` | `DestroyReferencePoint` of our older points |
//! | `set_start_action` | `ModifySystemSettings` with `AutomaticStartupAction` |
//!
//! A frozen point is named, not held: it survives the agent, so that a copy goes on after a restart. Checkpoints and
//! reference points of other products are never touched.

pub mod error;
#[cfg(unix)]
pub mod lab;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{DiskSlot, FrozenPointId, VmId};
use crate::report::Fault;
use crate::units::ByteRange;

pub use error::{Error, Kind};

pub type Result<T> = std::result::Result<T, Error>;

/// A virtual machine as the hypervisor describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub id: VmId,
    pub name: String,
    pub boot: BootGeneration,
    pub power: PowerState,
    /// Where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_action: Option<StartAction>,
    /// What keeps the machine from being frozen now, if anything does.
    pub busy: Option<Busy>,
    pub processors: u32,
    pub memory_mib: u64,
    pub secure_boot: bool,
    /// What the guest says it is, where integration services tell.
    pub guest_os: Option<String>,
    /// Another product that replicates this machine (Hyper-V Replica: `ReplicationMode` is not None).
    pub replicated_by: Option<String>,
    pub disks: Vec<Disk>,
    pub network_adapters: Vec<NetworkAdapter>,
}

/// Hyper-V generation 1 (BIOS) or 2 (UEFI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootGeneration {
    Gen1,
    Gen2,
}

/// `Msvm_ComputerSystem.EnabledState` in words; transitional states and those of newer hosts are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerState {
    Running,
    Off,
    Paused,
    Saved,
    Other(u16),
}

/// What the host does with a machine when it starts itself: `Msvm_VirtualSystemSettingData.AutomaticStartupAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StartAction {
    /// 2: it stays off.
    Nothing,
    /// 3, Hyper-V's default: it is started if it ran when the host went down.
    #[default]
    IfRunning,
    /// 4: it is started.
    Always,
}

/// An operation of the hypervisor that a freeze has to wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Busy {
    /// As people call it: `merging disks`, `creating checkpoint`, `migrating`, …
    pub operation: String,
    pub percent: Option<u8>,
}

/// A disk of a machine. What cannot be known is in `problem`, and the numbers are then zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub slot: DiskSlot,
    pub backing: Backing,
    /// The live file, or the physical disk's name.
    pub path: String,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    pub logical_sector: u32,
    pub physical_sector: u32,
    /// VHDX VirtualDiskId, or the unique id of the first VHD of the chain; not unique over machines.
    pub identifier: Option<Uuid>,
    /// Whether the machine boots from it.
    pub boot: bool,
    /// The volume that the file lies on.
    pub volume: Option<Volume>,
    /// Why its content cannot be read, for example a broken chain.
    pub problem: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    Vhd,
    Vhdx,
    /// A `.vhds` set or a disk that several machines share.
    Shared,
    /// A physical disk of the host.
    PassThrough,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    /// Bytes free for the agent.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAdapter {
    pub name: String,
    pub mac: Option<String>,
    pub switch: Option<String>,
    pub addresses: Vec<std::net::IpAddr>,
}

/// What the guest must have done before a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    /// As if the power had failed: write order holds over all disks.
    Crash,
    /// Applications have written what they held (VSS, or the lab's quiesce hook).
    Application,
}

/// One instant of all frozen disks of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenPoint {
    pub id: FrozenPointId,
    /// When the barrier was taken, by the host's clock.
    pub taken_at: Timestamp,
    pub consistency: Consistency,
    /// Why it is only crash-consistent although more was asked for.
    pub fallback: Option<Fault>,
    pub disks: Vec<DiskSlot>,
}

/// Where tracking stands for one disk; only the hypervisor that made it reads it (Hyper-V: version, VirtualDiskId, size,
/// RCT id, reference point; at most 2 KiB).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrackingCursor(String);

impl TrackingCursor {
    pub fn new(opaque: impl Into<String>) -> Self {
        TrackingCursor(opaque.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for TrackingCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrackingCursor({})", self.0)
    }
}

/// The most ranges of one answer: a disk in fragments is told in more answers, not in longer ones.
pub const RANGES_MAX: usize = 16_384;

/// Some of the ranges asked for: all that lie below `covered`. The caller asks again from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Ascending, not touching each other, between the window's start and `covered`; at most [`RANGES_MAX`].
    pub ranges: Vec<ByteRange>,
    /// More than the window's start, at most its end.
    pub covered: u64,
}

/// One disk of a frozen point: nothing that the guest does changes it. Offsets are the guest's.
pub trait FrozenDisk: Send + Sync {
    /// Bytes that the guest sees.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// If the range leaves the disk or the chain cannot be read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Ranges of `window` that may hold other than zeroes.
    ///
    /// # Errors
    /// If the chain cannot be read.
    fn allocated(&self, window: ByteRange) -> Result<Ranges>;

    /// Ranges of `window` that may differ from what `since` stands for.
    ///
    /// # Errors
    /// [`Kind::TrackingLost`] if a write in between may have been missed, [`Kind::DiskChangedOffline`] if somebody wrote
    /// while nobody tracked.
    fn changes(&self, since: &TrackingCursor, window: ByteRange) -> Result<Ranges>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerOperation {
    Start,
    /// Asks the guest; fails with [`Kind::Timeout`] if it does not end in time.
    ShutDown,
    TurnOff,
}

/// Counts the changes of a host's machines; equal means that nothing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A Hyper-V host, or what stands for one.
///
/// Every call may be repeated after its outcome was lost: `freeze` then leaves a point that [`Hypervisor::points`]
/// lists; all others come to the same end as one call.
pub trait Hypervisor: Send + Sync {
    /// All machines of the host.
    ///
    /// # Errors
    /// If the management service does not answer.
    fn machines(&self) -> Result<Vec<Machine>>;

    /// One machine.
    ///
    /// # Errors
    /// [`Kind::VmNotFound`] only if the host has been asked and has none of this id.
    fn machine(&self, vm: &VmId) -> Result<Machine>;

    /// Waits until machines, power states or disks differ from those at `seen`, or `patience` has passed.
    ///
    /// # Errors
    /// If the management service does not answer.
    fn wait_for_change(&self, seen: Revision, patience: Duration) -> Result<Revision>;

    /// Starts to track the writes to `disks`, from the next frozen point on; tracking outlives the agent.
    ///
    /// # Errors
    /// If a disk cannot be tracked.
    fn start_tracking(&self, vm: &VmId, disks: &[DiskSlot]) -> Result<()>;

    /// Ends tracking and removes frozen points and cursors of ours.
    ///
    /// # Errors
    /// If something of ours is left.
    fn stop_tracking(&self, vm: &VmId) -> Result<()>;

    /// Freezes all `disks` at one instant. If the guest cannot be quiesced, the point is crash-consistent and says why.
    ///
    /// # Errors
    /// [`Kind::Busy`] while another point of ours exists or is being merged.
    fn freeze(&self, vm: &VmId, disks: &[DiskSlot], wanted: Consistency) -> Result<FrozenPoint>;

    /// The frozen points of ours that exist, oldest first.
    ///
    /// # Errors
    /// If the machine cannot be asked.
    fn points(&self, vm: &VmId) -> Result<Vec<FrozenPoint>>;

    /// Opens a disk of a frozen point for reading.
    ///
    /// # Errors
    /// [`Kind::PointNotFound`] if the point does not exist (any more).
    fn open(
        &self,
        vm: &VmId,
        point: &FrozenPointId,
        disk: &DiskSlot,
    ) -> Result<Box<dyn FrozenDisk>>;

    /// Releases a point and makes it what later changes are counted from. The machine is [`Busy`] until its
    /// differencing disks are merged. For a point that was committed before: its cursors again.
    ///
    /// # Errors
    /// [`Kind::PointNotFound`] if it is neither there nor committed.
    fn commit(&self, vm: &VmId, point: &FrozenPointId) -> Result<Vec<(DiskSlot, TrackingCursor)>>;

    /// Releases a point as if it had never been; what was tracked before stays tracked.
    ///
    /// # Errors
    /// If it could not be released.
    fn abandon(&self, vm: &VmId, point: &FrozenPointId) -> Result<()>;

    /// Drops what only cursors older than `keep` need.
    ///
    /// # Errors
    /// If the machine cannot be asked.
    fn forget(&self, vm: &VmId, keep: &[TrackingCursor]) -> Result<()>;

    /// Changes the power state and waits for it, at most until `patience` has passed. A state that holds already is
    /// success.
    ///
    /// # Errors
    /// [`Kind::Timeout`] if the state was not reached; what it is then must be asked for.
    fn power(&self, vm: &VmId, operation: PowerOperation, patience: Duration)
    -> Result<PowerState>;

    /// Says what the host does with the machine from now on when it starts itself.
    ///
    /// # Errors
    /// If the machine cannot be changed.
    fn set_start_action(&self, vm: &VmId, action: StartAction) -> Result<()>;
}
