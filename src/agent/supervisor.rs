//! Keeps one engine for every VM that is to be replicated, and does what the controller commands.
//!
//! A command is admitted if its generation is not lower than the VM's, written down, and then in force: an engine is
//! started, gets new signatures, or ends; one that is suspended seals what it has captured before it ends. A command that
//! was done before gets its answer again.

mod service;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::agent::inventory::Inventory;
use crate::agent::observations::Board;
use crate::agent::observer::{Observer, Subject};
use crate::agent::state::{Replication, StateFolder};
use crate::blob::client::Options as BlobOptions;
use crate::blob::client::container::ContainerClient;
use crate::blob::credential::RenewableSas;
use crate::blob::endpoint::Endpoint;
use crate::engine::ledger::Store;
use crate::engine::progress::Progress;
use crate::engine::throttle::Throttle;
use crate::engine::{self, Engine};
use crate::host::Hypervisor;
use crate::ids::{DiskId, HostName, OperationId, ReplicaId, VmId};
use crate::replica::seal::Writer;
use crate::report::{Code, Fault};
use crate::transport::http::Http;
use crate::units::{Clock, Generation};
use crate::wire::observation::HostObservation;
use crate::wire::{Command, Policy, Relationship, StorageAccess};

/// How long an engine may take to end.
const ENDING: Duration = Duration::from_secs(10);

/// What engines work with.
#[derive(Clone)]
pub struct Edges {
    pub hypervisor: Arc<dyn Hypervisor>,
    pub http: Http,
    pub clock: Arc<dyn Clock>,
}

/// All replications of a host.
pub struct Supervisor {
    host: HostName,
    state: StateFolder,
    edges: Edges,
    board: Arc<Board>,
    throttle: Arc<Throttle>,
    replications: Replications,
    /// The machine of each replication. It is held while it is decided whether a machine is tracked any more.
    machines: Mutex<BTreeMap<ReplicaId, VmId>>,
    stop: CancellationToken,
}

/// Each replication by itself: what one command waits for, be it storage, the hypervisor or an engine, holds up those of
/// the same replica alone. Whoever has one never asks for another, and asks for `machines` after it. A place stays when
/// its replication is removed: who waits for it finds that out.
type Replications = std::sync::Mutex<BTreeMap<ReplicaId, Place>>;
type Place = Arc<Mutex<Option<Supervised>>>;

/// A replication, and its engine once it was started.
struct Supervised {
    replication: Replication,
    running: Option<Running>,
}

struct Running {
    inbox: RenewableSas,
    replica: RenewableSas,
    expire: watch::Sender<Timestamp>,
    synchronize: Arc<Notify>,
    retry: Arc<Notify>,
    /// As whose its engine is shown.
    subject: watch::Sender<Subject>,
    finish: CancellationToken,
    stop: CancellationToken,
    engine: AbortOnDropHandle<()>,
    _observer: AbortOnDropHandle<()>,
}

impl Supervisor {
    /// Goes on with what the state folder says. All of it is known before the first command can come, so that none is
    /// judged without it.
    pub fn start(
        host: HostName,
        state: StateFolder,
        edges: Edges,
        inventory: Inventory,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let throttle = Arc::new(Throttle::new(state.settings().bandwidth));
        let mut supervisor = Supervisor {
            host,
            state,
            edges,
            board: Arc::new(Board::new(Uuid::new_v4())),
            throttle,
            replications: Replications::default(),
            machines: Mutex::default(),
            stop: stop.clone(),
        };
        let resumed = supervisor.resumed();
        let machines = resumed.iter().map(|of| {
            let relationship = &of.replication.relationship;
            (relationship.replica.clone(), relationship.vm.clone())
        });
        supervisor.machines = Mutex::new(machines.collect());
        let places = resumed.into_iter().map(|of| {
            let replica = of.replication.relationship.replica.clone();
            (replica, Arc::new(Mutex::new(Some(of))))
        });
        supervisor.replications = Replications::new(places.collect());
        let supervisor = Arc::new(supervisor);
        tokio::spawn(show_inventory(supervisor.board.clone(), inventory, stop));
        supervisor
    }

    /// Ends all engines.
    pub async fn stop(&self) {
        self.stop.cancel();
        let places: Vec<Place> = self.places().values().cloned().collect();
        for place in places {
            let mut supervised = place.lock().await;
            if let Some(running) = supervised.as_mut().and_then(|of| of.running.take()) {
                running.end().await;
            }
        }
    }

    /// The replications of the state folder, each with its engine if it was started.
    fn resumed(&self) -> Vec<Supervised> {
        let loaded = self.state.load().unwrap_or_else(|error| {
            tracing::error!(
                error = crate::report::chain(&error),
                "no replication is resumed"
            );
            Vec::new()
        });
        let supervised = loaded.into_iter().map(|replication| {
            let running = self.run_if_started(&replication);
            self.show_if_idle(&replication, running.as_ref());
            Supervised {
                replication,
                running,
            }
        });
        supervised.collect()
    }

    /// Admits a command to a VM, or says why not: whether it has been done already.
    async fn admit<T>(
        &self,
        replica: &ReplicaId,
        known: Option<&Replication>,
        command: &Command<T>,
    ) -> Result<bool, Fault> {
        let stale = |generation: Generation| {
            let message = format!(
                "replica {replica} on host {} is commanded by generation {generation}, this command is of {}",
                self.host, command.generation
            );
            Fault::new(Code::GenerationStale, message)
        };
        match known {
            Some(known) if command.generation < known.generation => Err(stale(known.generation)),
            Some(known) => Ok(known.has_done(&command.operation)),
            None => Ok(false),
        }
    }

    /// Without state of its own the agent asks storage who commands.
    async fn check_fence(
        &self,
        relationship: &Relationship,
        generation: Generation,
    ) -> Result<(), Fault> {
        let (store, _, _) = self.store(relationship)?;
        let writer = Writer {
            host: self.host.clone(),
            generation,
        };
        store
            .check_fence(&writer)
            .await
            .map_err(|error| error.fault())
    }

    fn run_if_started(&self, replication: &Replication) -> Option<Running> {
        let relationship = &replication.relationship;
        if !replication.started || relationship.suspended || self.stop.is_cancelled() {
            return None;
        }
        match self.spawn(replication) {
            Ok(running) => Some(running),
            Err(fault) => {
                tracing::error!(replica = %replication.relationship.replica, %fault, "cannot replicate");
                None
            }
        }
    }

    fn spawn(&self, replication: &Replication) -> Result<Running, Fault> {
        let relationship = &replication.relationship;
        let (store, inbox, replica) = self.store(relationship)?;
        let disks: BTreeMap<DiskId, _> = relationship
            .disks
            .iter()
            .map(|disk| (disk.id.clone(), disk.slot.clone()))
            .collect();
        let progress: BTreeMap<DiskId, Arc<Progress>> = disks
            .keys()
            .map(|id| (id.clone(), Arc::default()))
            .collect();
        let (publish, observed) = watch::channel(Engine::initial());
        let (stop, finish) = (self.stop.child_token(), CancellationToken::new());
        let (synchronize, retry) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let engine = Engine {
            hypervisor: self.edges.hypervisor.clone(),
            store,
            options: engine::Options {
                writer: Writer {
                    host: self.host.clone(),
                    generation: replication.generation,
                },
                vm: relationship.vm.clone(),
                disks,
                compress: relationship.policy.compress,
                interval: Duration::from_secs(relationship.policy.copy_interval.into()),
                application_every: application_every(&relationship.policy),
                resynchronize: relationship.resynchronize,
                folder: self.state.of(&relationship.replica),
            },
            throttle: self.throttle.clone(),
            clock: self.edges.clock.clone(),
            progress: progress.clone(),
            publish,
            retry: retry.clone(),
            synchronize: synchronize.clone(),
            finish: finish.clone(),
            stop: stop.clone(),
        };
        let (expire, expires) = watch::channel(relationship.storage.expires);
        let (subject, shown) = watch::channel(Subject::of(replication));
        let observer = Observer {
            board: self.board.clone(),
            subject: shown,
            observed,
            progress,
            expires,
        };
        Ok(Running {
            inbox,
            replica,
            expire,
            synchronize,
            retry,
            subject,
            finish,
            stop,
            engine: AbortOnDropHandle::new(tokio::spawn(engine.run())),
            _observer: AbortOnDropHandle::new(tokio::spawn(observer.run())),
        })
    }

    /// The replica's containers, and the signatures that they are reached by.
    fn store(
        &self,
        relationship: &Relationship,
    ) -> Result<(Store, RenewableSas, RenewableSas), Fault> {
        let StorageAccess {
            account,
            endpoint,
            inbox,
            replica,
            ..
        } = &relationship.storage;
        let endpoint = Endpoint::of_account(endpoint, account)
            .map_err(|error| Fault::of(Code::InvalidRequest, &error))?;
        let options = BlobOptions {
            stop: self.stop.clone(),
            clock: self.edges.clock.clone(),
            ..BlobOptions::default()
        };
        let reach = |access: &crate::wire::ContainerAccess| {
            let sas = RenewableSas::new(access.sas.clone());
            let container = access.container.clone();
            let client = ContainerClient::with_sas(
                &self.edges.http,
                endpoint.clone(),
                container,
                sas.clone(),
                options.clone(),
            );
            (client, sas)
        };
        let ((inbox, inbox_sas), (replica, replica_sas)) = (reach(inbox), reach(replica));
        let id = relationship.replica.clone();
        Ok((
            Store {
                id,
                inbox: Arc::new(inbox),
                replica: Arc::new(replica),
            },
            inbox_sas,
            replica_sas,
        ))
    }

    fn show_if_idle(&self, replication: &Replication, running: Option<&Running>) {
        if running.is_none() {
            self.board
                .show(Subject::of(replication).idle(replication.relationship.storage.expires));
        }
    }

    fn keep(&self, replication: &Replication) -> Result<(), Fault> {
        self.state.keep(replication).map_err(|error| error.fault())
    }

    /// Writes down that an operation was done.
    fn remember(&self, supervised: &mut Supervised, operation: &OperationId) -> Result<(), Fault> {
        supervised.replication.done(operation.clone());
        self.keep(&supervised.replication)
    }

    fn places(&self) -> std::sync::MutexGuard<'_, BTreeMap<ReplicaId, Place>> {
        let places = self.replications.lock();
        places.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other command of the replica is under way.
    async fn place(&self, replica: &ReplicaId) -> OwnedMutexGuard<Option<Supervised>> {
        let place = self.places().entry(replica.clone()).or_default().clone();
        place.lock_owned().await
    }

    fn known<'a>(
        &self,
        supervised: &'a mut Option<Supervised>,
        replica: &ReplicaId,
    ) -> Result<&'a mut Supervised, Fault> {
        supervised.as_mut().ok_or_else(|| {
            let host = &self.host;
            let message = format!("host {host} has no relationship of replica {replica}");
            Fault::new(Code::NotReplicating, message)
        })
    }
}

fn application_every(policy: &Policy) -> Option<Duration> {
    let hours = u64::from(policy.application_consistent_hours);
    (hours > 0).then(|| Duration::from_secs(hours * 3600))
}

impl Running {
    /// Lets the engine use new signatures.
    fn renew(&self, storage: &StorageAccess) {
        self.inbox.replace(storage.inbox.sas.clone());
        self.replica.replace(storage.replica.sas.clone());
        self.expire.send_replace(storage.expires);
    }

    /// Has the engine seal what is captured, and end then. From now on it is that of `replication`, which is suspended.
    fn finish(&self, replication: &Replication) {
        self.renew(&replication.relationship.storage);
        self.subject.send_replace(Subject::of(replication));
        self.finish.cancel();
    }

    /// Whether the engine has ended by itself.
    fn is_over(&self) -> bool {
        self.engine.is_finished()
    }

    /// Asks the engine to end, and makes it.
    async fn end(self) {
        self.stop.cancel();
        if tokio::time::timeout(ENDING, self.engine).await.is_err() {
            tracing::warn!("an engine did not end in time");
        }
    }
}

async fn show_inventory(board: Arc<Board>, inventory: Inventory, stop: CancellationToken) {
    let mut seen = inventory.seen();
    loop {
        let now = seen.borrow_and_update().clone();
        if now.answered || now.fault.is_some() {
            board.show_host(HostObservation {
                machines: now.machines,
                fault: now.fault,
            });
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests;
