//! What runs in processes of its own: the host's engine, and the cloud's data path, each with its edges as agent and
//! controller have them.
//!
//! An order comes as the first line of standard input; the end of the input is the end of the process, so that none is
//! left behind. What happens is said line by line on standard output.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use site_recovery::blob::Account as _;
use site_recovery::blob::client::Options as BlobOptions;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::client::container::ContainerClient;
use site_recovery::blob::credential::{AccountKey, RenewableSas};
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::account::FaultyAccount;
use site_recovery::datapath;
use site_recovery::datapath::runner::{self, DataPath};
use site_recovery::engine::demand;
use site_recovery::engine::ledger::Store;
use site_recovery::engine::phase::Phase;
use site_recovery::engine::progress::Progress;
use site_recovery::engine::throttle::Throttle;
use site_recovery::engine::{Engine, Options};
use site_recovery::host::lab::LabHypervisor;
use site_recovery::ids::{DiskId, DiskSlot, ReplicaId, VmId};
use site_recovery::replica::seal::Writer;
use site_recovery::report::{Code, Fault};
use site_recovery::secret::{SasToken, Secret};
use site_recovery::transport::http::Http;
use site_recovery::units::{Generation, Sequence, SystemClock};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often an agent shows its controller how far a copy is.
const SHOWN: Duration = Duration::from_secs(2);

/// What a host is to replicate, and where to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostOrder {
    pub(crate) hypervisor: PathBuf,
    /// Where the engine keeps the record of a capture.
    pub(crate) state: PathBuf,
    pub(crate) vm: VmId,
    pub(crate) disk: DiskId,
    pub(crate) slot: DiskSlot,
    pub(crate) replica: ReplicaId,
    pub(crate) endpoint: String,
    /// The containers, and the signatures that they are reached by.
    pub(crate) inbox: (String, SasToken),
    pub(crate) store: (String, SasToken),
}

/// How a host stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostSays {
    pub(crate) phase: String,
    pub(crate) sealed: Sequence,
    pub(crate) sent: u64,
    /// Barriers that are sealed.
    pub(crate) barriers: u64,
    /// Everything up to the barrier is sealed.
    pub(crate) done: bool,
    pub(crate) trouble: Option<String>,
}

/// What replica a data path is to work on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CloudOrder {
    pub(crate) endpoint: String,
    pub(crate) key: String,
    pub(crate) replica: ReplicaId,
    pub(crate) inbox: String,
    pub(crate) store: String,
}

/// How a replica stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CloudSays {
    pub(crate) applied: Sequence,
    pub(crate) points: usize,
    /// Requests that wrote or cleared pages.
    pub(crate) page_requests: u64,
    pub(crate) trouble: Option<String>,
}

/// What a host is asked for once everything is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A barrier.
    Synchronize,
    /// A comparison of the disk.
    Compare,
}

/// Replicates one disk until the input ends.
pub(crate) async fn host() -> anyhow::Result<()> {
    let (order, mut input) = ordered::<HostOrder>().await?;
    let progress: BTreeMap<DiskId, Arc<Progress>> = [(order.disk.clone(), Arc::default())].into();
    let (publish, mut observed) = watch::channel(Engine::initial());
    let mut running = Running::start(engine(&order, progress.clone(), publish.clone())?);
    loop {
        let says = {
            let observation = observed.borrow_and_update();
            HostSays {
                phase: format!("{:?}", observation.phase)
                    .split(' ')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
                sealed: observation.sealed,
                sent: progress
                    .values()
                    .map(|progress| progress.counted().sent)
                    .sum(),
                barriers: observation.cycles.completed,
                done: matches!(observation.phase, Phase::Replicating { .. }),
                trouble: observation
                    .trouble
                    .as_ref()
                    .map(|trouble| trouble.fault.to_string()),
            }
        };
        say(&says)?;
        tokio::select! {
            changed = observed.changed() => changed.context("the engine has ended")?,
            () = tokio::time::sleep(SHOWN) => {}
            line = input.recv() => match line {
                None => break,
                Some(line) => match serde_json::from_str(&line)? {
                    Ask::Synchronize => running.synchronize.notify_one(),
                    Ask::Compare => {
                        running.end().await?;
                        let reason = Fault::new(Code::ResyncRequested, "it is measured");
                        demand::add(&order.state, [order.disk.clone()], reason)?;
                        // What was done before counts no more.
                        publish.send_replace(Engine::initial());
                        running = Running::start(engine(&order, progress.clone(), publish.clone())?);
                    }
                },
            },
        }
    }
    running.end().await
}

/// An engine at work.
struct Running {
    synchronize: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(engine: Engine) -> Self {
        Running {
            synchronize: engine.synchronize.clone(),
            stop: engine.stop.clone(),
            task: tokio::spawn(engine.run()),
        }
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

fn engine(
    order: &HostOrder,
    progress: BTreeMap<DiskId, Arc<Progress>>,
    publish: watch::Sender<site_recovery::engine::Observation>,
) -> anyhow::Result<Engine> {
    let (http, endpoint) = (Http::new(&[])?, Endpoint::parse(&order.endpoint)?);
    let reach = |(container, signature): &(String, SasToken)| {
        let (container, signature) = (container.clone(), signature.clone());
        let (signature, options) = (RenewableSas::new(signature), BlobOptions::default());
        ContainerClient::with_sas(&http, endpoint.clone(), container, signature, options)
    };
    Ok(Engine {
        hypervisor: Arc::new(LabHypervisor::new(&order.hypervisor)),
        store: Store {
            id: order.replica.clone(),
            inbox: Arc::new(reach(&order.inbox)),
            replica: Arc::new(reach(&order.store)),
        },
        options: Options {
            writer: Writer {
                host: "host".parse()?,
                generation: Generation::new(1),
            },
            vm: order.vm.clone(),
            disks: [(order.disk.clone(), order.slot.clone())].into(),
            compress: true,
            interval: Duration::from_secs(3600),
            application_every: None,
            resynchronize: true,
            folder: order.state.clone(),
        },
        throttle: Arc::new(Throttle::new(None)),
        clock: Arc::new(SystemClock),
        progress,
        publish,
        retry: Arc::new(Notify::new()),
        synchronize: Arc::new(Notify::new()),
        finish: CancellationToken::new(),
        stop: CancellationToken::new(),
    })
}

/// Applies what is sealed, until the input ends. Every further line says that there may be more.
pub(crate) async fn cloud() -> anyhow::Result<()> {
    let (order, mut input) = ordered::<CloudOrder>().await?;
    let key = AccountKey::new(&Secret::new(order.key))?;
    let endpoint = Endpoint::parse(&order.endpoint)?;
    let account = AccountClient::with_key(&Http::new(&[])?, endpoint, key, BlobOptions::default());
    let counted = Faults::new(0);
    let account = FaultyAccount::new(Arc::new(account), counted.clone());
    let (data_path, mut changes) = DataPath::new(
        runner::Role::Inside,
        runner::CONCURRENCY,
        Arc::new(SystemClock),
    );
    let store = datapath::store::Store {
        id: order.replica.clone(),
        inbox: account.container(&order.inbox),
        replica: account.container(&order.store),
    };
    data_path.attach(store, runner::Duties::default());
    loop {
        tokio::select! {
            changed = changes.recv() => {
                changed.context("the data path has ended")?;
                let Some(observed) = data_path.observe(&order.replica) else { continue };
                let manifest = observed.manifest.as_deref();
                say(&CloudSays {
                    applied: manifest.map_or(Sequence::ZERO, |manifest| manifest.last_applied.sequence),
                    points: manifest.map_or(0, |manifest| manifest.points.len()),
                    page_requests: counted.calls(Operation::PutPages)
                        + counted.calls(Operation::ClearPages),
                    trouble: observed.trouble.map(|trouble| trouble.fault.to_string()),
                })?;
            }
            line = input.recv() => match line {
                Some(_) => data_path.wake(&order.replica),
                None => return Ok(()),
            },
        }
    }
}

/// The order, and the lines after it.
async fn ordered<T: DeserializeOwned>() -> anyhow::Result<(T, mpsc::Receiver<String>)> {
    let (send, mut lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let order = lines.recv().await.context("no order has come")?;
    Ok((serde_json::from_str(&order)?, lines))
}

fn say<T: Serialize>(what: &T) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    Ok(out.flush()?)
}
