//! Measures a fleet: a data path with a thousand replicas ([`data_path`]), a controller with ten thousand VMs ([`control`]).
//!
//! What replicates here are no hypervisors: what an agent ships and says is made by the product's own parts, without
//! disks behind it ([`copies`], [`agents`]).

mod agents;
mod control;
mod copies;
mod data_path;
#[path = "../shared/process.rs"]
mod process;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Measure a data path with many replicas, and a controller with many VMs.
#[derive(Debug, Parser)]
struct Args {
    /// Measure only this; both if it is not said
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Replicas on one data path
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    replicas: usize,
    /// Deltas of each replica, once its first copy is published
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    deltas: u32,
    /// `ProtectedVM`s of one controller
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    vms: usize,
    /// Sites that they are of, each with a storage account of its own
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    sites: usize,
    /// Hosts of each site
    #[arg(long, value_name = "COUNT", default_value_t = 25)]
    hosts: usize,
    /// For how many minutes all VMs change
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    minutes: u64,
    /// How long it may take until all VMs are protected, in minutes; then those that are count
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    patience: u64,
    /// How often a VM's disks break
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    faults: u32,
    /// Where storage and logs are kept meanwhile
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Many replicas on one data path.
    DataPath,
    /// Many VMs of one controller.
    Controller,
}

/// What this program does as a child of itself.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Role {
    /// The data path; its order comes through standard input
    #[command(hide = true)]
    DataPath,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nothing ran before");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match args.role {
        Some(Role::DataPath) => runtime.block_on(data_path::child()),
        None => runtime.block_on(measure(&args)),
    }
}

async fn measure(args: &Args) -> anyhow::Result<()> {
    let folder = match &args.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::Builder::new().prefix("sr").tempdir(),
    }
    .context("cannot make a folder to work in")?;
    if args.only != Some(Part::Controller) {
        let folder = folder.path().join("data-path");
        data_path::run(args.replicas, args.deltas, &folder).await?;
    }
    if args.only != Some(Part::DataPath) {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let size = control::Size {
            vms: args.vms,
            sites: args.sites.clamp(1, args.vms.max(1)),
            hosts_per_site: args.hosts.max(1),
            patience: minutes(args.patience),
            steady: minutes(args.minutes),
            faults: args.faults,
        };
        control::run(size, &folder.path().join("controller")).await?;
    }
    Ok(())
}

/// Tells what was found, and how it goes.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
