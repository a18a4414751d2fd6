//! One apply cycle, from the first page to the publication.
//!
//! ```text
//! mark      replica.json: heads get their target, the fence is new     ── from here a crash leaves heads inconsistent
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
use crate::datapath::logs::{self, Logs, Verified};
use crate::datapath::plan::Cycle;
use crate::datapath::room::Room;
use crate::datapath::store::{Held, Store};
use crate::datapath::tables::NewPart;
use crate::formats::vhd;
use crate::ids::DiskId;
use crate::replica::manifest::{Manifest, PointDisk, ReplicaDisk, TableRef};
use crate::replica::names;
use crate::units::{ByteRange, MIB, SECTOR, Sequence};

/// Page writes of one replica at the same time.
const WRITES: usize = 8;
/// Logs that are digested ahead of their writes.
const DIGESTS: usize = 2;
/// Seals that are verified ahead of the one that hands out its logs.
const SEALS: usize = 1;
/// Blob metadata that says whose a page blob or a snapshot is.
pub const META_REPLICA: &str = "replica";
pub const META_DISK: &str = "disk";
pub const META_SEQUENCE: &str = "sequence";
pub const META_GENERATION: &str = "generation";

/// Runs `cycle` on the replica that `held` is the manifest of: the manifest after it.
///
/// # Errors
/// The first thing that failed. The cycle can be run again, by this owner or another.
pub async fn run(store: &Store, held: &Held, cycle: &Arc<Cycle>) -> Result<Held, Error> {
    if advance::adds_disks(&held.manifest, cycle) {
        advance::check_disks(&held.manifest, cycle, &store.machine().await?)?;
    }
    let marked = advance::marked(&held.manifest, cycle)?;
    let held = store.save(held, marked).await?;
    let manifest = &held.manifest;
    let fence = SequenceNumber::new(manifest.writer.fence()).expect("a fence has at most 63 bits");
    for disk in disks_of(cycle) {
        prepare(store, &disk, &manifest.disks[&disk], fence).await?;
    }
    let chunks = write_all(store, cycle, fence).await?;
    let tables = write_tables(store, manifest, cycle, chunks).await?;
    let cut = match advance::disks_at_barrier(cycle) {
        disks if disks.is_empty() => None,
        disks => Some(cut(store, manifest, cycle, &disks).await?),
    };
    let finished = advance::finished(manifest, cycle, Brought { tables, cut });
    store.save(&held, finished).await
}

fn disks_of(cycle: &Cycle) -> BTreeSet<DiskId> {
    let disks = cycle.seals.iter().flat_map(|found| &found.seal.disks);
    disks.map(|disk| disk.disk.clone()).collect()
}

/// Makes sure that the disk's page blob is there, is ours, and takes no writes but this cycle's.
async fn prepare(
    store: &Store,
    id: &DiskId,
    disk: &ReplicaDisk,
    fence: SequenceNumber,
) -> Result<(), Error> {
    let blob = names::disk(id);
    let length = padded(disk.size) + SECTOR;
    match store.replica.properties(&BlobRef::head(&blob)).await {
        Ok(found) if is_ours(&found.metadata, store, id) && found.length == length => {}
        Ok(found) => {
            let why = format!(
                "it has {} bytes and does not say that it is this disk of {length} bytes",
                found.length
            );
            return Err(Error::Foreign {
                replica: store.id.clone(),
                blob,
                why,
            });
        }
        Err(error) if error.is_not_found() => {
            let metadata = metadata_of(store, id);
            let created = store
                .replica
                .create_page_blob(&blob, length, SequenceNumber::ZERO, &metadata, None)
                .await;
            match created {
                Ok(_) => {}
                // A lost reply of an earlier attempt; what stands there is looked at the next time.
                Err(error) if error.is_already_exists() && error.repeated => {}
                Err(error) => return Err(store.storage("create a disk")(error)),
            }
        }
        Err(error) => return Err(store.storage("look at a disk")(error)),
    }
    let now = store.replica.set_sequence_number(&blob, fence).await;
    if now.map_err(store.storage("fence a disk"))? != fence {
        return Err(store.fenced());
    }
    if disk.tables.is_empty() {
        let footer = vhd::fixed_footer(
            padded(disk.size),
            identity_of(id),
            jiff::Timestamp::UNIX_EPOCH,
        );
        let body = bytes::Bytes::copy_from_slice(&footer);
        let written = store
            .replica
            .put_pages(&blob, padded(disk.size), body, fence)
            .await;
        written.map_err(store.storage("write the footer of a disk"))?;
    }
    Ok(())
}

/// Azure takes disks of whole mebibytes.
pub const fn padded(size: u64) -> u64 {
    size.next_multiple_of(MIB)
}

/// The UUID that stands in a disk's footer: the first bits of its id.
pub fn identity_of(id: &DiskId) -> uuid::Uuid {
    let mut bits = [0; 16];
    bits.copy_from_slice(&blake3::hash(id.as_str().as_bytes()).as_bytes()[..16]);
    uuid::Builder::from_random_bytes(bits).into_uuid()
}

fn metadata_of(store: &Store, id: &DiskId) -> Metadata {
    [(META_REPLICA, store.id.as_str()), (META_DISK, id.as_str())]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn is_ours(metadata: &Metadata, store: &Store, id: &DiskId) -> bool {
    metadata
        .get(META_REPLICA)
        .is_some_and(|found| found == store.id.as_str())
        && metadata
            .get(META_DISK)
            .is_some_and(|found| found == id.as_str())
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
    fence: SequenceNumber,
) -> Result<Chunks, Error> {
    let mut chunks = Chunks::new();
    let room = &Room::default();
    let verified = futures::stream::iter(0..cycle.seals.len())
        .map(|index| async move {
            let aborted = |_| Error::Aborted {
                what: "the verification",
                replica: store.id.clone(),
            };
            let logs = verification(store, cycle, index, room)
                .await
                .map_err(aborted)??;
            Ok((cycle.seals[index].seal.sequence, logs))
        })
        .buffered(SEALS);
    let logs = verified.map_ok(|(sequence, logs)| match logs {
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

fn verification(
    store: &Store,
    cycle: &Arc<Cycle>,
    index: usize,
    room: &Room,
) -> AbortOnDropHandle<Result<Logs, Error>> {
    let (store, cycle, room) = (store.clone(), cycle.clone(), room.clone());
    AbortOnDropHandle::new(tokio::spawn(async move {
        logs::verify(&store, &cycle.seals[index].seal, &room).await
    }))
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
        let joined = digest::join_chunks(parts).map_err(|OutOfOrder { log, why }| Error::Log {
            replica: store.id.clone(),
            log,
            why,
        })?;
        if joined.is_empty() {
            continue;
        }
        let size = manifest.disks[&id].size;
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
    let mut metadata = metadata_of(store, id);
    metadata.insert(META_SEQUENCE.to_owned(), sequence.to_string());
    metadata.insert(
        META_GENERATION.to_owned(),
        manifest.writer.generation.to_string(),
    );
    metadata
}
