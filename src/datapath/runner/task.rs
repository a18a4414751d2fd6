//! The work on one replica, from when it is attached until it is detached.
//!
//! Only steps take a turn among all replicas. What is asked of a storage account that may not answer is asked without
//! one, so that an account which is away holds up no replicas of others.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::datapath::Error;
use crate::datapath::follower::Follower;
use crate::datapath::runner::{Observation, Orders, Role, Signals, Turns};
use crate::datapath::store::Store;
use crate::datapath::trouble;
use crate::datapath::worker::{Step, Worker};
use crate::ids::ReplicaId;
use crate::replica::manifest::Manifest;
use crate::report::{Code, Fault};
use crate::retry::{Attempts, Class, Trouble, class};
use crate::units::Clock;

/// An inbox is looked at this often even if nobody says that it has something new.
const LOOK: Duration = Duration::from_secs(300);
/// How soon whoever hears of nothing looks again after something was new; each time after that it waits twice as long.
const SOONEST: Duration = Duration::from_secs(1);
/// How long it waits at most.
const SELDOM: Duration = Duration::from_secs(60);
/// How long it may take to write down what keeps a replica from going on.
const TELLING: Duration = Duration::from_secs(15);

/// What does the work on one replica.
pub(super) enum Hand {
    Works(Box<Worker>),
    Follows(Box<Follower>),
}

impl Hand {
    pub(super) fn new(role: Role, store: &Store) -> Self {
        match role {
            Role::Inside | Role::Worker => Hand::Works(Box::new(Worker::new(store.clone()))),
            Role::Follower => Hand::Follows(Box::new(Follower::new(store.clone()))),
        }
    }

    fn manifest(&self) -> Option<&Manifest> {
        match self {
            Hand::Works(worker) => worker.manifest(),
            Hand::Follows(follower) => follower.manifest(),
        }
    }

    /// What is wrong although the last step went well: with the replica, or with whoever works on it.
    fn trouble(&self) -> Option<&Trouble> {
        match self {
            Hand::Works(worker) => worker.damage(),
            Hand::Follows(follower) => follower.trouble(),
        }
    }

    fn take(&mut self, orders: Orders) {
        match self {
            Hand::Works(worker) => {
                worker.keep(orders.duties.retention);
                worker.retire(orders.retired);
            }
            Hand::Follows(follower) => follower.retire(orders.retired),
        }
    }

    /// Whether the next step only reads.
    fn looks(&self) -> bool {
        matches!(self, Hand::Follows(follower) if !follower.is_retiring())
    }

    async fn step(&mut self) -> Result<Step, Error> {
        match self {
            Hand::Works(worker) => worker.step().await,
            Hand::Follows(follower) => follower.step().await,
        }
    }
}

/// When whoever hears of nothing looks again.
pub(super) struct Cadence(Duration);

impl Default for Cadence {
    fn default() -> Self {
        Cadence(SOONEST)
    }
}

impl Cadence {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(SELDOM);
        pause.mul_f64(rand::random_range(0.8..1.2))
    }
}

/// Why a task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// There may be something to do.
    Work,
    /// Nobody has said anything: it is worth a look whether there is.
    Glance,
    /// The last attempt has failed: whether storage answers is found out without taking anybody's turn.
    Again,
}

/// How work ended that did not go well.
enum Failure {
    Said(Fault),
    Panicked(Fault),
}

/// The work on one replica.
pub(super) struct Task {
    pub(super) role: Role,
    pub(super) hand: Hand,
    pub(super) store: Store,
    pub(super) signals: Arc<Signals>,
    pub(super) turns: Turns,
    pub(super) cadence: Cadence,
    /// What was written down last of how it goes; nothing was by this task at first.
    pub(super) told: Option<Option<Trouble>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) publish: watch::Sender<Observation>,
    pub(super) changed: mpsc::UnboundedSender<ReplicaId>,
}

impl Task {
    pub(super) async fn run(mut self) {
        let mut attempts = Attempts::default();
        let (mut wake, mut worked) = (Wake::Work, Instant::now());
        loop {
            let started = self.clock.now();
            if wake != Wake::Glance {
                worked = Instant::now();
            }
            // What work needs is given back with it: most replicas of a fleet have nothing to do at most times.
            match Box::pin(self.work_guarded(wake)).await {
                Ok(()) => {
                    attempts.reset();
                    self.report(None);
                    let trouble = self.hand.trouble().cloned();
                    self.tell(trouble.as_ref()).await;
                    wake = self.wait_for_work(worked).await;
                }
                Err(failure) => {
                    let (trouble, wait) = match failure {
                        Failure::Said(fault) => attempts.failed(fault, started),
                        Failure::Panicked(fault) => attempts.broke(fault, started),
                    };
                    tracing::warn!(replica = %self.store.id, fault = %trouble.fault, "cannot apply");
                    self.report(Some(&trouble));
                    self.tell(Some(&trouble)).await;
                    if self.wait_for_retry(&trouble, started, wait).await {
                        attempts.reset();
                    }
                    wake = Wake::Again;
                }
            }
        }
    }

    /// Works, and reports a panic as what it is: this replica's trouble, and nobody else's. What the worker held then is
    /// not believed any more.
    async fn work_guarded(&mut self, wake: Wake) -> Result<(), Failure> {
        match AssertUnwindSafe(self.work(wake)).catch_unwind().await {
            Ok(result) => result.map_err(|error| Failure::Said(error.fault())),
            Err(panic) => {
                self.hand = Hand::new(self.role, &self.store);
                let message = format!(
                    "the data path of replica {} panicked: {}",
                    self.store.id,
                    said(panic.as_ref())
                );
                Err(Failure::Panicked(Fault::new(Code::Internal, message)))
            }
        }
    }

    /// Applies all that there is. Each step takes its turn among all replicas.
    async fn work(&mut self, wake: Wake) -> Result<(), Error> {
        if wake != Wake::Work && !self.has_news().await? && wake == Wake::Glance {
            return Ok(());
        }
        loop {
            self.hand.take(self.signals.orders().clone());
            let turns = match self.hand.looks() {
                true => &self.turns.looks,
                false => &self.turns.work,
            };
            let turn = turns.clone().acquire_owned().await;
            let step = self.hand.step().await?;
            drop(turn);
            match step {
                Step::Applied => {
                    self.cadence = Cadence::default();
                    self.report(None);
                }
                Step::Idle => return Ok(()),
            }
        }
    }

    async fn has_news(&self) -> Result<bool, Error> {
        let Hand::Works(worker) = &self.hand else {
            return Ok(true);
        };
        let _turn = self.turns.looks.acquire().await;
        worker.has_news().await
    }

    /// Shows how it goes: `trouble` is why the work has ended. Where it has not, that of the hand counts.
    fn report(&self, trouble: Option<&Trouble>) {
        let manifest = self.hand.manifest();
        let others = self.hand.trouble();
        let changed = self.publish.send_if_modified(|observation| {
            let looked = observation.looked || trouble.is_none();
            // A worker that has failed before it looked does not know better than what was seen before.
            let manifest = match trouble {
                Some(_) => manifest.or(observation.manifest.as_deref()),
                None => manifest,
            };
            let trouble = trouble.or(others);
            let same = observation.manifest.as_deref() == manifest
                && observation.trouble.as_ref() == trouble
                && observation.looked == looked;
            if !same {
                let manifest = manifest.cloned().map(Arc::new);
                *observation = Observation {
                    looked,
                    manifest,
                    trouble: trouble.cloned(),
                };
            }
            !same
        });
        if changed {
            // Nobody listens any more when the process ends.
            let _ = self.changed.send(self.store.id.clone());
        }
    }

    /// Writes down how it goes, where somebody reads that. That another has taken over is no trouble of the replica.
    async fn tell(&mut self, trouble: Option<&Trouble>) {
        let fenced = trouble.is_some_and(|trouble| trouble.fault.code == Code::Fenced);
        let known = self.told.as_ref().map(Option::as_ref) == Some(trouble);
        let Some(manifest) = self.hand.manifest() else {
            return;
        };
        if self.role != Role::Worker || fenced || known {
            return;
        }
        let telling = trouble::tell(&self.store, manifest.writer.generation, trouble);
        let said = tokio::time::timeout(TELLING, AssertUnwindSafe(telling).catch_unwind()).await;
        match said {
            Ok(Ok(Ok(()))) => self.told = Some(trouble.cloned()),
            Ok(Ok(Err(error))) => {
                tracing::warn!(replica = %self.store.id, fault = %error.fault(), "cannot say how it goes");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(replica = %self.store.id, "cannot say how it goes");
            }
        }
    }

    /// Waits for something to do; `worked` is when it was last looked for in full.
    async fn wait_for_work(&mut self, worked: Instant) -> Wake {
        let pause = match self.role {
            Role::Inside => LOOK.mul_f64(rand::random_range(0.8..1.2)),
            Role::Worker | Role::Follower => self.cadence.next(),
        };
        tokio::select! {
            () = self.signals.work.notified() => {}
            () = self.signals.retry.notified() => {}
            () = tokio::time::sleep(pause) => {
                return match self.role == Role::Worker && worked.elapsed() < LOOK {
                    true => Wake::Glance,
                    false => Wake::Work,
                };
            }
        }
        self.cadence = Cadence::default();
        Wake::Work
    }

    /// Waits until `wait` after `started`: whether an attempt is made before, because somebody asked for it, or because
    /// the chain that was broken is another one.
    async fn wait_for_retry(
        &mut self,
        trouble: &Trouble,
        started: Timestamp,
        wait: Duration,
    ) -> bool {
        let passed =
            Duration::try_from(self.clock.now().duration_since(started)).unwrap_or_default();
        let due = Instant::now() + wait.saturating_sub(passed);
        let broken = class(trouble.fault.code) == Class::ResyncRequired;
        self.cadence = Cadence::default();
        loop {
            let glance = match self.role == Role::Worker && broken {
                true => due.min(Instant::now() + self.cadence.next()),
                false => due,
            };
            tokio::select! {
                () = self.signals.retry.notified() => return true,
                () = tokio::time::sleep_until(glance) => {}
            }
            if Instant::now() >= due {
                return false;
            }
            if self.is_renewed().await {
                return true;
            }
        }
    }

    /// Whether somebody else has begun a new chain, as far as storage answers.
    async fn is_renewed(&self) -> bool {
        let Hand::Works(worker) = &self.hand else {
            return false;
        };
        let _turn = self.turns.looks.acquire().await;
        let renewed = AssertUnwindSafe(worker.is_renewed()).catch_unwind().await;
        matches!(renewed, Ok(Ok(true)))
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("it does not say why")
}
