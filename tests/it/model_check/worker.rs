//! A worker of the model: the requests of take-over and apply cycle, one by one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use site_recovery::datapath::advance::{self, Brought, Cut};
use site_recovery::datapath::plan::{self, Ahead, Cycle, Plan};
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::seal::SealedLog;

use super::prune::Broom;
use super::retire::Retirement;
use super::state::{Careless, Delayed, Keyed, PAGE, State, disk, snapshot, table};

/// Workers could take over from each other for ever.
const OWNERS: u64 = 4;

/// Where a worker stands. A manifest is the one that it holds.
#[derive(Clone, Hash)]
pub(super) enum Hand {
    Idle,
    /// Has read it, and raises the generation next.
    Raises(Keyed<Manifest>),
    /// Is the owner, and fences the blob next.
    TakesOver(Keyed<Manifest>),
    Owns(Keyed<Manifest>),
    Marks(Keyed<Manifest>, Keyed<Cycle>),
    Fences(Keyed<Manifest>, Keyed<Cycle>),
    /// Has written so many of the cycle's pages.
    Writes(Keyed<Manifest>, Keyed<Cycle>, usize),
    Publishes(Keyed<Manifest>, Keyed<Manifest>, Keyed<Cycle>),
    Deletes(Keyed<Manifest>, Keyed<Cycle>),
    Cleans(Keyed<Manifest>, Broom),
    Retires(Keyed<Manifest>, Retirement),
}

/// The page that a log is of.
pub(super) fn page_of(log: &SealedLog) -> usize {
    usize::try_from(log.range.start() / PAGE).unwrap()
}

/// The pages that a cycle writes, and the sequences that bring them.
fn writes(cycle: &Cycle) -> Vec<(usize, u8, u64)> {
    let mut writes = Vec::new();
    for seal in cycle.seals.iter().map(|found| &found.seal) {
        let logs = seal.disks.iter().flat_map(|disk| &disk.logs);
        let value = |log: &SealedLog| u8::try_from(log.stored).unwrap();
        writes.extend(logs.map(|log| (page_of(log), value(log), seal.sequence.value())));
    }
    writes
}

impl State {
    pub(super) fn worker_acts(&self, number: usize) -> Vec<(String, State)> {
        let mut all = Vec::new();
        let who = |what: &str| format!("worker {number} {what}");
        let hand = &self.workers[number];
        if self.left.deaths > 0 && !matches!(hand, Hand::Idle) {
            let mut next = self.clone();
            next.left.deaths -= 1;
            next.workers[number] = Hand::Idle;
            all.push((who("dies"), next));
        }
        if let Hand::Writes(held, cycle, done) = hand
            && let Some((page, value, _)) = writes(&cycle.value).get(*done).copied()
            && self.left.delays > 0
        {
            let mut next = self.clone();
            next.left.delays -= 1;
            let fence = held.value.writer.fence();
            next.network.push(Delayed::Page { page, value, fence });
            next.workers[number] = Hand::Idle;
            all.push((who(&format!("gives up writing {value}")), next));
        }
        if let Hand::Owns(held) = hand {
            all.extend(self.cleaning(number, held));
        }
        let mut next = self.clone();
        if let Some(what) = next.work(number) {
            all.push((who(what), next));
        }
        all
    }

    /// The worker's next request: what it was; nothing if there is nothing to do.
    fn work(&mut self, number: usize) -> Option<&'static str> {
        let hand = std::mem::replace(&mut self.workers[number], Hand::Idle);
        let (now, what) = match hand {
            Hand::Idle if self.inbox.is_empty() && self.left.cleans == 0 && !self.is_retiring() => {
                return None;
            }
            Hand::Idle if self.manifest.value.writer.generation.value() >= OWNERS => return None,
            Hand::Idle => (Hand::Raises(self.manifest.clone()), "loads"),
            Hand::Raises(held) => {
                let mut raised = Manifest::clone(&held.value);
                raised.writer = raised.writer.taken_over();
                (
                    self.save(&held, raised, Hand::TakesOver),
                    "raises the generation",
                )
            }
            Hand::TakesOver(held) => {
                let ours = self.fence(held.value.writer.fence());
                (if ours { Hand::Owns(held) } else { Hand::Idle }, "fences")
            }
            Hand::Owns(held) => (self.plans(held)?, "plans"),
            Hand::Marks(held, cycle) => {
                let marked = advance::marked(&held.value, &cycle.value).unwrap();
                let fences = |held| Hand::Fences(held, cycle);
                (self.save(&held, marked, fences), "marks")
            }
            Hand::Fences(held, cycle) => {
                let ours = self.fence(held.value.writer.fence());
                (
                    if ours {
                        Hand::Writes(held, cycle, 0)
                    } else {
                        Hand::Idle
                    },
                    "fences a cycle",
                )
            }
            Hand::Writes(held, cycle, done) => self.writes_on(held, cycle, done),
            Hand::Publishes(held, finished, cycle) => {
                let id = Keyed::new(cycle.value.target().id);
                let ids: Vec<_> = cycle
                    .value
                    .seals
                    .iter()
                    .map(|found| Keyed::new(found.id))
                    .collect();
                let deletes = |held| Hand::Deletes(held, cycle);
                let now = self.save(&held, Manifest::clone(&finished.value), deletes);
                if matches!(now, Hand::Deletes(..)) {
                    debug_assert!(ids.contains(&id));
                    self.applied.extend(ids);
                }
                (now, "publishes")
            }
            Hand::Deletes(held, cycle) => {
                for found in &cycle.value.seals {
                    self.inbox.remove(&found.seal.sequence.value());
                }
                (Hand::Owns(held), "deletes what it applied")
            }
            Hand::Cleans(held, broom) => self.clean(held, broom),
            Hand::Retires(held, retirement) => self.retire(held, retirement),
        };
        self.workers[number] = now;
        Some(what)
    }

    /// Replaces the manifest if it is still the one that was held.
    pub(super) fn save(
        &mut self,
        held: &Keyed<Manifest>,
        manifest: Manifest,
        then: impl FnOnce(Keyed<Manifest>) -> Hand,
    ) -> Hand {
        if self.manifest != *held {
            return Hand::Idle;
        }
        self.manifest = Keyed::new(manifest);
        then(self.manifest.clone())
    }

    /// Raises the blob's number: whether it is this one then.
    fn fence(&mut self, number: u64) -> bool {
        self.number = self.number.max(number);
        self.number == number
    }

    fn plans(&mut self, held: Keyed<Manifest>) -> Option<Hand> {
        let manifest = &held.value;
        let mut ahead = Ahead::from(manifest.last_applied.sequence.next());
        while let Some(found) = self.inbox.get(&ahead.end().value()) {
            if !ahead.take(manifest, found.value.as_ref().clone(), 1) {
                break;
            }
        }
        match plan::plan(manifest, ahead) {
            Plan::Apply(cycle) => match self.whole_part(cycle) {
                Some(cycle) => Some(Hand::Marks(held, Keyed::new(cycle))),
                None => self.retires(held),
            },
            Plan::Gap(_) => {
                self.gap = true;
                Some(Hand::Idle)
            }
            Plan::Nothing | Plan::Wait => {
                let applied = manifest.last_applied.sequence.value();
                let before = self.inbox.len();
                self.inbox.retain(|sequence, _| *sequence > applied);
                match self.inbox.len() < before {
                    true => Some(Hand::Owns(held)),
                    false => self.retires(held),
                }
            }
        }
    }

    fn writes_on(
        &mut self,
        held: Keyed<Manifest>,
        cycle: Keyed<Cycle>,
        done: usize,
    ) -> (Hand, &'static str) {
        let all = writes(&cycle.value);
        if let Some((page, value, sequence)) = all.get(done) {
            if self.torn == Some(*sequence) {
                self.refused = true;
                return (Hand::Idle, "finds a damaged log");
            }
            let careless = self.left.careless == Some(Careless::Fence);
            if self.number != held.value.writer.fence() && !careless {
                return (Hand::Idle, "is fenced");
            }
            self.blob[*page] = *value;
            return (Hand::Writes(held, cycle, done + 1), "writes a page");
        }
        let said = all.into_iter().map(|(page, value, _)| (page, value));
        let said: BTreeMap<usize, u8> = said.collect();
        let sequence = cycle.value.target().seal.sequence.value();
        let point = advance::disks_at_barrier(&held.value, &cycle.value);
        let generation = held.value.writer.generation.value();
        let cut = (!point.is_empty()).then(|| Cut {
            disks: [(disk(), snapshot(self.blob, generation))].into(),
            at: Timestamp::UNIX_EPOCH,
        });
        if cut.is_some() {
            self.snapshots.insert((sequence, generation));
        }
        let tables = [(disk(), table(&said, sequence))].into();
        let finished = advance::finished(&held.value, &cycle.value, Brought { tables, cut });
        (Hand::Publishes(held, Keyed::new(finished), cycle), "cuts")
    }
}
