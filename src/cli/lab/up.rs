//! `site-recovery lab up`: the demonstration, as a story that is told while it happens.
//!
//! ```text
//! programs ─► stage (cluster, storage, chart) ─► controller ─► host, machines, guests ─► agent ─► examples applied
//!     ─► watched until all are Protected ─► [--once: every point compared with its source]
//!     ─► a recovery point and a resynchronization on request ─► [else: storage away for a while] ─► what to try next
//! ```
//! Whatever it starts ends with it: on Ctrl-C, on an error, and when it is killed (`lab::process`).

mod afterwards;
mod follow;
mod judged;
mod story;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::cli::lab::up::judged::Judging;
use crate::cli::lab::up::story::Story;
use crate::lab::demo::{self, Machine};
use crate::lab::examples;
use crate::lab::stage::host::Host;
use crate::lab::stage::{Programs, Replica, Stage};
use crate::lab::tools::{AzuriteVersion, Tools};
use crate::shutdown;

/// Where the examples are applied.
const NAMESPACE: &str = "default";
/// Far more than the demonstration takes on a slow machine; without an end a script would wait for ever.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Run until every VM is protected, compare each recovery point with its source, and exit; without it everything
    /// runs until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Where everything is kept; it must be empty or not there, and stays. Without it: a temporary folder, which goes
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = cli::runtime()?;
    let result = runtime.block_on(async {
        let shutdown = shutdown::on_signal()?;
        let folder = Folder::new(args.folder)?;
        let story = Story::begin();
        let told = tokio::select! {
            told = tell(&story, folder.path(), args.once, &shutdown) => told,
            () = shutdown.cancelled() => Ok(()),
        };
        if shutdown.is_cancelled() {
            story.say("Stopping: every process that was started has ended")?;
        }
        told.map(|()| ExitCode::SUCCESS)
    });
    // Threads that wait for a program which has been ended are not waited for.
    runtime.shutdown_background();
    result
}

/// Where everything is kept.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = given else {
            let folder = tempfile::Builder::new().prefix("site-recovery-").tempdir();
            return Ok(Folder::Temporary(
                folder.context("cannot create a temporary folder")?,
            ));
        };
        let shown = path.display().to_string();
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {shown}"))?;
        let mut entries =
            std::fs::read_dir(&path).with_context(|| format!("cannot list {shown}"))?;
        if entries.next().is_some() {
            bail!("{shown} is not empty: name another folder, or remove what is there");
        }
        Ok(Folder::Given(path))
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Given(path) => path,
            Folder::Temporary(folder) => folder.path(),
        }
    }
}

async fn tell(
    story: &Story,
    folder: &Path,
    once: bool,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    story.say(&format!(
        "A site on this machine. Everything is kept in {}",
        folder.display()
    ))?;
    let tools = Tools::locate()?;
    let programs = obtain(story, &tools).await?;
    let judging = match once {
        true => Some(Judging::obtain(tools, folder.join("verdict")).await?),
        false => None,
    };
    let (mut stage, mut controller) = set(story, programs, folder).await?;
    let (mut host, machines) = add_host(story, &stage).await?;
    let guests = demo::Guests::start(&host, &machines)?;
    story.say("Guests: each machine's disks are written to over NBD, now and all the time")?;
    let witnesses = match judging {
        Some(judging) => Some(judging.prepare(&host, &machines, shutdown).await?),
        None => None,
    };
    host.start_agent()?;
    story.say("Agent: of host hv01; it dials the controller over mutual TLS")?;
    story.say("kubectl apply: examples/, with Azurite in the place of the storage account")?;
    story.show(&stage.apply(NAMESPACE, &stage.examples()).await?)?;
    story.say("Replicating. The first copies run while the guests go on")?;
    let protected = patiently(follow::until_protected(story, &stage, &machines));
    tokio::select! {
        protected = protected => protected?,
        ended = ended_early(&mut controller, &mut host) => ended?,
    }
    story.say(&format!(
        "All are protected. Their guests have written {} MiB meanwhile",
        guests.written() >> 20
    ))?;
    story.show(&kubectl_get(&stage).await?)?;
    if let Some(witnesses) = witnesses {
        witnesses.compare(story, &stage).await?;
    }
    let afterwards = patiently(async {
        afterwards::ask(story, &stage).await?;
        match once {
            true => Ok(()),
            false => afterwards::interrupt(story, &mut stage).await,
        }
    });
    tokio::select! {
        done = afterwards => done?,
        ended = ended_early(&mut controller, &mut host) => ended?,
    }
    story.show(&kubectl_get(&stage).await?)?;
    if once {
        return Ok(());
    }
    story::next(story, &stage, NAMESPACE)?;
    ended_early(&mut controller, &mut host).await
}

async fn patiently(what: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let ended = tokio::time::timeout(PATIENCE, what).await;
    ended.map_err(|_| anyhow::anyhow!("this takes more than {PATIENCE:?}"))?
}

async fn obtain(story: &Story, tools: &Tools) -> anyhow::Result<Programs> {
    story.say("Programs: Kubernetes, Helm and Azurite. The first time they are built, which takes minutes")?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let tools = tools.clone();
    let obtained = tokio::task::spawn_blocking(move || {
        Programs::obtain(&tools, AzuriteVersion::Conformance, &this)
    });
    Ok(obtained.await??)
}

async fn set(story: &Story, programs: Programs, folder: &Path) -> anyhow::Result<(Stage, Replica)> {
    let say = |text: &str| {
        // What cannot be told here cannot be told in the next line either, which says so.
        let _ = story.say(text);
    };
    let values = json!({ "logFormat": "text", "replicaCount": 1 });
    let stage = Stage::start(programs, folder, &values, &say).await?;
    story.say("Controller: started as the installed Deployment says, with its ServiceAccount")?;
    let mut controller = stage.controller("site-recovery-0").await?;
    controller.wait_ready().await?;
    Ok((stage, controller))
}

async fn add_host(story: &Story, stage: &Stage) -> anyhow::Result<(Host, Vec<Machine>)> {
    story.say("Host hv01: a lab hypervisor, which stands in for Hyper-V, with three machines")?;
    let name = demo::HOST.parse().expect("the name is valid");
    let host = stage.host(&examples::site(NAMESPACE), &name).await?;
    let (host, machines) = tokio::task::spawn_blocking(move || {
        let machines = demo::machines(&host, Timestamp::now());
        (host, machines)
    })
    .await?;
    let machines = machines?;
    for machine in &machines {
        story.show(&format!("{:<7} {}", machine.name, machine.summary))?;
    }
    Ok((host, machines))
}

async fn kubectl_get(stage: &Stage) -> anyhow::Result<String> {
    let arguments = ["get", "hypervsites,protectedvms", "--namespace", NAMESPACE];
    let table = stage.kubectl(&arguments, b"").await?;
    Ok(format!("$ kubectl get hypervsites,protectedvms\n{table}"))
}

/// Waits until a process ends that should not, and says why.
async fn ended_early(controller: &mut Replica, host: &mut Host) -> anyhow::Result<()> {
    loop {
        let agent = host.agent();
        for process in std::iter::once(&mut controller.process).chain(agent) {
            if let Some(status) = process.ended()? {
                bail!(
                    "a process has ended with {status}; the end of {}:\n{}",
                    process.log().path().display(),
                    process.log().tail()
                );
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
