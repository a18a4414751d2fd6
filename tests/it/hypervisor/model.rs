//! The hypervisor against a model, over random histories: guests write, points are frozen and released, and the process is
//! killed at any moment, also in the middle of a freeze, a release or a merge.
//!
//! Whatever happens: a frozen point holds what the disks held at the barrier; changes since a cursor miss nothing, and
//! without a kill they are exact; nothing that was flushed is lost; tracking is never lost without a reason; what is
//! left in the end is one image per disk, in which qemu finds what the model holds.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop};
use proptest::{prop_oneof, proptest};
use site_recovery::host::lab::fault::Place;
use site_recovery::host::lab::spec::{DiskContent, ImageFormat, ImageKind};
use site_recovery::units::{KIB, MIB};

use crate::hypervisor::world::{Release, World, Write};

/// More than one block of a dynamic VHD, whose default is 2 MiB, and no whole number of them.
const SIZE: u64 = 5 * MIB + 64 * KIB;

#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    Flush(usize),
    Freeze,
    FreezeKilled(Place),
    Release(Release),
    ReleaseKilled(Release, Place, Vec<Write>),
    WaitMerged,
    Forget,
    Kill,
    KillAmid(Vec<Write>, usize),
    Restart,
    PowerCycle,
}

fn disk(format: ImageFormat, kind: ImageKind, logical_sector: u32) -> DiskContent {
    DiskContent::New {
        format,
        kind,
        size: SIZE,
        block_size: match format {
            ImageFormat::Vhdx => Some(1 << 20),
            ImageFormat::Vhd => None,
        },
        logical_sector,
        physical_sector: 4096,
    }
}

fn disks() -> impl Strategy<Value = Vec<DiskContent>> {
    let kinds = vec![
        disk(ImageFormat::Vhdx, ImageKind::Dynamic, 512),
        disk(ImageFormat::Vhdx, ImageKind::Dynamic, 4096),
        disk(ImageFormat::Vhdx, ImageKind::Fixed, 512),
        disk(ImageFormat::Vhd, ImageKind::Dynamic, 512),
        disk(ImageFormat::Vhd, ImageKind::Fixed, 512),
    ];
    prop::collection::vec(prop::sample::select(kinds), 2)
}

fn write() -> impl Strategy<Value = Write> {
    let blocks = prop_oneof![4 => 1_u64..4, 1 => 4_u64..300];
    (0_usize..2, any::<u64>(), blocks, prop::bool::weighted(0.15)).prop_map(
        |(disk, at, blocks, zeroes)| Write {
            disk,
            at,
            blocks,
            zeroes,
        },
    )
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    prop::collection::vec(write(), 1..20)
}

fn how() -> impl Strategy<Value = Release> {
    prop_oneof![2 => Just(Release::Commit), 1 => Just(Release::Abandon)]
}

fn step() -> impl Strategy<Value = Step> {
    let freezing = prop::sample::select(vec![Place::Barrier, Place::ChildrenMade, Place::Frozen]);
    let releasing = prop::sample::select(vec![
        Place::Released,
        Place::MergeStep,
        Place::MergeCopied,
        Place::MergeComplete,
        Place::MergeRecorded,
    ]);
    prop_oneof![
        24 => write().prop_map(Step::Write),
        4 => (0_usize..2).prop_map(Step::Flush),
        8 => Just(Step::Freeze),
        2 => freezing.prop_map(Step::FreezeKilled),
        6 => how().prop_map(Step::Release),
        4 => (how(), releasing, writes())
            .prop_map(|(how, place, writes)| Step::ReleaseKilled(how, place, writes)),
        2 => Just(Step::WaitMerged),
        1 => Just(Step::Forget),
        1 => Just(Step::Kill),
        3 => (writes(), 0_usize..20).prop_map(|(writes, at)| Step::KillAmid(writes, at)),
        1 => Just(Step::Restart),
        1 => Just(Step::PowerCycle),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Write(write) => world.write(*write),
        Step::Flush(disk) => world.flush(*disk),
        Step::Freeze => world.freeze(),
        Step::FreezeKilled(place) => world.freeze_killed(*place),
        Step::Release(how) => world.release(*how),
        Step::ReleaseKilled(how, place, writes) => world.release_killed(*how, *place, writes),
        Step::WaitMerged => world.wait_merged(),
        Step::Forget => world.forget(),
        Step::Kill => world.kill(),
        Step::KillAmid(writes, at) => world.kill_amid(writes, *at),
        Step::Restart => world.restart(),
        Step::PowerCycle => world.power_cycle(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_with_kills_loses_nothing_and_reports_every_change(
        disks in disks(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(disks);
        for step in &steps {
            take(&mut world, step);
        }
        world.end();
    }
}

#[test]
fn a_kill_at_every_place_of_a_freeze_and_a_release_is_survived() {
    let mut world = World::new(vec![
        disk(ImageFormat::Vhdx, ImageKind::Dynamic, 512),
        disk(ImageFormat::Vhd, ImageKind::Dynamic, 512),
    ]);
    let write = |number: u64| Write {
        disk: usize::from(number % 2 == 1),
        at: 97 * number,
        blocks: 1 + number % 5,
        zeroes: number.is_multiple_of(7),
    };
    let mut numbers = 0..;
    let mut next = |count| numbers.by_ref().take(count).map(write).collect::<Vec<_>>();
    for release in [
        Place::Released,
        Place::MergeStep,
        Place::MergeCopied,
        Place::MergeComplete,
        Place::MergeRecorded,
    ] {
        for freeze in [Place::Barrier, Place::ChildrenMade, Place::Frozen] {
            next(10).into_iter().for_each(|each| world.write(each));
            world.freeze_killed(freeze);
        }
        next(10).into_iter().for_each(|each| world.write(each));
        world.release_killed(Release::Commit, release, &next(5));
        world.freeze();
        world.release_killed(Release::Abandon, release, &next(5));
    }
    world.end();
}
