//! `site-recovery replica restore`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::cli::output;
use crate::cli::replica::{ReplicaArgs, VmName, disk_name, said, watched};
use crate::datapath::content::{self, Progress, Subject};
use crate::datapath::inspect::{self, Error, Overview};
use crate::datapath::restore::{self, Restored, Target};
use crate::datapath::store::Store;
use crate::formats::info::Format;
use crate::ids::{DiskId, RecoveryPointId, ReplicaId};
use crate::replica::manifest::Point;
use crate::units::Bytes;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The recovery point, by the beginning of its id
    #[arg(long, value_name = "ID")]
    point: Option<String>,
    /// The newest recovery point; what is meant without --point, too
    #[arg(long, conflicts_with = "point")]
    latest: bool,
    /// A disk, by its id or its place such as scsi:0:0 (repeat for more); none: all
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<String>,
    /// The file for a single --disk; else the folder, which is created
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// What the files are
    #[arg(long, value_enum, default_value_t)]
    format: FormatName,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Do not compare with the chunk table: for a replica that is damaged
    #[arg(long)]
    unverified: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    replica: ReplicaArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    /// Fixed VHD, sparse
    #[default]
    Vhd,
    /// Dynamic VHDX
    Vhdx,
    /// The disk's bytes, sparse
    Raw,
}

impl FormatName {
    const fn format(self) -> Format {
        match self {
            FormatName::Vhd => Format::Vhd,
            FormatName::Vhdx => Format::Vhdx,
            FormatName::Raw => Format::Raw,
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            FormatName::Vhd => "vhd",
            FormatName::Vhdx => "vhdx",
            FormatName::Raw => "raw",
        }
    }
}

/// What `replica restore --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    replica: &'a ReplicaId,
    point: &'a RecoveryPointId,
    time: jiff::Timestamp,
    disks: Vec<PrintedDisk>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PrintedDisk {
    disk: DiskId,
    name: String,
    size: u64,
    file: PathBuf,
    #[serde(flatten)]
    restored: Restored,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let VmName(wanted) = &args.replica.vm;
    let store = args.replica.account.open()?.find(wanted).await?;
    let overview = inspect::overview(&store).await.map_err(said)?;
    let wanted = args.point.as_deref().filter(|_| !args.latest);
    let point = inspect::find_point(&overview.manifest, wanted).map_err(said)?;
    let disks = chosen(&overview, point, &args.disks).map_err(said)?;
    let targets = targets(&args, &overview, point, &disks)?;
    for (_, target) in &targets {
        let free = restore::check_free(target).map_err(said);
        free.context("nothing was restored; --force replaces files")?;
    }
    let progress = Progress::default();
    progress.expect(disks.iter().map(|disk| point.disks[disk].size).sum());
    let mut done = Vec::new();
    for (disk, target) in targets {
        let work = one(&store, &overview, point, &disk, &target, &args, &progress);
        let what = format!("{}: restored", target.path.display());
        let restored = watched(&progress, &what, work).await.map_err(said)?;
        let printed = PrintedDisk {
            name: disk_name(&overview, &disk),
            size: point.disks[&disk].size,
            file: target.path,
            restored,
            disk,
        };
        if !args.json {
            output::line(&disk_line(&printed))?;
        }
        done.push(printed);
    }
    if args.json {
        output::json(&Printed {
            replica: &store.id,
            point: &point.id,
            time: point.barrier.time,
            disks: done,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(
    store: &Store,
    overview: &Overview,
    point: &Point,
    disk: &DiskId,
    target: &Target,
    args: &Args,
    progress: &Progress,
) -> Result<Restored, Error> {
    let (subject, table) = match args.unverified {
        true => (Subject::of(&overview.manifest, point, disk)?, None),
        false => {
            let (subject, table) = content::subject(store, &point.id, disk).await?;
            (subject, Some(table))
        }
    };
    restore::restore(store, &subject, table, target, progress).await
}

/// The disks that were asked for, by id or by place.
fn chosen(overview: &Overview, point: &Point, wanted: &[String]) -> Result<Vec<DiskId>, Error> {
    if wanted.is_empty() {
        return Ok(point.disks.keys().cloned().collect());
    }
    let called = |disk: &DiskId, name: &str| {
        disk.as_str() == name
            || overview
                .slot(disk)
                .is_some_and(|slot| slot.as_str() == name)
    };
    let mut disks: Vec<DiskId> = Vec::new();
    for name in wanted {
        let found = point.disks.keys().find(|disk| called(disk, name));
        let disk = found.ok_or_else(|| Error::NoDisk {
            wanted: name.clone(),
            disks: point
                .disks
                .keys()
                .map(|disk| disk_name(overview, disk))
                .collect(),
        })?;
        if !disks.contains(disk) {
            disks.push(disk.clone());
        }
    }
    Ok(disks)
}

/// The file of each disk. The folder is made here.
fn targets(
    args: &Args,
    overview: &Overview,
    point: &Point,
    disks: &[DiskId],
) -> anyhow::Result<Vec<(DiskId, Target)>> {
    let single = args.disks.len() == 1 && !args.output.is_dir();
    if !single {
        if args.output.is_file() {
            bail!(
                "{} is a file; several disks need a folder",
                args.output.display()
            );
        }
        let made = std::fs::create_dir_all(&args.output);
        made.with_context(|| format!("cannot create folder {}", args.output.display()))?;
    }
    let path = |disk: &DiskId| match single {
        true => args.output.clone(),
        false => args
            .output
            .join(file_name(&disk_name(overview, disk), args.format)),
    };
    let target = |disk: &DiskId| Target {
        path: path(disk),
        format: args.format.format(),
        overwrite: args.force,
        created: point.barrier.time,
    };
    Ok(disks
        .iter()
        .map(|disk| (disk.clone(), target(disk)))
        .collect())
}

/// A place has colons, which Windows does not take.
fn file_name(disk: &str, format: FormatName) -> PathBuf {
    let name = format!("{}.{}", disk.replace(':', "-"), format.extension());
    Path::new(&name).to_owned()
}

fn disk_line(disk: &PrintedDisk) -> String {
    let PrintedDisk { name, file, .. } = disk;
    let compared = match &disk.restored.compared {
        None => "not compared with its chunk table".to_owned(),
        Some(compared) if compared.touched == 0 => "all as its chunk table says".to_owned(),
        Some(compared) => format!(
            "as its chunk table says, which has no hash of {} of {} chunks",
            compared.touched,
            compared.total()
        ),
    };
    format!(
        "{name}  {}  {} with {} of data; {compared}",
        file.display(),
        Bytes(disk.size),
        Bytes(disk.restored.written)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_the_place_of_its_disk() {
        let name = file_name("scsi:0:1", FormatName::Vhd);
        assert_eq!(name, Path::new("scsi-0-1.vhd"));
    }
}
