//! A VM on one of its hosts, its replica, and those who work on them, each with a fate of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use rand::{RngExt as _, rngs::StdRng};
use site_recovery::blob::Container;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure, Rule};
use site_recovery::blob::memory::MemoryContainer;
use site_recovery::blob::parameters::Permissions;
use site_recovery::controller::documents;
use site_recovery::datapath;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::engine::ledger::Store;
use site_recovery::engine::throttle::Throttle;
use site_recovery::engine::{Engine, Observation, Options};
use site_recovery::ids::{ChainId, DiskId, DiskSlot, ReplicaId};
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::names;
use site_recovery::replica::seal::Writer;
use site_recovery::units::{Clock, Generation};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::host::{Fate, Host};
use crate::replication::model::{Model, Witness, Witnessed, slot, vm};

/// How often a worker looks whether there is something to apply.
const LOOK: Duration = Duration::from_secs(5);
/// How long a worker waits that failed.
const WAIT: Duration = Duration::from_secs(30);
/// From one barrier to the next that nobody asks for.
const INTERVAL: Duration = Duration::from_secs(900);

/// What a network may deliver late: whatever changes something.
const LATE: [Operation; 7] = [
    Operation::PutBlob,
    Operation::PutPages,
    Operation::ClearPages,
    Operation::SetSequenceNumber,
    Operation::Snapshot,
    Operation::CreatePageBlob,
    Operation::DeleteBlob,
];

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

/// What one life of somebody meets at the storage account.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// One request in so many fails, before or after it was carried out, or is delivered late.
    pub(crate) fails_one_in: Option<u64>,
    pub(crate) late_one_in: Option<u64>,
    /// The request at which this life stands still, and whether it is carried out before.
    pub(crate) stands_at: Option<(u64, bool)>,
    /// The write of a whole blob, or the listing, that the network holds back while its sender waits for the reply.
    pub(crate) waits_at: Option<u64>,
    pub(crate) seed: u64,
}

/// How an engine is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) allowed: bool,
    pub(crate) weather: Weather,
    pub(crate) fate: Fate,
}

/// A life of the engine.
pub(crate) struct Life {
    pub(crate) observed: watch::Receiver<Observation>,
    pub(crate) synchronize: Arc<Notify>,
    pub(crate) retry: Arc<Notify>,
    pub(crate) allowed: bool,
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
    task: JoinHandle<()>,
}

pub(crate) struct World {
    pub(crate) model: Arc<Model>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) disks: BTreeMap<DiskId, DiskSlot>,
    pub(crate) id: ReplicaId,
    pub(crate) inbox: MemoryContainer,
    pub(crate) replica: MemoryContainer,
    pub(crate) home: Arc<AtomicUsize>,
    /// Barriers that an engine has said are sealed.
    pub(crate) acknowledged: Arc<Mutex<BTreeSet<Timestamp>>>,
    /// Holds what is delivered late.
    pub(crate) late: Vec<Gate>,
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
        let world = World {
            model: Model::new(folder.path(), sizes),
            witness: Arc::default(),
            disks: disks.collect(),
            inbox: MemoryContainer::new("c-i", clock.clone()),
            replica: MemoryContainer::new("c-r", clock.clone()),
            home: Arc::default(),
            acknowledged: Arc::default(),
            late: Vec::new(),
            clock,
            folder,
            id,
        };
        let chain = ChainId::from_random(random.random());
        world.store().create(chain).await.unwrap();
        let fence = world.model.fence(&world.id, &world.disks);
        documents::create(&world.replica, names::FENCE, fence)
            .await
            .unwrap();
        world
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

    /// Makes rules of the weather.
    fn faults(&mut self, weather: &Weather) -> (Arc<Faults>, Option<Gate>) {
        let faults = Faults::new(weather.seed);
        let add = |operations: &[Operation], calls, effect| {
            faults.add(Rule {
                operations: operations.to_vec(),
                object: "*".to_owned(),
                calls,
                effect,
            });
        };
        if let Some(one_in) = weather.fails_one_in {
            let calls = Calls::OneIn(2 * one_in);
            add(&[], calls, Effect::Fail(Failure::Throttled));
            add(&[], calls, Effect::FailAfter(Failure::Interrupted));
        }
        if let Some(one_in) = weather.late_one_in {
            let gate = Gate::closed();
            add(&LATE, Calls::OneIn(one_in), Effect::Late(gate.clone()));
            self.late.push(gate);
        }
        if let Some(at) = weather.waits_at {
            let gate = Gate::closed();
            let some = [Operation::PutBlob, Operation::ListBlobs];
            add(&some, Calls::Nth(at), Effect::Hold(gate.clone()));
            self.late.push(gate);
        }
        let stands = weather.stands_at.map(|(at, carried_out)| {
            let gate = Gate::closed();
            let effect = match carried_out {
                true => Effect::HoldReply(gate.clone()),
                false => Effect::Hold(gate.clone()),
            };
            add(&[], Calls::Nth(at), effect);
            gate
        });
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
        let (faults, stands) = self.faults(&start.weather);
        let faulty = |container: MemoryContainer| -> Arc<dyn Container> {
            Arc::new(FaultyContainer::new(Arc::new(container), faults.clone()))
        };
        let witnessed = Witnessed {
            model: self.model.clone(),
            witness: self.witness.clone(),
        };
        let host = Host::new(witnessed, number, self.home.clone(), start.fate);
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
                    generation: Generation::new(1),
                },
                vm: vm(),
                disks: self.disks.clone(),
                compress: true,
                interval: INTERVAL,
                application_every: None,
                resynchronize: start.allowed,
                folder,
            },
            throttle: Arc::new(Throttle::new(None)),
            clock: self.clock.clone(),
            progress: self
                .disks
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
        let (faults, stands) = self.faults(weather);
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
        let task = tokio::spawn(async move {
            loop {
                let step = worker.step().await;
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
            task,
        }
    }
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
    }
}
