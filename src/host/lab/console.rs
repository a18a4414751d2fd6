//! What only a lab can do: make machines, and let things go wrong. For the quick start and for tests.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::host::lab::connection::{Connection, SLACK};
use crate::host::lab::fault::Fault;
use crate::host::lab::protocol::{About, Call, Manage, UserCheckpoint, WAIT_MAX_MS};
use crate::host::lab::spec::{Arrival, DiskSpec, MachineSpec, Settings};
use crate::host::{PowerState, Result};
use crate::ids::{DiskSlot, VmId};

/// A client of what is beyond [`crate::host::Hypervisor`]. Its errors are the hypervisor's refusals.
#[derive(Clone, Debug)]
pub struct Console {
    connection: Connection,
}

impl Console {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Console {
            connection: Connection::new(socket),
        }
    }

    /// # Errors
    /// If the hypervisor is not there.
    pub fn about(&self) -> Result<About> {
        self.manage("ask what runs here", Manage::About)
    }

    /// # Errors
    /// If the name or id is taken, or a disk cannot be made or opened.
    pub fn create(&self, spec: &MachineSpec) -> Result<VmId> {
        let call = Manage::Create(Box::new(spec.clone()));
        self.manage("create a machine", call)
    }

    /// Removes a machine; with `images`, also those that were made in its folder.
    ///
    /// # Errors
    /// If it is not off, or busy.
    pub fn delete(&self, vm: &VmId, images: bool) -> Result<()> {
        let vm = vm.clone();
        self.manage("delete a machine", Manage::Delete { vm, images })
    }

    /// Gives a machine away, whose folder is at `to` then: on the same file system, where nothing is yet. Its guests are
    /// cut off; a machine that runs goes on where it is taken in.
    ///
    /// # Errors
    /// If it is busy, or its folder cannot be moved.
    pub fn hand_over(&self, vm: &VmId, to: impl Into<PathBuf>) -> Result<()> {
        let (vm, to) = (vm.clone(), to.into());
        self.manage("move a machine away", Manage::HandOver { vm, to })
    }

    /// Takes in a machine that another hypervisor has given away.
    ///
    /// # Errors
    /// If there is none, or one of its name or id is here.
    pub fn take_in(&self, from: impl Into<PathBuf>, arrival: &Arrival) -> Result<VmId> {
        let (from, arrival) = (from.into(), arrival.clone());
        self.manage("take a machine in", Manage::TakeIn { from, arrival })
    }

    /// # Errors
    /// If the machine is not off, the slot is taken, or the disk cannot be made or opened.
    pub fn attach(&self, vm: &VmId, disk: &DiskSpec) -> Result<()> {
        let (vm, disk) = (vm.clone(), disk.clone());
        self.manage("attach a disk", Manage::Attach { vm, disk })
    }

    /// # Errors
    /// If the machine is not off, or a point is frozen.
    pub fn detach(&self, vm: &VmId, disk: &DiskSlot) -> Result<()> {
        let (vm, disk) = (vm.clone(), disk.clone());
        self.manage("detach a disk", Manage::Detach { vm, disk })
    }

    /// # Errors
    /// If there is no such machine.
    pub fn settings(&self, vm: &VmId) -> Result<Settings> {
        let vm = vm.clone();
        self.manage("read the settings", Manage::Settings { vm })
    }

    /// Reads the settings, changes them, and writes them back.
    ///
    /// # Errors
    /// If there is no such machine, or its record cannot be written.
    pub fn configure(&self, vm: &VmId, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let mut settings = self.settings(vm)?;
        change(&mut settings);
        let (vm, settings) = (vm.clone(), Box::new(settings));
        self.manage("change the settings", Manage::Configure { vm, settings })
    }

    /// # Errors
    /// If the machine does not run.
    pub fn suspend(&self, vm: &VmId, state: PowerState) -> Result<()> {
        let vm = vm.clone();
        self.manage("suspend a machine", Manage::Suspend { vm, state })
    }

    /// # Errors
    /// If a disk cannot be frozen, or a point of ours stands.
    pub fn checkpoint(&self, vm: &VmId, name: &str) -> Result<UserCheckpoint> {
        let (vm, name) = (vm.clone(), name.to_owned());
        self.manage("take a checkpoint", Manage::Checkpoint { vm, name })
    }

    /// # Errors
    /// If there is no such machine.
    pub fn checkpoints(&self, vm: &VmId) -> Result<Vec<UserCheckpoint>> {
        let vm = vm.clone();
        self.manage("list the checkpoints", Manage::Checkpoints { vm })
    }

    /// # Errors
    /// If the machine is not off, or a point of ours stands.
    pub fn apply_checkpoint(&self, vm: &VmId, checkpoint: Uuid) -> Result<()> {
        let vm = vm.clone();
        let call = Manage::ApplyCheckpoint { vm, checkpoint };
        self.manage("apply a checkpoint", call)
    }

    /// # Errors
    /// If it is not the newest, or a point of ours stands.
    pub fn delete_checkpoint(&self, vm: &VmId, checkpoint: Uuid) -> Result<()> {
        let vm = vm.clone();
        let call = Manage::DeleteCheckpoint { vm, checkpoint };
        self.manage("delete a checkpoint", call)
    }

    /// # Errors
    /// If the hypervisor is not there.
    pub fn fault(&self, fault: &Fault) -> Result<()> {
        self.manage("set a fault", Manage::Fault(fault.clone()))
    }

    /// # Errors
    /// If the hypervisor is not there.
    pub fn clear_faults(&self) -> Result<()> {
        self.manage("clear the faults", Manage::ClearFaults)
    }

    /// Waits until something is held at the gate: whether it is.
    ///
    /// # Errors
    /// If the hypervisor is not there.
    pub fn await_held(&self, gate: &str) -> Result<bool> {
        let (gate, patience_ms) = (gate.to_owned(), WAIT_MAX_MS);
        self.manage("wait at a gate", Manage::AwaitHeld { gate, patience_ms })
    }

    /// # Errors
    /// If the hypervisor is not there.
    pub fn release(&self, gate: &str) -> Result<()> {
        let gate = gate.to_owned();
        self.manage("release a gate", Manage::Release { gate })
    }

    fn manage<T: DeserializeOwned>(&self, operation: &'static str, manage: Manage) -> Result<T> {
        let patience = Duration::from_millis(WAIT_MAX_MS) + SLACK;
        self.connection
            .call_within(&Call::Manage(manage), patience)
            .map_err(|failure| failure.of(operation))
    }
}
