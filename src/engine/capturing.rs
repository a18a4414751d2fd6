//! The phases from the release of a copied point to the sealed barrier: what changed is captured beside the disks, and
//! shipped from there.

use std::path::PathBuf;

use crate::durable;
use crate::engine::capture::record::Record;
use crate::engine::capture::replay::Replay;
use crate::engine::capture::{self, Capture};
use crate::engine::demand;
use crate::engine::ledger::Ledger;
use crate::engine::phase::{Cursors, Event};
use crate::engine::run::Course;
use crate::engine::source::ask;
use crate::engine::{Engine, Error};
use crate::host::{Consistency, Kind};
use crate::ids::FrozenPointId;
use crate::replica::seal::{self, Barrier, DiskCursor};

impl Engine {
    /// Makes the point what changes are counted from, and waits until it is merged away.
    pub(super) async fn release(
        &self,
        point: &FrozenPointId,
        kept: &Cursors,
    ) -> Result<Event, Error> {
        // What was demanded is sealed. From here on its disks have cursors of their own again.
        demand::end(&self.options.folder)?;
        self.publish_demand(None);
        let mut cursors = match self.commit(point).await {
            Ok(cursors) => cursors,
            Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                return Ok(Event::PointLost);
            }
            // Without a cursor of every disk there is nothing that changes could be counted from.
            Err(error) => return self.lose_tracking(error, &[]),
        };
        self.wait_until_free().await?;
        cursors.retain(|disk, _| !kept.contains_key(disk));
        Ok(Event::Released(cursors))
    }

    pub(super) async fn capture(
        &self,
        point: &FrozenPointId,
        since: &Cursors,
        course: &mut Course,
    ) -> Result<Event, Error> {
        let vm = self.options.vm.clone();
        let points = ask(&self.hypervisor, move |hypervisor| hypervisor.points(&vm)).await?;
        let Some(frozen) = points.into_iter().find(|known| known.id == *point) else {
            return Ok(Event::PointLost);
        };
        let ledger = self.ledger().await?;
        if !is_counted_from(&ledger, since) {
            return Err(ledger.superseded());
        }
        let (vm, disks) = (self.options.vm.clone(), self.options.disks.clone());
        let (progress, hypervisor, now) = (
            self.progress.clone(),
            self.hypervisor.clone(),
            self.clock.now(),
        );
        let barrier = Barrier {
            time: frozen.taken_at,
            consistency: consistency(frozen.consistency),
        };
        let (of, bounded) = (since.clone(), self.is_tracking(&ledger));
        let captured = tokio::task::spawn_blocking(move || {
            let capture = Capture {
                vm: &vm,
                point: &frozen,
                disks: &disks,
                since: &of,
                progress: &progress,
                now,
                bounded,
            };
            let captured = capture.run(hypervisor.as_ref());
            let lost = |error| capture.lost(error, hypervisor.as_ref());
            let lost = captured.as_ref().err().map(lost).unwrap_or_default();
            (captured, lost)
        });
        let (captured, lost) = captured.await.map_err(|_| Error::Broken {
            doing: "captured changes",
        })?;
        let disks = match captured {
            Ok(disks) => disks,
            Err(Error::Host(error)) if error.kind == Kind::PointNotFound => {
                return Ok(Event::PointLost);
            }
            Err(error) => return self.lose_tracking(error, &lost),
        };
        let record = Record {
            after: ledger.last_seal(),
            point: point.clone(),
            since: since.clone(),
            barrier,
            disks,
            part: None,
        };
        if record.changed() == 0
            && !has_resized(&record, &ledger)
            && !course.asked
            && record.barrier.consistency == seal::Consistency::Crash
            && self.is_tracking(&ledger)
        {
            self.abandon_all().await?;
            self.sweep(None).await?;
            self.report_cycle(course, record.barrier.time, 0);
            return Ok(Event::Unchanged);
        }
        durable::write_record(&self.record_path(), &record)?;
        Ok(Event::Captured)
    }

    /// Whether a barrier over all disks has been sealed since they were copied.
    fn is_tracking(&self, ledger: &Ledger) -> bool {
        let cursor = |disk| ledger.cursors().get(disk);
        let tracking = |disk| matches!(cursor(disk), Some(DiskCursor::Tracking { .. }));
        self.options.disks.keys().all(tracking)
    }

    pub(super) async fn ship(&self, course: &mut Course) -> Result<Event, Error> {
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
        let Some(sealed) = record.goes_on_from(ledger.last_seal()) else {
            return Err(ledger.superseded());
        };
        let paths: Vec<PathBuf> = record.disks.iter().map(|disk| disk.path.clone()).collect();
        let (barrier, changed) = (record.barrier.time, record.changed());
        for disk in &record.disks {
            self.progress_of(&disk.disk).set_pending(disk.changed);
        }
        let (mut noted, path) = (record.clone(), self.record_path());
        let note = move |seal, positions| {
            noted.add_part(seal, positions);
            durable::write_record(&path, &noted).map_err(Error::from)
        };
        let replay = Replay {
            record,
            sealed,
            standing: ledger.cursors().clone(),
            cursors: cursors.clone(),
            progress: self.progress.clone(),
            now: self.clock.now(),
        };
        match self
            .ship_pieces(&mut ledger, note, move |outlet| replay.run(outlet))
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
        self.progress.values().for_each(|disk| disk.seal_pending());
        self.report_cycle(course, barrier, changed);
        Ok(Event::Shipped(cursors))
    }

    /// Removes captured logs that no record of use names.
    pub(super) async fn sweep(&self, record: Option<&Record>) -> Result<(), Error> {
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

    pub(super) fn record_path(&self) -> PathBuf {
        self.options.folder.join("capture.json")
    }

    /// The record of a capture; one that cannot be read is none, for what it held is captured again.
    pub(super) fn record(&self) -> Result<Option<Record>, Error> {
        match durable::read_record(&self.record_path()) {
            Ok(record) => Ok(record),
            Err(durable::Error::Damaged { .. } | durable::Error::Content { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a disk has another size than its replica, which a point has to have, too.
fn has_resized(record: &Record, ledger: &Ledger) -> bool {
    let replicated = &ledger.manifest().disks;
    let size = |id| replicated.get(id).map(|disk| disk.size);
    let mut disks = record.disks.iter();
    disks.any(|disk| size(&disk.disk) != Some(disk.size))
}

/// Whether all that was sealed ends where changes are counted from. Else another has sealed since, or began a new chain.
fn is_counted_from(ledger: &Ledger, since: &Cursors) -> bool {
    since
        .iter()
        .all(|(disk, counted)| match ledger.cursors().get(disk) {
            Some(DiskCursor::Tracking { cursor }) => cursor == counted,
            // The point was released since.
            Some(DiskCursor::Copied { .. }) => true,
            Some(DiskCursor::Copying { .. }) | None => false,
        })
}

fn consistency(of: Consistency) -> seal::Consistency {
    match of {
        Consistency::Crash => seal::Consistency::Crash,
        Consistency::Application => seal::Consistency::Application,
    }
}
