//! What is remembered of a VM between two looks: a cache of what storage says, and who was told what.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::vm_status::ProtectedVMStatus;
use crate::controller::documents::Held;
use crate::controller::status::Turn;
use crate::controller::vm::monitor::Monitor;
use crate::controller::vm::retries::Failure;
use crate::ids::{ChainId, HostName, ReplicaId};
use crate::replica::fence::Fence;
use crate::replica::record::Record;
use crate::retry::{Attempts, LOOK_AGAIN, Trouble};
use crate::units::Generation;
use crate::wire::{Relationship, ReplicationObservation};

/// The memory of one VM.
#[derive(Default)]
pub struct VmMemory {
    /// The fence of the VM's replica, once it was looked for.
    pub fence: Option<(ReplicaId, Option<Held<Fence>>)>,
    /// The object's record as its site last had it.
    pub record: Option<Record>,
    /// Attempts to read the fence.
    pub reading: Failing,
    /// The replica that the data path works on, and what its account was opened with.
    pub attached: Option<(ReplicaId, blake3::Hash)>,
    /// What the agent was told last.
    pub told: Option<Told>,
    pub failing: Failing,
    /// Whether attempts that a restart interrupted were taken up.
    pub resumed: bool,
    /// Whether the site could not be used at the last look.
    pub site_was_away: bool,
    /// What the site's account was opened with at the last look.
    pub credentials: Option<blake3::Hash>,
    /// A digest of the machine at the last look.
    pub machine: Option<blake3::Hash>,
    /// Since when no host has said that it has the machine.
    pub missing: Option<Timestamp>,
    /// Since when it is found on another host than the one that was commanded last, which has not said that it left.
    pub elsewhere: Option<Timestamp>,
    pub monitor: Monitor,
    /// The chain that the data path was told to retire, until the agent was told of it.
    pub retired: Option<ChainId>,
    /// Since when the agent has had the failure that a chain was retired for: it tells of it until it tries again.
    pub retired_for: Option<Timestamp>,
    pub demanded: Option<Demanded>,
    /// Whether the host has said that it has ended replication, so that the replica may go.
    pub ended: bool,
    /// When the status may be written, if it waits for that; and the status as it was last computed meanwhile, which has
    /// the times at which things happened.
    pub turn: Turn,
    pub pending: Option<Box<ProtectedVMStatus>>,
    /// The newest recovery point when one was asked for, until a newer one was written: somebody waits for it.
    pub awaited: Option<Awaited>,
    /// Whether it was said that the deletion waits for the site.
    pub said_waiting: bool,
    /// What was said of annotations that have no effect.
    pub ignored: Option<String>,
    /// Writes of the status that failed in a row.
    pub unwritten: Unwritten,
    /// The generation of the spec that was looked at last.
    pub generation: Option<i64>,
}

/// A recovery point that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// The one that was the newest then.
    pub before: Option<String>,
}

impl Awaited {
    /// Whether `status` tells of a newer one.
    pub fn came(&self, status: &ProtectedVMStatus) -> bool {
        let points = status.recovery_points.as_ref();
        let newest = points.and_then(|points| points.latest.as_ref());
        newest.is_some_and(|newest| Some(&newest.id) != self.before.as_ref())
    }
}

/// A comparison that an agent was told to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demanded {
    /// What it had said by then.
    pub said: Arc<ReplicationObservation>,
    pub at: Timestamp,
}

/// What an agent was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub host: HostName,
    /// An agent of another session may have forgotten.
    pub session: Uuid,
    pub generation: Generation,
    pub relationship: Relationship,
}

/// Failures of one thing that the controller does.
#[derive(Default)]
pub struct Failing {
    attempts: Attempts,
    failure: Option<(Failure, Instant)>,
}

impl Failing {
    /// `what` began at `started` and has failed.
    pub fn failed(&mut self, what: &str, fault: crate::report::Fault, started: Timestamp) {
        let (trouble, wait) = self.attempts.failed(fault, started);
        let what = what.to_owned();
        self.failure = Some((Failure { what, trouble }, Instant::now() + wait));
    }

    /// Goes on with what had failed before a restart.
    pub fn resume(&mut self, failure: Failure, now: Timestamp) {
        let Failure { trouble, .. } = &failure;
        self.attempts = Attempts::resumed(trouble.attempts, trouble.since);
        let wait = trouble.next_attempt.map(|at| at.duration_since(now));
        let wait = wait.and_then(|wait| Duration::try_from(wait).ok());
        // The clock may have gone back: no pause is longer.
        let wait = wait.unwrap_or_default().min(LOOK_AGAIN);
        self.failure = Some((failure, Instant::now() + wait));
    }

    /// A step has succeeded, or somebody asked to begin anew.
    pub fn reset(&mut self) {
        *self = Failing::default();
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        self.failure.as_ref().map(|(failure, _)| &failure.trouble)
    }

    /// What is tried.
    pub fn what(&self) -> &str {
        self.failure
            .as_ref()
            .map_or("", |(failure, _)| &failure.what)
    }

    /// When the next attempt is due; nothing if one may be made now.
    pub fn wait(&self) -> Option<Instant> {
        self.failure
            .as_ref()
            .map(|(_, at)| *at)
            .filter(|at| *at > Instant::now())
    }
}

/// Writes of a status that failed in a row.
#[derive(Debug, Default)]
pub struct Unwritten(u32);

impl Unwritten {
    /// Another one has failed: how long to wait before the next, from a second to a minute or so.
    pub fn failed(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.0.min(6));
        self.0 = self.0.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::time::Time;
    use crate::api::vm_status::{RecoveryPointStatus, RecoveryPointsStatus};

    #[test]
    fn a_point_that_was_asked_for_came_when_another_is_the_newest() {
        let newest = |id: &str| ProtectedVMStatus {
            recovery_points: Some(RecoveryPointsStatus {
                latest: Some(RecoveryPointStatus {
                    id: id.to_owned(),
                    time: Time::from(Timestamp::UNIX_EPOCH),
                    consistency: "Crash".to_owned(),
                }),
                ..RecoveryPointsStatus::default()
            }),
            ..ProtectedVMStatus::default()
        };
        let before = Some("first".to_owned());
        let awaited = Awaited { before };
        assert!(!awaited.came(&ProtectedVMStatus::default()));
        assert!(!awaited.came(&newest("first")));
        assert!(awaited.came(&newest("second")));
    }

    #[test]
    fn a_status_that_cannot_be_written_is_tried_less_and_less_often() {
        let mut unwritten = Unwritten::default();
        let pauses: Vec<u64> = (0..8).map(|_| unwritten.failed().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64]);
    }
}
