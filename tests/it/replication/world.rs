//! A VM, its agent's engine, the data path and the emulator, put together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use site_recovery::blob::credential::RenewableSas;
use site_recovery::blob::names::{BlobRef, SnapshotId};
use site_recovery::blob::parameters::{Permissions, PutOptions};
use site_recovery::blob::{Account, Container};
use site_recovery::controller::documents;
use site_recovery::datapath;
use site_recovery::datapath::worker::{Step, Worker};
use site_recovery::engine::ledger::Store;
use site_recovery::engine::phase::Phase;
use site_recovery::engine::progress::Progress;
use site_recovery::engine::throttle::Throttle;
use site_recovery::engine::{Engine, Observation, Options};
use site_recovery::host::Hypervisor;
use site_recovery::ids::{ChainId, DiskId, DiskSlot, ReplicaId, random};
use site_recovery::replica::document;
use site_recovery::replica::fence::Fence;
use site_recovery::replica::manifest::{Manifest, Point};
use site_recovery::replica::names::{self, Prefix};
use site_recovery::replica::seal::Writer;
use site_recovery::units::{ByteRange, Clock, Generation, SystemClock};
use tempfile::TempDir;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::model::{Model, Witness, Witnessed, slot, vm};
use crate::blob::emulator::{self, Emulator};

/// Longer than anything here takes, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) model: Arc<Model>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) disks: BTreeMap<DiskId, DiskSlot>,
    pub(crate) cloud: datapath::store::Store,
    pub(crate) account: Arc<dyn Account>,
    pub(crate) emulator: Arc<Emulator>,
    folder: TempDir,
    pub(crate) prefix: Prefix,
}

/// A running engine.
pub(crate) struct Running {
    pub(crate) observed: watch::Receiver<Observation>,
    pub(crate) progress: BTreeMap<DiskId, Arc<Progress>>,
    pub(crate) synchronize: Arc<Notify>,
    pub(crate) retry: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// A VM with disks of these sizes, and an empty replica.
    pub(crate) async fn new(sizes: &[usize]) -> Self {
        let emulator = emulator::start().await;
        let account: Arc<dyn Account> = Arc::new(emulator.account());
        let (id, prefix) = (
            ReplicaId::from_random(random()),
            "it".parse::<Prefix>().unwrap(),
        );
        for container in [prefix.inbox(&id), prefix.replica(&id)] {
            assert!(account.create_container(&container).await.unwrap());
        }
        let cloud = datapath::store::Store {
            inbox: account.container(&prefix.inbox(&id)),
            replica: account.container(&prefix.replica(&id)),
            id,
        };
        cloud.create(ChainId::from_random(random())).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let disks = (0..sizes.len())
            .map(|number| (DiskId::from_random(random()), slot(number)))
            .collect();
        let world = World {
            model: Model::new(folder.path(), sizes),
            witness: Arc::default(),
            disks,
            cloud,
            account,
            emulator,
            folder,
            prefix,
        };
        let fence = world.model.fence(&world.cloud.id, &world.disks);
        documents::create(world.cloud.replica.as_ref(), names::FENCE, fence)
            .await
            .unwrap();
        world
    }

    /// The replica's containers as an agent reaches them: create, read and list; read and list.
    pub(crate) async fn by_signature(&self) -> Store {
        let now = Timestamp::now();
        let (start, expiry) = (
            now - Duration::from_secs(600),
            now + Duration::from_secs(3600),
        );
        let id = self.cloud.id.clone();
        let reach = async |container: String, permissions| {
            let sas = self
                .account
                .sas(&container, permissions, start, expiry)
                .await
                .unwrap();
            self.emulator
                .by_signature_patiently(&container, RenewableSas::new(sas))
        };
        let inbox: Arc<dyn Container> =
            Arc::new(reach(self.prefix.inbox(&id), Permissions::INBOX).await);
        let replica: Arc<dyn Container> =
            Arc::new(reach(self.prefix.replica(&id), Permissions::REPLICA).await);
        Store { inbox, replica, id }
    }

    pub(crate) async fn start(&self) -> Running {
        let store = self.by_signature().await;
        self.start_with(store)
    }

    /// Starts an engine that does otherwise than usual.
    pub(crate) async fn start_as(&self, change: impl FnOnce(&mut Options)) -> Running {
        let store = self.by_signature().await;
        let mut options = self.options();
        change(&mut options);
        self.start_engine(store, options, Arc::new(SystemClock))
    }

    /// Starts an engine on `store`, with whatever state an earlier one left in its folder.
    pub(crate) fn start_with(&self, store: Store) -> Running {
        self.start_engine(store, self.options(), Arc::new(SystemClock))
    }

    /// The same, and a comparison that is needed may run.
    pub(crate) fn start_with_leave(&self, store: Store) -> Running {
        let mut options = self.options();
        options.resynchronize = true;
        self.start_engine(store, options, Arc::new(SystemClock))
    }

    /// The same by another clock.
    pub(crate) fn start_by(&self, store: Store, clock: Arc<dyn Clock>) -> Running {
        self.start_engine(store, self.options(), clock)
    }

    /// What an engine does usually: it takes no barriers but those that are asked for, and compares nothing without
    /// leave.
    fn options(&self) -> Options {
        Options {
            writer: Writer {
                host: "hv1".parse().unwrap(),
                generation: Generation::new(1),
            },
            vm: vm(),
            disks: self.disks.clone(),
            compress: true,
            interval: Duration::from_secs(24 * 3600),
            application_every: None,
            resynchronize: false,
            folder: self.folder.path().join("state"),
        }
    }

    fn start_engine(&self, store: Store, options: Options, clock: Arc<dyn Clock>) -> Running {
        let hypervisor: Arc<dyn Hypervisor> = Arc::new(Witnessed {
            model: self.model.clone(),
            witness: self.witness.clone(),
        });
        std::fs::create_dir_all(&options.folder).unwrap();
        let (publish, observed) = watch::channel(Engine::initial());
        let retry = Arc::new(Notify::new());
        let progress: BTreeMap<_, Arc<Progress>> = self
            .disks
            .keys()
            .map(|id| (id.clone(), Arc::default()))
            .collect();
        let synchronize = Arc::new(Notify::new());
        let engine = Engine {
            hypervisor,
            store,
            options,
            throttle: Arc::new(Throttle::new(None)),
            clock,
            progress: progress.clone(),
            publish,
            retry: retry.clone(),
            synchronize: synchronize.clone(),
            finish: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        Running {
            observed,
            progress,
            synchronize,
            retry,
            task: tokio::spawn(engine.run()),
        }
    }

    /// Forgets what the agent kept.
    pub(crate) fn lose_state(&self) {
        std::fs::remove_dir_all(self.folder.path().join("state")).unwrap();
    }

    /// Applies what is sealed, until there is no more.
    pub(crate) async fn apply_all(&self, worker: &mut Worker) {
        while worker.step().await.unwrap() == Step::Applied {}
    }

    pub(crate) fn worker(&self) -> Worker {
        Worker::new(self.cloud.clone())
    }

    /// Writes another fence, as a controller does or somebody else.
    pub(crate) async fn change_fence(&self, change: impl FnOnce(&mut Fence)) {
        let (replica, blob) = (&self.cloud.replica, BlobRef::head(names::FENCE));
        let got = replica.get(&blob, None, 1 << 20).await.unwrap();
        let mut fence = document::decode(&got.bytes).unwrap();
        change(&mut fence);
        let body = document::encode(&fence).unwrap();
        let put = PutOptions::default();
        replica.put(names::FENCE, body.into(), &put).await.unwrap();
    }

    pub(crate) async fn manifest(&self) -> Manifest {
        self.cloud.load().await.unwrap().unwrap().manifest
    }

    /// What a disk holds at a recovery point, read back from its snapshot.
    pub(crate) async fn read_point(&self, point: &Point, disk: &DiskId) -> Vec<u8> {
        let snapshot: SnapshotId = point.disks[disk].snapshot.parse().unwrap();
        let blob = BlobRef::at(names::disk(disk), snapshot);
        let size = point.disks[disk].size;
        let got = self
            .cloud
            .replica
            .get(&blob, Some(ByteRange::to(size)), size)
            .await;
        got.unwrap().bytes.to_vec()
    }

    /// Every point is what was frozen at its barrier, on all its disks.
    pub(crate) async fn assert_all_points_are_what_was_frozen(&self) {
        for point in &self.manifest().await.points {
            let frozen = self.witness.at(point.barrier.time);
            for disk in point.disks.keys() {
                let found = self.read_point(point, disk).await;
                let slot = &self.disks[disk];
                let sequence = point.sequence;
                assert!(
                    found == *frozen[slot],
                    "disk {slot} differs from what was frozen at sequence {sequence}"
                );
            }
        }
    }

    /// The newest point is what the newest frozen point held, on all disks.
    pub(crate) async fn assert_point_is_what_was_frozen(&self) {
        let manifest = self.manifest().await;
        let point = manifest.points.last().expect("a point was published");
        let frozen = self.model.last_frozen(&self.witness);
        for (id, slot) in &self.disks {
            let found = self.read_point(point, id).await;
            assert!(
                found == *frozen[slot],
                "disk {slot} differs from what was frozen"
            );
        }
    }
}

impl Running {
    /// Waits until the engine shows what is wanted.
    pub(crate) async fn wait_until(&mut self, wanted: impl Fn(&Observation) -> bool) {
        let reached = self.observed.wait_for(|observed| wanted(observed));
        tokio::time::timeout(PATIENCE, reached)
            .await
            .expect("the engine shows it")
            .unwrap();
    }

    /// Waits until the engine is in a phase.
    pub(crate) async fn wait_for(&mut self, what: impl Fn(&Phase) -> bool) {
        let reached = self.observed.wait_for(|observed| what(&observed.phase));
        tokio::time::timeout(PATIENCE, reached)
            .await
            .expect("the phase is reached")
            .unwrap();
    }

    /// Waits until everything is sealed.
    pub(crate) async fn wait_until_replicating(&mut self) {
        self.wait_for(|phase| matches!(phase, Phase::Replicating { .. }))
            .await;
    }

    /// Asks for a barrier, and waits until its changes are sealed.
    pub(crate) async fn synchronize(&mut self) {
        let before = self.observed.borrow().cycles.completed;
        self.synchronize.notify_one();
        let sealed = self
            .observed
            .wait_for(|observed| observed.cycles.completed > before);
        tokio::time::timeout(PATIENCE, sealed)
            .await
            .expect("the barrier is sealed")
            .unwrap();
        self.wait_until_replicating().await;
    }

    /// Waits until the engine says that it failed.
    pub(crate) async fn wait_for_trouble(&mut self) {
        let failed = self
            .observed
            .wait_for(|observed| observed.trouble.is_some());
        tokio::time::timeout(PATIENCE, failed)
            .await
            .expect("the engine fails")
            .unwrap();
    }

    /// Bytes that went into the inbox.
    pub(crate) fn sent(&self) -> u64 {
        self.progress
            .values()
            .map(|progress| progress.counted().sent)
            .sum()
    }
}
