//! The phase Copying: what a frozen point holds is sent, disk by disk, where it differs from what was applied.
//!
//! It compares with what was applied, never with what was merely sent, so it begins once all that was sealed is applied:
//! no point is frozen before, and none is held for long. And it compares with a chunk table that was read to its end.
//! The data path keeps parts of a delta until their barrier is sealed. If it never will be, because the agent died between
//! the parts and then tracking was lost, a seal without logs says that a copy begins, and that is as good as a barrier:
//!
//! ```text
//! delta 1 · delta 2 · copy begins, all disks at 0 ── all applied ──► compare · copy … copied · delta … with barrier
//! └─ waited for ────┘ └─ the disks are Copying from here on
//! ```
//! Died before that seal: it is sealed by the next life. Died after it: its position says that nothing was compared yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt, TryStreamExt};
use tokio::time::Instant;

use crate::blob::names::BlobRef;
use crate::engine::answers::Question;
use crate::engine::copy::Copy;
use crate::engine::copy::scan::{Parts, Scan};
use crate::engine::ledger::{Ledger, Store};
use crate::engine::phase::{Cursors, Event};
use crate::engine::progress::Progress;
use crate::engine::source::ask;
use crate::engine::{Engine, Error};
use crate::host::{FrozenDisk, Kind};
use crate::ids::{DiskId, DiskSlot, FrozenPointId};
use crate::replica::manifest::Manifest;
use crate::replica::seal::{self, DiskCursor, SealedDisk};
use crate::replica::table::{Run, parts};
use crate::units::{ByteRange, KIB};

/// How often the data path is asked whether it is done.
const LOOK: Duration = Duration::from_secs(1);
/// How long a point is held for the data path to apply what was sealed before: as long as it may look away.
const HOLD: Duration = Duration::from_secs(600);
/// How often it is looked meanwhile whether what was sealed is still there: lost, it is never applied.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Bytes of a chunk table that are read at a time.
const TABLE_PIECE: u64 = 256 * KIB;
/// Parts of a chunk table that are checked at the same time.
const TABLE_READS: usize = 4;

impl Engine {
    /// Waits until a copy that begins would not have to wait itself. Nothing is frozen meanwhile, however long the data
    /// path is away. What only the beginning of the copy makes applicable is not waited for.
    pub(super) async fn wait_to_copy(&self) -> Result<(), Error> {
        loop {
            let ledger = self.ledger().await?;
            if ledger.is_applied() || ledger.is_unfinished() {
                return Ok(());
            }
            self.abandon_all().await?;
            tokio::select! {
                waited = self.wait_until_applied(&ledger) => waited?,
                () = self.finish.cancelled() => return Err(Error::Stopped),
            }
        }
    }

    /// Copies the disks that are not `kept`, one by one.
    pub(super) async fn copy(&self, point: &FrozenPointId, kept: &Cursors) -> Result<Event, Error> {
        loop {
            let error = match self.compare_and_copy(point, kept).await {
                Ok(event) => return Ok(event),
                Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                    return Ok(Event::PointLost);
                }
                Err(error) => error,
            };
            if !self.is_of_folded_table(&error).await? {
                return Err(error);
            }
        }
    }

    async fn compare_and_copy(
        &self,
        point: &FrozenPointId,
        kept: &Cursors,
    ) -> Result<Event, Error> {
        let mut ledger = self.ledger().await?;
        if !self.is_begun(&ledger, point) {
            if ledger.is_unfinished() {
                self.seal_beginning(&mut ledger, point, kept).await?;
            }
            let patience = Instant::now() + HOLD;
            while !ledger.is_applied() {
                let waiting = self.wait_until_applied(&ledger);
                let Ok(waited) = tokio::time::timeout_at(patience, waiting).await else {
                    tracing::warn!(replica = %self.store.id, %point, "holds no point for a data path that is away");
                    self.abandon_all().await?;
                    return Ok(Event::PointLost);
                };
                waited?;
                ledger = self.ledger().await?;
            }
        }
        let positions = self.positions(&ledger, point, kept);
        self.copy_disks(&mut ledger, point, positions).await?;
        Ok(Event::Copied)
    }

    /// Whether a part of a chunk table was not found because the data path has folded it into another meanwhile. What was
    /// sealed stays then, and the rest is compared with that.
    async fn is_of_folded_table(&self, error: &Error) -> Result<bool, Error> {
        let Error::Table {
            source: parts::Error::Missing { blob },
            ..
        } = error
        else {
            return Ok(false);
        };
        Ok(!self.store.manifest().await?.names_part(blob))
    }

    /// Waits until the data path has applied what `ledger` knows, or begun a new chain, or it is time to read the ledger
    /// again. The manifest alone says so: the inbox is as long as the backlog.
    async fn wait_until_applied(&self, ledger: &Ledger) -> Result<(), Error> {
        let again = Instant::now() + LOOK_AGAIN;
        while Instant::now() < again {
            self.pause(LOOK).await?;
            let now = self.store.manifest().await?;
            let applied = now.last_applied.seal == ledger.last_seal();
            let passed = now.last_applied.sequence.next() >= ledger.next();
            if applied || passed || now.chain != ledger.manifest().chain {
                break;
            }
        }
        Ok(())
    }

    /// From where each disk is to be copied; nothing for one that is done.
    fn positions(
        &self,
        ledger: &Ledger,
        point: &FrozenPointId,
        kept: &Cursors,
    ) -> BTreeMap<DiskId, Option<u64>> {
        let position = |id| match ledger.cursors().get(id) {
            Some(DiskCursor::Copied { point: copied }) if copied == point => None,
            Some(DiskCursor::Copying {
                point: begun,
                position,
            }) if begun == point => Some(*position),
            Some(_) | None => Some(0),
        };
        let copied = self.options.disks.keys();
        copied
            .filter(|id| !kept.contains_key(*id))
            .map(|id| (id.clone(), position(id)))
            .collect()
    }

    /// Measures all disks, so that progress is of the whole, and copies them one by one.
    async fn copy_disks(
        &self,
        ledger: &mut Ledger,
        point: &FrozenPointId,
        positions: BTreeMap<DiskId, Option<u64>>,
    ) -> Result<(), Error> {
        for (id, position) in &positions {
            let disk = self.open(point, &self.options.disks[id]).await?;
            let position = position.unwrap_or(disk.size());
            let of = id.clone();
            let measured =
                tokio::task::spawn_blocking(move || allocated(of, disk.as_ref(), position));
            let (total, done) = measured.await.map_err(|_| Error::Broken {
                doing: "measured a disk",
            })??;
            self.progress_of(id).begin(total, done);
        }
        for (id, position) in positions {
            if let Some(position) = position {
                self.copy_disk(ledger, point, &id, position).await?;
            }
        }
        Ok(())
    }

    async fn open(
        &self,
        point: &FrozenPointId,
        slot: &DiskSlot,
    ) -> Result<Box<dyn FrozenDisk>, Error> {
        let (vm, of, at) = (self.options.vm.clone(), point.clone(), slot.clone());
        ask(&self.hypervisor, move |hypervisor| {
            hypervisor.open(&vm, &of, &at)
        })
        .await
    }

    pub(super) fn progress_of(&self, id: &DiskId) -> Arc<Progress> {
        self.progress.get(id).cloned().unwrap_or_default()
    }

    /// Seals that a copy of `point` begins, whatever the parts of a delta before it lack.
    async fn seal_beginning(
        &self,
        ledger: &mut Ledger,
        point: &FrozenPointId,
        kept: &Cursors,
    ) -> Result<(), Error> {
        let mut disks = Vec::new();
        let copied = self.options.disks.iter();
        for (id, slot) in copied.filter(|(id, _)| !kept.contains_key(*id)) {
            disks.push(SealedDisk {
                disk: id.clone(),
                size: self.open(point, slot).await?.size(),
                kind: seal::Kind::Copy,
                logs: Vec::new(),
                cursor: DiskCursor::Copying {
                    point: point.clone(),
                    position: 0,
                },
            });
        }
        tracing::info!(replica = %self.store.id, "gives up a delta that was not finished");
        ledger.seal(disks, None).await
    }

    /// Whether something of this point was compared and sealed, so that the table was complete when it began.
    fn is_begun(&self, ledger: &Ledger, point: &FrozenPointId) -> bool {
        ledger.cursors().values().any(|cursor| match cursor {
            DiskCursor::Copying {
                point: begun,
                position,
            } => begun == point && *position > 0,
            DiskCursor::Copied { point: begun } => begun == point,
            DiskCursor::Tracking { .. } => false,
        })
    }

    async fn copy_disk(
        &self,
        ledger: &mut Ledger,
        point: &FrozenPointId,
        id: &DiskId,
        position: u64,
    ) -> Result<(), Error> {
        let disk = self.open(point, &self.options.disks[id]).await?;
        let progress = self.progress_of(id);
        let size = disk.size();
        self.check_table(self.table(ledger.manifest(), id, size))
            .await?;
        let parts = self.table(ledger.manifest(), id, size);
        let copy = Copy {
            disk: id.clone(),
            size,
            point: point.clone(),
            scan: Scan::new(id.clone(), disk, position, parts),
            progress,
            now: self.clock.now(),
        };
        self.ship_pieces(ledger, |_, _| Ok(()), move |outlet| copy.run(outlet))
            .await
    }

    /// Reads a chunk table to its end before anything is compared with it. What a damaged one makes a copy pass over would
    /// be sealed as passed, and stay so when the table is restored.
    async fn check_table(&self, parts: Parts) -> Result<(), Error> {
        let read = |part: BoxStream<'static, Result<Run, Error>>| {
            part.try_for_each(|_| futures::future::ready(Ok(())))
                .boxed()
        };
        let checks: Vec<_> = parts.into_iter().map(read).collect();
        let checked = futures::stream::iter(checks).buffer_unordered(TABLE_READS);
        tokio::select! {
            checked = checked.try_collect() => checked,
            () = self.stop.cancelled() => Err(Error::Stopped),
        }
    }

    /// The chunk table of a disk, the newest part first.
    fn table(&self, manifest: &Manifest, id: &DiskId, size: u64) -> Parts {
        let Some(disk) = manifest.disks.get(id) else {
            return Vec::new();
        };
        let streams = disk.tables.iter().rev().map(|part| {
            let (store, blob) = (self.store.clone(), BlobRef::head(&part.blob));
            let fetch = move |range: ByteRange| {
                let (store, blob) = (store.clone(), blob.clone());
                async move {
                    match store.replica.get(&blob, Some(range), TABLE_PIECE).await {
                        Ok(got) => Ok(got.bytes),
                        Err(error) if error.is_not_found() => {
                            let blob = blob.name;
                            Err(TableError::Table(parts::Error::Missing { blob }))
                        }
                        Err(error) => Err(TableError::Storage(Box::new(error))),
                    }
                }
            };
            let store = self.store.clone();
            let runs = parts::runs::<_, _, TableError>(
                part.clone(),
                size.max(disk.size),
                TABLE_PIECE,
                fetch,
            );
            runs.map(move |run| run.map_err(|error| error.of(&store)))
                .boxed()
        });
        streams.collect()
    }
}

/// What the stream of a chunk table can fail with, before it is known of which replica.
enum TableError {
    Storage(Box<crate::blob::Error>),
    Table(parts::Error),
}

impl From<parts::Error> for TableError {
    fn from(error: parts::Error) -> Self {
        TableError::Table(error)
    }
}

impl TableError {
    fn of(self, store: &Store) -> Error {
        match self {
            TableError::Storage(error) => store.storage("read a chunk table")(*error),
            TableError::Table(source) => Error::Table {
                replica: store.id.clone(),
                source,
            },
        }
    }
}

/// Allocated bytes of a disk in all, and before `position`.
fn allocated(id: DiskId, disk: &dyn FrozenDisk, position: u64) -> Result<(u64, u64), Error> {
    let question = Question::allocated(id, disk);
    let (mut total, mut done, mut looked) = (0, 0, 0);
    while looked < disk.size() {
        let found = question.ask(looked, |window| disk.allocated(window))?;
        for range in found.ranges {
            total += range.len();
            done += ByteRange::to(position).intersect(range).len();
        }
        looked = found.covered;
    }
    Ok((total, done))
}
