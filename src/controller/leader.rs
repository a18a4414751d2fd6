//! Which replica of the controller acts: a Lease, as client-go elects.
//!
//! ```text
//! standby ── the lease is free, released, or unchanged for its duration by our clock ──► leader
//! leader ── renewed every 5 s; not renewed for 10 s, or taken by another ──► the process ends
//!        └─ told to stop ──► stops what commands, then releases the lease
//! ```
//! Another's clock is never believed: a lease has expired when we have seen it unchanged for its duration. A leader stops
//! commanding before anybody else may begin; what it has under way then is fenced in storage.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::units::Clock;

/// How long a lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on without having renewed.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews.
const RENEW: Duration = Duration::from_secs(5);
/// How often a standby looks, and a leader tries again that could not renew.
const LOOK: Duration = Duration::from_secs(2);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(4);

/// How long a leader that is told to stop lets end what it has begun.
pub const GRACE: Duration = Duration::from_secs(3);
/// How long it may take until nothing runs any more that was not let end.
pub const ENDING: Duration = Duration::from_secs(1);

/// Who takes part in an election.
pub struct Election {
    pub client: Client,
    pub namespace: String,
    pub name: String,
    /// Unique among all replicas.
    pub identity: String,
}

/// Leadership was lost: the process has to end.
#[derive(Debug, thiserror::Error)]
#[error("leadership was lost: {why}")]
pub struct Lost {
    why: String,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Create,
    Acquire,
    Renew,
    Wait,
}

/// `unchanged`: how long the lease has been seen as it is.
fn decide(lease: Option<&Lease>, us: &str, unchanged: Duration) -> Action {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return if lease.is_some() {
            Action::Acquire
        } else {
            Action::Create
        };
    };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(0);
    if holder == us {
        Action::Renew
    } else if holder.is_empty() || unchanged >= Duration::from_secs(seconds) {
        Action::Acquire
    } else {
        Action::Wait
    }
}

/// The lease after `action`.
fn taken(lease: Option<Lease>, election: &Election, action: Action, now: Timestamp) -> Lease {
    let mut lease = lease.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(election.name.clone()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.renew_time = Some(MicroTime(now));
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    if action != Action::Renew {
        spec.holder_identity = Some(election.identity.clone());
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions =
            Some(spec.lease_transitions.unwrap_or(0) + i32::from(action == Action::Acquire));
    }
    lease
}

impl Election {
    /// Takes part until `shutdown`; `leader` is told when this replica leads. The lease is still held then: it is
    /// [released](Self::release) once nothing commands any more.
    ///
    /// # Errors
    /// [`Lost`] once it has led and does not any more.
    pub async fn run(
        &self,
        clock: &dyn Clock,
        leader: &watch::Sender<bool>,
        shutdown: &CancellationToken,
    ) -> Result<(), Lost> {
        let api = self.api();
        let mut seen: (Option<String>, Instant) = (None, Instant::now());
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            // Whoever leads stops asking, and waiting, in time to know that it has lost.
            let left = renewed.map(|at| DEADLINE.saturating_sub(at.elapsed()));
            let patience = left.map_or(REQUEST, |left| REQUEST.min(left));
            let turn = tokio::time::timeout(patience, self.turn(&api, clock, &mut seen));
            let result = tokio::select! {
                result = turn => result,
                () = shutdown.cancelled() => return Ok(()),
            };
            match result {
                Ok(Ok(true)) => {
                    renewed = Some(began);
                    leader.send_if_modified(|leads| !std::mem::replace(leads, true));
                }
                Ok(Ok(false)) if renewed.is_some() => {
                    return Err(Lost {
                        why: "another replica holds the lease".to_owned(),
                    });
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = crate::report::chain(&error), "cannot use the lease");
                }
                Err(_) => tracing::warn!("cannot use the lease: the API server does not answer"),
            }
            if let Some(renewed) = renewed
                && renewed.elapsed() >= DEADLINE
            {
                return Err(Lost {
                    why: format!(
                        "the lease was not renewed for {} seconds",
                        DEADLINE.as_secs()
                    ),
                });
            }
            let pause = if renewed == Some(began) { RENEW } else { LOOK };
            let pause =
                renewed.map_or(pause, |at| pause.min(DEADLINE.saturating_sub(at.elapsed())));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Gives the lease up if this replica holds it, so that another need not wait for its end.
    pub async fn release(&self) {
        release(self.give_up(&self.api())).await;
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Looks at the lease and takes or renews it if it may: whether this replica holds it then.
    async fn turn(
        &self,
        api: &Api<Lease>,
        clock: &dyn Clock,
        seen: &mut (Option<String>, Instant),
    ) -> Result<bool, kube::Error> {
        let lease = api.get_opt(&self.name).await?;
        let version = lease
            .as_ref()
            .and_then(|lease| lease.metadata.resource_version.clone());
        if seen.0 != version {
            *seen = (version, Instant::now());
        }
        let action = decide(lease.as_ref(), &self.identity, seen.1.elapsed());
        let params = PostParams::default();
        let next = || taken(lease.clone(), self, action, clock.now());
        // The lease carries the version that was read: whoever comes second is refused.
        let result = match action {
            Action::Wait => return Ok(false),
            Action::Create => api.create(&params, &next()).await,
            Action::Acquire | Action::Renew => api.replace(&self.name, &params, &next()).await,
        };
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_up(&self, api: &Api<Lease>) -> Result<(), kube::Error> {
        let Some(mut lease) = api.get_opt(&self.name).await? else {
            return Ok(());
        };
        if let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            api.replace(&self.name, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }
}

/// Gives a lease up by `request`, if that can be done soon.
pub async fn release<T>(request: impl Future<Output = Result<T, kube::Error>>) {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let error = crate::report::chain(&error);
            tracing::warn!(error, "the lease expires by itself");
        }
        Err(_) => tracing::warn!("the lease expires by itself: the API server does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        Lease {
            spec: Some(spec),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_was_seen_unchanged_for_its_duration() {
        let seconds = Duration::from_secs;
        assert_eq!(decide(None, "a", seconds(0)), Action::Create);
        assert_eq!(decide(Some(&lease("a")), "a", seconds(0)), Action::Renew);
        assert_eq!(decide(Some(&lease("b")), "a", seconds(14)), Action::Wait);
        assert_eq!(decide(Some(&lease("b")), "a", seconds(15)), Action::Acquire);
        assert_eq!(decide(Some(&lease("")), "a", seconds(0)), Action::Acquire);
    }

    #[test]
    fn a_leader_ends_before_its_lease_does() {
        assert!(
            DEADLINE + REQUEST < DURATION,
            "a renewal that hangs ends before others may take over"
        );
        assert!(RENEW + REQUEST < DEADLINE);
        assert!(
            DEADLINE + GRACE + ENDING < DURATION,
            "what a leader has begun ends before others may take over"
        );
    }
}
