//! One data path with many replicas, in a process of its own, on a real emulator.
//!
//! ```text
//! per replica: first copy sealed ─► data path begins ─► all published ─► a delta of each, round after round
//! ```
//! The seals of the first copies wait when the data path begins: it has lost sight of the site for a while. Every later
//! round seals one delta per replica, as fast as the emulator takes them, and says so as agents would.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use site_recovery::blob::Account;
use site_recovery::blob::client::Options;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::credential::AccountKey;
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::account::FaultyAccount;
use site_recovery::controller::documents;
use site_recovery::datapath::runner::{self, DataPath};
use site_recovery::datapath::store::Store;
use site_recovery::engine::ledger::{self, Ledger};
use site_recovery::host::BootGeneration;
use site_recovery::ids::{ChainId, DiskId, ReplicaId, random};
use site_recovery::lab::azurite::{self, Azurite};
use site_recovery::lab::tools::{AzuriteVersion, Tools};
use site_recovery::replica::fence::{DescribedDisk, Fence, MachineDescription};
use site_recovery::replica::names::{self, Prefix};
use site_recovery::replica::seal::Writer;
use site_recovery::secret::Secret;
use site_recovery::transport::http::Http;
use site_recovery::units::{Generation, KIB, MIB, SystemClock};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::copies::{self, Disk};
use crate::process::{self, Usage};
use crate::say;

/// Bytes of each disk; of them the first copy has so many, and each delta so many, elsewhere each time.
const DISK: u64 = 8 * MIB;
const COPIED: u64 = MIB;
const CHANGED: u64 = 64 * KIB;
/// Replicas that are set up, or sealed for, at the same time.
const AT_ONCE: usize = 8;
/// Longer than a round takes without end.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often the data path says how far it is.
const TOLD: Duration = Duration::from_millis(200);

/// What a data path is to work on.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    endpoint: String,
    key: String,
    replicas: Vec<ReplicaId>,
}

/// How it stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Says {
    /// Replicas by how many points they have had published, pruned ones included.
    applied: BTreeMap<u64, usize>,
    troubles: usize,
    /// Requests so far, by what was asked.
    requests: BTreeMap<String, u64>,
}

/// A replica, and its agent's end of it.
struct Replica {
    disk: Disk,
    ledger: Ledger,
}

pub(crate) async fn run(replicas: usize, deltas: u32, folder: &Path) -> anyhow::Result<()> {
    let azurite =
        tokio::task::spawn_blocking(|| Tools::locate()?.azurite(AzuriteVersion::Throughput));
    let options = azurite::Options {
        account: azurite::Account::random(),
        ..azurite::Options::default()
    };
    let azurite = Azurite::start(&azurite.await??, folder, options).await?;
    let key = azurite.account().key.expose().to_owned();
    let account = account(&azurite.endpoint(), key.clone())?;
    say(&format!(
        "setting {replicas} replicas up, each with a sealed first copy"
    ))?;
    let mut fleet: Vec<Replica> = futures::stream::iter((0..replicas).map(|_| create(&account)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;

    let mut child = DataPathProcess::start()?;
    let order = Order {
        endpoint: azurite.endpoint(),
        key,
        replicas: fleet
            .iter()
            .map(|of| of.ledger.store().id.clone())
            .collect(),
    };
    let emulator = azurite.process_id().context("the emulator has ended")?;
    let mut watch = Round::begin(&child, emulator)?;
    child.order(&order).await?;
    // Two seals each: the copy, and the barrier after it.
    let mut target = 2;
    child.until(replicas, target).await?;
    watch.end(
        &child,
        &format!("{replicas} first copies of {} KiB", COPIED / KIB),
        replicas,
    )?;
    for round in 1..=deltas {
        watch = Round::begin(&child, emulator)?;
        let offset = COPIED + u64::from(round) * CHANGED % (DISK - COPIED);
        let sealing = Instant::now();
        futures::stream::iter(fleet.iter_mut().map(|replica| async move {
            let disks = std::slice::from_ref(&replica.disk);
            copies::changes(&mut replica.ledger, disks, offset, CHANGED).await?;
            anyhow::Ok(replica.ledger.store().id.clone())
        }))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|replica| child.wake(replica))
        .await?;
        let sealed = sealing.elapsed().as_secs_f64();
        target += 1;
        child.until(replicas, target).await?;
        let what = format!(
            "{replicas} deltas of {} KiB, sealed in {sealed:.1} s",
            CHANGED / KIB
        );
        watch.end(&child, &what, replicas)?;
    }
    child.end().await
}

/// What one round costs.
struct Round {
    begun: Instant,
    used: Usage,
    emulator: (u32, Usage),
    requests: u64,
}

impl Round {
    fn begin(child: &DataPathProcess, emulator: u32) -> anyhow::Result<Self> {
        Ok(Round {
            begun: Instant::now(),
            used: child.usage()?,
            emulator: (emulator, process::usage(emulator)?),
            requests: child.said.requests.values().sum(),
        })
    }

    fn end(self, child: &DataPathProcess, what: &str, replicas: usize) -> anyhow::Result<()> {
        let took = self.begun.elapsed().as_secs_f64();
        let used = child.usage()?;
        let (emulator, before) = self.emulator;
        let emulator = process::usage(emulator)?.cpu_seconds - before.cpu_seconds;
        let requests = child.said.requests.values().sum::<u64>() - self.requests;
        let float = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let each = float(requests) / float(u64::try_from(replicas)?).max(1.0);
        say(&format!(
            "{what}: published in {took:.1} s, {:.0} requests per second ({each:.1} each), {} MiB resident ({} MiB at \
             most), {:.1} s of processor time (emulator {emulator:.1} s)",
            float(requests) / took,
            used.resident_bytes / MIB,
            used.peak_bytes / MIB,
            used.cpu_seconds - self.used.cpu_seconds,
        ))
    }
}

fn account(endpoint: &str, key: String) -> anyhow::Result<AccountClient> {
    let (key, endpoint) = (
        AccountKey::new(&Secret::new(key))?,
        Endpoint::parse(endpoint)?,
    );
    let (http, options) = (Http::new(&[])?, Options::default());
    Ok(AccountClient::with_key(&http, endpoint, key, options))
}

fn prefix() -> Prefix {
    "bench".parse().expect("a valid prefix")
}

fn store(account: &dyn Account, replica: &ReplicaId) -> Store {
    Store {
        id: replica.clone(),
        inbox: account.container(&prefix().inbox(replica)),
        replica: account.container(&prefix().replica(replica)),
    }
}

/// A replica as the controller makes it, and its first copy as an agent seals it.
async fn create(account: &AccountClient) -> anyhow::Result<Replica> {
    let id = ReplicaId::from_random(random());
    let disk = Disk {
        id: DiskId::from_random(random()),
        size: DISK,
    };
    let store = store(account, &id);
    for container in [prefix().inbox(&id), prefix().replica(&id)] {
        account.create_container(&container).await?;
    }
    store.create(ChainId::from_random(random())).await?;
    let fence = fence(&id, &disk)?;
    let created = documents::create(store.replica.as_ref(), names::FENCE, fence).await;
    created.map_err(|fault| anyhow::anyhow!("{fault}"))?;
    let writer = Writer {
        host: "host".parse()?,
        generation: Generation::new(1),
    };
    let store = ledger::Store {
        id,
        inbox: store.inbox,
        replica: store.replica,
    };
    let mut ledger = Ledger::read(store, writer).await?;
    copies::first_copy(&mut ledger, std::slice::from_ref(&disk), COPIED).await?;
    Ok(Replica { disk, ledger })
}

fn fence(replica: &ReplicaId, disk: &Disk) -> anyhow::Result<Fence> {
    let machine = MachineDescription {
        vm: Uuid::new_v4().to_string().parse()?,
        name: "bench".to_owned(),
        boot: BootGeneration::Gen2,
        processors: 1,
        memory_mib: 1024,
        secure_boot: false,
        guest_os: None,
        network_adapters: Vec::new(),
        disks: vec![DescribedDisk {
            id: disk.id.clone(),
            slot: "scsi:0:0".parse()?,
            identifier: None,
            size: disk.size,
            boot: true,
        }],
    };
    Ok(Fence::first(replica.clone(), Generation::new(1), machine))
}

/// The data path, as a child.
struct DataPathProcess {
    child: Child,
    input: Arc<tokio::sync::Mutex<ChildStdin>>,
    output: Lines<BufReader<ChildStdout>>,
    said: Says,
}

impl DataPathProcess {
    fn start() -> anyhow::Result<Self> {
        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg("data-path")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("it has an input")?;
        let output = child.stdout.take().context("it has an output")?;
        Ok(DataPathProcess {
            child,
            input: Arc::new(tokio::sync::Mutex::new(input)),
            output: BufReader::new(output).lines(),
            said: Says::default(),
        })
    }

    async fn order<T: Serialize>(&self, what: &T) -> anyhow::Result<()> {
        let line = serde_json::to_string(what)? + "\n";
        Ok(self.input.lock().await.write_all(line.as_bytes()).await?)
    }

    /// Says that a replica has a new seal.
    async fn wake(&self, replica: ReplicaId) -> anyhow::Result<()> {
        self.order(&replica).await
    }

    /// Waits until so many replicas have so many seals applied.
    async fn until(&mut self, replicas: usize, sequence: u64) -> anyhow::Result<()> {
        let wait = async {
            loop {
                let line = self.output.next_line().await?;
                self.said = serde_json::from_str(&line.context("the data path has ended")?)?;
                anyhow::ensure!(
                    self.said.troubles == 0,
                    "replicas have trouble: {:?}",
                    self.said
                );
                let done: usize = self
                    .said
                    .applied
                    .range(sequence..)
                    .map(|(_, count)| count)
                    .sum();
                if done == replicas {
                    return Ok(());
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.context("it does not end")?
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        process::usage(self.child.id().context("it has ended")?)
    }

    async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input);
        let ended = self.child.wait().await?;
        anyhow::ensure!(ended.success(), "the data path ended with {ended}");
        Ok(())
    }
}

/// What the child does: applies what is sealed, until its input ends. Every further line names a replica with a new seal.
pub(crate) async fn child() -> anyhow::Result<()> {
    let mut input = lines();
    let order = input.recv().await.context("no order has come")?;
    let order: Order = serde_json::from_str(&order)?;
    let counted = Faults::new(0);
    let account = account(&order.endpoint, order.key)?;
    let account = FaultyAccount::new(Arc::new(account), counted.clone());
    let (data_path, mut changes) = DataPath::new(
        runner::Role::Inside,
        runner::CONCURRENCY,
        Arc::new(SystemClock),
    );
    for replica in &order.replicas {
        data_path.attach(store(&account, replica), runner::Duties::default());
    }
    let mut applied: HashMap<ReplicaId, u64> = HashMap::new();
    let (mut troubles, mut told) = (0, tokio::time::interval(TOLD));
    loop {
        tokio::select! {
            changed = changes.recv() => {
                let replica = changed.context("the data path has ended")?;
                let Some(observed) = data_path.observe(&replica) else { continue };
                troubles += usize::from(observed.trouble.is_some());
                if let Some(manifest) = &observed.manifest {
                    applied.insert(replica, manifest.last_applied.sequence.value());
                }
            }
            _ = told.tick() => tell(&applied, troubles, &counted)?,
            line = input.recv() => match line {
                Some(line) => data_path.wake(&serde_json::from_str(&line)?),
                None => return Ok(()),
            },
        }
    }
}

/// The lines of the input, until its end.
fn lines() -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn tell(
    applied: &HashMap<ReplicaId, u64>,
    troubles: usize,
    counted: &Faults,
) -> anyhow::Result<()> {
    let mut by_sequence: BTreeMap<u64, usize> = BTreeMap::new();
    for sequence in applied.values() {
        *by_sequence.entry(*sequence).or_default() += 1;
    }
    let says = Says {
        applied: by_sequence,
        troubles,
        requests: ASKED
            .iter()
            .map(|operation| (operation.phrase().to_owned(), counted.calls(*operation)))
            .collect(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&says)?)?;
    Ok(out.flush()?)
}

/// What a data path asks of storage.
const ASKED: [Operation; 12] = [
    Operation::PutBlob,
    Operation::GetBlob,
    Operation::GetProperties,
    Operation::DeleteBlob,
    Operation::ListBlobs,
    Operation::CreatePageBlob,
    Operation::PutPages,
    Operation::ClearPages,
    Operation::GetPageRanges,
    Operation::SetSequenceNumber,
    Operation::Resize,
    Operation::Snapshot,
];
