//! What may be protected, and what is said of what may not.

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
