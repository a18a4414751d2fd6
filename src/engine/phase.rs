//! The life of one VM's replication on its host, free of I/O.
//!
//! ```text
//! Created ─Start─► Resuming ─────────────────────────┐ goes on wherever storage and hypervisor stand
//!                     │ nothing yet                  ▼
//!                     ▼                        (any phase below)
//!                FreezingCopy ─Frozen─► Copying ─Copied─► Releasing ─Released─► FreezingDelta
//!                     ▲                    │                  │                   │      ▲
//!                     └──────PointLost─────┴──────────────────┘                Frozen    │ Due
//!                                                                                 ▼      │
//!                            Replicating ◄─Shipped─ Shipping ◄─Captured─ Capturing ──────┘
//!                                 └──────────────────────────────Due──────────────► FreezingDelta
//! ```
//! `TrackingLost` leads from every phase that counts changes back to FreezingCopy, where the copy compares with what was
//! applied. `CaptureLost` leads from Shipping back to FreezingDelta: what is lost is captured again from its cursor.

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
    /// A point to copy is being taken.
    FreezingCopy,
    /// What the point holds is sent where it differs from what was applied.
    Copying { point: FrozenPointId },
    /// Everything of the point is sealed. It becomes the cursor that changes are counted from, and merges away.
    Releasing { point: FrozenPointId },
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
    Frozen(FrozenPointId),
    Copied,
    /// The frozen point is gone, and was not released by us.
    PointLost,
    /// The point was released and is merged away.
    Released(Cursors),
    Captured,
    /// The captured logs cannot be used.
    CaptureLost,
    /// The barrier is sealed; changes are counted from here now.
    Shipped(Cursors),
    /// The next barrier is due.
    Due,
    /// A change may have been missed.
    TrackingLost,
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
        let next = match (self, &event) {
            (Phase::Created, Event::Start) => Phase::Resuming,
            (Phase::Resuming, Event::Resumed(phase)) => phase.clone(),
            (Phase::FreezingCopy, Event::Frozen(point)) => Phase::Copying {
                point: point.clone(),
            },
            (Phase::Copying { point }, Event::Copied) => Phase::Releasing {
                point: point.clone(),
            },
            (Phase::Copying { .. } | Phase::Releasing { .. }, Event::PointLost) => {
                Phase::FreezingCopy
            }
            (Phase::Releasing { .. }, Event::Released(since)) => Phase::FreezingDelta {
                since: since.clone(),
            },
            (Phase::FreezingDelta { since }, Event::Frozen(point)) => Phase::Capturing {
                point: point.clone(),
                since: since.clone(),
            },
            (Phase::Capturing { since, .. }, Event::Captured) => Phase::Shipping {
                since: since.clone(),
            },
            (Phase::Capturing { since, .. }, Event::PointLost)
            | (Phase::Shipping { since }, Event::CaptureLost) => Phase::FreezingDelta {
                since: since.clone(),
            },
            (Phase::Shipping { .. }, Event::Shipped(since)) => Phase::Replicating {
                since: since.clone(),
            },
            (Phase::Replicating { since }, Event::Due) => Phase::FreezingDelta {
                since: since.clone(),
            },
            (
                Phase::Releasing { .. }
                | Phase::FreezingDelta { .. }
                | Phase::Capturing { .. }
                | Phase::Shipping { .. }
                | Phase::Replicating { .. },
                Event::TrackingLost,
            ) => Phase::FreezingCopy,
            (
                Phase::Created
                | Phase::Resuming
                | Phase::FreezingCopy
                | Phase::Copying { .. }
                | Phase::Releasing { .. }
                | Phase::FreezingDelta { .. }
                | Phase::Capturing { .. }
                | Phase::Shipping { .. }
                | Phase::Replicating { .. },
                _,
            ) => {
                return Err(Rejected {
                    phase: self.clone(),
                    event,
                });
            }
        };
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str) -> FrozenPointId {
        name.parse().unwrap()
    }

    fn cursors(text: &str) -> Cursors {
        Cursors::from([(DiskId::from_random(1), TrackingCursor::new(text))])
    }

    fn after(events: impl IntoIterator<Item = Event>) -> Phase {
        events
            .into_iter()
            .fold(Phase::Created, |phase, event| phase.on(event).unwrap())
    }

    fn first_copy() -> Vec<Event> {
        vec![
            Event::Start,
            Event::Resumed(Phase::FreezingCopy),
            Event::Frozen(point("p1")),
        ]
    }

    #[test]
    fn a_first_copy_ends_with_the_changes_of_its_time() {
        let mut events = first_copy();
        events.extend([
            Event::Copied,
            Event::Released(cursors("c1")),
            Event::Frozen(point("p2")),
        ]);
        let capturing = Phase::Capturing {
            point: point("p2"),
            since: cursors("c1"),
        };
        assert_eq!(after(events.clone()), capturing);
        events.extend([Event::Captured, Event::Shipped(cursors("c2"))]);
        assert_eq!(
            after(events),
            Phase::Replicating {
                since: cursors("c2")
            }
        );
    }

    #[test]
    fn a_lost_point_is_taken_anew() {
        let mut events = first_copy();
        events.push(Event::PointLost);
        assert_eq!(after(events), Phase::FreezingCopy);
    }

    #[test]
    fn a_lost_capture_is_captured_again_from_its_cursor() {
        let shipping = Phase::Shipping {
            since: cursors("c1"),
        };
        assert_eq!(
            shipping.on(Event::CaptureLost),
            Ok(Phase::FreezingDelta {
                since: cursors("c1")
            })
        );
    }

    #[test]
    fn lost_tracking_leads_to_a_copy_from_every_phase_that_counts_changes() {
        for phase in [
            Phase::Releasing { point: point("p") },
            Phase::FreezingDelta {
                since: cursors("c"),
            },
            Phase::Capturing {
                point: point("p"),
                since: cursors("c"),
            },
            Phase::Shipping {
                since: cursors("c"),
            },
            Phase::Replicating {
                since: cursors("c"),
            },
        ] {
            assert_eq!(phase.on(Event::TrackingLost), Ok(Phase::FreezingCopy));
        }
    }

    #[test]
    fn an_event_that_does_not_fit_changes_nothing() {
        assert!(Phase::Created.on(Event::Copied).is_err());
        assert!(
            Phase::Copying { point: point("p") }
                .on(Event::Captured)
                .is_err()
        );
        assert!(
            Phase::Replicating {
                since: cursors("c")
            }
            .on(Event::Start)
            .is_err()
        );
    }
}
