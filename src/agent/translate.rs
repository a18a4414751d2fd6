//! From an engine's words to the wire's.

use std::collections::BTreeMap;

use crate::engine::cycles;
use crate::engine::demand::Demand;
use crate::engine::phase::Phase;
use crate::engine::progress::{Limit, Pace};
use crate::ids::DiskId;
use crate::wire::observation;

/// What an engine is doing, for the controller.
pub(super) const fn phase(phase: &Phase) -> observation::Phase {
    match phase {
        Phase::Created => observation::Phase::Created,
        Phase::Resuming => observation::Phase::Resuming,
        Phase::ResyncRequired { .. } => observation::Phase::ResyncRequired,
        Phase::FreezingCopy { .. } | Phase::FreezingDelta { .. } => observation::Phase::Freezing,
        Phase::Copying { .. } => observation::Phase::Copying,
        Phase::Releasing { .. } => observation::Phase::Merging,
        Phase::Capturing { .. } => observation::Phase::Capturing,
        Phase::Shipping { .. } => observation::Phase::Shipping,
        Phase::Replicating { .. } => observation::Phase::Replicating,
    }
}

/// What the barriers came to, for the controller.
pub(super) fn cycles(counted: &cycles::Counted) -> observation::Cycles {
    observation::Cycles {
        completed: counted.completed,
        missed: counted.missed,
        changed: counted.changed,
        latency: u64::try_from(counted.latency.as_millis()).unwrap_or(u64::MAX),
    }
}

/// What has to be compared, for the controller.
pub(super) fn resync(phase: &Phase, demand: &Demand) -> observation::Resync {
    observation::Resync {
        disks: demand.disks.iter().cloned().collect(),
        reason: demand.reason.clone(),
        running: !matches!(phase, Phase::ResyncRequired { .. }),
    }
}

/// What holds a copy back, for the controller.
pub(super) fn limit(phase: &Phase, pace: &Pace) -> Option<observation::Limit> {
    if let Phase::Releasing { .. } = phase {
        return Some(observation::Limit::Merge);
    }
    Some(match pace.limit? {
        Limit::Source => observation::Limit::Source,
        Limit::Cap => observation::Limit::Cap,
        Limit::Network => observation::Limit::Network,
        Limit::Storage => observation::Limit::Storage,
    })
}

/// The disks of an engine, with what was counted and how fast it goes.
pub(super) fn disks(
    phase: &Phase,
    counted: &BTreeMap<DiskId, (crate::engine::progress::Counted, Pace)>,
) -> Vec<observation::DiskObservation> {
    let disks = counted
        .iter()
        .map(|(disk, (counted, pace))| observation::DiskObservation {
            disk: disk.clone(),
            total: counted.total,
            done: counted.done,
            sent: counted.sent,
            rate: pace.rate,
            pending: counted.pending,
            changed: counted.changed,
            limited_by: limit(phase, pace),
        });
    disks.collect()
}
