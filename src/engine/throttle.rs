//! The bandwidth cap of a host: one bucket that all its replications share.
//!
//! A sender takes its bytes when the bucket is not in debt, and may leave it in debt: a body goes out whole, and the next
//! one waits until the debt is paid. So any body size works with any rate, and the average never exceeds the cap by more
//! than one body.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How much of unused time may be made up for.
const BURST: Duration = Duration::from_secs(1);

/// The state of a bucket: when its debt is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    paid_at: Instant,
}

impl Bucket {
    /// Takes `bytes` at `rate` bytes per second: how long the taker has to wait before it sends.
    fn take(&mut self, bytes: u64, rate: u64, now: Instant) -> Duration {
        let start = self.paid_at.max(now.checked_sub(BURST).unwrap_or(now));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        self.paid_at =
            start + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX >> 8));
        start.saturating_duration_since(now)
    }
}

/// The cap, shared by all replications of a host; the rate may change at any time.
#[derive(Debug)]
pub struct Throttle {
    /// Bytes per second; nothing for no cap. Behind the same lock as the bucket, for no await happens under it.
    state: Mutex<(Option<u64>, Bucket)>,
}

impl Throttle {
    pub fn new(rate: Option<u64>) -> Self {
        Throttle {
            state: Mutex::new((
                rate,
                Bucket {
                    paid_at: Instant::now(),
                },
            )),
        }
    }

    /// Changes the cap. Waits under way are not shortened; debts made under a low cap are forgotten.
    pub fn set_rate(&self, rate: Option<u64>) {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.0 != rate {
            *state = (
                rate,
                Bucket {
                    paid_at: Instant::now(),
                },
            );
        }
    }

    /// Waits for the turn of `bytes`: how long that was. Ends early when `stop` is cancelled.
    pub async fn take(&self, bytes: u64, stop: &CancellationToken) -> Duration {
        let wait = {
            let mut state = self
                .state
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let (rate, bucket) = &mut *state;
            rate.map_or(Duration::ZERO, |rate| {
                bucket.take(bytes, rate, Instant::now())
            })
        };
        if !wait.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_average_keeps_to_the_cap() {
        let throttle = Throttle::new(Some(1000));
        let (start, stop) = (Instant::now(), CancellationToken::new());
        for _ in 0..10 {
            throttle.take(5000, &stop).await;
        }
        // Nine bodies had to wait for the one before; one second of burst was free at most.
        assert!(
            start.elapsed() >= Duration::from_secs(44),
            "{:?}",
            start.elapsed()
        );
        assert!(start.elapsed() <= Duration::from_secs(45));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_cap_nothing_waits() {
        let throttle = Throttle::new(None);
        assert_eq!(
            throttle.take(u64::MAX, &CancellationToken::new()).await,
            Duration::ZERO
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_cap_holds_at_once() {
        let throttle = Throttle::new(Some(1));
        let stop = CancellationToken::new();
        throttle.take(1_000_000, &stop).await;
        throttle.set_rate(Some(1_000_000));
        assert_eq!(throttle.take(1, &stop).await, Duration::ZERO);
    }
}
