//! What stands in storage, as far as it is known: the fence, and the data path that works on the replica.

use jiff::Timestamp;

use crate::controller::context::Context;
use crate::controller::documents::{self, Held};
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::retries;
use crate::datapath::runner::{self, Duties};
use crate::ids::ObjectName;
use crate::replica::fence::Fence;
use crate::replica::names;
use crate::replica::record::Record;
use crate::report::{Code, Fault};

/// Forgets what was known while this cluster acted: another one changes it now.
pub(super) fn let_go(context: &Context, memory: &mut VmMemory) {
    if let Some((replica, _)) = memory.attached.take() {
        context.detach(&replica);
    }
    (memory.record, memory.fence, memory.told) = (None, None, None);
    memory.reading.reset();
}

/// Has the data path work on the VM's replica, with the credentials and the policy of now.
pub(super) fn attach(
    context: &Context,
    name: &ObjectName,
    memory: &mut VmMemory,
    (handle, record): (&SiteHandle, &Record),
    duties: Duties,
) -> runner::Observation {
    let attached = (record.replica.clone(), handle.fingerprint);
    if memory.attached.as_ref() != Some(&attached) {
        if let Some((before, _)) = memory.attached.replace(attached) {
            context.detach(&before);
        }
        context.own(&record.replica, name);
    }
    let store = handle.store(&record.replica);
    context.datapath.attach(store, duties);
    context
        .datapath
        .observe(&record.replica)
        .unwrap_or_default()
}

/// Reads the fence, unless it is known, or could not be read and it is not time yet to try again.
pub(super) async fn look_for_fence(
    handle: &SiteHandle,
    record: &Record,
    memory: &mut VmMemory,
    now: Timestamp,
) {
    let known = memory
        .fence
        .as_ref()
        .is_some_and(|(replica, held)| *replica == record.replica && held.is_some());
    if known || memory.reading.wait().is_some() {
        return;
    }
    let container = handle.replica(&record.replica);
    let loaded = documents::load::<Fence>(container.as_ref(), names::FENCE).await;
    let held = match loaded.and_then(|held| of_replica(held, record)) {
        Ok(held) => held,
        // Without its container there is no fence either.
        Err(fault) if fault.code == Code::StorageNotFound => None,
        Err(fault) => {
            tracing::warn!(vm = %record.object, %fault, "cannot read the fence");
            memory.fence = None;
            memory.reading.failed(retries::READ_FENCE, fault, now);
            return;
        }
    };
    memory.reading.reset();
    memory.fence = Some((record.replica.clone(), held));
}

/// A fence that was read, if it is of the VM's replica: another's generation says nothing of this one.
fn of_replica(held: Option<Held<Fence>>, record: &Record) -> Result<Option<Held<Fence>>, Fault> {
    match &held {
        Some(fence) if fence.value.replica != record.replica => {
            let (said, replica) = (&fence.value.replica, &record.replica);
            let message = format!("{} of replica {replica} is of replica {said}", names::FENCE);
            Err(Fault::new(Code::ForeignBlob, message))
        }
        Some(_) | None => Ok(held),
    }
}
