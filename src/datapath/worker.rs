//! Works on one replica: takes it over, and applies what the agent has sealed until there is no more.

use std::sync::Arc;

use crate::blob::buffers;
use crate::blob::names::SequenceNumber;
use crate::datapath::Error;
use crate::datapath::collect;
use crate::datapath::cycle;
use crate::datapath::fold;
use crate::datapath::inbox;
use crate::datapath::plan::{self, Cycle, Plan};
use crate::datapath::store::{Held, Store};
use crate::datapath::tables;
use crate::ids::{ChainId, DiskId};
use crate::replica::manifest::Manifest;
use crate::replica::names;
use crate::replica::retention::Retention;
use crate::units::Sequence;

/// The owner of one replica's pages, until another takes over.
pub struct Worker {
    store: Store,
    /// The manifest, once this worker has taken the replica over.
    held: Option<Held>,
    /// The manifest as it was last read or written, for those who observe.
    seen: Option<Manifest>,
    /// Whether an unfinished cycle may have left something behind.
    litter: bool,
    /// Which recovery points are kept.
    retention: Retention,
    /// A new chain is wanted if the present one is this.
    retired: Option<ChainId>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was applied; there may be more.
    Applied,
    /// There is nothing to apply now.
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
        self.seen.as_ref()
    }

    /// Applies the next cycle, if there is one.
    ///
    /// # Errors
    /// The first thing that failed. The next step begins by taking the replica over anew.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let result = self.try_step().await;
        match &self.held {
            Some(held) => self.seen = Some(held.manifest.clone()),
            None => self.litter |= result.is_err(),
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
        let Some(cycle) = next_cycle(&self.store, &held.manifest).await? else {
            self.held = Some(held);
            buffers::release();
            return Ok(Step::Idle);
        };
        let cycle = Arc::new(cycle);
        let held = cycle::run(&self.store, &held, &cycle).await?;
        inbox::drop_applied(&self.store, &cycle).await?;
        let held = self.fold(held).await?;
        if std::mem::take(&mut self.litter) {
            collect::collect(&self.store, held.manifest.writer.generation).await?;
        }
        self.held = Some(held);
        Ok(Step::Applied)
    }

    /// Takes the replica over, unless there is nothing in its inbox to do it for.
    async fn idle_or_taken_over(&mut self) -> Result<Option<Held>, Error> {
        let Some(held) = self.store.load().await? else {
            self.seen = None;
            return Ok(None);
        };
        self.seen = Some(held.manifest.clone());
        if inbox::is_empty(&self.store).await? {
            return Ok(None);
        }
        take_over(&self.store, held).await.map(Some)
    }

    /// Folds chunk tables where that is worth it.
    async fn fold(&self, mut held: Held) -> Result<Held, Error> {
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
            let folded =
                tables::fold(&self.store, &id, disk.size, &disk.tables[run.clone()], salt).await?;
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
                // Who seals something says so afterwards: what came meanwhile is for the next step.
                Some(_) | None => return Ok(None),
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
    let fence =
        SequenceNumber::new(held.manifest.writer.fence()).expect("a fence has at most 63 bits");
    for id in held.manifest.disks.keys() {
        match store
            .replica
            .set_sequence_number(&names::disk(id), fence)
            .await
        {
            Ok(now) if now == fence => {}
            Ok(_) => return Err(store.fenced()),
            // Marked, and not created yet.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(store.storage("fence a disk")(error)),
        }
    }
    tracing::info!(replica = %store.id, generation = %held.manifest.writer.generation, "took over");
    Ok(held)
}
