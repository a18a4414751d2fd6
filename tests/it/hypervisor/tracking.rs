//! What is told of changes: all of them since a cursor that is known, and never an empty answer for one that is not.

use site_recovery::formats::{self, OpenOptions};
use site_recovery::host::lab::spec::{DiskContent, DiskSpec};
use site_recovery::host::{
    Consistency, FrozenPoint, Hypervisor as _, Kind, PowerOperation, Result, TrackingCursor,
};
use site_recovery::ids::VmId;
use site_recovery::units::{ByteRange, GIB, MIB};

use crate::hypervisor::rig::{PATIENCE, Rig, changes, slot};

const SIZE: u64 = 64 * MIB;

struct Tracked {
    rig: Rig,
    vm: VmId,
}

impl Tracked {
    fn new(size: u64) -> Self {
        let rig = Rig::start();
        let vm = rig.machine("web", vec![DiskContent::vhdx(size)]);
        rig.host().start_tracking(&vm, &[slot(0)]).unwrap();
        Tracked { rig, vm }
    }

    fn freeze(&self) -> FrozenPoint {
        self.rig.wait_merged(&self.vm);
        let host = self.rig.host();
        host.freeze(&self.vm, &[slot(0)], Consistency::Crash)
            .unwrap()
    }

    fn cursor(&self) -> TrackingCursor {
        let point = self.freeze();
        let cursors = self.rig.host().commit(&self.vm, &point.id).unwrap();
        cursors.into_iter().next().unwrap().1
    }

    fn write(&self, at: u64, length: usize) {
        let mut guest = self.rig.connect("web", &slot(0));
        guest.write(at, &vec![1; length]).unwrap();
    }

    /// The live image, when it is alone.
    fn path(&self) -> String {
        self.rig.wait_merged(&self.vm);
        self.rig.describe(&self.vm).disks[0].path.clone()
    }

    /// The changes up to now.
    fn since(&self, cursor: &TrackingCursor) -> Result<Vec<ByteRange>> {
        let point = self.freeze();
        let disk = self.rig.open(&self.vm, &point, &slot(0));
        let found = changes(disk.as_ref(), cursor);
        self.rig.host().abandon(&self.vm, &point.id).unwrap();
        found
    }

    fn lost(&self, cursor: &TrackingCursor) -> String {
        self.lost_as(Kind::TrackingLost, cursor)
    }

    fn lost_as(&self, kind: Kind, cursor: &TrackingCursor) -> String {
        let lost = self.since(cursor).unwrap_err();
        assert_eq!(lost.kind, kind);
        lost.detail
    }

    /// Does something to the machine while it is off.
    fn while_off(&self, action: impl FnOnce()) {
        self.rig.wait_merged(&self.vm);
        self.rig.turn_off(&self.vm);
        action();
        self.rig.power_on(&self.vm);
    }
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

#[test]
fn changes_are_exact_over_restarts_points_that_were_abandoned_and_many_cursors() {
    let mut tracked = Tracked::new(SIZE);
    let first = tracked.cursor();
    assert_eq!(tracked.since(&first).unwrap(), []);
    tracked.write(4096, 512);
    assert_eq!(tracked.since(&first).unwrap(), [range(4096, 8192)]);
    tracked.rig.stop_and_start();
    let second = tracked.cursor();
    tracked.write(4096, 4096);
    tracked.write(MIB - 1024, 2048);
    let late = [range(4096, 8192), range(MIB - 4096, MIB + 4096)];
    assert_eq!(tracked.since(&second).unwrap(), late);
    assert_eq!(tracked.since(&first).unwrap(), late);
    for _ in 0..20 {
        tracked.cursor();
    }
    assert_eq!(
        tracked.since(&second).unwrap(),
        late,
        "after many generations"
    );
}

#[test]
fn a_kill_reports_the_regions_that_may_have_been_written() {
    let mut tracked = Tracked::new(GIB);
    let cursor = tracked.cursor();
    tracked.write(300 * MIB + 512, 512);
    tracked.rig.kill_and_start();
    let told = tracked.since(&cursor).unwrap();
    assert_eq!(told, [range(300 * MIB, 301 * MIB)]);
    // What comes after is counted as finely as before.
    let cursor = tracked.cursor();
    tracked.write(4096, 1024);
    assert_eq!(tracked.since(&cursor).unwrap(), [range(4096, 8192)]);
}

#[test]
fn only_the_window_is_told() {
    let tracked = Tracked::new(SIZE);
    let cursor = tracked.cursor();
    tracked.write(0, 64 << 10);
    let point = tracked.freeze();
    let disk = tracked.rig.open(&tracked.vm, &point, &slot(0));
    let found = disk.changes(&cursor, range(5000, 9000)).unwrap();
    assert_eq!(
        (found.ranges, found.covered),
        (vec![range(5000, 9000)], 9000)
    );
    assert!(disk.changes(&cursor, range(0, SIZE + 1)).is_err());
}

#[test]
fn tracking_is_lost_where_something_may_have_been_missed() {
    let tracked = Tracked::new(SIZE);
    let (host, console) = (tracked.rig.host(), tracked.rig.console());
    let old = tracked.cursor();
    let kept = tracked.cursor();
    host.forget(&tracked.vm, std::slice::from_ref(&kept))
        .unwrap();
    assert!(tracked.lost(&old).contains("forgotten"));
    assert_eq!(tracked.since(&kept).unwrap(), []);
    for nonsense in [
        "",
        "2/x",
        "1/00000000-0000-0000-0000-000000000001/1/scsi:0:0/67108864",
    ] {
        tracked.lost(&TrackingCursor::new(nonsense));
    }
    host.stop_tracking(&tracked.vm).unwrap();
    tracked.lost(&kept);
    host.start_tracking(&tracked.vm, &[slot(0)]).unwrap();
    assert!(tracked.lost(&kept).contains("anew"));
    // The disk is taken out and put in again: nobody knows what happened to it in between.
    let cursor = tracked.cursor();
    tracked.rig.wait_merged(&tracked.vm);
    let path = tracked.rig.describe(&tracked.vm).disks[0]
        .path
        .clone()
        .into();
    tracked.while_off(|| {
        console.detach(&tracked.vm, &slot(0)).unwrap();
        let content = DiskContent::Existing { path };
        let disk = DiskSpec {
            slot: slot(0),
            content,
        };
        console.attach(&tracked.vm, &disk).unwrap();
    });
    tracked.lost(&cursor);
}

#[test]
fn a_disk_that_others_have_written_while_it_was_off_is_noticed() {
    let mut tracked = Tracked::new(SIZE);
    let cursor = tracked.cursor();
    let path = tracked.path();
    // Reading it is no change, whether the hypervisor runs or not.
    tracked.while_off(|| drop(formats::open(path.as_ref(), &OpenOptions::default()).unwrap()));
    assert_eq!(tracked.since(&cursor).unwrap(), []);
    tracked.rig.wait_merged(&tracked.vm);
    tracked.rig.stop();
    let mut image = formats::open_writable(path.as_ref(), &OpenOptions::default()).unwrap();
    image.write_at(0, &[1; 512]).unwrap();
    image.close().unwrap();
    tracked.rig.start_again();
    let offline = || tracked.lost_as(Kind::DiskChangedOffline, &cursor);
    assert!(offline().contains("DataWriteGuid"));
    tracked
        .rig
        .host()
        .start_tracking(&tracked.vm, &[slot(0)])
        .unwrap();
    // That it is tracked again does not take back why the older cursor is of no use.
    assert!(offline().contains("DataWriteGuid"));
    let cursor = tracked.cursor();
    tracked.write(0, 512);
    assert_eq!(tracked.since(&cursor).unwrap(), [range(0, 4096)]);
}

#[test]
fn a_kill_of_a_machine_that_is_off_loses_nothing() {
    let mut tracked = Tracked::new(SIZE);
    let cursor = tracked.cursor();
    tracked.write(4096, 512);
    tracked.rig.wait_merged(&tracked.vm);
    let off = tracked
        .rig
        .host()
        .power(&tracked.vm, PowerOperation::ShutDown, PATIENCE);
    off.unwrap();
    tracked.rig.kill_and_start();
    tracked.rig.power_on(&tracked.vm);
    assert!(tracked.since(&cursor).unwrap().contains(&range(4096, 8192)));
}
