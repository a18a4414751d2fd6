//! The prerequisites of protection: every rule that a machine fails, at once, each with what to do about it.
//!
//! | what | limit | source |
//! |---|---|---|
//! | OS disk | 2,048 GiB (generation 1), 4,095 GiB (generation 2) | site-recovery support matrix; MBR; Azure's OS disks |
//! | any disk | 8,191 GiB | a page blob of 8 TiB with a footer |
//! | data disks | 64 | the largest Azure sizes |
//! | sectors | 512 bytes logical | only Premium SSD v2 and Ultra take 4K native |
//! | free space | the size of the replicated disks of a volume | a checkpoint can grow to its disk's size (DESIGN §5.1) |

use std::collections::BTreeMap;

use crate::host::{Backing, BootGeneration, Disk, Machine, Volume};
use crate::ids::DiskSlot;
use crate::units::{Bytes, GIB};

/// The largest disk that a page blob holds with its footer.
const DISK_MAX: u64 = 8191 * GIB;
const OS_DISK_MAX_GEN1: u64 = 2048 * GIB;
const OS_DISK_MAX_GEN2: u64 = 4095 * GIB;
const DATA_DISKS_MAX: usize = 64;
/// Steps of a volume's size in which its free space is said.
const FREE_STEPS: u64 = 20;

/// A rule that a machine fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One word for programs.
    pub rule: &'static str,
    /// What is wrong, with the object and the numbers.
    pub message: String,
    pub remedy: &'static str,
}

impl Failure {
    pub fn new(rule: &'static str, message: impl Into<String>, remedy: &'static str) -> Self {
        Failure {
            rule,
            message: message.into(),
            remedy,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.remedy)
    }
}

/// What is chosen of a machine, and how far its copy is.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// As the spec says them; they may name nothing.
    pub excluded: &'a [String],
    /// Whether the first copy has not begun: it needs the most space.
    pub before_copy: bool,
}

/// The disks of a machine that are replicated, in the order of their places, the boot disk first.
pub fn replicated<'a>(machine: &'a Machine, excluded: &[String]) -> Vec<&'a Disk> {
    let chosen = |disk: &&Disk| !excluded.iter().any(|slot| slot == disk.slot.as_str());
    let mut disks: Vec<&Disk> = machine.disks.iter().filter(chosen).collect();
    disks.sort_by(|a, b| {
        b.boot
            .cmp(&a.boot)
            .then_with(|| place(&a.slot).cmp(&place(&b.slot)))
    });
    disks
}

/// A slot as numbers, so that location 10 comes after 9.
fn place(slot: &DiskSlot) -> (bool, Vec<u8>) {
    let mut parts = slot.as_str().split(':');
    let scsi = parts.next() == Some("scsi");
    (
        scsi,
        parts.filter_map(|number| number.parse().ok()).collect(),
    )
}

/// All rules that `machine` fails.
pub fn failures(machine: &Machine, selection: Selection<'_>) -> Vec<Failure> {
    let disks = replicated(machine, selection.excluded);
    let mut failures = Vec::new();
    failures.extend(other_product(machine));
    failures.extend(unknown_exclusions(machine, selection.excluded));
    failures.extend(boot_disk(machine, &disks));
    failures.extend(disk_count(&disks));
    for disk in &disks {
        failures.extend(disk_failures(machine, disk));
    }
    if selection.before_copy {
        failures.extend(free_space(&disks));
    }
    failures
}

fn other_product(machine: &Machine) -> Option<Failure> {
    let product = machine.replicated_by.as_ref()?;
    Some(Failure::new(
        "ReplicatedByAnotherProduct",
        format!("VM {} is replicated by {product}", machine.name),
        "end that replication (Remove-VMReplication) or delete this ProtectedVM",
    ))
}

fn unknown_exclusions<'a>(
    machine: &'a Machine,
    excluded: &'a [String],
) -> impl Iterator<Item = Failure> + 'a {
    let unknown = |slot: &&String| {
        !machine
            .disks
            .iter()
            .any(|disk| disk.slot.as_str() == slot.as_str())
    };
    excluded.iter().filter(unknown).map(|slot| {
        let message = format!(
            "spec.disks.exclude names {slot}, and VM {} has no disk there",
            machine.name
        );
        Failure::new(
            "UnknownDisk",
            message,
            "correct the place or remove it from the list",
        )
    })
}

fn boot_disk(machine: &Machine, disks: &[&Disk]) -> Option<Failure> {
    let all = machine.disks.iter().filter(|disk| disk.boot).count();
    let chosen = disks.iter().filter(|disk| disk.boot).count();
    match (all, chosen) {
        (_, 1) => None,
        (0, _) => Some(Failure::new(
            "NoBootDisk",
            format!("VM {} does not boot from a virtual disk", machine.name),
            "attach the disk that it boots from, and put it first in the boot order",
        )),
        (_, 0) => Some(Failure::new(
            "BootDiskExcluded",
            format!(
                "spec.disks.exclude names the boot disk of VM {}",
                machine.name
            ),
            "replicate the boot disk",
        )),
        (_, several) => Some(Failure::new(
            "SeveralBootDisks",
            format!(
                "VM {} has {several} boot disks, Azure takes one",
                machine.name
            ),
            "exclude or detach the others",
        )),
    }
}

fn disk_count(disks: &[&Disk]) -> Option<Failure> {
    let data = disks.iter().filter(|disk| !disk.boot).count();
    (data > DATA_DISKS_MAX).then(|| {
        Failure::new(
            "TooManyDisks",
            format!(
                "{data} data disks are to be replicated, an Azure VM takes at most {DATA_DISKS_MAX}"
            ),
            "exclude disks",
        )
    })
}

fn disk_failures(machine: &Machine, disk: &Disk) -> Vec<Failure> {
    let named = format!("disk {} of VM {} ({})", disk.slot, machine.name, disk.path);
    match disk.backing {
        Backing::Vhd | Backing::Vhdx => {}
        Backing::PassThrough => {
            let remedy = "exclude it, or convert it to a VHDX";
            return vec![Failure::new(
                "PassThroughDisk",
                format!("{named} is a physical disk of the host"),
                remedy,
            )];
        }
        Backing::Shared => {
            let remedy = "exclude it: a shared disk cannot be frozen with one VM";
            return vec![Failure::new(
                "SharedDisk",
                format!("{named} is shared by several VMs"),
                remedy,
            )];
        }
        Backing::Other => {
            let remedy = "exclude it, or convert it to a VHDX";
            return vec![Failure::new(
                "UnknownDiskFormat",
                format!("{named} is neither VHD nor VHDX"),
                remedy,
            )];
        }
    }
    if let Some(problem) = &disk.problem {
        let rule = problem.code.as_str();
        return vec![Failure::new(
            rule,
            format!("{named} cannot be read: {}", problem.message),
            problem.code.remedy(),
        )];
    }
    let mut failures = Vec::new();
    if disk.logical_sector != 512 {
        let message = format!(
            "{named} has sectors of {} bytes, Azure takes 512",
            disk.logical_sector
        );
        failures.push(Failure::new(
            "SectorSize",
            message,
            "convert it to a disk with 512-byte sectors (512e), or exclude it",
        ));
    }
    let (limit, role) = size_limit(machine, disk);
    if disk.virtual_size > limit {
        let message = format!(
            "{named} has {}, {role} at most {}",
            Bytes(disk.virtual_size),
            Bytes(limit)
        );
        failures.push(Failure::new(
            "DiskTooLarge",
            message,
            "shrink it, or exclude it if it is a data disk",
        ));
    }
    failures
}

fn size_limit(machine: &Machine, disk: &Disk) -> (u64, &'static str) {
    match (disk.boot, machine.boot) {
        (true, BootGeneration::Gen1) => (
            OS_DISK_MAX_GEN1,
            "the OS disk of a generation 1 VM may have",
        ),
        (true, BootGeneration::Gen2) => (
            OS_DISK_MAX_GEN2,
            "the OS disk of a generation 2 VM may have",
        ),
        (false, _) => (DISK_MAX, "a data disk may have"),
    }
}

/// While the first copy runs, a checkpoint can grow to the size of each disk.
fn free_space(disks: &[&Disk]) -> Vec<Failure> {
    let mut volumes: BTreeMap<&str, (u64, &Volume)> = BTreeMap::new();
    for disk in disks {
        if let Some(volume) = &disk.volume {
            let (needed, last) = volumes.entry(volume.name.as_str()).or_insert((0, volume));
            *needed = needed.saturating_add(disk.virtual_size);
            *last = volume;
        }
    }
    let short = volumes
        .into_iter()
        .filter(|(_, (needed, volume))| *needed > volume.free);
    let failures = short.map(|(name, (needed, volume))| {
        let message = format!(
            "volume {name} has {} of {} free; while its disks are copied, a checkpoint may need up to {}",
            roughly(volume),
            Bytes(volume.size),
            Bytes(needed)
        );
        Failure::new(
            "LowFreeSpace",
            message,
            "free space, or move disks to another volume",
        )
    });
    failures.collect()
}

/// The free space of a volume in coarse steps: it moves all the time, and a status holds nothing that does.
fn roughly(volume: &Volume) -> String {
    let step = (volume.size / FREE_STEPS).max(1);
    match volume.free / step {
        0 => format!("less than {}", Bytes(step)),
        steps => format!("about {}", Bytes(steps * step)),
    }
}

#[cfg(test)]
mod tests;
