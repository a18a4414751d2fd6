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
use tokio_util::sync::CancellationToken;

use crate::engine::Error;
use crate::engine::ledger::{Ledger, Store};
use crate::engine::phase::{Cursors, Event, Phase};
use crate::engine::progress::Progress;
use crate::engine::resume::{self, Found};
use crate::engine::ship::{self, Means, Outlet};
use crate::engine::source::ask;
use crate::engine::throttle::Throttle;
use crate::host::{self, Consistency, FrozenPoint, Hypervisor, Kind};
use crate::ids::{DiskId, DiskSlot, FrozenPointId, VmId};
use crate::replica::seal::Writer;
use crate::report::{Code, Fault};
use crate::retry::{Attempts, Trouble};
use crate::units::{Clock, Sequence};

/// How soon a merge is asked whether it is done. Each later question waits twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How often a merge is asked at least.
const LOOK: Duration = Duration::from_secs(1);

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
        loop {
            let replicating = AssertUnwindSafe(self.replicate(&mut attempts));
            if replicating.catch_unwind().await.is_ok() {
                return;
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

    /// Performs phase after phase until it is stopped.
    async fn replicate(&self, attempts: &mut Attempts) {
        let mut phase = Phase::Resuming;
        // Attempts count as long as nothing was sealed between two failures.
        let mut sealed = self.publish.borrow().sealed;
        while !self.stop.is_cancelled() {
            self.report(&phase, None);
            let started = self.clock.now();
            match self.perform(&phase).await {
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
                    self.wait(started, wait, attempts).await;
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
        tracing::info!(replica = %self.store.id, ?phase, "resumes");
        Ok(phase)
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

    /// Freezes all disks. Whoever freezes uses no point any more: one that is still there was left by a phase that did
    /// not end, and would be in the way for ever.
    async fn freeze(&self, wanted: Consistency) -> Result<FrozenPoint, Error> {
        let vm = self.options.vm.clone();
        let left = ask(&self.hypervisor, move |hypervisor| hypervisor.points(&vm)).await?;
        self.abandon(left).await?;
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

    /// Ships what `read` hands out, until both are done.
    pub(super) async fn ship_pieces(
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
        self.report_sealed(ledger);
        // A reader that failed is why shipping found no end.
        read.and(shipped)
    }

    pub(super) async fn commit(&self, point: &FrozenPointId) -> Result<Cursors, Error> {
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
    pub(super) async fn wait_until_free(&self) -> Result<(), Error> {
        let mut pause = FIRST_LOOK;
        loop {
            let vm = self.options.vm.clone();
            let machine = ask(&self.hypervisor, move |hypervisor| hypervisor.machine(&vm)).await?;
            if machine.busy.is_none() {
                return Ok(());
            }
            self.pause(pause).await?;
            pause = LOOK.min(2 * pause);
        }
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
            () = self.stop.cancelled() => {}
        }
    }

    pub(super) async fn ledger(&self) -> Result<Ledger, Error> {
        let ledger = Ledger::read(self.store.clone(), self.options.writer.clone()).await?;
        self.report_sealed(&ledger);
        Ok(ledger)
    }

    fn slots(&self) -> Vec<DiskSlot> {
        self.options.disks.values().cloned().collect()
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
