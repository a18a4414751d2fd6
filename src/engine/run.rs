//! Performs the phases of one VM, one after another, and tells how it goes.
//!
//! A failure ends the phase; after the wait that it deserves the engine resumes from what storage and hypervisor say.
//! Whoever stops an engine drops it or cancels its token: nothing has to be put away, for nothing is only here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::blob::names::BlobRef;
use crate::durable;
use crate::engine::Error;
use crate::engine::capture::record::Record;
use crate::engine::capture::replay::Replay;
use crate::engine::capture::{self, Capture};
use crate::engine::copy::Copy;
use crate::engine::copy::scan::{Parts, Scan};
use crate::engine::ledger::{Ledger, Store};
use crate::engine::phase::{Cursors, Event, Phase};
use crate::engine::progress::Progress;
use crate::engine::resume::{self, Found};
use crate::engine::ship::{self, Means, Outlet};
use crate::engine::source::ask;
use crate::engine::throttle::Throttle;
use crate::host::{self, Consistency, FrozenPoint, Hypervisor, Kind};
use crate::ids::{DiskId, DiskSlot, FrozenPointId, VmId};
use crate::replica::manifest::Manifest;
use crate::replica::seal::{self, Barrier, DiskCursor, Writer};
use crate::replica::table::parts;
use crate::retry::{Attempts, Class, Trouble, class};
use crate::units::{ByteRange, Clock, KIB, Sequence};

/// How often a merge, or the data path, is asked whether it is done.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of a chunk table that are read at a time.
const TABLE_PIECE: u64 = 256 * KIB;

/// What an engine works on.
#[derive(Clone)]
pub struct Options {
    pub writer: Writer,
    pub vm: VmId,
    pub disks: BTreeMap<DiskId, DiskSlot>,
    pub compress: bool,
    /// Where the record of a capture is kept.
    pub folder: PathBuf,
}

/// How an engine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub phase: Phase,
    /// The last sequence that was sealed or found sealed.
    pub sealed: Sequence,
    pub trouble: Option<Trouble>,
}

/// The replication of one VM.
pub struct Engine {
    pub hypervisor: Arc<dyn Hypervisor>,
    pub store: Store,
    pub options: Options,
    pub throttle: Arc<Throttle>,
    pub clock: Arc<dyn Clock>,
    pub progress: BTreeMap<DiskId, Arc<Progress>>,
    pub publish: watch::Sender<Observation>,
    /// Forgets a failure and tries at once.
    pub retry: Arc<Notify>,
    pub stop: CancellationToken,
}

impl Engine {
    /// How an engine stands that has not begun.
    pub fn initial() -> Observation {
        Observation {
            phase: Phase::Created,
            sealed: Sequence::ZERO,
            trouble: None,
        }
    }

    /// Replicates until it is stopped.
    pub async fn run(self) {
        let mut attempts = Attempts::default();
        let mut phase = Phase::Resuming;
        while !self.stop.is_cancelled() {
            self.report(&phase, None);
            let started = self.clock.now();
            match self.perform(&phase).await {
                Ok(next) => {
                    if !matches!(next, Phase::Resuming) {
                        attempts.reset();
                    }
                    phase = next;
                }
                Err(Error::Stopped) => return,
                Err(error) => {
                    let (trouble, wait) = attempts.failed(error.fault(), started);
                    tracing::warn!(replica = %self.store.id, fault = %trouble.fault, ?phase, "cannot go on");
                    self.report(&phase, Some(trouble));
                    self.wait(started, wait, &mut attempts).await;
                    phase = Phase::Resuming;
                }
            }
        }
    }

    /// The phase after this one.
    async fn perform(&self, phase: &Phase) -> Result<Phase, Error> {
        let event = match phase {
            Phase::Created => Event::Start,
            Phase::Resuming => Event::Resumed(self.resume().await?),
            Phase::FreezingCopy => Event::Frozen(self.freeze(Consistency::Crash).await?.id),
            Phase::Copying { point } => self.copy(point).await?,
            Phase::Releasing { point } => self.release(point).await?,
            Phase::FreezingDelta { .. } => Event::Frozen(self.freeze(Consistency::Crash).await?.id),
            Phase::Capturing { point, since } => self.capture(point, since).await?,
            Phase::Shipping { .. } => self.ship().await?,
            Phase::Replicating { .. } => {
                self.stop.cancelled().await;
                return Err(Error::Stopped);
            }
        };
        Ok(phase.on(event)?)
    }

    async fn resume(&self) -> Result<Phase, Error> {
        self.store.check_fence(&self.options.writer).await?;
        let ledger = self.ledger().await?;
        let vm = self.options.vm.clone();
        let points = ask(&self.hypervisor, move |hypervisor| hypervisor.points(&vm)).await?;
        let record = self
            .record()?
            .filter(|record| record.after == ledger.last_seal() && ledger.last_seal().is_some());
        self.sweep(record.as_ref()).await?;
        let found = Found {
            disks: &self.options.disks,
            cursors: ledger.cursors(),
            points: &points,
            capture: record.map(|record| record.since),
        };
        let phase = resume::resume(&found);
        if let Phase::FreezingCopy = phase {
            self.abandon(points).await?;
        }
        tracing::info!(replica = %self.store.id, ?phase, "resumes");
        Ok(phase)
    }

    /// Removes captured logs that no record of use names.
    async fn sweep(&self, record: Option<&Record>) -> Result<(), Error> {
        let kept: Vec<PathBuf> = record
            .iter()
            .flat_map(|record| &record.disks)
            .map(|disk| disk.path.clone())
            .collect();
        if record.is_none() {
            durable::remove(&self.record_path())?;
        }
        let (vm, disks) = (self.options.vm.clone(), self.options.disks.clone());
        let machine = ask(&self.hypervisor, move |hypervisor| hypervisor.machine(&vm)).await?;
        let swept =
            tokio::task::spawn_blocking(move || capture::sweep(&machine, &disks, &kept)).await;
        swept.map_err(|_| Error::Broken {
            doing: "swept old logs",
        })?
    }

    async fn abandon(&self, points: Vec<FrozenPoint>) -> Result<(), Error> {
        for point in points {
            let vm = self.options.vm.clone();
            ask(&self.hypervisor, move |hypervisor| {
                hypervisor.abandon(&vm, &point.id)
            })
            .await?;
        }
        Ok(())
    }

    async fn freeze(&self, wanted: Consistency) -> Result<FrozenPoint, Error> {
        self.wait_until_free().await?;
        let (vm, slots) = (self.options.vm.clone(), self.slots());
        let frozen = ask(&self.hypervisor, move |hypervisor| {
            hypervisor.start_tracking(&vm, &slots)?;
            hypervisor.freeze(&vm, &slots, wanted)
        });
        let point = frozen.await?;
        tracing::info!(replica = %self.store.id, point = %point.id, consistency = ?point.consistency, "frozen");
        Ok(point)
    }

    /// Copies the disks one by one.
    async fn copy(&self, point: &FrozenPointId) -> Result<Event, Error> {
        let mut ledger = self.ledger().await?;
        if !self.is_begun(&ledger, point) {
            // The copy compares with what was applied, never with what was merely sent.
            while !ledger.is_applied() {
                self.pause(LOOK).await?;
                ledger = self.ledger().await?;
            }
        }
        for (id, slot) in &self.options.disks {
            let position = match ledger.cursors().get(id) {
                Some(DiskCursor::Copied { point: copied }) if copied == point => continue,
                Some(DiskCursor::Copying {
                    point: begun,
                    position,
                }) if begun == point => *position,
                Some(_) | None => 0,
            };
            match self
                .copy_disk(&mut ledger, point, (id, slot), position)
                .await
            {
                Ok(()) => {}
                Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                    return Ok(Event::PointLost);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Event::Copied)
    }

    /// Whether something of this point was sealed, so that the table was complete when it began.
    fn is_begun(&self, ledger: &Ledger, point: &FrozenPointId) -> bool {
        ledger.cursors().values().any(|cursor| match cursor {
            DiskCursor::Copying { point: begun, .. } | DiskCursor::Copied { point: begun } => {
                begun == point
            }
            DiskCursor::Tracking { .. } => false,
        })
    }

    async fn copy_disk(
        &self,
        ledger: &mut Ledger,
        point: &FrozenPointId,
        (id, slot): (&DiskId, &DiskSlot),
        position: u64,
    ) -> Result<(), Error> {
        let (vm, of, at) = (self.options.vm.clone(), point.clone(), slot.clone());
        let progress = self.progress.get(id).cloned().unwrap_or_default();
        let opened = ask(&self.hypervisor, move |hypervisor| {
            let disk = hypervisor.open(&vm, &of, &at)?;
            let (total, done) = allocated(disk.as_ref(), position)?;
            Ok((disk, total, done))
        });
        let (disk, total, done) = opened.await?;
        progress.begin(total, done);
        let size = disk.size();
        let parts = self.table(ledger.manifest(), id, size);
        let copy = Copy {
            disk: id.clone(),
            size,
            point: point.clone(),
            scan: Scan::new(disk, position, parts),
            progress,
            now: self.clock.now(),
        };
        self.ship_pieces(ledger, move |outlet| copy.run(outlet))
            .await
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
                    let got = store.replica.get(&blob, Some(range), TABLE_PIECE).await;
                    Ok(got
                        .map_err(|error| TableError::Storage(Box::new(error)))?
                        .bytes)
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

    /// Makes the point what changes are counted from, and waits until it is merged away.
    async fn release(&self, point: &FrozenPointId) -> Result<Event, Error> {
        let cursors = match self.commit(point).await {
            Ok(cursors) => cursors,
            Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                return Ok(Event::PointLost);
            }
            Err(error) => return Err(error),
        };
        self.wait_until_free().await?;
        Ok(Event::Released(cursors))
    }

    async fn capture(&self, point: &FrozenPointId, since: &Cursors) -> Result<Event, Error> {
        let vm = self.options.vm.clone();
        let points = ask(&self.hypervisor, move |hypervisor| hypervisor.points(&vm)).await?;
        let Some(frozen) = points.into_iter().find(|known| known.id == *point) else {
            return Ok(Event::PointLost);
        };
        let ledger = self.ledger().await?;
        let (vm, disks, since) = (
            self.options.vm.clone(),
            self.options.disks.clone(),
            since.clone(),
        );
        let (progress, hypervisor, now) = (
            self.progress.clone(),
            self.hypervisor.clone(),
            self.clock.now(),
        );
        let barrier = Barrier {
            time: frozen.taken_at,
            consistency: consistency(frozen.consistency),
        };
        let of = since.clone();
        let captured = tokio::task::spawn_blocking(move || {
            let capture = Capture {
                vm: &vm,
                point: &frozen,
                disks: &disks,
                since: &of,
                progress: &progress,
                now,
            };
            capture.run(hypervisor.as_ref())
        });
        let captured = captured.await.map_err(|_| Error::Broken {
            doing: "captured changes",
        })?;
        let disks = match captured {
            Ok(disks) => disks,
            Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                return Ok(Event::PointLost);
            }
            Err(error) if class(error.code()) == Class::ResyncRequired => {
                return Ok(Event::TrackingLost);
            }
            Err(error) => return Err(error),
        };
        let record = Record {
            after: ledger.last_seal(),
            point: point.clone(),
            since,
            barrier,
            disks,
        };
        durable::write_record(&self.record_path(), &record)?;
        Ok(Event::Captured)
    }

    async fn ship(&self) -> Result<Event, Error> {
        let Some(record) = self.record()? else {
            return Ok(Event::CaptureLost);
        };
        let cursors = match self.commit(&record.point).await {
            Ok(cursors) => cursors,
            Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                return Ok(Event::CaptureLost);
            }
            Err(error) => return Err(error),
        };
        let mut ledger = self.ledger().await?;
        let paths: Vec<PathBuf> = record.disks.iter().map(|disk| disk.path.clone()).collect();
        let replay = Replay {
            record,
            standing: ledger.cursors().clone(),
            cursors: cursors.clone(),
            progress: self.progress.clone(),
            now: self.clock.now(),
        };
        match self
            .ship_pieces(&mut ledger, move |outlet| replay.run(outlet))
            .await
        {
            Ok(()) => {}
            Err(error @ Error::Capture { .. }) => {
                tracing::warn!(error = crate::report::chain(&error), "captures again");
                return Ok(Event::CaptureLost);
            }
            Err(error) => return Err(error),
        }
        // The new cursors are sealed: what only older ones need may go, and the logs with it.
        let (vm, keep) = (
            self.options.vm.clone(),
            cursors.values().cloned().collect::<Vec<_>>(),
        );
        ask(&self.hypervisor, move |hypervisor| {
            hypervisor.forget(&vm, &keep)
        })
        .await?;
        durable::remove(&self.record_path())?;
        paths.iter().try_for_each(|path| durable::remove(path))?;
        Ok(Event::Shipped(cursors))
    }

    /// Ships what `read` hands out, until both are done.
    async fn ship_pieces(
        &self,
        ledger: &mut Ledger,
        read: impl FnOnce(&Outlet) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (outlet, pieces) = Outlet::new();
        let reader = tokio::task::spawn_blocking(move || read(&outlet));
        let means = Means {
            throttle: self.throttle.clone(),
            compress: self.options.compress,
            stop: self.stop.clone(),
        };
        let shipped = ship::ship(ledger, &means, &self.progress, pieces).await;
        let read = reader.await.map_err(|_| Error::Broken {
            doing: "read a disk",
        })?;
        // A reader that failed is why shipping found no end.
        read.and(shipped)?;
        self.report_sealed(ledger);
        Ok(())
    }

    async fn commit(&self, point: &FrozenPointId) -> Result<Cursors, Error> {
        let (vm, of) = (self.options.vm.clone(), point.clone());
        let committed = ask(&self.hypervisor, move |hypervisor| {
            hypervisor.commit(&vm, &of)
        })
        .await?;
        let by_slot: BTreeMap<DiskSlot, _> = committed.into_iter().collect();
        let cursor = |(id, slot): (&DiskId, &DiskSlot)| {
            let cursor = by_slot.get(slot).cloned().ok_or_else(|| {
                let why = "the released point has no cursor of it";
                host::Error::new(Kind::DiskSetChanged, "release the point", why)
                    .on(&self.options.vm)
                    .of_disk(slot)
            })?;
            Ok((id.clone(), cursor))
        };
        self.options.disks.iter().map(cursor).collect()
    }

    /// Waits until nothing keeps the machine from being frozen.
    async fn wait_until_free(&self) -> Result<(), Error> {
        loop {
            let vm = self.options.vm.clone();
            let machine = ask(&self.hypervisor, move |hypervisor| hypervisor.machine(&vm)).await?;
            if machine.busy.is_none() {
                return Ok(());
            }
            self.pause(LOOK).await?;
        }
    }

    async fn pause(&self, time: Duration) -> Result<(), Error> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.cancelled() => Err(Error::Stopped),
        }
    }

    /// Waits until `wait` after `started`, or until somebody asks for an attempt before.
    async fn wait(&self, started: Timestamp, wait: Duration, attempts: &mut Attempts) {
        let passed =
            Duration::try_from(self.clock.now().duration_since(started)).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(wait.saturating_sub(passed)) => {}
            () = self.retry.notified() => attempts.reset(),
            () = self.stop.cancelled() => {}
        }
    }

    async fn ledger(&self) -> Result<Ledger, Error> {
        let ledger = Ledger::read(self.store.clone(), self.options.writer.clone()).await?;
        self.report_sealed(&ledger);
        Ok(ledger)
    }

    fn slots(&self) -> Vec<DiskSlot> {
        self.options.disks.values().cloned().collect()
    }

    fn record_path(&self) -> PathBuf {
        self.options.folder.join("capture.json")
    }

    /// The record of a capture; one that cannot be read is none, for what it held is captured again.
    fn record(&self) -> Result<Option<Record>, Error> {
        match durable::read_record(&self.record_path()) {
            Ok(record) => Ok(record),
            Err(durable::Error::Damaged { .. } | durable::Error::Content { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn report(&self, phase: &Phase, trouble: Option<Trouble>) {
        self.publish.send_if_modified(|observation| {
            let changed = observation.phase != *phase || observation.trouble != trouble;
            observation.phase = phase.clone();
            observation.trouble = trouble;
            changed
        });
    }

    fn report_sealed(&self, ledger: &Ledger) {
        let sealed = Sequence::new(ledger.next().value() - 1);
        self.publish.send_if_modified(|observation| {
            let changed = observation.sealed != sealed;
            observation.sealed = sealed;
            changed
        });
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
fn allocated(disk: &dyn host::FrozenDisk, position: u64) -> host::Result<(u64, u64)> {
    let (mut total, mut done, mut looked) = (0, 0, 0);
    while looked < disk.size() {
        let window = ByteRange::new(looked, disk.size()).unwrap_or(ByteRange::to(0));
        let found = disk.allocated(window)?;
        for range in found.ranges {
            total += range.len();
            done += ByteRange::to(position).intersect(range).len();
        }
        looked = found.covered.max(looked + 1);
    }
    Ok((total, done))
}

fn consistency(of: Consistency) -> seal::Consistency {
    match of {
        Consistency::Crash => seal::Consistency::Crash,
        Consistency::Application => seal::Consistency::Application,
    }
}
