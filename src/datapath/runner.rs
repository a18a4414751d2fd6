//! Works on many replicas: each has a task, a few work at the same time, one that fails waits without holding others.
//!
//! ```text
//! Working ── nothing more ──► Idle ── woken, or after a while ──► Working
//!    └────── an error ──────► Waiting ── its time, or told to retry ─► Working
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::datapath::store::Store;
use crate::datapath::worker::{Step, Worker};
use crate::ids::ReplicaId;
use crate::replica::manifest::Manifest;
use crate::retry::{Attempts, Trouble};
use crate::units::Clock;

/// Replicas that are worked on at the same time: each holds up to 64 MiB.
pub const CONCURRENCY: usize = 8;
/// An inbox is looked at this often even if nobody says that it has something new.
const LOOK: Duration = Duration::from_secs(300);
/// What is known of a replica.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Whether storage has answered once: until then nothing is known.
    pub looked: bool,
    /// The manifest as it was last seen; nothing if the replica has none.
    pub manifest: Option<Arc<Manifest>>,
    pub trouble: Option<Trouble>,
}

/// The data path of many replicas. Dropping it stops all work where it stands.
pub struct DataPath {
    clock: Arc<dyn Clock>,
    slots: Arc<Semaphore>,
    attached: Mutex<HashMap<ReplicaId, Attached>>,
    changed: mpsc::UnboundedSender<ReplicaId>,
}

struct Attached {
    signals: Arc<Signals>,
    observed: watch::Receiver<Observation>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Signals {
    /// There may be something to apply.
    work: Notify,
    /// An error is to be forgotten.
    retry: Notify,
}

impl DataPath {
    /// A data path without replicas, and the ids of those whose observation changes. At most one id waits per change
    /// of one replica, so the channel is bounded by what happens.
    pub fn new(
        concurrency: usize,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::UnboundedReceiver<ReplicaId>) {
        let (changed, changes) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(concurrency));
        (
            DataPath {
                clock,
                slots,
                attached: Mutex::default(),
                changed,
            },
            changes,
        )
    }

    /// Begins to work on a replica; nothing if it is worked on already.
    pub fn attach(&self, store: Store) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached
            .entry(store.id.clone())
            .or_insert_with(|| self.spawn(store));
    }

    /// Ends the work on a replica where it stands.
    pub fn detach(&self, replica: &ReplicaId) {
        self.attached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(replica);
    }

    /// Says that a replica's inbox has something new.
    pub fn wake(&self, replica: &ReplicaId) {
        self.signal(replica, |signals| signals.work.notify_one());
    }

    /// Forgets a replica's error and tries at once.
    pub fn retry(&self, replica: &ReplicaId) {
        self.signal(replica, |signals| signals.retry.notify_one());
    }

    /// What is known of a replica; nothing if it is not worked on.
    pub fn observe(&self, replica: &ReplicaId) -> Option<Observation> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached
            .get(replica)
            .map(|attached| attached.observed.borrow().clone())
    }

    fn signal(&self, replica: &ReplicaId, send: impl FnOnce(&Signals)) {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attached) = attached.get(replica) {
            send(&attached.signals);
        }
    }

    fn spawn(&self, store: Store) -> Attached {
        let signals = Arc::new(Signals::default());
        let (publish, observed) = watch::channel(Observation::default());
        let task = Task {
            worker: Worker::new(store.clone()),
            store,
            signals: signals.clone(),
            slots: self.slots.clone(),
            clock: self.clock.clone(),
            publish,
            changed: self.changed.clone(),
        };
        Attached {
            signals,
            observed,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        }
    }
}

/// The work on one replica.
struct Task {
    worker: Worker,
    store: Store,
    signals: Arc<Signals>,
    slots: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    publish: watch::Sender<Observation>,
    changed: mpsc::UnboundedSender<ReplicaId>,
}

impl Task {
    async fn run(mut self) {
        let mut attempts = Attempts::default();
        loop {
            let started = self.clock.now();
            match self.work().await {
                Ok(()) => {
                    attempts.reset();
                    self.report(None);
                    self.wait_for_work().await;
                }
                Err(error) => {
                    let (trouble, wait) = attempts.failed(error.fault(), started);
                    tracing::warn!(replica = %self.store.id, fault = %trouble.fault, "cannot apply");
                    self.report(Some(trouble));
                    if self.wait_for_retry(started, wait).await {
                        attempts.reset();
                    }
                }
            }
        }
    }

    /// Applies all that there is. Each step takes its turn among all replicas.
    async fn work(&mut self) -> Result<(), super::Error> {
        loop {
            let turn = self.slots.clone().acquire_owned().await;
            let step = self.worker.step().await?;
            drop(turn);
            match step {
                Step::Applied => self.report(None),
                Step::Idle => return Ok(()),
            }
        }
    }

    fn report(&self, trouble: Option<Trouble>) {
        let manifest = self.worker.manifest();
        let changed = self.publish.send_if_modified(|observation| {
            let looked = observation.looked || trouble.is_none();
            let same = observation.manifest.as_deref() == manifest
                && observation.trouble == trouble
                && observation.looked == looked;
            if !same {
                let manifest = manifest.cloned().map(Arc::new);
                *observation = Observation {
                    looked,
                    manifest,
                    trouble,
                };
            }
            !same
        });
        if changed {
            // Nobody listens any more when the process ends.
            let _ = self.changed.send(self.store.id.clone());
        }
    }

    async fn wait_for_work(&self) {
        let look = LOOK.mul_f64(rand::random_range(0.8..1.2));
        tokio::select! {
            () = self.signals.work.notified() => {}
            () = self.signals.retry.notified() => {}
            () = tokio::time::sleep(look) => {}
        }
    }

    /// Waits until `wait` after `started`: whether somebody asked for an attempt before.
    async fn wait_for_retry(&self, started: Timestamp, wait: Duration) -> bool {
        let passed =
            Duration::try_from(self.clock.now().duration_since(started)).unwrap_or_default();
        tokio::select! {
            () = self.signals.retry.notified() => true,
            () = tokio::time::sleep(wait.saturating_sub(passed)) => false,
        }
    }
}
