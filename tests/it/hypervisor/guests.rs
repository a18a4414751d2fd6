//! The guest of the demonstration, and what a guest may rely on.

use site_recovery::host::lab::spec::DiskContent;
use site_recovery::lab::guest::client::{Address, Client};
use site_recovery::lab::guest::{Counters, Guest, Workload, fill};
use site_recovery::units::{ByteRange, KIB, MIB, to_usize};

use crate::hypervisor::rig::{PATIENCE, Rig, slot};

const SIZE: u64 = 16 * MIB;
const EXPORT: &str = "web/scsi:0:0";

fn workload(rig: &Rig) -> Workload {
    Workload {
        address: rig.address(),
        export: EXPORT.into(),
        area: ByteRange::new(8 * MIB, SIZE).unwrap(),
        record: 8192,
        bytes_per_second: 100 * MIB,
        records_per_flush: 4,
        seed: 1,
    }
}

#[test]
fn a_guest_goes_on_after_its_hypervisor_was_killed_and_stays_in_its_area() {
    let mut rig = Rig::start();
    let vm = rig.machine("web", vec![DiskContent::vhdx(SIZE)]);
    let guest = Guest::start(workload(&rig)).unwrap();
    assert!(guest.wait_until(PATIENCE, |counters| counters.flushed >= 64 * KIB));
    let mut goes_on_after = |action: &mut dyn FnMut(&mut Rig)| {
        let before = guest.counters();
        action(&mut rig);
        let is_back = |now: &Counters| now.connections > before.connections;
        assert!(guest.wait_until(PATIENCE, is_back));
        let back = guest.counters();
        assert!(guest.wait_until(PATIENCE, |now| now.flushed > back.flushed));
    };
    goes_on_after(&mut |rig| rig.kill_and_start());
    goes_on_after(&mut |rig| {
        rig.turn_off(&vm);
        rig.power_on(&vm);
    });
    let counters = guest.end();
    assert!(counters.flushed <= counters.written);
    let mut content = vec![0; to_usize(SIZE)];
    rig.connect("web", &slot(0)).read(0, &mut content).unwrap();
    let (outside, area) = content.split_at(to_usize(8 * MIB));
    assert!(outside.iter().all(|&byte| byte == 0));
    assert!(area.iter().any(|&byte| byte != 0));
}

#[test]
fn a_disk_is_filled_with_what_compresses_by_half_and_the_same_seed_writes_the_same() {
    let rig = Rig::start();
    rig.machine("web", vec![DiskContent::vhdx(SIZE); 2]);
    let area = ByteRange::new(MIB, 4 * MIB + 512).unwrap();
    let mut contents = [0, 1].map(|disk| {
        let export = format!("web/{}", slot(disk));
        let filled = fill(&rig.address(), &export, area, 42).unwrap();
        assert_eq!(filled, area.len());
        let mut content = vec![0; to_usize(SIZE)];
        rig.connect("web", &slot(disk))
            .read(0, &mut content)
            .unwrap();
        content
    });
    assert!(contents[0] == contents[1]);
    let (before, rest) = contents[0].split_at_mut(to_usize(MIB));
    let (filled, after) = rest.split_at_mut(to_usize(area.len()));
    assert!(before.iter().chain(after.iter()).all(|&byte| byte == 0));
    assert!(
        filled
            .chunks(1024)
            .all(|piece| piece.iter().any(|&byte| byte != 0))
    );
    let beyond = ByteRange::new(SIZE - 512, 2 * SIZE).unwrap();
    assert_eq!(fill(&rig.address(), EXPORT, beyond, 1).unwrap(), 512);
}

#[test]
fn a_guest_of_a_machine_that_is_not_there_waits_and_ends_when_told() {
    let rig = Rig::start();
    let guest = Guest::start(workload(&rig)).unwrap();
    assert_eq!(guest.end().written, 0);
    let nowhere = Address::Unix(rig.path("nowhere"));
    assert!(Client::connect(&nowhere, EXPORT, PATIENCE).is_err());
}
