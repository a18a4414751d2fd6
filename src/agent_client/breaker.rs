//! When to stop asking a host that does not answer. Pure: the time is an argument.
//!
//! ```text
//!        THRESHOLD failures in a row            COOL_DOWN has passed
//! Closed ───────────────────────────► Open ─────────────────────────► Trying
//!    ▲                                 ▲                              │ │
//!    │                                 └──────────── a failure ───────┘ │
//!    └────── any answer, also a late one, from any state ───────────────┘
//! ```
//! In `Trying` one command goes through and the others are turned away; a trial that is never heard of again (its
//! caller went away) is followed by another after the same time.

use std::time::{Duration, Instant};

/// Failures in a row after which a host is left alone: one may be chance, three cost 90 s of a worker's time.
pub const THRESHOLD: u32 = 3;
/// For how long it is left alone.
pub const COOL_DOWN: Duration = Duration::from_secs(30);

/// Lets commands through to a host while it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant },
    Trying { since: Instant },
}

/// A command that was turned away: the host has not answered for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// When the next one is let through.
    pub until: Instant,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            state: State::Closed { failures: 0 },
        }
    }
}

impl Breaker {
    /// Whether a command may be sent at `now`, and the breaker after that.
    ///
    /// # Errors
    /// If the host is being left alone.
    pub fn admit(self, now: Instant) -> Result<Breaker, TurnedAway> {
        match self.state {
            State::Closed { .. } => Ok(self),
            State::Open { since } | State::Trying { since } => {
                let until = since + COOL_DOWN;
                if now < until {
                    return Err(TurnedAway { until });
                }
                Ok(Breaker {
                    state: State::Trying { since: now },
                })
            }
        }
    }

    /// The breaker after an answer, whatever it said: the host is there.
    #[must_use]
    pub fn answered(self) -> Breaker {
        Breaker::default()
    }

    /// The breaker after a command that found no answer by `now`.
    #[must_use]
    pub fn failed(self, now: Instant) -> Breaker {
        let state = match self.state {
            State::Closed { failures } if failures + 1 < THRESHOLD => State::Closed {
                failures: failures + 1,
            },
            State::Closed { .. } | State::Trying { .. } => State::Open { since: now },
            // A command from before it opened: no news.
            State::Open { since } => State::Open { since },
        };
        Breaker { state }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        (0..THRESHOLD).fold(Breaker::default(), |breaker, _| breaker.failed(now))
    }

    #[test]
    fn a_host_that_fails_now_and_then_is_not_left_alone() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker = breaker.failed(now).failed(now).answered();
        }
        assert!(breaker.failed(now).failed(now).admit(now).is_ok());
    }

    #[test]
    fn after_the_cool_down_one_command_is_let_through() {
        let now = Instant::now();
        let breaker = opened(now);
        let until = now + COOL_DOWN;
        assert_eq!(breaker.admit(until - SECOND), Err(TurnedAway { until }));
        let trying = breaker.admit(until).unwrap();
        assert!(trying.admit(until).is_err());
        assert_eq!(trying.answered(), Breaker::default());
    }

    #[test]
    fn a_failed_trial_starts_the_cool_down_anew() {
        let now = Instant::now();
        let trying = opened(now).admit(now + COOL_DOWN).unwrap();
        let failed = now + COOL_DOWN + SECOND;
        let until = failed + COOL_DOWN;
        assert_eq!(
            trying.failed(failed).admit(until - SECOND),
            Err(TurnedAway { until })
        );
    }

    #[test]
    fn a_trial_that_was_given_up_does_not_close_the_way_for_ever() {
        let now = Instant::now();
        let trying = opened(now).admit(now + COOL_DOWN).unwrap();
        assert!(trying.admit(now + 2 * COOL_DOWN).is_ok());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        Answer,
        Fail,
        Wait(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Ask),
            Just(Step::Answer),
            Just(Step::Fail),
            (0_u32..40).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn whatever_happens_a_host_is_asked_again_within_the_cool_down(steps in steps()) {
            let mut now = Instant::now();
            let mut breaker = Breaker::default();
            for step in steps {
                match step {
                    Step::Ask => breaker = breaker.admit(now).unwrap_or(breaker),
                    Step::Answer => breaker = breaker.answered(),
                    Step::Fail => breaker = breaker.failed(now),
                    Step::Wait(seconds) => now += SECOND * seconds,
                }
                if let Err(turned_away) = breaker.admit(now) {
                    assert!(turned_away.until <= now + COOL_DOWN);
                    assert!(breaker.admit(turned_away.until).is_ok());
                }
            }
        }

        #[test]
        fn a_sick_host_is_asked_at_most_once_per_cool_down(waits in proptest::collection::vec(0_u32..20, 1..200)) {
            let start = Instant::now();
            let mut now = start;
            let mut breaker = opened(now);
            let mut asked = 0_u32;
            for wait in waits {
                now += SECOND * wait;
                if let Ok(trying) = breaker.admit(now) {
                    asked += 1;
                    breaker = trying.failed(now);
                }
            }
            assert!(COOL_DOWN * asked <= now - start);
        }
    }
}
