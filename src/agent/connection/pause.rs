//! How long to wait before the next attempt to reach the gateway. Pure: chance is an argument.
//!
//! | after | wait |
//! |---|---|
//! | a controller that does not lead | 1 to 5 s: another replica leads, or will soon |
//! | a connection that stood for [`STEADY`] | 1 to 2 s |
//! | the n-th failure in a row, or a connection that did not stand so long | 1 s to 2ⁿ s, at most 60 s |
//!
//! Full jitter, because a thousand agents lose a controller in the same second.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
const NOT_LEADER: Duration = Duration::from_secs(5);
/// What stood so long was no failure.
const STEADY: Duration = Duration::from_secs(60);

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No connection, or none to a controller that this agent can work with.
    Failed,
    NotLeader,
    /// Served a leader for so long.
    Served(Duration),
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures(u32);

impl Failures {
    /// The count after `outcome`, and how long to wait. `chance` is from 0 (inclusive) to 1 (exclusive).
    pub(crate) fn pause(self, outcome: Outcome, chance: f64) -> (Failures, Duration) {
        let (failures, ceiling) = match outcome {
            Outcome::NotLeader => (0, NOT_LEADER),
            Outcome::Served(time) if time >= STEADY => (0, 2 * SHORTEST),
            Outcome::Failed | Outcome::Served(_) => {
                let failures = self.0.saturating_add(1);
                let doubled = 2_u32.saturating_pow(failures);
                (failures, SHORTEST.saturating_mul(doubled).min(LONGEST))
            }
        };
        let spread = (ceiling - SHORTEST).mul_f64(chance);
        (Failures(failures), SHORTEST + spread)
    }

    pub(crate) const fn count(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

    use super::*;

    const ALMOST_ONE: f64 = 0.999_999;

    /// In seconds.
    fn ceiling(failures: Failures, outcome: Outcome) -> u64 {
        let (_, wait) = failures.pause(outcome, ALMOST_ONE);
        (wait + Duration::from_millis(1)).as_secs()
    }

    #[test]
    fn failures_double_the_wait_up_to_a_minute() {
        let mut failures = Failures::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(ceiling(failures, Outcome::Failed));
            failures = failures.pause(Outcome::Failed, 0.0).0;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_connection_that_stood_is_no_failure_and_one_that_did_not_is() {
        let failures = Failures(7);
        assert_eq!(ceiling(failures, Outcome::Served(STEADY)), 2);
        assert_eq!(ceiling(failures, Outcome::Served(Duration::ZERO)), 60);
    }

    #[test]
    fn a_controller_that_does_not_lead_is_asked_again_soon() {
        let (failures, wait) = Failures(7).pause(Outcome::NotLeader, ALMOST_ONE);
        assert_eq!(failures.count(), 0);
        assert!(wait <= NOT_LEADER);
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Failed),
            Just(Outcome::NotLeader),
            (0_u64..200).prop_map(|seconds| Outcome::Served(Duration::from_secs(seconds))),
        ]
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_a_second_or_longer_than_a_minute(
            attempts in proptest::collection::vec((outcome(), 0.0..1.0_f64), 1..200)
        ) {
            let mut failures = Failures::default();
            for (outcome, chance) in attempts {
                let (after, wait) = failures.pause(outcome, chance);
                assert!((SHORTEST..=LONGEST).contains(&wait), "{wait:?}");
                failures = after;
            }
        }
    }
}
