//! A machine that moves from one hypervisor to another, with its folder.

use site_recovery::host::lab::spec::{Arrival, DiskContent};
use site_recovery::host::{Consistency, Hypervisor as _, Kind, PowerState, TrackingCursor};
use site_recovery::ids::VmId;
use site_recovery::units::{ByteRange, MIB};

use crate::hypervisor::rig::{Rig, changes, frozen_tags, live_tags, slot};

const SIZE: u64 = 16 * MIB;

/// Two hosts; on the first a running machine with a cursor, a change since, and a point that is frozen.
struct Moving {
    here: Rig,
    there: Rig,
    vm: VmId,
    cursor: TrackingCursor,
}

impl Moving {
    fn new() -> Self {
        let (here, there) = (Rig::start(), Rig::start());
        let vm = here.machine("web", vec![DiskContent::vhdx(SIZE)]);
        let host = here.host();
        host.start_tracking(&vm, &[slot(0)]).unwrap();
        let point = host.freeze(&vm, &[slot(0)], Consistency::Crash).unwrap();
        let cursor = host.commit(&vm, &point.id).unwrap().remove(0).1;
        here.wait_merged(&vm);
        let moving = Moving {
            here,
            there,
            vm,
            cursor,
        };
        moving.write(&moving.here, 3 * MIB);
        let point = host.freeze(&moving.vm, &[slot(0)], Consistency::Crash);
        point.unwrap();
        moving
    }

    fn write(&self, on: &Rig, at: u64) {
        let mut guest = on.connect("web", &slot(0));
        guest.write(at, &[7; 4096]).unwrap();
    }

    fn arrive(&self, arrival: &Arrival) -> VmId {
        let between = self.there.path("between");
        self.here.console().hand_over(&self.vm, &between).unwrap();
        self.there.console().take_in(&between, arrival).unwrap()
    }
}

#[test]
fn a_machine_that_moves_runs_on_with_its_disks_its_frozen_point_and_its_tracking() {
    let moving = Moving::new();
    let before = live_tags(&mut moving.here.connect("web", &slot(0)));
    let vm = moving.arrive(&Arrival::default());
    assert_eq!(vm, moving.vm);
    let gone = moving.here.host().machine(&vm).unwrap_err();
    assert_eq!(gone.kind, Kind::VmNotFound);
    let machine = moving.there.describe(&vm);
    assert_eq!(
        (machine.name.as_str(), machine.power),
        ("web", PowerState::Running)
    );
    assert_eq!(
        live_tags(&mut moving.there.connect("web", &slot(0))),
        before
    );
    // The point holds what it held, and knows what had changed up to it.
    let host = moving.there.host();
    let points = host.points(&vm).unwrap();
    let [point] = &points[..] else {
        panic!("{points:?}")
    };
    let disk = moving.there.open(&vm, point, &slot(0));
    assert_eq!(frozen_tags(disk.as_ref()), before);
    let at = |start: u64| ByteRange::new(start, start + 4096).unwrap();
    assert_eq!(
        changes(disk.as_ref(), &moving.cursor).unwrap(),
        [at(3 * MIB)]
    );
    // What is written after the move counts as well, also after another start.
    host.abandon(&vm, &point.id).unwrap();
    moving.write(&moving.there, 5 * MIB);
    let mut there = moving.there;
    there.wait_merged(&vm);
    there.kill_and_start();
    let point = there
        .host()
        .freeze(&vm, &[slot(0)], Consistency::Crash)
        .unwrap();
    let disk = there.open(&vm, &point, &slot(0));
    let counted = changes(disk.as_ref(), &moving.cursor).unwrap();
    for start in [3 * MIB, 5 * MIB] {
        let covers = |range: &ByteRange| range.start() <= start && range.end() >= start + 4096;
        assert!(counted.iter().any(covers), "{counted:?}");
    }
}

#[test]
fn what_was_tracked_can_stay_behind_and_does_not_follow_a_copy_under_a_new_id() {
    let id: VmId = "5c1a0f34-6f1e-4c83-9a53-0d1f7be0a111".parse().unwrap();
    let lost = Arrival {
        tracking_lost: Some("copied without it".to_owned()),
        ..Arrival::default()
    };
    let copied = Arrival {
        id: Some(id.clone()),
        ..Arrival::default()
    };
    for (arrival, points) in [(lost, 1), (copied, 0)] {
        let moving = Moving::new();
        let vm = moving.arrive(&arrival);
        assert_eq!(vm, arrival.id.clone().unwrap_or(moving.vm));
        let host = moving.there.host();
        let left = host.points(&vm).unwrap();
        assert_eq!(left.len(), points);
        left.iter()
            .for_each(|point| host.abandon(&vm, &point.id).unwrap());
        moving.there.wait_merged(&vm);
        host.start_tracking(&vm, &[slot(0)]).unwrap();
        let point = host.freeze(&vm, &[slot(0)], Consistency::Crash).unwrap();
        let disk = moving.there.open(&vm, &point, &slot(0));
        let told = changes(disk.as_ref(), &moving.cursor).unwrap_err();
        assert_eq!(told.kind, Kind::TrackingLost);
    }
}
