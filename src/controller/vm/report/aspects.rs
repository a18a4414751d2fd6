//! Conditions that say one thing each, beside the verdict: whether the machine may be protected, and whether it is
//! replicated right now.

use crate::api::condition::{Condition, Said, Status, types};
use crate::api::vm_status::Health;
use crate::controller::vm::health;
use crate::controller::vm::report::{Facts, SILENCE};
use crate::controller::vm::step::{Agent, Machine, Observed};
use crate::wire::observation::Phase;

pub(super) fn validated(seen: &Observed) -> Said {
    match &seen.machine {
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
        Machine::NotFound => Said::new(
            types::VALIDATED,
            Status::False,
            "VmNotFound",
            "no host of the site has this VM",
        ),
        Machine::Unknown { .. } => Said::new(
            types::VALIDATED,
            Status::Unknown,
            "AgentUnreachable",
            "not all hosts of the site have answered",
        ),
    }
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
            _ => said(
                Status::Unknown,
                "AgentUnreachable",
                "the host's agent has not said",
            ),
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
