//! `site-recovery replica list`.

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::cli::output;
use crate::cli::replica::account::AccountArgs;
use crate::cli::replica::{Opened, VmName, disk_name};
use crate::datapath::inspect::catalog::{self, Catalog, Wanted};
use crate::datapath::inspect::pending::Waiting;
use crate::datapath::inspect::{self, Overview};
use crate::ids::{ChainId, DiskId, DiskSlot, RecoveryPointId, ReplicaId};
use crate::replica::fence::Side;
use crate::replica::manifest::{Head, Point};
use crate::replica::record::Record;
use crate::replica::seal::Consistency;
use crate::units::{Bytes, Sequence};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// A ProtectedVM as namespace/name, or the id of a replica; absent: all that the account has
    #[arg(value_name = "VM")]
    vm: Option<VmName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    account: AccountArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let opened = args.account.open()?;
    match &args.vm {
        None => list_account(&opened, args.json).await?,
        Some(VmName(wanted)) => list_replica(&opened, wanted, args.json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What `replica list --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccountListed<'a> {
    sites: Vec<SiteListed<'a>>,
    /// Replicas that no record names.
    unrecorded: Vec<UnrecordedListed<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SiteListed<'a> {
    container: &'a str,
    site: Option<String>,
    cluster: Option<&'a str>,
    objects: Vec<&'a Record>,
    unreadable: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UnrecordedListed<'a> {
    replica: &'a ReplicaId,
    container: &'a str,
}

async fn list_account(opened: &Opened, json: bool) -> anyhow::Result<()> {
    let catalog = catalog::catalog(opened.account.as_ref(), opened.prefix.as_ref());
    let catalog = opened.awaited(catalog).await?;
    let listed = account_listed(&catalog);
    if json {
        return output::json(&listed);
    }
    for site in &listed.sites {
        let name = site.site.as_deref().unwrap_or("(nobody has claimed it)");
        output::line(&format!("site       {name}, container {}", site.container))?;
        for record in &site.objects {
            let kept = match &record.condemned {
                Some(condemned) if condemned.erased => "  removed",
                Some(_) => "  being removed",
                None if record.retained => "  retained",
                None => "",
            };
            let object = record.object.to_string();
            let name = &record.vm_name;
            output::line(&format!("  {object:<32} {}  {name}{kept}", record.replica))?;
        }
        for fault in &site.unreadable {
            output::line(&format!("  {fault}"))?;
        }
    }
    for replica in &listed.unrecorded {
        let UnrecordedListed { replica, container } = replica;
        output::line(&format!("no record  {replica}, container {container}"))?;
    }
    if listed.sites.is_empty() && listed.unrecorded.is_empty() {
        output::line(&format!("nothing of ours in {}", opened.account.endpoint()))?;
    }
    Ok(())
}

fn account_listed(catalog: &Catalog) -> AccountListed<'_> {
    let sites = catalog.sites.iter().map(|site| {
        let owner = site.owner.as_ref().ok().and_then(Option::as_ref);
        let owner_fault = site.owner.as_ref().err();
        SiteListed {
            container: &site.container,
            site: owner.map(|owner| owner.site.to_string()),
            cluster: owner.map(|owner| owner.cluster.as_str()),
            objects: site.records.iter().collect(),
            unreadable: site
                .unreadable
                .iter()
                .chain(owner_fault)
                .map(ToString::to_string)
                .collect(),
        }
    });
    let unrecorded = catalog.unrecorded.iter();
    AccountListed {
        sites: sites.collect(),
        unrecorded: unrecorded
            .map(|(replica, container)| UnrecordedListed { replica, container })
            .collect(),
    }
}

/// What `replica list VM --json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplicaListed<'a> {
    replica: &'a ReplicaId,
    machine: Option<&'a str>,
    active_side: Option<Side>,
    chain: &'a ChainId,
    applied: Sequence,
    written: Timestamp,
    now: Timestamp,
    disks: Vec<DiskListed<'a>>,
    points: Vec<PointListed<'a>>,
    /// Nothing where it cannot be listed.
    inbox: Option<Waiting>,
    notes: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DiskListed<'a> {
    disk: &'a DiskId,
    slot: Option<&'a DiskSlot>,
    size: u64,
    head: &'a Head,
    tables: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PointListed<'a> {
    id: &'a RecoveryPointId,
    time: Timestamp,
    consistency: Consistency,
    sequence: Sequence,
    published: Timestamp,
    age_seconds: i64,
    disks: Vec<PointDiskListed<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PointDiskListed<'a> {
    disk: &'a DiskId,
    size: u64,
    snapshot: &'a str,
}

async fn list_replica(opened: &Opened, wanted: &Wanted, json: bool) -> anyhow::Result<()> {
    let store = opened.find(wanted).await?;
    let overview = opened.awaited(inspect::overview(&store)).await?;
    let listed = replica_listed(&overview);
    if json {
        return output::json(&listed);
    }
    let machine = listed.machine.unwrap_or("its machine is not described");
    output::line(&format!("replica    {} ({machine})", listed.replica))?;
    let (applied, ago) = (listed.applied, age(listed.now, listed.written));
    output::line(&format!(
        "applied    up to sequence {applied}; replica.json was written {ago} ago"
    ))?;
    for disk in &listed.disks {
        let name = disk_name(&overview, disk.disk);
        let size = Bytes(disk.size).to_string();
        output::line(&format!(
            "disk       {name:<10} {size:>10}  {}  {}",
            disk.disk,
            head(disk.head)
        ))?;
    }
    match &listed.inbox {
        Some(waiting) => output::line(&format!("inbox      {}", waits(waiting)))?,
        None => output::line("inbox      cannot be listed")?,
    }
    for note in &listed.notes {
        output::line(&format!("note       {note}"))?;
    }
    for point in listed.points.iter().rev() {
        output::line(&point_line(point, listed.now))?;
    }
    if listed.points.is_empty() {
        output::line("points     none yet")?;
    }
    Ok(())
}

fn replica_listed(overview: &Overview) -> ReplicaListed<'_> {
    let manifest = &overview.manifest;
    let fence = overview.fence.as_ref().ok().and_then(Option::as_ref);
    let disks = manifest.disks.iter().map(|(disk, replica)| DiskListed {
        disk,
        slot: overview.slot(disk),
        size: replica.size,
        head: &replica.head,
        tables: replica.tables.len(),
    });
    let points = manifest.points.iter();
    let inbox = overview.inbox.as_ref().ok();
    ReplicaListed {
        replica: &manifest.replica,
        machine: fence.map(|fence| fence.machine.name.as_str()),
        active_side: fence.map(|fence| fence.active_side),
        chain: &manifest.chain,
        applied: manifest.last_applied.sequence,
        written: overview.written,
        now: overview.now,
        disks: disks.collect(),
        points: points
            .map(|point| point_listed(point, overview.now))
            .collect(),
        inbox: inbox.map(|listing| listing.waiting(manifest.last_applied.sequence)),
        notes: notes(overview),
    }
}

fn point_listed(point: &Point, now: Timestamp) -> PointListed<'_> {
    PointListed {
        id: &point.id,
        time: point.barrier.time,
        consistency: point.barrier.consistency,
        sequence: point.sequence,
        published: point.published,
        age_seconds: now.duration_since(point.published).as_secs(),
        disks: point
            .disks
            .iter()
            .map(|(disk, cut)| PointDiskListed {
                disk,
                size: cut.size,
                snapshot: &cut.snapshot,
            })
            .collect(),
    }
}

/// What a person should know who is about to rely on the replica.
fn notes(overview: &Overview) -> Vec<String> {
    let mut notes = Vec::new();
    let heads = || overview.manifest.disks.values().map(|disk| &disk.head);
    let under_way = heads().find_map(|head| match head {
        Head::Applying { target }
        | Head::Copying {
            target: Some(target),
        } => Some(target),
        Head::Copying { target: None } | Head::Consistent { .. } | Head::Sealed { .. } => None,
    });
    if let Some(target) = under_way.filter(|at| **at > overview.manifest.last_applied.sequence) {
        let since = age(overview.now, overview.written);
        notes.push(format!(
            "sequences up to {target} are being applied since {since}, or the data path died there; \
             recovery points are not affected"
        ));
    }
    if heads().any(|head| matches!(head, Head::Copying { .. })) {
        notes.push(
            "a disk is still being copied: it is in no recovery point before its first barrier"
                .to_owned(),
        );
    }
    notes.extend(overview.fence.as_ref().err().map(ToString::to_string));
    notes.extend(overview.inbox.as_ref().err().map(ToString::to_string));
    notes
}

fn head(head: &Head) -> String {
    match head {
        Head::Copying { target: None } => "Copying".to_owned(),
        Head::Copying {
            target: Some(target),
        } => format!("Copying, up to {target}"),
        Head::Applying { target } => format!("Applying up to {target}"),
        Head::Consistent { sequence } => format!("Consistent at {sequence}"),
        Head::Sealed { sequence, run } => format!("Sealed at {sequence} by {run}"),
    }
}

fn waits(waiting: &Waiting) -> String {
    let mut parts = vec![match (&waiting.first, &waiting.last) {
        (Some(first), Some(last)) => format!(
            "{} sealed and not applied ({first} to {last}): {} logs, {}",
            waiting.sealed,
            waiting.logs,
            Bytes(waiting.bytes)
        ),
        (None, _) | (_, None) => "nothing is sealed that is not applied".to_owned(),
    }];
    if waiting.applied > 0 {
        parts.push(format!("{} applied and not deleted yet", waiting.applied));
    }
    if waiting.unsealed_logs > 0 {
        parts.push(format!("{} logs without a seal", waiting.unsealed_logs));
    }
    if waiting.foreign > 0 {
        parts.push(format!("{} blobs that are not ours", waiting.foreign));
    }
    parts.join("; ")
}

fn point_line(point: &PointListed<'_>, now: Timestamp) -> String {
    let PointListed {
        id, time, sequence, ..
    } = point;
    let consistency = match point.consistency {
        Consistency::Crash => "crash",
        Consistency::Application => "application",
        Consistency::Final => "final",
    };
    let bytes = point.disks.iter().map(|disk| disk.size).sum();
    let (count, size) = (point.disks.len(), Bytes(bytes));
    let age = age(now, point.published);
    format!(
        "point      {id}  {time}  {consistency:<11} {sequence}  {count} disks, {size}, {age} old"
    )
}

/// As people say it: the two largest units.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).max(SignedDuration::ZERO).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
