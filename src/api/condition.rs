//! Conditions: the contract with `kubectl wait`, Helm, Argo CD and Flux (kstatus).
//!
//! `Ready` always; `Reconciling` and `Stalled` only while true. All are computed anew each time; [`merge`] keeps the
//! transition time of those that did not flip.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Time;

/// The longest message: a status stays small, and etcd with it.
const MESSAGE_MAX: usize = 4096;

/// An observation of one aspect of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the observation is of.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// True, False or Unknown.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// The generation of the object that was observed.
    pub observed_generation: i64,
    /// When the status last changed.
    pub last_transition_time: Time,
    /// One word for programs. It is part of the API.
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    )]
    pub reason: String,
    /// A sentence for people: what happened, and what to do.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// The three values of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

/// A condition before it is merged: without times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub type_: &'static str,
    pub status: Status,
    pub reason: String,
    pub message: String,
}

impl Said {
    pub fn new(
        type_: &'static str,
        status: Status,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Said {
            type_,
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// The conditions to write: what is said now, in its order, with the transition times of `before` where nothing
/// flipped. Types that are not said any more go.
pub fn merge(before: &[Condition], said: Vec<Said>, generation: i64, now: Time) -> Vec<Condition> {
    let merged = said.into_iter().map(|said| {
        let old = before
            .iter()
            .find(|condition| condition.type_ == said.type_);
        let kept = old.filter(|condition| condition.status == said.status.as_str());
        Condition {
            type_: said.type_.to_owned(),
            status: said.status.as_str().to_owned(),
            observed_generation: generation,
            last_transition_time: kept.map_or(now, |condition| condition.last_transition_time),
            reason: said.reason,
            message: shortened(said.message),
        }
    });
    merged.collect()
}

/// Whether a condition of this type is there and true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions
        .iter()
        .any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// A message that fits into a condition.
pub fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The types of all our conditions.
pub mod types {
    pub const READY: &str = "Ready";
    pub const RECONCILING: &str = "Reconciling";
    pub const STALLED: &str = "Stalled";

    pub const AGENTS_CONNECTED: &str = "AgentsConnected";
    pub const CREDENTIALS_VALID: &str = "CredentialsValid";
    pub const AZURE_REACHABLE: &str = "AzureReachable";
    pub const OWNER: &str = "Owner";
    pub const DELETIONS_ALLOWED: &str = "DeletionsAllowed";

    pub const VALIDATED: &str = "Validated";
    pub const REPLICATING: &str = "Replicating";
    pub const RPO_MET: &str = "RPOMet";
    pub const RESYNCING: &str = "Resyncing";
    pub const FAILOVER_READY: &str = "FailoverReady";
    pub const CRITICAL: &str = "Critical";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        jiff::Timestamp::from_second(second).unwrap().into()
    }

    #[test]
    fn a_transition_time_moves_only_when_the_status_flips() {
        let first = merge(
            &[],
            vec![Said::new("Ready", Status::False, "Waiting", "a")],
            1,
            at(1),
        );
        let same = merge(
            &first,
            vec![Said::new("Ready", Status::False, "Copying", "b")],
            2,
            at(2),
        );
        assert_eq!(
            (same[0].last_transition_time, same[0].observed_generation),
            (at(1), 2)
        );
        let flipped = merge(
            &same,
            vec![Said::new("Ready", Status::True, "Protected", "c")],
            2,
            at(3),
        );
        assert_eq!(flipped[0].last_transition_time, at(3));
    }

    #[test]
    fn a_condition_that_is_not_said_any_more_goes() {
        let before = merge(
            &[],
            vec![Said::new("Stalled", Status::True, "X", "")],
            1,
            at(1),
        );
        assert!(merge(&before, vec![], 1, at(2)).is_empty());
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let said = Said::new("Ready", Status::False, "X", "ü".repeat(5000));
        let merged = merge(&[], vec![said], 1, at(1));
        assert!(merged[0].message.len() <= MESSAGE_MAX && merged[0].message.ends_with('…'));
    }
}
