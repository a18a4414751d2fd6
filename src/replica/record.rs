//! `vms/<namespace>/<name>.json`: which replica an object has.
//!
//! Adoption reads this and never asks an agent: a rebuilt cluster finds here that the VM is replicated already.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::Document;
use crate::ids::{ChainId, ObjectName, ReplicaId, VmId};
use crate::units::Generation;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub object: ObjectName,
    pub replica: ReplicaId,
    pub vm: VmId,
    /// For people who read the container.
    pub vm_name: String,
    /// Ids that the VM had before it was imported anew and bound again on request.
    pub former_vms: Vec<VmId>,
    /// That it was bound again, and what follows from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebound: Option<Rebound>,
    pub created: Timestamp,
    /// Replication was ended and the replica kept: the object may come again and goes on with it.
    pub retained: bool,
    /// The replica is to go, or is gone. It is written before anything is removed, and is never taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condemned: Option<Condemned>,
}

/// That the replica was given to another VM than it was copied from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rebound {
    pub at: Timestamp,
    /// The chain of the VM of before: it is retired, so that no cursor of that one is believed of this one.
    pub chain: ChainId,
}

/// That a replica is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condemned {
    /// When it was decided.
    pub at: Timestamp,
    /// What the fence said then: agents are told in its name when the fence is gone.
    pub generation: Generation,
    /// Whether nothing of it is left: the record only tells that there was one.
    pub erased: bool,
}

impl Record {
    /// That the VM of this id and name has this replica from now on.
    pub fn new(
        object: ObjectName,
        replica: ReplicaId,
        (vm, vm_name): (VmId, String),
        created: Timestamp,
    ) -> Self {
        Record {
            object,
            replica,
            vm,
            vm_name,
            former_vms: Vec::new(),
            rebound: None,
            created,
            retained: false,
            condemned: None,
        }
    }

    /// Whether the record only tells that there was a replica.
    pub fn is_erased(&self) -> bool {
        self.condemned
            .as_ref()
            .is_some_and(|condemned| condemned.erased)
    }
}

impl Document for Record {
    const WHAT: &'static str = "the VM's record";
    const FORMAT: u32 = 1;
}
