//! When a status is worth writing: at once when something was decided or flipped, now and then while a number moves.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::condition::types;
use crate::api::vm_status::{ProtectedVMStatus, RecoveryPointStatus, RecoveryPointsStatus};
use crate::controller::vm::health;

/// How far a copy is is written this often at most, unless it moved far.
const EVERY: Duration = Duration::from_secs(60);
/// Percent that count as far.
const FAR: i32 = 5;
/// All else that moves: new recovery points, and the numbers of what was said before.
const SLOWLY: Duration = Duration::from_secs(300);
/// The first points of a VM are waited for: they are written at once.
const FIRST_POINTS: i32 = 3;

/// Whether `new` should replace `written`, which was written `age` ago.
pub fn is_worth_writing(
    written: &ProtectedVMStatus,
    new: &ProtectedVMStatus,
    age: Duration,
) -> bool {
    if still(written) != still(new) {
        return true;
    }
    if written == new {
        return false;
    }
    age >= SLOWLY || moved_far(written, new) || (age >= EVERY && progress(written) != progress(new))
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
    let conditions = still.conditions.iter_mut();
    for condition in conditions.filter(|condition| numbers.contains(&condition.type_.as_str())) {
        condition.message.clear();
    }
    still
}

/// How far the copies are.
fn progress(status: &ProtectedVMStatus) -> impl PartialEq {
    let disks = status.disks.iter();
    let copies: Vec<_> = disks.map(|disk| disk.copy.clone()).collect();
    (status.progress.clone(), copies)
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
    use crate::api::vm_status::{CopyProgress, DiskStatus, ReplicationState};

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
}
