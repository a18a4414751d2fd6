//! `fence.json`: who may command a VM, which side of it is active, and what the machine is.
//!
//! Written by the controller alone, by ETag. It holds all that a failover needs when the site is dead, and all that an
//! agent needs which has lost its state.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::document::Document;
use crate::host::{BootGeneration, NetworkAdapter};
use crate::ids::{DiskId, DiskSlot, HostName, RecoveryPointId, ReplicaId, VmId};
use crate::units::Generation;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    pub replica: ReplicaId,
    /// Commands of a lower generation are refused.
    pub generation: Generation,
    /// The owner's term in which the generation was raised last; see [`super::owner`].
    #[serde(default)]
    pub term: u64,
    /// The host that may be commanded: where the machine was when the generation was raised last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Raised by every admitted run that is no test.
    pub epoch: u64,
    pub active_side: Side,
    /// The run that holds the VM.
    pub active_run: Option<String>,
    /// Points that a run needs: pruning leaves them.
    pub pinned: Vec<RecoveryPointId>,
    pub machine: MachineDescription,
    /// Disks that are not replicated now, the last of them at the end. Their replicas stay: one that comes back goes on
    /// with its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_disks: Vec<DescribedDisk>,
}

impl Fence {
    /// The fence of a replica that nobody has commanded before `generation`.
    pub fn first(replica: ReplicaId, generation: Generation, machine: MachineDescription) -> Self {
        Fence {
            replica,
            generation,
            term: 0,
            host: None,
            epoch: 0,
            active_side: Side::OnPremises,
            active_run: None,
            pinned: Vec::new(),
            machine,
            former_disks: Vec::new(),
        }
    }

    /// This fence after the owner of `term` has made sure that commands of before are refused, and so is whoever
    /// replicates the machine on another host than `host`; nothing where that is not known.
    #[must_use]
    pub fn raised(&self, term: u64, host: Option<&HostName>) -> Self {
        Fence {
            generation: self.generation.next(),
            term,
            host: host.or(self.host.as_ref()).cloned(),
            ..self.clone()
        }
    }
}

/// The side that was last commanded active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    OnPremises,
    Azure,
}

/// The machine as it was when its description was last written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineDescription {
    pub vm: VmId,
    pub name: String,
    pub boot: BootGeneration,
    pub processors: u32,
    pub memory_mib: u64,
    pub secure_boot: bool,
    pub guest_os: Option<String>,
    pub network_adapters: Vec<NetworkAdapter>,
    pub disks: Vec<DescribedDisk>,
}

/// A replicated disk: which of ours is which of the machine's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DescribedDisk {
    pub id: DiskId,
    pub slot: DiskSlot,
    pub identifier: Option<Uuid>,
    /// Bytes.
    pub size: u64,
    pub boot: bool,
}

impl Document for Fence {
    const WHAT: &'static str = "fence.json";
    const FORMAT: u32 = 1;
}
