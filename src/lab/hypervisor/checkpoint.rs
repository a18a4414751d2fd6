//! Checkpoints that the machine's owner takes. They are none of ours: what replicates never lists or touches them.
//!
//! ```text
//! take    base ◄─ live                    ⇒  base ◄─ (frozen) live ◄─ new live
//! apply   base ◄─ frozen ◄─ live          ⇒  base ◄─ frozen ◄─ new live; the old one is discarded, tracking is lost
//! delete  base ◄─ frozen ◄─ live          ⇒  base ◄─ frozen, with what live had        merged in the background
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use crate::formats;
use crate::formats::create::ChildOptions;
use crate::host::lab::failure::of_image;
use crate::host::lab::protocol::UserCheckpoint;
use crate::host::{Error, Kind, PowerState, Result};
use crate::ids::DiskSlot;
use crate::lab::hypervisor::freeze::{at_barrier, child_path, refusal};
use crate::lab::hypervisor::image::Layers;
use crate::lab::hypervisor::machine::{Machine, discard};
use crate::lab::hypervisor::merge;
use crate::lab::hypervisor::record::{CheckpointRecord, Lost, Record};

/// Checkpoints of a machine, as in Hyper-V.
const CHECKPOINTS_MAX: usize = 50;

pub(crate) fn list(record: &Record) -> Vec<UserCheckpoint> {
    record.checkpoints.iter().map(told).collect()
}

fn told(checkpoint: &CheckpointRecord) -> UserCheckpoint {
    UserCheckpoint {
        id: checkpoint.id,
        name: checkpoint.name.clone(),
        taken_at: checkpoint.taken_at,
    }
}

/// Freezes all images of a machine into a checkpoint.
pub(crate) fn take(machine: &Machine, name: &str) -> Result<UserCheckpoint> {
    const OPERATION: &str = "creating checkpoint";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    let slots: Vec<DiskSlot> = record.disks.keys().cloned().collect();
    let refused = refusal(&record, &slots).or_else(|| {
        let full = record.checkpoints.len() >= CHECKPOINTS_MAX;
        let detail = format!("the machine has {CHECKPOINTS_MAX} checkpoints");
        full.then_some((Kind::Unsupported, detail))
    });
    if let Some((kind, detail)) = refused {
        return Err(Error::new(kind, OPERATION, detail));
    }
    let id = Uuid::new_v4();
    let made = |at, images: &BTreeMap<DiskSlot, PathBuf>| CheckpointRecord {
        id,
        name: name.chars().take(100).collect(),
        taken_at: at,
        images: images.clone(),
    };
    let taken = at_barrier(machine, &slots, false, |next, taken| {
        next.checkpoints.push(made(taken.at, &taken.images));
    })?;
    machine.home.context.revisions.bump();
    Ok(told(&made(taken.at, &taken.images)))
}

/// Makes the machine, which is off, what it was at a checkpoint. What it became since is gone.
pub(crate) fn apply(machine: &Machine, id: Uuid) -> Result<()> {
    const OPERATION: &str = "applying checkpoint";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    let checkpoint = find(&record, id, OPERATION)?;
    if record.power != PowerState::Off {
        let detail = format!("the machine is {:?}, it must be Off", record.power);
        return Err(Error::new(Kind::InvalidState, OPERATION, detail));
    }
    refuse_if_busy(&record, OPERATION)?;
    let mut children = BTreeMap::new();
    for slot in checkpoint.images.keys() {
        children.insert(slot.clone(), child_path(machine.disk(slot)?.as_ref())?);
    }
    let store = &machine.home.store;
    store.update(OPERATION, |record| {
        record.discard.extend(children.values().cloned());
    })?;
    for (slot, child) in &children {
        let options = ChildOptions {
            block_size: None,
            identifier: Uuid::new_v4(),
            created: machine.home.context.clock.now(),
        };
        let made = formats::create_child(child, &checkpoint.images[slot], &options);
        made.map_err(|error| of_image(OPERATION, &error).of_disk(slot))?;
    }
    store.update(OPERATION, |record| {
        for (slot, child) in &children {
            record.discard.remove(child);
            let mut left = None;
            record.change_disk(slot, |disk| {
                left = Some(std::mem::replace(&mut disk.path, child.clone()));
                disk.image = None;
                let reason = format!("the checkpoint `{}` was applied", checkpoint.name);
                disk.lose_tracking(Lost::writes(reason));
            });
            record.discard.extend(left);
        }
    })?;
    for disk in machine.disks() {
        disk.drop_tracking()?;
    }
    machine.home.context.revisions.bump();
    discard(&machine.home)
}

/// Merges the newest checkpoint away: the machine goes on as it is.
pub(crate) fn delete(machine: &Arc<Machine>, id: Uuid) -> Result<()> {
    const OPERATION: &str = "deleting checkpoint";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    let checkpoint = find(&record, id, OPERATION)?;
    refuse_if_busy(&record, OPERATION)?;
    let newest = record.checkpoints.last().is_some_and(|last| last.id == id);
    for (slot, image) in &checkpoint.images {
        let live = machine.disk(slot)?.record()?.path;
        let layers =
            Layers::of(&live).map_err(|error| of_image(OPERATION, &error).of_disk(slot))?;
        let below = layers.parent().and_then(|path| fs::canonicalize(path).ok());
        if !newest || below != fs::canonicalize(image).ok() {
            let detail = "only the newest checkpoint, on which the machine stands, can be deleted";
            return Err(Error::new(Kind::Unsupported, OPERATION, detail));
        }
    }
    machine.home.store.update(OPERATION, |record| {
        record.checkpoints.retain(|known| known.id != id);
        for slot in checkpoint.images.keys() {
            record.change_disk(slot, |disk| disk.merging = true);
        }
    })?;
    machine.home.context.revisions.bump();
    merge::start(machine);
    Ok(())
}

fn find(record: &Record, id: Uuid, operation: &'static str) -> Result<CheckpointRecord> {
    let found = record.checkpoints.iter().find(|known| known.id == id);
    found.cloned().ok_or_else(|| {
        let detail = format!("there is no checkpoint {id}");
        Error::new(Kind::PointNotFound, operation, detail)
    })
}

/// While a point of ours stands or merges, the images are its.
pub(crate) fn refuse_if_busy(record: &Record, operation: &'static str) -> Result<()> {
    let detail = match &record.point {
        Some(point) => format!("the point {} is there", point.point.id),
        None if record.is_merging() => "disks are being merged".to_owned(),
        None => return Ok(()),
    };
    Err(Error::new(Kind::Busy, operation, detail))
}
