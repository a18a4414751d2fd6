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
mod tests {
    use super::*;
    use crate::host::PowerState;
    use crate::report::{Code, Fault};

    fn disk(slot: &str, boot: bool, gib: u64) -> Disk {
        Disk {
            slot: slot.parse().unwrap(),
            backing: Backing::Vhdx,
            path: format!("C:\\VMs\\{slot}.vhdx"),
            virtual_size: gib * GIB,
            logical_sector: 512,
            physical_sector: 4096,
            identifier: None,
            boot,
            volume: Some(Volume {
                name: "C:".to_owned(),
                free: 100_000 * GIB,
                size: 200_000 * GIB,
            }),
            problem: None,
        }
    }

    fn machine(disks: Vec<Disk>) -> Machine {
        Machine {
            id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: "web".to_owned(),
            boot: BootGeneration::Gen2,
            power: PowerState::Running,
            start_action: None,
            busy: None,
            processors: 2,
            memory_mib: 4096,
            secure_boot: false,
            guest_os: None,
            replicated_by: None,
            disks,
            network_adapters: Vec::new(),
        }
    }

    fn rules_of(machine: &Machine, excluded: &[&str]) -> Vec<&'static str> {
        let excluded: Vec<String> = excluded.iter().map(|slot| (*slot).to_owned()).collect();
        let selection = Selection {
            excluded: &excluded,
            before_copy: true,
        };
        failures(machine, selection)
            .into_iter()
            .map(|failure| failure.rule)
            .collect()
    }

    #[test]
    fn an_ordinary_machine_fails_nothing_running_or_not() {
        let mut ordinary = machine(vec![
            disk("scsi:0:0", true, 40),
            disk("scsi:0:1", false, 8191),
        ]);
        assert_eq!(rules_of(&ordinary, &[]), [""; 0]);
        ordinary.power = PowerState::Off;
        assert_eq!(rules_of(&ordinary, &[]), [""; 0]);
    }

    #[test]
    fn every_rule_that_is_failed_is_said_at_once() {
        let mut bad = machine(vec![
            disk("scsi:0:0", true, 5000),
            Disk {
                backing: Backing::PassThrough,
                ..disk("scsi:0:1", false, 1)
            },
            Disk {
                backing: Backing::Shared,
                ..disk("scsi:0:2", false, 1)
            },
            Disk {
                logical_sector: 4096,
                ..disk("scsi:0:3", false, 9000)
            },
            Disk {
                problem: Some(Fault::new(Code::BrokenDiskChain, "a.vhdx")),
                ..disk("scsi:0:4", false, 1)
            },
            Disk {
                backing: Backing::Other,
                ..disk("scsi:0:5", false, 1)
            },
        ]);
        bad.replicated_by = Some("Hyper-V Replica".to_owned());
        let expected = [
            "ReplicatedByAnotherProduct",
            "UnknownDisk",
            "DiskTooLarge",
            "PassThroughDisk",
            "SharedDisk",
            "SectorSize",
            "DiskTooLarge",
            "BrokenDiskChain",
            "UnknownDiskFormat",
        ];
        assert_eq!(rules_of(&bad, &["scsi:3:3"]), expected);
    }

    #[test]
    fn what_is_excluded_fails_nothing_but_the_boot_disk_must_stay() {
        let bad = Disk {
            backing: Backing::PassThrough,
            ..disk("scsi:0:1", false, 1)
        };
        let machine = machine(vec![disk("scsi:0:0", true, 40), bad]);
        assert_eq!(rules_of(&machine, &["scsi:0:1"]), [""; 0]);
        assert_eq!(
            rules_of(&machine, &["scsi:0:1", "scsi:0:0"]),
            ["BootDiskExcluded"]
        );
    }

    #[test]
    fn free_space_is_counted_per_volume_and_only_before_the_copy() {
        let mut tight = machine(vec![
            disk("scsi:0:0", true, 60),
            disk("scsi:0:1", false, 60),
        ]);
        for disk in &mut tight.disks {
            disk.volume = Some(Volume {
                name: "C:".to_owned(),
                free: 100 * GIB,
                size: 200 * GIB,
            });
        }
        assert_eq!(rules_of(&tight, &[]), ["LowFreeSpace"]);
        assert_eq!(rules_of(&tight, &["scsi:0:1"]), [""; 0]);
        assert!(
            failures(
                &tight,
                Selection {
                    excluded: &[],
                    before_copy: false
                }
            )
            .is_empty()
        );
    }

    #[test]
    fn free_space_that_moves_a_little_is_said_in_the_same_words() {
        let said = |free| {
            let mut tight = machine(vec![disk("scsi:0:0", true, 150)]);
            tight.disks[0].volume = Some(Volume {
                name: "C:".to_owned(),
                free,
                size: 200 * GIB,
            });
            let selection = Selection {
                excluded: &[],
                before_copy: true,
            };
            failures(&tight, selection)[0].message.clone()
        };
        assert_eq!(said(93 * GIB), said(98 * GIB + 12_345));
        assert!(said(93 * GIB).contains("about 90 GiB of 200 GiB free"));
        assert!(said(9 * GIB).contains("less than 10 GiB of 200 GiB free"));
    }

    #[test]
    fn an_os_disk_of_generation_1_ends_where_its_partition_table_does() {
        let mut old = machine(vec![disk("ide:0:0", true, 2049)]);
        old.boot = BootGeneration::Gen1;
        assert_eq!(rules_of(&old, &[]), ["DiskTooLarge"]);
    }

    #[test]
    fn disks_are_in_the_order_of_their_places_with_the_boot_disk_first() {
        let machine = machine(vec![
            disk("scsi:0:10", false, 1),
            disk("scsi:0:9", false, 1),
            disk("scsi:1:0", true, 1),
        ]);
        let order: Vec<_> = replicated(&machine, &[])
            .iter()
            .map(|disk| disk.slot.as_str().to_owned())
            .collect();
        assert_eq!(order, ["scsi:1:0", "scsi:0:9", "scsi:0:10"]);
    }
}
