//! Measures replication: the first copy of a disk to page blobs, beside `qemu-img convert` and `azcopy` in the same run,
//! and what follows it ([`changes`]).
//!
//! ```text
//! per content (random, compressible): one dynamic VHDX, made once
//!   per run, each side in turn, on an Azurite of its own:
//!     theirs   qemu-img convert -O vpc (fixed) ─► azcopy copy --blob-type PageBlob
//!     ours     host   process: the engine over the shipped lab hypervisor ─► inbox
//!              cloud  process: the data path ─► page blob, recovery point
//!     then, outside of what is measured: what stands in storage is compared with the image by qemu-img
//! ```
//! Host and cloud are processes of their own (this program again), put together as agent and controller put them
//! together, but for Kubernetes and the connection between the two: this program passes on what the host says.
//!
//! What is counted is the kernel's account of each process. What others did on the machine in that time is told too,
//! because it makes every figure worse.

mod changes;
mod image;
mod machine;
mod measure;
mod ours;
#[path = "../shared/process.rs"]
mod process;
mod roles;
mod stand;
mod summary;
mod theirs;
mod verify;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::image::{Content, Image};
use crate::measure::{Sample, Side};
use crate::stand::Stand;
use crate::summary::Report;

/// Measure the first copy of a disk beside qemu-img and azcopy, then changes and a resynchronization beside rsync.
#[derive(Debug, Parser)]
struct Args {
    /// Runs of each side; the median counts
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    runs: usize,
    /// The disk, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    size: u64,
    /// Data on the disk, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1536)]
    data: u64,
    /// What the data is like; both if it is not said
    #[arg(long, value_name = "CONTENT")]
    content: Option<Content>,
    /// Which side is measured; both if it is not said
    #[arg(long, value_name = "SIDE")]
    side: Option<Side>,
    /// Let our cloud begin only when our host is done: a real service serves both without slowing either, the emulator
    /// has one thread for all
    #[arg(long)]
    in_turn: bool,
    /// Measure only this; both if it is not said
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Where image and storage are kept meanwhile, about three times the data
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
    /// The first copy.
    FirstCopy,
    /// What follows it.
    Changes,
}

/// What this program does as a child of itself.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Role {
    /// The host's side; its order comes through standard input
    #[command(hide = true)]
    Host,
    /// The cloud's side; its order comes through standard input
    #[command(hide = true)]
    Cloud,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok(), "nothing ran before");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match args.role {
        Some(Role::Host) => runtime.block_on(roles::host()),
        Some(Role::Cloud) => runtime.block_on(roles::cloud()),
        None => runtime.block_on(measure_all(&args)),
    }
}

async fn measure_all(args: &Args) -> anyhow::Result<()> {
    let stand = tokio::task::spawn_blocking(Stand::prepare).await??;
    let folder = match &args.folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    }
    .context("cannot make a folder to work in")?;
    if args.only != Some(Part::Changes) {
        measure_copies(args, &stand, folder.path()).await?;
    }
    if args.only != Some(Part::FirstCopy) {
        say("measuring changes")?;
        let (size, data) = (args.size << 20, args.data << 20);
        let changes = changes::run(&stand, size, data, folder.path()).await?;
        let text = if args.json {
            serde_json::to_string_pretty(&changes)?
        } else {
            changes.to_string()
        };
        writeln!(std::io::stdout(), "{text}")?;
    }
    Ok(())
}

async fn measure_copies(
    args: &Args,
    stand: &Stand,
    folder: &std::path::Path,
) -> anyhow::Result<()> {
    let mut report = Report::new(machine::describe(stand)?);
    let contents = args
        .content
        .map_or_else(|| Content::ALL.to_vec(), |content| vec![content]);
    for content in contents {
        say(&format!("making the {content} image"))?;
        let path = folder.join(format!("{content}.vhdx"));
        let (size, data) = (args.size << 20, args.data << 20);
        let made = tokio::task::spawn_blocking(move || Image::make(path, content, size, data));
        let image = made.await??;
        for run in 1..=args.runs {
            for side in Side::ALL {
                if args.side.is_some_and(|only| only != side) {
                    continue;
                }
                let sample = measure_one(args, stand, &image, side, folder).await;
                let sample = sample.with_context(|| format!("{side}, {content}, run {run}"))?;
                say(&format!("{content}, run {run}: {sample}"))?;
                report.add(content, sample);
            }
        }
        std::fs::remove_file(&image.path)?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&report.summarized())?
    } else {
        report.summarized().to_string()
    };
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

async fn measure_one(
    args: &Args,
    stand: &Stand,
    image: &Image,
    side: Side,
    folder: &std::path::Path,
) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir_in(folder)?;
    // What an earlier run left to be written must not burden this one.
    tokio::task::spawn_blocking(rustix::fs::sync).await?;
    let storage = stand.storage(&folder.path().join("storage")).await?;
    let (sample, copy) = match side {
        Side::Theirs => theirs::run(stand, &storage, image, folder.path()).await?,
        Side::Ours => ours::run(args.in_turn, &storage, image, folder.path()).await?,
    };
    verify::verify(&copy, image, folder.path()).await?;
    Ok(sample)
}

/// Tells how it goes, beside the result.
fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}
