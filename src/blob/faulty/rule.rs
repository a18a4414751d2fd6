//! Which requests fail, and how: rules as data, and the pure decision of what a request meets.

use std::collections::BTreeMap;

use crate::blob::error::{Error, Kind, Operation};
use crate::blob::faulty::gate::Gate;
use crate::transport::refusal::Refusal;

/// One kind of trouble.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Empty: all of them.
    pub operations: Vec<Operation>,
    /// `container/blob`, or `container`, or nothing for the account; `*` stands for any run of characters.
    pub object: String,
    /// Which of the requests that match.
    pub calls: Calls,
    pub effect: Effect,
}

/// Which of the requests that match a rule meet its effect; the first is number 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    All,
    Nth(u64),
    First(u64),
    /// This one and all after it.
    From(u64),
    /// One in so many, at random from the seed.
    OneIn(u64),
}

/// What a request meets.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It fails before it is sent: nothing happens.
    Fail(Failure),
    /// It is carried out, and then its caller is told this.
    FailAfter(Failure),
    /// It waits at the gate before it is sent.
    Hold(Gate),
    /// It is carried out, and its reply waits at the gate.
    HoldReply(Gate),
    /// Its caller is told at once that the connection was lost; it waits in the network and is carried out when the
    /// gate opens.
    Late(Gate),
}

/// What a caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Unreachable,
    Interrupted,
    Throttled,
    ServerFailed,
    SignatureRefused,
    Unauthorized,
    NotFound,
    AlreadyExists,
    Conflict,
    Changed,
    Fenced,
    Corrupted,
}

impl Failure {
    /// The error that the real client would make of it.
    pub fn error(self, operation: Operation, object: &str) -> Error {
        let (kind, refusal) = match self {
            Failure::Unreachable => (Kind::Unreachable, None),
            Failure::Interrupted => (Kind::Interrupted, None),
            Failure::Throttled => (Kind::Busy, Some((503, "ServerBusy"))),
            Failure::ServerFailed => (Kind::ServerFailed, Some((500, "InternalError"))),
            Failure::SignatureRefused => {
                (Kind::SignatureRefused, Some((403, "AuthenticationFailed")))
            }
            Failure::Unauthorized => (Kind::Unauthorized, Some((403, "AuthorizationFailure"))),
            Failure::NotFound => (Kind::NotFound, Some((404, "BlobNotFound"))),
            Failure::AlreadyExists => (Kind::AlreadyExists, Some((409, "BlobAlreadyExists"))),
            Failure::Conflict => (Kind::Conflict, Some((409, "LeaseIdMissing"))),
            Failure::Changed => (Kind::Changed, Some((412, "ConditionNotMet"))),
            Failure::Fenced => (Kind::Fenced, Some((412, "SequenceNumberConditionNotMet"))),
            Failure::Corrupted => (Kind::Corrupted, Some((400, "Crc64Mismatch"))),
        };
        let error = Error::new(operation, object, kind);
        match refusal {
            None => error,
            Some((status, code)) => error.refused(Refusal {
                status,
                code: Some(code.to_owned()),
                message: Some("injected".to_owned()),
                ..Refusal::default()
            }),
        }
    }
}

/// What one request meets, from all rules together; where two say the same thing, the first counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble {
    pub(crate) hold: Option<Gate>,
    pub(crate) fail: Option<Failure>,
    pub(crate) late: Option<Gate>,
    pub(crate) hold_reply: Option<Gate>,
    pub(crate) fail_after: Option<Failure>,
}

/// Rules, how often each was matched, and how often each operation was called.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<(Rule, u64)>,
    calls: BTreeMap<Operation, u64>,
    random: u64,
}

impl Rules {
    pub(crate) const fn new(seed: u64) -> Self {
        Rules {
            rules: Vec::new(),
            calls: BTreeMap::new(),
            random: seed,
        }
    }

    pub(crate) fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0));
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn calls(&self, operation: Operation) -> u64 {
        self.calls.get(&operation).copied().unwrap_or(0)
    }

    /// What the next request of this kind meets.
    pub(crate) fn meet(&mut self, operation: Operation, object: &str) -> Trouble {
        *self.calls.entry(operation).or_default() += 1;
        let mut trouble = Trouble::default();
        for (rule, matched) in &mut self.rules {
            let meant = rule.operations.is_empty() || rule.operations.contains(&operation);
            if !meant || !matches(&rule.object, object) {
                continue;
            }
            *matched += 1;
            let fires = match rule.calls {
                Calls::All => true,
                Calls::Nth(n) => *matched == n,
                Calls::First(n) => *matched <= n,
                Calls::From(n) => *matched >= n,
                Calls::OneIn(n) => split_mix(&mut self.random).is_multiple_of(n.max(1)),
            };
            if fires {
                trouble.add(&rule.effect);
            }
        }
        trouble
    }
}

impl Trouble {
    fn add(&mut self, effect: &Effect) {
        match effect {
            Effect::Fail(failure) => self.fail = self.fail.or(Some(*failure)),
            Effect::FailAfter(failure) => self.fail_after = self.fail_after.or(Some(*failure)),
            Effect::Hold(gate) => _ = self.hold.get_or_insert_with(|| gate.clone()),
            Effect::HoldReply(gate) => _ = self.hold_reply.get_or_insert_with(|| gate.clone()),
            Effect::Late(gate) => _ = self.late.get_or_insert_with(|| gate.clone()),
        }
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| matches(tail, &rest[at..]))
}

/// The next of a fixed sequence of numbers (SplitMix64), the same in every build.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(object: &str, calls: Calls) -> Rule {
        Rule {
            operations: vec![Operation::PutBlob],
            object: object.to_owned(),
            calls,
            effect: Effect::Fail(Failure::Throttled),
        }
    }

    fn fired(calls: Calls, seed: u64) -> Vec<bool> {
        let mut rules = Rules::new(seed);
        rules.add(rule("*", calls));
        (0..6)
            .map(|_| rules.meet(Operation::PutBlob, "c/b").fail.is_some())
            .collect()
    }

    #[test]
    fn a_rule_fires_for_the_calls_that_it_names() {
        assert_eq!(
            fired(Calls::Nth(2), 0),
            [false, true, false, false, false, false]
        );
        assert_eq!(
            fired(Calls::First(2), 0),
            [true, true, false, false, false, false]
        );
        assert_eq!(
            fired(Calls::From(5), 0),
            [false, false, false, false, true, true]
        );
        assert_eq!(fired(Calls::All, 0), [true; 6]);
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        assert_eq!(fired(Calls::OneIn(2), 7), fired(Calls::OneIn(2), 7));
        let fires = |seed| {
            fired(Calls::OneIn(2), seed)
                .into_iter()
                .filter(|f| *f)
                .count()
        };
        let total: usize = (0..100).map(fires).sum();
        assert!((200..400).contains(&total), "{total}");
    }

    #[test]
    fn only_requests_that_match_are_counted() {
        let mut rules = Rules::new(0);
        rules.add(rule("c/*/sealed.json", Calls::Nth(1)));
        assert!(rules.meet(Operation::PutBlob, "c/1/log.hrl").fail.is_none());
        assert!(
            rules
                .meet(Operation::GetBlob, "c/1/sealed.json")
                .fail
                .is_none()
        );
        assert!(
            rules
                .meet(Operation::PutBlob, "c/1/sealed.json")
                .fail
                .is_some()
        );
        assert_eq!(rules.calls(Operation::PutBlob), 2);
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*b*", "abc", true),
            ("", "", true),
            ("*", "", true),
            ("a", "ab", false),
            ("*ä", "xä", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
