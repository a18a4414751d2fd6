//! Moves a machine to another hypervisor, as its folder: what Hyper-V does by live migration, or by export and import.
//!
//! ```text
//! here:   guests cut off, all on disk ── machines/<name> renamed to a place that both hypervisors reach
//! there:  the record changed as the move wants it ── renamed to machines/<name> ── loaded, and it goes on
//! ```
//! The folder is whole at every moment: a machine that is loaded finds its images where its folder is
//! ([`crate::lab::hypervisor::machine::Machine::load`]). What is tracked lies in it and goes with it, as change tracking
//! lies beside a VHDX; a move that does not keep it, and an import under a new id, leave the disks untracked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::host::lab::spec::{Arrival, MachineSpec};
use crate::host::{Error, Kind, Result};
use crate::ids::VmId;
use crate::lab::hypervisor::create;
use crate::lab::hypervisor::home::Home;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::record::{Lost, Record};
use crate::lab::hypervisor::store::{of_durable, of_io};

/// Ends a machine here and puts its folder at `to`, where nothing may be yet.
pub(crate) fn hand_over(machine: &Machine, to: &Path) -> Result<()> {
    const OPERATION: &str = "moving machine away";
    if to.exists() {
        let detail = format!("{} is there already", to.display());
        return Err(Error::new(Kind::InvalidState, OPERATION, detail));
    }
    // Nothing begins on it any more: whoever still holds the machine finds it busy.
    std::mem::forget(machine.work.begin(OPERATION)?);
    machine.end();
    rename(&machine.home.folder, to, OPERATION)
}

/// Makes the folder at `from` one of `machines`: where it is now, and whose it is.
pub(crate) fn take_in(
    machines: &Path,
    from: &Path,
    arrival: &Arrival,
    is_free: impl FnOnce(&VmId) -> bool,
) -> Result<PathBuf> {
    const OPERATION: &str = "taking machine in";
    let path = Home::record_path(from);
    let record = durable::read_record::<Record>(&path);
    let record = record.map_err(|error| of_durable(OPERATION, &error))?;
    let refuse = |detail: String| Error::new(Kind::InvalidState, OPERATION, detail);
    let before = record.ok_or_else(|| refuse(format!("{} is no machine", from.display())))?;
    let record = arrived(before.clone(), arrival);
    create::check(&MachineSpec::new(&record.name)).map_err(refuse)?;
    let folder = machines.join(&record.name);
    if folder.exists() || !is_free(&record.id) {
        return Err(refuse(format!(
            "there is a machine {} or of the id {}",
            record.name, record.id
        )));
    }
    if record != before {
        durable::write_record(&path, &record).map_err(|error| of_durable(OPERATION, &error))?;
    }
    rename(from, &folder, OPERATION)?;
    Ok(folder)
}

/// The record of a machine that has arrived. Nothing of ours follows a machine that has become another.
fn arrived(mut record: Record, arrival: &Arrival) -> Record {
    if let Some(name) = &arrival.name {
        record.name.clone_from(name);
    }
    if let Some(reason) = &arrival.tracking_lost {
        for disk in record.disks.values_mut() {
            disk.lose_tracking(Lost::writes(reason.clone()));
        }
    }
    let Some(id) = &arrival.id else { return record };
    record.id = id.clone();
    record.committed.clear();
    if let Some(point) = record.point.take() {
        for slot in point.images.keys() {
            record.change_disk(slot, |disk| disk.merging = true);
        }
    }
    for disk in record.disks.values_mut() {
        disk.tracking = None;
        disk.tracking_lost = None;
    }
    record
}

fn rename(from: &Path, to: &Path, operation: &'static str) -> Result<()> {
    let failed = |error: io::Error| {
        let detail = format!("{} to {}: {error}", from.display(), to.display());
        Error::new(of_io(&error), operation, detail)
    };
    fs::rename(from, to).map_err(failed)?;
    for folder in [from, to].into_iter().filter_map(Path::parent) {
        durable::sync_folder(folder).map_err(|error| of_durable(operation, &error))?;
    }
    Ok(())
}
