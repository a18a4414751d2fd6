//! All machines of a hypervisor: found at the start, made, deleted, listed, and given to guests as exports.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::host::lab::spec::{Arrival, MachineSpec};
use crate::host::{Error, Kind, Result};
use crate::ids::VmId;
use crate::lab::hypervisor::create;
use crate::lab::hypervisor::home::Context;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::moves;
use crate::lab::hypervisor::store::{lock, of_io};
use crate::report::chain;

/// Machines of one hypervisor, as many as a Hyper-V host runs.
const MACHINES_MAX: usize = 1024;

pub(crate) struct Service {
    /// The folder of all machines' folders.
    folder: PathBuf,
    pub(crate) context: Arc<Context>,
    machines: RwLock<BTreeMap<VmId, Arc<Machine>>>,
    /// Held while a machine is made or deleted.
    making: Mutex<()>,
}

impl Service {
    /// Loads all machines in `folder`, and lets them go on. One that cannot be loaded is said and left alone.
    pub(crate) fn load(folder: &Path, context: Arc<Context>) -> Result<Self> {
        const OPERATION: &str = "load the machines";
        let cannot = |error: std::io::Error| {
            let detail = format!("{}: {error}", folder.display());
            Error::new(of_io(&error), OPERATION, detail)
        };
        let folder = folder.join("machines");
        fs::create_dir_all(&folder).map_err(cannot)?;
        create::sweep(&folder).map_err(cannot)?;
        let mut machines = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            match Machine::load(&path, Arc::clone(&context)) {
                Ok(None) => {}
                Ok(Some(machine)) => {
                    let vm = machine.home.vm.clone();
                    if let Some(other) = machines.insert(vm, Arc::new(machine)) {
                        tracing::error!(machine = %path.display(), other = other.home.name, "two machines have one id");
                    }
                }
                Err(error) => {
                    tracing::error!(machine = %path.display(), error = chain(&error), "a machine is not loaded");
                }
            }
        }
        let service = Service {
            folder,
            context,
            machines: RwLock::new(machines),
            making: Mutex::new(()),
        };
        service
            .machines()
            .iter()
            .for_each(|machine| machine.resume());
        Ok(service)
    }

    /// All machines, by name.
    pub(crate) fn machines(&self) -> Vec<Arc<Machine>> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        let mut machines: Vec<_> = machines.values().cloned().collect();
        machines.sort_by(|a, b| a.home.name.cmp(&b.home.name));
        machines
    }

    pub(crate) fn machine(&self, vm: &VmId) -> Result<Arc<Machine>> {
        let machines = self.machines.read().unwrap_or_else(PoisonError::into_inner);
        machines.get(vm).cloned().ok_or_else(|| {
            let detail = "the host has no machine of this id";
            Error::new(Kind::VmNotFound, "find a machine", detail)
        })
    }

    pub(crate) fn create(&self, spec: &MachineSpec) -> Result<VmId> {
        const OPERATION: &str = "create a machine";
        let refuse = |detail: String| Error::new(Kind::InvalidState, OPERATION, detail);
        let _making = lock(&self.making);
        let machines = self.machines();
        if machines.len() >= MACHINES_MAX {
            return Err(refuse(format!("there are {MACHINES_MAX} machines")));
        }
        if let Some(id) = &spec.id
            && self.machine(id).is_ok()
        {
            return Err(refuse(format!("there is a machine with the id {id}")));
        }
        let folder = create::create(&self.folder, spec, self.context.clock.now())?;
        let machine = self.load_new(&folder, OPERATION)?;
        Ok(machine.home.vm.clone())
    }

    pub(crate) fn delete(&self, vm: &VmId, images: bool) -> Result<()> {
        let _making = lock(&self.making);
        let machine = self.machine(vm)?;
        create::delete(&machine, &self.folder, images)?;
        self.machines
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(vm);
        self.context.revisions.bump();
        Ok(())
    }

    /// Gives a machine away: its folder is at `to` then.
    pub(crate) fn hand_over(&self, vm: &VmId, to: &Path) -> Result<()> {
        let _making = lock(&self.making);
        let machine = self.machine(vm)?;
        moves::hand_over(&machine, to)?;
        self.machines
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(vm);
        self.context.revisions.bump();
        Ok(())
    }

    /// Takes a machine in that another hypervisor has given away, and lets it go on.
    pub(crate) fn take_in(&self, from: &Path, arrival: &Arrival) -> Result<VmId> {
        let _making = lock(&self.making);
        let is_free = |id: &VmId| self.machine(id).is_err();
        let folder = moves::take_in(&self.folder, from, arrival, is_free)?;
        let machine = self.load_new(&folder, "take a machine in")?;
        machine.resume();
        Ok(machine.home.vm.clone())
    }

    /// Loads the machine of a folder that was not there before.
    fn load_new(&self, folder: &Path, operation: &'static str) -> Result<Arc<Machine>> {
        let loaded = Machine::load(folder, Arc::clone(&self.context))?;
        let gone = || Error::new(Kind::InvalidState, operation, "it is gone again");
        let machine = Arc::new(loaded.ok_or_else(gone)?);
        self.machines
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(machine.home.vm.clone(), Arc::clone(&machine));
        self.context.revisions.bump();
        Ok(machine)
    }

    /// Nobody is held or waits any more, so that calls come to their end.
    pub(crate) fn let_go(&self) {
        self.context.faults.end();
        self.context.revisions.end();
    }

    /// The end, when nobody calls any more: guests are cut off, all is on disk.
    pub(crate) fn end(&self) {
        for machine in self.machines() {
            machine.end();
        }
    }
}
