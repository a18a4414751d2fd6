//! Whether disks have to be compared with their replica, and whether that may be done now. No I/O.
//!
//! ```text
//! nothing ── the agent or the data path says so ──► required ── the window opens, or a token ──► running ──► nothing
//!    │                                                  ▲                                           │
//!    └── a token ──► demanded of the agent ─────────────┘◄──────── the window closes ───────────────┘
//! ```
//! What a token allows is written in the status before it counts, and lasts until the comparison is done. Leave of the
//! window ends with it: the rest follows the next night. While nothing has to be compared no leave is given, so that no
//! engine hears of hours that do not concern it. Before the first recovery point everything is a first copy, which
//! needs no leave.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::hyperv_site::Resynchronization;
use crate::api::vm_status::ResynchronizationStatus;
use crate::controller::hours::{self, Hours, Moment};
use crate::report::{Code, Fault};

/// How long a demanded comparison may take to show in what the agent says.
pub const SHOWS: Duration = Duration::from_secs(300);

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub agent: Agent<'a>,
    /// Why no seal can be applied to the present chain.
    pub broken: Option<&'a Fault>,
    /// Whether the present chain is being retired. Until it is, nobody may say any more why.
    pub ending: bool,
    /// Whether a new chain was begun, and the agent has not been told.
    pub renewed: bool,
    /// Whether there is a recovery point.
    pub point: bool,
    /// Whether none is of this object's life: who applies an object wants its replica taken up now, at any hour.
    pub adopting: bool,
    /// Whether the chain is that of the VM which the replica was of before: it is not gone on with.
    pub rebound: bool,
    /// A token that was not acted upon yet.
    pub asked: Option<&'a str>,
    pub before: Option<&'a ResynchronizationStatus>,
    pub rules: &'a Resynchronization,
    pub now: Timestamp,
}

/// What the agent says.
#[derive(Clone, Copy, Debug)]
pub enum Agent<'a> {
    /// It has not said anything, or is finding out itself.
    Unknown,
    /// Nothing has to be compared.
    Nothing,
    Compares {
        reason: &'a Fault,
        /// By their places.
        disks: &'a [String],
        running: bool,
    },
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resync {
    pub need: Option<Need>,
    /// By which token it may run at any hour.
    pub token: Option<String>,
    /// Whether the agent is to be told that everything has to be compared.
    pub demand: bool,
    /// Whether a chain has to be begun before any agent is told anything.
    pub rebound: bool,
}

/// A comparison that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub reason: Fault,
    /// By their places; empty: all.
    pub disks: Vec<String>,
    pub running: bool,
    /// Whether the chain of seals is broken: a new one has to be begun first.
    pub chain: bool,
    pub leave: Leave,
}

/// Whether it may run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    Now,
    /// From then on.
    Opens(Timestamp),
    /// Only when a human says so: the site does nothing of it by itself.
    Manual,
    /// The site's window cannot be understood.
    Unclear(hours::Error),
}

impl Resync {
    /// What is the case with a VM without a site, or without a replica.
    pub fn decide(seen: &Seen<'_>) -> Self {
        let before = seen.before.and_then(|before| before.token.as_deref());
        let token = seen.asked.or(before).map(str::to_owned);
        let leave = match token {
            Some(_) => Leave::Now,
            None if seen.adopting => Leave::Now,
            None => leave(seen.rules, seen.now),
        };
        let need = need(seen, leave);
        let asked = need.is_none() && seen.point && seen.asked.is_some();
        let demand = asked || (seen.renewed && seen.broken.is_none());
        let holds = need.is_some() || demand || is_awaited(seen);
        Resync {
            need,
            token: token.filter(|_| holds),
            demand,
            rebound: seen.rebound,
        }
    }

    /// Whether the agent has leave to compare.
    pub fn is_allowed(&self) -> bool {
        let need = self.need.as_ref();
        need.is_some_and(|need| need.leave == Leave::Now && !need.chain)
    }

    /// Whether a new chain has to be begun now.
    pub fn begins_chain(&self) -> bool {
        let need = self.need.as_ref();
        need.is_some_and(|need| need.leave == Leave::Now && need.chain)
    }
}

fn need(seen: &Seen<'_>, leave: Leave) -> Option<Need> {
    if !seen.point {
        return None;
    }
    let known = seen.before.and_then(known);
    let (reason, disks, running, chain) = match (seen.broken, seen.agent) {
        (Some(fault), _) => (fault.clone(), [].as_slice(), false, true),
        (None, _) if seen.ending => {
            let ending = || Fault::new(Code::ResyncRequested, "a new chain is begun");
            (known.unwrap_or_else(ending), [].as_slice(), false, true)
        }
        (None, _) if seen.renewed => {
            let renewed = || Fault::new(Code::ResyncRequested, "a new chain was begun");
            (known.unwrap_or_else(renewed), [].as_slice(), false, false)
        }
        (None, Agent::Nothing) => return None,
        // What it was doing, as far as anybody knows.
        (None, Agent::Unknown) => {
            let before = seen.before?;
            (known?, before.disks.as_slice(), before.running, false)
        }
        (
            None,
            Agent::Compares {
                reason,
                disks,
                running,
            },
        ) => {
            // That it was asked for says less than why it is needed.
            let asked = reason.code == Code::ResyncRequested;
            let said = known.filter(|_| asked);
            let said = said.unwrap_or_else(|| reason.clone());
            (said, disks, running, false)
        }
    };
    Some(Need {
        reason,
        disks: disks.to_vec(),
        running,
        chain,
        leave,
    })
}

/// Why it was needed, as the status says.
fn known(before: &ResynchronizationStatus) -> Option<Fault> {
    let code = Code::named(before.reason.as_ref()?).unwrap_or(Code::Internal);
    Some(Fault::new(code, before.message.clone().unwrap_or_default()))
}

/// Whether what was asked for is still to come: it was demanded, and has not shown yet.
fn is_awaited(seen: &Seen<'_>) -> bool {
    let awaited = seen.before.filter(|before| before.reason.is_none());
    awaited.is_some_and(|before| {
        let age = Duration::try_from(seen.now.duration_since(before.since.into()));
        seen.point && age.is_ok_and(|age| age < SHOWS)
    })
}

fn leave(rules: &Resynchronization, now: Timestamp) -> Leave {
    if !rules.automatic {
        return Leave::Manual;
    }
    match Hours::parse(&rules.window).map(|hours| hours.at(&[], now)) {
        Ok(Moment::Within { .. }) => Leave::Now,
        Ok(Moment::Outside { next: Some(next) }) => Leave::Opens(next),
        Ok(Moment::Outside { next: None }) => Leave::Manual,
        Err(error) => Leave::Unclear(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Code;

    const NIGHT: &str = "2026-11-23T23:00:00Z";
    const DAY: &str = "2026-11-23T12:00:00Z";

    /// What an agent says.
    #[derive(Clone)]
    enum Says {
        Nothing,
        /// That it does not know.
        Unknown,
        Lost {
            running: bool,
        },
        Requested,
    }

    struct Case {
        agent: Says,
        broken: Option<Fault>,
        ending: bool,
        renewed: bool,
        point: bool,
        adopting: bool,
        asked: Option<&'static str>,
        before: Option<ResynchronizationStatus>,
        rules: Resynchronization,
    }

    fn case(agent: Says) -> Case {
        Case {
            agent,
            broken: None,
            ending: false,
            renewed: false,
            point: true,
            adopting: false,
            asked: None,
            before: None,
            rules: Resynchronization::default(),
        }
    }

    impl Case {
        fn at(&self, now: &str) -> Resync {
            let (lost, requested) = (
                Fault::new(Code::TrackingLost, "a crash"),
                Fault::new(Code::ResyncRequested, "asked for"),
            );
            let compares = |reason, running| Agent::Compares {
                reason,
                disks: &[],
                running,
            };
            Resync::decide(&Seen {
                agent: match self.agent {
                    Says::Nothing => Agent::Nothing,
                    Says::Unknown => Agent::Unknown,
                    Says::Lost { running } => compares(&lost, running),
                    Says::Requested => compares(&requested, true),
                },
                broken: self.broken.as_ref(),
                ending: self.ending,
                renewed: self.renewed,
                point: self.point,
                adopting: self.adopting,
                asked: self.asked,
                before: self.before.as_ref(),
                rebound: false,
                rules: &self.rules,
                now: now.parse().unwrap(),
            })
        }
    }

    fn before(reason: Option<Code>, token: &str) -> ResynchronizationStatus {
        let since: Timestamp = DAY.parse().unwrap();
        ResynchronizationStatus {
            reason: reason.map(|code| code.to_string()),
            message: reason.map(|_| "as it was".to_owned()),
            since: since.into(),
            disks: Vec::new(),
            running: false,
            next_window: None,
            token: Some(token.to_owned()),
        }
    }

    fn leave(resync: Resync) -> Leave {
        resync.need.expect("something has to be compared").leave
    }

    #[test]
    fn what_needs_a_comparison_waits_for_the_night_and_goes_on_the_next() {
        let needed = case(Says::Lost { running: true });
        let opens = Leave::Opens("2026-11-23T18:30:00Z".parse().unwrap());
        assert_eq!(leave(needed.at(DAY)), opens);
        assert!(!needed.at(DAY).is_allowed());
        assert!(needed.at(NIGHT).is_allowed());
        assert!(!needed.at("2026-11-24T06:00:00Z").is_allowed());
        assert!(needed.at("2026-11-24T18:30:00Z").is_allowed());
    }

    #[test]
    fn no_leave_is_given_to_what_needs_none() {
        assert_eq!(case(Says::Nothing).at(NIGHT), Resync::default());
        let first_copy = Case {
            point: false,
            ..case(Says::Lost { running: true })
        };
        assert_eq!(first_copy.at(NIGHT), Resync::default());
    }

    #[test]
    fn a_site_that_does_nothing_by_itself_waits_for_a_word() {
        let mut manual = case(Says::Lost { running: false });
        manual.rules.automatic = false;
        assert_eq!(leave(manual.at(NIGHT)), Leave::Manual);
        manual.asked = Some("now");
        assert_eq!(leave(manual.at(DAY)), Leave::Now);
    }

    #[test]
    fn a_window_of_no_time_zone_never_opens_and_says_why() {
        let mut typo = case(Says::Lost { running: false });
        typo.rules.window.time_zone = "Europe/Berln".to_owned();
        let why = hours::Error::Zone("Europe/Berln".to_owned());
        assert_eq!(leave(typo.at(NIGHT)), Leave::Unclear(why));
    }

    #[test]
    fn a_token_is_leave_at_any_hour_until_it_is_done() {
        let asked = Case {
            asked: Some("a"),
            ..case(Says::Lost { running: false })
        };
        assert!(asked.at(DAY).is_allowed());
        let running = Case {
            before: Some(before(Some(Code::TrackingLost), "a")),
            ..case(Says::Lost { running: true })
        };
        assert!(running.at(DAY).is_allowed());
        let done = Case {
            before: Some(before(Some(Code::TrackingLost), "a")),
            ..case(Says::Nothing)
        };
        assert_eq!(done.at(DAY), Resync::default());
    }

    #[test]
    fn a_token_without_need_demands_a_comparison_once_and_waits_until_it_shows() {
        let asked = Case {
            asked: Some("a"),
            ..case(Says::Nothing)
        };
        assert!(asked.at(DAY).demand);
        let demanded = Case {
            before: Some(before(None, "a")),
            ..case(Says::Nothing)
        };
        let waits = demanded.at(DAY);
        assert_eq!((waits.demand, waits.token.as_deref()), (false, Some("a")));
        // It was over before anybody looked.
        assert_eq!(demanded.at(NIGHT), Resync::default());
    }

    #[test]
    fn an_agent_that_has_not_said_anything_has_not_ended_anything() {
        let unknown = Case {
            before: Some(before(Some(Code::TrackingLost), "a")),
            ..case(Says::Unknown)
        };
        let known = unknown.at(DAY);
        assert!(known.is_allowed());
        let lost = Fault::new(Code::TrackingLost, "as it was");
        assert_eq!(known.need.unwrap().reason, lost);
        assert_eq!(known.token.as_deref(), Some("a"));
        assert_eq!(case(Says::Unknown).at(NIGHT), Resync::default());
    }

    #[test]
    fn why_it_is_needed_is_not_forgotten_when_it_is_demanded() {
        let demanded = Case {
            before: Some(before(Some(Code::SequenceGap), "a")),
            ..case(Says::Requested)
        };
        let need = demanded.at(DAY).need.unwrap();
        assert_eq!(need.reason, Fault::new(Code::SequenceGap, "as it was"));
    }

    #[test]
    fn a_token_in_a_first_copy_asks_for_nothing() {
        let first_copy = Case {
            asked: Some("a"),
            point: false,
            ..case(Says::Nothing)
        };
        assert_eq!(first_copy.at(DAY), Resync::default());
    }

    #[test]
    fn a_broken_chain_is_begun_anew_before_anything_is_compared() {
        let gap = Case {
            broken: Some(Fault::new(Code::SequenceGap, "5 is missing")),
            ..case(Says::Nothing)
        };
        assert!(!gap.at(DAY).begins_chain());
        assert!(gap.at(NIGHT).begins_chain() && !gap.at(NIGHT).is_allowed());
        let renewed = Case {
            renewed: true,
            before: Some(before(Some(Code::SequenceGap), "a")),
            ..case(Says::Nothing)
        };
        let told = renewed.at(DAY);
        assert!(told.demand && told.is_allowed());
    }

    #[test]
    fn a_token_lasts_while_its_chain_is_retired_although_nobody_says_any_more_why() {
        let ending = Case {
            ending: true,
            before: Some(before(Some(Code::SequenceGap), "a")),
            ..case(Says::Nothing)
        };
        let resync = ending.at(DAY);
        assert_eq!(resync.token.as_deref(), Some("a"));
        assert!(resync.begins_chain() && !resync.is_allowed());
        let gap = Fault::new(Code::SequenceGap, "as it was");
        assert_eq!(resync.need.unwrap().reason, gap);
    }

    #[test]
    fn a_replica_that_an_object_takes_up_is_compared_at_any_hour() {
        let adopting = Case {
            adopting: true,
            ..case(Says::Lost { running: false })
        };
        assert!(adopting.at(DAY).is_allowed());
    }
}
