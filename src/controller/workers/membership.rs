//! Which workers live: a Lease each, renewed while it does.
//!
//! ```text
//! unknown ── its Lease is seen ──► lives ── seen unchanged for its duration, released or deleted ──► dead ── an hour ──► deleted
//!                                    ▲                                                                │
//!                                    └────────────────────────── renewed ─────────────────────────────┘
//! ```
//! Another's clock is never believed: a Lease has expired when we have seen it unchanged for its duration. Nothing is
//! elected here, and nothing has to be agreed upon: who lives decides only who begins to work.
//!
//! A worker that could not renew counts itself as late. It goes on with what it has, for an API server that is away is
//! away for all; but what another takes from it meanwhile it gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::controller::leader;
use crate::units::Clock;

/// The label of a group's Leases.
const GROUP: &str = "siterecovery.dev/data-path";
/// How long a Lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// The longest duration that is believed.
const LONGEST: Duration = Duration::from_secs(60);
/// How long after its last renewal a worker is late: others may soon take what it has.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a worker renews, and looks at the others.
const RENEW: Duration = Duration::from_secs(3);
/// How long one turn may take.
const TURN: Duration = Duration::from_secs(4);
/// After how long a dead worker's Lease is deleted: its name will not come again.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A member of a group.
pub struct Membership {
    pub client: Client,
    pub namespace: String,
    pub group: String,
    /// Unique in the group; the name of the Lease.
    pub identity: String,
}

/// What a worker knows of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    pub live: BTreeSet<String>,
    /// Whether our own Lease was renewed lately.
    pub held: bool,
    /// How often our Lease may have expired: what was ours before may have been others' since.
    pub lapses: u64,
}

/// The Leases, as they were seen to change.
#[derive(Debug, Default)]
struct Roll(BTreeMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    renewed: Option<Timestamp>,
    /// When we first saw it so.
    since: Instant,
}

impl Roll {
    /// Looks at all Leases of the group at `now`: who lives.
    fn see(&mut self, leases: &[Lease], now: Instant) -> BTreeSet<String> {
        let named: BTreeMap<&str, Option<&LeaseSpec>> = leases
            .iter()
            .filter_map(|lease| Some((lease.metadata.name.as_deref()?, lease.spec.as_ref())))
            .collect();
        self.0.retain(|name, _| named.contains_key(name.as_str()));
        let mut live = BTreeSet::new();
        for (name, spec) in named {
            let renewed = spec
                .and_then(|spec| spec.renew_time.as_ref())
                .map(|at| at.0);
            let seen = self.0.entry(name.to_owned()).or_insert(Seen {
                renewed,
                since: now,
            });
            if seen.renewed != renewed {
                *seen = Seen {
                    renewed,
                    since: now,
                };
            }
            if renewed.is_some() && now.duration_since(seen.since) < duration(spec) {
                live.insert(name.to_owned());
            }
        }
        live
    }

    /// Whether a Lease has been dead for so long that nobody will renew it.
    fn is_forgotten(&self, name: &str, now: Instant) -> bool {
        let seen = self.0.get(name);
        seen.is_some_and(|seen| now.duration_since(seen.since) >= FORGOTTEN)
    }
}

fn duration(spec: Option<&LeaseSpec>) -> Duration {
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST)
}

/// When the own Lease was renewed, and what follows.
#[derive(Debug, Default)]
struct Own {
    renewed: Option<Instant>,
    lapses: u64,
}

impl Own {
    /// A turn that began at `began` has renewed it.
    fn renewed(&mut self, began: Instant) {
        let late = |at: Instant| began.duration_since(at) >= DURATION;
        self.lapses += u64::from(self.renewed.is_some_and(late));
        self.renewed = Some(began);
    }

    fn is_held(&self, now: Instant) -> bool {
        let renewed = self.renewed;
        renewed.is_some_and(|at| now.duration_since(at) < DEADLINE)
    }
}

impl Membership {
    /// Holds the own Lease and looks at the others', for ever; whoever listens is told what changes.
    pub async fn hold(&self, clock: &dyn Clock, members: &watch::Sender<Members>) {
        let api = self.api();
        let (mut roll, mut own) = (Roll::default(), Own::default());
        loop {
            let began = Instant::now();
            let turn = tokio::time::timeout(TURN, self.turn(&api, clock)).await;
            let leases = match turn {
                Ok(Ok(leases)) => {
                    own.renewed(began);
                    Some(leases)
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = crate::report::chain(&error),
                        "cannot renew the lease"
                    );
                    None
                }
                Err(_) => {
                    tracing::warn!("cannot renew the lease: the API server does not answer");
                    None
                }
            };
            let now = Instant::now();
            members.send_if_modified(|members| {
                let live = match &leases {
                    Some(leases) => roll.see(leases, now),
                    None => members.live.clone(),
                };
                let next = Members {
                    live,
                    held: own.is_held(now),
                    lapses: own.lapses,
                };
                let changed = *members != next;
                *members = next;
                changed
            });
            if let Some(leases) = &leases {
                self.forget(&api, &roll, leases).await;
            }
            tokio::time::sleep_until(began + RENEW).await;
        }
    }

    /// Deletes the own Lease, so that others need not wait for its end.
    pub async fn release(&self) {
        let (api, params) = (self.api(), DeleteParams::default());
        leader::release(api.delete(&self.identity, &params)).await;
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Renews the own Lease and reads all.
    async fn turn(&self, api: &Api<Lease>, clock: &dyn Clock) -> Result<Vec<Lease>, kube::Error> {
        let params = PatchParams::apply("site-recovery-data-path").force();
        let lease = Patch::Apply(self.lease(clock.now()));
        api.patch(&self.identity, &params, &lease).await?;
        let ours = ListParams::default().labels(&format!("{GROUP}={}", self.group));
        Ok(api.list(&ours).await?.items)
    }

    fn lease(&self, now: Timestamp) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.identity.clone()),
                labels: Some(BTreeMap::from([(GROUP.to_owned(), self.group.clone())])),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Deletes Leases that nobody will renew, unless somebody just has.
    async fn forget(&self, api: &Api<Lease>, roll: &Roll, leases: &[Lease]) {
        for lease in leases {
            let Some(name) = lease.metadata.name.as_deref() else {
                continue;
            };
            if name == self.identity || !roll.is_forgotten(name, Instant::now()) {
                continue;
            }
            let params = DeleteParams::default().preconditions(Preconditions {
                resource_version: lease.metadata.resource_version.clone(),
                uid: None,
            });
            // Another worker may have come first.
            let _ = tokio::time::timeout(TURN, api.delete(name, &params)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, renewed: i64) -> Lease {
        let at = Timestamp::from_second(renewed).unwrap();
        Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(at)),
                ..LeaseSpec::default()
            }),
        }
    }

    fn names(live: &BTreeSet<String>) -> Vec<&str> {
        live.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_worker_lives_while_its_lease_is_seen_to_change_whatever_its_clock_says() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut roll = Roll::default();
        // One clock is decades behind, the other runs backwards.
        let leases = |a, b| [lease("a", a), lease("b", b)];
        assert_eq!(names(&roll.see(&leases(1, 900), at(0))), ["a", "b"]);
        assert_eq!(names(&roll.see(&leases(1, 899), at(14))), ["a", "b"]);
        assert_eq!(names(&roll.see(&leases(1, 899), at(15))), ["b"]);
        assert_eq!(names(&roll.see(&leases(2, 899), at(29))), ["a"]);
        assert_eq!(names(&roll.see(&[lease("a", 2)], at(30))), ["a"]);
    }

    #[test]
    fn a_lease_without_an_end_is_not_believed_for_ever() {
        let start = Instant::now();
        let mut endless = lease("a", 1);
        endless.spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MAX);
        let mut roll = Roll::default();
        roll.see(std::slice::from_ref(&endless), start);
        assert!(roll.see(&[endless], start + LONGEST).is_empty());
    }

    #[test]
    fn a_lease_is_forgotten_an_hour_after_it_was_last_seen_to_change() {
        let start = Instant::now();
        let mut roll = Roll::default();
        roll.see(&[lease("a", 1)], start);
        let later = start + FORGOTTEN;
        assert!(!roll.is_forgotten("a", later - Duration::from_secs(1)));
        assert!(roll.is_forgotten("a", later));
        roll.see(&[lease("a", 2)], later);
        assert!(!roll.is_forgotten("a", later));
    }

    #[test]
    fn a_worker_that_renews_late_knows_that_others_may_have_had_what_is_its_own() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut own = Own::default();
        assert!(!own.is_held(at(0)), "it has never been renewed");
        own.renewed(at(0));
        own.renewed(at(14));
        assert!(own.is_held(at(20)) && own.lapses == 0);
        assert!(!own.is_held(at(24)), "it is late before others act");
        own.renewed(at(29));
        assert!(own.is_held(at(29)) && own.lapses == 1);
    }

    #[test]
    fn a_worker_is_late_before_its_lease_expires() {
        assert!(RENEW + TURN < DEADLINE && DEADLINE + RENEW < DURATION);
    }
}
