//! Turns what an engine counts into what the controller is shown.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::observations::Board;
use crate::agent::state::Replication;
use crate::agent::translate;
use crate::engine::progress::{self, Counted, Pace, Progress};
use crate::engine::{self, Engine};
use crate::ids::{DiskId, ReplicaId, VmId};
use crate::units::Generation;
use crate::wire::observation::{Phase, ReplicationObservation};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Rates are over this many looks.
const LOOKS: usize = 15;

/// Whose engine is observed.
#[derive(Clone, Debug)]
pub struct Subject {
    replica: ReplicaId,
    vm: VmId,
    generation: Generation,
    suspended: bool,
}

impl Subject {
    pub fn of(replication: &Replication) -> Self {
        Subject {
            replica: replication.relationship.replica.clone(),
            vm: replication.relationship.vm.clone(),
            generation: replication.generation,
            suspended: replication.started && replication.relationship.suspended,
        }
    }

    /// What is shown of a relationship without an engine.
    pub fn idle(&self, expires: Timestamp) -> ReplicationObservation {
        let idle = self.observation(&Engine::initial(), &BTreeMap::new(), expires);
        match self.suspended {
            true => ReplicationObservation {
                phase: Phase::Suspended,
                ..idle
            },
            false => idle,
        }
    }

    fn observation(
        &self,
        engine: &engine::Observation,
        counted: &BTreeMap<DiskId, (Counted, Pace)>,
        expires: Timestamp,
    ) -> ReplicationObservation {
        ReplicationObservation {
            replica: self.replica.clone(),
            vm: self.vm.clone(),
            generation: self.generation,
            phase: translate::phase(&engine.phase),
            disks: translate::disks(&engine.phase, counted),
            sealed: engine.sealed,
            credentials_expire: expires,
            synchronized: engine.synchronized,
            cycles: translate::cycles(&engine.cycles),
            resync: engine
                .demand
                .as_ref()
                .map(|demand| translate::resync(&engine.phase, demand)),
            quiesce: engine.quiesce.clone(),
            trouble: engine.trouble.clone(),
        }
    }
}

/// Looks at an engine as long as it runs. One that ends because it is suspended is shown as such.
pub struct Observer {
    pub board: Arc<Board>,
    pub subject: watch::Receiver<Subject>,
    pub observed: watch::Receiver<engine::Observation>,
    pub progress: BTreeMap<DiskId, Arc<Progress>>,
    pub expires: watch::Receiver<Timestamp>,
}

impl Observer {
    pub async fn run(mut self) {
        let mut looks: BTreeMap<DiskId, Looks> = BTreeMap::new();
        loop {
            let now = Instant::now();
            let counted = self.progress.iter().map(|(disk, progress)| {
                let pace = looks
                    .entry(disk.clone())
                    .or_default()
                    .look(now, progress.counted());
                (disk.clone(), pace)
            });
            let counted = counted.collect();
            let engine = self.observed.borrow_and_update().clone();
            let expires = *self.expires.borrow_and_update();
            let subject = self.subject.borrow_and_update().clone();
            self.board
                .show(subject.observation(&engine, &counted, expires));
            let changed = tokio::select! {
                changed = self.observed.changed() => changed,
                changed = self.expires.changed() => changed,
                changed = self.subject.changed() => changed,
                () = tokio::time::sleep(LOOK) => Ok(()),
            };
            if changed.is_err() {
                return self.end();
            }
        }
    }

    fn end(&self) {
        let subject = self.subject.borrow();
        if subject.suspended {
            self.board.show(subject.idle(*self.expires.borrow()));
        }
    }
}

/// The last looks at one disk.
#[derive(Default)]
struct Looks(VecDeque<(Instant, Counted)>);

impl Looks {
    fn look(&mut self, now: Instant, counted: Counted) -> (Counted, Pace) {
        if self.0.len() == LOOKS {
            self.0.pop_front();
        }
        let pace = match self.0.front() {
            Some((since, before)) => progress::pace(before, &counted, now - *since),
            None => Pace {
                rate: 0,
                limit: None,
            },
        };
        self.0.push_back((now, counted));
        (counted, pace)
    }
}
