//! What a cycle makes of the manifest: before its first page, and after its last. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::datapath::Error;
use crate::datapath::plan::Cycle;
use crate::ids::{DiskId, RecoveryPointId, ReplicaId};
use crate::replica::fence::MachineDescription;
use crate::replica::manifest::{Head, Manifest, Point, PointDisk, ReplicaDisk, TableRef};
use crate::replica::seal::Kind;
use crate::units::Sequence;

/// Whether the cycle names a disk that the replica does not have yet.
pub fn adds_disks(manifest: &Manifest, cycle: &Cycle) -> bool {
    new_disks(manifest, cycle).next().is_some()
}

/// The disks that the replica does not have yet, and the sequences that name them.
fn new_disks<'a>(
    manifest: &'a Manifest,
    cycle: &'a Cycle,
) -> impl Iterator<Item = (Sequence, &'a DiskId)> {
    let seals = cycle.seals.iter().map(|found| &found.seal);
    let named = seals.flat_map(|seal| seal.disks.iter().map(|disk| (seal.sequence, &disk.disk)));
    named.filter(|(_, disk)| !manifest.disks.contains_key(*disk))
}

/// Makes sure that every new disk is one of `machine`, as the fence describes it: a host may bring what it likes, and a
/// disk of a replica costs money and is kept.
///
/// # Errors
/// [`Error::UnknownDisk`] for the first that is not.
pub fn check_disks(
    manifest: &Manifest,
    cycle: &Cycle,
    machine: &MachineDescription,
) -> Result<(), Error> {
    let known = |id: &DiskId| machine.disks.iter().any(|disk| disk.id == *id);
    match new_disks(manifest, cycle).find(|(_, disk)| !known(disk)) {
        None => Ok(()),
        Some((sequence, disk)) => Err(Error::UnknownDisk {
            replica: manifest.replica.clone(),
            sequence,
            disk: disk.clone(),
            machine: machine.name.clone(),
        }),
    }
}

/// Makes sure that no disk became smaller: what its recovery points have beyond its end would be lost.
///
/// # Errors
/// [`Error::Shrunk`] for the first that did.
pub fn check_sizes(manifest: &Manifest, cycle: &Cycle) -> Result<(), Error> {
    for found in &cycle.seals {
        for sealed in &found.seal.disks {
            let size = manifest.disks.get(&sealed.disk).map_or(0, |disk| disk.size);
            if sealed.size < size {
                return Err(Error::Shrunk {
                    replica: manifest.replica.clone(),
                    sequence: found.seal.sequence,
                    disk: sealed.disk.clone(),
                    from: size,
                    to: sealed.size,
                });
            }
        }
    }
    Ok(())
}

/// The manifest that says: pages up to the cycle's target may have been written, under a new fence. Disks have grown to
/// what its seals say.
///
/// # Errors
/// [`Error::Fenced`] if a head was sealed by a planned failover.
pub fn marked(manifest: &Manifest, cycle: &Cycle) -> Result<Manifest, Error> {
    let mut next = manifest.clone();
    next.writer = next.writer.next_cycle();
    let target = cycle.target().seal.sequence;
    for sealed in cycle.seals.iter().flat_map(|found| &found.seal.disks) {
        let fresh = || ReplicaDisk {
            size: sealed.size,
            grown_from: None,
            head: Head::Copying { target: None },
            tables: Vec::new(),
        };
        let disk = next.disks.entry(sealed.disk.clone()).or_insert_with(fresh);
        if sealed.size > disk.size {
            disk.grown_from.get_or_insert(disk.size);
            disk.size = sealed.size;
        }
        // Pages beyond this cycle may have been written by one that went farther and did not end.
        let target = disk
            .head
            .target()
            .map_or(target, |before| before.max(target));
        disk.head = match (&disk.head, sealed.kind) {
            (Head::Sealed { .. }, _) => {
                return Err(Error::Fenced {
                    replica: manifest.replica.clone(),
                });
            }
            (Head::Copying { .. }, _) | (_, Kind::Copy) => Head::Copying {
                target: Some(target),
            },
            (Head::Applying { .. } | Head::Consistent { .. }, Kind::Delta) => {
                Head::Applying { target }
            }
        };
    }
    Ok(next)
}

/// What a cycle has brought about.
#[derive(Debug, Default)]
pub struct Brought {
    /// The new part of each disk's chunk table.
    pub tables: BTreeMap<DiskId, TableRef>,
    /// At a barrier: the snapshots of all disks that the point has, and storage's time.
    pub cut: Option<Cut>,
}

#[derive(Clone, Debug)]
pub struct Cut {
    pub disks: BTreeMap<DiskId, PointDisk>,
    pub at: Timestamp,
}

/// The manifest that says: the cycle is in the disks, and its point, if it has one, is published.
pub fn finished(manifest: &Manifest, cycle: &Cycle, brought: Brought) -> Manifest {
    let mut next = manifest.clone();
    let target = cycle.target();
    next.last_applied.sequence = target.seal.sequence;
    next.last_applied.seal = Some(target.id);
    for sealed in cycle.seals.iter().flat_map(|found| &found.seal.disks) {
        next.last_applied
            .cursors
            .insert(sealed.disk.clone(), sealed.cursor.clone());
        if let Some(disk) = next.disks.get_mut(&sealed.disk) {
            disk.grown_from = None;
        }
    }
    for (id, table) in brought.tables {
        if let Some(disk) = next.disks.get_mut(&id) {
            disk.tables.push(table);
        }
    }
    if let (Some(barrier), Some(cut)) = (cycle.barrier(), brought.cut) {
        for id in cut.disks.keys() {
            if let Some(disk) = next.disks.get_mut(id) {
                disk.head = Head::Consistent {
                    sequence: target.seal.sequence,
                };
            }
        }
        next.points.push(Point {
            id: point_id(&manifest.replica, target.seal.sequence),
            sequence: target.seal.sequence,
            barrier: barrier.clone(),
            published: cut.at,
            disks: cut.disks,
        });
    }
    next
}

/// The disks that a point at this cycle's barrier has: those that its seals bring to it. Disks that are being copied
/// beside are absent until their own first barrier. There is no point below a sequence whose pages may have been
/// written.
pub fn disks_at_barrier(manifest: &Manifest, cycle: &Cycle) -> Vec<DiskId> {
    let target = &cycle.target().seal;
    if target.barrier.is_none() {
        return Vec::new();
    }
    let delta = target.disks.iter().filter(|disk| disk.kind == Kind::Delta);
    let disks: Vec<DiskId> = delta.map(|disk| disk.disk.clone()).collect();
    let is_ahead = |id: &DiskId| {
        let head = manifest.disks.get(id).and_then(|disk| disk.head.target());
        head.is_some_and(|head| head > target.sequence)
    };
    if disks.iter().any(is_ahead) {
        return Vec::new();
    }
    disks
}

/// The id of the point at a sequence: always the same, so that publishing twice is publishing once.
pub fn point_id(replica: &ReplicaId, sequence: Sequence) -> RecoveryPointId {
    let hash = blake3::hash(format!("point {replica} {sequence}").as_bytes());
    let mut bits = [0; 16];
    bits.copy_from_slice(&hash.as_bytes()[..16]);
    RecoveryPointId::from_random(u128::from_be_bytes(bits))
}
