//! Works on one replica: takes it over, applies what the agent has sealed until there is no more, begins a new chain when
//! it is asked to, and lets old recovery points go.

use std::sync::Arc;

use crate::buffers;
use crate::datapath::Error;
use crate::datapath::chain;
use crate::datapath::collect;
use crate::datapath::cycle;
use crate::datapath::disk;
use crate::datapath::fold;
use crate::datapath::inbox;
use crate::datapath::plan::{self, Cycle, Plan};
use crate::datapath::prune;
use crate::datapath::store::{Held, Store};
use crate::datapath::tables;
use crate::ids::{ChainId, DiskId};
use crate::replica::manifest::Manifest;
use crate::replica::retention::Retention;
use crate::retry::Trouble;
use crate::units::{Clock as _, Sequence, SystemClock};

/// The owner of one replica's pages, until another takes over.
pub struct Worker {
    store: Store,
    /// The manifest, once this worker has taken the replica over.
    held: Option<Held>,
    /// The manifest as it was last read or written, for those who observe.
    seen: Option<Held>,
    /// Whether an unfinished cycle may have left something behind.
    litter: bool,
    /// Which recovery points are kept.
    retention: Retention,
    /// A new chain is wanted if the present one is this.
    retired: Option<ChainId>,
    /// A part of a chunk table that cannot be read, as long as the manifest names it.
    damage: Option<Damage>,
}

struct Damage {
    /// The part's blob.
    blob: String,
    trouble: Trouble,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was applied, or done beside; there may be more.
    Applied,
    /// There is nothing to do now.
    Idle,
}

impl Worker {
    pub fn new(store: Store) -> Self {
        Worker {
            store,
            held: None,
            seen: None,
            litter: true,
            retention: Retention::default(),
            retired: None,
            damage: None,
        }
    }

    /// Keeps recovery points as `retention` says, from the next step on. Until it is told, all stay.
    pub fn keep(&mut self, retention: Retention) {
        self.retention = retention;
    }

    /// Begins a new chain in the next step if the present one is `retired`.
    pub fn retire(&mut self, retired: Option<ChainId>) {
        self.retired = retired;
    }

    /// The manifest as this worker last saw it; nothing if the replica has none.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.seen.as_ref().map(|held| &held.manifest)
    }

    /// What is wrong with the replica and holds nothing up: nobody but a human can mend it, or a new chain.
    pub fn damage(&self) -> Option<&Trouble> {
        self.damage.as_ref().map(|damage| &damage.trouble)
    }

    fn note_damage(&mut self, error: &Error) {
        let Error::Table { source, .. } = error else {
            return;
        };
        let (blob, fault) = (source.blob(), error.fault());
        if self
            .damage
            .as_ref()
            .is_some_and(|known| known.blob == *blob && known.trouble.fault == fault)
        {
            return;
        }
        tracing::warn!(replica = %self.store.id, %fault, "cannot fold a chunk table");
        self.damage = Some(Damage {
            blob: blob.to_owned(),
            trouble: Trouble {
                fault,
                attempts: 1,
                since: SystemClock.now(),
                next_attempt: None,
            },
        });
    }

    /// Whether there may be something to do that was not there after the last step: the next seal, or a manifest that
    /// somebody else has written. It asks two questions, however much the inbox holds; a seal behind one that is missing
    /// is seen by a step alone.
    ///
    /// # Errors
    /// If storage cannot be asked.
    pub async fn has_news(&self) -> Result<bool, Error> {
        let Some(seen) = &self.seen else {
            return Ok(self.store.load().await?.is_some());
        };
        let next = seen.manifest.last_applied.sequence.next();
        Ok(inbox::is_sealed(&self.store, next).await? || !self.store.is_current(seen).await?)
    }

    /// Whether somebody else has begun a new chain since the last step.
    ///
    /// # Errors
    /// If storage cannot be asked.
    pub async fn is_renewed(&self) -> Result<bool, Error> {
        let Some(seen) = &self.seen else {
            return Ok(false);
        };
        if self.store.is_current(seen).await? {
            return Ok(false);
        }
        let now = self.store.load().await?;
        Ok(now.is_some_and(|now| now.manifest.chain != seen.manifest.chain))
    }

    /// Does the next thing, if there is one: a cycle; a new chain where that is asked for and nothing can be applied any
    /// more; some points that may go.
    ///
    /// # Errors
    /// The first thing that failed. The next step begins by taking the replica over anew.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let result = self.try_step().await;
        match &self.held {
            Some(held) => self.seen = Some(held.clone()),
            None => self.litter |= result.is_err(),
        }
        let named = |damage: &Damage| {
            let manifest = self.seen.as_ref().map(|held| &held.manifest);
            manifest.is_some_and(|manifest| manifest.names_part(&damage.blob))
        };
        if !self.damage.as_ref().is_some_and(named) {
            self.damage = None;
        }
        result
    }

    async fn try_step(&mut self) -> Result<Step, Error> {
        match self.apply_next().await {
            // A replica that is recorded and not created yet, or removed, has neither containers nor manifest.
            Err(error) if error.is_not_found() && self.store.load().await?.is_none() => {
                (self.held, self.seen) = (None, None);
                Ok(Step::Idle)
            }
            result => result,
        }
    }

    async fn apply_next(&mut self) -> Result<Step, Error> {
        let held = match self.held.take() {
            Some(held) => held,
            None => match self.idle_or_taken_over().await? {
                Some(held) => held,
                None => return Ok(Step::Idle),
            },
        };
        let retiring = self.is_retiring(&held.manifest);
        let next = next_cycle(&self.store, &held.manifest).await;
        if is_missing(&next) && !self.store.is_current(&held).await? {
            return Ok(Step::Applied);
        }
        let outcome = match next {
            Ok(Some(cycle)) => self.apply(&held, cycle).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let (held, step) = match outcome {
            Ok(Some(held)) => (self.prune_batches(held).await?, Step::Applied),
            Ok(None) if retiring => (chain::end(&self.store, held).await?, Step::Applied),
            Ok(None) => self.prune_any(held).await?,
            Err(error) if retiring && error.refused().is_some() => {
                tracing::warn!(replica = %self.store.id, %error, "retires a chain that is broken");
                let now = self.unchanged_since(&held.manifest).await?;
                let held = self.take_over(now).await?;
                (chain::end(&self.store, held).await?, Step::Applied)
            }
            Err(error) => return Err(error),
        };
        if step == Step::Idle {
            buffers::release();
        }
        self.held = Some(held);
        Ok(step)
    }

    /// Runs a cycle, or what of it stands before a seal that is refused.
    async fn apply(&mut self, held: &Held, cycle: Cycle) -> Result<Held, Error> {
        let (held, cycle) = self.run(held, Arc::new(cycle)).await?;
        inbox::drop_applied(&self.store, &cycle).await?;
        let held = self.fold(held).await?;
        if std::mem::take(&mut self.litter) {
            collect::collect(&self.store, held.manifest.writer.generation).await?;
        }
        Ok(held)
    }

    async fn run(
        &mut self,
        held: &Held,
        mut cycle: Arc<Cycle>,
    ) -> Result<(Held, Arc<Cycle>), Error> {
        let mut refused = match cycle::run(&self.store, held, &cycle).await {
            Ok(held) => return Ok((held, cycle)),
            Err(error) if error.refused().is_none() => return Err(error),
            Err(error) => error,
        };
        loop {
            // A cycle that failed may have marked it.
            let now = self.unchanged_since(&held.manifest).await?;
            let shorter = refused.refused().and_then(|at| cycle.before(at));
            let Some(shorter) = shorter else {
                return Err(refused);
            };
            tracing::warn!(replica = %self.store.id, error = %refused, "applies what stands before it");
            cycle = Arc::new(shorter);
            let held = self.take_over(now).await?;
            match cycle::run(&self.store, &held, &cycle).await {
                Ok(held) => return Ok((held, cycle)),
                Err(error) => refused = error,
            }
        }
    }

    /// The manifest as it is now. What was refused under the one of `before` is so only if nobody else has applied
    /// anything since then, or ended the chain: what was applied is gone from the inbox, bit by bit.
    ///
    /// # Errors
    /// [`Error::Fenced`] if somebody has.
    async fn unchanged_since(&self, before: &Manifest) -> Result<Held, Error> {
        let stands = |now: &Manifest| {
            let chain = (&now.chain, now.closed) == (&before.chain, before.closed);
            chain && now.last_applied == before.last_applied
        };
        match self.store.load().await? {
            Some(now) if stands(&now.manifest) => Ok(now),
            Some(_) | None => Err(self.store.fenced()),
        }
    }

    fn is_retiring(&self, manifest: &Manifest) -> bool {
        manifest.closed || self.retired.as_ref() == Some(&manifest.chain)
    }

    /// Takes the replica over, unless there is nothing to do it for.
    async fn idle_or_taken_over(&mut self) -> Result<Option<Held>, Error> {
        let Some(held) = self.store.load().await? else {
            self.seen = None;
            return Ok(None);
        };
        self.seen = Some(held.clone());
        let wanted = self.is_retiring(&held.manifest) || self.due(&held.manifest) > 0;
        if !wanted && inbox::is_empty(&self.store).await? {
            return Ok(None);
        }
        self.take_over(held).await.map(Some)
    }

    async fn take_over(&mut self, held: Held) -> Result<Held, Error> {
        let held = take_over(&self.store, held).await?;
        self.seen = Some(held.clone());
        Ok(held)
    }

    /// How many points may go, as far as our own clock is right.
    fn due(&self, manifest: &Manifest) -> usize {
        prune::due(manifest, &self.retention, SystemClock.now())
    }

    /// Lets points go beside applying, once they are worth it.
    async fn prune_batches(&mut self, held: Held) -> Result<Held, Error> {
        if self.due(&held.manifest) < prune::BATCH {
            return Ok(held);
        }
        let (held, _) = self.prune_any(held).await?;
        Ok(held)
    }

    /// Lets points go, a batch at most; there may be more then.
    async fn prune_any(&mut self, held: Held) -> Result<(Held, Step), Error> {
        if self.due(&held.manifest) == 0 {
            return Ok((held, Step::Idle));
        }
        match prune::prune(&self.store, &held, &self.retention).await? {
            // What stood between the parts of a chunk table is gone.
            Some(held) => Ok((self.fold(held).await?, Step::Applied)),
            None => Ok((held, Step::Idle)),
        }
    }

    /// Folds chunk tables where that is worth it. A damaged one stays as it is and is told: nothing that is sealed waits
    /// for it.
    async fn fold(&mut self, mut held: Held) -> Result<Held, Error> {
        let points: Vec<Sequence> = held
            .manifest
            .points
            .iter()
            .map(|point| point.sequence)
            .collect();
        let disks: Vec<DiskId> = held.manifest.disks.keys().cloned().collect();
        for id in disks {
            let disk = &held.manifest.disks[&id];
            let Some(run) = fold::next_fold(&disk.tables, &points) else {
                continue;
            };
            let salt = cycle::salt(&held.manifest).wrapping_add(1);
            let parts = &disk.tables[run.clone()];
            let size = held.manifest.size_at(&id, parts[parts.len() - 1].to);
            let folded = match tables::fold(&self.store, &id, size, parts, salt).await {
                Err(error @ Error::Table { .. }) if self.store.is_current(&held).await? => {
                    self.note_damage(&error);
                    continue;
                }
                folded => folded?,
            };
            let mut next = held.manifest.clone();
            let old: Vec<_> = match next.disks.get_mut(&id) {
                Some(disk) => disk.tables.splice(run, [folded]).collect(),
                None => continue,
            };
            held = self.store.save(&held, next).await?;
            for part in old {
                tables::remove(&self.store, &part).await?;
            }
        }
        Ok(held)
    }
}

/// Whether something was not found where the manifest says that it comes next. Who holds a manifest that somebody else has
/// replaced looks in the wrong place: nothing follows from that.
fn is_missing(next: &Result<Option<Cycle>, Error>) -> bool {
    match next {
        Ok(found) => found.is_none(),
        Err(error) => error.refused().is_some(),
    }
}

/// The cycle to run now, if there is one; if there is none, the inbox is swept.
async fn next_cycle(store: &Store, manifest: &Manifest) -> Result<Option<Cycle>, Error> {
    let applied = manifest.last_applied.sequence;
    let mut from = applied.next();
    loop {
        let ahead = inbox::read_ahead(store, manifest, from).await?;
        let end = ahead.end();
        match plan::plan(manifest, ahead) {
            Plan::Apply(cycle) => return Ok(Some(cycle)),
            Plan::Gap(sequence) => {
                return Err(Error::Gap {
                    replica: store.id.clone(),
                    sequence,
                });
            }
            Plan::Nothing | Plan::Wait => match inbox::sweep(store, applied, end).await? {
                // A seal is missing: what stands behind it is of a retired chain, or a gap.
                Some(later) if later > end => from = later,
                // It came meanwhile, and is for the next step: who seals something says so afterwards. Or it was passed
                // by because it is refused.
                Some(end) => {
                    inbox::read_seal(store, end).await?;
                    return Ok(None);
                }
                None => return Ok(None),
            },
        }
    }
}

/// Becomes the only writer of a replica: its generation first, then the sequence number of every blob, and only then
/// anything is believed that was read.
async fn take_over(store: &Store, held: Held) -> Result<Held, Error> {
    let mut next = held.manifest.clone();
    next.writer = next.writer.taken_over();
    let held = store.save(&held, next).await?;
    let fence = disk::fence_of(held.manifest.writer);
    for id in held.manifest.disks.keys() {
        disk::take_over(store, id, fence).await?;
    }
    tracing::info!(replica = %store.id, generation = %held.manifest.writer.generation, "took over");
    Ok(held)
}
