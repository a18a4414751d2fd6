//! One apply cycle, from the first page to the publication.
//!
//! ```text
//! check     sizes, disks, and the logs of the first seal               ── nothing of what is refused has changed anything
//! mark      replica.json: heads get their target, the fence is new     ── from here a crash leaves heads inconsistent
//! grow      blobs of disks that grew; then replica.json: a new fence   ── done again until what came with it is published
//! fence     each blob's sequence number becomes the fence              ── later requests of earlier cycles fail
//! write     per seal: all its logs verified, then all its pages        ── done again from the start after a crash
//! tables    one new part per disk                                      ── unnamed until published
//! cut       at a barrier: a snapshot of every disk                     ── unnamed until published
//! publish   replica.json: applied, heads, tables, point                ── from here the inbox may lose the logs
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tokio_util::task::AbortOnDropHandle;

use crate::blob::names::{BlobRef, SequenceNumber};
use crate::blob::parameters::{Condition, Metadata};
use crate::datapath::Error;
use crate::datapath::advance::{self, Brought, Cut};
use crate::datapath::digest::{self, Digested, LogChunks, OutOfOrder, PageWrite};
use crate::datapath::disk;
use crate::datapath::logs::{self, Logs, Verified};
use crate::datapath::plan::Cycle;
use crate::datapath::room::Room;
use crate::datapath::store::{Held, Store};
use crate::datapath::tables::NewPart;
use crate::ids::DiskId;
use crate::replica::manifest::{Manifest, PointDisk, TableRef};
use crate::replica::names;
use crate::units::{ByteRange, Sequence};

/// Page writes of one replica at the same time.
const WRITES: usize = 8;
/// Logs that are digested ahead of their writes.
const DIGESTS: usize = 2;
/// Seals that are verified ahead of the one that hands out its logs.
const SEALS: usize = 1;
/// Blob metadata that says of which cycle a snapshot is.
pub const META_SEQUENCE: &str = "sequence";
pub const META_GENERATION: &str = "generation";

/// Runs `cycle` on the replica that `held` is the manifest of: the manifest after it.
///
/// # Errors
/// The first thing that failed. The cycle can be run again, by this owner or another; the part of it before what is
/// [refused](Error::refused) as well.
pub async fn run(store: &Store, held: &Held, cycle: &Arc<Cycle>) -> Result<Held, Error> {
    check(store, &held.manifest, cycle).await?;
    let room = Room::default();
    // Heads stay what they are until something can be applied.
    let first = verified(store, cycle, 0, &room).await?;
    let held = store
        .save(held, advance::marked(&held.manifest, cycle)?)
        .await?;
    let held = grow(store, held, cycle).await?;
    let manifest = &held.manifest;
    let fence = disk::fence_of(manifest.writer);
    for id in disks_of(cycle) {
        disk::prepare(store, &id, &manifest.disks[&id], fence).await?;
    }
    let chunks = write_all(store, cycle, (first, &room), fence).await?;
    let tables = write_tables(store, manifest, cycle, chunks).await?;
    let cut = match advance::disks_at_barrier(manifest, cycle) {
        disks if disks.is_empty() => None,
        disks => Some(cut(store, manifest, cycle, &disks).await?),
    };
    let finished = advance::finished(manifest, cycle, Brought { tables, cut });
    store.save(&held, finished).await
}

/// Makes sure that every disk of the cycle may be written to.
async fn check(store: &Store, manifest: &Manifest, cycle: &Cycle) -> Result<(), Error> {
    advance::check_sizes(manifest, cycle)?;
    if advance::adds_disks(manifest, cycle) {
        advance::check_disks(manifest, cycle, &store.machine().await?)?;
        for id in disks_of(cycle) {
            disk::find(store, &id).await?;
        }
    }
    Ok(())
}

/// Enlarges the blobs of disks that have grown, under a fence of its own.
async fn grow(store: &Store, held: Held, cycle: &Cycle) -> Result<Held, Error> {
    let mut grown = false;
    let fence = disk::fence_of(held.manifest.writer);
    for id in disks_of(cycle) {
        let disk = &held.manifest.disks[&id];
        if let Some(from) = disk.grown_from {
            disk::grow(store, &id, (from, disk.size), fence).await?;
            grown = true;
        }
    }
    if !grown {
        return Ok(held);
    }
    let mut next = held.manifest.clone();
    next.writer = next.writer.next_cycle();
    store.save(&held, next).await
}

fn disks_of(cycle: &Cycle) -> BTreeSet<DiskId> {
    let disks = cycle.seals.iter().flat_map(|found| &found.seal.disks);
    disks.map(|disk| disk.disk.clone()).collect()
}

/// What each log of a disk says of its chunks, once a cycle is written.
type Chunks = BTreeMap<DiskId, Vec<LogChunks>>;

/// Writes all seals of a cycle: what is known of the chunks of each disk then.
///
/// No two logs of a cycle write the same pages, so the order does not matter: a few requests are always under way, and
/// while they are, the next log is digested and the next seal fetched and verified.
async fn write_all(
    store: &Store,
    cycle: &Arc<Cycle>,
    (first, room): (Sealed, &Room),
    fence: SequenceNumber,
) -> Result<Chunks, Error> {
    let mut chunks: Chunks = disks_of(cycle)
        .into_iter()
        .map(|id| (id, Vec::new()))
        .collect();
    let others = futures::stream::iter(1..cycle.seals.len())
        .map(|index| verified(store, cycle, index, room))
        .buffered(SEALS);
    let all = futures::stream::iter([Ok(first)]).chain(others);
    let logs = all.map_ok(|(sequence, logs)| match logs {
        Logs::Kept(logs) => futures::stream::iter(logs).map(Ok).left_stream(),
        Logs::Known(logs) => logs::fetch(store, sequence, logs, room.clone()).right_stream(),
    });
    let digested = logs
        .try_flatten()
        .map(|log| async move { digest(store, log?).await })
        .buffered(DIGESTS);
    let requests = digested.map_ok(|(disk, said, digested)| {
        chunks.entry(disk.clone()).or_default().push(said);
        let (blob, clears) = (names::disk(&disk), digested.clears);
        let writes = digested.writes.into_iter().map(Request::Write);
        let clears = clears.into_iter().map(Request::Clear);
        futures::stream::iter(
            writes
                .chain(clears)
                .map(move |request| Ok((blob.clone(), request))),
        )
    });
    requests
        .try_flatten()
        .map(|request| async move {
            let (blob, request) = request?;
            send(store, &blob, request, fence).await
        })
        .buffer_unordered(WRITES)
        .try_collect::<()>()
        .await?;
    Ok(chunks)
}

/// The logs of one seal, and its sequence.
type Sealed = (Sequence, Logs);

/// Verifies the logs of one seal of a cycle, on a task of its own.
async fn verified(
    store: &Store,
    cycle: &Arc<Cycle>,
    index: usize,
    room: &Room,
) -> Result<Sealed, Error> {
    let (of, seals, space) = (store.clone(), cycle.clone(), room.clone());
    let verification = AbortOnDropHandle::new(tokio::spawn(async move {
        logs::verify(&of, &seals.seals[index].seal, &space).await
    }));
    let aborted = |_| Error::Aborted {
        what: "the verification",
        replica: store.id.clone(),
    };
    let logs = verification.await.map_err(aborted)??;
    Ok((cycle.seals[index].seal.sequence, logs))
}

async fn digest(store: &Store, log: Verified) -> Result<(DiskId, LogChunks, Digested), Error> {
    let Verified {
        disk,
        log,
        range,
        bytes,
    } = log;
    let digested = tokio::task::spawn_blocking(move || digest::digest(&bytes)).await;
    let digested = digested.map_err(|_| Error::Aborted {
        what: "the application",
        replica: store.id.clone(),
    })?;
    let mut digested = digested.map_err(|source| Error::LogFormat {
        replica: store.id.clone(),
        log: log.clone(),
        source,
    })?;
    let runs = std::mem::take(&mut digested.chunks);
    Ok((disk, LogChunks { log, range, runs }, digested))
}

enum Request {
    Write(PageWrite),
    Clear(ByteRange),
}

async fn send(
    store: &Store,
    blob: &str,
    request: Request,
    fence: SequenceNumber,
) -> Result<(), Error> {
    let replica = &store.replica;
    match request {
        Request::Write(write) => {
            let written = replica
                .put_pages(blob, write.offset, write.data(), fence)
                .await;
            written.map_err(store.storage("write pages"))
        }
        Request::Clear(range) => {
            let cleared = replica.clear_pages(blob, range, fence).await;
            cleared.map_err(store.storage("clear pages"))
        }
    }
}

/// One new part for each disk whose chunks changed.
async fn write_tables(
    store: &Store,
    manifest: &Manifest,
    cycle: &Cycle,
    chunks: Chunks,
) -> Result<BTreeMap<DiskId, TableRef>, Error> {
    let span = (
        manifest.last_applied.sequence.next(),
        cycle.target().seal.sequence,
    );
    let mut tables = BTreeMap::new();
    for (id, parts) in chunks {
        let mut joined =
            digest::join_chunks(parts).map_err(|OutOfOrder { log, why }| Error::Log {
                replica: store.id.clone(),
                log,
                why,
            })?;
        let size = manifest.disks[&id].size;
        if let Some(from) = manifest.disks[&id].grown_from {
            digest::lengthen_last(&mut joined, from);
        }
        if joined.is_empty() {
            continue;
        }
        let mut part = NewPart::new(store, &id, size, span, salt(manifest));
        for run in joined {
            part.push(&run).await?;
        }
        tables.insert(id, part.finish().await?);
    }
    Ok(tables)
}

/// Tells the tables of one attempt from those of another: the fence is never used twice.
pub fn salt(manifest: &Manifest) -> u32 {
    let hash = blake3::hash(&manifest.writer.fence().to_le_bytes());
    let mut bits = [0; 4];
    bits.copy_from_slice(&hash.as_bytes()[..4]);
    u32::from_le_bytes(bits)
}

/// Takes a snapshot of every disk of the point.
async fn cut(
    store: &Store,
    manifest: &Manifest,
    cycle: &Cycle,
    disks: &[DiskId],
) -> Result<Cut, Error> {
    let sequence = cycle.target().seal.sequence;
    let mut cut = BTreeMap::new();
    for id in disks {
        let metadata = snapshot_metadata(store, manifest, id, sequence);
        let taken = store
            .replica
            .snapshot(&names::disk(id), &metadata, &Condition::Always)
            .await;
        let snapshot = taken
            .map_err(store.storage("take a snapshot"))?
            .as_str()
            .to_owned();
        cut.insert(
            id.clone(),
            PointDisk {
                snapshot,
                size: manifest.disks[id].size,
            },
        );
    }
    let date = store
        .replica
        .properties(&BlobRef::head(names::MANIFEST))
        .await;
    let at = date.map_err(store.storage("ask for the time"))?.date;
    Ok(Cut { disks: cut, at })
}

fn snapshot_metadata(
    store: &Store,
    manifest: &Manifest,
    id: &DiskId,
    sequence: Sequence,
) -> Metadata {
    let mut metadata = disk::metadata_of(store, id);
    metadata.insert(META_SEQUENCE.to_owned(), sequence.to_string());
    metadata.insert(
        META_GENERATION.to_owned(),
        manifest.writer.generation.to_string(),
    );
    metadata
}
