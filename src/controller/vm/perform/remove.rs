//! Removes a replica, in the order that a crash at any moment leaves resumable:
//!
//! ```text
//! record: condemned ─► host: tracking, checkpoints and logs of ours ─► inbox ─► replica ─► record: erased
//! ```
//! Only the two containers of the replica that the record names are deleted, never anything that runs or is attached in
//! Azure.

use crate::controller::context::Context;
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::find::Found;
use crate::controller::vm::gather::Gathered;
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::perform::{replica_of, unreachable};
use crate::ids::{OperationId, random};
use crate::replica::record::{Condemned, Record};
use crate::report::{Code, Fault};
use crate::wire::{Command, Remove};

/// Writes down that the replica goes. From here on it is finished, whoever dies.
pub(super) async fn condemn(
    gathered: &Gathered,
    context: &Context,
    site: &SiteHandle,
) -> Result<(), Fault> {
    let record = replica_of(gathered)?;
    tracing::warn!(vm = %record.object, replica = %record.replica, "the replica is to be removed");
    site.keep_record(Record {
        retained: true,
        condemned: Some(Condemned {
            at: context.clock.now(),
            generation: gathered.generation,
            erased: false,
        }),
        ..record.clone()
    })
    .await
}

/// Ends replication on the host.
pub(super) async fn end(
    gathered: &Gathered,
    memory: &mut VmMemory,
    found: Option<&Found>,
) -> Result<(), Fault> {
    let record = replica_of(gathered)?;
    let nowhere = || Fault::new(Code::AgentUnreachable, "the VM's host is not known");
    let found = found.ok_or_else(nowhere)?;
    let agent = found.state.agent().ok_or_else(|| unreachable(found))?;
    let condemned = record
        .condemned
        .as_ref()
        .map(|condemned| condemned.generation);
    let obeyed = gathered.replication.as_ref().map(|seen| seen.generation);
    let generation = [condemned, obeyed].into_iter().flatten().max();
    let command = Command {
        generation: generation.unwrap_or(gathered.generation),
        operation: OperationId::from_random(random()),
        run: None,
        body: Remove::default(),
    };
    agent.remove(&record.replica, &command).await?;
    memory.ended = true;
    Ok(())
}

/// Deletes the replica's containers, and writes down that they are gone.
pub(super) async fn erase(
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
    site: &SiteHandle,
) -> Result<(), Fault> {
    let record = replica_of(gathered)?;
    let written = |condemned: &&Condemned| !condemned.erased;
    let condemned = record.condemned.as_ref().filter(written).ok_or_else(|| {
        Fault::new(
            Code::Internal,
            "a replica is removed that was not condemned",
        )
    })?;
    context.detach(&record.replica);
    memory.attached = None;
    // The fence goes last.
    for container in [
        site.prefix.inbox(&record.replica),
        site.prefix.replica(&record.replica),
    ] {
        let deleted = site.account.delete_container(&container).await;
        deleted.map_err(|error| error.fault())?;
        tracing::warn!(vm = %record.object, container, "deleted");
    }
    site.keep_record(Record {
        condemned: Some(Condemned {
            erased: true,
            ..condemned.clone()
        }),
        ..record.clone()
    })
    .await?;
    (memory.fence, memory.told, memory.ended) = (None, None, false);
    Ok(())
}
