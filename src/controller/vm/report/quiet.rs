//! When a status is worth writing: at once when something was decided or flipped, now and then while a number moves.

use std::time::Duration;

use crate::api::vm_status::ProtectedVMStatus;

/// Numbers that move are written this often at most, unless they moved far.
const EVERY: Duration = Duration::from_secs(60);
/// Percent that count as far.
const FAR: i32 = 5;

/// Whether `new` should replace `written`, which was written `age` ago.
pub fn is_worth_writing(
    written: &ProtectedVMStatus,
    new: &ProtectedVMStatus,
    age: Duration,
) -> bool {
    if still(written) != still(new) {
        return true;
    }
    written != new && (age >= EVERY || moved_far(written, new))
}

/// The status without what moves.
fn still(status: &ProtectedVMStatus) -> ProtectedVMStatus {
    let mut still = status.clone();
    // That a copy has begun or ended is no movement.
    still.progress = None;
    for disk in &mut still.disks {
        disk.copy = None;
    }
    still
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
}
