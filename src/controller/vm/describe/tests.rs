//! Which disk is which, whatever was done to the machine.

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::host::{Backing, BootGeneration, PowerState};
use crate::ids::ReplicaId;
use crate::units::{GIB, Generation};

/// A disk at a place: location, identifier, size.
type Place = (u8, u128, u64);

fn disk((location, identifier, gib): Place) -> Disk {
    Disk {
        slot: slot(location),
        backing: Backing::Vhdx,
        path: String::new(),
        virtual_size: gib * GIB,
        logical_sector: 512,
        physical_sector: 512,
        identifier: Some(Uuid::from_u128(identifier)),
        boot: location == 0,
        volume: None,
        problem: None,
    }
}

fn slot(location: u8) -> DiskSlot {
    format!("scsi:0:{location}").parse().unwrap()
}

fn of(disks: &[Place]) -> Machine {
    let mut machine: Machine = serde_json::from_value(json!({
        "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "name": "web", "boot": BootGeneration::Gen2,
        "power": PowerState::Running, "busy": null, "processors": 1, "memoryMib": 1, "secureBoot": false,
        "guestOs": null, "replicatedBy": null, "networkAdapters": [], "disks": [],
    }))
    .unwrap();
    machine.disks = disks.iter().copied().map(disk).collect();
    machine
}

/// A fence after the machine looked like each of `lives`.
fn known(lives: &[&[Place]]) -> Fence {
    let first = machine(&of(lives[0]), &[], None);
    let mut fence = Fence::first(ReplicaId::from_random(1), Generation::new(1), first);
    for life in &lives[1..] {
        fence = after(&fence, life);
    }
    fence
}

fn after(fence: &Fence, life: &[Place]) -> Fence {
    let next = machine(&of(life), &[], Some(fence));
    Fence {
        former_disks: former(fence, &next),
        machine: next,
        ..fence.clone()
    }
}

fn id_at(fence: &Fence, location: u8) -> DiskId {
    let mut disks = fence.machine.disks.iter();
    let at = disks.find(|disk| disk.slot == slot(location));
    at.expect("there is a disk").id.clone()
}

#[test]
fn a_disk_that_is_excluded_or_removed_and_comes_back_is_the_same() {
    let first = known(&[&[(0, 7, 1), (1, 8, 1)]]);
    let without = after(&first, &[(0, 7, 1)]);
    assert_eq!(without.former_disks.len(), 1);
    for back in [[(0, 7, 1), (1, 8, 1)], [(0, 7, 1), (5, 8, 1)]] {
        let again = after(&without, &back);
        assert_eq!(id_at(&again, back[1].0), id_at(&first, 1));
        assert_eq!(again.former_disks, []);
    }
}

#[test]
fn a_new_disk_in_the_place_of_a_removed_one_is_a_new_disk() {
    let first = known(&[&[(0, 7, 1), (1, 8, 1)]]);
    let other = after(&after(&first, &[(0, 7, 1)]), &[(0, 7, 1), (1, 9, 1)]);
    assert_ne!(id_at(&other, 1), id_at(&first, 1));
    assert_eq!(other.former_disks.len(), 1);
}

#[test]
fn disks_that_change_their_places_take_their_ids_along() {
    let first = known(&[&[(0, 7, 1), (1, 8, 1)]]);
    let swapped = after(&first, &[(0, 8, 1), (1, 7, 1)]);
    assert_eq!(id_at(&swapped, 0), id_at(&first, 1));
    assert_eq!(id_at(&swapped, 1), id_at(&first, 0));
}

#[test]
fn copies_that_share_an_identifier_are_told_apart_by_their_places() {
    let first = known(&[&[(0, 7, 1), (1, 7, 1), (2, 7, 1)]]);
    let same = after(&first, &[(0, 7, 1), (1, 7, 1), (2, 7, 1)]);
    assert_eq!(same.machine, first.machine);
    let moved = after(&first, &[(0, 7, 1), (1, 7, 1), (3, 7, 1)]);
    assert_ne!(id_at(&moved, 3), id_at(&first, 2));
}

#[test]
fn a_file_that_was_exchanged_is_compared_unless_it_is_smaller() {
    let first = known(&[&[(0, 7, 2)]]);
    assert_eq!(id_at(&after(&first, &[(0, 9, 2)]), 0), id_at(&first, 0));
    assert_ne!(id_at(&after(&first, &[(0, 9, 1)]), 0), id_at(&first, 0));
    // One and the same that has shrunk stays itself, and is refused as such.
    assert_eq!(id_at(&after(&first, &[(0, 7, 1)]), 0), id_at(&first, 0));
}
