//! What all parts of a machine share: its record and folder, and the hypervisor that it belongs to.
//!
//! ```text
//! <folder>/machines/<name>/machine.json      the record
//!                          points/<point>    a marker: while it has a name, the frozen images do not change
//!                          tracking/<slot>/  maps and intents
//!                          *.vhdx, *.avhdx   images that were made here
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::host::lab::fault::Place;
use crate::host::{Error, Revision};
use crate::ids::{DiskSlot, FrozenPointId, VmId};
use crate::lab::hypervisor::claims::Claims;
use crate::lab::hypervisor::faults::Faults;
use crate::lab::hypervisor::store::{Store, lock};
use crate::units::Clock;

/// What all machines of a hypervisor share.
pub(crate) struct Context {
    pub(crate) faults: Faults,
    pub(crate) claims: Claims,
    pub(crate) revisions: Revisions,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Where a machine lives.
pub(crate) struct Home {
    pub(crate) vm: VmId,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) store: Store,
    pub(crate) context: Arc<Context>,
}

impl Home {
    /// Lets a fault strike that was set for this machine.
    pub(crate) fn strike(
        &self,
        place: Place,
        disk: Option<&DiskSlot>,
        operation: &'static str,
    ) -> Result<(), Error> {
        let struck = self.context.faults.strike(place, Some(&self.vm), disk);
        struck.map_err(|failure| failure.of(operation))
    }

    pub(crate) fn record_path(folder: &Path) -> PathBuf {
        folder.join("machine.json")
    }

    pub(crate) fn points_folder(&self) -> PathBuf {
        self.folder.join("points")
    }

    pub(crate) fn marker(&self, point: &FrozenPointId) -> PathBuf {
        self.points_folder().join(point.as_str())
    }

    pub(crate) fn tracking_folder(&self, slot: &DiskSlot) -> PathBuf {
        self.folder
            .join("tracking")
            .join(slot.as_str().replace(':', "-"))
    }
}

/// Counts changes of machines, for those who wait for one.
pub(crate) struct Revisions {
    current: Mutex<Counted>,
    changed: Condvar,
}

struct Counted {
    revision: Revision,
    ended: bool,
}

impl Revisions {
    /// Counts from `first`, which should differ from what an earlier process has counted.
    pub(crate) const fn from(first: u64) -> Self {
        Revisions {
            current: Mutex::new(Counted {
                revision: Revision(first),
                ended: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn bump(&self) {
        let mut current = lock(&self.current);
        current.revision = Revision(current.revision.0.wrapping_add(1));
        self.changed.notify_all();
    }

    /// Nobody waits any more.
    pub(crate) fn end(&self) {
        lock(&self.current).ended = true;
        self.changed.notify_all();
    }

    /// Waits until the revision is not `seen`, or `patience` has passed.
    pub(crate) fn wait(&self, seen: Revision, patience: Duration) -> Revision {
        let same = |current: &mut Counted| current.revision == seen && !current.ended;
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.current), patience, same);
        waited.unwrap_or_else(PoisonError::into_inner).0.revision
    }
}
