//! The data path as processes of their own, which share the VMs.
//!
//! ```text
//! Leases of the group ──► membership: who lives ──┐
//! ProtectedVMs ─────────► replica, policy, site ──┼─► share: which replicas are ours ──attach, detach──► data path
//! HyperVSites, Secrets ─► sites: account, owner ──┘                                                       │
//!                     storage: logs ► page blobs, points, replica.json, trouble.json ◄───────────────────┘
//! ```
//! A worker reads what people want and writes nothing about it: what it does shows in storage, where the controller sees
//! it. Whose a replica is, every worker computes by itself from who lives; two that compute differently for a while, or
//! one that was paused and goes on, are told apart by the replica's writer generation and the page blobs' sequence numbers.
//! So nothing here waits for anybody, and nothing is asked of the controller.

pub mod assignment;
pub mod membership;
pub mod share;
pub mod sites;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use crate::api::hyperv_site::HyperVSite;
use crate::api::protected_vm::ProtectedVM;
use crate::blob::client::Options;
use crate::controller;
use crate::controller::accounts::Opener;
use crate::controller::context::Objects;
use crate::controller::probes::{self, Readiness, Scraper};
use crate::controller::workers::membership::{Members, Membership};
use crate::controller::workers::share::{Counts, Share};
use crate::controller::workers::sites::Sites;
use crate::controller::{metrics, watch};
use crate::datapath::runner::{DataPath, Role};
use crate::report::Fault;
use crate::transport::http::Http;
use crate::units::Clock;

/// How long a worker that is told to stop lets its cycles end. What is cut off is fenced, and done again by the next.
const GRACE: Duration = Duration::from_secs(20);
/// How long it may take until nothing runs any more that was not let end.
const ENDING: Duration = Duration::from_secs(1);

/// What a worker is made of.
pub struct Config {
    pub client: Client,
    /// Namespaces that are watched; none: all.
    pub namespaces: Vec<String>,
    /// Namespaces whose sites may use the worker's own identity.
    pub ambient_namespaces: Vec<String>,
    pub probes: TcpListener,
    pub http: Http,
    /// Where the Leases are.
    pub lease_namespace: String,
    /// Who shares the VMs.
    pub group: String,
    /// Unique in the group; the name of the Lease.
    pub identity: String,
    /// Replicas that are worked on at the same time.
    pub concurrency: u32,
    pub clock: Arc<dyn Clock>,
}

/// Runs until `shutdown`, and until what was begun has ended and the Lease is gone.
///
/// # Errors
/// If the cluster cannot be asked who it is.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fault> {
    let cluster = controller::cluster_id(&config.client).await?;
    let (readiness, figures) = (Arc::new(Readiness::default()), Figures::new());
    let parts = CancellationToken::new();
    let (scraper, stop) = (figures.scraper(), parts.child_token());
    let probes = probes::serve(config.probes, readiness.clone(), scraper, stop);
    let probes = tokio::spawn(probes);
    let membership = Membership {
        client: config.client.clone(),
        namespace: config.lease_namespace,
        group: config.group,
        identity: config.identity,
    };
    let (say, members) = channel::channel(Members::default());
    // Whoever wants to know how it goes looks.
    let (datapath, _) = DataPath::new(Role::Worker, config.concurrency, config.clock.clone());
    let datapath = Arc::new(datapath);
    let (vms, vm_watches) = watch::all::<ProtectedVM>(&config.client, &config.namespaces);
    let (sites, site_watches) = watch::all::<HyperVSite>(&config.client, &config.namespaces);
    let opener = Opener {
        client: config.client,
        http: config.http,
        options: Options {
            stop: parts.child_token(),
            clock: config.clock.clone(),
            ..Options::default()
        },
        ambient_namespaces: config.ambient_namespaces,
    };
    let sites = Arc::new(Sites::new(opener, cluster, Objects { stores: sites }));
    let share = Share::new(
        membership.identity.clone(),
        datapath.clone(),
        sites.clone(),
        Objects { stores: vms },
    );
    let working = async {
        tokio::join!(
            watch::fill(vm_watches),
            watch::fill(site_watches),
            sites.look_again_and_again(),
            share.keep(members.clone(), |counts| figures.show(counts)),
            ready(members.clone(), &readiness),
        )
    };
    tokio::select! {
        // It goes on while the last cycles end: whose Lease is held is left alone.
        () = membership.hold(config.clock.as_ref(), &say) => {}
        () = async {
            tokio::select! {
                _ = working => {}
                () = shutdown.cancelled() => {}
            }
            stand_down(&datapath, GRACE).await;
        } => {}
    }
    membership.release().await;
    parts.cancel();
    if let Err(error) = probes.await {
        tracing::error!(%error, "the probes did not end well");
    }
    Ok(())
}

/// A worker is ready once others know of it.
async fn ready(mut members: channel::Receiver<Members>, readiness: &Readiness) {
    if members.wait_for(|members| members.held).await.is_ok() {
        readiness.set();
    }
}

/// Lets the cycles that have begun end, for `grace` at most; then ends them where they stand.
async fn stand_down(datapath: &DataPath, grace: Duration) {
    if tokio::time::timeout(grace, datapath.drain()).await.is_err() {
        tracing::warn!("a cycle is cut off: it did not end in time");
    }
    if tokio::time::timeout(ENDING, datapath.end()).await.is_err() {
        tracing::warn!("the data path does not end in time");
    }
}

/// What a worker counts, for Prometheus.
#[derive(Clone)]
struct Figures {
    registry: Arc<Registry>,
    workers: Gauge,
    replicas: Gauge,
    troubled: Gauge,
}

impl Figures {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("site_recovery_data_path");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let workers = gauge("workers", "Workers that live, as this one sees it");
        let replicas = gauge("replicas", "Replicas that this worker has");
        let troubled = gauge(
            "replicas_troubled",
            "Those of them that it cannot go on with",
        );
        Figures {
            registry: Arc::new(registry),
            workers,
            replicas,
            troubled,
        }
    }

    fn show(&self, counts: Counts) {
        let gauges = [
            (&self.workers, counts.workers),
            (&self.replicas, counts.replicas),
            (&self.troubled, counts.troubled),
        ];
        for (gauge, count) in gauges {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn scraper(&self) -> Scraper {
        let registry = self.registry.clone();
        Arc::new(move || metrics::encode(&registry))
    }
}
