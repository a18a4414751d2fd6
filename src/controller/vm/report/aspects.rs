//! Conditions that say one thing each, beside the verdict: whether the machine may be protected, and whether it is
//! replicated right now.

use crate::api::condition::{Said, Status, types};
use crate::controller::vm::step::{Agent, Machine, Observed};
use crate::retry::Trouble;
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

pub(super) fn replicating(seen: &Observed, trouble: Option<&Trouble>) -> Said {
    let said = |status, reason: &str, message: &str| {
        Said::new(types::REPLICATING, status, reason, message)
    };
    match (seen.agent, trouble) {
        (_, Some(trouble)) => said(
            Status::False,
            trouble.fault.code.as_str(),
            &trouble.fault.message,
        ),
        (Agent::Unknown, None) => said(
            Status::Unknown,
            "AgentUnreachable",
            "the host's agent has not said",
        ),
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
