//! Captures what changed on each disk into a replication log beside it, at local speed, and ships it from there.
//!
//! ```text
//! per disk: <disk file>.<disk id>.<log>.hrl, synced ─► capture.json in the engine's folder ─► the point is released
//! ```
//! So a slow link never holds a checkpoint open. A capture counts only with its record; a log without one is swept, and
//! what it held is captured again from its cursor. The record says after which seal it comes, and
//! what of it is sealed: what was sealed is not shipped twice, and a bad link gets to the end of a long delta.

pub mod changes;
pub mod record;
pub mod replay;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::durable;
use crate::engine::Error;
use crate::engine::capture::changes::Changes;
use crate::engine::capture::record::CapturedDisk;
use crate::engine::progress::Progress;
use crate::host::{self, FrozenDisk, FrozenPoint, Hypervisor, Machine, TrackingCursor, Volume};
use crate::hrl::{Identity, LogWriter};
use crate::ids::{DiskId, DiskSlot, VmId};
use crate::replica::Digest;
use crate::units::{ByteRange, CHUNK, GIB, MIB, is_zero, to_usize};

/// The disk is read in pieces of this length.
const PIECE: u64 = MIB;
/// Free space is looked at after this many bytes.
const SPACE_LOOK: u64 = 256 * MIB;
/// Capturing leaves a twentieth of a volume, at most this, to the machines on it: production comes first.
const LEAST_FREE_MAX: u64 = 10 * GIB;

/// What is captured.
pub struct Capture<'a> {
    pub vm: &'a VmId,
    pub point: &'a FrozenPoint,
    pub disks: &'a BTreeMap<DiskId, DiskSlot>,
    pub since: &'a BTreeMap<DiskId, TrackingCursor>,
    pub progress: &'a BTreeMap<DiskId, Arc<Progress>>,
    pub now: Timestamp,
    /// Whether changes of more than half of a disk are an error: comparing costs less then. After a copy they are not,
    /// or a busy disk would be compared for ever.
    pub bounded: bool,
}

impl Capture<'_> {
    /// Captures all disks. Blocks. A failure leaves nothing behind that a sweep would not remove.
    ///
    /// # Errors
    /// If the point cannot be read, a log not be written, or a volume is nearly full.
    pub fn run(&self, hypervisor: &dyn Hypervisor) -> Result<Vec<CapturedDisk>, Error> {
        let mut captured = Vec::new();
        for (id, slot) in self.disks {
            match self.capture(hypervisor, id, slot) {
                Ok(disk) => captured.push(disk),
                Err(error) => {
                    captured.iter().for_each(|disk| remove_quietly(&disk.path));
                    return Err(error);
                }
            }
        }
        Ok(captured)
    }

    /// The disks that have to be compared, if `error` says that of one: others may have met the same fate, and are then
    /// compared with it. Those of which it is not known are found when they are captured again. Blocks.
    pub fn lost(&self, error: &Error, hypervisor: &dyn Hypervisor) -> Vec<DiskId> {
        if error.lost(self.disks).is_none() {
            return Vec::new();
        }
        let counted = |id: &DiskId, slot: &DiskSlot| {
            let frozen = hypervisor.open(self.vm, &self.point.id, slot)?;
            self.count(id, slot, frozen.as_ref())
        };
        let lost = |(id, slot): (&DiskId, &DiskSlot)| match counted(id, slot).err()? {
            Error::Host(error) if error.kind == host::Kind::PointNotFound => None,
            error => error.of_disk(slot).lost(self.disks),
        };
        self.disks.iter().filter_map(lost).flatten().collect()
    }

    /// Counts what changed on a disk, without reading it.
    fn count(&self, id: &DiskId, slot: &DiskSlot, frozen: &dyn FrozenDisk) -> Result<(), Error> {
        let mut changes = Changes::new(id, frozen, self.cursor(id)?);
        let mut changed = 0;
        while let Some(range) = changes.next_change()? {
            changed += range.len();
            if self.is_overgrown(changed, frozen.size()) {
                return Err(self.overgrown(id, slot, frozen.size()));
            }
        }
        Ok(())
    }

    fn cursor(&self, id: &DiskId) -> Result<&TrackingCursor, Error> {
        self.since.get(id).ok_or(Error::Broken {
            doing: "looked for the cursor of a disk",
        })
    }

    const fn is_overgrown(&self, changed: u64, size: u64) -> bool {
        self.bounded && changed > size / 2
    }

    fn overgrown(&self, id: &DiskId, slot: &DiskSlot, size: u64) -> Error {
        Error::Overgrown {
            disk: id.clone(),
            slot: slot.clone(),
            size,
        }
    }

    fn capture(
        &self,
        hypervisor: &dyn Hypervisor,
        id: &DiskId,
        slot: &DiskSlot,
    ) -> Result<CapturedDisk, Error> {
        let machine = hypervisor.machine(self.vm)?;
        let frozen = hypervisor.open(self.vm, &self.point.id, slot)?;
        let log = Uuid::new_v4();
        let path = log_path(&machine, slot, id, &log)?;
        let result = self.write(hypervisor, id, slot, frozen.as_ref(), (log, &path));
        let result = result.map_err(|error| error.of_disk(slot));
        if result.is_err() {
            remove_quietly(&path);
        }
        result
    }

    fn write(
        &self,
        hypervisor: &dyn Hypervisor,
        id: &DiskId,
        slot: &DiskSlot,
        frozen: &dyn FrozenDisk,
        (log, path): (Uuid, &Path),
    ) -> Result<CapturedDisk, Error> {
        let cannot_write = |source| Error::Log {
            disk: id.clone(),
            source,
        };
        let io = |source| Error::Capture {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let size = frozen.size();
        let mut changes = Changes::new(id, frozen, self.cursor(id)?);
        let progress = self.progress.get(id).cloned().unwrap_or_default();
        progress.begin(0, 0);
        let identity = Identity {
            id: log,
            previous: None,
            disk_size: size,
            created: self.now,
        };
        let file = File::create_new(path).map_err(io)?;
        let writer = LogWriter::new(BufWriter::with_capacity(to_usize(PIECE), file), identity);
        let mut writer = writer.map_err(cannot_write)?;
        let mut content = record::content_hasher();
        let (mut buffer, mut unlooked, mut changed) = (Vec::new(), SPACE_LOOK, 0);
        while let Some(range) = changes.next_change()? {
            progress.add_total(range.len());
            changed += range.len();
            if self.is_overgrown(changed, size) {
                return Err(self.overgrown(id, slot, size));
            }
            for piece in range.split_at_multiples(PIECE) {
                if unlooked >= SPACE_LOOK {
                    check_space(&hypervisor.machine(self.vm)?, slot)?;
                    unlooked = 0;
                }
                unlooked += piece.len();
                buffer.resize(to_usize(piece.len()), 0);
                frozen.read_at(piece.start(), &mut buffer)?;
                for run in runs(piece, &buffer) {
                    record::hash_run(&mut content, run.range, run.data);
                    match run.data {
                        Some(data) => writer
                            .write(run.range.start(), data)
                            .map_err(cannot_write)?,
                        None => writer.zero(run.range).map_err(cannot_write)?,
                    }
                }
                progress.add_done(piece.len());
            }
        }
        let mut file = writer.finish(self.now).map_err(cannot_write)?;
        file.flush().map_err(io)?;
        file.get_ref().sync_all().map_err(io)?;
        durable::sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        let content = Digest::from(content.finalize());
        Ok(CapturedDisk {
            disk: id.clone(),
            size,
            log,
            path: path.to_owned(),
            content,
            changed,
        })
    }
}

/// A stretch of one piece: data, or zeroes.
struct Stretch<'a> {
    range: ByteRange,
    data: Option<&'a [u8]>,
}

/// Cuts a piece into data and zeroes, chunk by chunk, neighbours joined.
fn runs(piece: ByteRange, buffer: &[u8]) -> Vec<Stretch<'_>> {
    let part = |range: ByteRange| {
        let from = to_usize(range.start() - piece.start());
        &buffer[from..from + to_usize(range.len())]
    };
    let mut all: Vec<(ByteRange, bool)> = Vec::new();
    for chunk in piece.split_at_multiples(CHUNK) {
        let zero = is_zero(part(chunk));
        match all.last_mut() {
            Some((last, kind)) if *kind == zero => {
                *last = ByteRange::new(last.start(), chunk.end()).expect("chunks ascend");
            }
            Some(_) | None => all.push((chunk, zero)),
        }
    }
    all.into_iter()
        .map(|(range, zero)| Stretch {
            range,
            data: (!zero).then(|| part(range)),
        })
        .collect()
}

fn volume_of<'a>(machine: &'a Machine, slot: &DiskSlot) -> Option<&'a Volume> {
    machine
        .disks
        .iter()
        .find(|disk| disk.slot == *slot)?
        .volume
        .as_ref()
}

fn check_space(machine: &Machine, slot: &DiskSlot) -> Result<(), Error> {
    let Some(volume) = volume_of(machine, slot) else {
        return Ok(());
    };
    let least = (volume.size / 20).min(LEAST_FREE_MAX);
    if volume.free >= least {
        return Ok(());
    }
    Err(Error::LowSpace {
        volume: volume.name.clone(),
        free: volume.free,
        least,
    })
}

/// Beside the disk, named after it, its id and the log.
fn log_path(machine: &Machine, slot: &DiskSlot, id: &DiskId, log: &Uuid) -> Result<PathBuf, Error> {
    let disk = machine.disks.iter().find(|disk| disk.slot == *slot);
    let disk = disk.ok_or_else(|| {
        let kind = host::Kind::DiskSetChanged;
        host::Error::new(kind, "find the disk", "the machine has no such disk").of_disk(slot)
    })?;
    let path = Path::new(&disk.path);
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let short = &log.simple().to_string()[..8];
    Ok(path.with_file_name(format!("{stem}.{id}.{short}.hrl")))
}

fn remove_quietly(path: &Path) {
    if let Err(error) = durable::remove(path) {
        tracing::warn!(path = %path.display(), error = crate::report::chain(&error), "a log is left behind");
    }
}

/// Removes the logs of `disks` beside the machine's disks that are not in `kept`: what a crash left.
///
/// # Errors
/// If a folder cannot be read or a log not be removed.
pub fn sweep(
    machine: &Machine,
    disks: &BTreeMap<DiskId, DiskSlot>,
    kept: &[PathBuf],
) -> Result<(), Error> {
    for disk in &machine.disks {
        let Some(id) = disks
            .iter()
            .find_map(|(id, slot)| (*slot == disk.slot).then_some(id))
        else {
            continue;
        };
        let Some(folder) = Path::new(&disk.path).parent() else {
            continue;
        };
        let io = |source| Error::Capture {
            path: folder.to_owned(),
            source: Box::new(source),
        };
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            if name.ends_with(".hrl") && name.contains(&format!(".{id}.")) && !kept.contains(&path)
            {
                durable::remove(&path)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn zero_chunks_become_zero_records() {
        let mut buffer = vec![0; to_usize(4 * CHUNK)];
        buffer[to_usize(CHUNK)] = 1;
        let piece = range(8 * CHUNK, 12 * CHUNK);
        let cut: Vec<_> = runs(piece, &buffer)
            .iter()
            .map(|run| (run.range, run.data.is_some()))
            .collect();
        let expected = [
            (range(8 * CHUNK, 9 * CHUNK), false),
            (range(9 * CHUNK, 10 * CHUNK), true),
            (range(10 * CHUNK, 12 * CHUNK), false),
        ];
        assert_eq!(cut, expected);
    }

    #[test]
    fn capturing_stops_before_a_volume_is_full() {
        let slot: DiskSlot = "scsi:0:0".parse().unwrap();
        let machine = |free| {
            let json = serde_json::json!({
                "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "name": "vm", "boot": "Gen2", "power": "Running",
                "busy": null, "processors": 1, "memoryMib": 1, "secureBoot": false, "guestOs": null,
                "replicatedBy": null, "networkAdapters": [],
                "disks": [{ "slot": "scsi:0:0", "backing": "Vhdx", "path": "/x", "virtualSize": 1, "logicalSector": 512,
                    "physicalSector": 512, "identifier": null, "boot": true, "problem": null,
                    "volume": { "name": "C:", "free": free, "size": 100 * GIB } }]
            });
            serde_json::from_value::<Machine>(json).unwrap()
        };
        assert!(check_space(&machine(5 * GIB), &slot).is_ok());
        assert!(matches!(
            check_space(&machine(5 * GIB - 1), &slot),
            Err(Error::LowSpace { .. })
        ));
    }
}
