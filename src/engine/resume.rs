//! Where to go on after a restart: from what storage and hypervisor say, not from what an engine remembers.
//!
//! The disks that have to be copied are those without a tracking cursor, and those of which a comparison is demanded.
//! The others keep their cursors.
//!
//! | disks to copy | what is sealed of them, and the point on the host | go on with |
//! |---|---|---|
//! | any | a capture of all disks is whole, and nothing is demanded | Shipping |
//! | none | – | FreezingDelta: only a barrier shows whether tracking held |
//! | some | all copied, of one point, there or released by us before | Releasing (a release may be repeated) |
//! | some | nothing yet, or some of one point, which is there | Copying |
//! | some | something else | FreezingCopy: the copy compares with what was applied |
//!
//! Where a comparison is demanded, the point has to be the one that was taken for it, and without leave it is not
//! copied but waited for. A point that is not gone on with is in the way of the next one: it is abandoned, at the latest
//! when that is taken. A capture on disk is used only if it begins where the last seal ends; all others are captured
//! again.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::demand::Demand;
use crate::engine::phase::{Cursors, Phase};
use crate::host::FrozenPoint;
use crate::ids::{DiskId, DiskSlot, FrozenPointId};
use crate::replica::seal::DiskCursor;

/// What was found.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The replicated disks.
    pub disks: &'a BTreeMap<DiskId, DiskSlot>,
    /// The last sealed cursor of each disk that has one.
    pub cursors: &'a BTreeMap<DiskId, DiskCursor>,
    /// Frozen points of ours on the host, oldest first.
    pub points: &'a [FrozenPoint],
    /// A capture that is whole on disk and begins at the last seal: from where its changes are counted.
    pub capture: Option<Cursors>,
    pub demand: Option<&'a Demand>,
    /// Whether what is demanded may be done now.
    pub allowed: bool,
}

/// The phase to go on with.
pub fn resume(found: &Found<'_>) -> Phase {
    if let (Some(since), None) = (&found.capture, found.demand)
        && found.disks.keys().eq(since.keys())
    {
        let since = since.clone();
        return Phase::Shipping { since };
    }
    let kept = kept(found);
    let is_copied = |disk: &&DiskId| !kept.contains_key(*disk);
    let copied: Vec<&DiskId> = found.disks.keys().filter(is_copied).collect();
    if copied.is_empty() {
        return Phase::FreezingDelta { since: kept };
    }
    let point = begun(found, &copied).filter(|point| is_of_demand(found, point));
    match point {
        Some(point) if all_copied(found, &copied) => Phase::Releasing { point, kept },
        _ if found.demand.is_some() && !found.allowed => Phase::ResyncRequired { kept },
        Some(point) if is_here(found, &point, &copied) => Phase::Copying { point, kept },
        Some(_) | None => Phase::FreezingCopy { kept },
    }
}

/// The disks whose changes can be counted from a cursor.
fn kept(found: &Found<'_>) -> Cursors {
    let demanded = |disk| {
        found
            .demand
            .is_some_and(|demand| demand.disks.contains(disk))
    };
    let cursor = |disk| match found.cursors.get(disk) {
        Some(DiskCursor::Tracking { cursor }) if !demanded(disk) => {
            Some((disk.clone(), cursor.clone()))
        }
        Some(_) | None => None,
    };
    found.disks.keys().filter_map(cursor).collect()
}

/// The one point that is being copied: the one that all disks are of which have begun; before any has, the newest on
/// the host that covers them.
fn begun(found: &Found<'_>, copied: &[&DiskId]) -> Option<FrozenPointId> {
    let mut points = BTreeSet::new();
    for disk in copied {
        match found.cursors.get(*disk) {
            Some(DiskCursor::Copying { point, .. } | DiskCursor::Copied { point }) => {
                points.insert(point);
            }
            Some(DiskCursor::Tracking { .. }) | None => {}
        }
    }
    match points.len() {
        0 => {
            let mut newest = found.points.iter().rev();
            let whole = newest.find(|point| covers(point, found, copied));
            whole.map(|point| point.id.clone())
        }
        1 => points.pop_first().cloned(),
        _ => None,
    }
}

fn is_of_demand(found: &Found<'_>, point: &FrozenPointId) -> bool {
    found
        .demand
        .is_none_or(|demand| demand.point.as_ref() == Some(point))
}

fn is_here(found: &Found<'_>, point: &FrozenPointId, copied: &[&DiskId]) -> bool {
    let mut points = found.points.iter();
    points.any(|known| known.id == *point && covers(known, found, copied))
}

fn covers(point: &FrozenPoint, found: &Found<'_>, copied: &[&DiskId]) -> bool {
    let frozen: BTreeSet<_> = point.disks.iter().collect();
    copied
        .iter()
        .all(|disk| frozen.contains(&found.disks[*disk]))
}

fn all_copied(found: &Found<'_>, copied: &[&DiskId]) -> bool {
    let is_copied = |disk| matches!(found.cursors.get(disk), Some(DiskCursor::Copied { .. }));
    copied.iter().all(|disk| is_copied(disk))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::host::{Consistency, TrackingCursor};
    use crate::report::{Code, Fault};

    struct Case {
        disks: BTreeMap<DiskId, DiskSlot>,
        cursors: BTreeMap<DiskId, DiskCursor>,
        points: Vec<FrozenPoint>,
        capture: Option<Cursors>,
        demand: Option<Demand>,
        allowed: bool,
    }

    fn disk(number: u8) -> DiskId {
        DiskId::from_random(number.into())
    }

    fn slot(number: u8) -> DiskSlot {
        format!("scsi:0:{number}").parse().unwrap()
    }

    fn point_id(name: &str) -> FrozenPointId {
        name.parse().unwrap()
    }

    /// A VM with two disks, whose cursors are as given.
    fn case(cursors: impl IntoIterator<Item = (u8, DiskCursor)>) -> Case {
        Case {
            disks: [1, 2].map(|number| (disk(number), slot(number))).into(),
            cursors: cursors
                .into_iter()
                .map(|(number, cursor)| (disk(number), cursor))
                .collect(),
            points: Vec::new(),
            capture: None,
            demand: None,
            allowed: false,
        }
    }

    impl Case {
        fn with_point(mut self, name: &str, slots: &[u8]) -> Self {
            self.points.push(FrozenPoint {
                id: point_id(name),
                taken_at: Timestamp::UNIX_EPOCH,
                consistency: Consistency::Crash,
                fallback: None,
                disks: slots.iter().copied().map(slot).collect(),
            });
            self
        }

        fn resumed(&self) -> Phase {
            resume(&Found {
                disks: &self.disks,
                cursors: &self.cursors,
                points: &self.points,
                capture: self.capture.clone(),
                demand: self.demand.as_ref(),
                allowed: self.allowed,
            })
        }

        /// Demands to compare disk 2; `point` is what is compared already.
        fn with_demand(mut self, point: Option<&str>, allowed: bool) -> Self {
            self.demand = Some(Demand {
                disks: [disk(2)].into(),
                reason: Fault::new(Code::TrackingLost, "crash"),
                point: point.map(point_id),
            });
            self.allowed = allowed;
            self
        }
    }

    fn copying(point: &str) -> DiskCursor {
        DiskCursor::Copying {
            point: point_id(point),
            position: 4096,
        }
    }

    fn copied(point: &str) -> DiskCursor {
        DiskCursor::Copied {
            point: point_id(point),
        }
    }

    fn tracking(cursor: &str) -> DiskCursor {
        DiskCursor::Tracking {
            cursor: TrackingCursor::new(cursor),
        }
    }

    fn cursors(of: &[(u8, &str)]) -> Cursors {
        of.iter()
            .map(|(number, text)| (disk(*number), TrackingCursor::new(*text)))
            .collect()
    }

    fn freezing(kept: &[(u8, &str)]) -> Phase {
        Phase::FreezingCopy {
            kept: cursors(kept),
        }
    }

    fn copying_of(point: &str, kept: &[(u8, &str)]) -> Phase {
        Phase::Copying {
            point: point_id(point),
            kept: cursors(kept),
        }
    }

    #[test]
    fn nothing_sealed_begins_a_copy_of_the_point_that_a_lost_reply_left() {
        assert_eq!(case([]).resumed(), freezing(&[]));
        let left = case([]).with_point("p", &[1, 2]);
        assert_eq!(left.resumed(), copying_of("p", &[]));
        assert_eq!(case([]).with_point("p", &[1]).resumed(), freezing(&[]));
    }

    #[test]
    fn a_copy_goes_on_while_its_point_is_there() {
        let half = || case([(1, copied("p")), (2, copying("p"))]);
        let here = half().with_point("p", &[1, 2]);
        assert_eq!(here.resumed(), copying_of("p", &[]));
        assert_eq!(half().resumed(), freezing(&[]));
        let one = case([(1, copied("p"))]).with_point("p", &[1, 2]);
        assert_eq!(one.resumed(), copying_of("p", &[]));
    }

    #[test]
    fn a_copy_of_two_points_is_no_copy() {
        let mixed = case([(1, copied("p")), (2, copied("q"))]).with_point("q", &[1, 2]);
        assert_eq!(mixed.resumed(), freezing(&[]));
    }

    #[test]
    fn a_release_whose_reply_was_lost_is_repeated() {
        let whole = case([(1, copied("p")), (2, copied("p"))]);
        let (point, kept) = (point_id("p"), Cursors::new());
        assert_eq!(whole.resumed(), Phase::Releasing { point, kept });
    }

    #[test]
    fn a_disk_that_was_added_is_copied_while_the_other_keeps_its_cursor() {
        let added = case([(1, tracking("c"))]);
        assert_eq!(added.resumed(), freezing(&[(1, "c")]));
        let done = case([(1, tracking("c")), (2, copied("p"))]);
        let (point, kept) = (point_id("p"), cursors(&[(1, "c")]));
        assert_eq!(done.resumed(), Phase::Releasing { point, kept });
    }

    #[test]
    fn a_demanded_comparison_waits_for_leave_and_is_of_the_disks_that_are_named() {
        let both = || case([(1, tracking("a")), (2, tracking("b"))]);
        let kept = cursors(&[(1, "a")]);
        let waiting = both().with_demand(None, false).resumed();
        assert_eq!(waiting, Phase::ResyncRequired { kept });
        let begun = both().with_demand(None, true).resumed();
        assert_eq!(begun, freezing(&[(1, "a")]));
    }

    #[test]
    fn a_demand_is_met_by_its_own_point_alone() {
        let half = |demanded| {
            let case = case([(1, tracking("a")), (2, copying("p"))]).with_point("p", &[1, 2]);
            case.with_demand(demanded, true).resumed()
        };
        assert_eq!(half(Some("p")), copying_of("p", &[(1, "a")]));
        assert_eq!(half(Some("q")), freezing(&[(1, "a")]));
        assert_eq!(half(None), freezing(&[(1, "a")]));
        let whole = case([(1, tracking("a")), (2, copied("p"))]);
        let (point, kept) = (point_id("p"), cursors(&[(1, "a")]));
        let releasing = whole.with_demand(Some("p"), false).resumed();
        assert_eq!(releasing, Phase::Releasing { point, kept });
    }

    #[test]
    fn a_comparison_stops_where_it_stands_when_its_leave_ends() {
        let half = case([(1, tracking("a")), (2, copying("p"))]).with_point("p", &[1, 2]);
        let kept = cursors(&[(1, "a")]);
        let stopped = half.with_demand(Some("p"), false).resumed();
        assert_eq!(stopped, Phase::ResyncRequired { kept });
    }

    #[test]
    fn a_whole_capture_is_shipped_and_without_one_changes_are_counted_on() {
        let since = cursors(&[(1, "a"), (2, "b")]);
        let mut tracked = case([(1, tracking("a")), (2, tracking("b"))]);
        assert_eq!(
            tracked.resumed(),
            Phase::FreezingDelta {
                since: since.clone()
            }
        );
        tracked.capture = Some(since.clone());
        assert_eq!(tracked.resumed(), Phase::Shipping { since });
    }
}
