//! What a status says of what goes on by itself, rests, or is done.

use crate::api::condition::Status;
use crate::api::vm_status::ReplicationState;
use crate::controller::vm::pause::Pause;
use crate::controller::vm::queue::Slot;
use crate::controller::vm::removal::Removal;
use crate::controller::vm::report::{Facts, Kind, Verdict, named, quiet, state};
use crate::controller::vm::step::{Agent, Machine, Observed, Site, Step, Why};
use crate::wire::observation::Phase;

/// What goes on by itself, or is done.
pub(super) fn moving(facts: &Facts<'_>) -> Verdict {
    let seen = facts.observed;
    let (reason, message) = match facts.step {
        Step::Nothing(Why::SiteMissing) => (
            "WaitingForSite",
            format!(
                "waits for HyperVSite {}, which does not exist in this namespace: create it, or correct spec.siteRef",
                facts.site
            ),
        ),
        // A site that is lost is one condition of the site, not one of each of its VMs.
        Step::Nothing(Why::SiteNotReady) if !seen.point => {
            ("WaitingForSite", site_not_ready(facts))
        }
        Step::Nothing(Why::MachineUnknown | Why::AgentUnreachable) if !seen.point => (
            "WaitingForAgent",
            format!("waits for the agent of {}", silent_hosts(seen)),
        ),
        Step::Nothing(Why::Queued) => (quiet::QUEUED, queued(seen)),
        Step::Nothing(Why::Window) => (
            "WaitingForWindow",
            "waits for the hour at which the site's policy starts first copies".to_owned(),
        ),
        Step::Nothing(Why::Suspended) => match seen.pause {
            Some(pause) => return paused(facts, pause),
            None => ("Suspended", String::new()),
        },
        _ if seen.removal.is_some() => removing(seen),
        // What the agent is told anew in mid-copy does not begin it anew.
        Step::Nothing(Why::Copying) | Step::Raise | Step::Describe | Step::Relate
            if state(seen, facts.step) == ReplicationState::InitialReplication =>
        {
            (
                "InitialReplication",
                "the disks are being copied to Azure".to_owned(),
            )
        }
        step if seen.point && keeps_up(step) => return protected(facts),
        Step::Nothing(_)
        | Step::Record
        | Step::CreateReplica
        | Step::Raise
        | Step::Rebind
        | Step::Describe
        | Step::Relate
        | Step::Start
        | Step::Synchronize
        | Step::StartChain
        | Step::Resynchronize
        | Step::Condemn
        | Step::End
        | Step::Erase
        | Step::Retain => (
            "EnablingProtection",
            "protection is being enabled".to_owned(),
        ),
    };
    Verdict {
        state: state(seen, facts.step),
        ready: Status::False,
        reason: reason.to_owned(),
        message,
        kind: Kind::Reconciling,
    }
}

/// Whether a step is one of those by which what is protected is kept up.
const fn keeps_up(step: Step) -> bool {
    matches!(
        step,
        Step::Nothing(_)
            | Step::Raise
            | Step::Rebind
            | Step::Relate
            | Step::Describe
            | Step::Synchronize
            | Step::StartChain
            | Step::Resynchronize
    )
}

fn site_not_ready(facts: &Facts<'_>) -> String {
    let why = match &facts.observed.site {
        Site::NotReady(why) => why.as_str(),
        Site::Missing | Site::NotOurs(_) | Site::Ready => "",
    };
    format!("waits for HyperVSite {}: {why}", facts.site)
}

fn silent_hosts(seen: &Observed) -> String {
    match &seen.machine {
        Machine::Unknown { silent } => named(silent),
        Machine::Found { host, .. } => host.to_string(),
        Machine::NotFound { .. } | Machine::Ambiguous(_) => String::new(),
    }
}

pub(super) fn paused(facts: &Facts<'_>, pause: Pause) -> Verdict {
    if seals(facts.observed) {
        return Verdict {
            state: ReplicationState::Suspended,
            ready: Status::False,
            reason: "Pausing".to_owned(),
            message: format!(
                "{}; what is captured is sealed before",
                pause.said(facts.site)
            ),
            kind: Kind::Reconciling,
        };
    }
    Verdict {
        state: ReplicationState::Suspended,
        ready: Status::True,
        reason: pause.reason().to_owned(),
        message: pause.said(facts.site),
        kind: Kind::Settled,
    }
}

/// Whether the agent still has something captured on its way.
const fn seals(seen: &Observed) -> bool {
    let here = matches!(
        seen.machine,
        Machine::Found {
            connected: true,
            ..
        }
    );
    let phase = matches!(
        seen.agent,
        Agent::Replicating(Phase::Capturing | Phase::Shipping)
    );
    here && phase
}

/// What becomes of the replica of a deleted object.
fn removing(seen: &Observed) -> (&'static str, String) {
    match &seen.removal {
        Some(Removal::Wait(wait)) => wait.said(),
        Some(Removal::Raise | Removal::Condemn | Removal::End | Removal::Erase) => {
            ("Deleting", "the replica is being removed".to_owned())
        }
        Some(Removal::Retain) | None => (
            "Deleting",
            "replication on the host is being ended; the replica stays".to_owned(),
        ),
    }
}

fn protected(facts: &Facts<'_>) -> Verdict {
    let mut message = "recovery points are in Azure, and the changes follow".to_owned();
    if !facts.unsupported.is_empty() {
        message = format!(
            "{message}; not acted upon by this version: {}",
            facts.unsupported.join(", ")
        );
    }
    Verdict {
        state: ReplicationState::Protected,
        ready: Status::True,
        reason: "Protected".to_owned(),
        message,
        kind: Kind::Settled,
    }
}

fn queued(seen: &Observed) -> String {
    match seen.slot {
        Slot::Queued { position, waiting } => {
            format!("number {position} of {waiting} that wait for a first copy on this host")
        }
        Slot::Free => "waits for a first copy".to_owned(),
    }
}
