//! The parts of a status that are lists and numbers: disks, recovery points, tasks.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::time::Time;
use crate::api::vm_status::{
    CopyProgress, DiskStatus, Operation, ProtectedVMStatus, RecoveryPointStatus,
    RecoveryPointsStatus, Task, TaskState,
};
use crate::controller::vm::health::said;
use crate::controller::vm::step::{Agent, Fence, Observed, Replica};
use crate::ids::{DiskId, DiskSlot};
use crate::replica::fence::Side;
use crate::replica::manifest::{Head, Point};
use crate::replica::seal::Consistency;
use crate::units::Bytes;
use crate::wire::observation::{DiskObservation, Limit, Phase};

/// Recovery points that a status lists.
const NEWEST: usize = 10;
/// What can be done with a protected VM, once this version can do it.
const OPERATIONS: [&str; 4] = [
    "TestFailover",
    "PlannedFailover",
    "UnplannedFailover",
    "Failback",
];

/// What is known of a VM, beyond what decides its next step.
#[derive(Clone, Debug, Default)]
pub struct Details<'a> {
    pub host: Option<String>,
    pub vm_id: Option<String>,
    pub replica_id: Option<String>,
    pub disks: Vec<DiskDetails<'a>>,
    pub points: &'a [Point],
    pub active_side: Option<Side>,
    pub epoch: Option<u64>,
    pub credentials_expire: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct DiskDetails<'a> {
    pub slot: DiskSlot,
    pub id: DiskId,
    /// Bytes.
    pub size: u64,
    pub head: Option<&'a Head>,
    /// While the disk is being copied.
    pub copy: Option<&'a DiskObservation>,
}

impl Details<'_> {
    /// A status with these details and nothing else. What is not known now stays as it was.
    pub fn status(&self, old: &ProtectedVMStatus) -> ProtectedVMStatus {
        ProtectedVMStatus {
            host: self.host.clone().or_else(|| old.host.clone()),
            vm_id: self.vm_id.clone().or_else(|| old.vm_id.clone()),
            replica_id: self.replica_id.clone().or_else(|| old.replica_id.clone()),
            disks: if self.disks.is_empty() {
                old.disks.clone()
            } else {
                self.disks.iter().map(disk).collect()
            },
            recovery_points: points(self.points).or_else(|| old.recovery_points.clone()),
            active_side: self
                .active_side
                .map(|side| format!("{side:?}"))
                .or_else(|| old.active_side.clone()),
            epoch: self
                .epoch
                .and_then(|epoch| i64::try_from(epoch).ok())
                .or(old.epoch),
            credentials_expire: self
                .credentials_expire
                .map(Time::from)
                .or(old.credentials_expire),
            operations: OPERATIONS.map(not_yet).into(),
            ..ProtectedVMStatus::default()
        }
    }

    /// How much of all copies is done; nothing before the first has begun.
    pub fn percent(&self) -> Option<u64> {
        let copies = self.disks.iter().filter_map(|disk| disk.copy);
        let (done, total) = copies.fold((0u64, 0u64), |(done, total), copy| {
            (
                done.saturating_add(copy.done.min(copy.total)),
                total.saturating_add(copy.total),
            )
        });
        percent(done, total)
    }
}

fn percent(done: u64, total: u64) -> Option<u64> {
    (total > 0).then(|| u64::try_from(u128::from(done) * 100 / u128::from(total)).unwrap_or(100))
}

fn not_yet(action: &str) -> Operation {
    let reason = Some("this version does not fail over yet".to_owned());
    Operation {
        action: action.to_owned(),
        allowed: false,
        reason,
    }
}

fn disk(disk: &DiskDetails<'_>) -> DiskStatus {
    DiskStatus {
        id: disk.slot.to_string(),
        replica_disk_id: disk.id.to_string(),
        size: Bytes(disk.size).to_string(),
        head: disk.head.map(|head| head_name(head).to_owned()),
        copy: disk.copy.filter(|copy| copy.total > 0).map(copy_progress),
    }
}

const fn head_name(head: &Head) -> &'static str {
    match head {
        Head::Copying { .. } => "Copying",
        Head::Applying { .. } => "Applying",
        Head::Consistent { .. } => "Consistent",
        Head::Sealed { .. } => "Sealed",
    }
}

fn copy_progress(copy: &DiskObservation) -> CopyProgress {
    let left = copy.total.saturating_sub(copy.done);
    let time_left = left
        .checked_div(copy.rate)
        .filter(|_| left > 0)
        .map(Duration::from_secs);
    CopyProgress {
        percent: percent(copy.done, copy.total)
            .and_then(|percent| i32::try_from(percent).ok())
            .unwrap_or(0),
        done: Bytes(copy.done).to_string(),
        total: Bytes(copy.total).to_string(),
        sent: Bytes(copy.sent).to_string(),
        rate: (copy.rate > 0).then(|| format!("{}/s", Bytes(copy.rate))),
        time_left: time_left.map(said),
        limited_by: copy.limited_by.map(|limit| limit_name(limit).to_owned()),
    }
}

const fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Source => "Source",
        Limit::Cap => "Cap",
        Limit::Network => "Network",
        Limit::Storage => "Storage",
        Limit::Slot => "Slot",
        Limit::Window => "Window",
        Limit::Merge => "Merge",
        Limit::Unknown => "Unknown",
    }
}

fn points(points: &[Point]) -> Option<RecoveryPointsStatus> {
    let newest: Vec<_> = points.iter().rev().take(NEWEST).map(point).collect();
    Some(RecoveryPointsStatus {
        count: i32::try_from(points.len()).unwrap_or(i32::MAX),
        latest: Some(newest.first()?.clone()),
        latest_application_consistent: points
            .iter()
            .rev()
            .find(|point| point.barrier.consistency == Consistency::Application)
            .map(point),
        oldest: points.first().map(point),
        newest,
    })
}

fn point(point: &Point) -> RecoveryPointStatus {
    RecoveryPointStatus {
        id: point.id.to_string(),
        time: point.barrier.time.into(),
        consistency: format!("{:?}", point.barrier.consistency),
    }
}

/// The steps of the enable job, as the seed names them; start and end times stay as they were first seen.
pub fn tasks(seen: &Observed, failed: bool, old: &[Task], now: Time) -> Vec<Task> {
    let started = matches!(seen.agent, Agent::Replicating(phase) if phase != Phase::Created);
    let fenced = matches!(
        seen.fence,
        Fence::Behind | Fence::Elsewhere | Fence::Current | Fence::Ahead
    );
    let identified = seen.replica == Replica::Present && fenced;
    let done = [
        ("Prerequisites check for enabling protection", seen.record),
        ("Identifying replication target", identified),
        ("Enable replication", seen.related || seen.point),
        ("Starting initial replication", started || seen.point),
        ("Initial replication", seen.point),
        (
            "Finalize protection on the virtual machine",
            seen.point && seen.described,
        ),
    ];
    let current = done
        .iter()
        .position(|(_, done)| !done)
        .unwrap_or(done.len());
    let task = |(index, (name, _)): (usize, &(&str, bool))| {
        let state = match index {
            _ if index < current => TaskState::Succeeded,
            _ if index > current => TaskState::NotStarted,
            _ if failed => TaskState::Failed,
            _ => TaskState::InProgress,
        };
        let before = old.iter().find(|task| task.name == *name);
        let start = before.and_then(|task| task.start_time);
        let end = before
            .filter(|task| task.state == state)
            .and_then(|task| task.end_time);
        let begun = state != TaskState::NotStarted;
        let ended = matches!(state, TaskState::Succeeded | TaskState::Failed);
        Task {
            name: (*name).to_owned(),
            state,
            start_time: begun.then(|| start.unwrap_or(now)),
            end_time: ended.then(|| end.unwrap_or(now)),
        }
    };
    done.iter().enumerate().map(task).collect()
}
