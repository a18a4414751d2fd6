//! When a disk's changes outgrow it: the forecast of the 50 % rule, while nothing is shipped. Pure.
//!
//! Changes that are not in Azure yet wait on the host, captured or tracked. At half of the disk's size comparing costs
//! less than sending: the disk is resynchronized. How much waits is known of what is captured; of what is only tracked
//! it is what the churn makes of the time since everything was in Azure.

use std::time::Duration;

use crate::ids::{DiskId, DiskSlot};

/// A warning comes this long before the limit.
pub const WARN: Duration = Duration::from_secs(4 * 3600);
/// Or when so much of the limit is used up, however slowly it goes on.
const WARN_PERCENT: u64 = 60;

/// What is known of a disk's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growing {
    pub id: DiskId,
    pub slot: DiskSlot,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that are captured and not sealed.
    pub pending: u64,
    /// Bytes per second.
    pub churn: Option<u64>,
}

/// When a disk reaches its limit if nothing is shipped from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Bytes that wait now, as far as is known.
    pub waiting: u64,
    /// Bytes at which the disk is resynchronized.
    pub limit: u64,
    /// Nothing if it does not grow.
    pub left: Option<Duration>,
}

impl Forecast {
    /// The forecast of `disk`, of which everything before `behind` ago is in Azure.
    pub fn of(disk: &Growing, behind: Duration) -> Self {
        let limit = disk.size / 2;
        let churn = disk.churn.unwrap_or(0);
        let waiting = disk.pending.max(churn.saturating_mul(behind.as_secs()));
        Forecast {
            waiting,
            limit,
            left: limit
                .saturating_sub(waiting)
                .checked_div(churn)
                .map(Duration::from_secs),
        }
    }

    /// Whether somebody should look at it, if the VM is behind its target.
    pub fn is_near(&self) -> bool {
        let used = self.waiting >= self.limit / 100 * WARN_PERCENT;
        (used && self.waiting > 0) || self.left.is_some_and(|left| left <= WARN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::{GIB, MIB};

    fn disk(size: u64, pending: u64, churn: Option<u64>) -> Growing {
        Growing {
            id: DiskId::from_random(1),
            slot: "scsi:0:0".parse().unwrap(),
            size,
            pending,
            churn,
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_disk_that_changes_by_a_mebibyte_per_second_has_its_half_left() {
        let forecast = Forecast::of(&disk(100 * GIB, 0, Some(MIB)), Duration::ZERO);
        assert_eq!(forecast.left, Some(Duration::from_secs(50 * 1024)));
        assert!(!forecast.is_near());
        let later = Forecast::of(&disk(100 * GIB, 0, Some(MIB)), 11 * HOUR);
        assert!(later.is_near(), "{later:?}");
    }

    #[test]
    fn what_is_captured_counts_although_the_churn_is_not_known() {
        let forecast = Forecast::of(&disk(10 * GIB, 4 * GIB, None), Duration::ZERO);
        assert_eq!((forecast.waiting, forecast.left), (4 * GIB, None));
        assert!(forecast.is_near());
    }

    #[test]
    fn a_disk_in_which_nothing_changes_is_never_near() {
        assert!(!Forecast::of(&disk(GIB, 0, Some(0)), 1000 * HOUR).is_near());
        assert!(!Forecast::of(&disk(0, 0, None), HOUR).is_near());
    }

    proptest! {
        #[test]
        fn what_waits_longer_has_no_more_time_left(
            size in 1..u64::MAX, pending in 0..u64::MAX, churn in 1..u64::MAX, hours in 0..1000u32,
        ) {
            let disk = disk(size, pending, Some(churn));
            let (now, later) = (Forecast::of(&disk, HOUR * hours), Forecast::of(&disk, HOUR * (hours + 1)));
            prop_assert!(later.left <= now.left);
        }
    }
}
