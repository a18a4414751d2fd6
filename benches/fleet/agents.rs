//! Hosts without a hypervisor, whose agents speak the real wire: they dial in, say what they observe and do as told.
//!
//! What an agent does for a VM is reduced to what the controller can tell: a first copy is two seals without data, then a
//! barrier every interval finds nothing changed. A host's machines are of one kind, one disk each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use jiff::Timestamp;
use site_recovery::agent::connection::address::{Address, Proxy};
use site_recovery::agent::connection::{self, Config, Limits, State};
use site_recovery::agent::observations::Board;
use site_recovery::agent::routes::{self, Service};
use site_recovery::blob::client::Options;
use site_recovery::blob::client::container::ContainerClient;
use site_recovery::blob::credential::RenewableSas;
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::engine::ledger::{Ledger, Store};
use site_recovery::host::{Backing, BootGeneration, Machine, PowerState, Volume};
use site_recovery::ids::{HostName, OperationId, ReplicaId, VmId};
use site_recovery::replica::seal::Writer;
use site_recovery::report::{Code, Fault};
use site_recovery::retry::Trouble;
use site_recovery::tls::ClientTls;
use site_recovery::transport::http::Http;
use site_recovery::units::{GIB, Generation, MIB, Sequence, SystemClock};
use site_recovery::wire::observation::{Cycles, DiskObservation, HostObservation, Phase};
use site_recovery::wire::{
    Answer, Command, Hello, HelloReply, HostCommand, Observations, Relationship, Remove,
    ReplicationObservation, Resynchronize, Settings, Start, Synchronize,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::copies::{self, Disk};
use crate::say;

/// Bytes of each machine's disk.
pub(crate) const DISK: u64 = 16 * MIB;
/// Until a copy that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A host of the fleet.
pub(crate) struct Host {
    name: HostName,
    board: Board,
    replications: Mutex<BTreeMap<ReplicaId, Replication>>,
    http: Http,
    /// Sealing takes part in nothing that is measured: a few at a time.
    copies: Arc<tokio::sync::Semaphore>,
}

/// What a host was told to replicate.
struct Replication {
    relationship: Relationship,
    shown: ReplicationObservation,
}

/// What the wire asks of a host.
struct Face(Arc<Host>);

impl Host {
    /// A host with machines of these names.
    pub(crate) fn new(
        name: HostName,
        machines: &[String],
        http: Http,
        copies: Arc<tokio::sync::Semaphore>,
    ) -> anyhow::Result<Arc<Self>> {
        let board = Board::new(Uuid::new_v4());
        let machines = machines.iter().map(|name| machine(name));
        board.show_host(HostObservation {
            machines: machines.collect::<anyhow::Result<_>>()?,
            fault: None,
        });
        Ok(Arc::new(Host {
            name,
            board,
            replications: Mutex::default(),
            http,
            copies,
        }))
    }

    /// Keeps a connection to the gateway until `shutdown`.
    pub(crate) fn connect(
        self: &Arc<Self>,
        certificates: PathBuf,
        gateway: u16,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let gateway: Address = format!("127.0.0.1:{gateway}").parse()?;
        let config = Config {
            server_name: gateway.server_name()?,
            gateway,
            proxy: Proxy::none(),
            tls: ClientTls::new(certificates),
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
        };
        let router = routes::router(Arc::new(Face(self.clone())));
        let (publish, _) = watch::channel(State::default());
        tokio::spawn(connection::run(config, router, publish, shutdown));
        Ok(())
    }

    /// Has every replication change once per `interval`, each at a moment of its own.
    pub(crate) async fn change(self: Arc<Self>, interval: Duration) {
        loop {
            let replicating = self.replicating();
            let begun = Instant::now();
            let pause = interval / u32::try_from(replicating.len().max(1)).unwrap_or(u32::MAX);
            for (replica, number) in replicating.iter().zip(1..) {
                tokio::time::sleep_until(begun + pause * number).await;
                self.alter(replica, |shown| {
                    shown.synchronized = Some(Timestamp::now());
                    shown.cycles.completed += 1;
                    shown.cycles.latency += 40;
                });
            }
            if replicating.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// What replicates as it should.
    pub(crate) fn replicating(&self) -> Vec<ReplicaId> {
        let replications = self.lock();
        let steady = replications
            .iter()
            .filter(|(_, of)| of.shown.phase == Phase::Replicating);
        steady.map(|(replica, _)| replica.clone()).collect()
    }

    /// The object that a replication is of.
    pub(crate) fn object(&self, replica: &ReplicaId) -> Option<String> {
        let replications = self.lock();
        let of = replications.get(replica)?;
        Some(of.relationship.object.name().to_owned())
    }

    /// Breaks the disk chain of a VM, or mends it.
    pub(crate) fn set_broken(&self, replica: &ReplicaId, broken: bool) {
        self.alter(replica, |shown| {
            shown.trouble = broken.then(|| Trouble {
                fault: Fault::new(Code::BrokenDiskChain, "parent of disk-1.avhdx is missing"),
                attempts: 1,
                since: Timestamp::now(),
                next_attempt: None,
            });
        });
    }

    fn alter(&self, replica: &ReplicaId, change: impl FnOnce(&mut ReplicationObservation)) {
        let mut replications = self.lock();
        if let Some(of) = replications.get_mut(replica) {
            change(&mut of.shown);
            self.board.show(of.shown.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ReplicaId, Replication>> {
        self.replications
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ships the first copy, as often as it takes.
    async fn copy(self: Arc<Self>, replica: ReplicaId) {
        loop {
            match self.try_copy(&replica).await {
                Ok(sealed) => {
                    return self.alter(&replica, |shown| {
                        shown.phase = Phase::Replicating;
                        shown.sealed = sealed;
                        shown.synchronized = Some(Timestamp::now());
                        shown.cycles.completed = 1;
                    });
                }
                Err(error) => {
                    let _ = say(&format!("{replica}: a copy is tried again: {error:#}"));
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn try_copy(&self, replica: &ReplicaId) -> anyhow::Result<Sequence> {
        let _place = self.copies.acquire().await?;
        let (store, writer, disks) = {
            let replications = self.lock();
            let of = replications.get(replica).context("it was removed")?;
            let writer = Writer {
                host: self.name.clone(),
                generation: of.shown.generation,
            };
            let disks = of.relationship.disks.iter().map(|disk| Disk {
                id: disk.id.clone(),
                size: DISK,
            });
            let store = store(&of.relationship, &self.http)?;
            (store, writer, disks.collect::<Vec<_>>())
        };
        let mut ledger = Ledger::read(store, writer).await?;
        // What an earlier attempt has sealed stays sealed.
        if ledger.next() == Sequence::ZERO.next() {
            copies::first_copy(&mut ledger, &disks, 0).await?;
        }
        Ok(Sequence::new(ledger.next().value() - 1))
    }
}

fn store(relationship: &Relationship, http: &Http) -> anyhow::Result<Store> {
    let storage = &relationship.storage;
    let endpoint = Endpoint::parse(&storage.endpoint)?;
    let reach = |access: &site_recovery::wire::ContainerAccess| {
        let signature = RenewableSas::new(access.sas.clone());
        ContainerClient::with_sas(
            http,
            endpoint.clone(),
            access.container.clone(),
            signature,
            Options::default(),
        )
    };
    Ok(Store {
        id: relationship.replica.clone(),
        inbox: Arc::new(reach(&storage.inbox)),
        replica: Arc::new(reach(&storage.replica)),
    })
}

fn machine(name: &str) -> anyhow::Result<Machine> {
    let disk = site_recovery::host::Disk {
        slot: "scsi:0:0".parse()?,
        backing: Backing::Vhdx,
        path: format!(r"D:\machines\{name}\disk-1.vhdx"),
        virtual_size: DISK,
        logical_sector: 512,
        physical_sector: 4096,
        identifier: Some(Uuid::new_v4()),
        boot: true,
        volume: Some(Volume {
            name: "D:".to_owned(),
            free: 500 * GIB,
            size: 1000 * GIB,
        }),
        problem: None,
    };
    Ok(Machine {
        id: Uuid::new_v4().to_string().parse::<VmId>()?,
        name: name.to_owned(),
        boot: BootGeneration::Gen2,
        power: PowerState::Running,
        start_action: None,
        busy: None,
        processors: 2,
        memory_mib: 4096,
        secure_boot: true,
        guest_os: Some("Windows Server 2022".to_owned()),
        replicated_by: None,
        disks: vec![disk],
        network_adapters: Vec::new(),
    })
}

fn done(operation: OperationId) -> Answer {
    Answer {
        operation,
        repeated: false,
    }
}

fn unknown(replica: &ReplicaId) -> Fault {
    Fault::new(Code::NotReplicating, format!("{replica} is not replicated"))
}

#[async_trait]
impl Service for Face {
    fn hello(&self, _: &Hello, version: u32) -> HelloReply {
        HelloReply {
            version,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.0.name.clone(),
            session: self.0.board.session(),
        }
    }

    async fn observations(
        &self,
        session: Option<Uuid>,
        after: u64,
        deadline: Instant,
    ) -> Result<Observations, Fault> {
        Ok(self.0.board.read(session, after, deadline).await)
    }

    async fn settings(&self, command: HostCommand<Settings>) -> Result<Answer, Fault> {
        Ok(done(command.operation))
    }

    async fn create_relationship(&self, command: Command<Relationship>) -> Result<Answer, Fault> {
        let Command {
            generation, body, ..
        } = command;
        let mut replications = self.0.lock();
        let of = replications
            .entry(body.replica.clone())
            .or_insert_with(|| Replication {
                shown: created(&body, generation),
                relationship: body.clone(),
            });
        of.shown.generation = generation;
        of.shown.credentials_expire = body.storage.expires;
        of.relationship = body;
        self.0.board.show(of.shown.clone());
        Ok(done(command.operation))
    }

    async fn start(&self, replica: ReplicaId, command: Command<Start>) -> Result<Answer, Fault> {
        let phase = self.0.lock().get(&replica).map(|of| of.shown.phase);
        match phase {
            None => return Err(unknown(&replica)),
            Some(Phase::Created) => {
                self.0.alter(&replica, |shown| shown.phase = Phase::Copying);
                tokio::spawn(self.0.clone().copy(replica));
            }
            Some(_) => {}
        }
        Ok(done(command.operation))
    }

    async fn synchronize(
        &self,
        replica: ReplicaId,
        command: Command<Synchronize>,
    ) -> Result<Answer, Fault> {
        self.0.alter(&replica, |shown| {
            shown.synchronized = Some(Timestamp::now());
        });
        Ok(done(command.operation))
    }

    async fn resynchronize(
        &self,
        replica: ReplicaId,
        _: Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        Err(Fault::new(
            Code::Unsupported,
            format!("{replica} cannot be compared: its host has no disks"),
        ))
    }

    async fn remove(&self, replica: ReplicaId, command: Command<Remove>) -> Result<Answer, Fault> {
        self.0.lock().remove(&replica);
        self.0.board.hide(&replica);
        Ok(done(command.operation))
    }
}

/// What a host shows of a VM that it was just told of.
fn created(relationship: &Relationship, generation: Generation) -> ReplicationObservation {
    let disks = relationship.disks.iter().map(|disk| DiskObservation {
        disk: disk.id.clone(),
        total: 0,
        done: 0,
        sent: 0,
        rate: 0,
        pending: 0,
        changed: 0,
        limited_by: None,
    });
    ReplicationObservation {
        replica: relationship.replica.clone(),
        vm: relationship.vm.clone(),
        generation,
        phase: Phase::Created,
        disks: disks.collect(),
        sealed: Sequence::ZERO,
        credentials_expire: relationship.storage.expires,
        synchronized: None,
        cycles: Cycles::default(),
        resync: None,
        quiesce: None,
        trouble: None,
    }
}
