//! Performs the phases of one VM, one after another, and tells how it goes.
//!
//! A failure ends the phase; after the wait that it deserves the engine resumes from what storage and hypervisor say.
//! Whoever stops an engine drops it or cancels its token: nothing has to be put away, for nothing is only here. For the
//! same reason a panic is one more failure: it is told as such, and after a while the engine resumes.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::buffers;
use crate::engine::Error;
use crate::engine::cycles::{self, Grid};
use crate::engine::demand::{self, Demand};
use crate::engine::ledger::{Ledger, Store};
use crate::engine::phase::{Event, Phase};
use crate::engine::progress::Progress;
use crate::engine::resume::{self, Found};
use crate::engine::ship::{self, Means, Outlet};
use crate::engine::source::ask;
use crate::engine::throttle::Throttle;
use crate::host::Hypervisor;
use crate::ids::{DiskId, DiskSlot, VmId};
use crate::replica::Digest;
use crate::replica::seal::{self, Writer};
use crate::report::{Code, Fault};
use crate::retry::{Attempts, Trouble};
use crate::units::{Clock, Sequence};

/// How soon a point is tried to be released again that is not to be held.
const REST: Duration = Duration::from_secs(10);

/// What an engine works on.
#[derive(Clone)]
pub struct Options {
    pub writer: Writer,
    pub vm: VmId,
    pub disks: BTreeMap<DiskId, DiskSlot>,
    pub compress: bool,
    /// From one barrier to the next.
    pub interval: Duration,
    /// From one application-consistent point to the next; nothing for never.
    pub application_every: Option<Duration>,
    /// Whether a comparison that is demanded may run now.
    pub resynchronize: bool,
    /// Where the records of a capture and of a demanded comparison are kept.
    pub folder: PathBuf,
}

/// How an engine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub phase: Phase,
    /// The last sequence that was sealed or found sealed.
    pub sealed: Sequence,
    /// Up to when everything is sealed, by the host's clock.
    pub synchronized: Option<Timestamp>,
    pub cycles: cycles::Counted,
    /// The comparison that is demanded or runs.
    pub demand: Option<Demand>,
    /// Why the last point that should have been application-consistent is not.
    pub quiesce: Option<Fault>,
    pub trouble: Option<Trouble>,
}

/// What an engine keeps in mind from one phase to the next; all of it may be forgotten.
pub(super) struct Course {
    grid: Grid,
    /// The barrier that was taken last, and the one whose changes were sealed last.
    pub(super) frozen: Instant,
    sealed: Option<Instant>,
    /// Whether the last point or capture was lost before it had come to anything.
    lost: bool,
    /// Whether somebody asked for the barrier: it becomes a point even if nothing has changed.
    pub(super) asked: bool,
    /// When an application-consistent point was had last, and when it was tried.
    pub(super) application: Option<Timestamp>,
    pub(super) tried: Option<Timestamp>,
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
    /// Takes a barrier at once.
    pub synchronize: Arc<Notify>,
    /// Ends it once what is captured is sealed. A failure ends it as well: what is captured stays beside the disks.
    pub finish: CancellationToken,
    pub stop: CancellationToken,
}

impl Engine {
    /// How an engine stands that has not begun.
    pub fn initial() -> Observation {
        Observation {
            phase: Phase::Created,
            sealed: Sequence::ZERO,
            synchronized: None,
            cycles: cycles::Counted::default(),
            demand: None,
            quiesce: None,
            trouble: None,
        }
    }

    /// Replicates until it is stopped.
    pub async fn run(self) {
        let mut attempts = Attempts::default();
        loop {
            let replicating = AssertUnwindSafe(self.replicate(&mut attempts));
            if replicating.catch_unwind().await.is_ok() {
                return self.rest().await;
            }
            let phase = self.publish.borrow().phase.clone();
            let message = format!(
                "the engine of VM {} panicked in phase {phase:?}; the agent's log says where",
                self.options.vm
            );
            let now = self.clock.now();
            let (trouble, wait) = attempts.broke(Fault::new(Code::Internal, message), now);
            tracing::error!(replica = %self.store.id, fault = %trouble.fault, "broke");
            self.report(&phase, Some(trouble));
            self.wait(now, wait, &mut attempts).await;
        }
    }

    /// Holds no point over a pause: its differencing disks would grow as long as that lasts.
    async fn rest(&self) {
        while self.finish.is_cancelled() {
            let Err(error) = self.abandon_all().await else {
                return;
            };
            let error = crate::report::chain(&error);
            tracing::warn!(replica = %self.store.id, error, "a frozen point is held over a pause");
            if self.pause(REST).await.is_err() {
                return;
            }
        }
    }

    /// Performs phase after phase until it is stopped, or told to finish and nothing captured is left.
    async fn replicate(&self, attempts: &mut Attempts) {
        let mut phase = Phase::Resuming;
        let mut course = self.course();
        // Attempts count as long as nothing was sealed between two failures.
        let mut sealed = self.publish.borrow().sealed;
        while !self.stop.is_cancelled() {
            let captured = matches!(phase, Phase::Capturing { .. } | Phase::Shipping { .. });
            if self.finish.is_cancelled() && !captured {
                return;
            }
            self.report(&phase, None);
            let started = self.clock.now();
            match self.perform_unless_told(&phase, &mut course).await {
                Ok(next) => {
                    if matches!(next, Phase::Replicating { .. }) {
                        attempts.reset();
                    }
                    phase = next;
                }
                Err(Error::Stopped) => return,
                Err(error) => {
                    let before = std::mem::replace(&mut sealed, self.publish.borrow().sealed);
                    if sealed > before {
                        attempts.reset();
                    }
                    let (trouble, wait) = attempts.failed(error.fault(), started);
                    tracing::warn!(replica = %self.store.id, fault = %trouble.fault, ?phase, "cannot go on");
                    self.report(&phase, Some(trouble));
                    if self.finish.is_cancelled() {
                        return;
                    }
                    self.wait(started, wait, attempts).await;
                    phase = Phase::Resuming;
                }
            }
        }
    }

    /// The phase after this one; those that only wait, or can be taken up where they stand, end at once when the engine is
    /// told to finish.
    async fn perform_unless_told(
        &self,
        phase: &Phase,
        course: &mut Course,
    ) -> Result<Phase, Error> {
        match phase {
            Phase::Resuming
            | Phase::ResyncRequired { .. }
            | Phase::Copying { .. }
            | Phase::Replicating { .. } => tokio::select! {
                () = self.finish.cancelled() => Err(Error::Stopped),
                next = self.perform(phase, course) => next,
            },
            Phase::Created
            | Phase::FreezingCopy { .. }
            | Phase::Releasing { .. }
            | Phase::FreezingDelta { .. }
            | Phase::Capturing { .. }
            | Phase::Shipping { .. } => self.perform(phase, course).await,
        }
    }

    /// The phase after this one.
    async fn perform(&self, phase: &Phase, course: &mut Course) -> Result<Phase, Error> {
        let event = match phase {
            Phase::Created => Event::Start,
            Phase::Resuming => Event::Resumed(self.resume(course).await?),
            Phase::ResyncRequired { .. } => self.wait_for_leave().await?,
            Phase::FreezingCopy { .. } => self.freeze_to_copy().await?,
            Phase::Copying { point, kept } => self.copy(point, kept).await?,
            Phase::Releasing { point, kept } => self.release(point, kept).await?,
            Phase::FreezingDelta { .. } => self.freeze_barrier(course).await?,
            Phase::Capturing { point, since } => self.capture(point, since, course).await?,
            Phase::Shipping { .. } => self.ship(course).await?,
            Phase::Replicating { .. } => self.wait_until_due(course).await?,
        };
        self.bear(&event, course).await?;
        Ok(phase.on(event)?)
    }

    /// What is lost once is taken again at once. Lost again it has a cause, which a machine must not be frozen for over
    /// and over.
    async fn bear(&self, event: &Event, course: &mut Course) -> Result<(), Error> {
        match event {
            Event::PointLost | Event::CaptureLost if std::mem::replace(&mut course.lost, true) => {
                self.sweep(None).await?;
                return Err(Error::LostAgain);
            }
            Event::Copied | Event::Released(_) | Event::Unchanged | Event::Shipped(_) => {
                course.lost = false;
            }
            _ => {}
        }
        Ok(())
    }

    /// A course that begins now. Its barriers are due at times that are the VM's own.
    fn course(&self) -> Course {
        let now = Instant::now();
        let hash = blake3::hash(self.store.id.as_str().as_bytes());
        let offset = f64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]));
        Course {
            grid: Grid::new(now, self.options.interval, offset / f64::from(u16::MAX)),
            frozen: now,
            sealed: None,
            lost: false,
            asked: false,
            application: None,
            tried: None,
        }
    }

    async fn resume(&self, course: &mut Course) -> Result<Phase, Error> {
        self.store.check_fence(&self.options.writer).await?;
        let ledger = self.ledger().await?;
        let vm = self.options.vm.clone();
        let points = ask(&self.hypervisor, move |hypervisor| hypervisor.points(&vm)).await?;
        let demand = self.demand()?;
        let record = self.record()?.filter(|record| {
            let last = ledger.last_seal();
            demand.is_none() && last.is_some() && record.goes_on_from(last).is_some()
        });
        self.sweep(record.as_ref()).await?;
        let found = Found {
            disks: &self.options.disks,
            cursors: ledger.cursors(),
            points: &points,
            capture: record.map(|record| record.since),
            demand: demand.as_ref(),
            // Without a recovery point there is nothing to wait for.
            allowed: self.options.resynchronize || ledger.manifest().points.is_empty(),
        };
        let phase = resume::resume(&found);
        let point = ledger.manifest().points.iter().rev();
        course.application = point
            .map(|point| &point.barrier)
            .find(|barrier| barrier.consistency == seal::Consistency::Application)
            .map(|barrier| barrier.time);
        self.publish.send_modify(|observation| {
            observation.demand = demand;
            observation.synchronized = ledger.barrier();
        });
        tracing::info!(replica = %self.store.id, ?phase, "resumes");
        Ok(phase)
    }

    /// Waits until the comparison may begin; whoever gives leave starts the engine anew. No point is held meanwhile.
    async fn wait_for_leave(&self) -> Result<Event, Error> {
        let ledger = self.ledger().await?;
        if self.options.resynchronize || ledger.manifest().points.is_empty() {
            return Ok(Event::Allowed);
        }
        self.abandon_all().await?;
        self.stop.cancelled().await;
        Err(Error::Stopped)
    }

    /// Waits until the next barrier is due, or somebody asks for one.
    async fn wait_until_due(&self, course: &mut Course) -> Result<Event, Error> {
        course.asked = false;
        tokio::select! {
            () = tokio::time::sleep_until(course.grid.next(course.frozen)) => Ok(Event::Due),
            () = self.synchronize.notified() => {
                course.asked = true;
                Ok(Event::Due)
            }
            () = self.stop.cancelled() => Err(Error::Stopped),
        }
    }

    /// Ships what `read` hands out, until both are done; `note` learns what is sealed of what is not all sealed yet.
    pub(super) async fn ship_pieces(
        &self,
        ledger: &mut Ledger,
        note: impl FnMut(Digest, BTreeMap<DiskId, u64>) -> Result<(), Error>,
        read: impl FnOnce(&Outlet) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (outlet, pieces) = Outlet::new();
        let means = Means {
            throttle: self.throttle.clone(),
            compress: self.options.compress,
            stop: self.stop.clone(),
        };
        let reader = tokio::task::spawn_blocking(move || read(&outlet));
        let shipped = ship::ship(ledger, &means, &self.progress, pieces, note).await;
        let read = reader.await.map_err(|_| Error::Broken {
            doing: "read a disk",
        })?;
        buffers::release();
        self.report_sealed(ledger);
        // A reader that failed is why shipping found no end.
        read.and(shipped)
    }

    pub(super) async fn pause(&self, time: Duration) -> Result<(), Error> {
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
            () = self.finish.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }

    pub(super) async fn ledger(&self) -> Result<Ledger, Error> {
        let ledger = Ledger::read(self.store.clone(), self.options.writer.clone()).await?;
        self.report_sealed(&ledger);
        Ok(ledger)
    }

    /// Tells the phase, and the trouble that ended it. Trouble of before is told as long as nothing shows that it is over:
    /// the next attempt alone does not.
    fn report(&self, phase: &Phase, trouble: Option<Trouble>) {
        let over = matches!(
            phase,
            Phase::Replicating { .. } | Phase::ResyncRequired { .. }
        );
        self.publish.send_if_modified(|observation| {
            let trouble = match trouble {
                None if !over => observation.trouble.clone(),
                trouble => trouble,
            };
            let changed = observation.phase != *phase || observation.trouble != trouble;
            observation.phase = phase.clone();
            observation.trouble = trouble;
            changed
        });
    }

    /// The comparison that is demanded, of any disk that is still replicated.
    pub(super) fn demand(&self) -> Result<Option<Demand>, Error> {
        let all = self.options.disks.keys().cloned().collect();
        let demand = demand::read(&self.options.folder, &all)?;
        Ok(demand.and_then(|demand| demand.within(&all)))
    }

    /// What a failure means for tracking: if changes may have been missed, a comparison is demanded, of the disk that
    /// it names, or of all; and of the `others` that it was found of as well.
    ///
    /// # Errors
    /// The failure, if it is not about tracking; or that the demand cannot be written down.
    pub(super) fn lose_tracking(&self, error: Error, others: &[DiskId]) -> Result<Event, Error> {
        let Some(mut lost) = error.lost(&self.options.disks) else {
            return Err(error);
        };
        lost.extend(others.iter().cloned());
        lost.sort();
        lost.dedup();
        let fault = error.reason();
        tracing::warn!(replica = %self.store.id, %fault, disks = lost.len(), "a comparison is needed");
        let demand = demand::add(&self.options.folder, lost.iter().cloned(), fault)?;
        self.publish_demand(Some(demand));
        Ok(Event::TrackingLost(lost))
    }

    pub(super) fn publish_demand(&self, demand: Option<Demand>) {
        self.publish
            .send_modify(|observation| observation.demand = demand);
    }

    /// Everything up to the barrier at `time` is sealed.
    pub(super) fn report_cycle(&self, course: &mut Course, time: Timestamp, changed: u64) {
        let skipped = course
            .sealed
            .replace(course.frozen)
            .map_or(0, |before| course.grid.due(before, course.frozen));
        let latency = Duration::try_from(self.clock.now().duration_since(time)).unwrap_or_default();
        self.publish.send_modify(|observation| {
            observation.synchronized = Some(time);
            let cycles = &mut observation.cycles;
            cycles.completed += 1;
            cycles.missed += skipped.saturating_sub(1);
            cycles.changed += changed;
            cycles.latency += latency;
        });
    }

    fn report_sealed(&self, ledger: &Ledger) {
        let sealed = Sequence::new(ledger.next().value() - 1);
        self.publish.send_if_modified(|observation| {
            let changed = observation.sealed != sealed;
            if changed && observation.sealed > Sequence::ZERO {
                observation.trouble = None;
            }
            observation.sealed = sealed;
            changed
        });
    }
}
