//! Merges the released images of a machine away, in the background, one disk after another.
//!
//! The record says which disks are to be merged; this thread does it until none is left, however often it fails or the
//! process is killed. Before it writes the first byte, markers of points that are no more lose their names.
//!
//! Guests come first: whenever one had to wait, the merge rests for as long as it took itself.

use std::fs;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::host::lab::fault::Place;
use crate::host::{Busy, Error, Kind, Result};
use crate::lab::hypervisor::disk::Disk;
use crate::lab::hypervisor::disk::merging::Progress;
use crate::lab::hypervisor::machine::Machine;
use crate::lab::hypervisor::store::{lock, of_io};
use crate::units::MIB;

const OPERATION: &str = "merge the disks";
/// What is copied before it is written out: what a guest's flush may have to wait for at worst.
const SETTLE: u64 = 64 * MIB;
/// The first pause after a failure, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

#[derive(Default)]
pub(crate) struct Merger {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether a thread is at it.
    running: bool,
    ending: bool,
    thread: Option<JoinHandle<()>>,
    copied: u64,
    total: u64,
}

impl Merger {
    /// How far the merge is, as people are told.
    pub(crate) fn busy(&self) -> Busy {
        let state = lock(&self.state);
        let percent = (u128::from(state.copied) * 100).checked_div(u128::from(state.total));
        let percent = percent.and_then(|percent| u8::try_from(percent.min(100)).ok());
        Busy {
            operation: "merging disks".into(),
            percent: Some(percent.unwrap_or(0)),
        }
    }

    /// Ends the thread; what it has not finished is begun again at the next start.
    pub(crate) fn end(&self) {
        let thread = {
            let mut state = lock(&self.state);
            state.ending = true;
            self.changed.notify_all();
            state.thread.take()
        };
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread that merges disks has panicked");
        }
    }

    fn is_ending(&self) -> bool {
        lock(&self.state).ending
    }

    /// Rests: whether to go on.
    fn rest(&self, time: Duration) -> bool {
        let going = |state: &mut State| !state.ending;
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.state), time, going);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ending
    }
}

/// Lets a thread merge what the record says; one that is at it goes on.
pub(crate) fn start(machine: &Arc<Machine>) {
    let mut state = lock(&machine.merger.state);
    if state.running || state.ending {
        return;
    }
    let for_thread = Arc::clone(machine);
    let thread = thread::Builder::new()
        .name("merge".into())
        .spawn(move || run(&for_thread));
    match thread {
        Ok(thread) => {
            state.running = true;
            state.thread = Some(thread);
        }
        Err(error) => {
            tracing::error!(vm = %machine.home.vm, %error, "merges wait for the next release or start");
        }
    }
}

fn run(machine: &Machine) {
    let mut pause = PAUSES.0;
    loop {
        let merged = merge_all(machine);
        if let Err(error) = &merged {
            if machine.merger.is_ending() {
                return;
            }
            tracing::warn!(vm = %machine.home.vm, %error, "a merge will be tried again");
            if !machine.merger.rest(pause) {
                return;
            }
            pause = (2 * pause).min(PAUSES.1);
            continue;
        }
        pause = PAUSES.0;
        // Under the lock: whoever releases a point now either is seen here or starts a thread of its own.
        let mut state = lock(&machine.merger.state);
        if !machine.home.store.get().is_merging() {
            state.running = false;
            drop(state);
            machine.home.context.revisions.bump();
            return;
        }
    }
}

fn merge_all(machine: &Machine) -> Result<()> {
    sweep_markers(machine)?;
    let record = machine.home.store.get();
    let merging = |disk: &Arc<Disk>| {
        let known = record.disks.get(&disk.slot);
        known.is_some_and(|known| known.merging)
    };
    let disks: Vec<_> = machine.disks().into_iter().filter(merging).collect();
    for disk in &disks {
        disk.begin_merge()?;
    }
    {
        let mut state = lock(&machine.merger.state);
        state.copied = 0;
        let sizes = disks.iter().filter_map(|disk| disk.shape());
        state.total = sizes.map(|shape| shape.size).sum();
    }
    let mut before = 0;
    for disk in &disks {
        let size = disk.shape().map_or(0, |shape| shape.size);
        merge_disk(machine, disk, before)?;
        before += size;
    }
    Ok(())
}

/// Merges one disk; `before` is what of others was merged already.
fn merge_disk(machine: &Machine, disk: &Disk, before: u64) -> Result<()> {
    let mut unsettled = 0;
    let mut last = 0;
    loop {
        if machine.merger.is_ending() {
            return Err(error(disk, Kind::Unavailable, "the hypervisor ends"));
        }
        machine
            .home
            .strike(Place::MergeStep, Some(&disk.slot), OPERATION)?;
        let started = Instant::now();
        match disk.merge_step()? {
            Progress::Complete => break,
            Progress::Interrupted => {
                return Err(error(disk, Kind::Busy, "a guest's write has ended it"));
            }
            Progress::Copied(copied) => {
                lock(&machine.merger.state).copied = before + copied;
                unsettled += copied.saturating_sub(last);
                last = copied;
            }
        }
        if unsettled >= SETTLE {
            disk.settle_merge()?;
            unsettled = 0;
        }
        if disk.is_waited_for() {
            machine.merger.rest(started.elapsed());
        }
    }
    disk.settle_merge()?;
    let Some(child) = disk.finish_merge()? else {
        return Err(error(disk, Kind::Busy, "a guest's write has ended it"));
    };
    // It is merged; a child that cannot be removed now is removed at the next start.
    if let Err(error) = disk.remove_merged(&child) {
        tracing::warn!(vm = %machine.home.vm, %error, "a merged image is left");
    }
    Ok(())
}

fn error(disk: &Disk, kind: Kind, detail: &str) -> Error {
    Error::new(kind, OPERATION, detail).of_disk(&disk.slot)
}

/// Takes the names from the markers of all points but the frozen one.
fn sweep_markers(machine: &Machine) -> Result<()> {
    let folder = machine.home.points_folder();
    let record = machine.home.store.get();
    let frozen = record.point.as_ref();
    let kept = frozen.map(|point| machine.home.marker(&point.point.id));
    let sweep = || -> io::Result<()> {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if Some(&path) != kept.as_ref() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    };
    match sweep() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let detail = format!("cannot remove markers in {}: {error}", folder.display());
            Err(Error::new(of_io(&error), OPERATION, detail))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
