//! Tracking against a model, with the process killed between any two operations.

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_oneof, proptest};

use super::*;

const SIZE: u64 = 40 * MIB + 512;

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64),
    Switch {
        saved: bool,
    },
    /// The process ends; cleanly, if the map was saved.
    Restart {
        clean: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..SIZE - 1, 1..300 * KIB)
        .prop_map(|(start, len)| Step::Write(start, len.min(SIZE - start)));
    prop_oneof![
        6 => write,
        2 => (0..2).prop_map(|saved| Step::Switch { saved: saved == 1 }),
        1 => (0..2).prop_map(|clean| Step::Restart { clean: clean == 1 }),
        1 => Just(Step::Restart { clean: true }),
    ]
}

fn all_changes(tracker: &Tracker, first: u64) -> Vec<ByteRange> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < SIZE {
        let window = ByteRange::new(at, SIZE).unwrap();
        let (ranges, covered) = tracker.changes((first, tracker.generations.open), window, 3);
        assert!(covered > at, "no progress at {at}");
        found.extend(ranges);
        at = covered;
    }
    found
}

fn covers(ranges: &[ByteRange], wanted: ByteRange) -> bool {
    wanted.split_at_multiples(BLOCK).all(|piece| {
        ranges
            .iter()
            .any(|range| range.contains(piece.intersect(ByteRange::to(SIZE))))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_write_is_missed_whenever_the_process_ends(steps in vec(step(), 1..25)) {
        let folder = tempfile::tempdir().unwrap();
        let mut tracker = Tracker::begin(folder.path(), SIZE).unwrap();
        let mut written: Vec<(u64, ByteRange)> = Vec::new();
        let mut exact = true;
        for step in steps {
            match step {
                Step::Write(start, len) => {
                    let range = ByteRange::at(start, len).unwrap();
                    tracker.note(range).unwrap();
                    written.push((tracker.generations.open, range));
                }
                Step::Switch { saved } => {
                    let next = tracker.prepare().unwrap();
                    let unsaved = tracker.switch(next);
                    if saved {
                        unsaved.save().unwrap();
                    }
                    exact &= saved;
                }
                Step::Restart { clean } => {
                    if clean {
                        tracker.save().unwrap();
                    }
                    exact &= clean;
                    let generations = tracker.generations.clone();
                    drop(tracker);
                    tracker = Tracker::load(folder.path(), &generations).unwrap();
                }
            }
        }
        for first in 1..=tracker.generations.open {
            let found = all_changes(&tracker, first);
            let since = written.iter().filter(|(generation, _)| *generation >= first);
            for (_, range) in since.clone() {
                prop_assert!(covers(&found, *range), "{range} since {first} in {found:?}");
            }
            if exact {
                let touched = |range: &ByteRange| since.clone().any(|(_, written)| {
                    let out = written.align_out(BLOCK);
                    !out.intersect(*range).is_empty()
                });
                let pieces: Vec<_> = found.iter().flat_map(|range| range.split_at_multiples(BLOCK)).collect();
                prop_assert!(pieces.iter().all(touched), "more than was written since {first}");
            }
        }
    }
}

fn slot() -> DiskSlot {
    "scsi:0:0".parse().unwrap()
}

#[test]
fn a_generation_without_files_is_lost_and_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::begin(folder.path(), SIZE).unwrap();
    let generations = tracker.generations.clone();
    fs::remove_file(intent_path(folder.path(), &generations, 1)).unwrap();
    assert!(matches!(
        Tracker::load(folder.path(), &generations),
        Err(Error::Missing { .. })
    ));
}

#[test]
fn a_damaged_map_is_refused_although_an_intent_stands_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut tracker = Tracker::begin(folder.path(), SIZE).unwrap();
    tracker.note(ByteRange::to(MIB)).unwrap();
    tracker.save().unwrap();
    let generations = tracker.generations.clone();
    let path = map_path(folder.path(), &generations, 1);
    let mut content = fs::read(&path).unwrap();
    content[100] ^= 1;
    fs::write(&path, content).unwrap();
    assert!(matches!(
        Tracker::load(folder.path(), &generations),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn a_cursor_of_another_disk_size_tracking_or_time_is_not_answered() {
    let now = Generations::begin(SIZE).switched().forgotten_before(2);
    let good = now.cursor(&slot(), 2);
    assert_eq!(now.first_of(&good, &slot()), Ok(2));
    let wrong = [
        Cursor {
            tracking: Uuid::new_v4(),
            ..good.clone()
        },
        Cursor {
            generation: 1,
            ..good.clone()
        },
        Cursor {
            generation: 3,
            ..good.clone()
        },
        Cursor {
            size: SIZE + 1,
            ..good.clone()
        },
        Cursor {
            slot: "scsi:0:1".parse().unwrap(),
            ..good
        },
    ];
    for cursor in wrong {
        assert!(now.first_of(&cursor, &slot()).is_err(), "{cursor}");
    }
}

#[test]
fn too_many_generations_become_fewer_where_no_cursor_stands_between_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut tracker = Tracker::begin(folder.path(), SIZE).unwrap();
    let block = |number: u64| ByteRange::at(number * BLOCK, BLOCK).unwrap();
    for number in 0..20 {
        tracker.note(block(2 * number)).unwrap();
        let next = tracker.prepare().unwrap();
        tracker.switch(next).save().unwrap();
        while let Some(folded) = tracker.fold(&BTreeSet::from([2])).unwrap() {
            tracker.keep(folded).unwrap();
        }
    }
    assert_eq!(tracker.closed.len(), CLOSED_MAX);
    let since = |first| all_changes(&tracker, first);
    let expected = |from: u64| (from..20).map(|n| block(2 * n)).collect::<Vec<_>>();
    assert_eq!(since(1), expected(0));
    assert_eq!(since(2), expected(1));
    let reloaded = Tracker::load(folder.path(), &tracker.generations).unwrap();
    assert_eq!(all_changes(&reloaded, 1), expected(0));
}

#[test]
fn what_is_forgotten_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut tracker = Tracker::begin(folder.path(), SIZE).unwrap();
    for _ in 0..3 {
        let next = tracker.prepare().unwrap();
        tracker.switch(next).save().unwrap();
    }
    tracker
        .keep(tracker.generations.forgotten_before(4))
        .unwrap();
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
}
