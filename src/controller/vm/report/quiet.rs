//! When a status is worth writing: at once when something was decided or flipped, now and then while a number moves.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::condition::{Condition, types};
use crate::api::vm_status::{
    ProtectedVMStatus, RecoveryPointStatus, RecoveryPointsStatus, ReplicationState,
};
use crate::controller::status::Lane;
use crate::controller::vm::health;

/// How far a copy is is written this often at most, unless it moved far.
const EVERY: Duration = Duration::from_secs(60);
/// Percent that count as far.
const FAR: i32 = 5;
/// All else that moves: new recovery points, and the numbers of what was said before.
const SLOWLY: Duration = Duration::from_secs(300);
/// The first points of a VM are waited for: they are written at once.
const FIRST_POINTS: i32 = 3;
/// The reason of what waits for its first copy, whose message has its place.
pub const QUEUED: &str = "Queued";

/// Whether `new` should replace `written`, which was written `age` ago: as what, if so.
pub fn worth(written: &ProtectedVMStatus, new: &ProtectedVMStatus, age: Duration) -> Option<Lane> {
    if written == new {
        return None;
    }
    let (before, now) = (still(written), still(new));
    if without_points(before.clone()) != without_points(now.clone()) {
        return Some(Lane::News);
    }
    let moved = before != now
        || age >= SLOWLY
        || moved_far(written, new)
        || (age >= EVERY && progress(written) != progress(new));
    moved.then_some(Lane::Numbers)
}

/// Whether there are points is news; which ones is not.
fn without_points(mut status: ProtectedVMStatus) -> ProtectedVMStatus {
    let application = status
        .recovery_points
        .as_ref()
        .is_some_and(|points| points.latest_application_consistent.is_some());
    status.recovery_points = status.recovery_points.map(|_| RecoveryPointsStatus {
        count: i32::from(application),
        ..RecoveryPointsStatus::default()
    });
    status
}

/// The status without what moves.
fn still(status: &ProtectedVMStatus) -> ProtectedVMStatus {
    let mut still = status.clone();
    still.progress = None;
    for disk in &mut still.disks {
        disk.copy = None;
        disk.head = None;
    }
    // After the first points a new one is movement; that there is an application-consistent one is not.
    if let Some(points) = still
        .recovery_points
        .as_mut()
        .filter(|points| points.count >= FIRST_POINTS)
    {
        let latest = points.latest_application_consistent.take();
        *points = RecoveryPointsStatus {
            latest_application_consistent: latest.map(|point| RecoveryPointStatus {
                id: String::new(),
                time: Timestamp::UNIX_EPOCH.into(),
                ..point
            }),
            ..RecoveryPointsStatus::default()
        };
    }
    for line in &mut still.health_reasons {
        *line = health::code(line).to_owned();
    }
    let numbers = [types::RPO_MET, types::CRITICAL, types::RESYNCING];
    let moves = |condition: &Condition| {
        numbers.contains(&condition.type_.as_str()) || condition.reason == QUEUED
    };
    for condition in still.conditions.iter_mut().filter(|of| moves(of)) {
        condition.message.clear();
    }
    still
}

/// How far the copies are. A place among those that wait moves with every copy that ends: it is no progress.
fn progress(status: &ProtectedVMStatus) -> impl PartialEq {
    let disks = status.disks.iter();
    let copies: Vec<_> = disks.map(|disk| disk.copy.clone()).collect();
    let waits = status.state == Some(ReplicationState::WaitingForInitialReplication);
    (status.progress.clone().filter(|_| !waits), copies)
}

fn moved_far(written: &ProtectedVMStatus, new: &ProtectedVMStatus) -> bool {
    let percents = |status: &ProtectedVMStatus| -> Vec<Option<i32>> {
        status
            .disks
            .iter()
            .map(|disk| disk.copy.as_ref().map(|copy| copy.percent))
            .collect()
    };
    let pairs = percents(written).into_iter().zip(percents(new));
    pairs.into_iter().any(|pair| match pair {
        (Some(old), Some(new)) => (new - old).abs() >= FAR || (new == 100 && old != 100),
        (None, Some(_)) | (Some(_), None) => true,
        (None, None) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_worth_writing(
        written: &ProtectedVMStatus,
        new: &ProtectedVMStatus,
        age: Duration,
    ) -> bool {
        worth(written, new, age).is_some()
    }
    use crate::api::vm_status::{CopyProgress, DiskStatus};

    fn status(percent: Option<i32>) -> ProtectedVMStatus {
        let copy = percent.map(|percent| CopyProgress {
            percent,
            done: format!("{percent} MiB"),
            total: "100 MiB".to_owned(),
            sent: String::new(),
            rate: None,
            time_left: None,
            limited_by: None,
        });
        let disk = DiskStatus {
            id: "scsi:0:0".to_owned(),
            replica_disk_id: String::new(),
            size: String::new(),
            head: None,
            copy,
        };
        ProtectedVMStatus {
            disks: vec![disk],
            ..ProtectedVMStatus::default()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_equal_is_never_written() {
        assert!(!is_worth_writing(
            &status(Some(40)),
            &status(Some(40)),
            10 * EVERY
        ));
    }

    #[test]
    fn progress_is_written_when_it_moved_far_or_after_a_while() {
        assert!(!is_worth_writing(
            &status(Some(40)),
            &status(Some(42)),
            SECOND
        ));
        assert!(is_worth_writing(
            &status(Some(40)),
            &status(Some(45)),
            SECOND
        ));
        assert!(is_worth_writing(
            &status(Some(40)),
            &status(Some(42)),
            EVERY
        ));
        assert!(is_worth_writing(&status(None), &status(Some(0)), SECOND));
        assert!(is_worth_writing(
            &status(Some(99)),
            &status(Some(100)),
            SECOND
        ));
    }

    #[test]
    fn what_every_cycle_brings_is_written_every_five_minutes() {
        use crate::api::condition::{Said, Status, merge};
        let at = |second| jiff::Timestamp::from_second(second).unwrap().into();
        let cycle = |number: i32| {
            let mut status = status(None);
            status.disks[0].head =
                Some(["Applying", "Consistent"][usize::from(number % 2 == 0)].to_owned());
            status.recovery_points = Some(RecoveryPointsStatus {
                count: number,
                ..RecoveryPointsStatus::default()
            });
            status.health_reasons = vec![format!("CyclesMissed: {number} of 100")];
            let message = format!("the last {number}m are not in Azure");
            let missed = Said::new(types::RPO_MET, Status::False, "TargetMissed", message);
            status.conditions = merge(&[], vec![missed], 1, at(0));
            status
        };
        assert!(!is_worth_writing(&cycle(10), &cycle(11), SLOWLY - SECOND));
        assert!(is_worth_writing(&cycle(10), &cycle(11), SLOWLY));
        assert!(
            is_worth_writing(&cycle(1), &cycle(2), SECOND),
            "the first points are waited for"
        );
        let mut other = cycle(11);
        other.health_reasons = vec!["LatencyHigh: 6m".to_owned()];
        assert!(is_worth_writing(&cycle(10), &other, SECOND));
    }

    #[test]
    fn a_change_of_state_is_written_at_once() {
        let protected = ProtectedVMStatus {
            state: Some(ReplicationState::Protected),
            ..status(Some(40))
        };
        assert!(is_worth_writing(
            &status(Some(40)),
            &protected,
            Duration::ZERO
        ));
    }

    fn with_point(count: i32) -> ProtectedVMStatus {
        let point = RecoveryPointStatus {
            id: count.to_string(),
            time: Timestamp::from_second(count.into()).unwrap().into(),
            consistency: "Crash".to_owned(),
        };
        ProtectedVMStatus {
            recovery_points: Some(RecoveryPointsStatus {
                count,
                latest: Some(point),
                ..RecoveryPointsStatus::default()
            }),
            ..status(None)
        }
    }

    #[test]
    fn recovery_points_of_every_half_minute_are_written_every_five_minutes() {
        let mut written = with_point(0);
        let (mut writes, mut age) = (0, 0);
        for second in (30..=3600).step_by(30) {
            age += 30;
            let mut new = with_point(second / 30);
            // The data path is at work in every second look.
            new.disks[0].head =
                Some(["Applying", "Consistent"][usize::from(second % 60 == 0)].to_owned());
            if is_worth_writing(&written, &new, Duration::from_secs(age)) {
                (written, age, writes) = (new, 0, writes + 1);
            }
        }
        // The first ones at once, then every five minutes.
        assert_eq!(writes, FIRST_POINTS + 11);
    }

    #[test]
    fn the_first_recovery_point_is_written_at_once() {
        assert!(is_worth_writing(&status(None), &with_point(1), SECOND));
    }

    #[test]
    fn that_something_has_happened_does_not_wait_behind_what_moves() {
        let first = worth(&status(None), &with_point(1), SECOND);
        assert_eq!(first, Some(Lane::News));
        let second = worth(&with_point(1), &with_point(2), SECOND);
        assert_eq!(second, Some(Lane::Numbers));
        let progress = worth(&status(Some(40)), &status(Some(50)), SECOND);
        assert_eq!(progress, Some(Lane::Numbers));
    }

    #[test]
    fn a_place_in_the_queue_is_written_every_five_minutes() {
        use crate::api::condition::{Said, Status, merge};
        let at = jiff::Timestamp::from_second(0).unwrap().into();
        let queued = |position: u32| {
            let message = format!("number {position} of 9000");
            let ready = Said::new(types::READY, Status::False, QUEUED, message);
            ProtectedVMStatus {
                state: Some(ReplicationState::WaitingForInitialReplication),
                progress: Some(format!("queued {position}/9000")),
                conditions: merge(&[], vec![ready], 1, at),
                ..status(None)
            }
        };
        assert_eq!(worth(&queued(8000), &queued(7999), SLOWLY - SECOND), None);
        let later = worth(&queued(8000), &queued(7900), SLOWLY);
        assert_eq!(later, Some(Lane::Numbers));
    }
}
