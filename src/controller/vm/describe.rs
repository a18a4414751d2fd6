//! What is written down of a machine, and what its agent is told. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::policy::ReplicationPolicy;
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::find::Found;
use crate::controller::vm::{policy, rules};
use crate::host::{Disk, Machine};
use crate::ids::{DiskId, DiskSlot, random};
use crate::replica::fence::{DescribedDisk, Fence, MachineDescription};
use crate::replica::record::Record;
use crate::secret::SasToken;
use crate::wire::{ContainerAccess, RelatedDisk, Relationship, StorageAccess};

/// Former disks that are remembered.
const FORMER_MAX: usize = 64;

/// The description of a machine. Disks keep the ids that they have in `known`; new ones are drawn.
pub fn machine(
    machine: &Machine,
    excluded: &[String],
    known: Option<&Fence>,
) -> MachineDescription {
    let replicated = rules::replicated(machine, excluded);
    let ids = known.map_or_else(BTreeMap::new, |known| identify(&replicated, known));
    let id_of = |slot: &DiskSlot| match ids.get(slot) {
        Some(id) => id.clone(),
        None => DiskId::from_random(random()),
    };
    let disks = replicated.into_iter().map(|disk| DescribedDisk {
        id: id_of(&disk.slot),
        slot: disk.slot.clone(),
        identifier: disk.identifier,
        size: disk.virtual_size,
        boot: disk.boot,
    });
    MachineDescription {
        vm: machine.id.clone(),
        name: machine.name.clone(),
        boot: machine.boot,
        processors: machine.processors,
        memory_mib: machine.memory_mib,
        secure_boot: machine.secure_boot,
        guest_os: machine.guest_os.clone(),
        network_adapters: machine.network_adapters.clone(),
        disks: disks.collect(),
    }
}

/// Which of ours the disks of a machine are, by their places. In this order, each of ours once:
///
/// | | |
/// |---|---|
/// | same place, same identifier | what it was |
/// | same identifier, which no other disk has | it was moved to another place, or is replicated again |
/// | same place, and not smaller | its file was exchanged: it is compared; a smaller one is another disk |
///
/// An identifier alone says little, because templates and copies share it; a place alone says nothing of a disk that is
/// not replicated now.
fn identify(disks: &[&Disk], known: &Fence) -> BTreeMap<DiskSlot, DiskId> {
    let all: Vec<&DescribedDisk> = known
        .former_disks
        .iter()
        .chain(&known.machine.disks)
        .collect();
    let same_identifier = |disk: &Disk, ours: &DescribedDisk| {
        disk.identifier.is_some() && disk.identifier == ours.identifier
    };
    let alone = |disk: &Disk| {
        let of_ours = all
            .iter()
            .filter(|ours| same_identifier(disk, ours))
            .count();
        let of_machine = disks
            .iter()
            .filter(|other| other.identifier == disk.identifier);
        of_ours == 1 && of_machine.count() == 1
    };
    let mut found: BTreeMap<DiskSlot, DiskId> = BTreeMap::new();
    let mut take = |candidates: &[&DescribedDisk], fits: &dyn Fn(&Disk, &DescribedDisk) -> bool| {
        for disk in disks {
            let taken: BTreeSet<&DiskId> = found.values().collect();
            let free = |ours: &&&DescribedDisk| !taken.contains(&ours.id) && fits(disk, ours);
            let ours = candidates
                .iter()
                .rev()
                .find(free)
                .map(|ours| ours.id.clone());
            if let Some(id) = ours
                && !found.contains_key(&disk.slot)
            {
                found.insert(disk.slot.clone(), id);
            }
        }
    };
    take(&all, &|disk, ours| {
        disk.slot == ours.slot && same_identifier(disk, ours)
    });
    take(&all, &|disk, ours| {
        same_identifier(disk, ours) && alone(disk)
    });
    let present: Vec<&DescribedDisk> = known.machine.disks.iter().collect();
    take(&present, &|disk, ours| {
        disk.slot == ours.slot && disk.virtual_size >= ours.size
    });
    found
}

/// The disks that are not replicated any more once `next` is described, the last of them at the end.
pub fn former(known: &Fence, next: &MachineDescription) -> Vec<DescribedDisk> {
    let all = known.former_disks.iter().chain(&known.machine.disks);
    let gone = |disk: &&DescribedDisk| !next.disks.iter().any(|now| now.id == disk.id);
    let mut former: Vec<DescribedDisk> = all.filter(gone).cloned().collect();
    let beyond = former.len().saturating_sub(FORMER_MAX);
    former.drain(..beyond);
    former
}

/// What the agent of `found` should do by `policy`, without access, pause and leave.
pub fn relationship(
    handle: &SiteHandle,
    record: &Record,
    fence: &Fence,
    found: &Found,
    policy: &ReplicationPolicy,
) -> Relationship {
    let access = |container: String| ContainerAccess {
        container,
        sas: SasToken::new(""),
    };
    let disks = fence.machine.disks.iter();
    Relationship {
        replica: record.replica.clone(),
        object: record.object.clone(),
        vm: found.machine.id.clone(),
        disks: disks
            .map(|disk| RelatedDisk {
                id: disk.id.clone(),
                slot: disk.slot.clone(),
            })
            .collect(),
        policy: policy::told(policy),
        suspended: false,
        resynchronize: false,
        storage: StorageAccess {
            account: handle.account.endpoint().account().to_owned(),
            endpoint: handle.account.endpoint().to_string(),
            inbox: access(handle.prefix.inbox(&record.replica)),
            replica: access(handle.prefix.replica(&record.replica)),
            expires: Timestamp::UNIX_EPOCH,
        },
    }
}

/// Whether two relationships differ in access alone.
pub fn is_same_work(a: &Relationship, b: &Relationship) -> bool {
    without_access(a) == without_access(b)
}

fn without_access(relationship: &Relationship) -> Relationship {
    let mut bare = relationship.clone();
    bare.storage.inbox.sas = SasToken::new("");
    bare.storage.replica.sas = SasToken::new("");
    bare.storage.expires = Timestamp::UNIX_EPOCH;
    bare
}

#[cfg(test)]
mod tests;
