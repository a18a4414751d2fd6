//! The first copies of a host: which run, and which wait.

use jiff::Timestamp;

use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ReplicationState;
use crate::controller::context::{Context, name_of};
use crate::controller::vm::find::Found;
use crate::controller::vm::queue::Entry;
use crate::wire::observation::Phase;

/// A VM whose first copy is not done, as its host says.
pub(super) fn entry(context: &Context, vm: &ProtectedVM, on: &Found) -> Option<Entry> {
    let object = name_of(vm)?;
    let status = vm.status.as_ref()?;
    let replica = status.replica_id.as_ref()?.parse().ok()?;
    let replication = on.state.observed.replications.get(&replica)?;
    let begun = !matches!(replication.phase, Phase::Created | Phase::Suspended);
    let goes_nowhere = vm.spec.suspend
        || vm.metadata.deletion_timestamp.is_some()
        || status.state == Some(ReplicationState::EnablingFailed);
    if !begun && goes_nowhere {
        return None;
    }
    let manifest = context
        .datapath
        .observe(&replica)
        .and_then(|observed| observed.manifest);
    // Until the data path has answered, what runs may be a first copy.
    let copied = match manifest {
        Some(manifest) => !manifest.points.is_empty(),
        None => !begun || replication.phase == Phase::Replicating,
    };
    (!copied).then(|| Entry {
        object,
        created: vm
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MAX, |time| time.0),
        running: begun,
    })
}
