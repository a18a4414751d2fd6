//! Works on many replicas: each has a task, a few work at the same time, one that fails waits without holding others.
//!
//! ```text
//! Working ── nothing more ──► Idle ── woken, or after a while ──► Working
//!    ├────── an error ──────► Waiting ── its time, or told to retry ─► Working
//!    └────── a panic ───────► the same, with a new worker
//! ```
//! Whoever hears of nothing, because it is a process of its own, looks: soon after something was new, then less and less
//! often. And whoever only follows works on nothing, and looks.

mod task;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::datapath::runner::task::{Cadence, Hand, Task};
use crate::datapath::store::Store;
use crate::ids::{ChainId, ReplicaId};
use crate::replica::manifest::Manifest;
use crate::replica::retention::Retention;
use crate::retry::Trouble;
use crate::units::{Clock, to_usize};

/// Replicas that are worked on at the same time: each holds up to 64 MiB.
pub const CONCURRENCY: u32 = 8;
/// Replicas that are looked at at the same time without being worked on.
const LOOKS: usize = 256;

/// What a data path does with its replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Works on them, and is woken when there is something new.
    Inside,
    /// Works on them, looks itself for what is new, and writes down what keeps it from going on.
    Worker,
    /// Looks at what workers do, and begins the chains that it is told to begin.
    Follower,
}

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
    role: Role,
    clock: Arc<dyn Clock>,
    turns: Turns,
    attached: Mutex<HashMap<ReplicaId, Attached>>,
    changed: mpsc::UnboundedSender<ReplicaId>,
}

/// What bounds how much is done at the same time.
#[derive(Clone)]
struct Turns {
    work: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    /// Turns of work that there are.
    most: u32,
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
        role: Role,
        concurrency: u32,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::UnboundedReceiver<ReplicaId>) {
        let (changed, changes) = mpsc::unbounded_channel();
        let turns = Turns {
            work: Arc::new(Semaphore::new(to_usize(u64::from(concurrency)))),
            looks: Arc::new(Semaphore::new(LOOKS)),
            most: concurrency,
        };
        (
            DataPath {
                role,
                clock,
                turns,
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

    /// Lets the steps that have begun end, and none begin any more.
    pub async fn drain(&self) {
        let all = self.turns.work.acquire_many(self.turns.most).await;
        all.expect("the semaphore is never closed").forget();
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
            role: self.role,
            hand: Hand::new(self.role, &store),
            store,
            signals: signals.clone(),
            turns: self.turns.clone(),
            cadence: Cadence::default(),
            told: None,
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use futures::FutureExt as _;
    use jiff::Timestamp;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::blob::Account as _;
    use crate::blob::client::Options;
    use crate::blob::client::account::AccountClient;
    use crate::blob::credential::AccountKey;
    use crate::blob::endpoint::Endpoint;
    use crate::report::Code;
    use crate::secret::Secret;
    use crate::transport::http::Http;
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
        store_at(1, clock, patience)
    }

    /// A replica in a storage account at a port of this machine.
    fn store_at(port: u16, clock: Arc<dyn Clock>, patience: Duration) -> Store {
        // Another test of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}/acct1")).unwrap();
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
        let (datapath, mut changes) = DataPath::new(Role::Inside, 1, Arc::new(SystemClock));
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

    /// A replica whose storage takes the request and never answers, once it has it.
    async fn attach_silent(datapath: &DataPath) -> (ReplicaId, TcpListener, TcpStream) {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let store = store_at(port, Arc::new(SystemClock), Duration::from_secs(3600));
        let replica = store.id.clone();
        datapath.attach(store, Duties::default());
        let (request, _) = silent.accept().await.unwrap();
        (replica, silent, request)
    }

    #[tokio::test]
    async fn one_replica_whose_storage_is_slow_holds_no_other() {
        let (datapath, mut changes) = DataPath::new(Role::Inside, 2, Arc::new(SystemClock));
        let (slow, _silent, _request) = attach_silent(&datapath).await;
        let mut others = HashSet::new();
        for _ in 0..20 {
            let store = store(Arc::new(SystemClock), Duration::ZERO);
            others.insert(store.id.clone());
            datapath.attach(store, Duties::default());
        }

        while !others.is_empty() {
            others.remove(&changes.recv().await.unwrap());
        }

        let seen = datapath.observe(&slow).unwrap();
        assert!(
            !seen.looked && seen.trouble.is_none(),
            "it has been answered"
        );
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_without_holding_the_turn_of_another() {
        let (datapath, mut changes) = DataPath::new(Role::Inside, 1, Arc::new(SystemClock));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let slow = store_at(port, Arc::new(SystemClock), Duration::ZERO);
        let id = slow.id.clone();
        datapath.attach(slow, Duties::default());
        drop(silent.accept().await.unwrap());
        next_trouble(&datapath, &mut changes).await;
        datapath.retry(&id);
        let _unanswered = silent.accept().await.unwrap();

        let other = store(Arc::new(SystemClock), Duration::ZERO);
        let expected = other.id.clone();
        datapath.attach(other, Duties::default());

        assert_eq!(changes.recv().await, Some(expected));
    }

    #[tokio::test]
    async fn who_drains_a_data_path_waits_for_the_steps_that_have_begun() {
        let (datapath, _changes) = DataPath::new(Role::Worker, 2, Arc::new(SystemClock));
        let (replica, _silent, _request) = attach_silent(&datapath).await;
        let mut drained = Box::pin(datapath.drain());

        assert!(drained.as_mut().now_or_never().is_none());

        datapath.detach(&replica);
        drained.await;
    }

    #[tokio::test]
    async fn work_that_is_ended_holds_nothing_any_more() {
        let (datapath, _changes) = DataPath::new(Role::Inside, 1, Arc::new(SystemClock));
        let store = store(Arc::new(SystemClock), Duration::from_secs(3600));
        let (replica, held) = (store.id.clone(), Arc::downgrade(&store.replica));
        datapath.attach(store, Duties::default());

        datapath.end().await;

        assert!(datapath.observe(&replica).is_none());
        assert!(held.upgrade().is_none(), "a task still has the container");
    }
}
