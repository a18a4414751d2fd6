//! What can be made to go wrong in a lab hypervisor, on demand and as often as was asked for. Data only.

use serde::{Deserialize, Serialize};

use crate::host::Kind;
use crate::ids::{DiskSlot, VmId};

/// The next `times` that `place` is reached, `effect` happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    pub place: Place,
    /// Only for this machine.
    #[serde(default)]
    pub vm: Option<VmId>,
    /// Only for this disk; without effect in places that are not a disk's.
    #[serde(default)]
    pub disk: Option<DiskSlot>,
    pub times: u32,
    pub effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Effect {
    Fail {
        kind: Kind,
        detail: String,
    },
    /// Waits until the gate is released, then goes on.
    Hold {
        gate: String,
    },
    Delay {
        milliseconds: u64,
    },
}

/// A place that a call, a guest or the hypervisor's own work comes through. What fails there has done nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// A call that is about to be served.
    Machines,
    Machine,
    WaitForChange,
    StartTracking,
    StopTracking,
    Freeze,
    Points,
    Open,
    Changes,
    Commit,
    Abandon,
    Forget,
    Power,
    /// A request of a guest. A failure is what the guest gets.
    GuestRead,
    GuestWrite,
    GuestFlush,
    /// What a guest writes is about to be noted. A failure costs the disk its tracking, and the guest nothing.
    Track,
    /// Freeze: guests wait, nothing has changed.
    Barrier,
    /// Freeze: the children are made, the record does not name them.
    ChildrenMade,
    /// Freeze: the record names the children, guests still wait. It cannot fail any more.
    Frozen,
    /// Commit and abandon: the record says so, no merge has begun. It cannot fail any more.
    Released,
    /// Merge: a piece is about to be copied.
    MergeStep,
    /// Merge: all is copied, the parent is about to be completed.
    MergeCopied,
    /// Merge: the parent is the disk, the record still names the child.
    MergeComplete,
    /// Merge: the record names the parent, the child is about to be removed. It cannot fail any more.
    MergeRecorded,
}
