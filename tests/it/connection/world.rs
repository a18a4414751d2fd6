//! A gateway, agents, and what issues their certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use jiff::Timestamp;
use site_recovery::agent::connection::address::{Address, Proxy};
use site_recovery::agent::connection::{self, Config, State};
use site_recovery::agent::routes::{self, Service};
use site_recovery::agent_client::Agent;
use site_recovery::agent_client::faulty::Gate;
use site_recovery::controller::gateway::host_state::HostState;
use site_recovery::controller::gateway::{self, Bounds, Gateway, Registry};
use site_recovery::ids::{HostName, ObjectName, OperationId, ReplicaId};
use site_recovery::lab::authority::{Authority, Issued, Validity};
use site_recovery::report::{Code, Fault};
use site_recovery::tls::{ClientTls, PeerIdentity, ServerTls};
use site_recovery::units::{Clock, Generation, Sequence, SystemClock};
use site_recovery::wire::observation::{Cycles, Phase};
use site_recovery::wire::{
    Answer, Command, Hello, HelloReply, HostCommand, Observations, Relationship, Remove,
    ReplicationObservation, Resynchronize, Settings, Start, Synchronize,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Nothing here takes so long, unless it never happens.
pub(crate) const NEVER: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn site() -> ObjectName {
    ObjectName::new("dr", "factory").unwrap()
}

pub(crate) fn host_name(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(crate) fn identity(host: &str) -> PeerIdentity {
    PeerIdentity {
        site: site(),
        host: host_name(host),
    }
}

/// An hour around now.
pub(crate) fn valid() -> Validity {
    Validity::around(SystemClock.now(), HOUR, HOUR)
}

/// An authority, and the folders of those whom it has issued certificates.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    folders: TempDir,
    next: AtomicU32,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Pki {
            authority: Authority::new("test authority", valid()).unwrap(),
            folders: tempfile::tempdir().unwrap(),
            next: AtomicU32::new(0),
        }
    }

    /// A new folder with these certificates.
    pub(crate) fn folder(&self, issued: &Issued) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.folders.path().join(number.to_string());
        issued.write(&folder).unwrap();
        folder
    }

    pub(crate) fn gateway(&self) -> PathBuf {
        self.folder(&self.authority.gateway(&["127.0.0.1"], valid()).unwrap())
    }

    pub(crate) fn agent(&self, host: &str) -> PathBuf {
        self.folder(&self.authority.agent(&identity(host), valid()).unwrap())
    }
}

/// A running gateway.
pub(crate) struct Controller {
    pub(crate) address: SocketAddr,
    pub(crate) registry: Arc<Registry>,
    pub(crate) leader: watch::Sender<bool>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

/// Limits under which a test of a limit does not take minutes. Keep-alive and deadlines stay as they are.
pub(crate) fn quick() -> gateway::Limits {
    gateway::Limits {
        poll_pace: Duration::from_millis(1),
        poll_retry: Duration::from_millis(50),
        ..gateway::Limits::default()
    }
}

impl Controller {
    pub(crate) async fn start(certificates: PathBuf, limits: gateway::Limits) -> Self {
        Controller::start_as(certificates, limits, true).await
    }

    pub(crate) async fn start_as(
        certificates: PathBuf,
        limits: gateway::Limits,
        leads: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(Registry::new(Arc::new(SystemClock), Bounds::default()));
        let (leader, leads) = watch::channel(leads);
        let shutdown = CancellationToken::new();
        let gateway = Gateway {
            tls: ServerTls::new(certificates),
            leader: leads,
            registry: registry.clone(),
            limits,
        };
        let task = tokio::spawn(gateway.serve(listener, shutdown.clone()));
        Controller {
            address,
            registry,
            leader,
            shutdown,
            task,
        }
    }

    /// Looks at the registry after every change until `found` finds something.
    pub(crate) async fn until<T>(&self, what: &str, found: impl Fn(&Registry) -> Option<T>) -> T {
        let mut changes = self.registry.changes();
        let end = Instant::now() + NEVER;
        loop {
            if let Some(found) = found(&self.registry) {
                return found;
            }
            let changed = timeout_at(end, changes.next()).await;
            assert!(changed.is_ok(), "waited in vain until {what}");
        }
    }

    pub(crate) async fn connected(&self, host: &str) -> Arc<HostState> {
        let host = host_name(host);
        self.until("the host is connected", |registry| {
            registry
                .host(&site(), &host)
                .filter(|state| state.is_connected())
        })
        .await
    }

    pub(crate) async fn lost(&self, host: &str) -> Arc<HostState> {
        let host = host_name(host);
        self.until("the host is lost", |registry| {
            registry
                .host(&site(), &host)
                .filter(|state| !state.is_connected())
        })
        .await
    }

    pub(crate) async fn agent_of(&self, host: &str) -> Arc<dyn Agent> {
        self.connected(host).await.agent().unwrap().clone()
    }

    /// Ends the gateway, and waits until it has.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// A running agent's connection.
pub(crate) struct AgentProcess {
    pub(crate) host: Arc<TestHost>,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl AgentProcess {
    /// An agent of `host` that dials `gateway`.
    pub(crate) fn start(host: &str, certificates: PathBuf, gateway: SocketAddr) -> Self {
        let config = config(certificates, gateway);
        AgentProcess::start_with(TestHost::new(host), config)
    }

    pub(crate) fn start_with(host: Arc<TestHost>, config: Config) -> Self {
        let router = routes::router(host.clone());
        AgentProcess::serving(host, router, config)
    }

    pub(crate) fn serving(host: Arc<TestHost>, router: Router, config: Config) -> Self {
        let (publish, state) = watch::channel(State::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(connection::run(config, router, publish, shutdown.clone()));
        AgentProcess {
            host,
            state,
            shutdown,
            task,
        }
    }

    /// Waits for a state of the connection.
    pub(crate) async fn until(&self, what: &str, is: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.clone();
        match tokio::time::timeout(NEVER, state.wait_for(is)).await {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!(
                "waited in vain until {what}; the state is {:?}",
                self.state.borrow()
            ),
        }
    }

    /// Waits until an attempt has failed.
    pub(crate) async fn failed(&self) -> Fault {
        let state = self.until("an attempt fails", |state| state.last_error.is_some());
        state.await.last_error.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn config(certificates: PathBuf, gateway: SocketAddr) -> Config {
    let gateway: Address = gateway.to_string().parse().unwrap();
    Config {
        server_name: gateway.server_name().unwrap(),
        gateway,
        proxy: Proxy::none(),
        tls: ClientTls::new(certificates),
        limits: connection::Limits::default(),
        clock: Arc::new(SystemClock),
    }
}

/// A connection to the gateway as far as TLS, with which a test does what no agent would.
pub(crate) async fn impostor(
    certificates: PathBuf,
    gateway: SocketAddr,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let config = config(certificates, gateway);
    let stream = TcpStream::connect(gateway).await.unwrap();
    let connected = config.tls.connect(&config.server_name, stream).await;
    connected.unwrap()
}

/// A host that observes what its test says, and notes what it is told.
pub(crate) struct TestHost {
    name: HostName,
    pub(crate) session: Uuid,
    pub(crate) observed: watch::Sender<Observations>,
    /// What was commanded, in order.
    pub(crate) commands: watch::Sender<Vec<String>>,
    /// Hellos, and whether their controller led.
    pub(crate) hellos: watch::Sender<Vec<bool>>,
    /// Holds `settings` while there is one.
    pub(crate) gate: Option<Gate>,
}

impl TestHost {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(TestHost::with_gate(name, None))
    }

    pub(crate) fn with_gate(name: &str, gate: Option<Gate>) -> Self {
        let session = Uuid::new_v4();
        let nothing = Observations {
            session,
            revision: 0,
            host: None,
            replications: Vec::new(),
            existing: Vec::new(),
        };
        TestHost {
            name: host_name(name),
            session,
            observed: watch::Sender::new(nothing),
            commands: watch::Sender::new(Vec::new()),
            hellos: watch::Sender::new(Vec::new()),
            gate,
        }
    }

    /// From now on the host observes exactly these replications.
    pub(crate) fn observe(&self, replications: Vec<ReplicationObservation>) {
        self.observed.send_modify(|observed| {
            observed.revision += 1;
            observed.existing = replications.iter().map(|r| r.replica.clone()).collect();
            observed.replications = replications;
        });
    }

    pub(crate) async fn told(&self, count: usize) -> Vec<String> {
        let mut commands = self.commands.subscribe();
        let told = commands.wait_for(|commands| commands.len() >= count);
        let told = tokio::time::timeout(NEVER, told).await;
        told.expect("the commands never came").unwrap().clone()
    }

    pub(crate) async fn greeted(&self, as_leader: bool) {
        let mut hellos = self.hellos.subscribe();
        let greeted = hellos.wait_for(|hellos| hellos.contains(&as_leader));
        let greeted = tokio::time::timeout(NEVER, greeted).await;
        drop(greeted.expect("hello was never said").unwrap());
    }

    fn done(&self, name: &str, operation: OperationId) -> Result<Answer, Fault> {
        self.commands
            .send_modify(|commands| commands.push(name.to_owned()));
        Ok(Answer {
            operation,
            repeated: false,
        })
    }
}

#[async_trait]
impl Service for TestHost {
    fn hello(&self, hello: &Hello, version: u32) -> HelloReply {
        self.hellos.send_modify(|hellos| hellos.push(hello.leader));
        HelloReply {
            version,
            release: "9.9.9".to_owned(),
            host: self.name.clone(),
            session: self.session,
        }
    }

    async fn observations(
        &self,
        session: Option<Uuid>,
        after: u64,
        deadline: Instant,
    ) -> Result<Observations, Fault> {
        let mut observed = self.observed.subscribe();
        let seen = if session == Some(self.session) {
            after
        } else {
            0
        };
        let news = timeout_at(deadline, observed.wait_for(|o| o.revision > seen)).await;
        match news {
            Ok(news) => Ok(news.unwrap().clone()),
            Err(_) => Ok(Observations {
                replications: Vec::new(),
                ..self.observed.borrow().clone()
            }),
        }
    }

    async fn settings(&self, command: HostCommand<Settings>) -> Result<Answer, Fault> {
        let answer = self.done("settings", command.operation);
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        answer
    }

    async fn create_relationship(&self, command: Command<Relationship>) -> Result<Answer, Fault> {
        let name = format!("create {}", command.body.replica);
        self.done(&name, command.operation)
    }

    async fn start(&self, replica: ReplicaId, command: Command<Start>) -> Result<Answer, Fault> {
        self.done(&format!("start {replica}"), command.operation)
    }

    async fn synchronize(
        &self,
        replica: ReplicaId,
        command: Command<Synchronize>,
    ) -> Result<Answer, Fault> {
        self.done(&format!("synchronize {replica}"), command.operation)
    }

    async fn resynchronize(
        &self,
        replica: ReplicaId,
        command: Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        self.done(&format!("resynchronize {replica}"), command.operation)
    }

    async fn remove(&self, replica: ReplicaId, _: Command<Remove>) -> Result<Answer, Fault> {
        let message = format!("{replica} is not replicated");
        Err(Fault::new(Code::NotReplicating, message))
    }
}

pub(crate) fn replica(number: u128) -> ReplicaId {
    ReplicaId::from_random(number)
}

pub(crate) fn replication(number: u128, sealed: u64) -> ReplicationObservation {
    ReplicationObservation {
        replica: replica(number),
        vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        generation: Generation::ZERO,
        phase: Phase::Replicating,
        disks: Vec::new(),
        sealed: Sequence::new(sealed),
        credentials_expire: Timestamp::UNIX_EPOCH,
        synchronized: None,
        cycles: Cycles::default(),
        resync: None,
        quiesce: None,
        trouble: None,
    }
}

pub(crate) fn host_command<T>(body: T) -> HostCommand<T> {
    HostCommand {
        operation: OperationId::from_random(site_recovery::ids::random()),
        body,
    }
}

pub(crate) fn command<T>(body: T) -> Command<T> {
    Command {
        generation: Generation::ZERO,
        operation: OperationId::from_random(site_recovery::ids::random()),
        run: None,
        body,
    }
}
