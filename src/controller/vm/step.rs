//! The enable job of one VM: what is observed decides the next step, which is one change outside.
//!
//! ```text
//! site usable? ── no ─► wait      its fence of an earlier term of the owner? ─► Raise
//!    │ yes
//! machine found? replica read? rules kept? ── no ─► wait, or say every reason; what is replicating goes on:
//!    │ yes                                          Relate, and Start what has a recovery point
//!    ▼
//! Record ─► CreateReplica ─► Describe ─► Relate ─► (queue) ─► Start ─► (the agent copies, the data path applies)
//!                               ▲                                          │ first recovery point
//!                               └──── whenever the machine changed ◄───────┴─► Protected: Describe, Relate, nothing
//! ```
//! What is deleted: Retain; or, as [`crate::controller::vm::removal`] decides, Condemn ─► End ─► Erase.
//! What moved to another host: Raise, and all goes on there. What was imported under a new id, once somebody says that it
//! is the same: Rebind ─► StartChain, and it is compared. What fell behind: StartChain where the chain is broken,
//! Resynchronize where it is demanded, and leave by Relate.
//!
//! Every step may be taken again: what it makes is looked for before it is made. `Relate` also renews access, and comes
//! back whenever what the agent was told differs from what it should do. What could not be read is not made.

use crate::controller::vm::pause::Pause;
use crate::controller::vm::queue::Slot;
use crate::controller::vm::rebind::Replaced;
use crate::controller::vm::removal::Removal;
use crate::controller::vm::resync::Resync;
use crate::controller::vm::rules::Failure;
use crate::ids::{HostName, ObjectName};
use crate::wire::observation::Phase;

/// What is known of a VM and everything that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// What becomes of the replica, where the object is deleted or was before.
    pub removal: Option<Removal>,
    pub pause: Option<Pause>,
    pub site: Site,
    pub machine: Machine,
    /// Another object has this VM.
    pub taken_by: Option<ObjectName>,
    /// The record belongs to another VM: same name, other machine.
    pub replaced: Option<Replaced>,
    pub failures: Vec<Failure>,
    /// Whether the record is there, and is of a replica that is kept up.
    pub record: bool,
    pub replica: Replica,
    pub fence: Fence,
    /// Whether the fence describes the machine as it is now.
    pub described: bool,
    pub agent: Agent,
    /// Whether the agent was told what it should do, with access that lasts.
    pub related: bool,
    pub slot: Slot,
    /// The hour at which first copies start has not come.
    pub window_closed: bool,
    /// Whether a recovery point has been published; while the replica is unknown, whether one was before.
    pub point: bool,
    pub resync: Resync,
    /// Whether somebody asks for a barrier now.
    pub synchronize: bool,
}

/// What is known of the containers with the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replica {
    /// They could not be looked at.
    Unknown,
    Absent,
    Present,
}

/// What is known of the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It could not be read.
    Unknown,
    Absent,
    /// It was raised last in an earlier term of the owner: late commands of before would still be obeyed.
    Behind,
    Current,
    /// It is of another host than the machine is on now: who replicates it there would still be obeyed.
    Elsewhere,
    /// It was raised in a later term than the site's owner is known to have: another cluster has taken over.
    Ahead,
}

impl Observed {
    /// Whether what is in Azure is not known: what was said of it before is not taken back then.
    pub fn is_unread(&self) -> bool {
        self.replica == Replica::Unknown || matches!(self.fence, Fence::Unknown | Fence::Ahead)
    }
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
    /// All hosts of the site have answered, and none has it.
    NotFound {
        asked: Vec<HostName>,
    },
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
    /// Raise the fence's generation, to the owner's term and for the host that the machine is on.
    Raise,
    /// Write down that the replica goes on with the machine that was found.
    Rebind,
    /// Write the machine's description into the fence.
    Describe,
    /// Tell the agent what to do, with fresh access.
    Relate,
    Start,
    /// Have a barrier taken.
    Synchronize,
    /// Have the data path begin a new chain: the present one cannot be gone on with.
    StartChain,
    /// Tell the agent that all disks have to be compared.
    Resynchronize,
    /// Write down that the replica goes.
    Condemn,
    /// End replication on the host, before the replica goes.
    End,
    /// Remove the replica.
    Erase,
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
    /// What is in Azure could not be read.
    ReplicaUnknown,
    /// The fence was raised by an owner that the site has not seen yet.
    Superseded,
    Invalid,
    AgentUnreachable,
    Suspended,
    /// The replica is not removed yet.
    Kept,
    Queued,
    Window,
    /// The agent and the data path are at work.
    Copying,
    Protected,
}

impl Why {
    /// Whether it is not known what the next step would be.
    pub const fn is_blind(self) -> bool {
        match self {
            Why::SiteNotReady
            | Why::MachineUnknown
            | Why::ReplicaUnknown
            | Why::AgentUnreachable => true,
            Why::SiteMissing
            | Why::NotOurs
            | Why::MachineNotFound
            | Why::MachineAmbiguous
            | Why::Taken
            | Why::Replaced
            | Why::Superseded
            | Why::Invalid
            | Why::Suspended
            | Why::Kept
            | Why::Queued
            | Why::Window
            | Why::Copying
            | Why::Protected => false,
        }
    }
}

/// The next step.
pub fn next(seen: &Observed) -> Step {
    if let Some(removal) = &seen.removal {
        return remove(removal);
    }
    if let Some(why) = site_in_the_way(&seen.site) {
        return Step::Nothing(why);
    }
    // Before anything else, and wherever the machine is: late commands of an earlier owner end here.
    if seen.record && seen.fence == Fence::Behind {
        return Step::Raise;
    }
    match in_the_way(seen) {
        None => enable(seen),
        Some(why) => go_on(seen, why),
    }
}

const fn remove(removal: &Removal) -> Step {
    match removal {
        Removal::Retain => Step::Retain,
        Removal::Wait(_) => Step::Nothing(Why::Kept),
        Removal::Raise => Step::Raise,
        Removal::Condemn => Step::Condemn,
        Removal::End => Step::End,
        Removal::Erase => Step::Erase,
    }
}

fn enable(seen: &Observed) -> Step {
    if !seen.record {
        Step::Record
    } else if seen.replica == Replica::Absent {
        Step::CreateReplica
    } else if seen.fence == Fence::Elsewhere {
        Step::Raise
    } else if seen.resync.rebound && seen.resync.begins_chain() {
        // Before an agent can take cursors of the machine of before for its own.
        Step::StartChain
    } else if seen.fence == Fence::Absent || !seen.described {
        Step::Describe
    } else {
        on_host(seen)
    }
}

/// What may be done although something is in the way: replication that runs does not end because of a rule that was
/// kept when it began, or because storage does not answer the controller.
fn go_on(seen: &Observed, why: Why) -> Step {
    let runs = seen.record && seen.fence == Fence::Current && is_begun(seen.agent);
    let kept_up = seen.point && seen.replica == Replica::Present && seen.fence == Fence::Current;
    match why {
        Why::Replaced if is_rebound(seen) => Step::Rebind,
        Why::Invalid if seen.record && seen.fence == Fence::Elsewhere => Step::Raise,
        Why::Invalid if seen.record && kept_up => match on_host(seen) {
            Step::Nothing(_) => Step::Nothing(why),
            step => step,
        },
        Why::Invalid | Why::ReplicaUnknown if runs && !seen.related => Step::Relate,
        why => Step::Nothing(why),
    }
}

/// Whether the replica is to go on with the machine that was found, and everything is known that this takes.
fn is_rebound(seen: &Observed) -> bool {
    let asked = seen
        .replaced
        .as_ref()
        .is_some_and(|replaced| replaced.asked);
    asked && seen.record && !seen.is_unread()
}

/// Whether the agent has begun to replicate.
pub fn is_begun(agent: Agent) -> bool {
    matches!(agent, Agent::Replicating(phase) if phase != Phase::Created)
}

/// What keeps the enable job from going on, if something does.
pub fn in_the_way(seen: &Observed) -> Option<Why> {
    if let Some(why) = site_in_the_way(&seen.site) {
        return Some(why);
    }
    match &seen.machine {
        Machine::Unknown { .. } => return Some(Why::MachineUnknown),
        Machine::NotFound { .. } => return Some(Why::MachineNotFound),
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
    } else if seen.replaced.is_some() {
        Some(Why::Replaced)
    } else if seen.record && seen.fence == Fence::Ahead {
        Some(Why::Superseded)
    } else if seen.record && seen.is_unread() {
        Some(Why::ReplicaUnknown)
    } else if !seen.failures.is_empty() {
        Some(Why::Invalid)
    } else {
        None
    }
}

fn site_in_the_way(site: &Site) -> Option<Why> {
    match site {
        Site::Missing => Some(Why::SiteMissing),
        Site::NotReady(_) => Some(Why::SiteNotReady),
        Site::NotOurs(_) => Some(Why::NotOurs),
        Site::Ready => None,
    }
}

/// The steps on the host, once storage is ready.
fn on_host(seen: &Observed) -> Step {
    match seen.agent {
        Agent::Unknown => Step::Nothing(Why::AgentUnreachable),
        Agent::Absent => Step::Relate,
        Agent::Replicating(_) if !seen.related => Step::Relate,
        Agent::Replicating(_) if seen.pause.is_some() => Step::Nothing(Why::Suspended),
        Agent::Replicating(Phase::Created) if seen.point => Step::Start,
        Agent::Replicating(Phase::Created) if seen.window_closed => Step::Nothing(Why::Window),
        Agent::Replicating(Phase::Created) => match seen.slot {
            Slot::Free => Step::Start,
            Slot::Queued { .. } => Step::Nothing(Why::Queued),
        },
        Agent::Replicating(_) if seen.resync.begins_chain() => Step::StartChain,
        Agent::Replicating(_) if seen.resync.demand => Step::Resynchronize,
        Agent::Replicating(phase) if seen.synchronize && takes_barriers(phase) => Step::Synchronize,
        Agent::Replicating(_) if seen.point => Step::Nothing(Why::Protected),
        Agent::Replicating(_) => Step::Nothing(Why::Copying),
    }
}

/// Whether a barrier that is asked for is taken soon: in a copy it would follow by itself.
const fn takes_barriers(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Freezing | Phase::Capturing | Phase::Shipping | Phase::Replicating
    )
}

#[cfg(test)]
mod tests;
