//! How fast requests are sent: within the tokens that Azure Resource Manager gives a principal in a subscription.
//!
//! ```text
//! reads    250, refilled by 25 a second       writes, deletes    200 each, refilled by 10 a second
//! ```
//! Others use the same tokens, so what an answer says is left (`x-ms-ratelimit-remaining-subscription-…`) counts when it
//! is less than what is known here; and after a 429 nothing of its class is sent until the time that it names is over.
//! A failover of a hundred machines then takes its turn instead of being refused. Source: *Understand how Azure Resource
//! Manager throttles requests*.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::Instant;

/// What a request counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Read,
    Write,
    Delete,
}

impl Class {
    pub(crate) fn of(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Class::Read,
            Method::DELETE => Class::Delete,
            _ => Class::Write,
        }
    }

    /// How many at once, and how many more a second.
    const fn limits(self) -> (f64, f64) {
        match self {
            Class::Read => (250.0, 25.0),
            Class::Write | Class::Delete => (200.0, 10.0),
        }
    }

    const fn header(self) -> &'static str {
        match self {
            Class::Read => "x-ms-ratelimit-remaining-subscription-reads",
            Class::Write => "x-ms-ratelimit-remaining-subscription-writes",
            Class::Delete => "x-ms-ratelimit-remaining-subscription-deletes",
        }
    }
}

/// The tokens of one class.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    closed_until: Option<Instant>,
}

impl Bucket {
    /// Takes a token, or says how long there will be none.
    fn take(&mut self, class: Class, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.closed_until {
            if now < until {
                return Err(until - now);
            }
            self.closed_until = None;
        }
        let (most, each_second) = class.limits();
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * each_second).min(most);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / each_second))
    }
}

/// The pace of one principal in one subscription.
#[derive(Debug)]
pub(crate) struct Pace {
    buckets: [Mutex<Bucket>; 3],
}

impl Pace {
    pub(crate) fn new() -> Self {
        let bucket = |class: Class| {
            Mutex::new(Bucket {
                tokens: class.limits().0,
                at: Instant::now(),
                closed_until: None,
            })
        };
        Pace {
            buckets: [Class::Read, Class::Write, Class::Delete].map(bucket),
        }
    }

    /// Waits for a token.
    pub(crate) async fn admit(&self, class: Class) {
        loop {
            let taken = self.with(class, |bucket| bucket.take(class, Instant::now()));
            match taken {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// What an answer says is left.
    pub(crate) fn seen(&self, class: Class, headers: &HeaderMap) {
        let left = headers
            .get(class.header())
            .and_then(|text| text.to_str().ok());
        if let Some(left) = left.and_then(|text| text.parse::<u32>().ok()) {
            self.with(class, |bucket| {
                bucket.tokens = bucket.tokens.min(f64::from(left));
            });
        }
    }

    /// Azure wants nothing of this class for so long.
    pub(crate) fn refused(&self, class: Class, wait: Duration) {
        self.with(class, |bucket| {
            let until = Instant::now() + wait;
            bucket.closed_until = Some(bucket.closed_until.map_or(until, |other| other.max(until)));
        });
    }

    fn with<T>(&self, class: Class, change: impl FnOnce(&mut Bucket) -> T) -> T {
        let bucket = match class {
            Class::Read => &self.buckets[0],
            Class::Write => &self.buckets[1],
            Class::Delete => &self.buckets[2],
        };
        change(&mut bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn time_of(pace: &Pace, class: Class, requests: usize) -> Duration {
        let begun = Instant::now();
        for _ in 0..requests {
            pace.admit(class).await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_what_follows_as_fast_as_azure_refills() {
        let pace = Pace::new();
        assert_eq!(time_of(&pace, Class::Write, 200).await, Duration::ZERO);
        let more = time_of(&pace, Class::Write, 100).await;
        assert!((9..=11).contains(&more.as_secs()), "{more:?}");
        assert_eq!(time_of(&pace, Class::Read, 250).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_used_up_is_not_sent_for() {
        let pace = Pace::new();
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-ratelimit-remaining-subscription-writes", 0.into());
        pace.seen(Class::Write, &headers);
        let waited = time_of(&pace, Class::Write, 10).await;
        assert!((900..=1100).contains(&waited.as_millis()), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_refusal_its_class_waits_and_no_other() {
        let pace = Pace::new();
        pace.refused(Class::Delete, Duration::from_secs(17));
        assert_eq!(time_of(&pace, Class::Read, 1).await, Duration::ZERO);
        assert!(time_of(&pace, Class::Delete, 1).await >= Duration::from_secs(17));
    }
}
