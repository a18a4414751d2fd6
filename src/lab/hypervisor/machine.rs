//! A machine: its record, its disks, its guests, and the one operation that may run on it.
//!
//! What a killed process left is put in order when a machine is loaded: files that belong to nobody are removed, tracking
//! goes on or is known to be lost. Then [`Machine::resume`] takes up what was going on: merges, and the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::durable;
use crate::host::{Error, Kind, PowerState, Result};
use crate::ids::DiskSlot;
use crate::lab::hypervisor::disk::Disk;
use crate::lab::hypervisor::home::{Context, Home};
use crate::lab::hypervisor::merge::{self, Merger};
use crate::lab::hypervisor::power;
use crate::lab::hypervisor::record::{Record, VERSION};
use crate::lab::hypervisor::store::{Store, of_durable, of_io};
use crate::lab::hypervisor::tracking::cursor::Cursor;
use crate::lab::hypervisor::traffic::Traffic;
use crate::lab::hypervisor::work::Work;
use crate::report;

const OPERATION: &str = "load a machine";

pub(crate) struct Machine {
    pub(crate) home: Arc<Home>,
    /// Those that are images.
    disks: RwLock<BTreeMap<DiskSlot, Arc<Disk>>>,
    pub(crate) work: Work,
    pub(crate) traffic: Traffic,
    pub(crate) merger: Merger,
}

impl Machine {
    /// The machine of a folder; nothing if there is none in it.
    pub(crate) fn load(folder: &Path, context: Arc<Context>) -> Result<Option<Self>> {
        let path = Home::record_path(folder);
        let record = durable::read_record::<Record>(&path);
        let Some(record) = record.map_err(|error| of_durable(OPERATION, &error))? else {
            return Ok(None);
        };
        if record.version > VERSION {
            let detail = format!(
                "{} has version {}, this build knows {VERSION}",
                path.display(),
                record.version
            );
            return Err(Error::new(Kind::Unsupported, OPERATION, detail));
        }
        durable::sweep(folder).map_err(|error| of_durable(OPERATION, &error))?;
        let record = settled(folder, &path, &record)?;
        let home = Arc::new(Home {
            vm: record.id.clone(),
            name: record.name.clone(),
            folder: folder.to_owned(),
            store: Store::new(path, record),
            context,
        });
        discard(&home)?;
        let machine = Machine {
            home,
            disks: RwLock::default(),
            work: Work::default(),
            traffic: Traffic::default(),
            merger: Merger::default(),
        };
        machine.follow_disks()?;
        Ok(Some(machine))
    }

    /// Takes up what was going on when the last process ended: merges, and the guest if it ran.
    pub(crate) fn resume(self: &Arc<Self>) {
        let record = self.home.store.get();
        if let Some(point) = &record.point {
            // It was made before the record named the point, but perhaps not durably.
            let marker = self.home.marker(&point.point.id);
            let made = fs::create_dir_all(self.home.points_folder()).and_then(|()| {
                fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(marker)
            });
            if let Err(error) = made {
                tracing::error!(vm = %self.home.vm, %error, "a frozen point cannot be opened");
            }
        }
        if record.is_merging() {
            merge::start(self);
        }
        let after = power::after_start(record.power, record.settings.start_action);
        if let Some(state) = after {
            self.record_power(state);
        }
        if after.unwrap_or(record.power) == PowerState::Running {
            match self.open_disks() {
                Ok(()) => self.traffic.open(),
                Err(error) => {
                    tracing::error!(vm = %self.home.vm, %error, "a machine cannot be started");
                    self.record_power(PowerState::Off);
                }
            }
        }
    }

    /// Writes down what became of the machine when its host started.
    fn record_power(&self, state: PowerState) {
        let recorded = self.home.store.update("start the machine", |record| {
            record.power = state;
        });
        if let Err(error) = recorded {
            tracing::error!(vm = %self.home.vm, %error, ?state, "the state of a machine is not recorded");
        }
    }

    /// The disks that are images, in the order of their slots.
    pub(crate) fn disks(&self) -> Vec<Arc<Disk>> {
        let disks = self.disks.read().unwrap_or_else(PoisonError::into_inner);
        disks.values().cloned().collect()
    }

    /// A disk that is an image.
    pub(crate) fn disk(&self, slot: &DiskSlot) -> Result<Arc<Disk>> {
        const OPERATION: &str = "find a disk";
        let disks = self.disks.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(disk) = disks.get(slot) {
            return Ok(Arc::clone(disk));
        }
        let (kind, detail) = match self.home.store.get().disks.get(slot) {
            Some(disk) => (
                Kind::Unsupported,
                format!("it is {:?}, no image that could be frozen", disk.backing),
            ),
            None => (
                Kind::DiskSetChanged,
                "the machine has no such disk".to_owned(),
            ),
        };
        Err(Error::new(kind, OPERATION, detail).of_disk(slot))
    }

    /// Has the disks that the record names, and no others.
    pub(crate) fn follow_disks(&self) -> Result<()> {
        let record = self.home.store.get();
        let mut disks = self.disks.write().unwrap_or_else(PoisonError::into_inner);
        let images = record.disks.iter().filter(|(_, disk)| disk.is_image());
        let images: BTreeSet<&DiskSlot> = images.map(|(slot, _)| slot).collect();
        disks.retain(|slot, _| images.contains(slot));
        for slot in images {
            if !disks.contains_key(slot) {
                let disk = Disk::load(Arc::clone(&self.home), slot.clone())?;
                disks.insert(slot.clone(), Arc::new(disk));
            }
        }
        Ok(())
    }

    /// Opens all disks, or none.
    pub(crate) fn open_disks(&self) -> Result<()> {
        let disks = self.disks();
        for (index, disk) in disks.iter().enumerate() {
            if let Err(error) = disk.open() {
                disks[..index].iter().for_each(|disk| close(disk));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Closes all disks that are not being merged.
    pub(crate) fn close_disks(&self) {
        self.disks().iter().for_each(|disk| close(disk));
    }

    /// The end of the hypervisor: guests are cut off, and all is on disk. The record still says who ran.
    pub(crate) fn end(&self) {
        self.traffic.cut();
        self.merger.end();
        for disk in self.disks() {
            if let Err(error) = disk.end() {
                tracing::error!(vm = %self.home.vm, %error, "a disk was not closed well");
            }
        }
    }

    /// Makes fewer generations of what is tracked, where there are too many.
    pub(crate) fn fold_generations(&self) {
        let record = self.home.store.get();
        let committed = record.committed.iter().map(|known| &known.cursors);
        let frozen = record.point.iter().map(|point| &point.cursors);
        let cursors: Vec<Cursor> = committed
            .chain(frozen)
            .flat_map(BTreeMap::values)
            .filter_map(Cursor::parse)
            .collect();
        for disk in self.disks() {
            let of_disk = cursors.iter().filter(|cursor| cursor.slot == disk.slot);
            let boundaries = of_disk.map(|cursor| cursor.generation).collect();
            if let Err(error) = disk.fold_generations(&boundaries) {
                tracing::warn!(vm = %self.home.vm, %error, "old maps of changes stay apart");
            }
        }
    }

    /// Drops what the record does not name any more of what is tracked.
    pub(crate) fn follow_generations(&self, operation: &'static str) -> Result<()> {
        self.disks()
            .iter()
            .try_for_each(|disk| disk.follow_generations(operation))
    }
}

/// The record of a machine whose folder may have been moved: its images are where the folder is.
fn settled(folder: &Path, path: &Path, record: &Record) -> Result<Record> {
    let mut settled = record.clone();
    settled.move_to(folder);
    if settled != *record {
        durable::write_record(path, &settled).map_err(|error| of_durable(OPERATION, &error))?;
    }
    Ok(settled)
}

fn close(disk: &Disk) {
    if let Err(error) = disk.close() {
        tracing::error!(vm = %disk.home.vm, %error, "a disk was not closed well");
    }
}

/// Removes the files that the record names for it: made for nobody, merged away, or replaced.
pub(crate) fn discard(home: &Home) -> Result<()> {
    let record = home.store.get();
    let needed = record.images();
    for path in record.discard.iter() {
        // Only what cannot happen stands between a mistake of ours and somebody's disk.
        let gone = path.parent().is_none_or(|folder| !folder.exists());
        if gone || needed.contains(path.as_path()) {
            continue;
        }
        let removed = durable::remove(path).map_err(|error| of_durable(OPERATION, &error));
        removed.and_then(|()| remove_unfinished(path))?;
    }
    home.store
        .update(OPERATION, |record| record.discard.clear())
}

/// Removes what was to become the image `path` and was not finished.
fn remove_unfinished(path: &Path) -> Result<()> {
    let failed = |error: &io::Error| {
        let detail = format!("cannot look beside {}: {error}", path.display());
        Error::new(of_io(error), OPERATION, detail)
    };
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let prefix = format!("{}.tmp-", name.to_string_lossy());
    for entry in fs::read_dir(folder).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let left: PathBuf = entry.path();
            durable::remove(&left).map_err(|error| {
                let detail = report::chain(&error);
                Error::new(Kind::Io, OPERATION, detail)
            })?;
        }
    }
    Ok(())
}
