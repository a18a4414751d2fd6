//! Whether a VM keeps to its recovery point objective. Pure.
//!
//! The target follows from the copy interval by the seed's rules: a cycle counts as missed when its log was not shipped
//! before the next is due, so what was written right after a barrier is in Azure two intervals later at the latest,
//! unless a cycle was missed. Measured is the upload, as in the seed: processing follows within minutes.
//!
//! ```text
//! True ── more than the target ──► False ── within the target for five minutes ──► True
//! ```

use std::time::Duration;

use jiff::Timestamp;

use crate::api::condition::{Said, Status, types};
use crate::controller::vm::exposure::age;
use crate::controller::vm::health::{HOLD, said};

/// A host's clock that goes ahead by more than this makes its times worthless.
const AHEAD: Duration = Duration::from_secs(120);

/// The target of a copy interval.
pub const fn target(interval: Duration) -> Duration {
    interval.saturating_mul(2)
}

/// What the objective is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub interval: Duration,
    /// Up to when everything is uploaded, by the host's clock.
    pub uploaded: Option<Timestamp>,
    pub point: bool,
    /// Whether the agent has been silent for long.
    pub silent: bool,
    pub suspended: bool,
}

/// When the target was missed last, so that a VM on the edge does not flap.
#[derive(Debug, Default)]
pub struct Missed(Option<Timestamp>);

impl Missed {
    /// The condition, and after which time it may be another without anything being observed.
    pub fn judge(&mut self, of: &Measured, now: Timestamp) -> (Said, Option<Duration>) {
        let unknown = |reason: &str, message: &str| {
            (
                Said::new(types::RPO_MET, Status::Unknown, reason, message),
                None,
            )
        };
        if of.silent {
            return unknown(
                "AgentUnreachable",
                "the agent of the VM's host is not heard of",
            );
        }
        let Some(uploaded) = of.uploaded.filter(|_| of.point) else {
            return unknown("NotMeasured", "there is no recovery point yet");
        };
        if age(now, uploaded) > AHEAD {
            let message =
                "the clock of the VM's host is ahead of the controller's; set both by NTP";
            return unknown("HostClockAhead", message);
        }
        let (target, behind) = (target(of.interval), age(uploaded, now));
        let rule = format!("the target is {}, twice the copy interval", said(target));
        if behind > target {
            self.0 = Some(now);
            let reason = if of.suspended {
                "Suspended"
            } else {
                "TargetMissed"
            };
            let message = format!("the last {} are not in Azure; {rule}", said(behind));
            return (
                Said::new(types::RPO_MET, Status::False, reason, message),
                None,
            );
        }
        let since = self.0.map(|missed| age(missed, now));
        if let Some(left) = since
            .and_then(|since| HOLD.checked_sub(since))
            .filter(|left| !left.is_zero())
        {
            let message = format!("it was missed within the last {}; {rule}", said(HOLD));
            return (
                Said::new(types::RPO_MET, Status::False, "TargetMissed", message),
                Some(left),
            );
        }
        let second = Duration::from_secs(1);
        (
            Said::new(types::RPO_MET, Status::True, "WithinTarget", rule),
            Some(target - behind + second),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn measured(uploaded: i64) -> Measured {
        Measured {
            interval: Duration::from_secs(300),
            uploaded: Some(at(uploaded)),
            point: true,
            silent: false,
            suspended: false,
        }
    }

    fn judged(missed: &mut Missed, of: &Measured, now: i64) -> (Status, String) {
        let (said, _) = missed.judge(of, at(now));
        (said.status, said.reason)
    }

    #[test]
    fn the_target_is_twice_the_copy_interval() {
        let mut missed = Missed::default();
        let met = (Status::True, "WithinTarget".to_owned());
        assert_eq!(judged(&mut missed, &measured(0), 600), met);
        let (said, _) = missed.judge(&measured(0), at(601));
        assert_eq!(said.status, Status::False);
        assert_eq!(
            said.message,
            "the last 10m are not in Azure; the target is 10m, twice the copy interval"
        );
    }

    #[test]
    fn a_vm_on_the_edge_does_not_flap() {
        let mut missed = Missed::default();
        assert_eq!(judged(&mut missed, &measured(0), 601).0, Status::False);
        assert_eq!(judged(&mut missed, &measured(600), 602).0, Status::False);
        assert_eq!(judged(&mut missed, &measured(600), 900).0, Status::False);
        assert_eq!(judged(&mut missed, &measured(600), 902).0, Status::True);
    }

    #[test]
    fn a_condition_says_when_it_may_flip_by_itself() {
        let (_, look) = Missed::default().judge(&measured(0), at(100));
        assert_eq!(look, Some(Duration::from_secs(501)));
    }

    #[test]
    fn what_is_not_known_is_neither_met_nor_missed() {
        let mut missed = Missed::default();
        let silent = Measured {
            silent: true,
            ..measured(0)
        };
        assert_eq!(
            judged(&mut missed, &silent, 9000),
            (Status::Unknown, "AgentUnreachable".to_owned())
        );
        let copying = Measured {
            point: false,
            ..measured(0)
        };
        assert_eq!(
            judged(&mut missed, &copying, 10),
            (Status::Unknown, "NotMeasured".to_owned())
        );
        assert_eq!(
            judged(&mut missed, &measured(500), 10),
            (Status::Unknown, "HostClockAhead".to_owned())
        );
    }
}
