//! A machine as [`crate::host::Machine`]: the record, and what its images say.

use std::path::Path;

use crate::host::lab::failure::of_image;
use crate::host::{self, Backing, BootGeneration, Busy, Volume};
use crate::ids::DiskSlot;
use crate::lab::hypervisor::disk::Shape;
use crate::lab::hypervisor::image::Layers;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::record::{DiskRecord, Record};
use crate::report::{Code, Fault};

pub(crate) fn describe(machine: &Machine) -> host::Machine {
    let record = machine.home.store.get();
    let boot = boot_slot(&record);
    let disks = record
        .disks
        .iter()
        .map(|(slot, disk)| describe_disk(machine, &record, slot, disk, boot == Some(slot)));
    let settings = &record.settings;
    host::Machine {
        id: record.id.clone(),
        name: record.name.clone(),
        boot: record.boot,
        power: record.power,
        start_action: Some(settings.start_action),
        busy: busy(machine, &record),
        processors: settings.processors,
        memory_mib: settings.memory_mib,
        secure_boot: settings.secure_boot && record.boot == BootGeneration::Gen2,
        guest_os: settings.guest_os.clone(),
        replicated_by: settings.replicated_by.clone(),
        disks: disks.collect(),
        network_adapters: settings.network_adapters.clone(),
    }
}

fn busy(machine: &Machine, record: &Record) -> Option<Busy> {
    let doing = machine.work.doing().map(|doing| Busy {
        operation: doing.into(),
        percent: None,
    });
    let merging = record.is_merging().then(|| machine.merger.busy());
    record.settings.busy.clone().or(doing).or(merging)
}

/// A BIOS boots from the first IDE disk, UEFI from the first of all.
fn boot_slot(record: &Record) -> Option<&DiskSlot> {
    match record.boot {
        BootGeneration::Gen1 => record
            .disks
            .keys()
            .find(|slot| slot.as_str().starts_with("ide:")),
        BootGeneration::Gen2 => record.disks.keys().min_by_key(|slot| numbers(slot)),
    }
}

/// Controller and location: `scsi:0:10` comes after `scsi:0:2`.
fn numbers(slot: &DiskSlot) -> Vec<u8> {
    let parts = slot.as_str().split(':').skip(1);
    parts.filter_map(|part| part.parse().ok()).collect()
}

fn describe_disk(
    machine: &Machine,
    record: &Record,
    slot: &DiskSlot,
    disk: &DiskRecord,
    boot: bool,
) -> host::Disk {
    let (shape, problem) = if disk.is_image() {
        match shape_of(machine, slot, disk) {
            Ok(shape) => (Some(shape), None),
            Err(problem) => (None, Some(problem)),
        }
    } else {
        (None, None)
    };
    let in_file = matches!(disk.backing, Backing::Vhd | Backing::Vhdx | Backing::Shared);
    let volume = record
        .settings
        .volume
        .clone()
        .or_else(|| volume_of(&disk.path));
    host::Disk {
        slot: slot.clone(),
        backing: disk.backing,
        path: disk.path.display().to_string(),
        virtual_size: shape.map_or(disk.foreign_size, |shape| shape.size),
        logical_sector: shape.map_or(0, |shape| shape.logical_sector),
        physical_sector: shape.map_or(0, |shape| shape.physical_sector),
        identifier: shape.and_then(|shape| shape.identifier),
        boot,
        volume: volume.filter(|_| in_file),
        problem,
    }
}

/// What an image is like: known while it is open, read from its file otherwise.
fn shape_of(machine: &Machine, slot: &DiskSlot, record: &DiskRecord) -> Result<Shape, Fault> {
    let open = machine.disk(slot).ok().and_then(|disk| disk.shape());
    if let Some(shape) = open {
        return Ok(shape);
    }
    let layers = Layers::of(&record.path).map_err(|error| {
        // A disk without its file is a chain without an end.
        let code = match error.kind() {
            crate::formats::Kind::NotFound => Code::BrokenDiskChain,
            _ => error.code(),
        };
        let error = of_image("examine a disk", &error).on(&machine.home.vm);
        Fault::of(code, &error.of_disk(slot))
    })?;
    Ok(Shape::of(&layers))
}

/// The file system that a file lies on, named after where it is mounted.
fn volume_of(path: &Path) -> Option<Volume> {
    use std::os::unix::fs::MetadataExt as _;
    let folder = path.parent()?;
    let found = rustix::fs::statvfs(folder).ok()?;
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    let own = device(folder)?;
    let mount = folder
        .ancestors()
        .take_while(|ancestor| device(ancestor) == Some(own))
        .last()?;
    Some(Volume {
        name: mount.display().to_string(),
        free: found.f_bavail.saturating_mul(found.f_frsize),
        size: found.f_blocks.saturating_mul(found.f_frsize),
    })
}
