//! A VM on one of its hosts, its replica, and those who work on them, each with a fate of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use rand::{RngExt as _, rngs::StdRng};
use site_recovery::blob::Container;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::memory::MemoryContainer;
use site_recovery::blob::parameters::{Permissions, PutOptions};
use site_recovery::controller::documents;
use site_recovery::datapath;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::engine::ledger::Store;
use site_recovery::engine::throttle::Throttle;
use site_recovery::engine::{Engine, Observation, Options};
use site_recovery::ids::{ChainId, DiskId, DiskSlot, ReplicaId};
use site_recovery::replica::document;
use site_recovery::replica::fence::Fence;
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::names;
use site_recovery::replica::retention::Retention;
use site_recovery::replica::seal::Writer;
use site_recovery::units::{Clock, Generation};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::chronicle::{Barriers, Chronicle, Told};
use super::host::{Fate, Host};
use super::weather::{Met, Weather};
use crate::replication::model::{Model, Witness, Witnessed, slot, vm};

/// How often a worker looks whether there is something to apply.
const LOOK: Duration = Duration::from_secs(5);
/// How long a worker waits that failed.
const WAIT: Duration = Duration::from_secs(30);
/// From one barrier to the next that nobody asks for.
const INTERVAL: Duration = Duration::from_secs(900);

/// A clock that goes with the runtime's time, and that jumps when it is told to.
pub(crate) struct JumpingClock {
    start: Instant,
    jump: AtomicI64,
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let jump = jiff::SignedDuration::from_secs(self.jump.load(Ordering::SeqCst));
        let base = Timestamp::from_second(1_790_000_000).unwrap();
        base + self.start.elapsed() + jump
    }
}

/// How an engine is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) allowed: bool,
    /// How often a barrier is to be application-consistent.
    pub(crate) application_every: Option<Duration>,
    pub(crate) weather: Weather,
    pub(crate) fate: Fate,
}

/// What the workers of a replica are told.
#[derive(Default)]
pub(crate) struct Orders {
    pub(crate) retention: Retention,
    /// The chain that a new one is to follow.
    pub(crate) retired: Option<ChainId>,
}

/// A life of the engine.
pub(crate) struct Life {
    pub(crate) observed: watch::Receiver<Observation>,
    pub(crate) synchronize: Arc<Notify>,
    pub(crate) retry: Arc<Notify>,
    pub(crate) allowed: bool,
    pub(crate) generation: Generation,
    pub(crate) disks: BTreeMap<DiskId, DiskSlot>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) host: Host,
    /// Opens what this life stands still at.
    stands: Option<Gate>,
    task: JoinHandle<()>,
    _dies: AbortOnDropHandle<()>,
    _listens: AbortOnDropHandle<()>,
}

/// A life of a worker.
pub(crate) struct Hand {
    pub(crate) faults: Arc<Faults>,
    pub(crate) stands: Option<Gate>,
    pub(crate) troubles: Arc<Mutex<Option<datapath::Error>>>,
    chronicle: Arc<Chronicle>,
    task: JoinHandle<()>,
}

pub(crate) struct World {
    pub(crate) model: Arc<Model>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) disks: BTreeMap<DiskId, DiskSlot>,
    /// Disks that are not replicated now.
    pub(crate) excluded: BTreeSet<DiskId>,
    pub(crate) id: ReplicaId,
    pub(crate) inbox: MemoryContainer,
    pub(crate) replica: MemoryContainer,
    pub(crate) home: Arc<AtomicUsize>,
    /// Barriers that an engine has said are sealed.
    pub(crate) acknowledged: Arc<Mutex<BTreeSet<Timestamp>>>,
    /// Holds what is delivered late.
    pub(crate) late: Vec<Gate>,
    pub(crate) chronicle: Arc<Chronicle>,
    pub(crate) orders: Arc<Mutex<Orders>>,
    /// What those who command say at present.
    pub(crate) fence: Fence,
    barriers: Barriers,
    clock: Arc<JumpingClock>,
    folder: TempDir,
}

impl World {
    /// A VM with disks of these sizes on host 0, and an empty replica.
    pub(crate) async fn new(sizes: &[usize], random: &mut StdRng) -> Self {
        let clock = Arc::new(JumpingClock {
            start: Instant::now(),
            jump: AtomicI64::new(0),
        });
        let folder = tempfile::tempdir().unwrap();
        let id = ReplicaId::from_random(random.random());
        let disks =
            (0..sizes.len()).map(|number| (DiskId::from_random(random.random()), slot(number)));
        let disks: BTreeMap<_, _> = disks.collect();
        let model = Model::new(folder.path(), sizes);
        let (witness, barriers) = (Arc::<Witness>::default(), Barriers::default());
        let inbox = MemoryContainer::new("c-i", clock.clone());
        let replica = MemoryContainer::new("c-r", clock.clone());
        let chronicle = Chronicle {
            id: id.clone(),
            disks: disks.clone(),
            inbox: inbox.clone(),
            replica: replica.clone(),
            witness: witness.clone(),
            barriers: barriers.clone(),
            told: Mutex::<Told>::default(),
        };
        let world = World {
            fence: model.fence(&id, &disks),
            model,
            witness,
            disks,
            excluded: BTreeSet::new(),
            inbox,
            replica,
            home: Arc::default(),
            acknowledged: Arc::default(),
            late: Vec::new(),
            chronicle: Arc::new(chronicle),
            orders: Arc::default(),
            barriers,
            clock,
            folder,
            id,
        };
        let chain = ChainId::from_random(random.random());
        world.store().create(chain).await.unwrap();
        documents::create(&world.replica, names::FENCE, world.fence.clone())
            .await
            .unwrap();
        world
    }

    /// Changes what those who command say.
    pub(crate) async fn command(&mut self, change: impl FnOnce(&mut Fence)) {
        change(&mut self.fence);
        let body = document::encode(&self.fence).unwrap().into();
        let options = PutOptions::default();
        self.replica
            .put(names::FENCE, body, &options)
            .await
            .unwrap();
    }

    /// Has the present chain followed by a new one.
    pub(crate) async fn retire(&self) {
        let chain = self.manifest().await.chain;
        self.orders.lock().unwrap().retired = Some(chain);
    }

    /// The disks that are replicated now.
    pub(crate) fn included(&self) -> BTreeMap<DiskId, DiskSlot> {
        let mut disks = self.disks.clone();
        disks.retain(|id, _| !self.excluded.contains(id));
        disks
    }

    /// The replica as it is, without weather.
    pub(crate) fn store(&self) -> datapath::store::Store {
        datapath::store::Store {
            id: self.id.clone(),
            inbox: Arc::new(self.inbox.clone()),
            replica: Arc::new(self.replica.clone()),
        }
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        self.store().load().await.unwrap().unwrap().manifest
    }

    fn meet(&mut self, weather: &Weather) -> (Arc<Faults>, Option<Gate>) {
        let Met {
            faults,
            stands,
            late,
        } = weather.begin();
        self.late.extend(late);
        (faults, stands)
    }

    fn folder_of(&self, host: usize) -> PathBuf {
        self.folder.path().join(format!("state-{host}"))
    }

    /// The agent of a host forgets what it kept.
    pub(crate) fn lose_state(&self) {
        let _ = std::fs::remove_dir_all(self.folder_of(self.home.load(Ordering::SeqCst)));
    }

    pub(crate) fn jump(&self, seconds: i64) {
        self.clock.jump.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Starts an engine on the host that the VM is on, with whatever an earlier one has left there.
    pub(crate) fn start(&mut self, start: Start) -> Life {
        let number = self.home.load(Ordering::SeqCst);
        let (faults, stands) = self.meet(&start.weather);
        let faulty = |container: MemoryContainer| -> Arc<dyn Container> {
            Arc::new(FaultyContainer::new(Arc::new(container), faults.clone()))
        };
        let witnessed = Witnessed {
            model: self.model.clone(),
            witness: self.witness.clone(),
        };
        let home = (number, self.home.clone());
        let host = Host::new(witnessed, home, self.barriers.clone(), start.fate);
        let (disks, generation) = (self.included(), self.fence.generation);
        let folder = self.folder_of(number);
        std::fs::create_dir_all(&folder).unwrap();
        let (publish, observed) = watch::channel(Engine::initial());
        let (retry, synchronize) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let engine = Engine {
            hypervisor: Arc::new(host.clone()),
            store: Store {
                id: self.id.clone(),
                inbox: faulty(self.inbox.by_signature(Permissions::INBOX)),
                replica: faulty(self.replica.by_signature(Permissions::REPLICA)),
            },
            options: Options {
                writer: Writer {
                    host: format!("hv{number}").parse().unwrap(),
                    generation,
                },
                vm: vm(),
                disks: disks.clone(),
                compress: true,
                interval: INTERVAL,
                application_every: start.application_every,
                resynchronize: start.allowed,
                folder,
            },
            throttle: Arc::new(Throttle::new(None)),
            clock: self.clock.clone(),
            progress: disks
                .keys()
                .map(|id| (id.clone(), Arc::default()))
                .collect(),
            publish,
            retry: retry.clone(),
            synchronize: synchronize.clone(),
            finish: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let task = tokio::spawn(engine.run());
        let dying = die(task.abort_handle(), host.dies.clone(), stands.clone());
        let listening = listen(observed.clone(), self.acknowledged.clone());
        Life {
            observed,
            synchronize,
            retry,
            allowed: start.allowed,
            generation,
            disks,
            faults,
            host,
            stands,
            task,
            _dies: AbortOnDropHandle::new(tokio::spawn(dying)),
            _listens: AbortOnDropHandle::new(tokio::spawn(listening)),
        }
    }

    /// Starts a worker. It stands still where its weather says, and does not die there.
    pub(crate) fn work(&mut self, weather: &Weather) -> Hand {
        let (faults, stands) = self.meet(weather);
        let faulty = |container: &MemoryContainer| -> Arc<dyn Container> {
            Arc::new(FaultyContainer::new(
                Arc::new(container.clone()),
                faults.clone(),
            ))
        };
        let mut worker = Worker::new(datapath::store::Store {
            id: self.id.clone(),
            inbox: faulty(&self.inbox),
            replica: faulty(&self.replica),
        });
        let troubles = Arc::<Mutex<Option<datapath::Error>>>::default();
        let seen = troubles.clone();
        let (orders, chronicle) = (self.orders.clone(), self.chronicle.clone());
        let task = tokio::spawn(async move {
            loop {
                take(&mut worker, &orders);
                chronicle.look().await;
                let step = worker.step().await;
                chronicle.look().await;
                let wait = match &step {
                    Ok(Step::Applied) => Duration::ZERO,
                    Ok(Step::Idle) => LOOK,
                    Err(_) => WAIT,
                };
                *seen.lock().unwrap() = step.err();
                tokio::time::sleep(wait).await;
            }
        });
        Hand {
            faults,
            stands,
            troubles,
            chronicle: self.chronicle.clone(),
            task,
        }
    }
}

fn take(worker: &mut Worker, orders: &Mutex<Orders>) {
    let orders = orders.lock().unwrap();
    worker.keep(orders.retention.clone());
    worker.retire(orders.retired.clone());
}

/// Ends a life where its fate or its weather says.
async fn die(task: AbortHandle, dies: Arc<Notify>, stands: Option<Gate>) {
    match &stands {
        Some(gate) => tokio::select! {
            () = dies.notified() => {}
            () = gate.arrived(1) => {}
        },
        None => dies.notified().await,
    }
    task.abort();
    // A thread that reads for it may wait there.
    stands.inspect(Gate::open);
}

/// Notes what an engine says is sealed.
async fn listen(
    mut observed: watch::Receiver<Observation>,
    acknowledged: Arc<Mutex<BTreeSet<Timestamp>>>,
) {
    loop {
        let synchronized = observed.borrow_and_update().synchronized;
        acknowledged.lock().unwrap().extend(synchronized);
        if observed.changed().await.is_err() {
            return;
        }
    }
}

impl Life {
    /// Ends this life where it stands.
    pub(crate) async fn end(self) {
        self.task.abort();
        // It was cancelled, or had ended.
        let _ = self.task.await;
        // What a thread still waits for that read for it.
        if let Some(gate) = self.stands {
            gate.open();
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Hand {
    /// Ends this life where it stands.
    pub(crate) async fn end(self) {
        self.task.abort();
        // It was cancelled.
        let _ = self.task.await;
        self.chronicle.look().await;
    }

    /// Whether what it reads is damaged: a new chain is needed.
    pub(crate) fn is_refused(&self) -> bool {
        let trouble = self.troubles.lock().unwrap();
        let refused = trouble.as_ref().and_then(datapath::Error::refused);
        refused.is_some()
    }
}
