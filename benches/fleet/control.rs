//! A controller with a fleet: everything is real but the hosts.
//!
//! ```text
//! API server, etcd ◄── controller, by its chart ──► storage: an Azurite per site
//!                            ▲                               ▲
//!                            └── hosts of this program ──────┘  seals of first copies
//! ```
//! First all VMs are protected, however long that takes. Then, for some minutes, every VM's state changes every half
//! minute, as that of an idle machine does whose barriers find nothing changed, and now and then a VM's disks break.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use rand::RngExt as _;
use serde_json::{Value, json};
use site_recovery::api::ProtectedVM;
use site_recovery::api::vm_status::ReplicationState;
use site_recovery::ids::{HostName, ObjectName, ReplicaId};
use site_recovery::lab::azurite::{self, Azurite};
use site_recovery::lab::cluster::audit::by_user_and_resource;
use site_recovery::lab::stage::{Programs, Replica, Stage};
use site_recovery::lab::tools::{AzuriteVersion, Tools};
use site_recovery::report::Code;
use site_recovery::transport::http::Http;
use site_recovery::units::MIB;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::agents::Host;
use crate::process::{self, Usage};
use crate::say;

const NAMESPACE: &str = "default";
/// First copies of a host at the same time.
const COPIES_PER_HOST: u32 = 4;
/// And of the whole fleet, as far as this program ships them.
const COPIES: usize = 16;
/// Objects that are created at the same time.
const CREATES: usize = 4;
/// How often every VM changes.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often it is told how far it is.
const TOLD: Duration = Duration::from_secs(15);
/// What follows the last first copy is over by then: the statuses of points that were published meanwhile.
const SETTLED: Duration = Duration::from_secs(60);
/// Longer than a fault may take to be shown.
const SHOWN: Duration = Duration::from_secs(120);

/// How large the fleet is, and what is done with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) vms: usize,
    pub(crate) sites: usize,
    pub(crate) hosts_per_site: usize,
    /// For how long all VMs may take to be protected.
    pub(crate) patience: Duration,
    /// For how long their changes are looked at.
    pub(crate) steady: Duration,
    pub(crate) faults: u32,
}

struct Fleet {
    stage: Stage,
    controller: Replica,
    /// Storage, by site.
    accounts: Vec<Azurite>,
    hosts: Vec<Arc<Host>>,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

/// What the API server says of the VMs.
#[derive(Default)]
struct Seen {
    protected: Mutex<BTreeSet<String>>,
    /// Whoever waits for a VM to be stalled, by its name.
    awaited: Mutex<HashMap<String, mpsc::UnboundedSender<Instant>>>,
}

pub(crate) async fn run(size: Size, folder: &Path) -> anyhow::Result<()> {
    let mut fleet = Fleet::start(size, folder).await?;
    let protected = fleet.protect(size).await?;
    say(&format!("{protected} of {} VMs are protected", size.vms))?;
    tokio::time::sleep(SETTLED).await;
    fleet.measure(size, protected).await?;
    fleet.stop.cancel();
    Ok(())
}

impl Fleet {
    async fn start(size: Size, folder: &Path) -> anyhow::Result<Self> {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_site-recovery"));
        let programs = tokio::task::spawn_blocking(move || {
            Programs::obtain(&Tools::locate()?, AzuriteVersion::Throughput, &binary)
        });
        let programs = programs.await??;
        let azurite = programs.azurite.clone();
        let stage = Stage::start(programs, folder, &json!({}), &|_| {}).await?;
        let mut accounts = Vec::new();
        for site in 0..size.sites {
            let options = azurite::Options {
                account: azurite::Account::random(),
                in_memory: true,
                ..azurite::Options::default()
            };
            let folder = folder.join(format!("storage-{site}"));
            accounts.push(Azurite::start(&azurite, &folder, options).await?);
        }
        let mut controller = stage.controller("controller").await?;
        controller.wait_ready().await?;
        let stop = CancellationToken::new();
        let hosts = connect(size, &stage, &stop)?;
        let seen = Arc::new(Seen::default());
        let watch = seen.clone().watch(stage.client());
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch));
        Ok(Fleet {
            stage,
            controller,
            accounts,
            hosts,
            seen,
            stop,
        })
    }

    /// Has all VMs protected, as far as there is time for it: how many are.
    async fn protect(&mut self, size: Size) -> anyhow::Result<usize> {
        let mark = self.stage.cluster.mark()?;
        let sites: Vec<Value> = self
            .accounts
            .iter()
            .enumerate()
            .flat_map(|(site, azurite)| site_manifests(size, site, azurite))
            .collect();
        self.stage.apply(NAMESPACE, &sites).await?;
        let begun = Instant::now();
        let create = create_vms(size, self.stage.client());
        let mut create = std::pin::pin!(create);
        let (mut created, mut told) = (false, tokio::time::interval(TOLD));
        let mut protected = 0;
        while protected < size.vms && begun.elapsed() < size.patience {
            tokio::select! {
                done = &mut create, if !created => {
                    done?;
                    created = true;
                    say(&format!("all objects are there after {:.0} s", begun.elapsed().as_secs_f64()))?;
                }
                _ = told.tick() => {
                    self.restart_controller_if_ended().await?;
                    let used = process::usage(self.controller.process.id())?;
                    let elapsed = begun.elapsed().as_secs_f64();
                    say(&format!("{elapsed:.0} s: {} protected; controller: {}", self.seen.protected(), shown(used)))?;
                }
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            protected = self.seen.protected();
        }
        let took = begun.elapsed().as_secs_f64();
        let used = process::usage(self.controller.process.id())?;
        let writes = self.stage.cluster.writes_since(mark).await?;
        say(&format!(
            "protected in {took:.0} s; controller: {}",
            shown(used)
        ))?;
        tell_writes(&by_user_and_resource(&writes), took)?;
        Ok(protected)
    }

    /// A kubelet starts a controller again that has ended: one that lost its lead has.
    async fn restart_controller_if_ended(&mut self) -> anyhow::Result<()> {
        if self.controller.process.ended()?.is_none() {
            return Ok(());
        }
        let log = self.controller.process.log().text();
        let why = log.lines().last().unwrap_or_default();
        say(&format!(
            "the controller has ended and is started again: {why}"
        ))?;
        self.controller = self.stage.controller("controller").await?;
        Ok(self.controller.wait_ready().await?)
    }

    /// What it costs that all VMs change all the time, and how soon a fault is shown.
    async fn measure(&mut self, size: Size, protected: usize) -> anyhow::Result<()> {
        for host in &self.hosts {
            tokio::spawn(
                self.stop
                    .clone()
                    .run_until_cancelled_owned(host.clone().change(INTERVAL)),
            );
        }
        // Everything has changed once before it counts.
        tokio::time::sleep(INTERVAL).await;
        let process = self.controller.process.id();
        let before = process::usage(process)?;
        let looks = self.looks().await?;
        let (mark, begun) = (self.stage.cluster.mark()?, Instant::now());
        let mut shown_after = self.break_disks(size).await?;
        tokio::time::sleep(size.steady.saturating_sub(begun.elapsed())).await;
        let took = begun.elapsed().as_secs_f64();
        let after = process::usage(process)?;
        let looks = self
            .looks()
            .await?
            .zip(looks)
            .map(|(after, before)| after - before);
        let writes = self.stage.cluster.writes_since(mark).await?;
        anyhow::ensure!(
            self.controller.process.ended()?.is_none(),
            "the controller has ended"
        );
        shown_after.sort_unstable();
        let quantile = |percent: usize| {
            let at = (shown_after.len() * percent)
                .div_ceil(100)
                .saturating_sub(1);
            shown_after
                .get(at)
                .copied()
                .unwrap_or_default()
                .as_secs_f64()
        };
        say(&format!(
            "{protected} ProtectedVMs of {} sites with {} hosts each, every one changing every {} s, for {took:.0} s",
            size.sites,
            size.hosts_per_site,
            INTERVAL.as_secs()
        ))?;
        say(&format!(
            "controller: {} MiB resident ({} MiB at most), {:.2} of a processor, {:.0} looks at a VM per second",
            after.resident_bytes / MIB,
            after.peak_bytes / MIB,
            (after.cpu_seconds - before.cpu_seconds) / took,
            looks.unwrap_or(f64::NAN) / took
        ))?;
        tell_writes(&by_user_and_resource(&writes), took)?;
        say(&format!(
            "from fault to condition, {} of {} faults: median {:.2} s, p99 {:.2} s, longest {:.2} s",
            shown_after.len(),
            size.faults,
            quantile(50),
            quantile(99),
            quantile(100)
        ))
    }

    /// Breaks VMs one after the other, at moments that are spread over the time: after which times it was shown.
    async fn break_disks(&self, size: Size) -> anyhow::Result<Vec<Duration>> {
        let pause = size.steady / (size.faults + 1).max(1);
        let mut waiting = Vec::new();
        for _ in 0..size.faults {
            tokio::time::sleep(pause).await;
            let Some((host, replica)) = self.any_vm() else {
                continue;
            };
            let name = host
                .object(&replica)
                .context("the host knows what it replicates")?;
            let shown = self.seen.stalled(&name);
            let broken = Instant::now();
            host.set_broken(&replica, true);
            waiting.push(tokio::spawn(async move {
                let shown = tokio::time::timeout(SHOWN, shown).await;
                host.set_broken(&replica, false);
                shown.ok().flatten().map(|at| at.duration_since(broken))
            }));
        }
        let mut took = Vec::new();
        for waiting in waiting {
            took.extend(waiting.await?);
        }
        Ok(took)
    }

    fn any_vm(&self) -> Option<(Arc<Host>, ReplicaId)> {
        let host = &self.hosts[rand::rng().random_range(0..self.hosts.len())];
        let replicating = host.replicating();
        let number = rand::rng().random_range(0..replicating.len().max(1));
        Some((host.clone(), replicating.get(number)?.clone()))
    }

    /// How often the controller has looked at a VM; nothing if its metrics take too long.
    async fn looks(&self) -> anyhow::Result<Option<f64>> {
        let Some(metrics) = self.controller.metrics().await else {
            return Ok(None);
        };
        let name = r#"site_recovery_reconciliations_total{kind="ProtectedVM"}"#;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let count = line.context("it counts its looks")?.trim().parse()?;
        Ok(Some(count))
    }
}

fn shown(used: Usage) -> String {
    format!(
        "{} MiB resident, {:.1} s of processor time",
        used.resident_bytes / MIB,
        used.cpu_seconds
    )
}

fn tell_writes(counts: &BTreeMap<(&str, &str), usize>, seconds: f64) -> anyhow::Result<()> {
    let ours = counts
        .iter()
        .filter(|((user, _), _)| user.starts_with("system:serviceaccount:"));
    let rate = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
    let all: usize = ours.clone().map(|(_, count)| count).sum();
    let each: Vec<String> = ours
        .map(|((_, resource), count)| format!("{resource} {:.2}", rate(*count)))
        .collect();
    say(&format!(
        "API writes per second: {:.2} ({})",
        rate(all),
        each.join(", ")
    ))
}

impl Seen {
    fn protected(&self) -> usize {
        self.protected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// When a VM is seen to wait for a human because its disk chain is broken.
    fn stalled(&self, name: &str) -> impl Future<Output = Option<Instant>> + use<> {
        let (send, mut shown) = mpsc::unbounded_channel();
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.insert(name.to_owned(), send);
        async move { shown.recv().await }
    }

    async fn watch(self: Arc<Self>, client: Client) {
        let vms: Api<ProtectedVM> = Api::namespaced(client, NAMESPACE);
        let events = watcher(vms, watcher::Config::default());
        let mut events = events.default_backoff().boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(vm) | Event::InitApply(vm)) => self.see(&vm),
                Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
                // It begins anew by itself.
                Err(_) => {}
            }
        }
    }

    fn see(&self, vm: &ProtectedVM) {
        let (Some(name), Some(status)) = (&vm.metadata.name, &vm.status) else {
            return;
        };
        if status.state == Some(ReplicationState::Protected) {
            let mut protected = self
                .protected
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            protected.insert(name.clone());
        }
        let broken = Code::BrokenDiskChain.as_str();
        let mut conditions = status.conditions.iter();
        if conditions.any(|of| of.type_ == "Stalled" && of.status == "True" && of.reason == broken)
        {
            let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waits) = awaited.remove(name) {
                // Who waited too long does not wait any more.
                let _ = waits.send(Instant::now());
            }
        }
    }
}

fn connect(size: Size, stage: &Stage, stop: &CancellationToken) -> anyhow::Result<Vec<Arc<Host>>> {
    let (http, copies) = (Http::new(&[])?, Arc::new(Semaphore::new(COPIES)));
    let mut hosts = Vec::new();
    for site in 0..size.sites {
        let object = ObjectName::new(NAMESPACE, &site_name(site))?;
        for number in 0..size.hosts_per_site {
            let name: HostName = host_name(site, number).parse()?;
            let machines: Vec<String> = (0..size.vms)
                .filter(|vm| place(size, *vm) == (site, number))
                .map(vm_name)
                .collect();
            let host = Host::new(name.clone(), &machines, http.clone(), copies.clone())?;
            let certificates = stage.agent_certificates(&object, &name)?;
            host.connect(certificates, stage.gateway_port(), stop.clone())?;
            hosts.push(host);
        }
    }
    Ok(hosts)
}

/// The site and the host of a VM.
const fn place(size: Size, vm: usize) -> (usize, usize) {
    (vm % size.sites, vm / size.sites % size.hosts_per_site)
}

fn site_name(site: usize) -> String {
    format!("site-{site}")
}

fn host_name(site: usize, host: usize) -> String {
    format!("hv{site}-{host}")
}

fn vm_name(vm: usize) -> String {
    format!("vm-{vm:05}")
}

async fn create_vms(size: Size, client: Client) -> anyhow::Result<()> {
    let api: Api<ProtectedVM> = Api::namespaced(client, NAMESPACE);
    let create = async |vm: usize| {
        let object: ProtectedVM = serde_json::from_value(json!({
            "apiVersion": "siterecovery.dev/v1alpha1",
            "kind": "ProtectedVM",
            "metadata": { "name": vm_name(vm) },
            "spec": {
                "siteRef": { "name": site_name(place(size, vm).0) },
                "vm": { "name": vm_name(vm) },
            },
        }))?;
        api.create(&PostParams::default(), &object).await?;
        anyhow::Ok(())
    };
    futures::stream::iter((0..size.vms).map(create))
        .buffer_unordered(CREATES)
        .try_collect()
        .await
}

fn site_manifests(size: Size, site: usize, azurite: &Azurite) -> [Value; 2] {
    let (name, account) = (site_name(site), azurite.account());
    let hosts: Vec<Value> = (0..size.hosts_per_site)
        .map(|host| json!({ "name": host_name(site, host) }))
        .collect();
    [
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "stringData": { "accountKey": account.key.expose() },
        }),
        json!({
            "apiVersion": "siterecovery.dev/v1alpha1", "kind": "HyperVSite", "metadata": { "name": name },
            "spec": {
                "hosts": hosts,
                "azure": {
                    "tenantID": "00000000-0000-0000-0000-000000000000",
                    "location": "westeurope",
                    "credentials": { "type": "AccountKey", "secretRef": { "name": name } },
                    "storage": { "account": account.name, "endpoint": azurite.endpoint() },
                },
                "replicationPolicy": {
                    "copyFrequency": "30s",
                    "initialReplication": { "maxConcurrentPerHost": COPIES_PER_HOST },
                },
            },
        }),
    ]
}
