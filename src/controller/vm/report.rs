//! What the status of a VM says, computed anew from what is known; nothing in it moves by itself.
//!
//! One verdict decides `Ready`, `Reconciling`, `Stalled`, `state` and `health`, so that they never disagree.

mod aspects;
pub mod details;
mod moving;
pub mod quiet;
mod resyncing;

use std::time::Duration;

use crate::api::condition::{self, Condition, Said, Status, types};
use crate::api::time::Time;
use crate::api::vm_status::{Health, ProtectedVMStatus, ReplicationState};
use crate::controller::vm::health;
use crate::controller::vm::monitor::Measured;
use crate::controller::vm::pause::Pause;
use crate::controller::vm::queue::Slot;
use crate::controller::vm::report::details::Details;
use crate::controller::vm::report::moving::{moving, paused};
use crate::controller::vm::step::{self, Agent, Machine, Observed, Site, Step, Why};
use crate::ids::HostName;
use crate::retry::Trouble;
use crate::wire::observation::Phase;

/// How long an agent may be silent before what it said is not known any more.
pub const SILENCE: Duration = Duration::from_secs(300);

/// Hosts that a message names.
const HOSTS_NAMED: usize = 8;

/// Everything that a status is made of.
pub struct Facts<'a> {
    pub observed: &'a Observed,
    pub step: Step,
    /// The worst failure of controller, agent and data path, if there is one.
    pub trouble: Option<&'a Trouble>,
    /// How long the VM's agent has been silent; nothing while it is connected.
    pub silent: Option<Duration>,
    /// How well it goes.
    pub measured: &'a Measured,
    pub site: &'a str,
    pub details: Details<'a>,
    /// Fields of the spec that this version does not act upon.
    pub unsupported: &'a [&'static str],
}

/// What a status comes down to.
struct Verdict {
    state: ReplicationState,
    ready: Status,
    reason: String,
    message: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Ready, or waiting without moving.
    Settled,
    /// It moves by itself.
    Reconciling,
    /// It will move by itself, and is critical until then.
    Overdue,
    /// A human must act.
    Stalled,
}

/// The status to write.
pub fn status(
    facts: &Facts<'_>,
    old: &ProtectedVMStatus,
    generation: i64,
    now: Time,
) -> ProtectedVMStatus {
    let verdict = verdict(facts);
    let mut status = facts.details.status(old);
    // What cannot be read is as it was, as far as anybody knows.
    let unread = facts.observed.is_unread() && facts.observed.removal.is_none();
    status.tasks = if unread && !old.tasks.is_empty() {
        old.tasks.clone()
    } else {
        let failed = verdict.kind == Kind::Stalled;
        details::tasks(facts.observed, failed, &old.tasks, now)
    };
    status.state = old.state.filter(|_| unread).or(Some(verdict.state));
    (status.health, status.health_reasons) = health(facts, &verdict);
    status.progress = progress(facts);
    status.resynchronization = resyncing::status(&facts.observed.resync, old, now);
    status.conditions = condition::merge(
        &old.conditions,
        conditions(
            facts,
            &verdict,
            (status.health, &status.health_reasons),
            &old.conditions,
        ),
        generation,
        now,
    );
    status.observed_generation = generation;
    status.last_handled.clone_from(&old.last_handled);
    status
}

fn verdict(facts: &Facts<'_>) -> Verdict {
    let silent = facts.silent.is_some_and(|silent| silent >= SILENCE);
    let obstacle = match &facts.observed.removal {
        Some(_) => None,
        None => step::in_the_way(facts.observed),
    };
    // Work on a host is no alarm, whatever it does to the host.
    if facts.observed.pause == Some(Pause::Maintenance)
        && facts.observed.point
        && is_of_host(obstacle)
    {
        return paused(facts, Pause::Maintenance);
    }
    if let Some(stalled) = stalled(facts, obstacle) {
        return stalled;
    }
    let site_missing = obstacle == Some(Why::SiteMissing);
    if silent && facts.observed.removal.is_none() && !site_missing {
        return Verdict {
            state: if facts.observed.point {
                ReplicationState::Protected
            } else {
                ReplicationState::Pending
            },
            ready: Status::Unknown,
            reason: "AgentUnreachable".to_owned(),
            message: aspects::unheard(facts.observed),
            kind: Kind::Settled,
        };
    }
    let said = facts.trouble.map(|trouble| trouble.fault.to_string());
    let (reason, message) = match (obstacle, said) {
        (Some(Why::Superseded), _) => (
            "OwnerChanged",
            format!(
                "another owner has taken the VM over; waits until HyperVSite {} has seen who acts",
                facts.site
            ),
        ),
        (Some(Why::ReplicaUnknown), said) => (
            "ReplicaUnknown",
            format!(
                "what is in Azure cannot be read: {}",
                said.unwrap_or_default()
            ),
        ),
        (_, Some(said)) => ("ProgressingWithRetry", said),
        (_, None) => match &facts.observed.resync.need {
            Some(need) if facts.observed.removal.is_none() && facts.observed.pause.is_none() => {
                return resyncing::verdict(need);
            }
            Some(_) | None => return moving(facts),
        },
    };
    Verdict {
        state: state(facts.observed, facts.step),
        ready: Status::False,
        reason: reason.to_owned(),
        message,
        kind: Kind::Reconciling,
    }
}

/// Whether nothing is in the way but what work on a host brings.
const fn is_of_host(obstacle: Option<Why>) -> bool {
    matches!(
        obstacle,
        None | Some(Why::MachineUnknown | Why::MachineNotFound | Why::AgentUnreachable)
    )
}

/// What only a human can mend. What is in the way counts, whatever is done meanwhile to keep up what replicates.
fn stalled(facts: &Facts<'_>, obstacle: Option<Why>) -> Option<Verdict> {
    let seen = facts.observed;
    let (reason, message) = match obstacle {
        Some(Why::NotOurs) => match &seen.site {
            Site::NotOurs(why) => ("ManagedByAnotherCluster", why.clone()),
            Site::Missing | Site::NotReady(_) | Site::Ready => return None,
        },
        Some(Why::MachineNotFound) => (aspects::NOT_FOUND, aspects::not_found(facts)),
        Some(Why::MachineAmbiguous) => match &seen.machine {
            Machine::Ambiguous(ids) => (
                "VmAmbiguous",
                format!(
                    "several VMs of the site have this name; use spec.vm.id, one of {}",
                    ids.join(", ")
                ),
            ),
            Machine::Unknown { .. } | Machine::NotFound { .. } | Machine::Found { .. } => {
                return None;
            }
        },
        Some(Why::Taken) => {
            let other = seen
                .taken_by
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            (
                "AlreadyProtected",
                format!(
                    "this VM is protected by ProtectedVM {other} already; delete one of the two"
                ),
            )
        }
        Some(Why::Replaced) => match &seen.replaced {
            Some(replaced) if facts.step != Step::Rebind => ("VMReplaced", replaced.said()),
            Some(_) | None => return None,
        },
        Some(Why::Invalid) => {
            let failures: Vec<_> = seen.failures.iter().map(ToString::to_string).collect();
            ("PrerequisitesFailed", failures.join("; "))
        }
        Some(_) | None => {
            let trouble = facts.trouble.filter(|trouble| trouble.needs_human())?;
            (trouble.fault.code.as_str(), trouble.fault.to_string())
        }
    };
    let state = match obstacle {
        _ if seen.removal.is_some() => ReplicationState::Deleting,
        _ if seen.point => protected_state(seen),
        Some(Why::Invalid) if seen.record && step::is_begun(seen.agent) => {
            ReplicationState::InitialReplication
        }
        Some(_) | None => ReplicationState::EnablingFailed,
    };
    Some(Verdict {
        state,
        ready: Status::False,
        reason: reason.to_owned(),
        message,
        kind: Kind::Stalled,
    })
}

/// The state of a VM with a recovery point.
fn protected_state(seen: &Observed) -> ReplicationState {
    match &seen.resync.need {
        Some(need) => resyncing::state(need),
        None => ReplicationState::Protected,
    }
}

fn state(seen: &Observed, step: Step) -> ReplicationState {
    match (step, seen.agent) {
        _ if seen.removal.is_some() => ReplicationState::Deleting,
        _ if seen.point && seen.described => protected_state(seen),
        _ if seen.point => ReplicationState::FinalizingProtection,
        (
            Step::Nothing(
                Why::SiteMissing | Why::SiteNotReady | Why::MachineUnknown | Why::AgentUnreachable,
            ),
            _,
        ) => ReplicationState::Pending,
        (Step::Nothing(Why::Queued | Why::Window), _) => {
            ReplicationState::WaitingForInitialReplication
        }
        (_, Agent::Replicating(phase)) if phase != Phase::Created => {
            ReplicationState::InitialReplication
        }
        _ => ReplicationState::EnablingProtection,
    }
}

/// Hosts as they are listed in a message: a status has no room for hundreds.
fn named(hosts: &[HostName]) -> String {
    let named: Vec<&str> = hosts
        .iter()
        .take(HOSTS_NAMED)
        .map(HostName::as_str)
        .collect();
    match hosts.len().saturating_sub(HOSTS_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn progress(facts: &Facts<'_>) -> Option<String> {
    match (facts.step, facts.observed.slot) {
        (Step::Nothing(Why::Queued), Slot::Queued { position, waiting }) => {
            Some(format!("queued {position}/{waiting}"))
        }
        (Step::Nothing(_), _) => facts.details.percent().map(|percent| format!("{percent}%")),
        _ => None,
    }
}

/// The worst of what was measured, and why. What is stalled is Critical whatever was measured, and is said first unless a
/// measured reason says the same.
fn health(facts: &Facts<'_>, verdict: &Verdict) -> (Option<Health>, Vec<String>) {
    // Work on a host is no alarm, whatever it does to the host.
    let calm = matches!(verdict.kind, Kind::Settled | Kind::Reconciling);
    let held = facts.observed.pause == Some(Pause::Maintenance) && calm;
    let measured = match held {
        true => &[],
        false => facts.measured.reasons.as_slice(),
    };
    let mut lines: Vec<String> = measured.iter().map(health::Reason::line).collect();
    if calm {
        return (Some(health::health(measured)), lines);
    }
    if measured.iter().all(|reason| reason.code != verdict.reason) {
        let line = format!("{}: {}", verdict.reason, verdict.message);
        lines.insert(0, condition::shortened(line));
    }
    (Some(Health::Critical), lines)
}

fn conditions(
    facts: &Facts<'_>,
    verdict: &Verdict,
    health: (Option<Health>, &[String]),
    old: &[Condition],
) -> Vec<Said> {
    let Verdict {
        ready,
        reason,
        message,
        kind,
        ..
    } = verdict;
    let mut said = vec![Said::new(
        types::READY,
        *ready,
        reason.clone(),
        message.clone(),
    )];
    match kind {
        Kind::Settled => {}
        Kind::Reconciling | Kind::Overdue => said.push(Said::new(
            types::RECONCILING,
            Status::True,
            reason.clone(),
            message.clone(),
        )),
        Kind::Stalled => said.push(Said::new(
            types::STALLED,
            Status::True,
            reason.clone(),
            message.clone(),
        )),
    }
    said.push(aspects::validated(facts));
    said.push(aspects::replicating(facts, old));
    said.push(facts.measured.rpo.clone());
    let copied = progress(facts);
    said.push(resyncing::condition(
        &facts.observed.resync,
        copied.as_deref(),
    ));
    let failover = "this version does not fail over yet";
    said.push(Said::new(
        types::FAILOVER_READY,
        Status::False,
        "NotSupportedYet",
        failover,
    ));
    said.push(aspects::critical(health));
    said
}

#[cfg(test)]
pub(super) mod tests;
