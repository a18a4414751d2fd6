//! What retention never lets go, whatever the points, the tiers and the clock.

use proptest::prelude::*;

use super::*;
use crate::ids::DiskId;
use crate::replica::manifest::PointDisk;
use crate::replica::seal::Barrier;
use crate::units::Sequence;

const HOUR: i64 = 3600;
const START: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn point(sequence: u64, second: i64, consistency: Consistency) -> Point {
    let disk = PointDisk {
        snapshot: "s".to_owned(),
        size: 512,
    };
    Point {
        id: RecoveryPointId::from_random(sequence.into()),
        sequence: Sequence::new(sequence),
        barrier: Barrier {
            time: at(0),
            consistency,
        },
        published: at(second),
        disks: BTreeMap::from([(DiskId::from_random(1), disk)]),
    }
}

/// Crash-consistent points that were published at these seconds after the start.
fn crash_at(seconds: impl IntoIterator<Item = i64>) -> Vec<Point> {
    let seconds = seconds.into_iter().zip(1..);
    seconds
        .map(|(second, sequence)| point(sequence, START + second, Consistency::Crash))
        .collect()
}

fn tier(every: i64, keep: i64) -> Tier {
    let seconds = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap());
    Tier {
        every: seconds(every),
        keep: seconds(keep),
    }
}

fn hourly() -> Retention {
    Retention {
        tiers: vec![tier(HOUR, 24 * HOUR)],
    }
}

/// The sequences that stay.
fn kept(points: &[Point], retention: &Retention, resyncing: bool, now: i64) -> Vec<u64> {
    let expired = expired(points, retention, &[], resyncing, at(START + now));
    let stays = points
        .iter()
        .enumerate()
        .filter(|(index, _)| !expired.contains(index));
    stays.map(|(_, point)| point.sequence.value()).collect()
}

#[test]
fn of_each_hour_one_point_stays_for_a_day_and_the_newest_beside_them() {
    let points = crash_at((0..72).map(|half| half * HOUR / 2));
    // Hours 12 to 35 of 36, and the newest: the second of the last hour.
    let mut expected: Vec<u64> = (12..36).map(|hour| hour * 2 + 1).collect();
    expected.push(72);
    assert_eq!(kept(&points, &hourly(), false, 36 * HOUR - 1), expected);
}

#[test]
fn a_point_that_any_tier_keeps_stays() {
    let retention = Retention {
        tiers: vec![tier(HOUR, 3 * HOUR), tier(24 * HOUR, 7 * 24 * HOUR)],
    };
    let points = crash_at((0..48).map(|hour| hour * HOUR));
    let days: Vec<u64> = points
        .iter()
        .zip(1..)
        .filter(|(point, _)| point.published.as_second() % (24 * HOUR) == 0)
        .map(|(_, sequence)| sequence)
        .collect();
    let kept = kept(&points, &retention, false, 47 * HOUR);
    assert!(days.iter().all(|day| kept.contains(day)), "{kept:?}");
    assert!([45, 46, 47, 48].iter().all(|hour| kept.contains(hour)));
    assert!(kept.len() <= 4 + 3, "{kept:?}");
}

#[test]
fn of_an_interval_the_application_consistent_point_stays() {
    let mut points = crash_at([0, 60, 120, 4000]);
    points[1].barrier.consistency = Consistency::Application;
    assert_eq!(kept(&points, &hourly(), false, 4000), [2, 4]);
}

#[test]
fn while_a_replica_is_compared_anew_no_point_goes_for_its_age() {
    let points = crash_at([0, HOUR, 2 * HOUR]);
    let years = 1000 * 24 * HOUR;
    assert_eq!(kept(&points, &hourly(), true, years), [1, 2, 3]);
    assert_eq!(kept(&points, &hourly(), false, years), [3]);
}

#[test]
fn without_a_tier_all_stay_up_to_what_a_manifest_holds() {
    let points = crash_at(0..11_000);
    let kept = kept(&points, &Retention::default(), false, 0);
    assert_eq!(kept.len(), KEPT_MAX);
    assert_eq!(*kept.last().unwrap(), 11_000, "the oldest went");
}

prop_compose! {
    fn any_point()(gap in 0..5 * HOUR, back in prop::bool::weighted(0.1), rank in 0..3u8)
        -> (i64, Consistency) {
        let consistency = match rank {
            0 => Consistency::Application,
            _ => Consistency::Crash,
        };
        (if back { -gap } else { gap }, consistency)
    }
}

/// Points by ascending sequence, whose clock sometimes goes back.
fn any_points() -> impl Strategy<Value = Vec<Point>> {
    prop::collection::vec(any_point(), 1..60).prop_map(|gaps| {
        let mut second = START;
        let points = gaps.into_iter().zip(1..);
        points
            .map(|((gap, consistency), sequence)| {
                second += gap;
                point(sequence, second, consistency)
            })
            .collect()
    })
}

fn any_retention() -> impl Strategy<Value = Retention> {
    let tier = (60..48 * HOUR, 60..200 * HOUR).prop_map(|(every, keep)| tier(every, keep));
    prop::collection::vec(tier, 1..4).prop_map(|tiers| Retention { tiers })
}

proptest! {
    #[test]
    fn the_newest_of_each_consistency_and_what_is_pinned_never_go(
        points in any_points(), retention in any_retention(), pin: prop::sample::Index,
        now in -100 * HOUR..1000 * HOUR,
    ) {
        let pinned = pin.get(&points).id.clone();
        let gone = expired(&points, &retention, std::slice::from_ref(&pinned), false, at(START + now));
        let goes = |point: &Point| {
            gone.iter().any(|index| points[*index].sequence == point.sequence)
        };
        prop_assert!(!goes(points.last().unwrap()));
        for consistency in [Consistency::Crash, Consistency::Application] {
            let of = points.iter().rev().find(|point| point.barrier.consistency == consistency);
            prop_assert!(of.is_none_or(|point| !goes(point)));
        }
        prop_assert!(points.iter().filter(|point| point.id == pinned).all(|point| !goes(point)));
    }

    #[test]
    fn the_number_that_stays_is_bounded_by_the_tiers(
        points in any_points(), retention in any_retention(),
    ) {
        let now = points.iter().map(|point| point.published).max().unwrap();
        prop_assume!(points.last().unwrap().published == now);
        let gone = expired(&points, &retention, &[], false, now);
        let most: u64 = retention.tiers.iter()
            .map(|tier| tier.keep.as_secs() / tier.every.as_secs() + 2)
            .sum();
        prop_assert!((points.len() - gone.len()) as u64 <= most + 2);
    }

    #[test]
    fn what_may_go_may_go_after_another_point_and_at_any_later_time(
        points in any_points(), retention in any_retention(), later in 0..100 * HOUR,
    ) {
        let newest = points.last().unwrap().published;
        let before = expired(&points, &retention, &[], false, newest);
        let mut more = points.clone();
        let next = newest.as_second() + later;
        more.push(point(1000, next, Consistency::Crash));
        let after = expired(&more, &retention, &[], false, at(next));
        prop_assert!(before.iter().all(|index| after.contains(index)));
    }

    #[test]
    fn a_clock_that_jumps_back_lets_nothing_go(
        points in any_points(), retention in any_retention(), back in 1..1000 * HOUR,
    ) {
        let newest = points.last().unwrap().published;
        let gone = expired(&points, &retention, &[], false, newest);
        let mut left = points;
        let mut index = 0;
        left.retain(|_| {
            index += 1;
            !gone.contains(&(index - 1))
        });
        let now = newest.checked_sub(Duration::from_secs(u64::try_from(back).unwrap())).unwrap();
        prop_assert_eq!(expired(&left, &retention, &[], false, now), Vec::<usize>::new());
    }

    #[test]
    fn what_is_left_once_stays_at_that_time(points in any_points(), retention in any_retention()) {
        let newest = points.last().unwrap().published;
        let gone = expired(&points, &retention, &[], false, newest);
        let left: Vec<Point> = points.iter().enumerate()
            .filter(|(index, _)| !gone.contains(index))
            .map(|(_, point)| point.clone())
            .collect();
        prop_assert_eq!(expired(&left, &retention, &[], false, newest), Vec::<usize>::new());
    }
}
