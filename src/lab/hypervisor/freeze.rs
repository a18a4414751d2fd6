//! Freezes disks of a machine at one instant: one barrier over all of them, and a child for each that is frozen.
//!
//! ```text
//! 1 record: the children's names, to be discarded      killed: nothing was made
//! 2 intents of the next generations                    killed: swept at the next start
//! 3 live images flushed                                as if the guests had asked for it
//!   ── barrier: locks of all disks; answered writes are in, others wait ──
//! 4 live images closed, children made, all durable     killed: children are discarded, the live images are as ever
//! 5 record: children are live, the point or checkpoint exists, the next generations are open     ◄── it is done
//! 6 guests go on, in the children
//!   ── end of the barrier ──
//! 7 maps of the closed generations saved               killed: their intents stand for them
//! ```
//! If 4 or 5 fails, the old images are opened again, guests go on in them, and there is no point.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLockWriteGuard};
use std::thread;

use jiff::Timestamp;
use uuid::Uuid;

use crate::durable;
use crate::host::lab::fault::Place;
use crate::host::{Backing, Error, Kind, PowerState, Result, TrackingCursor};
use crate::ids::DiskSlot;
use crate::lab::hypervisor::disk::freezing::Child;
use crate::lab::hypervisor::disk::{Disk, State};
use crate::lab::hypervisor::image_state::ImageState;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::record::Record;
use crate::lab::hypervisor::tracking::{Next, Unsaved};
use crate::report;

const OPERATION: &str = "freeze the disks";

/// What a barrier has taken.
pub(crate) struct Taken {
    pub(crate) at: Timestamp,
    /// The images that are frozen from now on.
    pub(crate) images: BTreeMap<DiskSlot, PathBuf>,
    /// From where changes after the barrier are counted; only where generations were switched.
    pub(crate) cursors: BTreeMap<DiskSlot, TrackingCursor>,
}

/// What is made ready for one disk.
struct Prepared {
    disk: Arc<Disk>,
    child: PathBuf,
    next: Option<Next>,
}

/// Why the disks cannot be frozen now, if anything keeps them from it.
pub(crate) fn refusal(record: &Record, slots: &[DiskSlot]) -> Option<(Kind, String)> {
    if let Some(busy) = &record.settings.busy {
        return Some((
            Kind::Busy,
            format!("the machine is busy: {}", busy.operation),
        ));
    }
    if record.is_merging() {
        return Some((Kind::Busy, "the machine is busy: merging disks".into()));
    }
    if let Some(point) = &record.point {
        return Some((Kind::Busy, format!("the point {} is there", point.point.id)));
    }
    if slots.is_empty() {
        return Some((Kind::Unsupported, "no disk was named".into()));
    }
    slots.iter().find_map(|slot| match record.disks.get(slot) {
        None => {
            let detail = format!("the machine has no disk {slot}");
            Some((Kind::DiskSetChanged, detail))
        }
        Some(disk) if !disk.is_image() => {
            let detail = format!("disk {slot} is {:?} and cannot be frozen", disk.backing);
            Some((Kind::Unsupported, detail))
        }
        Some(_) => None,
    })
}

/// Freezes `slots`, and lets `record` say what for. With `counted`, tracked disks begin a new generation.
pub(crate) fn at_barrier(
    machine: &Machine,
    slots: &[DiskSlot],
    counted: bool,
    record: impl FnOnce(&mut Record, &Taken),
) -> Result<Taken> {
    let running = machine.home.store.get().power == PowerState::Running;
    if !running {
        machine.open_disks()?;
    }
    let taken = with_open_disks(machine, slots, counted, record);
    if !running {
        machine.close_disks();
    }
    taken
}

fn with_open_disks(
    machine: &Machine,
    slots: &[DiskSlot],
    counted: bool,
    record: impl FnOnce(&mut Record, &Taken),
) -> Result<Taken> {
    let slots: BTreeSet<&DiskSlot> = slots.iter().collect();
    let mut prepared = Vec::new();
    for disk in machine.disks() {
        if slots.contains(&disk.slot) {
            let next = if counted { disk.prepare()? } else { None };
            let child = child_path(&disk)?;
            prepared.push(Prepared { disk, child, next });
        }
    }
    let children: Vec<PathBuf> = prepared.iter().map(|each| each.child.clone()).collect();
    let store = &machine.home.store;
    store.update(OPERATION, |record| record.discard.extend(children.clone()))?;
    for each in &prepared {
        each.disk.settle()?;
    }
    match hold_barrier(machine, prepared, record) {
        Ok((taken, unsaved)) => {
            for (disk, unsaved) in unsaved {
                unsaved.save().unwrap_or_else(|error| disk.warn(&error));
            }
            Ok(taken)
        }
        Err(error) => {
            discard(machine, &children);
            Err(error)
        }
    }
}

/// A disk that is to be frozen, with its lock.
type Held<'a> = (Prepared, RwLockWriteGuard<'a, State>);
/// Maps that are to be saved after the barrier.
type ToSave = Vec<(Arc<Disk>, Unsaved)>;

fn hold_barrier(
    machine: &Machine,
    prepared: Vec<Prepared>,
    record: impl FnOnce(&mut Record, &Taken),
) -> Result<(Taken, ToSave)> {
    let disks = machine.disks();
    let mut waiting: BTreeMap<DiskSlot, Prepared> = prepared
        .into_iter()
        .map(|each| (each.disk.slot.clone(), each))
        .collect();
    // Always in the order of slots, so that no two who hold several wait for each other.
    let mut held: Vec<Held<'_>> = Vec::new();
    let mut bystanders = Vec::new();
    for disk in &disks {
        let state = disk.exclusive()?;
        match waiting.remove(&disk.slot) {
            Some(mut each) => {
                // A guest's write since then may have cost the disk its tracking: it must not come back with the record.
                each.next = each.next.filter(|_| state.tracker.is_some());
                held.push((each, state));
            }
            None => bystanders.push(state),
        }
    }
    machine.home.strike(Place::Barrier, None, OPERATION)?;
    let at = machine.home.context.clock.now();
    let made = make_children(&mut held, at).and_then(|children| {
        machine.home.strike(Place::ChildrenMade, None, OPERATION)?;
        let taken = taken(&held, at)?;
        commit(machine, &held, &children, &taken, record)?;
        Ok((children, taken))
    });
    match made {
        Ok((children, taken)) => {
            // Nothing can be undone any more.
            let _ = machine.home.strike(Place::Frozen, None, OPERATION);
            Ok((taken, go_on(held, children)))
        }
        Err(error) => {
            for (each, state) in &mut held {
                each.disk.go_back(state, &each.child);
            }
            Err(error)
        }
    }
}

/// Makes the children of all disks at once: each waits mostly for its files to be durable.
fn make_children(held: &mut [Held<'_>], at: Timestamp) -> Result<Vec<Child>> {
    thread::scope(|scope| {
        let makers: Vec<_> = held
            .iter_mut()
            .map(|(each, state)| {
                let (disk, child, state) = (&each.disk, &each.child, &mut **state);
                scope.spawn(move || disk.make_child(state, child, at))
            })
            .collect();
        let made: Vec<Result<Child>> = makers
            .into_iter()
            .map(|maker| {
                maker.join().unwrap_or_else(|_| {
                    let detail = "making a child ended in the middle";
                    Err(Error::new(Kind::Internal, OPERATION, detail))
                })
            })
            .collect();
        made.into_iter().collect()
    })
}

fn taken(held: &[Held<'_>], at: Timestamp) -> Result<Taken> {
    let mut taken = Taken {
        at,
        images: BTreeMap::new(),
        cursors: BTreeMap::new(),
    };
    for (each, _) in held {
        let slot = &each.disk.slot;
        taken.images.insert(slot.clone(), each.disk.record()?.path);
        if let Some(next) = &each.next {
            let cursor = next.generations.cursor(slot, next.generations.open);
            taken.cursors.insert(slot.clone(), cursor.opaque());
        }
    }
    Ok(taken)
}

/// The one replacement of the record that makes it so.
fn commit(
    machine: &Machine,
    held: &[Held<'_>],
    children: &[Child],
    taken: &Taken,
    record: impl FnOnce(&mut Record, &Taken),
) -> Result<()> {
    machine.home.store.update(OPERATION, |next| {
        for ((each, _), child) in held.iter().zip(children) {
            next.discard.remove(&each.child);
            next.change_disk(&each.disk.slot, |disk| {
                disk.path = each.child.clone();
                disk.image = Some(ImageState::AtRest(child.fingerprint.clone()));
                if let Some(generations) = &each.next {
                    disk.tracking = Some(generations.generations.clone());
                }
            });
        }
        record(next, taken);
    })
}

/// Memory follows the record.
fn go_on(held: Vec<Held<'_>>, children: Vec<Child>) -> ToSave {
    let mut unsaved = Vec::new();
    for ((each, mut state), child) in held.into_iter().zip(children) {
        Disk::go_on_in(&mut state, child);
        if let (Some(next), Some(tracker)) = (each.next, &mut state.tracker) {
            unsaved.push((Arc::clone(&each.disk), tracker.switch(next)));
        }
    }
    unsaved
}

/// Removes children of a freeze that failed. What cannot be removed now is removed at the next start.
fn discard(machine: &Machine, children: &[PathBuf]) {
    let removed = children.iter().all(|child| {
        let removed = durable::remove(child);
        removed
            .inspect_err(|error| tracing::warn!(error = report::chain(error), "a child is left"))
            .is_ok()
    });
    if removed {
        let forgotten = machine.home.store.update(OPERATION, |record| {
            record.discard.retain(|path| !children.contains(path));
        });
        if let Err(error) = forgotten {
            tracing::warn!(%error, "names of removed files are left");
        }
    }
}

/// Beside the live image, with a name that nobody else draws: as Hyper-V calls it.
pub(crate) fn child_path(disk: &Disk) -> Result<PathBuf> {
    let record = disk.record()?;
    let extension = match record.backing {
        Backing::Vhd => "avhd",
        _ => "avhdx",
    };
    let stem = base_stem(&record.path);
    let id = Uuid::new_v4().hyphenated().to_string().to_uppercase();
    Ok(record
        .path
        .with_file_name(format!("{stem}_{id}.{extension}")))
}

/// The name of a disk without the id of a checkpoint.
fn base_stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match stem.rsplit_once('_') {
        Some((base, id)) if id.len() == 36 && Uuid::parse_str(id).is_ok() => base.to_owned(),
        _ => stem.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_a_child_is_named_after_the_disk() {
        for path in [
            "/x/web_1.vhdx",
            "/x/web_1_6F9619FF-8B86-D011-B42D-00C04FC964FF.avhdx",
        ] {
            assert_eq!(base_stem(Path::new(path)), "web_1");
        }
    }
}
