//! A new chain, as a worker of the model begins one, and what may fall with the old one.

use std::collections::{BTreeMap, BTreeSet};

use site_recovery::datapath::chain;
use site_recovery::datapath::plan::Cycle;
use site_recovery::ids::ChainId;
use site_recovery::replica::manifest::Manifest;
use site_recovery::units::Sequence;

use super::state::{Careless, Keyed, State, disk, touched};
use super::worker::{Hand, page_of};

/// Where a worker stands that retires a chain.
#[derive(Clone, Copy, Hash)]
pub(super) enum Retirement {
    /// Has found nothing that can be applied; closes the chain next.
    Closes,
    /// Has found nothing since it was closed; lists the inbox next.
    Lists,
    /// Saves the manifest of the new chain next, which begins behind this sequence.
    Renews(u64),
}

impl State {
    /// Somebody asks for a new chain, or a log is damaged.
    pub(super) fn chain_acts(&self) -> Vec<(String, State)> {
        let mut all = Vec::new();
        // Where a log is going to be damaged, that is what a new chain is asked for.
        if self.left.chains > 0 && self.left.tears == 0 {
            let mut next = self.clone();
            next.left.chains -= 1;
            next.retired = Some(Keyed::new(self.manifest.value.chain.clone()));
            all.push(("a new chain is asked for".to_owned(), next));
        }
        if self.left.tears > 0 {
            for sequence in self.unapplied().keys() {
                let mut next = self.clone();
                next.left.tears -= 1;
                next.torn = Some(*sequence);
                all.push((format!("a log of {sequence} is damaged"), next.clone()));
                let writes = |hand: &Hand| matches!(hand, Hand::Writes(..));
                if self.workers.iter().any(writes) {
                    let die = |hand: &Hand| {
                        if writes(hand) {
                            Hand::Idle
                        } else {
                            hand.clone()
                        }
                    };
                    next.workers = self.workers.iter().map(die).collect();
                    let what = format!("a log of {sequence} is damaged, and its worker dies");
                    all.push((what, next));
                }
            }
        }
        all
    }

    pub(super) fn is_retiring(&self) -> bool {
        let manifest = &self.manifest.value;
        let is_old = |old: &Keyed<ChainId>| *old.value == manifest.chain;
        manifest.closed || self.retired.as_ref().is_some_and(is_old)
    }

    /// What of a cycle can be applied, as far as it is known by now.
    pub(super) fn whole_part(&self, cycle: Cycle) -> Option<Cycle> {
        match self.torn.map(Sequence::new) {
            Some(torn) if cycle.seals[0].seal.sequence == torn => None,
            Some(torn) if self.refused => cycle.before(torn),
            Some(_) | None => Some(cycle),
        }
    }

    /// Nothing can be applied: a new chain begins, if one is asked for.
    pub(super) fn retires(&self, held: Keyed<Manifest>) -> Option<Hand> {
        let retirement = match held.value.closed {
            true => Retirement::Lists,
            false => Retirement::Closes,
        };
        self.is_retiring()
            .then_some(Hand::Retires(held, retirement))
    }

    /// The next request of a worker that retires a chain.
    pub(super) fn retire(
        &mut self,
        held: Keyed<Manifest>,
        retirement: Retirement,
    ) -> (Hand, &'static str) {
        let manifest = held.value.clone();
        let written = chain::unfinished(&manifest);
        match retirement {
            Retirement::Closes => {
                let mut closed = Manifest::clone(&manifest);
                closed.closed = true;
                (self.save(&held, closed, Hand::Owns), "closes the chain")
            }
            Retirement::Lists => {
                let shown = self.inbox.keys().last().copied().unwrap_or(0);
                let applied = manifest.last_applied.sequence.value();
                let furthest = written.values().map(|target| target.value()).max();
                let end = shown.max(applied).max(furthest.unwrap_or(0));
                let renews = Retirement::Renews(end);
                (Hand::Retires(held, renews), "lists for a new chain")
            }
            Retirement::Renews(end) => {
                let fallen = self.falling(&manifest);
                let mut tables = BTreeMap::new();
                if let Some(target) = written.get(&disk())
                    && self.left.careless != Some(Careless::Touch)
                {
                    let pages = self.written_up_to(target.value());
                    tables.insert(disk(), touched(&pages, end));
                }
                let chain = ChainId::from_random(2);
                let renewed = chain::renewed(&manifest, chain, Sequence::new(end), tables);
                let now = self.save(&held, renewed, Hand::Owns);
                if matches!(now, Hand::Owns(_)) {
                    self.fallen.extend(fallen);
                }
                (now, "begins a new chain")
            }
        }
    }

    /// Seals that may fall with their chain although somebody counts on them: behind what is damaged.
    fn falling(&self, manifest: &Manifest) -> Vec<u64> {
        let unapplied = self.unapplied();
        let sequences = unapplied
            .iter()
            .filter(|(_, chain)| **chain == manifest.chain);
        let behind = |sequence: &u64| self.torn.is_some_and(|torn| torn <= *sequence);
        sequences
            .map(|(sequence, _)| *sequence)
            .filter(behind)
            .collect()
    }

    /// Seals that were not applied, and their chains.
    fn unapplied(&self) -> BTreeMap<u64, ChainId> {
        let applied = self.manifest.value.last_applied.sequence.value();
        let seals = self.inbox.range(applied + 1..);
        seals
            .map(|(sequence, found)| (*sequence, found.value.seal.chain.clone()))
            .collect()
    }

    /// The pages that seals after what was applied name, up to `target`.
    fn written_up_to(&self, target: u64) -> BTreeSet<usize> {
        let applied = self.manifest.value.last_applied.sequence.value();
        let seals = self.inbox.range(applied + 1..=target);
        let disks = seals.flat_map(|(_, found)| &found.value.seal.disks);
        disks.flat_map(|disk| &disk.logs).map(page_of).collect()
    }
}
