//! The life of one VM's replication on its host, free of I/O.
//!
//! ```text
//! Created ─Start─► Resuming ─────────────────────────┐ goes on wherever storage and hypervisor stand
//!                                                    ▼
//!                                              (any phase below)
//!
//! ResyncRequired ─Allowed─► FreezingCopy ─Frozen─► Copying ─Copied─► Releasing ─Released─► FreezingDelta
//!       ▲                        ▲                    │                  │                   │      ▲
//!       │                        └──────PointLost─────┴──────────────────┘                Frozen    │ Due
//!       │                                                                                    ▼      │
//!       └──TrackingLost── (whatever counts changes)   Replicating ◄─Shipped─ Shipping ◄─Captured─ Capturing
//!                                                          ▲ └──Due──► FreezingDelta               │
//!                                                          └───────────────Unchanged───────────────┘
//! ```
//! A copy is of some disks: those without a cursor that changes could be counted from. The others keep theirs, and the
//! barrier after the copy brings what changed on all. `CaptureLost` leads from Shipping back to FreezingDelta: what is
//! lost is captured again from its cursor.

use std::collections::BTreeMap;

use crate::host::TrackingCursor;
use crate::ids::{DiskId, FrozenPointId};

/// From where the changes of each disk are counted.
pub type Cursors = BTreeMap<DiskId, TrackingCursor>;

/// What the engine is doing, with what it needs to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has asked for replication to start.
    Created,
    /// Storage and hypervisor are asked where to go on.
    Resuming,
    /// The disks that are not `kept` have to be compared with their replica, and that is not allowed yet.
    ResyncRequired { kept: Cursors },
    /// A point to copy is being taken, as soon as nothing that was sealed has to be applied first.
    FreezingCopy { kept: Cursors },
    /// What the point holds of the disks that are not `kept` is sent where it differs from what was applied.
    Copying { point: FrozenPointId, kept: Cursors },
    /// Everything of the point is sealed. It becomes the cursor that changes are counted from, and merges away.
    Releasing { point: FrozenPointId, kept: Cursors },
    /// A barrier is being taken.
    FreezingDelta { since: Cursors },
    /// What changed up to the barrier goes into a log beside each disk.
    Capturing {
        point: FrozenPointId,
        since: Cursors,
    },
    /// The captured logs are on their way. What was captured is on disk, beyond this value.
    Shipping { since: Cursors },
    /// Everything up to the last barrier is sealed.
    Replicating { since: Cursors },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Start,
    /// This is where to go on.
    Resumed(Phase),
    /// The comparison may begin.
    Allowed,
    Frozen(FrozenPointId),
    Copied,
    /// The frozen point is gone, and was not released by us; or it was given up because nothing could be done with it.
    PointLost,
    /// The point was released and is merged away: from where the disks that it was copied of count.
    Released(Cursors),
    Captured,
    /// Nothing changed since the barrier before: what is sealed is what the disks hold.
    Unchanged,
    /// The captured logs cannot be used.
    CaptureLost,
    /// The barrier is sealed; changes are counted from here now.
    Shipped(Cursors),
    /// The next barrier is due.
    Due,
    /// A change of these disks may have been missed.
    TrackingLost(Vec<DiskId>),
}

/// An event that does not fit the phase: a fault of ours, never of the world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} in phase {phase:?}")]
pub struct Rejected {
    phase: Phase,
    event: Event,
}

impl Phase {
    /// The phase after `event`.
    ///
    /// # Errors
    /// If the event does not fit.
    pub fn on(&self, event: Event) -> Result<Phase, Rejected> {
        self.after(&event).ok_or_else(|| Rejected {
            phase: self.clone(),
            event,
        })
    }

    fn after(&self, event: &Event) -> Option<Phase> {
        match self {
            Phase::Created => matches!(event, Event::Start).then_some(Phase::Resuming),
            Phase::Resuming => match event {
                Event::Resumed(phase) => Some(phase.clone()),
                _ => None,
            },
            Phase::ResyncRequired { kept }
            | Phase::FreezingCopy { kept }
            | Phase::Copying { kept, .. }
            | Phase::Releasing { kept, .. } => self.after_in_copy(kept.clone(), event),
            Phase::FreezingDelta { since }
            | Phase::Capturing { since, .. }
            | Phase::Shipping { since }
            | Phase::Replicating { since } => self.after_in_delta(since.clone(), event),
        }
    }

    fn after_in_copy(&self, kept: Cursors, event: &Event) -> Option<Phase> {
        Some(match (self, event) {
            (Phase::ResyncRequired { .. }, Event::Allowed)
            | (Phase::Copying { .. } | Phase::Releasing { .. }, Event::PointLost) => {
                Phase::FreezingCopy { kept }
            }
            (Phase::FreezingCopy { .. }, Event::Frozen(point)) => Phase::Copying {
                point: point.clone(),
                kept,
            },
            (Phase::Copying { point, .. }, Event::Copied) => Phase::Releasing {
                point: point.clone(),
                kept,
            },
            (Phase::Releasing { .. }, Event::Released(copied)) => {
                let mut since = kept;
                since.extend(copied.clone());
                Phase::FreezingDelta { since }
            }
            (Phase::Releasing { .. }, Event::TrackingLost(lost)) => Phase::ResyncRequired {
                kept: without(kept, lost),
            },
            _ => return None,
        })
    }

    fn after_in_delta(&self, since: Cursors, event: &Event) -> Option<Phase> {
        Some(match (self, event) {
            (_, Event::TrackingLost(lost)) => Phase::ResyncRequired {
                kept: without(since, lost),
            },
            (Phase::FreezingDelta { .. }, Event::Frozen(point)) => Phase::Capturing {
                point: point.clone(),
                since,
            },
            (Phase::Capturing { .. }, Event::Captured) => Phase::Shipping { since },
            (Phase::Capturing { .. }, Event::Unchanged) => Phase::Replicating { since },
            (Phase::Capturing { .. }, Event::PointLost)
            | (Phase::Shipping { .. }, Event::CaptureLost)
            | (Phase::Replicating { .. }, Event::Due) => Phase::FreezingDelta { since },
            (Phase::Shipping { .. }, Event::Shipped(since)) => Phase::Replicating {
                since: since.clone(),
            },
            _ => return None,
        })
    }
}

fn without(mut cursors: Cursors, lost: &[DiskId]) -> Cursors {
    cursors.retain(|disk, _| !lost.contains(disk));
    cursors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str) -> FrozenPointId {
        name.parse().unwrap()
    }

    fn disk(number: u8) -> DiskId {
        DiskId::from_random(number.into())
    }

    fn cursors(disks: &[u8], text: &str) -> Cursors {
        let cursor = |number: &u8| (disk(*number), TrackingCursor::new(text));
        disks.iter().map(cursor).collect()
    }

    fn after(phase: Phase, events: impl IntoIterator<Item = Event>) -> Phase {
        let step = |phase: Phase, event| phase.on(event).unwrap();
        events.into_iter().fold(phase, step)
    }

    fn copied(kept: Cursors) -> Phase {
        let begun = Phase::FreezingCopy { kept };
        after(begun, [Event::Frozen(point("p1")), Event::Copied])
    }

    #[test]
    fn a_first_copy_ends_with_the_changes_of_its_time() {
        let begun = after(
            Phase::Created,
            [
                Event::Start,
                Event::Resumed(Phase::FreezingCopy {
                    kept: Cursors::new(),
                }),
                Event::Frozen(point("p1")),
                Event::Copied,
                Event::Released(cursors(&[1], "c1")),
                Event::Frozen(point("p2")),
            ],
        );
        let capturing = Phase::Capturing {
            point: point("p2"),
            since: cursors(&[1], "c1"),
        };
        assert_eq!(begun, capturing);
        let since = cursors(&[1], "c2");
        assert_eq!(
            after(capturing, [Event::Captured, Event::Shipped(since.clone())]),
            Phase::Replicating { since }
        );
    }

    #[test]
    fn a_copy_of_one_disk_leaves_the_others_where_they_are() {
        let kept = cursors(&[1], "old");
        let released = after(
            copied(kept.clone()),
            [Event::Released(cursors(&[2], "new"))],
        );
        let mut since = kept;
        since.extend(cursors(&[2], "new"));
        assert_eq!(released, Phase::FreezingDelta { since });
    }

    #[test]
    fn a_lost_point_is_taken_anew() {
        let copying = after(
            Phase::FreezingCopy {
                kept: Cursors::new(),
            },
            [Event::Frozen(point("p1")), Event::PointLost],
        );
        let kept = Cursors::new();
        assert_eq!(copying, Phase::FreezingCopy { kept });
    }

    #[test]
    fn a_lost_capture_is_captured_again_from_its_cursor() {
        let since = cursors(&[1], "c1");
        let shipping = Phase::Shipping {
            since: since.clone(),
        };
        assert_eq!(
            shipping.on(Event::CaptureLost),
            Ok(Phase::FreezingDelta { since })
        );
    }

    #[test]
    fn lost_tracking_of_a_disk_waits_for_leave_to_compare_that_disk_alone() {
        let since = || cursors(&[1, 2], "c");
        let point = || point("p");
        for phase in [
            Phase::FreezingDelta { since: since() },
            Phase::Capturing {
                point: point(),
                since: since(),
            },
            Phase::Shipping { since: since() },
            Phase::Replicating { since: since() },
            Phase::Releasing {
                point: point(),
                kept: since(),
            },
        ] {
            let kept = cursors(&[1], "c");
            let waiting = phase.on(Event::TrackingLost(vec![disk(2)]));
            assert_eq!(waiting, Ok(Phase::ResyncRequired { kept: kept.clone() }));
            let copying = waiting.unwrap().on(Event::Allowed);
            assert_eq!(copying, Ok(Phase::FreezingCopy { kept }));
        }
    }

    #[test]
    fn what_has_not_changed_is_up_to_date() {
        let since = cursors(&[1], "c1");
        let capturing = Phase::Capturing {
            point: point("p"),
            since: since.clone(),
        };
        assert_eq!(
            capturing.on(Event::Unchanged),
            Ok(Phase::Replicating { since })
        );
    }

    #[test]
    fn an_event_that_does_not_fit_changes_nothing() {
        let kept = Cursors::new();
        assert!(Phase::Created.on(Event::Copied).is_err());
        let copying = Phase::Copying {
            point: point("p"),
            kept,
        };
        assert!(copying.on(Event::Captured).is_err());
        let replicating = Phase::Replicating {
            since: cursors(&[1], "c"),
        };
        assert!(replicating.on(Event::Start).is_err());
    }
}
