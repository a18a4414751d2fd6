//! Retires a chain and begins the next: what was sealed in the old one and not applied is garbage from then on.
//!
//! ```text
//! all that can be applied of the old chain is ─► close   replica.json: it takes no seals any more
//! what was sealed meanwhile is applied, too    ─► look    how far its cycles may have written, and the inbox goes
//!                                              ► tables  what they may have written: touched     ── unnamed until saved
//!                                                        what damaged parts tell of: touched
//!                                              ► save    replica.json: chain, no seal, no cursors, tables
//! ```
//! Whoever seals reads the manifest afterwards, and counts on a seal only if its chain is not closed. So what a host takes
//! for sealed stood in the inbox before the chain was closed, and is found by the look for what comes next that follows.
//!
//! Whoever dies before the save has left a closed chain, which the next owner retires. After it the host finds a chain
//! without cursors: it compares every disk with the tables, and what is touched is sent. So the tables must not vouch for
//! a chunk that a cycle which never ended may have changed: what its seals name is touched, and the whole disk if one of
//! them cannot be read.
//!
//! Nor do they vouch for anything by a part that is damaged or gone: one in which all is touched takes its place.
//!
//! The new chain begins behind every sequence that the inbox has shown, so that none of those stands in its way. A seal
//! of the old chain that is stored even later is told by its chain.

use std::collections::BTreeMap;

use crate::datapath::Error;
use crate::datapath::cycle;
use crate::datapath::disk;
use crate::datapath::inbox;
use crate::datapath::store::{Held, Store};
use crate::datapath::tables::{self, NewPart};
use crate::ids::{ChainId, DiskId};
use crate::replica::manifest::{Manifest, TableRef};
use crate::replica::seal::Seal;
use crate::replica::table::{self, Run, States};
use crate::units::{ByteRange, CHUNK, Sequence};

/// Seals of a cycle that did not end which are read again; if there are more, whole disks are touched.
const SEALS_MAX: u64 = 1024;
/// How far behind what was applied a sequence may stand to be believed: whoever writes names into the inbox must not
/// use up all sequences at once.
const REACH: u64 = 1 << 32;

/// Ends the chain that `held` is the manifest of, whose owner calls and has found nothing in it that can be applied: closes
/// it first, and retires it once it was looked again.
///
/// # Errors
/// The first thing that failed.
pub async fn end(store: &Store, held: Held) -> Result<Held, Error> {
    if held.manifest.closed {
        return begin(store, held).await;
    }
    let mut next = held.manifest.clone();
    next.closed = true;
    store.save(&held, next).await
}

/// Begins a new chain on the replica that `held` is the manifest of, whose owner calls: the manifest after it.
///
/// # Errors
/// The first thing that failed; the old chain is still there then.
async fn begin(store: &Store, held: Held) -> Result<Held, Error> {
    let manifest = &held.manifest;
    let applied = manifest.last_applied.sequence;
    let reach = Sequence::new(applied.value().saturating_add(REACH));
    let shown = inbox::highest(store, reach).await?;
    let written = unfinished(manifest);
    let furthest = written.values().copied().max().unwrap_or(applied);
    let end = shown.max(applied).max(furthest);
    let mut tables = BTreeMap::new();
    if !written.is_empty() {
        let seals = sealed(store, manifest, furthest).await?;
        for id in written.keys() {
            // Nothing was written to a disk that was not made.
            if disk::find(store, id).await?.is_none() {
                continue;
            }
            let size = manifest.disks[id].size;
            let runs = touched(seals.as_deref(), id, size);
            if let Some(part) = put(store, manifest, id, &runs, end).await? {
                tables.insert(id.clone(), part);
            }
        }
    }
    let (mended, damaged) = mended(store, manifest).await?;
    let chain = ChainId::from_random(crate::ids::random());
    tracing::warn!(replica = %store.id, retired = %manifest.chain, %chain, at = %end, "begins a new chain");
    let next = renewed(&mended, chain, end, tables);
    let held = store.save(&held, next).await?;
    for part in damaged {
        tables::remove(store, &part).await?;
    }
    Ok(held)
}

/// The manifest with a part that vouches for nothing in the place of each that is damaged or gone, and those: the host
/// compares every disk anyway, and sends what is not known.
async fn mended(store: &Store, manifest: &Manifest) -> Result<(Manifest, Vec<TableRef>), Error> {
    let (mut next, mut damaged) = (manifest.clone(), Vec::new());
    let salt = cycle::salt(manifest).wrapping_add(3);
    for (id, disk) in &manifest.disks {
        for (place, part) in disk.tables.iter().enumerate() {
            let error = match tables::check(store, part, disk.size).await {
                Ok(()) => continue,
                Err(error @ Error::Table { .. }) => error,
                Err(error) => return Err(error),
            };
            let fault = error.fault();
            tracing::warn!(replica = %store.id, %fault, "believes nothing of a chunk table");
            let size = manifest.size_at(id, part.to);
            let mut unknown = NewPart::new(store, id, size, (part.from, part.to), salt);
            let all = States::Touched(table::chunks(size));
            unknown
                .push(&Run {
                    first: 0,
                    states: all,
                })
                .await?;
            let unknown = unknown.finish().await?;
            if let Some(disk) = next.disks.get_mut(id) {
                damaged.push(std::mem::replace(&mut disk.tables[place], unknown));
            }
        }
    }
    Ok((next, damaged))
}

/// The disks that a cycle may have written to which did not end, and the last sequence of it.
pub fn unfinished(manifest: &Manifest) -> BTreeMap<DiskId, Sequence> {
    let target = |(id, disk): (&DiskId, &crate::replica::manifest::ReplicaDisk)| {
        Some((id.clone(), disk.head.target()?))
    };
    let targets = manifest.disks.iter().filter_map(target);
    targets
        .filter(|(_, target)| *target > manifest.last_applied.sequence)
        .collect()
}

/// The seals of the chain after what was applied, up to `end`; nothing if one of them cannot be read.
async fn sealed(
    store: &Store,
    manifest: &Manifest,
    end: Sequence,
) -> Result<Option<Vec<Seal>>, Error> {
    let applied = manifest.last_applied.sequence;
    if end.value() - applied.value() > SEALS_MAX {
        return Ok(None);
    }
    let mut seals = Vec::new();
    let mut next = applied.next();
    while next <= end {
        match inbox::read_seal(store, next).await {
            Ok(Some((found, _))) if found.seal.chain == manifest.chain => seals.push(found.seal),
            Ok(Some(_)) => {}
            Ok(None) | Err(Error::Seal { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        next = next.next();
    }
    Ok(Some(seals))
}

/// The chunks of a disk of `size` bytes that `seals` may have written to: all if they are not known.
fn touched(seals: Option<&[Seal]>, id: &DiskId, size: u64) -> Vec<Run> {
    let whole = ByteRange::to(size);
    let mut ranges: Vec<ByteRange> = match seals {
        None => vec![whole],
        Some(seals) => {
            let disks = seals.iter().flat_map(|seal| &seal.disks);
            let logs = disks
                .filter(|disk| disk.disk == *id)
                .flat_map(|disk| &disk.logs);
            logs.map(|log| whole.intersect(log.range))
                .filter(|range| !range.is_empty())
                .collect()
        }
    };
    ranges.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for range in ranges {
        let from = runs.last().map_or(0, Run::end).max(range.start() / CHUNK);
        let to = table::chunks(range.end());
        if from < to {
            runs.push(Run {
                first: from,
                states: States::Touched(to - from),
            });
        }
    }
    runs
}

/// Stores a part of a disk's table that tells of everything after what was applied, up to `end`.
async fn put(
    store: &Store,
    manifest: &Manifest,
    id: &DiskId,
    runs: &[Run],
    end: Sequence,
) -> Result<Option<TableRef>, Error> {
    if runs.is_empty() {
        return Ok(None);
    }
    let span = (manifest.last_applied.sequence.next(), end);
    let size = manifest.disks[id].size;
    let salt = cycle::salt(manifest).wrapping_add(2);
    let mut part = NewPart::new(store, id, size, span, salt);
    for run in runs {
        part.push(run).await?;
    }
    part.finish().await.map(Some)
}

/// The manifest of the new chain, which begins behind `end`.
pub fn renewed(
    manifest: &Manifest,
    chain: ChainId,
    end: Sequence,
    tables: BTreeMap<DiskId, TableRef>,
) -> Manifest {
    let mut next = manifest.clone();
    next.chain = chain;
    next.closed = false;
    next.retired_to = end;
    next.last_applied.sequence = end;
    next.last_applied.seal = None;
    next.last_applied.cursors.clear();
    for (id, table) in tables {
        if let Some(disk) = next.disks.get_mut(&id) {
            disk.tables.push(table);
        }
    }
    next
}
