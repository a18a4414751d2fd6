//! `owner.json`: which cluster acts for a site. The rule of who may, as a pure function.
//!
//! ```text
//! absent ─────────────────────────────► claim
//! ours ───── older than RENEW ────────► renew         else hold
//!      └──── a fence has a higher term ► go on with that term: the mark was lost, and nobody else has it
//! another's ─ silent for TAKEOVER, or an annotation names this reign ──► take over, term + 1      else stand back
//! ```
//! Ages are by storage's clock: the blob's Last-Modified against the answer's Date.
//!
//! Every take-over begins a new *term*. A VM's fence says in which term its generation was raised last, so that a
//! take-over is complete whoever dies in its middle. A *reign* is a cluster in one term: an annotation names a reign,
//! so that one which stays where it was written never takes the site a second time.

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
    /// One more with every take-over.
    #[serde(default)]
    pub term: u64,
}

impl Owner {
    /// The name of this cluster's ownership in this term: `<UID>.<term>`.
    pub fn reign(&self) -> String {
        format!("{}.{}", self.cluster, self.term)
    }
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

/// Who asks, and what it knows.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub cluster: &'a str,
    pub site: &'a ObjectName,
    /// The annotation's value: the reign that the administrator knows to be over.
    pub take_over_from: Option<&'a str>,
    /// The highest term that a fence of the site was seen to have.
    pub fences: u64,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is ours, and was renewed lately.
    Hold,
    /// Write this: it becomes or stays ours.
    Write { owner: Owner, takes_over: bool },
    /// Another cluster acts: nothing may be touched.
    StandBack { owner: Owner, silent: Duration },
}

/// What the cluster `us` does about the owner that it sees.
pub fn decide(us: Candidate<'_>, seen: Option<&Seen>) -> Action {
    let write = |term, takes_over| Action::Write {
        owner: Owner {
            cluster: us.cluster.to_owned(),
            site: us.site.clone(),
            term,
        },
        takes_over,
    };
    let Some(Seen {
        owner,
        last_modified,
        now,
    }) = seen
    else {
        return write(us.fences, false);
    };
    let silent = Duration::try_from(now.duration_since(*last_modified)).unwrap_or(Duration::ZERO);
    if owner.cluster == us.cluster && owner.site == *us.site {
        return if silent >= RENEW || owner.term < us.fences {
            write(owner.term.max(us.fences), false)
        } else {
            Action::Hold
        };
    }
    let named = us
        .take_over_from
        .is_some_and(|reign| reign == owner.reign());
    if silent >= TAKEOVER || named {
        return write(owner.term.max(us.fences).saturating_add(1), true);
    }
    Action::StandBack {
        owner: owner.clone(),
        silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::document;

    fn site() -> ObjectName {
        ObjectName::new("dr", "site").unwrap()
    }

    fn owner(cluster: &str, term: u64) -> Owner {
        Owner {
            cluster: cluster.to_owned(),
            site: site(),
            term,
        }
    }

    fn seen(owner: Owner, silent: i64) -> Seen {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let last_modified = Timestamp::from_second(1_790_000_000 - silent).unwrap();
        Seen {
            owner,
            last_modified,
            now,
        }
    }

    /// What `cluster` does with an annotation of this value.
    fn does(cluster: &str, annotation: Option<&str>, seen: Option<&Seen>) -> Action {
        let site = site();
        let us = Candidate {
            cluster,
            site: &site,
            take_over_from: annotation,
            fences: 0,
        };
        decide(us, seen)
    }

    fn writes(owner: Owner, takes_over: bool) -> Action {
        Action::Write { owner, takes_over }
    }

    #[test]
    fn a_cluster_claims_renews_and_holds_what_is_its_own() {
        assert_eq!(does("a", None, None), writes(owner("a", 0), false));
        let ours = |silent| seen(owner("a", 7), silent);
        assert_eq!(does("a", None, Some(&ours(119))), Action::Hold);
        let renewed = writes(owner("a", 7), false);
        assert_eq!(does("a", None, Some(&ours(120))), renewed);
    }

    #[test]
    fn a_live_owner_is_not_replaced_without_a_word_that_names_its_reign() {
        let other = seen(owner("b", 3), 599);
        for word in [None, Some("c.3"), Some("b"), Some("b.2"), Some("b.4")] {
            let action = does("a", word, Some(&other));
            assert!(matches!(action, Action::StandBack { .. }), "{word:?}");
        }
        let taken = writes(owner("a", 4), true);
        assert_eq!(does("a", Some("b.3"), Some(&other)), taken);
    }

    #[test]
    fn annotations_that_stay_in_git_do_not_take_the_site_to_and_fro() {
        let (in_a, in_b) = (Some("b.0"), Some("a.1"));
        let mut holder = owner("b", 0);
        let mut taken = 0;
        for _ in 0..5 {
            for (cluster, word) in [("a", in_a), ("b", in_b)] {
                if let Action::Write { owner, takes_over } =
                    does(cluster, word, Some(&seen(holder.clone(), 1)))
                {
                    holder = owner;
                    taken += u32::from(takes_over);
                }
            }
        }
        assert_eq!((holder, taken), (owner("b", 2), 2));
    }

    #[test]
    fn a_silent_owner_is_replaced() {
        let silent = seen(owner("b", 0), 600);
        assert_eq!(does("a", None, Some(&silent)), writes(owner("a", 1), true));
    }

    #[test]
    fn a_clock_that_went_back_is_no_silence() {
        let action = does("a", None, Some(&seen(owner("b", 0), -5000)));
        assert!(matches!(action, Action::StandBack { .. }));
    }

    #[test]
    fn a_mark_that_was_lost_is_set_up_again_with_the_term_of_the_fences() {
        let site = site();
        let us = Candidate {
            cluster: "a",
            site: &site,
            take_over_from: None,
            fences: 5,
        };
        let ours = seen(owner("a", 0), 1);
        assert_eq!(decide(us, Some(&ours)), writes(owner("a", 5), false));
        let others = seen(owner("b", 0), 1);
        assert!(matches!(
            decide(us, Some(&others)),
            Action::StandBack { .. }
        ));
    }

    #[test]
    fn an_owner_of_a_version_without_terms_is_of_the_first() {
        let old = br#"{"format":1,"cluster":"a","site":"dr/site"}"#;
        assert_eq!(document::decode::<Owner>(old).unwrap(), owner("a", 0));
    }
}
