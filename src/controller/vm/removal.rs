//! What becomes of a replica whose object is deleted. No I/O.
//!
//! ```text
//! deletionPolicy Retain, or the breaker has tripped, or the site cannot say ──────────────► Retain
//! DeleteReplica ── Azure is active, a run or a pin is open, many are deleted, lately ──► Wait
//!                └─ none of them ─► Condemn ─► End (at the host) ─► Erase (in Azure) ─► nothing is left
//!                                      ╰── written in the record: from here on it is finished whoever dies
//! ```
//! Nothing destructive is done before it is written down, nor while it is not known whether somebody needs the replica.
//! Azure VMs, disks and everything else outside of the replica's two containers are never touched.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::protected_vm::DeletionPolicy;
use crate::controller::vm::step::{self, Agent};
use crate::replica::fence::{self, Side};
use crate::replica::record::Condemned;

/// How long a deletion stays without consequence: so that many at once are seen before the first replica goes.
pub const SETTLES: Duration = Duration::from_secs(30);
/// How long the removal waits for a host that cannot be reached. It is told when it comes back.
pub const HOST: Duration = Duration::from_secs(600);

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub policy: DeletionPolicy,
    /// Whether there is a replica at all.
    pub recorded: bool,
    pub condemned: Option<&'a Condemned>,
    pub site: &'a step::Site,
    pub replica: step::Replica,
    pub term: step::Fence,
    pub fence: Option<&'a fence::Fence>,
    pub breaker: Breaker,
    pub agent: Agent,
    pub machine: &'a step::Machine,
    /// Whether the host has said that it does not replicate the VM any more.
    pub ended: bool,
    /// When the object was deleted.
    pub deleted: Option<Timestamp>,
    pub now: Timestamp,
}

/// How the breaker of the site's deletions stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaker {
    Armed,
    /// Too many are deleted, and the site has not written it down yet.
    Trips,
    Tripped,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Everything in Azure stays.
    Retain,
    Wait(Wait),
    /// Late commands of an earlier owner are refused first.
    Raise,
    /// It is written down that the replica goes.
    Condemn,
    /// Replication on the host ends.
    End,
    /// The replica's containers go.
    Erase,
}

/// Why nothing is removed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nobody knows whether the replica is needed.
    Unread,
    ActiveInAzure,
    /// The run.
    Run(String),
    Pinned(usize),
    Settles,
    ManyDeletions,
}

impl Removal {
    pub fn decide(seen: &Seen<'_>) -> Self {
        match seen.condemned {
            Some(condemned) if *seen.site == step::Site::Ready => goes(seen, condemned),
            // It is finished where its site can be reached.
            Some(_) => Removal::Wait(Wait::Unread),
            None if keeps(seen) => Removal::Retain,
            None => match waits(seen) {
                Some(wait) => Removal::Wait(wait),
                None if seen.term == step::Fence::Behind => Removal::Raise,
                None => Removal::Condemn,
            },
        }
    }
}

/// Without its site nobody can write down that a replica goes: it stays.
fn keeps(seen: &Seen<'_>) -> bool {
    seen.policy == DeletionPolicy::Retain
        || !seen.recorded
        || seen.breaker == Breaker::Tripped
        || *seen.site != step::Site::Ready
}

fn waits(seen: &Seen<'_>) -> Option<Wait> {
    let unread = seen.replica == step::Replica::Unknown
        || matches!(seen.term, step::Fence::Unknown | step::Fence::Ahead);
    if unread {
        return Some(Wait::Unread);
    }
    if let Some(fence) = seen.fence {
        if fence.active_side == Side::Azure {
            return Some(Wait::ActiveInAzure);
        }
        if let Some(run) = &fence.active_run {
            return Some(Wait::Run(run.clone()));
        }
        if !fence.pinned.is_empty() {
            return Some(Wait::Pinned(fence.pinned.len()));
        }
    }
    if seen.breaker == Breaker::Trips {
        return Some(Wait::ManyDeletions);
    }
    let settled = seen
        .deleted
        .is_some_and(|at| is_past(at, SETTLES, seen.now));
    (!settled).then_some(Wait::Settles)
}

fn goes(seen: &Seen<'_>, condemned: &Condemned) -> Removal {
    let nowhere =
        matches!(seen.machine, step::Machine::NotFound { .. }) || seen.agent == Agent::Absent;
    if seen.ended || nowhere || is_past(condemned.at, HOST, seen.now) {
        Removal::Erase
    } else {
        Removal::End
    }
}

/// A clock that went back has not let time pass.
fn is_past(at: Timestamp, time: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(at)).is_ok_and(|since| since >= time)
}

impl Wait {
    /// Whether only somebody else ends it: neither time nor another attempt to read does.
    pub const fn is_for_others(&self) -> bool {
        match self {
            Wait::ActiveInAzure | Wait::Run(_) | Wait::Pinned(_) | Wait::ManyDeletions => true,
            Wait::Unread | Wait::Settles => false,
        }
    }

    /// The reason of `Ready`, and what it means.
    pub fn said(&self) -> (&'static str, String) {
        match self {
            Wait::Unread => (
                "ReplicaUnknown",
                "the replica is removed when what is in Azure can be read; with deletionPolicy Retain it stays".to_owned(),
            ),
            Wait::ActiveInAzure => (
                "ActiveInAzure",
                "the replica is not removed while the VM runs in Azure; fail it back, or choose deletionPolicy Retain"
                    .to_owned(),
            ),
            Wait::Run(run) => ("RunOpen", format!("the replica is not removed while RecoveryRun {run} is open")),
            Wait::Pinned(points) => {
                ("RecoveryPointsInUse", format!("the replica is not removed while a run uses {points} of its recovery points"))
            }
            Wait::Settles => (
                "Deleting",
                "the replica is removed in half a minute; until then deletionPolicy Retain keeps it".to_owned(),
            ),
            Wait::ManyDeletions => (
                "ManyDeletions",
                "so many VMs of the site were deleted at once that their replicas are kept".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
