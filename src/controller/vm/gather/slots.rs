//! The first copies of a host: which run, and which wait.

use jiff::Timestamp;

use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ReplicationState;
use crate::controller::context::{Context, name_of};
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::find::Found;
use crate::controller::vm::queue::{self, Entry};
use crate::wire::ReplicationObservation;
use crate::wire::observation::Phase;

/// The VMs of a host whose first copy is not done, as the host says; their objects by the site's records.
pub(super) fn entries(context: &Context, site: &SiteHandle, on: &Found) -> Vec<Entry> {
    let replications = on.state.observed.replications.values();
    replications
        .filter_map(|replication| {
            let object = context.vms.get(&site.object_of(&replication.replica)?)?;
            entry(context, object.0.as_ref().ok()?, replication)
        })
        .collect()
}

/// Has those looked at again whose turn on this host may have come: as many as may be copied at the same time.
pub fn touch_next(context: &Context, site: &SiteHandle, on: &Found, most: usize) {
    let entries = entries(context, site, on);
    for object in queue::next(&entries, most) {
        context.vms.touch(object);
    }
}

/// A VM whose first copy is not done, as its host says.
fn entry(
    context: &Context,
    vm: &ProtectedVM,
    replication: &ReplicationObservation,
) -> Option<Entry> {
    let object = name_of(vm)?;
    let begun = !matches!(replication.phase, Phase::Created | Phase::Suspended);
    let state = vm.status.as_ref().and_then(|status| status.state);
    let goes_nowhere = vm.spec.suspend
        || vm.metadata.deletion_timestamp.is_some()
        || state == Some(ReplicationState::EnablingFailed);
    if !begun && goes_nowhere {
        return None;
    }
    let manifest = context
        .datapath
        .observe(&replication.replica)
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
