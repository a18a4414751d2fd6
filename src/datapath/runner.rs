//! Works on many replicas: each has a task, a few work at the same time, one that fails waits without holding others.
//!
//! ```text
//! Working ── nothing more ──► Idle ── woken, or after a while ──► Working
//!    ├────── an error ──────► Waiting ── its time, or told to retry ─► Working
//!    └────── a panic ───────► the same, with a new worker
//! ```

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::datapath::store::Store;
use crate::datapath::worker::{Step, Worker};
use crate::ids::{ChainId, ReplicaId};
use crate::replica::manifest::Manifest;
use crate::replica::retention::Retention;
use crate::report::{Code, Fault};
use crate::retry::{Attempts, Trouble};
use crate::units::Clock;

/// Replicas that are worked on at the same time: each holds up to 64 MiB.
pub const CONCURRENCY: usize = 8;
/// An inbox is looked at this often even if nobody says that it has something new.
const LOOK: Duration = Duration::from_secs(300);

/// What is done for a replica beside applying what is sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// Which recovery points are kept.
    pub retention: Retention,
}

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
    task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Signals {
    /// There may be something to do.
    work: Notify,
    /// An error is to be forgotten.
    retry: Notify,
    /// What is asked for; it is read before each step.
    orders: Mutex<Orders>,
}

#[derive(Clone, Default)]
struct Orders {
    duties: Duties,
    /// A new chain is wanted if the present one is this.
    retired: Option<ChainId>,
}

impl Signals {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    /// Begins to work on a replica. One that is worked on already gets other duties, and works on.
    pub fn attach(&self, store: Store, duties: Duties) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        match attached.entry(store.id.clone()) {
            Entry::Occupied(known) => {
                let signals = &known.get().signals;
                let mut orders = signals.orders();
                if orders.duties != duties {
                    orders.duties = duties;
                    signals.work.notify_one();
                }
            }
            Entry::Vacant(place) => {
                place.insert(self.spawn(store, duties));
            }
        }
    }

    /// Begins a new chain if the present one is `retired`: what can still be applied of it is, and the host is asked for
    /// a comparison by finding no cursors. It may be said again and again. That it is done shows in
    /// [`Observation::manifest`], that it failed in [`Observation::trouble`].
    pub fn start_chain(&self, replica: &ReplicaId, retired: &ChainId) {
        self.signal(replica, |signals| {
            let mut orders = signals.orders();
            if orders.retired.as_ref() != Some(retired) {
                orders.retired = Some(retired.clone());
                signals.retry.notify_one();
            }
        });
    }

    /// Ends the work on a replica where it stands.
    pub fn detach(&self, replica: &ReplicaId) {
        self.attached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(replica);
    }

    /// Ends all work where it stands, and returns when nothing of it runs any more.
    pub async fn end(&self) {
        let all: Vec<Attached> = {
            let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
            attached.drain().map(|(_, attached)| attached).collect()
        };
        all.iter().for_each(|attached| attached.task.abort());
        for attached in all {
            // It was cancelled, or had ended.
            let _ = attached.task.await;
        }
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

    fn spawn(&self, store: Store, duties: Duties) -> Attached {
        let signals = Arc::new(Signals::default());
        signals.orders().duties = duties;
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
            task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        }
    }
}

/// How work ended that did not go well.
enum Failure {
    Said(Fault),
    Panicked(Fault),
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
            // What work needs is given back with it: most replicas of a fleet have nothing to do at most times.
            match Box::pin(self.work_guarded()).await {
                Ok(()) => {
                    attempts.reset();
                    self.report(None);
                    self.wait_for_work().await;
                }
                Err(failure) => {
                    let (trouble, wait) = match failure {
                        Failure::Said(fault) => attempts.failed(fault, started),
                        Failure::Panicked(fault) => attempts.broke(fault, started),
                    };
                    tracing::warn!(replica = %self.store.id, fault = %trouble.fault, "cannot apply");
                    self.report(Some(trouble));
                    if self.wait_for_retry(started, wait).await {
                        attempts.reset();
                    }
                }
            }
        }
    }

    /// Works, and reports a panic as what it is: this replica's trouble, and nobody else's. What the worker held then is
    /// not believed any more.
    async fn work_guarded(&mut self) -> Result<(), Failure> {
        match AssertUnwindSafe(self.work()).catch_unwind().await {
            Ok(result) => result.map_err(|error| Failure::Said(error.fault())),
            Err(panic) => {
                self.worker = Worker::new(self.store.clone());
                let message = format!(
                    "the data path of replica {} panicked: {}",
                    self.store.id,
                    said(panic.as_ref())
                );
                Err(Failure::Panicked(Fault::new(Code::Internal, message)))
            }
        }
    }

    /// Applies all that there is. Each step takes its turn among all replicas.
    async fn work(&mut self) -> Result<(), super::Error> {
        loop {
            let turn = self.slots.clone().acquire_owned().await;
            self.take_orders();
            let step = self.worker.step().await?;
            drop(turn);
            match step {
                Step::Applied => self.report(None),
                Step::Idle => return Ok(()),
            }
        }
    }

    fn take_orders(&mut self) {
        let orders = self.signals.orders().clone();
        self.worker.keep(orders.duties.retention);
        self.worker.retire(orders.retired);
    }

    fn report(&self, trouble: Option<Trouble>) {
        let manifest = self.worker.manifest();
        let changed = self.publish.send_if_modified(|observation| {
            let looked = observation.looked || trouble.is_none();
            // A worker that has failed before it looked does not know better than what was seen before.
            let manifest = match &trouble {
                Some(_) => manifest.or(observation.manifest.as_deref()),
                None => manifest,
            };
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

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it does not say why")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::blob::Account as _;
    use crate::blob::client::Options;
    use crate::blob::client::account::AccountClient;
    use crate::blob::credential::AccountKey;
    use crate::blob::endpoint::Endpoint;
    use crate::blob::http::Http;
    use crate::secret::Secret;
    use crate::units::SystemClock;

    /// A clock with which nobody can sign anything until it is mended.
    #[derive(Default)]
    struct BrokenClock {
        mended: AtomicBool,
    }

    impl Clock for BrokenClock {
        fn now(&self) -> Timestamp {
            assert!(self.mended.load(Ordering::Relaxed), "the clock is broken");
            SystemClock.now()
        }
    }

    /// A replica where nobody listens.
    fn store(clock: Arc<dyn Clock>, patience: Duration) -> Store {
        // Another test of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let endpoint = Endpoint::parse("http://127.0.0.1:1/acct1").unwrap();
        let key = AccountKey::new(&Secret::new("a2V5")).unwrap();
        let options = Options {
            patience,
            clock,
            ..Options::default()
        };
        let account = AccountClient::with_key(&Http::new(&[]).unwrap(), endpoint, key, options);
        Store {
            id: ReplicaId::from_random(crate::ids::random()),
            inbox: account.container("inbox"),
            replica: account.container("replica"),
        }
    }

    async fn next_trouble(
        datapath: &DataPath,
        changes: &mut mpsc::UnboundedReceiver<ReplicaId>,
    ) -> Trouble {
        let replica = changes.recv().await.unwrap();
        let observed = datapath.observe(&replica).unwrap();
        assert!(!observed.looked, "nothing was seen");
        observed.trouble.unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_the_trouble_of_its_replica_which_goes_on_afterwards() {
        let (datapath, mut changes) = DataPath::new(1, Arc::new(SystemClock));
        let clock = Arc::new(BrokenClock::default());
        let store = store(clock.clone(), Duration::ZERO);
        let replica = store.id.clone();
        datapath.attach(store, Duties::default());

        let trouble = next_trouble(&datapath, &mut changes).await;
        assert_eq!(trouble.fault.code, Code::Internal);
        assert!(trouble.fault.message.contains("the clock is broken"));
        assert!(
            trouble.next_attempt.is_some(),
            "it is tried again by itself"
        );

        clock.mended.store(true, Ordering::Relaxed);
        datapath.retry(&replica);
        let trouble = next_trouble(&datapath, &mut changes).await;
        assert_eq!(trouble.fault.code, Code::StorageUnreachable);
    }

    #[tokio::test]
    async fn work_that_is_ended_holds_nothing_any_more() {
        let (datapath, _changes) = DataPath::new(1, Arc::new(SystemClock));
        let store = store(Arc::new(SystemClock), Duration::from_secs(3600));
        let (replica, held) = (store.id.clone(), Arc::downgrade(&store.replica));
        datapath.attach(store, Duties::default());

        datapath.end().await;

        assert!(datapath.observe(&replica).is_none());
        assert!(held.upgrade().is_none(), "a task still has the container");
    }
}
