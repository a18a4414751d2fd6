//! What is written down of a machine, and what its agent is told. No I/O.

use jiff::Timestamp;

use crate::api::policy::ReplicationPolicy;
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::find::Found;
use crate::controller::vm::{policy, rules};
use crate::host::Machine;
use crate::ids::{DiskId, random};
use crate::replica::fence::{DescribedDisk, Fence, MachineDescription};
use crate::replica::record::Record;
use crate::secret::SasToken;
use crate::wire::{ContainerAccess, RelatedDisk, Relationship, StorageAccess};

/// The description of a machine. Disks keep the ids that they have in `known`, by their places; new ones are drawn.
pub fn machine(
    machine: &Machine,
    excluded: &[String],
    known: Option<&Fence>,
) -> MachineDescription {
    let id_of = |slot: &crate::ids::DiskSlot| {
        let disks = known.into_iter().flat_map(|fence| &fence.machine.disks);
        let mut same = disks.filter(|disk| disk.slot == *slot);
        same.next()
            .map_or_else(|| DiskId::from_random(random()), |disk| disk.id.clone())
    };
    let disks = rules::replicated(machine, excluded)
        .into_iter()
        .map(|disk| DescribedDisk {
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
