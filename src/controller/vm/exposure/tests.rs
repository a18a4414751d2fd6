//! Counters that fall, clocks that jump, machines that rest.

use proptest::prelude::*;

use super::*;
use crate::ids::ReplicaId;
use crate::units::{Generation, Sequence};
use crate::wire::observation::{DiskObservation, Phase};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn disk() -> DiskId {
    DiskId::from_random(7)
}

fn seen(completed: u64, missed: u64, changed: u64, synchronized: i64) -> ReplicationObservation {
    ReplicationObservation {
        replica: ReplicaId::from_random(1),
        vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        generation: Generation::ZERO,
        phase: Phase::Replicating,
        disks: vec![DiskObservation {
            disk: disk(),
            total: 0,
            done: 0,
            sent: 0,
            rate: 0,
            pending: 0,
            changed,
            limited_by: None,
        }],
        sealed: Sequence::new(completed),
        credentials_expire: Timestamp::UNIX_EPOCH,
        synchronized: Some(at(synchronized)),
        cycles: Cycles {
            completed,
            missed,
            changed,
            latency: completed * 1000,
        },
        resync: None,
        quiesce: None,
        trouble: None,
    }
}

#[test]
fn what_was_counted_before_the_first_look_is_nobodys() {
    let mut history = History::default();
    history.saw(&seen(500, 400, 1 << 40, 0), at(0));
    assert_eq!(history.counted(at(0)), Counted::default());
    assert_eq!(history.churn(), None);
}

#[test]
fn an_engine_that_begins_anew_adds_what_it_has_counted_since() {
    let mut history = History::default();
    history.saw(&seen(10, 2, 1000, 0), at(0));
    history.saw(&seen(12, 3, 4000, 300), at(300));
    history.saw(&seen(1, 0, 500, 600), at(600));
    let counted = history.counted(at(600));
    assert_eq!((counted.completed, counted.missed), (3, 1));
    assert_eq!(counted.latency(), Some(Duration::from_secs(1)));
    assert_eq!(counted.missed_percent(), Some(25));
    assert_eq!(history.churn(), Some(3500 / 600));
}

#[test]
fn what_is_older_than_the_monitoring_interval_does_not_count() {
    let mut history = History::default();
    history.saw(&seen(0, 0, 0, 0), at(0));
    history.saw(&seen(1, 9, 0, 60), at(60));
    let twelve = i64::try_from(MONITORED.as_secs()).unwrap();
    assert_eq!(history.counted(at(twelve - BUCKET)).missed, 9);
    assert_eq!(history.counted(at(twelve + BUCKET)).missed, 0);
}

#[test]
fn churn_stays_known_while_nothing_is_sealed() {
    let mut history = History::default();
    history.saw(&seen(0, 0, 0, 0), at(0));
    history.saw(&seen(1, 0, 300_000, 300), at(300));
    for minute in 6..600 {
        history.saw(&seen(1, 0, 300_000, 300), at(minute * 60));
    }
    assert_eq!(history.churn(), Some(1000));
    assert_eq!(history.churn_of(&disk()), Some(1000));
}

#[test]
fn churn_follows_a_machine_that_becomes_quiet() {
    let mut history = History::default();
    history.saw(&seen(0, 0, 0, 0), at(0));
    history.saw(&seen(1, 0, 1 << 30, 600), at(600));
    for minute in 11..100 {
        history.saw(&seen(1, 0, 1 << 30, minute * 60), at(minute * 60));
    }
    assert_eq!(history.churn(), Some(0));
}

#[test]
fn a_machine_in_which_nothing_happens_has_a_young_rpo() {
    use crate::ids::{ChainId, RecoveryPointId};
    use crate::replica::manifest::{Applied, Point, WriterMark};
    use crate::replica::seal::{Barrier, Consistency};
    let point = Point {
        id: RecoveryPointId::from_random(1),
        sequence: Sequence::new(4),
        barrier: Barrier {
            time: at(0),
            consistency: Consistency::Crash,
        },
        published: at(1),
        disks: BTreeMap::new(),
    };
    let manifest = Manifest {
        replica: ReplicaId::from_random(1),
        writer: WriterMark::default(),
        chain: ChainId::from_random(1),
        last_applied: Applied {
            sequence: Sequence::new(4),
            seal: None,
            cursors: BTreeMap::new(),
        },
        disks: BTreeMap::new(),
        points: vec![point],
        closed: false,
        retired_to: Sequence::ZERO,
    };
    let all = Reached::of(Some(&seen(4, 0, 0, 7200)), Some(&manifest));
    assert_eq!(all.processed, Some(at(7200)));
    let behind = Reached::of(Some(&seen(5, 0, 0, 7200)), Some(&manifest));
    assert_eq!(
        (behind.uploaded, behind.processed),
        (Some(at(7200)), Some(at(0)))
    );
}

proptest! {
    #[test]
    fn whatever_counters_and_clocks_do_memory_is_bounded_and_sums_are_no_more_than_was_said(
        looks in proptest::collection::vec((0..100u64, 0..100u64, -100_000..1_000_000i64), 1..200),
    ) {
        let mut history = History::default();
        let mut said = 0;
        for (completed, missed, second) in looks {
            history.saw(&seen(completed, missed, completed, second), at(second));
            said += completed;
            prop_assert!(history.buckets.len() <= BUCKETS);
            prop_assert!(history.counted(at(second)).completed <= said);
        }
    }
}
