//! Annotations of our group that mean nothing: what nobody knows, and values of a wrong form. No I/O.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::{GROUP, HyperVSite, ProtectedVM, annotation};
use crate::ids::VmId;

/// The reason of the event that names them.
pub const REASON: &str = "AnnotationIgnored";
/// Names and values that are repeated are cut off here: an annotation may be long.
const SHOWN: usize = 100;

/// An annotation that a kind knows, and what its value looks like where not every one will do.
struct Known {
    name: &'static str,
    form: Option<Form>,
}

/// Whether a value has the form, and how that is said.
type Form = (fn(&str) -> bool, &'static str);

const fn token(name: &'static str) -> Known {
    Known { name, form: None }
}

const OF_VM: &[Known] = &[
    token(annotation::SYNC_NOW),
    token(annotation::RESYNCHRONIZE),
    token(annotation::RETRY),
    Known {
        name: annotation::REBIND,
        form: Some((is_rebind, "<old id>.<new id>, as Ready says it")),
    },
];

const OF_SITE: &[Known] = &[
    token(annotation::ALLOW_DELETIONS),
    Known {
        name: annotation::TAKE_OVER,
        form: Some((is_reign, "<UID>.<number>, as Owner says it")),
    },
];

/// What is to be said of a VM's annotations, if anything.
pub fn of_vm(vm: &ProtectedVM) -> Option<String> {
    ignored(vm.annotations(), OF_VM, "ProtectedVM")
}

/// What is to be said of a site's annotations, if anything.
pub fn of_site(site: &HyperVSite) -> Option<String> {
    ignored(site.annotations(), OF_SITE, "HyperVSite")
}

/// What has to be said now, if it is not what was `said` before.
pub fn news(now: Option<String>, said: &mut Option<String>) -> Option<String> {
    let changed = now != *said;
    said.clone_from(&now);
    now.filter(|_| changed)
}

fn ignored(set: &BTreeMap<String, String>, known: &[Known], kind: &str) -> Option<String> {
    let is_ours = |name: &str| {
        name.split_once('/')
            .is_some_and(|(group, _)| group == GROUP)
    };
    let wrong = set.iter().filter(|(name, _)| is_ours(name));
    let wrong =
        wrong.filter_map(
            |(name, value)| match known.iter().find(|known| known.name == name) {
                None => Some(format!("{} is not known", cut(name))),
                Some(Known {
                    form: Some((fits, form)),
                    ..
                }) if !fits(value) => {
                    Some(format!("{name} is {:?} and should be {form}", cut(value)))
                }
                Some(_) => None,
            },
        );
    let wrong: Vec<String> = wrong.collect();
    let all: Vec<&str> = known.iter().map(|known| known.name).collect();
    (!wrong.is_empty()).then(|| {
        let (wrong, all) = (wrong.join("; "), all.join(", "));
        format!("without effect: {wrong}. A {kind} may have: {all}")
    })
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

fn is_rebind(value: &str) -> bool {
    let is_id = |id: &str| id.parse::<VmId>().is_ok();
    let ids = value.split_once('.');
    ids.is_some_and(|(old, new)| is_id(old) && is_id(new))
}

fn is_reign(value: &str) -> bool {
    let parts = value.rsplit_once('.');
    parts.is_some_and(|(cluster, term)| !cluster.is_empty() && term.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(known: &[Known], name: &str, value: &str) -> Option<String> {
        let set = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        ignored(&set, known, "ProtectedVM")
    }

    #[test]
    fn what_is_known_and_what_is_not_ours_is_not_spoken_of() {
        assert_eq!(said(OF_VM, annotation::SYNC_NOW, "anything"), None);
        assert_eq!(said(OF_VM, "example.com/sync_now", "1"), None);
        assert_eq!(said(OF_VM, "sync_now", "1"), None);
    }

    #[test]
    fn an_annotation_of_our_group_that_is_not_known_is_named_with_those_that_are() {
        let words = said(OF_VM, "siterecovery.dev/sync_now", "1").unwrap();
        assert!(
            words.contains("siterecovery.dev/sync_now is not known"),
            "{words}"
        );
        assert!(words.contains(annotation::SYNC_NOW), "{words}");
        // One of the other kind has no effect either.
        assert!(said(OF_VM, annotation::TAKE_OVER, "a.1").is_some());
        assert!(said(OF_SITE, annotation::SYNC_NOW, "1").is_some());
    }

    #[test]
    fn a_value_of_a_wrong_form_is_said_with_the_form() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950a";
        let both = format!("{id}.{id}");
        assert_eq!(said(OF_VM, annotation::REBIND, &both), None);
        let words = said(OF_VM, annotation::REBIND, id).unwrap();
        assert!(words.contains("<old id>.<new id>"), "{words}");
        assert_eq!(said(OF_SITE, annotation::TAKE_OVER, "5c1a-uid.3"), None);
        for wrong in ["5c1a-uid", "yes", ".3", "5c1a-uid.three"] {
            let words = said(OF_SITE, annotation::TAKE_OVER, wrong).unwrap();
            assert!(words.contains("<UID>.<number>"), "{words}");
        }
    }

    #[test]
    fn the_same_is_said_once_and_again_when_it_comes_back() {
        let mut said = None;
        let mut look = |now: Option<&str>| news(now.map(str::to_owned), &mut said).is_some();
        assert_eq!(
            [Some("a"), Some("a"), Some("b"), None, Some("b")].map(&mut look),
            [true, false, true, false, true]
        );
    }

    #[test]
    fn a_long_name_is_cut_off() {
        let long = format!("siterecovery.dev/{}", "x".repeat(10_000));
        assert!(said(OF_VM, &long, "").unwrap().len() < 500);
    }
}
