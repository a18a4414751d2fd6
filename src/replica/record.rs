//! `vms/<namespace>/<name>.json`: which replica an object has.
//!
//! Adoption reads this and never asks an agent: a rebuilt cluster finds here that the VM is replicated already.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::Document;
use crate::ids::{ObjectName, ReplicaId, VmId};

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
    pub created: Timestamp,
    /// Replication was ended and the replica kept: the object may come again and goes on with it.
    pub retained: bool,
}

impl Document for Record {
    const WHAT: &'static str = "the VM's record";
    const FORMAT: u32 = 1;
}
