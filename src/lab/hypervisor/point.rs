//! Frozen points of ours: taken, opened, asked for changes, and released.
//!
//! ```text
//!  freeze ──► frozen ──commit───► committed: a cursor, remembered until it is forgotten ─┐
//!                └─────abandon──► gone; tracking goes on counting from before ───────────┴─► merge, in the background
//! ```
//! There is one frozen point at a time. Releasing it is one replacement of the record; then its marker loses its name,
//! so that nobody believes what it reads from then on, and only then the merge begins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::host::lab::fault::Place;
use crate::host::lab::protocol::{Changed, FrozenChain};
use crate::host::lab::spec::Hooks;
use crate::host::{
    Consistency, Error, FrozenPoint, Kind, PowerState, RANGES_MAX, Result, TrackingCursor,
};
use crate::ids::{DiskSlot, FrozenPointId};
use crate::lab::hypervisor::freeze::{at_barrier, refusal};
use crate::lab::hypervisor::hook;
use crate::lab::hypervisor::image::Layers;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::merge;
use crate::lab::hypervisor::record::{CommittedRecord, PointRecord};
use crate::lab::hypervisor::store::of_io;
use crate::lab::hypervisor::tracking::cursor::Cursor;
use crate::report::{Code, Fault};
use crate::units::ByteRange;

/// Hooks have their own time; this bounds what they may ask for.
const HOOK_MAX: Duration = Duration::from_secs(600);
/// Committed points whose cursors are remembered: an agent asks for the last one, and forgets those before.
const COMMITTED_MAX: usize = 64;

/// Freezes disks into a point of ours.
pub(crate) fn freeze(
    machine: &Arc<Machine>,
    slots: &[DiskSlot],
    wanted: Consistency,
) -> Result<FrozenPoint> {
    const OPERATION: &str = "creating checkpoint";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    if let Some((kind, detail)) = refusal(&record, slots) {
        return Err(Error::new(kind, OPERATION, detail));
    }
    let id: FrozenPointId = Uuid::new_v4()
        .to_string()
        .parse()
        .expect("a UUID is visible ASCII");
    let marker = make_marker(machine, &id)?;
    let running = record.power == PowerState::Running;
    let (consistency, fallback) = quiesce(&record.settings.hooks, wanted, running);
    let taken = at_barrier(machine, slots, true, |next, taken| {
        next.point = Some(PointRecord {
            point: FrozenPoint {
                id: id.clone(),
                taken_at: taken.at,
                consistency,
                fallback: fallback.clone(),
                disks: taken.images.keys().cloned().collect(),
            },
            images: taken.images.clone(),
            cursors: taken.cursors.clone(),
        });
    });
    if wanted == Consistency::Application && running {
        thaw(machine, &record.settings.hooks);
    }
    let taken = taken.inspect_err(|_| {
        let _ = fs::remove_file(&marker);
    })?;
    machine.fold_generations();
    machine.home.context.revisions.bump();
    Ok(FrozenPoint {
        id,
        taken_at: taken.at,
        consistency,
        fallback,
        disks: taken.images.into_keys().collect(),
    })
}

/// Asks the guest to write what its applications hold: what that came to, and why it is less than was wanted.
fn quiesce(hooks: &Hooks, wanted: Consistency, running: bool) -> (Consistency, Option<Fault>) {
    if wanted == Consistency::Crash {
        return (Consistency::Crash, None);
    }
    let failed = match &hooks.quiesce {
        _ if !running => "the machine does not run: there is nobody to ask".to_owned(),
        None => "the guest offers no such service (the machine has no quiesce hook)".to_owned(),
        Some(hook) => match hook::run(hook, HOOK_MAX) {
            Ok(()) => return (Consistency::Application, None),
            Err(error) => crate::report::chain(&error),
        },
    };
    let fallback = Fault::new(Code::GuestQuiesceFailed, failed);
    (Consistency::Crash, Some(fallback))
}

/// Lets applications go on. A guest that does not hear it is its owner's business; the point stands.
fn thaw(machine: &Machine, hooks: &Hooks) {
    if let Some(hook) = &hooks.thaw
        && let Err(error) = hook::run(hook, HOOK_MAX)
    {
        let error = crate::report::chain(&error);
        tracing::warn!(vm = %machine.home.vm, error, "the guest was not thawed");
    }
}

fn make_marker(machine: &Machine, point: &FrozenPointId) -> Result<PathBuf> {
    let marker = machine.home.marker(point);
    let made = fs::create_dir_all(machine.home.points_folder())
        .and_then(|()| File::create(&marker).map(drop));
    made.map_err(|error| {
        let detail = format!("cannot make {}: {error}", marker.display());
        Error::new(of_io(&error), "freeze the disks", detail)
    })?;
    Ok(marker)
}

/// The point that is frozen, if it is this one.
fn frozen(machine: &Machine, id: &FrozenPointId, operation: &'static str) -> Result<PointRecord> {
    let record = machine.home.store.get();
    let point = record.point.as_ref().filter(|point| point.point.id == *id);
    point.cloned().ok_or_else(|| {
        let detail = format!("there is no point {id}");
        Error::new(Kind::PointNotFound, operation, detail)
    })
}

/// The files of a frozen disk.
pub(crate) fn open(machine: &Machine, id: &FrozenPointId, slot: &DiskSlot) -> Result<FrozenChain> {
    const OPERATION: &str = "open a frozen disk";
    let point = frozen(machine, id, OPERATION)?;
    let image = point.images.get(slot).ok_or_else(|| {
        let detail = "the point does not have this disk";
        Error::new(Kind::DiskSetChanged, OPERATION, detail).of_disk(slot)
    })?;
    let layers = Layers::of(image)
        .map_err(|error| crate::host::lab::failure::of_image(OPERATION, &error).of_disk(slot))?;
    Ok(FrozenChain {
        layers: layers.paths().map(Into::into).collect(),
        marker: machine.home.marker(id),
    })
}

/// What changed on a disk between a cursor and a frozen point.
pub(crate) fn changes(
    machine: &Machine,
    id: &FrozenPointId,
    slot: &DiskSlot,
    since: &TrackingCursor,
    window: ByteRange,
) -> Result<Changed> {
    const OPERATION: &str = "find what changed on a disk";
    let error = |kind, detail: String| Error::new(kind, OPERATION, detail).of_disk(slot);
    let lost = |detail| error(Kind::TrackingLost, detail);
    let point = frozen(machine, id, OPERATION)?;
    let disk = machine.disk(slot)?;
    let state = disk.shared()?;
    // What ended the tracking that the cursor is of, where somebody knows.
    let ended = |otherwise: String| match disk.record().ok().and_then(|disk| disk.tracking_lost) {
        Some(known) => error(known.kind, known.reason),
        None => lost(otherwise),
    };
    let tracker = state.tracker.as_ref();
    let tracker = tracker.ok_or_else(|| ended("the disk is not tracked".to_owned()))?;
    let generations = tracker.generations();
    let since = Cursor::parse(since)
        .ok_or_else(|| lost("the cursor is of another kind or version".to_owned()))?;
    let first = generations.first_of(&since, slot);
    let first = first.map_err(|why| match since.tracking == generations.tracking {
        true => lost(why),
        false => ended(why),
    })?;
    let own = point.cursors.get(slot).and_then(Cursor::parse);
    let own = own.filter(|own| own.tracking == generations.tracking);
    let own = own.ok_or_else(|| lost("the disk was not tracked when it was frozen".to_owned()))?;
    if first > own.generation {
        return Err(lost("the cursor is younger than the point".to_owned()));
    }
    if window.end() > generations.size {
        let detail = format!(
            "{window} leaves the disk, which has {} bytes",
            generations.size
        );
        return Err(error(Kind::Internal, detail));
    }
    let (ranges, covered) = tracker.changes((first, own.generation - 1), window, RANGES_MAX);
    Ok(Changed { ranges, covered })
}

/// Makes a point what changes are counted from, and lets it merge away.
pub(crate) fn commit(
    machine: &Arc<Machine>,
    id: &FrozenPointId,
) -> Result<BTreeMap<DiskSlot, TrackingCursor>> {
    const OPERATION: &str = "releasing checkpoint";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    if let Some(known) = record.committed.iter().find(|known| known.point == *id) {
        return Ok(known.cursors.clone());
    }
    let cursors = frozen(machine, id, OPERATION)?.cursors;
    release(machine, OPERATION, Some(&cursors))?;
    Ok(cursors)
}

/// Lets a point merge away as if it had never been. One that is not there is gone already.
pub(crate) fn abandon(machine: &Arc<Machine>, id: &FrozenPointId) -> Result<()> {
    const OPERATION: &str = "abandoning checkpoint";
    let _doing = machine.work.begin(OPERATION)?;
    let record = machine.home.store.get();
    if record.committed.iter().any(|known| known.point == *id) {
        let detail = format!("the point {id} was committed");
        return Err(Error::new(Kind::InvalidState, OPERATION, detail));
    }
    match frozen(machine, id, OPERATION) {
        Ok(_) => release(machine, OPERATION, None),
        Err(_) => Ok(()),
    }
}

/// Takes the point out of the record, with the cursors that it becomes, and begins the merge.
fn release(
    machine: &Arc<Machine>,
    operation: &'static str,
    cursors: Option<&BTreeMap<DiskSlot, TrackingCursor>>,
) -> Result<()> {
    machine.home.store.update(operation, |record| {
        let Some(point) = record.point.take() else {
            return;
        };
        for slot in point.images.keys() {
            record.change_disk(slot, |disk| disk.merging = true);
        }
        record
            .committed
            .extend(cursors.map(|cursors| CommittedRecord {
                point: point.point.id,
                cursors: cursors.clone(),
            }));
        let beyond = record.committed.len().saturating_sub(COMMITTED_MAX);
        record.committed.drain(..beyond);
    })?;
    // Nothing can be undone any more.
    let _ = machine.home.strike(Place::Released, None, operation);
    machine.home.context.revisions.bump();
    merge::start(machine);
    Ok(())
}

/// Drops what only cursors older than `keep` need. A disk that `keep` does not name keeps all.
pub(crate) fn forget(machine: &Machine, keep: &[TrackingCursor]) -> Result<()> {
    const OPERATION: &str = "forgetting cursors";
    let _doing = machine.work.begin(OPERATION)?;
    let kept: Vec<Cursor> = keep.iter().filter_map(Cursor::parse).collect();
    let oldest = |slot: &DiskSlot, tracking: Uuid| {
        let of_disk = kept
            .iter()
            .filter(|cursor| cursor.slot == *slot && cursor.tracking == tracking);
        of_disk.map(|cursor| cursor.generation).min()
    };
    let needed = |known: &CommittedRecord| {
        known.cursors.iter().any(|(slot, cursor)| {
            Cursor::parse(cursor).is_some_and(|cursor| {
                oldest(slot, cursor.tracking).is_none_or(|oldest| cursor.generation >= oldest)
            })
        })
    };
    machine.home.store.update(OPERATION, |record| {
        record.committed.retain(needed);
        for (slot, disk) in &mut record.disks {
            if let Some(generations) = &mut disk.tracking
                && let Some(oldest) = oldest(slot, generations.tracking)
            {
                *generations = generations.forgotten_before(oldest);
            }
        }
    })?;
    machine.follow_generations(OPERATION)
}

/// Starts to track disks that are not tracked yet.
pub(crate) fn start_tracking(machine: &Machine, slots: &[DiskSlot]) -> Result<()> {
    const OPERATION: &str = "starting to track";
    let _doing = machine.work.begin(OPERATION)?;
    let slots: BTreeSet<_> = slots.iter().collect();
    let disks: Result<Vec<_>> = slots.into_iter().map(|slot| machine.disk(slot)).collect();
    disks?.iter().try_for_each(|disk| disk.start_tracking())
}

/// Ends tracking, and removes all that is ours.
pub(crate) fn stop_tracking(machine: &Arc<Machine>) -> Result<()> {
    const OPERATION: &str = "ending tracking";
    let _doing = machine.work.begin(OPERATION)?;
    if machine.home.store.get().point.is_some() {
        release(machine, OPERATION, None)?;
    }
    machine.home.store.update(OPERATION, |record| {
        record.committed.clear();
        for disk in record.disks.values_mut() {
            disk.tracking = None;
            disk.tracking_lost = None;
        }
    })?;
    machine
        .disks()
        .iter()
        .try_for_each(|disk| disk.drop_tracking())
}
