//! What Hyper-V refuses is refused here.

use site_recovery::host::lab::spec::{DiskContent, DiskSpec, ImageFormat, ImageKind};
use site_recovery::host::{
    Backing, Busy, Consistency, Error, Hypervisor as _, Kind, PowerOperation,
};
use site_recovery::units::MIB;

use crate::hypervisor::rig::{PATIENCE, Rig, slot, spec};

const SIZE: u64 = 4 * MIB;

fn kind<T: std::fmt::Debug>(refused: Result<T, Error>) -> Kind {
    refused.unwrap_err().kind
}

#[test]
fn a_disk_that_is_no_image_is_neither_tracked_nor_frozen() {
    let rig = Rig::start();
    let foreign = DiskContent::Foreign {
        backing: Backing::Shared,
        name: "/shared.vhds".into(),
        size: SIZE,
    };
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE), foreign]);
    let host = rig.host();
    let freeze = |slots: &[_]| host.freeze(&vm, slots, Consistency::Crash);
    assert_eq!(kind(freeze(&[slot(0), slot(1)])), Kind::Unsupported);
    assert_eq!(
        kind(host.start_tracking(&vm, &[slot(1)])),
        Kind::Unsupported
    );
    assert_eq!(kind(freeze(&[slot(9)])), Kind::DiskSetChanged);
    assert_eq!(kind(freeze(&[])), Kind::Unsupported);
    assert_eq!(host.points(&vm).unwrap(), []);
    let point = freeze(&[slot(0)]).unwrap();
    assert_eq!(
        kind(host.open(&vm, &point.id, &slot(1)).map(drop)),
        Kind::DiskSetChanged
    );
}

#[test]
fn two_machines_do_not_write_one_image() {
    let rig = Rig::start();
    let first = rig.machine("first", vec![DiskContent::vhdx(SIZE)]);
    let path = rig.describe(&first).disks[0].path.clone();
    let same = DiskContent::Existing {
        path: path.clone().into(),
    };
    let child = DiskContent::New {
        format: ImageFormat::Vhdx,
        kind: ImageKind::Differencing {
            parent: path.into(),
        },
        size: SIZE,
        block_size: None,
        logical_sector: 512,
        physical_sector: 4096,
    };
    for (name, disk) in [("second", same), ("third", child)] {
        let vm = rig.console().create(&spec(name, vec![disk])).unwrap();
        let start = || rig.host().power(&vm, PowerOperation::Start, PATIENCE);
        let refused = start().unwrap_err();
        assert_eq!(refused.kind, Kind::Busy);
        assert!(refused.detail.contains("machine first"), "{refused}");
        rig.turn_off(&first);
        start().unwrap();
        let other_way = rig.host().power(&first, PowerOperation::Start, PATIENCE);
        assert_eq!(kind(other_way), Kind::Busy);
        rig.turn_off(&vm);
        if name == "second" {
            rig.power_on(&first);
        }
    }
}

#[test]
fn a_machine_that_is_busy_is_not_frozen() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let busy = Busy {
        operation: "migrating".into(),
        percent: Some(40),
    };
    let set = |busy| {
        rig.console()
            .configure(&vm, |settings| settings.busy = busy)
    };
    set(Some(busy.clone())).unwrap();
    assert_eq!(rig.describe(&vm).busy, Some(busy));
    let freeze = || rig.host().freeze(&vm, &[slot(0)], Consistency::Crash);
    let refused = freeze().unwrap_err();
    assert_eq!(refused.kind, Kind::Busy);
    assert!(refused.detail.contains("migrating"), "{refused}");
    set(None).unwrap();
    freeze().unwrap();
    assert_eq!(kind(freeze()), Kind::Busy);
}

#[test]
fn disks_and_machines_are_changed_only_while_that_is_safe() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let console = rig.console();
    let disk = DiskSpec {
        slot: slot(1),
        content: DiskContent::vhdx(SIZE),
    };
    assert_eq!(kind(console.attach(&vm, &disk)), Kind::InvalidState);
    assert_eq!(kind(console.detach(&vm, &slot(0))), Kind::InvalidState);
    assert_eq!(kind(console.delete(&vm, true)), Kind::InvalidState);
    let point = rig
        .host()
        .freeze(&vm, &[slot(0)], Consistency::Crash)
        .unwrap();
    rig.turn_off(&vm);
    assert_eq!(kind(console.detach(&vm, &slot(0))), Kind::Busy);
    rig.host().abandon(&vm, &point.id).unwrap();
    rig.wait_merged(&vm);
    console.attach(&vm, &disk).unwrap();
    assert_eq!(rig.describe(&vm).disks.len(), 2);
    assert!(console.attach(&vm, &disk).is_err(), "the slot is taken");
    let same = spec("web", Vec::new());
    assert_eq!(kind(console.create(&same)), Kind::InvalidState);
    console.delete(&vm, true).unwrap();
    assert_eq!(kind(rig.host().machine(&vm)), Kind::VmNotFound);
    assert!(!rig.home("web").exists());
}
