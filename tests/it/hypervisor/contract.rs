//! What the trait promises, call by call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use site_recovery::host::lab::fault::Place;
use site_recovery::host::lab::spec::{DiskContent, Hook};
use site_recovery::host::{
    Backing, Consistency, Hypervisor as _, Kind, PowerOperation, PowerState, Revision, StartAction,
};
use site_recovery::lab::guest::client::Client;
use site_recovery::report::Code;
use site_recovery::units::{ByteRange, MIB};

use crate::hypervisor::disk::{assert_same, sectors};
use crate::hypervisor::rig::{PATIENCE, Rig, changes, frozen_tags, live_tags, slot, spec};

const SIZE: u64 = 4 * MIB;
const CRASH: Consistency = Consistency::Crash;

/// Writes one sector.
fn put(client: &mut Client, sector: u64, tag: u64) {
    client.write(512 * sector, &sectors(&[tag])).unwrap();
}

#[test]
fn a_freeze_is_one_instant_of_all_disks_while_guests_write() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE); 2]);
    let (mut first, mut second) = (rig.connect("web", &slot(0)), rig.connect("web", &slot(1)));
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    // Each number is written to the second disk only when the first has taken it.
    let guest = std::thread::spawn(move || {
        let mut number = 0;
        while !told.load(Ordering::Acquire) {
            number += 1;
            put(&mut first, 0, number);
            put(&mut second, 0, number);
        }
        number
    });
    let mut last = 0;
    for round in 0..12 {
        let point = rig.host().freeze(&vm, &[slot(0), slot(1)], CRASH).unwrap();
        let [one, two] =
            [0, 1].map(|disk| frozen_tags(rig.open(&vm, &point, &slot(disk)).as_ref())[0]);
        assert!(
            one == two || one == two + 1,
            "round {round}: {one} and {two}"
        );
        assert!(one >= last, "round {round}: {one} after {last}");
        last = one;
        if round % 2 == 0 {
            rig.host().abandon(&vm, &point.id).unwrap();
        } else {
            rig.host().commit(&vm, &point.id).unwrap();
        }
        rig.wait_merged(&vm);
    }
    done.store(true, Ordering::Release);
    let number = guest.join().unwrap();
    for disk in 0..2 {
        let live = live_tags(&mut rig.connect("web", &slot(disk)));
        assert_eq!(live[0], number);
    }
}

#[test]
fn a_point_survives_the_hypervisor_and_says_when_and_how_it_was_taken() {
    let mut rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let mut guest = rig.connect("web", &slot(0));
    put(&mut guest, 3, 1);
    let point = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    assert_eq!((point.consistency, &point.fallback), (CRASH, &None));
    put(&mut guest, 3, 2);
    let before = frozen_tags(rig.open(&vm, &point, &slot(0)).as_ref());
    assert_eq!(before[3], 1);
    let identifier = rig.describe(&vm).disks[0].identifier;
    rig.stop_and_start();
    assert_eq!(
        rig.host().points(&vm).unwrap(),
        std::slice::from_ref(&point)
    );
    assert_same(
        &frozen_tags(rig.open(&vm, &point, &slot(0)).as_ref()),
        &before,
        "after a restart",
    );
    assert_eq!(live_tags(&mut rig.connect("web", &slot(0)))[3], 2);
    assert_eq!(rig.describe(&vm).disks[0].identifier, identifier);
    rig.host().abandon(&vm, &point.id).unwrap();
    rig.wait_merged(&vm);
    rig.stop_and_start();
    assert_eq!(rig.describe(&vm).disks[0].identifier, identifier);
}

#[test]
fn an_open_disk_of_a_point_that_was_released_is_not_read_any_more() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let point = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    let disk = rig.open(&vm, &point, &slot(0));
    rig.host().commit(&vm, &point.id).unwrap();
    rig.wait_merged(&vm);
    let gone = |result: Result<(), site_recovery::host::Error>| {
        assert_eq!(result.unwrap_err().kind, Kind::PointNotFound);
    };
    gone(disk.read_at(0, &mut [0; 512]));
    gone(disk.allocated(ByteRange::to(SIZE)).map(drop));
    gone(rig.host().open(&vm, &point.id, &slot(0)).map(drop));
}

#[test]
fn releasing_is_repeatable_and_the_unknown_is_told_apart() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    rig.host().start_tracking(&vm, &[slot(0)]).unwrap();
    let first = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    let cursors = rig.host().commit(&vm, &first.id).unwrap();
    assert_eq!(rig.host().commit(&vm, &first.id).unwrap(), cursors);
    let refused = rig.host().abandon(&vm, &first.id).unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidState);
    rig.wait_merged(&vm);
    let second = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    rig.host().abandon(&vm, &second.id).unwrap();
    rig.host().abandon(&vm, &second.id).unwrap();
    let unknown = rig.host().commit(&vm, &second.id).unwrap_err();
    assert_eq!(unknown.kind, Kind::PointNotFound);
    // Forgotten when a later cursor is all that is needed.
    rig.wait_merged(&vm);
    let third = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    let later = rig.host().commit(&vm, &third.id).unwrap();
    let keep: Vec<_> = later.into_iter().map(|(_, cursor)| cursor).collect();
    rig.host().forget(&vm, &keep).unwrap();
    let forgotten = rig.host().commit(&vm, &first.id).unwrap_err();
    assert_eq!(forgotten.kind, Kind::PointNotFound);
    assert_eq!(rig.host().commit(&vm, &third.id).unwrap().len(), 1);
}

#[test]
fn a_machine_is_busy_while_it_merges_and_its_guest_goes_on() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let point = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    let mut guest = rig.connect("web", &slot(0));
    put(&mut guest, 1, 7);
    rig.hold(&vm, Place::MergeStep, "merge");
    rig.host().abandon(&vm, &point.id).unwrap();
    assert!(rig.console().await_held("merge").unwrap());
    let busy = rig.describe(&vm).busy.unwrap();
    assert_eq!(
        (busy.operation.as_str(), busy.percent),
        ("merging disks", Some(0))
    );
    let refused = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap_err();
    assert_eq!(refused.kind, Kind::Busy);
    put(&mut guest, 2, 8);
    assert_eq!(live_tags(&mut guest)[1..3], [7, 8]);
    rig.console().release("merge").unwrap();
    rig.wait_merged(&vm);
    assert_eq!(live_tags(&mut guest)[1..3], [7, 8]);
}

#[test]
fn a_merge_that_fails_is_tried_again() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let mut guest = rig.connect("web", &slot(0));
    for place in [Place::MergeStep, Place::MergeCopied, Place::MergeComplete] {
        let point = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
        put(&mut guest, 5, 50);
        rig.fail(&vm, place, 1, Kind::DiskFull);
        rig.host().abandon(&vm, &point.id).unwrap();
        rig.wait_merged(&vm);
        assert_eq!(live_tags(&mut guest)[5], 50);
    }
}

#[test]
fn a_freeze_that_fails_leaves_the_guest_on_its_old_disks() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE); 2]);
    let mut guest = rig.connect("web", &slot(0));
    let before = crate::hypervisor::rig::images_in(&rig.home("web"));
    for place in [Place::Freeze, Place::Barrier, Place::ChildrenMade] {
        rig.fail(&vm, place, 1, Kind::DiskFull);
        let failed = rig.host().freeze(&vm, &[slot(0), slot(1)], CRASH);
        assert_eq!(failed.unwrap_err().kind, Kind::DiskFull);
        put(&mut guest, 1, 9);
        assert_eq!(live_tags(&mut guest)[1], 9);
        assert_eq!(crate::hypervisor::rig::images_in(&rig.home("web")), before);
        assert_eq!(rig.host().points(&vm).unwrap(), []);
    }
    rig.host().freeze(&vm, &[slot(0), slot(1)], CRASH).unwrap();
}

#[test]
fn applications_are_asked_before_a_freeze_and_told_after_it() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let said = rig.path("said");
    let hook = |word: &str| Hook {
        command: vec![
            "sh".into(),
            "-c".into(),
            format!("echo {word} >> {}", said.display()),
        ],
        timeout_ms: 60_000,
    };
    let freeze = || {
        let point = rig
            .host()
            .freeze(&vm, &[slot(0)], Consistency::Application)
            .unwrap();
        rig.host().abandon(&vm, &point.id).unwrap();
        rig.wait_merged(&vm);
        point
    };
    let without = freeze();
    assert_eq!(without.consistency, CRASH);
    assert_eq!(without.fallback.unwrap().code, Code::GuestQuiesceFailed);
    rig.console()
        .configure(&vm, |settings| {
            settings.hooks.quiesce = Some(hook("quiesce"));
            settings.hooks.thaw = Some(hook("thaw"));
        })
        .unwrap();
    let point = freeze();
    assert_eq!(
        (point.consistency, point.fallback),
        (Consistency::Application, None)
    );
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "quiesce\nthaw\n");
    rig.console()
        .configure(&vm, |settings| {
            settings.hooks.quiesce = Some(Hook {
                command: vec!["sleep".into(), "600".into()],
                timeout_ms: 50,
            });
        })
        .unwrap();
    let late = freeze();
    assert_eq!(late.consistency, CRASH);
    let why = late.fallback.unwrap().message;
    assert!(why.contains("did not end"), "{why}");
}

#[test]
fn power_is_changed_and_a_state_that_holds_is_success() {
    let rig = Rig::start();
    let vm = rig
        .console()
        .create(&spec("web", vec![DiskContent::vhdx(SIZE)]))
        .unwrap();
    let power = |operation| rig.host().power(&vm, operation, PATIENCE);
    assert_eq!(rig.describe(&vm).power, PowerState::Off);
    assert_eq!(power(PowerOperation::ShutDown).unwrap(), PowerState::Off);
    for _ in 0..2 {
        assert_eq!(power(PowerOperation::Start).unwrap(), PowerState::Running);
    }
    let mut guest = rig.connect("web", &slot(0));
    put(&mut guest, 1, 4);
    // A guest that does not end keeps its machine.
    let shut_down = |command: &str| {
        let command = [command, "600"].map(str::to_owned).to_vec();
        rig.console().configure(&vm, |settings| {
            settings.hooks.shutdown = Some(Hook {
                command,
                timeout_ms: 60_000,
            });
        })
    };
    shut_down("sleep").unwrap();
    let patience = Duration::from_millis(50);
    let late = rig
        .host()
        .power(&vm, PowerOperation::ShutDown, patience)
        .unwrap_err();
    assert_eq!(late.kind, Kind::Timeout);
    put(&mut guest, 2, 5);
    shut_down("echo").unwrap();
    assert_eq!(power(PowerOperation::ShutDown).unwrap(), PowerState::Off);
    assert!(guest.write(0, &[0; 512]).is_err());
    let refused = Client::connect(&rig.address(), "web/scsi:0:0", PATIENCE)
        .err()
        .unwrap();
    assert!(refused.to_string().contains("Off"), "{refused}");
    rig.power_on(&vm);
    assert_eq!(live_tags(&mut rig.connect("web", &slot(0)))[1..3], [4, 5]);
    rig.console().suspend(&vm, PowerState::Saved).unwrap();
    assert_eq!(rig.describe(&vm).power, PowerState::Saved);
    assert_eq!(
        power(PowerOperation::ShutDown).unwrap_err().kind,
        Kind::InvalidState
    );
    assert_eq!(power(PowerOperation::TurnOff).unwrap(), PowerState::Off);
}

#[test]
fn a_machine_whose_start_action_is_nothing_stays_off_when_its_host_comes_back() {
    let mut rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    assert_eq!(rig.describe(&vm).start_action, Some(StartAction::IfRunning));
    rig.kill_and_start();
    assert_eq!(rig.describe(&vm).power, PowerState::Running);
    for _ in 0..2 {
        let host = rig.host();
        host.set_start_action(&vm, StartAction::Nothing).unwrap();
    }
    rig.kill_and_start();
    let back = rig.describe(&vm);
    assert_eq!(
        (back.power, back.start_action),
        (PowerState::Off, Some(StartAction::Nothing))
    );
    let host = rig.host();
    host.set_start_action(&vm, StartAction::Always).unwrap();
    rig.kill_and_start();
    assert_eq!(rig.describe(&vm).power, PowerState::Running);
    drop(rig.connect("web", &slot(0)));
}

#[test]
fn who_waits_for_a_change_hears_of_it() {
    let rig = Rig::start();
    let seen = rig
        .host()
        .wait_for_change(Revision::default(), PATIENCE)
        .unwrap();
    let same = rig
        .host()
        .wait_for_change(seen, Duration::from_millis(20))
        .unwrap();
    assert_eq!(same, seen);
    let host = rig.host();
    let waiting = std::thread::spawn(move || host.wait_for_change(seen, PATIENCE).unwrap());
    rig.console().create(&spec("web", Vec::new())).unwrap();
    assert_ne!(waiting.join().unwrap(), seen);
}

#[test]
fn machines_are_described_with_what_keeps_them_from_being_protected() {
    let mut rig = Rig::start();
    let mut disks = vec![DiskContent::vhdx(SIZE); 2];
    disks.push(DiskContent::Foreign {
        backing: Backing::PassThrough,
        name: "\\\\.\\PHYSICALDRIVE3".into(),
        size: 1 << 40,
    });
    let vm = rig.console().create(&spec("web", disks)).unwrap();
    std::fs::remove_file(&rig.describe(&vm).disks[1].path).unwrap();
    let machine = rig.describe(&vm);
    let [good, broken, foreign] = machine.disks.as_slice() else {
        panic!("{machine:?}");
    };
    assert_eq!(
        (good.virtual_size, good.backing, good.boot),
        (SIZE, Backing::Vhdx, true)
    );
    assert_eq!((good.logical_sector, good.physical_sector), (512, 4096));
    assert!(good.problem.is_none() && good.identifier.is_some());
    let volume = good.volume.as_ref().unwrap();
    assert!(volume.free > 0 && volume.free <= volume.size);
    let problem = broken.problem.as_ref().unwrap();
    assert_eq!(problem.code, Code::BrokenDiskChain);
    assert_eq!(
        (foreign.backing, foreign.virtual_size),
        (Backing::PassThrough, 1 << 40)
    );
    let start = rig.host().power(&vm, PowerOperation::Start, PATIENCE);
    assert!(start.is_err(), "a machine without its disk does not start");
    let unknown = rig
        .host()
        .machine(&"00000000-0000-0000-0000-000000000000".parse().unwrap());
    assert_eq!(unknown.unwrap_err().kind, Kind::VmNotFound);
    rig.kill();
    assert_eq!(rig.host().machines().unwrap_err().kind, Kind::Unavailable);
}

#[test]
fn a_call_that_was_made_to_fail_fails_so_often_and_a_volume_has_what_was_said() {
    let rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    rig.fail(&vm, Place::Freeze, 2, Kind::OutOfMemory);
    for _ in 0..2 {
        let failed = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap_err();
        assert_eq!(failed.kind, Kind::OutOfMemory);
    }
    let point = rig.host().freeze(&vm, &[slot(0)], CRASH).unwrap();
    let disk = rig.open(&vm, &point, &slot(0));
    assert!(
        changes(
            disk.as_ref(),
            &site_recovery::host::TrackingCursor::new("1/x")
        )
        .is_err()
    );
    rig.fail(&vm, Place::GuestWrite, 1, Kind::DiskFull);
    let mut guest = rig.connect("web", &slot(0));
    assert!(guest.write(0, &[1; 512]).is_err());
    guest.write(0, &[1; 512]).unwrap();
    let volume = site_recovery::host::Volume {
        name: "/small".into(),
        free: 1,
        size: 2,
    };
    rig.console()
        .configure(&vm, |settings| settings.volume = Some(volume.clone()))
        .unwrap();
    assert_eq!(rig.describe(&vm).disks[0].volume, Some(volume));
}
