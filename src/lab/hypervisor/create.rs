//! Makes machines and their disks, and takes them away.
//!
//! ```text
//! create:  machines/.new-<id>/ with images and record, all durable ── renamed to machines/<name>
//! delete:  machines/<name> renamed to machines/.deleted-<id> ── removed
//! ```
//! What a kill leaves begins with a dot and is swept at the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use uuid::Uuid;

use crate::durable;
use crate::formats::create::{Allocation, ChildOptions, CreateOptions};
use crate::formats::info::Format;
use crate::formats::{self, OpenOptions, Parents};
use crate::host::lab::failure::of_image;
use crate::host::lab::spec::{DiskContent, DiskSpec, ImageFormat, ImageKind, MachineSpec};
use crate::host::{Backing, BootGeneration, Error, Kind, PowerState, Result};
use crate::ids::{DiskSlot, VmId};
use crate::lab::hypervisor::checkpoint::refuse_if_busy;
use crate::lab::hypervisor::home::Home;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::record::{DiskRecord, Record, VERSION};
use crate::lab::hypervisor::store::{of_durable, of_io};

/// Disks of a machine: as many as four SCSI controllers have.
const DISKS_MAX: usize = 256;
const NAME_MAX: usize = 64;
const NEW: &str = ".new-";
const DELETED: &str = ".deleted-";

/// Makes the folder of a new machine among `machines`. Nothing of it is there if it fails.
pub(crate) fn create(machines: &Path, spec: &MachineSpec, now: Timestamp) -> Result<PathBuf> {
    const OPERATION: &str = "create a machine";
    check(spec).map_err(|detail| Error::new(Kind::Unsupported, OPERATION, detail))?;
    let (new, folder) = (
        machines.join(format!("{NEW}{}", Uuid::new_v4())),
        machines.join(&spec.name),
    );
    if folder.exists() {
        let detail = format!("{} is there already", folder.display());
        return Err(Error::new(Kind::InvalidState, OPERATION, detail));
    }
    fs::create_dir(&new).map_err(|error| of_path(OPERATION, &new, &error))?;
    let made = fill(&new, &folder, spec, now).and_then(|()| {
        fs::rename(&new, &folder).map_err(|error| of_path(OPERATION, &folder, &error))?;
        durable::sync_folder(machines).map_err(|error| of_durable(OPERATION, &error))
    });
    made.inspect_err(|_| {
        // Swept at the next start if it cannot be removed now.
        let _ = fs::remove_dir_all(&new);
    })?;
    Ok(folder)
}

/// Writes images and record into `new`, as they will be found in `folder`.
fn fill(new: &Path, folder: &Path, spec: &MachineSpec, now: Timestamp) -> Result<()> {
    const OPERATION: &str = "create a machine";
    let id = spec.id.clone().unwrap_or_else(draw);
    let mut disks = BTreeMap::new();
    for disk in &spec.disks {
        let name = file_name(&spec.name, disk);
        let record = make_disk(&new.join(&name), &folder.join(&name), disk, now)?;
        disks.insert(disk.slot.clone(), record);
    }
    let record = Record {
        version: VERSION,
        folder: Some(folder.to_owned()),
        id,
        name: spec.name.clone(),
        boot: spec.boot,
        settings: spec.settings.clone(),
        power: PowerState::Off,
        disks,
        point: None,
        committed: Vec::new(),
        checkpoints: Vec::new(),
        discard: BTreeSet::new(),
    };
    durable::write_record(&Home::record_path(new), &record)
        .map_err(|error| of_durable(OPERATION, &error))
}

fn draw() -> VmId {
    let id = Uuid::new_v4().hyphenated().to_string();
    id.parse().expect("a hyphenated UUID is a VM id")
}

/// Makes the image of a disk at `path`, if it is to be made; the record will find it at `found_at`.
fn make_disk(path: &Path, found_at: &Path, disk: &DiskSpec, now: Timestamp) -> Result<DiskRecord> {
    const OPERATION: &str = "make a disk";
    let failed = |error: formats::Error| of_image(OPERATION, &error).of_disk(&disk.slot);
    match &disk.content {
        DiskContent::New { .. } => {
            let backing = make_image(path, &disk.content, now).map_err(failed)?;
            Ok(DiskRecord::new(backing, found_at.to_owned(), 0))
        }
        DiskContent::Existing { path } => {
            // Its parents may be missing: then the disk is there and has a problem.
            let options = OpenOptions {
                parents: Parents::Ignored,
                ..OpenOptions::default()
            };
            let image = formats::open(path, &options).map_err(failed)?;
            let backing = backing(image.info().format);
            let path = fs::canonicalize(path).map_err(|error| of_path(OPERATION, path, &error))?;
            Ok(DiskRecord::new(backing, path, 0))
        }
        DiskContent::Foreign {
            backing: backing @ (Backing::PassThrough | Backing::Shared | Backing::Other),
            name,
            size,
        } => Ok(DiskRecord::new(*backing, name.into(), *size)),
        DiskContent::Foreign { backing, .. } => {
            let detail = format!("{backing:?} is an image, not something foreign");
            Err(Error::new(Kind::Unsupported, OPERATION, detail).of_disk(&disk.slot))
        }
    }
}

fn make_image(path: &Path, content: &DiskContent, now: Timestamp) -> formats::Result<Backing> {
    let DiskContent::New {
        format,
        kind,
        size,
        block_size,
        logical_sector,
        physical_sector,
    } = content
    else {
        return Ok(Backing::Other);
    };
    let format = match format {
        ImageFormat::Vhd => Format::Vhd,
        ImageFormat::Vhdx => Format::Vhdx,
    };
    let (identifier, block_size) = (Uuid::new_v4(), *block_size);
    let allocation = match kind {
        ImageKind::Fixed => Allocation::Fixed,
        ImageKind::Dynamic => Allocation::Dynamic,
        ImageKind::Differencing { parent } => {
            let options = ChildOptions {
                block_size,
                identifier,
                created: now,
            };
            let image = formats::create_child(path, parent, &options)?;
            let made = backing(image.image().info().format);
            image.close()?;
            return Ok(made);
        }
    };
    let mut options = CreateOptions::new(format, allocation, *size, identifier, now);
    options.logical_sector = *logical_sector;
    options.block_size = block_size;
    options.physical_sector = match format {
        Format::Vhdx => *physical_sector,
        Format::Vhd | Format::Raw => options.logical_sector,
    };
    formats::create(path, &options)?.close()?;
    Ok(backing(format))
}

const fn backing(format: Format) -> Backing {
    match format {
        Format::Vhd => Backing::Vhd,
        Format::Vhdx => Backing::Vhdx,
        Format::Raw => Backing::Other,
    }
}

/// Attaches a disk to a machine that is off.
pub(crate) fn attach(machine: &Machine, disk: &DiskSpec) -> Result<()> {
    const OPERATION: &str = "attaching disk";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    refuse_unless_off(&record, OPERATION)?;
    let fits = check_slot(record.boot, &disk.slot).and_then(|()| {
        let free = !record.disks.contains_key(&disk.slot) && record.disks.len() < DISKS_MAX;
        free.then_some(())
            .ok_or_else(|| format!("the slot {} is taken", disk.slot))
    });
    fits.map_err(|detail| Error::new(Kind::InvalidState, OPERATION, detail))?;
    let path = machine.home.folder.join(file_name(
        &format!("{}-{}", record.name, Uuid::new_v4()),
        disk,
    ));
    let store = &machine.home.store;
    store.update(OPERATION, |record| record.discard.insert(path.clone()))?;
    let made = make_disk(&path, &path, disk, machine.home.context.clock.now())?;
    store.update(OPERATION, |record| {
        record.discard.remove(&path);
        record.disks.insert(disk.slot.clone(), made);
    })?;
    machine.home.context.revisions.bump();
    machine.follow_disks()
}

/// Takes a disk off a machine that is off. Its image stays.
pub(crate) fn detach(machine: &Machine, slot: &DiskSlot) -> Result<()> {
    const OPERATION: &str = "detaching disk";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    refuse_unless_off(&record, OPERATION)?;
    if !record.disks.contains_key(slot) {
        let detail = format!("the machine has no disk {slot}");
        return Err(Error::new(Kind::DiskSetChanged, OPERATION, detail));
    }
    let removed = machine.disk(slot).ok();
    machine.home.store.update(OPERATION, |record| {
        record.disks.remove(slot);
    })?;
    machine.home.context.revisions.bump();
    machine.follow_disks()?;
    removed.map_or(Ok(()), |disk| disk.drop_tracking())
}

fn refuse_unless_off(record: &Record, operation: &'static str) -> Result<()> {
    refuse_if_busy(record, operation)?;
    if record.power == PowerState::Off {
        return Ok(());
    }
    let detail = format!("the machine is {:?}, it must be Off", record.power);
    Err(Error::new(Kind::InvalidState, operation, detail))
}

/// Removes a machine that is off; with `images`, those that lie in its folder.
pub(crate) fn delete(machine: &Machine, machines: &Path, images: bool) -> Result<()> {
    const OPERATION: &str = "deleting machine";
    let _doing = machine.work.begin(OPERATION)?;
    refuse_unless_off(&machine.home.store.get(), OPERATION)?;
    let folder = &machine.home.folder;
    if images {
        let deleted = machines.join(format!("{DELETED}{}", Uuid::new_v4()));
        fs::rename(folder, &deleted).map_err(|error| of_path(OPERATION, folder, &error))?;
        durable::sync_folder(machines).map_err(|error| of_durable(OPERATION, &error))?;
        return fs::remove_dir_all(&deleted).map_err(|error| of_path(OPERATION, &deleted, &error));
    }
    durable::remove(machine.home.store.path()).map_err(|error| of_durable(OPERATION, &error))?;
    machine
        .disks()
        .iter()
        .try_for_each(|disk| disk.drop_tracking())
}

/// Removes what a kill has left of machines that were being made or deleted.
pub(crate) fn sweep(machines: &Path) -> io::Result<()> {
    for entry in fs::read_dir(machines)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(NEW) || name.starts_with(DELETED) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn check(spec: &MachineSpec) -> std::result::Result<(), String> {
    let name = &spec.name;
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !(1..=NAME_MAX).contains(&name.len())
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name.chars().all(known)
    {
        let name: String = name.chars().take(NAME_MAX).collect();
        return Err(format!(
            "`{name}` is no machine's name: 1 to {NAME_MAX} letters, digits, `-`, `_` or `.`"
        ));
    }
    if spec.disks.len() > DISKS_MAX {
        return Err(format!("a machine has at most {DISKS_MAX} disks"));
    }
    let mut slots = BTreeSet::new();
    for disk in &spec.disks {
        check_slot(spec.boot, &disk.slot)?;
        if !slots.insert(&disk.slot) {
            return Err(format!("the slot {} is taken twice", disk.slot));
        }
    }
    Ok(())
}

/// Hyper-V has two IDE controllers with two places each, in the first generation only, and four of SCSI with 64.
fn check_slot(boot: BootGeneration, slot: &DiskSlot) -> std::result::Result<(), String> {
    let parts: Vec<&str> = slot.as_str().split(':').collect();
    let number = |index: usize| parts.get(index).and_then(|part| part.parse::<u8>().ok());
    let (controller, location) = (number(1).unwrap_or(u8::MAX), number(2).unwrap_or(u8::MAX));
    let fits = match (parts[0], boot) {
        ("ide", BootGeneration::Gen1) => controller < 2 && location < 2,
        ("ide", BootGeneration::Gen2) => false,
        _ => controller < 4 && location < 64,
    };
    fits.then_some(())
        .ok_or_else(|| format!("a machine of {boot:?} has no slot {slot}"))
}

fn file_name(machine: &str, disk: &DiskSpec) -> String {
    let extension = match &disk.content {
        DiskContent::New {
            format: ImageFormat::Vhd,
            ..
        } => "vhd",
        _ => "vhdx",
    };
    let slot = disk.slot.as_str().replace(':', "-");
    format!("{machine}-{slot}.{extension}")
}

fn of_path(operation: &'static str, path: &Path, error: &io::Error) -> Error {
    let detail = format!("{}: {error}", path.display());
    Error::new(of_io(error), operation, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_leave_its_folder_is_refused() {
        for wrong in ["", "..", "a/b", ".new-x", &"a".repeat(65), "ä"] {
            assert!(check(&MachineSpec::new(wrong)).is_err(), "{wrong}");
        }
        assert!(check(&MachineSpec::new("web-1.example")).is_ok());
    }

    #[test]
    fn slots_are_those_of_the_generation() {
        let fits = |boot, slot: &str| check_slot(boot, &slot.parse().unwrap()).is_ok();
        assert!(fits(BootGeneration::Gen1, "ide:1:1"));
        assert!(!fits(BootGeneration::Gen1, "ide:2:0"));
        assert!(!fits(BootGeneration::Gen2, "ide:0:0"));
        assert!(fits(BootGeneration::Gen2, "scsi:3:63"));
        assert!(!fits(BootGeneration::Gen2, "scsi:0:64"));
    }
}
