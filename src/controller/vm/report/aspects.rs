//! Conditions that say one thing each, beside the verdict: whether the machine may be protected, and whether it is
//! replicated right now.

use crate::api::condition::{Condition, Said, Status, types};
use crate::api::vm_status::Health;
use crate::controller::vm::health;
use crate::controller::vm::report::{Facts, SILENCE, named};
use crate::controller::vm::step::{Agent, Machine, Observed, Site};
use crate::wire::observation::Phase;

/// The reason of a VM that no host has.
pub(super) const NOT_FOUND: &str = "VmNotFound";

/// What is said of a VM that no host has.
pub(super) fn not_found(facts: &Facts<'_>) -> String {
    let asked = match &facts.observed.machine {
        Machine::NotFound { asked } => named(asked),
        Machine::Unknown { .. } | Machine::Ambiguous(_) | Machine::Found { .. } => String::new(),
    };
    format!(
        "no host of the site reports this VM (asked: {asked}); check spec.vm, and that spec.hosts of HyperVSite {} \
         lists the host that has it",
        facts.site
    )
}

/// What is said of a VM of which no agent says anything.
pub(super) fn unheard(seen: &Observed) -> String {
    let (whose, check) = match &seen.machine {
        Machine::Unknown { silent } if !silent.is_empty() => (
            format!(
                "no host that answers reports this VM, and {}",
                named(silent)
            ),
            "check the agent's service there",
        ),
        Machine::Found { host, .. } => (format!("the agent of {host}"), "check its service"),
        Machine::Unknown { .. } | Machine::NotFound { .. } | Machine::Ambiguous(_) => {
            ("the agent of the VM's host".to_owned(), "check its service")
        }
    };
    format!(
        "{whose} has not been heard of for more than 5 minutes; {check} and that it reaches the gateway"
    )
}

pub(super) fn validated(facts: &Facts<'_>) -> Said {
    let seen = facts.observed;
    match &seen.machine {
        _ if seen.site == Site::Missing => {
            let (reason, message) = no_site(facts);
            Said::new(types::VALIDATED, Status::Unknown, reason, message)
        }
        Machine::Found { .. } if seen.failures.is_empty() => {
            Said::new(types::VALIDATED, Status::True, "PrerequisitesMet", "")
        }
        Machine::Found { .. } => {
            let failures: Vec<_> = seen.failures.iter().map(ToString::to_string).collect();
            let reason = match seen.failures.as_slice() {
                [one] => one.rule,
                _ => "PrerequisitesFailed",
            };
            Said::new(types::VALIDATED, Status::False, reason, failures.join("; "))
        }
        Machine::Ambiguous(_) => Said::new(
            types::VALIDATED,
            Status::False,
            "VmAmbiguous",
            "several VMs have this name",
        ),
        Machine::NotFound { .. } => {
            Said::new(types::VALIDATED, Status::False, NOT_FOUND, not_found(facts))
        }
        Machine::Unknown { silent } => {
            let message = match silent.as_slice() {
                [] => "no host of the site reports this VM; it may be moving".to_owned(),
                silent => format!(
                    "no host that answers reports this VM; not heard of: {}",
                    named(silent)
                ),
            };
            Said::new(
                types::VALIDATED,
                Status::Unknown,
                "AgentUnreachable",
                message,
            )
        }
    }
}

fn no_site(facts: &Facts<'_>) -> (&'static str, String) {
    let message = format!(
        "HyperVSite {} does not exist in this namespace: create it, or correct spec.siteRef",
        facts.site
    );
    ("WaitingForSite", message)
}

/// Whether the VM is replicated. What was said stands while its agent is away for a moment.
pub(super) fn replicating(facts: &Facts<'_>, old: &[Condition]) -> Said {
    let said = |status, reason: &str, message: &str| {
        Said::new(types::REPLICATING, status, reason, message)
    };
    let seen = facts.observed;
    let before = old
        .iter()
        .find(|condition| condition.type_ == types::REPLICATING);
    let silent = facts.silent.is_some_and(|silent| silent >= SILENCE);
    match (seen.agent, facts.trouble) {
        (_, Some(trouble)) => said(
            Status::False,
            trouble.fault.code.as_str(),
            &trouble.fault.message,
        ),
        (Agent::Unknown, None) => match before.filter(|_| facts.silent.is_some() && !silent) {
            Some(before) if before.status == "True" => {
                said(Status::True, &before.reason, &before.message)
            }
            Some(before) if before.status == "False" => {
                said(Status::False, &before.reason, &before.message)
            }
            _ => match (&seen.site, &seen.machine) {
                (Site::Missing, _) => {
                    let (reason, message) = no_site(facts);
                    said(Status::Unknown, reason, &message)
                }
                (_, Machine::NotFound { .. }) => said(
                    Status::Unknown,
                    NOT_FOUND,
                    "no host of the site reports this VM",
                ),
                _ => said(
                    Status::Unknown,
                    "AgentUnreachable",
                    "the host's agent has not said",
                ),
            },
        },
        (Agent::Absent, None) => said(Status::False, "NotStarted", ""),
        (Agent::Replicating(Phase::Created), None) => said(Status::False, "NotStarted", ""),
        (Agent::Replicating(phase), None) => {
            let name = phase_name(phase, seen.point);
            let replicates = !matches!(phase, Phase::ResyncRequired | Phase::Suspended);
            let status = if replicates {
                Status::True
            } else {
                Status::False
            };
            said(status, name, "")
        }
    }
}

/// Whether health is Critical, and why.
pub(super) fn critical((health, reasons): (Option<Health>, &[String])) -> Said {
    if health != Some(Health::Critical) {
        return Said::new(types::CRITICAL, Status::False, "NotCritical", "");
    }
    let reason = reasons
        .first()
        .map_or("Critical", |line| health::code(line));
    Said::new(types::CRITICAL, Status::True, reason, reasons.join("; "))
}

const fn phase_name(phase: Phase, point: bool) -> &'static str {
    match phase {
        Phase::Created => "NotStarted",
        // One and the same, however often barriers are taken: how far behind it is, the RPO says.
        Phase::Replicating | Phase::Freezing | Phase::Capturing | Phase::Shipping if point => {
            "ChangesFollow"
        }
        Phase::Replicating => "UpToDate",
        Phase::ResyncRequired => "ResynchronizationRequired",
        Phase::Suspended => "Suspended",
        Phase::Copying | Phase::Merging if point => "Comparing",
        // After a restart of the agent, say.
        _ if point => "CatchingUp",
        Phase::Resuming
        | Phase::Freezing
        | Phase::Copying
        | Phase::Merging
        | Phase::Capturing
        | Phase::Shipping
        | Phase::Unknown => "InitialReplication",
    }
}
