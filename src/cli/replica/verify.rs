//! `site-recovery replica verify`.

use std::process::ExitCode;

use crate::cli::output;
use crate::cli::replica::{ReplicaArgs, VmName, said, watched};
use crate::datapath::content::Progress;
use crate::datapath::verify::report::{DiskReport, InboxReport, Report};
use crate::datapath::verify::{self, Options};
use crate::units::{Bytes, CHUNK};

/// What the command leaves with where it found damage: neither an error's 1 nor the 2 of what was typed wrongly.
const DAMAGED: u8 = 3;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The recovery point whose content is compared, by the beginning of its id; absent: the newest
    #[arg(long, value_name = "ID")]
    point: Option<String>,
    /// Compare no content: tables, snapshots and logs only, which takes seconds to minutes
    #[arg(long, conflicts_with = "point")]
    without_content: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    replica: ReplicaArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let VmName(wanted) = &args.replica.vm;
    let store = args.replica.account.open()?.find(wanted).await?;
    let options = Options {
        point: args.point,
        without_content: args.without_content,
    };
    let progress = Progress::default();
    let work = verify::verify(&store, &options, &progress);
    let report = watched(&progress, "compared", work).await.map_err(said)?;
    match args.json {
        true => output::json(&report)?,
        false => print(&report)?,
    }
    Ok(match report.findings.is_sound() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(DAMAGED),
    })
}

fn print(report: &Report) -> anyhow::Result<()> {
    let Report {
        replica, applied, ..
    } = report;
    output::line(&format!(
        "replica    {replica}, applied up to sequence {applied}"
    ))?;
    output::line(&format!("tables     {} parts read", report.tables))?;
    let (points, snapshots) = (report.points, report.snapshots);
    output::line(&format!(
        "points     {points}; {snapshots} snapshots are in their places"
    ))?;
    for disk in &report.disks {
        output::line(&disk_line(disk))?;
    }
    match &report.point {
        Some(point) if report.disks.is_empty() => {
            output::line(&format!("content    of {point} was not compared"))?;
        }
        Some(point) => output::line(&format!("content    of recovery point {point}"))?,
        None => output::line("content    there is no recovery point to compare yet")?,
    }
    output::line(&inbox_line(&report.inbox))?;
    let findings = &report.findings;
    for finding in &findings.gone {
        output::line(&format!("gone       {}: {}", finding.object, finding.what))?;
    }
    for finding in &findings.damage {
        let code = finding.code.map_or("", |code| code.as_str());
        output::line(&format!(
            "DAMAGED    {}: {} ({code})",
            finding.object, finding.what
        ))?;
    }
    let verdict = match findings.damage_count {
        0 => "no damage was found".to_owned(),
        count => {
            format!("{count} damages; restore from an older point, or resynchronize the machine")
        }
    };
    output::line(&format!("verdict    {verdict}"))?;
    Ok(())
}

fn disk_line(disk: &DiskReport) -> String {
    let name = &disk.disk;
    let Some(compared) = &disk.compared else {
        return format!("disk       {name}  could not be compared");
    };
    let (hashed, zero) = (compared.hashed, compared.zero);
    format!(
        "disk       {name}  {} right ({hashed} chunks by hash, {zero} zero), {} cannot be compared ({} chunks written \
         in part), {} wrong",
        Bytes((hashed + zero) * CHUNK),
        Bytes(compared.touched * CHUNK),
        compared.touched,
        compared.differing
    )
}

fn inbox_line(inbox: &InboxReport) -> String {
    let Some(waiting) = &inbox.waiting else {
        let why = inbox.unreadable.as_deref().unwrap_or_default();
        return format!("inbox      was not verified: {why}");
    };
    let retired = match inbox.retired {
        0 => String::new(),
        count => format!("; {count} of a chain that was retired"),
    };
    format!(
        "inbox      {} sealed and not applied; {} of them and {} logs are right{retired}",
        waiting.sealed, inbox.seals, inbox.logs
    )
}
