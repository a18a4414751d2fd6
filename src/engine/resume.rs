//! Where to go on after a restart: from what storage and hypervisor say, not from what an engine remembers.
//!
//! | the disks' last sealed cursors | the point on the host | go on with |
//! |---|---|---|
//! | none | one of ours, over all disks | copying it |
//! | none | none | FreezingCopy |
//! | all copied, of one point | there, or released by us before | Releasing (a release may be repeated) |
//! | some copying, of one point | there | Copying |
//! | some copying | gone, or of several points | FreezingCopy: the copy compares with what was applied |
//! | all tracking | – | Shipping, if a capture is whole; else FreezingDelta: only a barrier shows whether tracking held |
//!
//! A point that is not gone on with is in the way of the next one: it is abandoned, at the latest when that is taken.
//!
//! A capture on disk is used only if it begins where the last seal ends; all others are captured again.

use std::collections::{BTreeMap, BTreeSet};

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
}

/// The phase to go on with.
pub fn resume(found: &Found<'_>) -> Phase {
    if let Some(since) = &found.capture {
        return Phase::Shipping {
            since: since.clone(),
        };
    }
    if found.cursors.is_empty() {
        let whole = found
            .points
            .iter()
            .rev()
            .find(|point| covers(point, found.disks));
        return whole.map_or(Phase::FreezingCopy, |point| Phase::Copying {
            point: point.id.clone(),
        });
    }
    if let Some(since) = all_tracking(found) {
        return Phase::FreezingDelta { since };
    }
    let Some(point) = one_point(found) else {
        return Phase::FreezingCopy;
    };
    let here = found
        .points
        .iter()
        .any(|known| known.id == *point && covers(known, found.disks));
    if all_copied(found) {
        Phase::Releasing {
            point: point.clone(),
        }
    } else if here {
        Phase::Copying {
            point: point.clone(),
        }
    } else {
        Phase::FreezingCopy
    }
}

fn covers(point: &FrozenPoint, disks: &BTreeMap<DiskId, DiskSlot>) -> bool {
    let frozen: BTreeSet<_> = point.disks.iter().collect();
    disks.values().all(|slot| frozen.contains(slot))
}

fn all_tracking(found: &Found<'_>) -> Option<Cursors> {
    let cursor = |disk| match found.cursors.get(disk) {
        Some(DiskCursor::Tracking { cursor }) => Some((disk.clone(), cursor.clone())),
        Some(DiskCursor::Copying { .. } | DiskCursor::Copied { .. }) | None => None,
    };
    found.disks.keys().map(cursor).collect()
}

fn all_copied(found: &Found<'_>) -> bool {
    let copied = |disk| matches!(found.cursors.get(disk), Some(DiskCursor::Copied { .. }));
    found.disks.keys().all(copied)
}

/// The point that all disks which have begun are of.
fn one_point<'a>(found: &Found<'a>) -> Option<&'a FrozenPointId> {
    let mut points = BTreeSet::new();
    for cursor in found
        .disks
        .keys()
        .filter_map(|disk| found.cursors.get(disk))
    {
        match cursor {
            DiskCursor::Copying { point, .. } | DiskCursor::Copied { point } => {
                points.insert(point)
            }
            DiskCursor::Tracking { .. } => return None,
        };
    }
    match points.len() {
        1 => points.pop_first(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::host::{Consistency, TrackingCursor};

    struct Case {
        disks: BTreeMap<DiskId, DiskSlot>,
        cursors: BTreeMap<DiskId, DiskCursor>,
        points: Vec<FrozenPoint>,
        capture: Option<Cursors>,
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
            })
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

    #[test]
    fn nothing_sealed_begins_a_copy_of_the_point_that_a_lost_reply_left() {
        assert_eq!(case([]).resumed(), Phase::FreezingCopy);
        assert_eq!(
            case([]).with_point("p", &[1, 2]).resumed(),
            Phase::Copying {
                point: point_id("p")
            }
        );
        assert_eq!(
            case([]).with_point("p", &[1]).resumed(),
            Phase::FreezingCopy
        );
    }

    #[test]
    fn a_copy_goes_on_while_its_point_is_there() {
        let half = || case([(1, copied("p")), (2, copying("p"))]);
        assert_eq!(
            half().with_point("p", &[1, 2]).resumed(),
            Phase::Copying {
                point: point_id("p")
            }
        );
        assert_eq!(half().resumed(), Phase::FreezingCopy);
        let one = case([(1, copied("p"))]).with_point("p", &[1, 2]);
        assert_eq!(
            one.resumed(),
            Phase::Copying {
                point: point_id("p")
            }
        );
    }

    #[test]
    fn a_copy_of_two_points_is_no_copy() {
        let mixed = case([(1, copied("p")), (2, copied("q"))]).with_point("q", &[1, 2]);
        assert_eq!(mixed.resumed(), Phase::FreezingCopy);
    }

    #[test]
    fn a_release_whose_reply_was_lost_is_repeated() {
        let whole = case([(1, copied("p")), (2, copied("p"))]);
        assert_eq!(
            whole.resumed(),
            Phase::Releasing {
                point: point_id("p")
            }
        );
    }

    #[test]
    fn a_disk_that_was_added_makes_a_copy() {
        let added = case([(1, tracking("c"))]);
        assert_eq!(added.resumed(), Phase::FreezingCopy);
    }

    #[test]
    fn a_whole_capture_is_shipped_and_without_one_changes_are_counted_on() {
        let since = Cursors::from([
            (disk(1), TrackingCursor::new("a")),
            (disk(2), TrackingCursor::new("b")),
        ]);
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
