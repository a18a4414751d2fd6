//! What annotations ask for, and what a replica needs that fell behind.

use crate::controller::context::Context;
use crate::controller::vm::find::Found;
use crate::controller::vm::gather::Gathered;
use crate::controller::vm::memory::{Awaited, Demanded, VmMemory};
use crate::controller::vm::perform::{replica_of, unreachable};
use crate::controller::vm::tokens::Ask;
use crate::controller::vm::wishes::breaks_chain;
use crate::ids::{OperationId, random};
use crate::report::{Code, Fault};
use crate::wire::{Command, Resynchronize, Synchronize};

/// Has a barrier taken. Whoever repeats it names the same operation.
pub(super) async fn synchronize(
    gathered: &Gathered,
    memory: &mut VmMemory,
    found: &Found,
) -> Result<(), Fault> {
    let agent = found.state.agent().ok_or_else(|| unreachable(found))?;
    let replica = &replica_of(gathered)?.replica;
    let command = Command {
        generation: gathered.generation,
        operation: gathered.tokens.operation(Ask::Synchronize, replica),
        run: None,
        body: Synchronize::default(),
    };
    agent.synchronize(replica, &command).await?;
    let manifest = gathered
        .datapath
        .as_ref()
        .and_then(|seen| seen.manifest.as_ref());
    let newest = manifest.and_then(|manifest| manifest.points.last());
    let before = newest.map(|point| point.id.to_string());
    memory.awaited = Some(Awaited { before });
    Ok(())
}

/// Has the data path retire the chain that cannot be gone on with. That it is done shows in the manifest.
pub(super) fn start_chain(
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
) -> Result<(), Fault> {
    let replica = &replica_of(gathered)?.replica;
    let datapath = gathered.datapath.as_ref();
    let manifest = datapath.and_then(|seen| seen.manifest.as_ref());
    let chain = manifest.map(|manifest| manifest.chain.clone());
    let chain = chain.ok_or_else(|| Fault::new(Code::Internal, "there is no chain to retire"))?;
    tracing::info!(%replica, %chain, "has a new chain begun");
    context.datapath.start_chain(replica, &chain);
    memory.retired = Some(chain);
    let agents = gathered.replication.as_ref();
    let agents = agents.and_then(|seen| seen.trouble.as_ref());
    let breaks = agents.filter(|trouble| breaks_chain(&trouble.fault));
    memory.retired_for = breaks.map(|trouble| trouble.since);
    Ok(())
}

/// Tells the agent that all disks have to be compared: because a token asks for it, or because the chain is new.
pub(super) async fn resynchronize(
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
    found: &Found,
) -> Result<(), Fault> {
    let agent = found.state.agent().ok_or_else(|| unreachable(found))?;
    let replica = &replica_of(gathered)?.replica;
    let operation = match memory.retired {
        Some(_) => OperationId::from_random(random()),
        None => gathered.tokens.operation(Ask::Resynchronize, replica),
    };
    let command = Command {
        generation: gathered.generation,
        operation,
        run: None,
        body: Resynchronize::default(),
    };
    agent.resynchronize(replica, &command).await?;
    memory.retired = None;
    let state = context.registry.host(&found.state.site, &found.host);
    let said = state.and_then(|state| state.observed.replications.get(replica).cloned());
    let at = context.clock.now();
    memory.demanded = said.map(|said| Demanded { said, at });
    Ok(())
}
