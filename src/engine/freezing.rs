//! The phases that freeze, and what leads to them: no point of ours is there and nothing is being merged.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::cycles::is_application_due;
use crate::engine::demand;
use crate::engine::phase::{Cursors, Event};
use crate::engine::run::Course;
use crate::engine::source::ask;
use crate::engine::{Engine, Error};
use crate::host::{self, Consistency, FrozenPoint, Kind};
use crate::ids::{DiskId, DiskSlot, FrozenPointId};

/// How soon a merge is asked whether it is done. Each later question waits twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// How often a merge is asked at least.
const LOOK: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) async fn freeze_to_copy(&self) -> Result<Event, Error> {
        self.wait_to_copy().await?;
        let point = self.freeze(Consistency::Crash).await?;
        if let Some(demand) = self.demand()? {
            self.publish_demand(Some(demand::begin(
                &self.options.folder,
                &demand,
                &point.id,
            )?));
        }
        Ok(Event::Frozen(point.id))
    }

    pub(super) async fn freeze_barrier(&self, course: &mut Course) -> Result<Event, Error> {
        let (now, every) = (self.clock.now(), self.options.application_every);
        let wanted = if is_application_due(every, course.application, course.tried, now) {
            course.tried = Some(now);
            Consistency::Application
        } else {
            Consistency::Crash
        };
        let point = match self.freeze(wanted).await {
            Ok(point) => point,
            Err(error) => return self.lose_tracking(error, &[]),
        };
        course.frozen = Instant::now();
        if wanted == Consistency::Application {
            if point.consistency == Consistency::Application {
                course.application = Some(now);
            }
            self.publish
                .send_modify(|seen| seen.quiesce = point.fallback);
        }
        Ok(Event::Frozen(point.id))
    }

    pub(super) async fn abandon_all(&self) -> Result<(), Error> {
        let vm = self.options.vm.clone();
        let left = ask(&self.hypervisor, move |hypervisor| hypervisor.points(&vm)).await?;
        self.abandon(left).await
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
        self.abandon_all().await?;
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

    fn slots(&self) -> Vec<DiskSlot> {
        self.options.disks.values().cloned().collect()
    }
}
