//! Checkpoints that a machine's owner takes: none of ours, and replication goes on over them.

use site_recovery::host::lab::spec::DiskContent;
use site_recovery::host::{Consistency, Hypervisor as _, Kind};
use site_recovery::units::MIB;

use crate::hypervisor::disk::sectors;
use crate::hypervisor::rig::{Rig, changes, images_in, live_tags, slot};

const SIZE: u64 = 4 * MIB;

#[test]
fn a_users_checkpoint_is_neither_listed_nor_merged_and_tracking_goes_on_over_it() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let host = rig.host();
    host.start_tracking(&vm, &[slot(0)]).unwrap();
    let freeze = || host.freeze(&vm, &[slot(0)], Consistency::Crash).unwrap();
    let point = freeze();
    let cursor = host.commit(&vm, &point.id).unwrap()[0].1.clone();
    rig.wait_merged(&vm);
    let mut guest = rig.connect("web", &slot(0));
    guest.write(4096, &sectors(&[1])).unwrap();
    let taken = rig.console().checkpoint(&vm, "before the update").unwrap();
    assert_eq!(host.points(&vm).unwrap(), []);
    guest.write(MIB, &sectors(&[2])).unwrap();
    let point = freeze();
    let told = changes(rig.open(&vm, &point, &slot(0)).as_ref(), &cursor).unwrap();
    assert_eq!(
        told.iter().map(|range| range.start()).collect::<Vec<_>>(),
        [4096, MIB]
    );
    host.abandon(&vm, &point.id).unwrap();
    rig.wait_merged(&vm);
    assert_eq!(
        rig.console().checkpoints(&vm).unwrap(),
        std::slice::from_ref(&taken)
    );
    assert_eq!(images_in(&rig.home("web")).len(), 2);
    host.stop_tracking(&vm).unwrap();
    assert_eq!(
        rig.console().checkpoints(&vm).unwrap(),
        std::slice::from_ref(&taken)
    );
    rig.console().delete_checkpoint(&vm, taken.id).unwrap();
    rig.wait_merged(&vm);
    assert_eq!(images_in(&rig.home("web")).len(), 1);
    let live = live_tags(&mut guest);
    assert_eq!((live[8], live[2048]), (1, 2));
}

#[test]
fn applying_a_checkpoint_brings_the_disk_back_and_loses_tracking() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let host = rig.host();
    host.start_tracking(&vm, &[slot(0)]).unwrap();
    let mut guest = rig.connect("web", &slot(0));
    guest.write(0, &sectors(&[1])).unwrap();
    let taken = rig.console().checkpoint(&vm, "good").unwrap();
    let point = host.freeze(&vm, &[slot(0)], Consistency::Crash).unwrap();
    let refused = rig.console().checkpoint(&vm, "another").unwrap_err();
    assert_eq!(refused.kind, Kind::Busy);
    let cursor = host.commit(&vm, &point.id).unwrap()[0].1.clone();
    rig.wait_merged(&vm);
    guest.write(0, &sectors(&[2])).unwrap();
    let refused = rig.console().apply_checkpoint(&vm, taken.id).unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidState);
    rig.turn_off(&vm);
    rig.console().apply_checkpoint(&vm, taken.id).unwrap();
    rig.power_on(&vm);
    assert_eq!(live_tags(&mut rig.connect("web", &slot(0)))[0], 1);
    let point = host.freeze(&vm, &[slot(0)], Consistency::Crash).unwrap();
    let lost = changes(rig.open(&vm, &point, &slot(0)).as_ref(), &cursor).unwrap_err();
    assert_eq!(lost.kind, Kind::TrackingLost);
    assert!(lost.detail.contains("applied"), "{lost}");
}
