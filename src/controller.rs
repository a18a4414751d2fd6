//! The operator: one kube Controller per kind, a gateway for agents, the data path, one leader.
//!
//! ```text
//! API server ──watch──► reconcilers: observe ► next step (pure) ► perform one change ► report ──status, events──┐
//!      ▲                     ▲        │                                                                        │
//!      └─────────────────────┼────────┼────────────────────────────────────────────────────────────────────────┘
//!            gateway ── observations  └── commands to agents, documents in storage
//!            data path ── how far each replica is
//! ```
//! Every replica of the controller runs the gateway and the probes; only the leader reconciles and applies. A reconcile
//! is level-triggered and short: what takes long is done by agents and data path, whose observations bring the object
//! back.

pub mod accounts;
pub mod context;
pub mod documents;
pub mod events;
pub mod gateway;
pub mod leader;
pub mod metrics;
pub mod orphans;
pub mod probes;
pub mod site;
pub mod status;
pub mod unsupported;
pub mod vm;
pub mod watch;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

use crate::blob::client::Options as BlobOptions;
use crate::blob::http::Http;
use crate::controller::accounts::Opener;
use crate::controller::context::{Context, Memory, Objects};
use crate::controller::events::Events;
use crate::controller::gateway::{Bounds, Gateway, Limits, Registry};
use crate::controller::leader::Election;
use crate::controller::metrics::Metrics;
use crate::controller::probes::Readiness;
use crate::controller::status::StatusWriter;
use crate::datapath::runner::DataPath;
use crate::ids::ReplicaId;
use crate::report::{Code, Fault};
use crate::tls::ServerTls;
use crate::units::Clock;

/// What a controller is made of.
pub struct Config {
    pub client: Client,
    /// Namespaces that are watched; none: all.
    pub namespaces: Vec<String>,
    /// Namespaces whose sites may use the controller's own identity.
    pub ambient_namespaces: Vec<String>,
    pub gateway: TcpListener,
    pub probes: TcpListener,
    pub tls: ServerTls,
    pub http: Http,
    /// Where the Lease is.
    pub lease_namespace: String,
    pub lease_name: String,
    /// Unique among all replicas.
    pub identity: String,
    /// Objects of a kind that are looked at at the same time.
    pub concurrency: u16,
    /// Replicas that the data path works on at the same time.
    pub datapath_concurrency: usize,
    pub clock: Arc<dyn Clock>,
}

/// Runs until `shutdown`.
///
/// # Errors
/// If the cluster cannot be asked who it is, or leadership is lost: the process has to end.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fault> {
    let cluster = cluster_id(&config.client).await?;
    let metrics = Arc::new(Metrics::default());
    let readiness = Arc::new(Readiness::default());
    let registry = Arc::new(Registry::new(config.clock.clone(), Bounds::default()));
    let (leads, leading) = channel::channel(false);
    let parts = CancellationToken::new();
    let gateway = Gateway {
        tls: config.tls,
        leader: leading.clone(),
        registry: registry.clone(),
        limits: Limits::default(),
    };
    let gateway = tokio::spawn(gateway.serve(config.gateway, parts.child_token()));
    let probes = tokio::spawn(probes::serve(
        config.probes,
        readiness.clone(),
        metrics.clone(),
        parts.child_token(),
    ));
    readiness.set();
    let election = Election {
        client: config.client.clone(),
        namespace: config.lease_namespace.clone(),
        name: config.lease_name.clone(),
        identity: config.identity.clone(),
    };
    let made = Made {
        client: config.client,
        namespaces: config.namespaces,
        opener_http: config.http,
        ambient_namespaces: config.ambient_namespaces,
        identity: config.identity,
        concurrency: config.concurrency,
        datapath_concurrency: config.datapath_concurrency,
        clock: config.clock.clone(),
        cluster,
        metrics: metrics.clone(),
        registry,
    };
    let lead = made.lead_when(leading, parts.child_token());
    let elected = election.run(config.clock.as_ref(), &leads, &shutdown);
    let result = tokio::select! {
        result = elected => result.map_err(|error| Fault::of(Code::Internal, &error)),
        () = lead => Ok(()),
    };
    metrics.set_leader(false);
    parts.cancel();
    for part in [gateway, probes] {
        if let Err(error) = part.await {
            tracing::error!(%error, "a part of the controller did not end well");
        }
    }
    result
}

/// The UID of the cluster: that of its kube-system namespace.
async fn cluster_id(client: &Client) -> Result<String, Fault> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get("kube-system").await.map_err(|error| {
        let said = crate::report::chain(&error);
        Fault::new(
            Code::Configuration,
            format!("cannot read the namespace kube-system, by which a cluster is known: {said}"),
        )
    })?;
    let missing = || Fault::new(Code::Configuration, "the namespace kube-system has no UID");
    namespace.uid().ok_or_else(missing)
}

/// What the leader's part is made of.
struct Made {
    client: Client,
    namespaces: Vec<String>,
    opener_http: Http,
    ambient_namespaces: Vec<String>,
    identity: String,
    concurrency: u16,
    datapath_concurrency: usize,
    clock: Arc<dyn Clock>,
    cluster: String,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
}

impl Made {
    /// Waits for leadership, then reconciles until it is dropped or `stop` is cancelled.
    async fn lead_when(self, mut leading: channel::Receiver<bool>, stop: CancellationToken) {
        if leading.wait_for(|leads| *leads).await.is_err() {
            return std::future::pending().await;
        }
        tracing::info!("leads");
        self.metrics.set_leader(true);
        let (datapath, replicas) = DataPath::new(self.datapath_concurrency, self.clock.clone());
        self.reconcile(datapath, replicas, stop).await;
    }

    async fn reconcile(
        self,
        datapath: DataPath,
        replicas: mpsc::UnboundedReceiver<ReplicaId>,
        stop: CancellationToken,
    ) {
        let (sites, site_watches) = watch::all(&self.client, &self.namespaces);
        let (vms, vm_watches) = watch::all(&self.client, &self.namespaces);
        let opener = Opener {
            client: self.client.clone(),
            http: self.opener_http,
            options: BlobOptions {
                stop: stop.clone(),
                clock: self.clock.clone(),
                ..BlobOptions::default()
            },
            ambient_namespaces: self.ambient_namespaces,
        };
        let context = Arc::new(Context {
            events: Events::new(self.client.clone(), self.identity),
            site_status: StatusWriter::new(self.client.clone()),
            vm_status: StatusWriter::new(self.client.clone()),
            client: self.client,
            clock: self.clock,
            opener,
            cluster: self.cluster,
            registry: self.registry,
            datapath,
            metrics: self.metrics,
            pace: status::Pace::default(),
            sites: Objects { stores: sites },
            vms: Objects { stores: vms },
            views: std::sync::RwLock::default(),
            site_memory: Memory::default(),
            vm_memory: Memory::default(),
            owners: std::sync::Mutex::default(),
        });
        tokio::join!(
            watch::run_sites(
                site_watches,
                context.clone(),
                self.concurrency,
                stop.clone()
            ),
            watch::run_vms(vm_watches, context.clone(), self.concurrency, stop.clone()),
            watch::follow_agents(context.clone(), stop.clone()),
            watch::follow_datapath(context.clone(), replicas, stop.clone()),
            orphans::sweep(context, stop),
        );
    }
}
