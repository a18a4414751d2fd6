//! How far a copy is, how fast it goes, and what holds it back.
//!
//! The parts of the copy add up what they did and how long they waited for whom; an observer turns the difference
//! between two looks into a rate and a limit. Counters only grow, so that a look never has to lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What holds a copy back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The source disk cannot be read faster.
    Source,
    /// The bandwidth cap of the host.
    Cap,
    Network,
    /// The storage service asks to slow down.
    Storage,
}

/// What a copy of one disk counts.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that have to be looked at in all.
    total: AtomicU64,
    done: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds that reading stood still because nothing downstream took what it had.
    held: AtomicU64,
    /// Milliseconds that senders waited for the bandwidth cap.
    capped: AtomicU64,
    /// Milliseconds that senders waited for storage to take a body.
    sending: AtomicU64,
    /// Times that storage asked to slow down.
    slowed: AtomicU64,
    /// Bytes of changes that are captured and not sealed.
    pending: AtomicU64,
    /// Bytes of changes that were sealed.
    changed: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub total: u64,
    pub done: u64,
    pub sent: u64,
    pub held: u64,
    pub capped: u64,
    pub sending: u64,
    pub slowed: u64,
    pub pending: u64,
    pub changed: u64,
}

impl Progress {
    /// Begins anew: `total` bytes to look at, of which `done` have been.
    pub fn begin(&self, total: u64, done: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    /// There is more to look at than was known before.
    pub fn add_total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn add_held(&self, time: Duration) {
        add_time(&self.held, time);
    }

    pub fn add_capped(&self, time: Duration) {
        add_time(&self.capped, time);
    }

    pub fn add_sending(&self, time: Duration) {
        add_time(&self.sending, time);
    }

    pub fn add_slowed(&self) {
        self.slowed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn set_pending(&self, bytes: u64) {
        self.pending.store(bytes, Ordering::Relaxed);
    }

    /// What was pending is sealed.
    pub fn seal_pending(&self) {
        let sealed = self.pending.swap(0, Ordering::Relaxed);
        self.changed.fetch_add(sealed, Ordering::Relaxed);
    }

    pub fn counted(&self) -> Counted {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            total: get(&self.total),
            done: get(&self.done),
            sent: get(&self.sent),
            held: get(&self.held),
            capped: get(&self.capped),
            sending: get(&self.sending),
            slowed: get(&self.slowed),
            pending: get(&self.pending),
            changed: get(&self.changed),
        }
    }
}

fn add_time(counter: &AtomicU64, time: Duration) {
    counter.fetch_add(
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
}

/// What went on between two looks, `time` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second.
    pub rate: u64,
    pub limit: Option<Limit>,
}

/// Reading that stood still for at least this part of the time is not what limits.
const HELD_PERCENT: u128 = 30;

/// The pace between two looks.
pub fn pace(before: &Counted, after: &Counted, time: Duration) -> Pace {
    let milliseconds = time.as_millis().max(1);
    let done = u128::from(after.done.saturating_sub(before.done));
    let rate = u64::try_from(done * 1000 / milliseconds).unwrap_or(u64::MAX);
    if after.done == before.done && after.sent == before.sent && after.held == before.held {
        return Pace { rate, limit: None };
    }
    let held = u128::from(after.held.saturating_sub(before.held));
    let capped = after.capped.saturating_sub(before.capped);
    let sending = after.sending.saturating_sub(before.sending);
    let limit = if held * 100 < milliseconds * HELD_PERCENT {
        Limit::Source
    } else if capped > sending {
        Limit::Cap
    } else if after.slowed > before.slowed {
        Limit::Storage
    } else {
        Limit::Network
    };
    Pace {
        rate,
        limit: Some(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(change: impl FnOnce(&Progress)) -> Pace {
        let progress = Progress::default();
        progress.begin(1000, 0);
        let before = progress.counted();
        change(&progress);
        pace(&before, &progress.counted(), SECOND)
    }

    #[test]
    fn a_reader_that_never_waits_is_the_limit() {
        let pace = after(|progress| progress.add_done(500));
        assert_eq!(
            pace,
            Pace {
                rate: 500,
                limit: Some(Limit::Source)
            }
        );
    }

    #[test]
    fn a_reader_that_waits_is_held_by_the_cap_or_the_network_or_storage() {
        let held = |change: fn(&Progress)| {
            after(|progress| {
                progress.add_done(1);
                progress.add_held(SECOND / 2);
                change(progress);
            })
        };
        assert_eq!(
            held(|progress| progress.add_capped(SECOND)).limit,
            Some(Limit::Cap)
        );
        assert_eq!(
            held(|progress| progress.add_sending(SECOND)).limit,
            Some(Limit::Network)
        );
        assert_eq!(
            held(|progress| progress.add_slowed()).limit,
            Some(Limit::Storage)
        );
    }

    #[test]
    fn nothing_that_moves_has_no_limit() {
        assert_eq!(after(|_| ()).limit, None);
    }
}
