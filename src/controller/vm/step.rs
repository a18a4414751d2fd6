//! The enable job of one VM: what is observed decides the next step, which is one change outside.
//!
//! ```text
//! site usable? machine found? rules kept? ── no ─► Wait, or Blocked with every reason
//!    │ yes
//!    ▼
//! Record ─► CreateReplica ─► Describe ─► Relate ─► (queue) ─► Start ─► (the agent copies, the data path applies)
//!                               ▲                                          │ first recovery point
//!                               └──── whenever the machine changed ◄───────┴─► Protected: Describe, Renew, nothing
//! ```
//! Every step may be taken again: what it makes is looked for before it is made. `Relate` also renews access, and comes
//! back whenever what the agent was told differs from what it should do.

use crate::controller::vm::queue::Slot;
use crate::controller::vm::rules::Failure;
use crate::ids::{HostName, ObjectName};
use crate::wire::observation::Phase;

/// What is known of a VM and everything that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub deleting: bool,
    pub suspended: bool,
    pub site: Site,
    pub machine: Machine,
    /// Another object has this VM.
    pub taken_by: Option<ObjectName>,
    /// The record belongs to another VM: same name, other machine.
    pub replaced: bool,
    pub failures: Vec<Failure>,
    /// Whether the record, the containers with the manifest, and the fence are there.
    pub record: bool,
    pub replica: bool,
    pub fence: bool,
    /// Whether the fence describes the machine as it is now.
    pub described: bool,
    pub agent: Agent,
    /// Whether the agent was told what it should do, with access that lasts.
    pub related: bool,
    pub slot: Slot,
    /// The hour at which first copies start has not come.
    pub window_closed: bool,
    /// Whether a recovery point has been published.
    pub point: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Site {
    Missing,
    /// It says itself why.
    NotReady(String),
    /// Another cluster acts for it: nothing is touched.
    NotOurs(String),
    Ready,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Not all hosts have answered, and none that has knows the VM.
    Unknown {
        silent: Vec<HostName>,
    },
    NotFound,
    /// Several have the name: their ids.
    Ambiguous(Vec<String>),
    Found {
        host: HostName,
        connected: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It is not connected, or has not said.
    Unknown,
    /// It does not replicate this VM.
    Absent,
    Replicating(Phase),
}

/// The next change outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write down which replica the object has.
    Record,
    /// Make the containers and the manifest.
    CreateReplica,
    /// Write the machine's description into the fence.
    Describe,
    /// Tell the agent what to do, with fresh access.
    Relate,
    Start,
    /// End replication on the host and keep what is in Azure.
    Retain,
    /// Nothing to do: for this reason.
    Nothing(Why),
}

/// Why there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    SiteMissing,
    SiteNotReady,
    NotOurs,
    MachineUnknown,
    MachineNotFound,
    MachineAmbiguous,
    Taken,
    Replaced,
    Invalid,
    AgentUnreachable,
    Suspended,
    Queued,
    Window,
    /// The agent and the data path are at work.
    Copying,
    Protected,
}

/// The next step.
pub fn next(seen: &Observed) -> Step {
    if seen.deleting {
        return Step::Retain;
    }
    if let Some(why) = blocked(seen) {
        return Step::Nothing(why);
    }
    if !seen.record {
        Step::Record
    } else if !seen.replica {
        Step::CreateReplica
    } else if !seen.fence || !seen.described {
        Step::Describe
    } else {
        on_host(seen)
    }
}

/// What has to be so before anything is done.
fn blocked(seen: &Observed) -> Option<Why> {
    match &seen.site {
        Site::Missing => return Some(Why::SiteMissing),
        Site::NotReady(_) => return Some(Why::SiteNotReady),
        Site::NotOurs(_) => return Some(Why::NotOurs),
        Site::Ready => {}
    }
    match &seen.machine {
        Machine::Unknown { .. } => return Some(Why::MachineUnknown),
        Machine::NotFound => return Some(Why::MachineNotFound),
        Machine::Ambiguous(_) => return Some(Why::MachineAmbiguous),
        Machine::Found {
            connected: false, ..
        } => return Some(Why::AgentUnreachable),
        Machine::Found {
            connected: true, ..
        } => {}
    }
    if seen.taken_by.is_some() {
        Some(Why::Taken)
    } else if seen.replaced {
        Some(Why::Replaced)
    } else if !seen.failures.is_empty() {
        Some(Why::Invalid)
    } else {
        None
    }
}

/// The steps on the host, once storage is ready.
fn on_host(seen: &Observed) -> Step {
    match seen.agent {
        Agent::Unknown => Step::Nothing(Why::AgentUnreachable),
        Agent::Absent => Step::Relate,
        Agent::Replicating(_) if !seen.related => Step::Relate,
        Agent::Replicating(Phase::Created) if seen.suspended => Step::Nothing(Why::Suspended),
        Agent::Replicating(Phase::Created) if seen.point => Step::Start,
        Agent::Replicating(Phase::Created) if seen.window_closed => Step::Nothing(Why::Window),
        Agent::Replicating(Phase::Created) => match seen.slot {
            Slot::Free => Step::Start,
            Slot::Queued { .. } => Step::Nothing(Why::Queued),
        },
        Agent::Replicating(_) if seen.point => Step::Nothing(Why::Protected),
        Agent::Replicating(_) => Step::Nothing(Why::Copying),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A VM whose replica is set up and which is replicating.
    fn replicating() -> Observed {
        Observed {
            deleting: false,
            suspended: false,
            site: Site::Ready,
            machine: Machine::Found {
                host: "hv1".parse().unwrap(),
                connected: true,
            },
            taken_by: None,
            replaced: false,
            failures: Vec::new(),
            record: true,
            replica: true,
            fence: true,
            described: true,
            agent: Agent::Replicating(Phase::Copying),
            related: true,
            slot: Slot::Free,
            window_closed: false,
            point: false,
        }
    }

    #[test]
    fn the_enable_job_takes_its_steps_in_order() {
        let mut seen = Observed {
            record: false,
            replica: false,
            fence: false,
            described: false,
            agent: Agent::Absent,
            related: false,
            ..replicating()
        };
        assert_eq!(next(&seen), Step::Record);
        seen.record = true;
        assert_eq!(next(&seen), Step::CreateReplica);
        seen.replica = true;
        assert_eq!(next(&seen), Step::Describe);
        (seen.fence, seen.described) = (true, true);
        assert_eq!(next(&seen), Step::Relate);
        (seen.agent, seen.related) = (Agent::Replicating(Phase::Created), true);
        assert_eq!(next(&seen), Step::Start);
        seen.agent = Agent::Replicating(Phase::Copying);
        assert_eq!(next(&seen), Step::Nothing(Why::Copying));
        seen.point = true;
        assert_eq!(next(&seen), Step::Nothing(Why::Protected));
    }

    #[test]
    fn nothing_is_touched_of_a_site_that_another_cluster_acts_for() {
        let seen = Observed {
            site: Site::NotOurs("b".to_owned()),
            record: false,
            ..replicating()
        };
        assert_eq!(next(&seen), Step::Nothing(Why::NotOurs));
    }

    #[test]
    fn a_machine_that_a_silent_host_may_have_is_unknown_and_not_lost() {
        let silent = vec!["hv2".parse().unwrap()];
        let seen = Observed {
            machine: Machine::Unknown { silent },
            ..replicating()
        };
        assert_eq!(next(&seen), Step::Nothing(Why::MachineUnknown));
    }

    #[test]
    fn a_queued_vm_waits_unless_its_replica_is_there_already() {
        let queued = Observed {
            agent: Agent::Replicating(Phase::Created),
            slot: Slot::Queued {
                position: 1,
                waiting: 1,
            },
            ..replicating()
        };
        assert_eq!(next(&queued), Step::Nothing(Why::Queued));
        assert_eq!(
            next(&Observed {
                point: true,
                ..queued
            }),
            Step::Start
        );
    }

    #[test]
    fn access_that_ends_soon_is_renewed_in_every_phase() {
        for phase in [Phase::Created, Phase::Copying, Phase::Replicating] {
            let seen = Observed {
                agent: Agent::Replicating(phase),
                related: false,
                ..replicating()
            };
            assert_eq!(next(&seen), Step::Relate);
        }
    }

    #[test]
    fn a_deleted_vm_is_let_go_whatever_else_is_so() {
        let seen = Observed {
            deleting: true,
            site: Site::Missing,
            ..replicating()
        };
        assert_eq!(next(&seen), Step::Retain);
    }
}
