//! Which recovery points may go. Pure: whoever deletes them asks here.
//!
//! Time is cut into intervals of each tier's `every`, counted from 1970. Of the points that were published in one
//! interval a tier keeps one for as long as `keep`: the best in consistency, and of equals the first. So what a tier
//! keeps once stays until it is too old, whatever comes after it, unless a better one of its interval comes.
//!
//! | kept, whatever the tiers say | |
//! |---|---|
//! | the newest point, and the newest of each consistency | there is always one to go back to |
//! | what is pinned | a run needs it |
//! | all, as to their age, while the replica is compared anew | the last states that are known to be good |
//!
//! Age is counted by storage's clock alone. One that has jumped back makes nothing older, and lets nothing go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::manifest::{POINTS_MAX, Point};
use super::seal::Consistency;
use crate::ids::RecoveryPointId;

/// Disks of points, and as much again for the points themselves, that a replica keeps whatever its tiers say: about 150
/// bytes of the manifest each, which must stay below what is read of one.
const WEIGHT_MAX: usize = 40_000;
/// What a point weighs beside its disks.
const POINT_WEIGHT: usize = 3;
/// Points that are kept whatever the tiers say: there is room below what a manifest may have, for those that are pinned.
const KEPT_MAX: usize = POINTS_MAX - POINTS_MAX / 10;

/// How long recovery points are kept. Without a tier all are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub tiers: Vec<Tier>,
}

/// One point in every `every` is kept until it is `keep` old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    pub every: Duration,
    pub keep: Duration,
}

/// The points that may go, of all `points`, by ascending sequence: their places.
///
/// `pinned` stay. While `resyncing`, no point since the last change of chain or copy of a disk is there, and none of the
/// earlier goes for its age. `now` is storage's time.
pub fn expired(
    points: &[Point],
    retention: &Retention,
    pinned: &[RecoveryPointId],
    resyncing: bool,
    now: Timestamp,
) -> Vec<usize> {
    let Some(newest) = points.last() else {
        return Vec::new();
    };
    let mut kept = exempt(points, pinned);
    let protected = kept.clone();
    if now < newest.published || retention.tiers.is_empty() {
        kept.extend(0..points.len());
    }
    for tier in &retention.tiers {
        kept.extend(kept_by(points, *tier, resyncing, now));
    }
    bound(points, &mut kept, &protected);
    (0..points.len())
        .filter(|index| !kept.contains(index))
        .collect()
}

/// What stays whatever the tiers say.
fn exempt(points: &[Point], pinned: &[RecoveryPointId]) -> BTreeSet<usize> {
    let pinned: BTreeSet<&RecoveryPointId> = pinned.iter().collect();
    let is_pinned = |index: &usize| pinned.contains(&points[*index].id);
    let mut exempt: BTreeSet<usize> = (0..points.len()).filter(is_pinned).collect();
    let newest: BTreeMap<u8, usize> = points.iter().enumerate().map(by_rank).collect();
    exempt.extend(newest.into_values());
    exempt
}

fn by_rank((index, point): (usize, &Point)) -> (u8, usize) {
    (rank(point.barrier.consistency), index)
}

/// Which point of an interval is worth more.
const fn rank(consistency: Consistency) -> u8 {
    match consistency {
        Consistency::Crash => 0,
        Consistency::Application => 1,
        Consistency::Final => 2,
    }
}

/// What one tier keeps.
fn kept_by(points: &[Point], tier: Tier, resyncing: bool, now: Timestamp) -> Vec<usize> {
    let every = i64::try_from(tier.every.as_secs())
        .unwrap_or(i64::MAX)
        .max(1);
    let mut best: BTreeMap<i64, usize> = BTreeMap::new();
    for (index, point) in points.iter().enumerate() {
        let interval = point.published.as_second().div_euclid(every);
        let known = best.entry(interval).or_insert(index);
        if rank(point.barrier.consistency) > rank(points[*known].barrier.consistency) {
            *known = index;
        }
    }
    let young = |index: &usize| resyncing || age(&points[*index], now) <= tier.keep;
    best.into_values().filter(young).collect()
}

/// How old a point is; nothing if it is of the future.
fn age(point: &Point, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(point.published)).unwrap_or_default()
}

/// Gives up the oldest where all together would be too many for a manifest, but none that is `protected`.
fn bound(points: &[Point], kept: &mut BTreeSet<usize>, protected: &BTreeSet<usize>) {
    let weight = |index: &usize| points[*index].disks.len() + POINT_WEIGHT;
    let mut total: usize = kept.iter().map(weight).sum();
    let oldest: Vec<usize> = kept.difference(protected).copied().collect();
    for index in oldest {
        if total <= WEIGHT_MAX && kept.len() <= KEPT_MAX {
            return;
        }
        total -= weight(&index);
        kept.remove(&index);
    }
}

#[cfg(test)]
mod tests;
