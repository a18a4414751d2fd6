//! When barriers are due, and what they came to.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// An application-consistent point that could not be had is tried again at the latest after this time.
const QUIESCE_AGAIN: Duration = Duration::from_secs(3600);

/// The times at which barriers are due: every interval, at an offset that differs from VM to VM, so that a fleet does
/// not freeze at once. By the clock of the process, which does not jump.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    origin: Instant,
    interval: Duration,
}

impl Grid {
    /// A grid that begins within an interval after `now`; `offset` is the part of the interval, from 0 to 1.
    pub fn new(now: Instant, interval: Duration, offset: f64) -> Self {
        let interval = interval.max(Duration::from_secs(1));
        Grid {
            origin: now + interval.mul_f64(offset.clamp(0.0, 1.0)),
            interval,
        }
    }

    /// The first due time after `last`.
    pub fn next(&self, last: Instant) -> Instant {
        let nanos = self.interval.as_nanos() * u128::from(self.until(last));
        self.origin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How many due times lie after `from` and not after `until`.
    pub fn due(&self, from: Instant, until: Instant) -> u64 {
        self.until(until).saturating_sub(self.until(from))
    }

    /// How many due times do not lie after `at`.
    fn until(&self, at: Instant) -> u64 {
        at.checked_duration_since(self.origin).map_or(0, |passed| {
            let whole = passed.as_nanos() / self.interval.as_nanos();
            u64::try_from(whole).unwrap_or(u64::MAX).saturating_add(1)
        })
    }
}

/// Whether the next point should be application-consistent: `last` is the newest that is, `tried` the last attempt.
pub fn is_application_due(
    every: Option<Duration>,
    last: Option<Timestamp>,
    tried: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let Some(every) = every else { return false };
    // A time that has not come yet was said by a clock that went wrong.
    let passed = |since: Option<Timestamp>, time: Duration| {
        since.is_none_or(|since| {
            Duration::try_from(now.duration_since(since)).map_or(true, |age| age >= time)
        })
    };
    passed(last, every) && passed(tried, every.min(QUIESCE_AGAIN))
}

/// What the barriers of one engine came to. All numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Barriers whose changes are sealed, or that found nothing changed.
    pub completed: u64,
    /// Barriers that were due and were not taken, because an earlier one was on its way or nothing could be done.
    pub missed: u64,
    /// Bytes of changes.
    pub changed: u64,
    /// From the barriers to their seals.
    pub latency: Duration,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_late_barrier_is_taken_at_once_and_the_grid_stays() {
        let start = Instant::now();
        let grid = Grid::new(start, MINUTE, 0.5);
        assert_eq!(grid.next(start), start + MINUTE / 2);
        // Two due times pass while a transfer overruns: the next is long due.
        let (frozen, done) = (start + MINUTE / 2, start + 3 * MINUTE);
        assert!(grid.next(frozen) < done);
        assert_eq!(grid.due(frozen, done), 2);
        assert_eq!(grid.next(done), start + MINUTE * 7 / 2);
    }

    #[test]
    fn an_application_consistent_point_is_due_after_its_time_and_after_a_clock_that_jumped() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let due = |last, tried, now| is_application_due(Some(2 * 60 * MINUTE), last, tried, now);
        assert!(due(None, None, at(0)));
        assert!(!due(Some(at(0)), None, at(119)));
        assert!(due(Some(at(0)), None, at(120)));
        assert!(!due(Some(at(0)), Some(at(120)), at(179)));
        assert!(due(Some(at(0)), Some(at(120)), at(180)));
        assert!(due(Some(at(500)), None, at(100)));
        assert!(!is_application_due(None, None, None, at(0)));
    }

    proptest! {
        #[test]
        fn due_times_are_one_interval_apart(offset in 0.0..1.0f64, seconds in 0..100_000u64) {
            let start = Instant::now();
            let grid = Grid::new(start, MINUTE, offset);
            let last = start + Duration::from_secs(seconds);
            let next = grid.next(last);
            prop_assert!(next > last && next <= last + MINUTE);
            prop_assert_eq!(grid.due(last, next + MINUTE / 2), 1);
        }
    }
}
