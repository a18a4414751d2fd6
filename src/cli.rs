//! The command line: what was typed becomes a validated configuration, and real edges are put together.
//!
//! The only place that names concrete edges together, and the only one that prints an error with all its causes.

#[cfg(unix)]
mod agent;
mod controller;
mod crds;
mod data_path;
mod image;
mod in_cluster;
#[cfg(unix)]
mod lab;
mod log;
mod output;
mod replica;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::net::TcpListener;

use crate::report;
use crate::telemetry;

/// Disaster recovery for Hyper-V virtual machines, as Kubernetes resources.
#[derive(Debug, Parser)]
#[command(name = "site-recovery", version, about, long_about = None, propagate_version = true)]
struct Args {
    /// How log lines are written. What is logged is chosen by SITE_RECOVERY_LOG, as RUST_LOG would
    #[arg(
        long,
        global = true,
        display_order = 1000,
        value_enum,
        default_value_t,
        env = "SITE_RECOVERY_LOG_FORMAT"
    )]
    log_format: telemetry::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller: reconcile sites and VMs, receive agents, apply what they ship
    Controller(controller::Args),
    /// Run a worker of the data path: apply what agents ship, beside a controller with --data-path=workers
    DataPath(data_path::Args),
    /// Run the agent of a Hyper-V host
    #[cfg(unix)]
    Agent(agent::Args),
    /// Print the CustomResourceDefinitions, or write them to a folder
    Crds(crds::Args),
    /// Look into virtual disk images (VHD, VHDX, raw)
    #[command(subcommand)]
    Image(image::Command),
    /// Look into Hyper-V Replication Logs
    #[command(subcommand)]
    Log(log::Command),
    /// List, verify and restore replicas, from the storage account alone
    #[command(subcommand)]
    Replica(replica::Command),
    /// Try everything on this machine: a real cluster, real storage, a hypervisor that stands in for Hyper-V
    #[cfg(unix)]
    #[command(subcommand)]
    Lab(lab::Command),
}

impl Command {
    /// What is logged where nobody has chosen.
    fn log_filter(&self) -> &'static str {
        match self {
            Command::Controller(_) | Command::DataPath(_) => telemetry::SERVICE,
            #[cfg(unix)]
            Command::Agent(_) | Command::Lab(lab::Command::Hypervisor(_)) => telemetry::SERVICE,
            _ => telemetry::COMMAND,
        }
    }
}

/// Runs what was typed.
pub fn run() -> ExitCode {
    let args = Args::parse();
    match execute(args) {
        Ok(code) => code,
        Err(error) => {
            output::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::init(args.log_format, args.command.log_filter())?;
    // Whatever needs TLS finds one implementation in the process.
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nothing ran before");
    match args.command {
        Command::Controller(args) => controller::run(args),
        Command::DataPath(args) => data_path::run(args),
        #[cfg(unix)]
        Command::Agent(args) => agent::run(args),
        Command::Crds(args) => crds::run(&args),
        Command::Image(command) => image::run(command),
        Command::Log(command) => log::run(command),
        Command::Replica(command) => replica::run(command),
        #[cfg(unix)]
        Command::Lab(command) => lab::run(command),
    }
}

/// The cluster that this process belongs to.
async fn cluster() -> anyhow::Result<kube::Client> {
    let client = kube::Client::try_default().await;
    // Its errors say their causes themselves, and have them as causes, too.
    client.map_err(|error| anyhow::anyhow!("cannot find the API server: {}", report::chain(&error)))
}

async fn listen(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for {what}"))
}

/// A name for a process that was given none, unique among all replicas.
fn drawn_identity() -> String {
    format!(
        "site-recovery-{}",
        crate::ids::OperationId::from_random(crate::ids::random())
    )
}

/// Threads that may block. A VM that ships has one that reads its disks, and waits on it while others pack what it has read:
/// readers of all VMs that a host can have, 1,024, leave enough of them.
const BLOCKING_THREADS: usize = 2048;

/// A runtime for what serves and waits.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()?)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::runtime;

    #[test]
    fn as_many_readers_as_a_host_can_have_vms_leave_a_thread_to_those_that_they_wait_for() {
        let runtime = runtime().unwrap();
        let waiting: Vec<mpsc::Sender<()>> = (0..1024)
            .map(|_| {
                let (goes_on, waits) = mpsc::channel();
                runtime.spawn_blocking(move || waits.recv());
                goes_on
            })
            .collect();
        let other = runtime.spawn_blocking(|| ());
        runtime.block_on(other).unwrap();
        drop(waiting);
    }
}
