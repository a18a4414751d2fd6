//! Ships logs: a few at a time into the inbox, sealed in order.
//!
//! ```text
//! pieces ─► [group: up to 4 logs] ── each: pack ─ throttle ─ Put Blob ──┐
//!           [next group]          ── … already under way                ├─► seal, in order
//! ```
//! Memory: logs in flight are counted before they are read into, so a slow link holds the reader, not the memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::blob::names::BlobRef;
use crate::blob::parameters::PutOptions;
use crate::blob::{Container, Kind as BlobKind};
use crate::engine::Error;
use crate::engine::filling::LONGEST;
use crate::engine::ledger::{Ledger, Store};
use crate::engine::pack::{self, RawLog};
use crate::engine::progress::Progress;
use crate::engine::throttle::Throttle;
use crate::ids::DiskId;
use crate::replica::Digest;
use crate::replica::names;
use crate::replica::seal::{Barrier, DiskCursor, KEPT_MAX, Kind, SealedDisk, SealedLog};
use crate::units::{Sequence, to_u64};

/// Logs of one seal. With logs of about 4 MiB a seal costs a sixteenth of a request per mebibyte.
const GROUP: usize = 4;
/// A seal that has so many bytes takes no further log: the data path would have to read it twice.
const GROUP_FULL: u64 = KEPT_MAX - LONGEST;
/// Logs that are being packed or sent: each holds one buffer of about 4 MiB, while it is compressed two.
const IN_FLIGHT: usize = 5;
/// Groups that wait for their seal.
const GROUPS: usize = 2;

/// What is shipped.
#[derive(Debug)]
pub enum Piece {
    /// A log, and the permit that it was read under.
    Log(RawLog, OwnedSemaphorePermit),
    /// Nothing to send up to here; it is sealed, so that it is not looked at again.
    Passed(EndDisk),
    /// All logs have been given: how the disks stand, and the barrier that they stand at.
    End(Vec<EndDisk>, Option<Barrier>),
}

/// How a disk stands after a seal.
#[derive(Clone, Debug)]
pub struct EndDisk {
    pub disk: DiskId,
    pub size: u64,
    pub kind: Kind,
    pub cursor: DiskCursor,
}

/// What shipping needs beside the logs.
#[derive(Clone)]
pub struct Means {
    pub throttle: Arc<Throttle>,
    pub compress: bool,
    pub stop: CancellationToken,
}

/// Nobody takes pieces any more: shipping has ended.
#[derive(Debug)]
pub struct Closed;

/// Where those who read put their pieces, on threads that may block.
pub struct Outlet {
    pieces: mpsc::Sender<Piece>,
    /// Logs in flight. A log that was read waits here for its turn, so that a slow link holds the reader.
    permits: Arc<Semaphore>,
    runtime: Handle,
}

impl Outlet {
    /// An outlet, and what [`ship`] takes. Called on the runtime.
    pub fn new() -> (Self, mpsc::Receiver<Piece>) {
        let (pieces, shipped) = mpsc::channel(1);
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        (
            Outlet {
                pieces,
                permits,
                runtime: Handle::current(),
            },
            shipped,
        )
    }

    /// Gives a log, once there is room for it.
    ///
    /// # Errors
    /// If nobody takes it.
    pub fn log(&self, log: RawLog, progress: &Progress) -> Result<(), Closed> {
        let began = Instant::now();
        let permit = self
            .runtime
            .block_on(self.permits.clone().acquire_owned())
            .map_err(|_| Closed)?;
        let given = self.give(Piece::Log(log, permit));
        progress.add_held(began.elapsed());
        given
    }

    /// Gives a piece that is no log.
    ///
    /// # Errors
    /// If nobody takes it.
    pub fn give(&self, piece: Piece) -> Result<(), Closed> {
        self.pieces.blocking_send(piece).map_err(|_| Closed)
    }
}

/// Ships `pieces` until the end among them is sealed. After every seal before the end `note` learns it, and up to where
/// it brought each disk.
///
/// # Errors
/// The first thing that failed; what was sealed before stays sealed.
pub async fn ship(
    ledger: &mut Ledger,
    means: &Means,
    progress: &BTreeMap<DiskId, Arc<Progress>>,
    mut pieces: mpsc::Receiver<Piece>,
    mut note: impl FnMut(Digest, BTreeMap<DiskId, u64>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (send, mut groups) = mpsc::channel::<Group>(GROUPS);
    let (store, first) = (ledger.store().clone(), ledger.next());
    let dispatch = async {
        let mut group = Group::new(first);
        while let Some(piece) = pieces.recv().await {
            let closed = group.add(piece, &store, means, progress);
            if closed {
                let next = Group::new(group.sequence.next());
                let full = std::mem::replace(&mut group, next);
                if send.send(full).await.is_err() {
                    break;
                }
            }
        }
        drop(send);
        Ok(())
    };
    let seal = async {
        while let Some(group) = groups.recv().await {
            let (last, positions) = (group.end, group.positions.clone());
            group.seal(ledger).await?;
            if last {
                return Ok(());
            }
            if let Some(seal) = ledger.last_seal() {
                note(seal, positions)?;
            }
        }
        Err(Error::Broken {
            doing: "read what it ships",
        })
    };
    tokio::select! {
        // A failed seal ends everything; dispatching alone never ends it early.
        result = async { futures::future::try_join(dispatch, seal).await.map(drop) } => result,
        () = means.stop.cancelled() => Err(Error::Stopped),
    }
}

/// Logs that are sealed together.
struct Group {
    sequence: Sequence,
    logs: Vec<Uploading>,
    /// Bytes of the logs as captured.
    length: u64,
    /// Where the last log of each disk ends, in bytes of the disk.
    positions: BTreeMap<DiskId, u64>,
    /// How the disks stand that the group names, whether it has logs of them or not.
    disks: BTreeMap<DiskId, EndDisk>,
    barrier: Option<Barrier>,
    end: bool,
}

struct Uploading {
    disk: DiskId,
    task: AbortOnDropHandle<Result<SealedLog, Error>>,
}

impl Group {
    fn new(sequence: Sequence) -> Self {
        Group {
            sequence,
            logs: Vec::new(),
            length: 0,
            positions: BTreeMap::new(),
            disks: BTreeMap::new(),
            barrier: None,
            end: false,
        }
    }

    /// Takes a piece in: whether the group is complete.
    fn add(
        &mut self,
        piece: Piece,
        store: &Store,
        means: &Means,
        progress: &BTreeMap<DiskId, Arc<Progress>>,
    ) -> bool {
        match piece {
            Piece::Log(raw, permit) => {
                let RawLog {
                    disk,
                    size,
                    kind,
                    cursor,
                    ..
                } = &raw;
                let stand = EndDisk {
                    disk: disk.clone(),
                    size: *size,
                    kind: *kind,
                    cursor: cursor.clone(),
                };
                self.disks.insert(disk.clone(), stand);
                self.length += to_u64(raw.bytes.as_ref().len());
                self.positions.insert(disk.clone(), raw.range.end());
                let counted = progress.get(disk).cloned().unwrap_or_default();
                let disk = disk.clone();
                let upload = upload(
                    store.inbox.clone(),
                    self.sequence,
                    raw,
                    means.clone(),
                    counted,
                    permit,
                );
                let store = store.clone();
                let task =
                    tokio::spawn(async move { upload.await.map_err(|error| error.of(&store)) });
                self.logs.push(Uploading {
                    disk,
                    task: AbortOnDropHandle::new(task),
                });
                self.logs.len() == GROUP || self.length > GROUP_FULL
            }
            Piece::Passed(stand) => {
                self.disks.insert(stand.disk.clone(), stand);
                true
            }
            Piece::End(stands, barrier) => {
                self.disks
                    .extend(stands.into_iter().map(|stand| (stand.disk.clone(), stand)));
                self.barrier = barrier;
                self.end = true;
                true
            }
        }
    }

    /// Waits for the logs, then seals.
    async fn seal(self, ledger: &mut Ledger) -> Result<(), Error> {
        let mut logs: BTreeMap<DiskId, Vec<SealedLog>> = BTreeMap::new();
        for uploading in self.logs {
            let sealed = uploading.task.await.map_err(|_| Error::Broken {
                doing: "sent a log",
            })??;
            logs.entry(uploading.disk).or_default().push(sealed);
        }
        let disks = self.disks.into_values().map(|stand| SealedDisk {
            logs: logs.remove(&stand.disk).unwrap_or_default(),
            disk: stand.disk,
            size: stand.size,
            kind: stand.kind,
            cursor: stand.cursor,
        });
        ledger.seal(disks.collect(), self.barrier).await
    }
}

/// A failed upload, before it is known of which replica.
enum Failed {
    Packing,
    Storage(crate::blob::Error),
    Stopped,
}

impl Failed {
    fn of(self, store: &Store) -> Error {
        match self {
            Failed::Packing => Error::Broken {
                doing: "packed a log",
            },
            Failed::Storage(error) => store.storage("write a log")(error),
            Failed::Stopped => Error::Stopped,
        }
    }
}

async fn upload(
    inbox: Arc<dyn Container>,
    sequence: Sequence,
    raw: RawLog,
    means: Means,
    progress: Arc<Progress>,
    permit: OwnedSemaphorePermit,
) -> Result<SealedLog, Failed> {
    let compress = means.compress;
    let RawLog {
        log, range, bytes, ..
    } = raw;
    let packed = tokio::task::spawn_blocking(move || pack::pack(log, range, bytes, compress));
    let packed = packed.await.map_err(|_| Failed::Packing)?;
    let length = to_u64(packed.body.len());
    progress.add_capped(means.throttle.take(length, &means.stop).await);
    if means.stop.is_cancelled() {
        return Err(Failed::Stopped);
    }
    let name = names::log(sequence, &packed.sealed.log);
    let began = Instant::now();
    let put = inbox.put(&name, packed.body, &PutOptions::create()).await;
    progress.add_sending(began.elapsed());
    match put {
        Ok(_) => {}
        // Nobody else draws this name: what stands there is an earlier attempt of this very request.
        Err(error)
            if error.repeated
                && matches!(
                    error.kind,
                    BlobKind::AlreadyExists | BlobKind::SignatureRefused
                ) =>
        {
            let there = inbox
                .properties(&BlobRef::head(&name))
                .await
                .map_err(Failed::Storage)?;
            if there.length != length {
                return Err(Failed::Storage(error));
            }
        }
        Err(error) => {
            if error.kind == BlobKind::Busy {
                progress.add_slowed();
            }
            return Err(Failed::Storage(error));
        }
    }
    progress.add_sent(length);
    drop(permit);
    Ok(packed.sealed)
}
