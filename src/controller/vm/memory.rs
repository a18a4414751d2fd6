//! What is remembered of a VM between two looks: a cache of what storage says, and who was told what.

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use crate::controller::documents::Held;
use crate::ids::{HostName, ReplicaId};
use crate::replica::fence::Fence;
use crate::retry::{Attempts, Trouble};
use crate::wire::Relationship;

/// The memory of one VM.
#[derive(Default)]
pub struct VmMemory {
    /// The fence of the VM's replica, once it was looked for.
    pub fence: Option<(ReplicaId, Option<Held<Fence>>)>,
    /// The replica that the data path works on, and what its account was opened with.
    pub attached: Option<(ReplicaId, blake3::Hash)>,
    /// What the agent was told last.
    pub told: Option<Told>,
    pub failing: Failing,
    /// The generation of the spec that was looked at last.
    pub generation: Option<i64>,
}

/// What an agent was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub host: HostName,
    /// An agent of another session may have forgotten.
    pub session: Uuid,
    pub relationship: Relationship,
}

/// Failures of the controller's own steps.
#[derive(Default)]
pub struct Failing {
    attempts: Attempts,
    trouble: Option<(Trouble, Instant)>,
}

impl Failing {
    /// A step that began at `started` has failed.
    pub fn failed(&mut self, fault: crate::report::Fault, started: Timestamp) {
        let (trouble, wait) = self.attempts.failed(fault, started);
        self.trouble = Some((trouble, Instant::now() + wait));
    }

    /// A step has succeeded, or somebody asked to begin anew.
    pub fn reset(&mut self) {
        *self = Failing::default();
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref().map(|(trouble, _)| trouble)
    }

    /// When the next attempt is due; nothing if one may be made now.
    pub fn wait(&self) -> Option<Instant> {
        self.trouble
            .as_ref()
            .map(|(_, at)| *at)
            .filter(|at| *at > Instant::now())
    }
}
