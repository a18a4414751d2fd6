//! `owner.json`: which cluster acts for a site. The rule of who may, as a pure function.
//!
//! ```text
//! absent ─────────────────────────────► claim
//! ours ───── older than RENEW ────────► renew         else hold
//! another's ─ silent for TAKEOVER, or an annotation names it ──► take over      else stand back
//! ```
//! Ages are by storage's clock: the blob's Last-Modified against the answer's Date.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::Document;
use crate::ids::ObjectName;

/// How often a live owner renews.
pub const RENEW: Duration = Duration::from_secs(120);
/// How long an owner must have been silent before another cluster may take its place.
pub const TAKEOVER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The UID of the cluster's kube-system namespace.
    pub cluster: String,
    /// The HyperVSite that acts.
    pub site: ObjectName,
}

impl Document for Owner {
    const WHAT: &'static str = "owner.json";
    const FORMAT: u32 = 1;
}

/// What stands there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub owner: Owner,
    pub last_modified: Timestamp,
    /// Storage's clock when it was read.
    pub now: Timestamp,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Claim,
    Renew,
    Hold,
    TakeOver,
    /// Another cluster acts: nothing may be touched.
    StandBack {
        cluster: String,
        silent: Duration,
    },
}

/// What the cluster `us` does about the owner that it sees. `take_over_from` is the annotation's value: the UID of the
/// cluster that the administrator knows to be gone.
pub fn decide(us: &Owner, seen: Option<&Seen>, take_over_from: Option<&str>) -> Action {
    let Some(seen) = seen else {
        return Action::Claim;
    };
    let silent =
        Duration::try_from(seen.now.duration_since(seen.last_modified)).unwrap_or(Duration::ZERO);
    if seen.owner == *us {
        return if silent >= RENEW {
            Action::Renew
        } else {
            Action::Hold
        };
    }
    if silent >= TAKEOVER || take_over_from == Some(seen.owner.cluster.as_str()) {
        return Action::TakeOver;
    }
    Action::StandBack {
        cluster: seen.owner.cluster.clone(),
        silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(cluster: &str) -> Owner {
        Owner {
            cluster: cluster.to_owned(),
            site: ObjectName::new("dr", "site").unwrap(),
        }
    }

    fn seen(cluster: &str, silent: i64) -> Seen {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let last_modified = Timestamp::from_second(1_790_000_000 - silent).unwrap();
        Seen {
            owner: owner(cluster),
            last_modified,
            now,
        }
    }

    #[test]
    fn a_cluster_claims_renews_and_holds_what_is_its_own() {
        assert_eq!(decide(&owner("a"), None, None), Action::Claim);
        assert_eq!(
            decide(&owner("a"), Some(&seen("a", 119)), None),
            Action::Hold
        );
        assert_eq!(
            decide(&owner("a"), Some(&seen("a", 120)), None),
            Action::Renew
        );
    }

    #[test]
    fn a_live_owner_is_not_replaced_without_a_word_that_names_it() {
        let other = seen("b", 599);
        assert!(matches!(
            decide(&owner("a"), Some(&other), None),
            Action::StandBack { .. }
        ));
        assert!(matches!(
            decide(&owner("a"), Some(&other), Some("c")),
            Action::StandBack { .. }
        ));
        assert_eq!(
            decide(&owner("a"), Some(&other), Some("b")),
            Action::TakeOver
        );
    }

    #[test]
    fn a_silent_owner_is_replaced() {
        assert_eq!(
            decide(&owner("a"), Some(&seen("b", 600)), None),
            Action::TakeOver
        );
    }

    #[test]
    fn a_clock_that_went_back_is_no_silence() {
        assert!(matches!(
            decide(&owner("a"), Some(&seen("b", -5000)), None),
            Action::StandBack { .. }
        ));
    }
}
