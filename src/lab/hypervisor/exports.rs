//! The disks of running machines as exports: `<machine>/<slot>`.

use std::sync::Arc;

use crate::host::{Error, Kind, PowerState};
use crate::lab::hypervisor::disk::{Disk, Shape};
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::nbd::{Absent, Export, Exports, Refusal};
use crate::lab::hypervisor::service::Service;
use crate::lab::hypervisor::traffic::Traffic;
use crate::units::ByteRange;

/// A disk of a machine that runs, or did when it was found.
pub(crate) struct DiskExport {
    machine: Arc<Machine>,
    disk: Arc<Disk>,
    shape: Shape,
}

impl Exports for Service {
    type Export = DiskExport;

    fn names(&self) -> Vec<String> {
        let machines = self.machines().into_iter();
        let running = machines.filter(|machine| machine.traffic.is_open());
        running
            .flat_map(|machine| {
                let name = machine.home.name.clone();
                let slots = machine.disks().into_iter();
                slots.map(move |disk| format!("{name}/{}", disk.slot))
            })
            .collect()
    }

    fn find(&self, name: &str) -> Result<DiskExport, Absent> {
        let (machine, slot) = name.split_once('/').ok_or(Absent::Unknown)?;
        let slot = slot.parse().map_err(|_| Absent::Unknown)?;
        let machines = self.machines().into_iter();
        let machine = machines
            .into_iter()
            .find(|known| known.home.name == machine)
            .ok_or(Absent::Unknown)?;
        let disk = machine.disk(&slot).map_err(|_| Absent::Unknown)?;
        let power = machine.home.store.get().power;
        if power != PowerState::Running || !machine.traffic.is_open() {
            return Err(Absent::Refused(format!("the machine is {power:?}")));
        }
        let shape = disk.shape().ok_or_else(|| {
            Absent::Refused("the machine has lost this disk; see the hypervisor's log".into())
        })?;
        Ok(DiskExport {
            machine,
            disk,
            shape,
        })
    }
}

impl Export for DiskExport {
    fn size(&self) -> u64 {
        self.shape.size
    }

    fn sector(&self) -> u32 {
        self.shape.logical_sector
    }

    fn traffic(&self) -> &Traffic {
        &self.machine.traffic
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal> {
        self.disk.read(offset, buffer).map_err(|error| tell(&error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        self.disk.write(offset, data).map_err(|error| tell(&error))
    }

    fn write_zeroes(&self, range: ByteRange) -> Result<(), Refusal> {
        self.disk.write_zeroes(range).map_err(|error| tell(&error))
    }

    fn flush(&self) -> Result<(), Refusal> {
        self.disk.flush().map_err(|error| tell(&error))
    }
}

/// A guest is told little; the log has the rest.
fn tell(error: &Error) -> Refusal {
    match error.kind {
        Kind::InvalidState => Refusal::ShutDown,
        Kind::DiskFull => {
            tracing::warn!(%error, "a guest is told that its disk has no space");
            Refusal::NoSpace
        }
        _ => {
            tracing::warn!(%error, "a guest is told that its disk has failed");
            Refusal::Io
        }
    }
}
