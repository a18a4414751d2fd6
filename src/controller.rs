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
//! back. For a fleet the data path is done by processes of their own, [`workers`]; the leader then only follows them.

pub mod accounts;
pub mod annotations;
pub mod context;
pub mod documents;
pub mod events;
pub mod gateway;
pub mod hours;
pub mod later;
pub mod leader;
pub mod metrics;
pub mod orphans;
pub mod probes;
pub mod site;
pub mod status;
pub mod unsupported;
pub mod vm;
pub mod watch;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

use crate::blob::client::Options as BlobOptions;
use crate::controller::accounts::Opener;
use crate::controller::context::{Context, Memory, Objects};
use crate::controller::events::Events;
use crate::controller::gateway::{Bounds, Gateway, Limits, Registry};
use crate::controller::leader::Election;
use crate::controller::metrics::Metrics;
use crate::controller::probes::Readiness;
use crate::controller::status::StatusWriter;
use crate::datapath::runner::{DataPath, Role};
use crate::ids::ReplicaId;
use crate::report::{Code, Fault};
use crate::tls::ServerTls;
use crate::transport::http::Http;
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
    /// What the data path of this process does: the work, or following workers that do it.
    pub datapath: Role,
    /// Replicas that the data path works on at the same time.
    pub datapath_concurrency: u32,
    pub clock: Arc<dyn Clock>,
}

impl Config {
    fn data_path(&self) -> (Arc<DataPath>, mpsc::UnboundedReceiver<ReplicaId>) {
        let (role, concurrency) = (self.datapath, self.datapath_concurrency);
        let (datapath, replicas) = DataPath::new(role, concurrency, self.clock.clone());
        (Arc::new(datapath), replicas)
    }
}

/// Runs until `shutdown`.
///
/// # Errors
/// If the cluster cannot be asked who it is, or leadership is lost: the process has to end.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fault> {
    let cluster = cluster_id(&config.client).await?;
    let (datapath, replicas) = config.data_path();
    let metrics = Arc::new(Metrics::new(config.clock.clone()));
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
        metrics.scraper(),
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
        datapath: datapath.clone(),
        clock: config.clock.clone(),
        cluster,
        metrics: metrics.clone(),
        registry,
    };
    let stop = parts.child_token();
    let mut lead = Box::pin(made.lead_when(leading, replicas, stop.clone()));
    let elected = tokio::select! {
        elected = election.run(config.clock.as_ref(), &leads, &shutdown) => elected,
        () = &mut lead => Ok(()),
    };
    // In this order: when another replica may begin, nothing of this one commands any more.
    stop.cancel();
    let grace = match &elected {
        Ok(()) => leader::GRACE,
        Err(_) => Duration::ZERO,
    };
    stand_down(lead, grace, &datapath).await;
    leads.send_replace(false);
    metrics.set_leader(false);
    if elected.is_ok() {
        election.release().await;
    }
    parts.cancel();
    for part in [gateway, probes] {
        if let Err(error) = part.await {
            tracing::error!(%error, "a part of the controller did not end well");
        }
    }
    elected.map_err(|error| Fault::of(Code::Internal, &error))
}

/// Lets the reconcilers, which were told to stop, end what they have begun, for `grace` at most; then ends them and the
/// data path where they stand. What was sent and not answered is fenced in storage.
async fn stand_down(lead: impl Future<Output = ()>, grace: Duration, datapath: &DataPath) {
    if tokio::time::timeout(grace, lead).await.is_err() && !grace.is_zero() {
        tracing::warn!("a reconcile is cut off: it did not end in time");
    }
    if tokio::time::timeout(leader::ENDING, datapath.end())
        .await
        .is_err()
    {
        tracing::warn!("the data path does not end in time");
    }
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
    datapath: Arc<DataPath>,
    clock: Arc<dyn Clock>,
    cluster: String,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
}

impl Made {
    /// Waits for leadership, then reconciles until `stop` is cancelled and what was begun has ended.
    async fn lead_when(
        self,
        mut leading: channel::Receiver<bool>,
        replicas: mpsc::UnboundedReceiver<ReplicaId>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            leads = leading.wait_for(|leads| *leads) => if leads.is_err() { return },
            () = stop.cancelled() => return,
        }
        tracing::info!("leads");
        self.metrics.set_leader(true);
        self.reconcile(replicas, stop).await;
    }

    async fn reconcile(
        self,
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
            datapath: self.datapath,
            metrics: self.metrics,
            pace: status::Pace::default(),
            sites: Objects { stores: sites },
            vms: Objects { stores: vms },
            views: std::sync::RwLock::default(),
            site_memory: Memory::default(),
            vm_memory: Memory::default(),
            owners: std::sync::Mutex::default(),
            places: context::Places::default(),
            site_looks: later::Later::default(),
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
            watch::follow_site_looks(context.clone(), stop.clone()),
            orphans::sweep(context, stop),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_that_does_not_end_is_cut_off_before_the_lead_is_given_away() {
        let (datapath, _replicas) = DataPath::new(Role::Inside, 1, Arc::new(SystemClock));
        let (running, mut seen) = mpsc::channel::<()>(1);
        let endless = async move {
            let _running = running;
            std::future::pending::<()>().await;
        };
        let began = tokio::time::Instant::now();

        stand_down(endless, leader::GRACE, &datapath).await;

        let ended = Err(mpsc::error::TryRecvError::Disconnected);
        assert_eq!(seen.try_recv(), ended, "it still runs");
        assert!(began.elapsed() <= leader::GRACE + leader::ENDING);
    }
}
