//! What a lab machine is made of, as whoever makes it says it. Data only.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::{Backing, BootGeneration, Busy, NetworkAdapter, StartAction, Volume};
use crate::ids::{DiskSlot, VmId};

/// A machine to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MachineSpec {
    /// 1 to 64 of letters, digits, `-`, `_` and `.`, beginning with a letter or digit: it is a folder's name too.
    pub name: String,
    /// Drawn if it is not given.
    #[serde(default)]
    pub id: Option<VmId>,
    #[serde(default = "second_generation")]
    pub boot: BootGeneration,
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    #[serde(default)]
    pub settings: Settings,
}

const fn second_generation() -> BootGeneration {
    BootGeneration::Gen2
}

impl MachineSpec {
    /// A machine of the second generation, without disks, with the settings of most.
    pub fn new(name: impl Into<String>) -> Self {
        MachineSpec {
            name: name.into(),
            id: None,
            boot: BootGeneration::Gen2,
            disks: Vec::new(),
            settings: Settings::default(),
        }
    }
}

/// How a machine arrives that another hypervisor has given away. By default it is what it was, as after a live
/// migration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Arrival {
    /// Its new name.
    pub name: Option<String>,
    /// Its new id, as a copy has that was imported: nothing of it is tracked then.
    pub id: Option<VmId>,
    /// Why its disks are not tracked any more, if they are not.
    pub tracking_lost: Option<String>,
}

/// What may be changed of a machine at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    pub processors: u32,
    pub memory_mib: u64,
    pub secure_boot: bool,
    pub guest_os: Option<String>,
    pub start_action: StartAction,
    pub replicated_by: Option<String>,
    pub network_adapters: Vec<NetworkAdapter>,
    pub hooks: Hooks,
    /// An operation that the machine claims to be busy with: it then refuses to be frozen.
    pub busy: Option<Busy>,
    /// What is said of the volume of all disks, in place of the truth.
    pub volume: Option<Volume>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            processors: 2,
            memory_mib: 4096,
            secure_boot: true,
            guest_os: None,
            start_action: StartAction::default(),
            replicated_by: None,
            network_adapters: Vec::new(),
            hooks: Hooks::default(),
            busy: None,
            volume: None,
        }
    }
}

/// Commands that stand for the guest's integration services. Each must end with success within the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hooks {
    /// Before an application-consistent freeze: applications write what they hold. Without it a guest has no such
    /// service, and points are crash-consistent.
    pub quiesce: Option<Hook>,
    /// After the freeze, whether it succeeded or not.
    pub thaw: Option<Hook>,
    /// Asks the guest to shut down, and returns when it has.
    pub shutdown: Option<Hook>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// Program and arguments; no shell in between.
    pub command: Vec<String>,
    pub timeout_ms: u64,
}

/// A disk to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskSpec {
    pub slot: DiskSlot,
    pub content: DiskContent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DiskContent {
    /// An image that is made in the machine's folder.
    New {
        format: ImageFormat,
        kind: ImageKind,
        /// Bytes; of a differencing image it is the parent's.
        size: u64,
        /// Bytes; without one, what Hyper-V uses.
        #[serde(default)]
        block_size: Option<u32>,
        /// 512 or 4096.
        #[serde(default = "logical_sector")]
        logical_sector: u32,
        /// 512 or 4096; a VHD's is its logical one.
        #[serde(default = "physical_sector")]
        physical_sector: u32,
    },
    /// An image that is there.
    Existing { path: PathBuf },
    /// What cannot be frozen, for example a physical disk: it is listed, and nothing else.
    Foreign {
        backing: Backing,
        name: String,
        #[serde(default)]
        size: u64,
    },
}

const fn logical_sector() -> u32 {
    512
}

const fn physical_sector() -> u32 {
    4096
}

impl DiskContent {
    /// A dynamic VHDX as Hyper-V would make it.
    pub const fn vhdx(size: u64) -> Self {
        DiskContent::New {
            format: ImageFormat::Vhdx,
            kind: ImageKind::Dynamic,
            size,
            block_size: None,
            logical_sector: logical_sector(),
            physical_sector: physical_sector(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageFormat {
    Vhd,
    Vhdx,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ImageKind {
    Fixed,
    Dynamic,
    /// A child of the image at `parent`.
    Differencing {
        parent: PathBuf,
    },
}
