//! The breaker of deletions: many replicas that are to go within a short time are more likely a mistake than a wish.
//!
//! ```text
//! armed ── more than max(3, a fifth of the VMs) within ten minutes ──► tripped ── a token of allow-deletions ──► armed
//! ```
//! Once tripped, it stays so until a human says otherwise: time alone does not show that it was no mistake. The state is
//! the site's status; a VM waits until it stands there. What was deleted before it was armed again does not count.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::annotation;
use crate::api::condition::{Said, Status, types};
use crate::api::hyperv_site::{DeletionBreaker, HyperVSite};
use crate::api::protected_vm::{DeletionPolicy, ProtectedVM};
use crate::controller::context::{Context, name_of};
use crate::controller::site::handle::SiteHandle;
use crate::ids::ObjectName;

/// Deletions that count together.
const WITHIN: Duration = Duration::from_secs(600);
/// So many may be deleted, however few VMs the site has.
const FEW: usize = 3;
/// And this part of its VMs.
const PART: usize = 5;

/// Deletions of replicas of a site that count now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    pub count: usize,
    /// Of so many VMs, before they were deleted.
    pub of: usize,
}

impl Deletions {
    pub fn are_many(self) -> bool {
        self.count > FEW.max(self.of / PART)
    }

    /// The deletions of a site, since it was armed.
    pub fn of(
        site: &ObjectName,
        handle: &SiteHandle,
        context: &Context,
        breaker: Option<&DeletionBreaker>,
    ) -> Self {
        let armed = breaker.and_then(|breaker| breaker.armed);
        let now = context.clock.now();
        let counts = |at: Timestamp| {
            let since = Duration::try_from(now.duration_since(at)).unwrap_or_default();
            since < WITHIN && armed.is_none_or(|armed| at > armed.into())
        };
        let vms = context.vms_of(site);
        let vms: Vec<&ProtectedVM> = vms.iter().filter_map(|vm| vm.0.as_ref().ok()).collect();
        let all: BTreeSet<ObjectName> = vms.iter().filter_map(|vm| name_of(*vm)).collect();
        let deleted = vms.iter().filter(|vm| {
            let at = vm.metadata.deletion_timestamp.as_ref();
            at.is_some_and(|at| counts(at.0))
                && vm.spec.deletion_policy == DeletionPolicy::DeleteReplica
        });
        let deleted: BTreeSet<ObjectName> = deleted.filter_map(|vm| name_of(*vm)).collect();
        let condemned = handle.condemned(counts);
        Deletions {
            count: deleted.union(&condemned).count(),
            of: all.union(&condemned).count(),
        }
    }
}

/// The breaker after `deletions`, and what `site` says about it.
pub fn breaker(
    site: &HyperVSite,
    before: Option<&DeletionBreaker>,
    deletions: Deletions,
    now: Timestamp,
) -> Option<DeletionBreaker> {
    let annotations = site.metadata.annotations.as_ref();
    let token = annotations.and_then(|all| all.get(annotation::ALLOW_DELETIONS));
    let mut next = before.cloned().unwrap_or_default();
    if let Some(token) = token.filter(|token| next.last_handled.as_ref() != Some(token)) {
        next.last_handled = Some(token.clone());
        // On a site that has not tripped it allows nothing in advance.
        if next.tripped.take().is_some() {
            next.armed = Some(now.into());
            return Some(next);
        }
    }
    if next.tripped.is_none() && deletions.are_many() {
        next.tripped = Some(now.into());
    }
    (next != DeletionBreaker::default()).then_some(next)
}

/// The breaker of the site's deletions as it is now.
pub fn now(
    site: &HyperVSite,
    name: &ObjectName,
    context: &Context,
    handle: Option<&SiteHandle>,
) -> Option<DeletionBreaker> {
    let found = site.status.clone().unwrap_or_default();
    let (last, _) = context.site_status.last(name, &found);
    let before = last.deletion_breaker.as_ref();
    let deletions = handle.map(|handle| Deletions::of(name, handle, context, before));
    breaker(
        site,
        before,
        deletions.unwrap_or_default(),
        context.clock.now(),
    )
}

/// The condition of the site.
pub fn condition(breaker: Option<&DeletionBreaker>) -> Said {
    if breaker.is_none_or(|breaker| breaker.tripped.is_none()) {
        return Said::new(types::DELETIONS_ALLOWED, Status::True, "Armed", "");
    }
    let message = format!(
        "many VMs with deletionPolicy DeleteReplica were deleted within ten minutes: replicas are kept whatever the \
         policy says; if it was no mistake, allow deletions again with the annotation {}=<any new value>, and delete \
         what was kept by applying the objects again",
        annotation::ALLOW_DELETIONS
    );
    Said::new(
        types::DELETIONS_ALLOWED,
        Status::False,
        "ManyDeletions",
        message,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn site(token: Option<&str>) -> HyperVSite {
        let annotations = token.map(|token| json!({ annotation::ALLOW_DELETIONS: token }));
        serde_json::from_value(json!({
            "apiVersion": "siterecovery.dev/v1alpha1",
            "kind": "HyperVSite",
            "metadata": { "name": "s", "annotations": annotations },
            "spec": {
                "hosts": [],
                "azure": {
                    "location": "westeurope",
                    "credentials": { "type": "WorkloadIdentity" },
                    "storage": { "account": "abc" },
                },
            },
        }))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn deletions(count: usize, of: usize) -> Deletions {
        Deletions { count, of }
    }

    #[test]
    fn more_than_three_and_a_fifth_of_the_vms_are_many() {
        assert!(!deletions(3, 3).are_many());
        assert!(deletions(4, 4).are_many());
        assert!(!deletions(20, 100).are_many());
        assert!(deletions(21, 100).are_many());
    }

    #[test]
    fn the_breaker_trips_once_and_no_time_arms_it_again() {
        let armed = breaker(&site(None), None, deletions(3, 10), at(0));
        assert_eq!(armed, None);
        let tripped = breaker(&site(None), None, deletions(4, 10), at(0)).unwrap();
        assert_eq!(tripped.tripped, Some(at(0).into()));
        let later = breaker(&site(None), Some(&tripped), deletions(0, 10), at(86_400));
        assert_eq!(later, Some(tripped.clone()));
        assert_eq!(condition(Some(&tripped)).status, Status::False);
    }

    #[test]
    fn a_token_arms_it_again_once_and_not_in_advance() {
        let many = deletions(9, 10);
        let early = breaker(&site(Some("a")), None, many, at(0)).unwrap();
        assert_eq!(early.tripped, Some(at(0).into()));
        let armed = breaker(&site(Some("b")), Some(&early), many, at(5)).unwrap();
        assert_eq!((armed.tripped, armed.armed), (None, Some(at(5).into())));
        let again = breaker(&site(Some("b")), Some(&armed), many, at(6)).unwrap();
        assert_eq!(again.tripped, Some(at(6).into()));
    }
}
