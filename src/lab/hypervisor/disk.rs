//! One disk of a machine: its live image, and who may touch it when.
//!
//! ```text
//!             open (power on)               begin_merge
//!   Closed ──────────────────► Open ──────────────────────► Merging
//!      ◄────────────────────────┘ ◄──────────────────────────┘ │
//!             close (power off)      finished, or given up      │
//!      ◄────────────────────────────────────────────────────────┘ finished while no guest runs
//! ```
//! One lock: a guest's read shares it; a write, a step of a merge and a freeze have it alone. So a freeze that holds the
//! locks of all disks is a barrier: what was answered before is in, nothing after is.
//!
//! Before every change of the image by a guest: the tracker has it. Never the other way round.

pub(crate) mod freezing;
mod guest;
pub(crate) mod merging;
mod tracked;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

use crate::formats::{self, Merge, WritableImage};
use crate::host::lab::failure::of_image;
use crate::host::{Error, Kind, Result};
use crate::ids::DiskSlot;
use crate::lab::hypervisor::claims::{Claim, Use};
use crate::lab::hypervisor::home::Home;
use crate::lab::hypervisor::image::Layers;
use crate::lab::hypervisor::image_state::{Fingerprint, ImageState};
use crate::lab::hypervisor::record::{DiskRecord, Lost};
use crate::lab::hypervisor::store::{lock, of_io};
use crate::lab::hypervisor::tracking::{self, Tracker};
use crate::lab::hypervisor::witness::Tell;
use crate::report;

pub(crate) struct Disk {
    pub(crate) home: Arc<Home>,
    pub(crate) slot: DiskSlot,
    state: RwLock<State>,
    /// How many wait for the lock: a merge then lets them pass.
    waiting: AtomicUsize,
    /// What an open image is like, for those who must not wait for the lock.
    shape: Mutex<Option<Shape>>,
}

/// What the lock guards.
pub(crate) struct State {
    pub(crate) live: Live,
    /// Whether a guest runs: the image is then open, if it can be.
    in_use: bool,
    pub(crate) tracker: Option<Tracker>,
    pub(crate) claim: Option<Claim>,
}

pub(crate) enum Live {
    Closed,
    Open(WritableImage),
    Merging(Merging),
}

/// A merge of the live image into its parent.
pub(crate) struct Merging {
    pub(crate) merge: Merge,
    /// All below is copied.
    pub(crate) copied: u64,
    pub(crate) parent: PathBuf,
}

/// What a guest sees of a disk besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) size: u64,
    pub(crate) logical_sector: u32,
    pub(crate) physical_sector: u32,
    pub(crate) identifier: Option<Uuid>,
}

impl Shape {
    pub(crate) fn of(layers: &Layers) -> Self {
        let top = layers.top();
        Shape {
            size: top.virtual_size,
            logical_sector: top.logical_sector,
            physical_sector: top.physical_sector,
            identifier: layers.identifier(),
        }
    }
}

impl Disk {
    /// A closed disk; its tracking, if it is on, goes on where an earlier process has left it.
    pub(crate) fn load(home: Arc<Home>, slot: DiskSlot) -> Result<Self> {
        const OPERATION: &str = "go on with the tracking of a disk";
        let record = home.store.get();
        let tracking = record
            .disks
            .get(&slot)
            .and_then(|disk| disk.tracking.clone());
        let mut tracker = None;
        if let Some(generations) = tracking {
            match Tracker::load(&home.tracking_folder(&slot), &generations) {
                Ok(loaded) => tracker = Some(loaded),
                Err(error) => {
                    let lost = Lost::writes(report::chain(&error));
                    lose_tracking(&home, &slot, OPERATION, lost)?;
                }
            }
        }
        Ok(Disk {
            home,
            slot,
            state: RwLock::new(State {
                live: Live::Closed,
                in_use: false,
                tracker,
                claim: None,
            }),
            waiting: AtomicUsize::new(0),
            shape: Mutex::new(None),
        })
    }

    /// What is known of the disk while it is open.
    pub(crate) fn shape(&self) -> Option<Shape> {
        *lock(&self.shape)
    }

    pub(crate) fn record(&self) -> Result<DiskRecord> {
        let record = self.home.store.get();
        let disk = record.disks.get(&self.slot).cloned();
        disk.ok_or_else(|| {
            let detail = "the machine has no such disk any more";
            Error::new(Kind::DiskSetChanged, "find a disk", detail).of_disk(&self.slot)
        })
    }

    /// The disk together with others who only look at it.
    pub(crate) fn shared(&self) -> Result<RwLockReadGuard<'_, State>> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let state = self.state.read();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        state.map_err(|_| self.broken())
    }

    /// The disk for oneself alone. Who waits is counted, so that a merge makes room.
    pub(crate) fn exclusive(&self) -> Result<RwLockWriteGuard<'_, State>> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let state = self.state.write();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        state.map_err(|_| self.broken())
    }

    /// Whether a guest waits for the lock.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// After a fault of ours in the middle of a change, memory is not to be believed; the files are.
    fn broken(&self) -> Error {
        let detail = "an operation on it ended in the middle; restart the hypervisor";
        Error::new(Kind::Internal, "use a disk", detail).of_disk(&self.slot)
    }

    /// Opens the live image for a guest. One that is open or being merged is left as it is.
    pub(crate) fn open(&self) -> Result<()> {
        let mut state = self.exclusive()?;
        if matches!(state.live, Live::Closed) {
            self.open_live(&mut state)?;
        }
        state.in_use = true;
        Ok(())
    }

    /// The guest is gone: closes the image, durably. A merge goes on.
    pub(crate) fn close(&self) -> Result<()> {
        let mut state = self.exclusive()?;
        state.in_use = false;
        match std::mem::replace(&mut state.live, Live::Closed) {
            Live::Open(image) => self.close_live(&mut state, image),
            Live::Closed => Ok(()),
            merging @ Live::Merging(_) => {
                state.live = merging;
                Ok(())
            }
        }
    }

    /// The end of the hypervisor: whatever is open is closed. A merge is begun again at the next start.
    pub(crate) fn end(&self) -> Result<()> {
        let mut state = self.exclusive()?;
        state.in_use = false;
        match std::mem::replace(&mut state.live, Live::Closed) {
            Live::Closed => Ok(()),
            Live::Open(image) => self.close_live(&mut state, image),
            Live::Merging(merging) => {
                let closed = merging.merge.close();
                self.come_to_rest(&mut state, closed)
            }
        }
    }

    /// Examines the chain, claims its files, and opens it.
    pub(crate) fn open_live(&self, state: &mut State) -> Result<()> {
        let opened = self.examine(state).and_then(|layers| {
            let opened = layers.open(self.tell());
            opened.map_err(|error| self.failed("open a disk", &error))
        });
        state.live = Live::Open(opened.inspect_err(|_| self.let_go(state))?);
        Ok(())
    }

    fn close_live(&self, state: &mut State, image: WritableImage) -> Result<()> {
        let closed = image.close();
        self.come_to_rest(state, closed)
    }

    /// Others may have the files only when it is known how they were left.
    fn come_to_rest(&self, state: &mut State, closed: formats::Result<()>) -> Result<()> {
        let closed = closed.map_err(|error| self.failed("close a disk", &error));
        let rested = closed.and_then(|()| self.rest(state));
        self.let_go(state);
        rested
    }

    /// Looks at the chain before it is opened for writing: whether it is whole, free, and as we left it.
    pub(crate) fn examine(&self, state: &mut State) -> Result<Layers> {
        const OPERATION: &str = "open a disk";
        let record = self.record()?;
        let layers = Layers::of(&record.path).map_err(|error| self.failed(OPERATION, &error))?;
        let top = layers.top();
        if state.claim.is_none() {
            state.claim = Some(self.claim(&layers)?);
        }
        let found = Fingerprint::of(&record.path, layers.data_write())
            .map_err(|error| self.io(OPERATION, &error))?;
        let changed = record.image.as_ref().map(|left| left.check(&found));
        if let Some(Err(what)) = changed
            && record.tracking.is_some()
        {
            let reason = format!("it was changed while nobody tracked it: {what}");
            lose_tracking(&self.home, &self.slot, OPERATION, Lost::offline(reason))?;
            state.tracker = None;
        }
        self.home.store.update(OPERATION, |record| {
            record.change_disk(&self.slot, |disk| {
                disk.image = Some(ImageState::AtRest(found));
            });
        })?;
        if let Some(tracker) = &state.tracker
            && tracker.generations().size != top.virtual_size
        {
            let reason = format!("it has {} bytes now", top.virtual_size);
            lose_tracking(&self.home, &self.slot, OPERATION, Lost::offline(reason))?;
            state.tracker = None;
        }
        *lock(&self.shape) = Some(Shape::of(&layers));
        Ok(layers)
    }

    fn claim(&self, layers: &Layers) -> Result<Claim> {
        let mut claim = self
            .home
            .context
            .claims
            .claim(&format!("machine {}, disk {}", self.home.name, self.slot));
        for (path, depth) in layers.paths().zip(0..) {
            let wanted = if depth == 0 { Use::Write } else { Use::Read };
            let claimed = claim.add(path, wanted);
            claimed.map_err(|error| {
                Error::new(Kind::Busy, "open a disk", report::chain(&error)).of_disk(&self.slot)
            })?;
        }
        Ok(claim)
    }

    /// The files are anybody's again.
    pub(crate) fn let_go(&self, state: &mut State) {
        state.claim = None;
        *lock(&self.shape) = None;
    }

    /// Records how a closed image looks, and saves what is tracked.
    fn rest(&self, state: &mut State) -> Result<()> {
        const OPERATION: &str = "close a disk";
        let path = self.record()?.path;
        let layers = Layers::of(&path).map_err(|error| self.failed(OPERATION, &error))?;
        let found = Fingerprint::of(&path, layers.data_write())
            .map_err(|error| self.io(OPERATION, &error))?;
        self.home.store.update(OPERATION, |record| {
            record.change_disk(&self.slot, |disk| {
                disk.image = Some(ImageState::AtRest(found));
            });
        })?;
        if let Some(tracker) = &mut state.tracker {
            // Its intent stands for what could not be saved.
            tracker.save().unwrap_or_else(|error| self.warn(&error));
        }
        Ok(())
    }

    /// What the witness of the live image calls before it lets a change through.
    pub(crate) fn tell(&self) -> Tell {
        let (home, slot) = (Arc::clone(&self.home), self.slot.clone());
        Box::new(move |next| {
            let told = home.store.update("write to a disk", |record| {
                record.change_disk(&slot, |disk| {
                    disk.image = disk.image.as_ref().map(|image| image.before_write(next));
                });
            });
            told.map_err(|error| io::Error::other(error.to_string()))
        })
    }

    pub(crate) fn failed(&self, operation: &'static str, error: &formats::Error) -> Error {
        of_image(operation, error).of_disk(&self.slot)
    }

    fn io(&self, operation: &'static str, error: &io::Error) -> Error {
        Error::new(of_io(error), operation, error.to_string()).of_disk(&self.slot)
    }

    pub(crate) fn warn(&self, error: &tracking::Error) {
        let (vm, disk, error) = (&self.home.vm, &self.slot, report::chain(error));
        tracing::warn!(%vm, %disk, error, "a map of changes is not saved; its intent stands for it");
    }
}

/// Records that tracking has ended, and why. Must have returned before a write goes on that was not noted.
pub(crate) fn lose_tracking(
    home: &Home,
    slot: &DiskSlot,
    operation: &'static str,
    lost: Lost,
) -> Result<()> {
    tracing::warn!(vm = %home.vm, disk = %slot, reason = lost.reason, "tracking is lost");
    home.store.update(operation, |record| {
        record.change_disk(slot, |disk| disk.lose_tracking(lost));
    })
}
