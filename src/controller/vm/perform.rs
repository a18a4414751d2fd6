//! Takes one step: one change outside, which may be taken again.

mod asked;
mod remove;

use std::time::Duration;

use jiff::Timestamp;

use crate::blob::parameters::Permissions;
use crate::controller::context::Context;
use crate::controller::documents;
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::describe;
use crate::controller::vm::find::Found;
use crate::controller::vm::gather::{ACCESS, Gathered};
use crate::controller::vm::memory::{Told, VmMemory};
use crate::controller::vm::rebind;
use crate::controller::vm::step::Step;
use crate::ids::{ChainId, ObjectName, OperationId, ReplicaId, random};
use crate::replica::fence::Fence;
use crate::replica::names;
use crate::replica::record::Record;
use crate::report::{Code, Fault};
use crate::wire::{Command, Remove, Start};

/// Clocks differ: a signature is valid from this long ago.
const CLOCKS: Duration = Duration::from_secs(900);
/// How long ending replication on a host may hold up a deletion.
const REMOVE: Duration = Duration::from_secs(10);

/// Takes `step`.
///
/// # Errors
/// What is in the way.
pub async fn perform(
    step: Step,
    name: &ObjectName,
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
) -> Result<(), Fault> {
    let site = gathered.site.as_deref();
    match (step, site, gathered.found.as_ref()) {
        (Step::Nothing(_), _, _) => Ok(()),
        (Step::Record, Some(site), Some(found)) => {
            record(name, gathered, context, site, found).await
        }
        (Step::CreateReplica, Some(site), _) => {
            create_replica(gathered, context, site, memory).await
        }
        (Step::Raise, Some(site), _) => raise(gathered, memory, site).await,
        (Step::Rebind, Some(site), Some(found)) => rebind(gathered, context, site, found).await,
        (Step::Describe, Some(site), Some(found)) => {
            describe_machine(gathered, memory, site, found).await
        }
        (Step::Relate, Some(site), Some(found)) => {
            relate(gathered, context, memory, site, found).await
        }
        (Step::Start, _, Some(found)) => start(gathered, found).await,
        (Step::Synchronize, _, Some(found)) => asked::synchronize(gathered, memory, found).await,
        (Step::StartChain, _, _) => asked::start_chain(gathered, context, memory),
        (Step::Resynchronize, _, Some(found)) => {
            asked::resynchronize(gathered, context, memory, found).await
        }
        (Step::Condemn, Some(site), _) => remove::condemn(gathered, context, site).await,
        (Step::End, _, found) => remove::end(gathered, memory, found).await,
        (Step::Erase, Some(site), _) => remove::erase(gathered, context, memory, site).await,
        (Step::Retain, _, _) => {
            retain(gathered, context).await;
            Ok(())
        }
        (
            Step::Record
            | Step::CreateReplica
            | Step::Raise
            | Step::Rebind
            | Step::Describe
            | Step::Relate
            | Step::Start
            | Step::Synchronize
            | Step::Resynchronize
            | Step::Condemn
            | Step::Erase,
            _,
            _,
        ) => Err(Fault::new(
            Code::Internal,
            format!("step {step:?} of {name} lacks what it needs"),
        )),
    }
}

fn replica_of(gathered: &Gathered) -> Result<&Record, Fault> {
    gathered
        .record
        .as_ref()
        .ok_or_else(|| Fault::new(Code::Internal, "the VM has no record"))
}

/// Writes down which replica the object has; a replica that was retained is taken up again.
async fn record(
    name: &ObjectName,
    gathered: &Gathered,
    context: &Context,
    site: &SiteHandle,
    found: &Found,
) -> Result<(), Fault> {
    let record = match &gathered.record {
        Some(record) => Record {
            retained: false,
            ..record.clone()
        },
        None => Record::new(
            name.clone(),
            ReplicaId::from_random(random()),
            (found.machine.id.clone(), found.machine.name.clone()),
            context.clock.now(),
        ),
    };
    tracing::info!(vm = %name, replica = %record.replica, "records the replica");
    site.keep_record(record).await
}

async fn create_replica(
    gathered: &Gathered,
    context: &Context,
    site: &SiteHandle,
    memory: &mut VmMemory,
) -> Result<(), Fault> {
    // In containers that are new there is no fence, whatever was there before.
    memory.fence = None;
    let replica = &replica_of(gathered)?.replica;
    for container in [site.prefix.inbox(replica), site.prefix.replica(replica)] {
        site.account
            .create_container(&container)
            .await
            .map_err(|error| error.fault())?;
    }
    let chain = ChainId::from_random(random());
    site.store(replica)
        .create(chain)
        .await
        .map_err(|error| error.fault())?;
    context.datapath.wake(replica);
    Ok(())
}

/// Writes down that the replica goes on with the VM that was found, and that the chain of the one before is to end.
async fn rebind(
    gathered: &Gathered,
    context: &Context,
    site: &SiteHandle,
    found: &Found,
) -> Result<(), Fault> {
    let record = replica_of(gathered)?;
    let manifest = gathered
        .datapath
        .as_ref()
        .and_then(|seen| seen.manifest.as_ref());
    let chain = manifest.map(|manifest| manifest.chain.clone());
    let vm = (&found.machine.id, found.machine.name.as_str());
    let next = rebind::rebound(record, vm, chain, context.clock.now());
    tracing::warn!(vm = %record.object, replica = %record.replica, from = %record.vm, to = %next.vm, "bound again");
    site.keep_record(next).await
}

/// Raises the generation once in the owner's term, and once for every host that the machine comes to, so that late
/// commands of an earlier owner and the agent of another host are refused. The fence itself says that it was done:
/// whoever dies before this write leaves it to do.
async fn raise(gathered: &Gathered, memory: &mut VmMemory, site: &SiteHandle) -> Result<(), Fault> {
    let replica = &replica_of(gathered)?.replica;
    let held = memory.fence.take().and_then(|(_, held)| held);
    let held = held.ok_or_else(|| Fault::new(Code::Internal, "there is no fence to raise"))?;
    let here = gathered
        .found
        .as_ref()
        .filter(|found| found.state.is_connected());
    let next = held.value.raised(site.term, here.map(|found| &found.host));
    tracing::info!(%replica, generation = %next.generation, "raises the fence");
    let container = site.replica(replica);
    let written = documents::replace(container.as_ref(), names::FENCE, &held, next).await?;
    memory.fence = Some((replica.clone(), Some(written)));
    Ok(())
}

async fn describe_machine(
    gathered: &Gathered,
    memory: &mut VmMemory,
    site: &SiteHandle,
    found: &Found,
) -> Result<(), Fault> {
    let replica = &replica_of(gathered)?.replica;
    let container = site.replica(replica);
    let excluded = &gathered.excluded;
    let machine = describe::machine(&found.machine, excluded, gathered.fence.as_ref());
    let held = memory.fence.as_ref().and_then(|(_, held)| held.clone());
    let written = match held {
        Some(held) => {
            let next = Fence {
                host: held.value.host.clone().or_else(|| Some(found.host.clone())),
                former_disks: describe::former(&held.value, &machine),
                machine,
                ..held.value.clone()
            };
            documents::replace(container.as_ref(), names::FENCE, &held, next).await
        }
        None => {
            let first = Fence {
                term: site.term,
                host: Some(found.host.clone()),
                ..Fence::first(replica.clone(), gathered.generation, machine)
            };
            documents::create(container.as_ref(), names::FENCE, first).await
        }
    };
    // Whatever went wrong, what stands there is looked at anew.
    memory.fence = None;
    let written = written?;
    memory.fence = Some((replica.clone(), Some(written)));
    Ok(())
}

async fn relate(
    gathered: &Gathered,
    context: &Context,
    memory: &mut VmMemory,
    site: &SiteHandle,
    found: &Found,
) -> Result<(), Fault> {
    let agent = found.state.agent().ok_or_else(|| unreachable(found))?;
    let mut relationship = gathered
        .desired
        .clone()
        .ok_or_else(|| Fault::new(Code::Internal, "there is nothing to tell the agent"))?;
    let now = context.clock.now();
    let bounds = now
        .checked_sub(CLOCKS)
        .and_then(|start| Ok((start, now.checked_add(ACCESS)?)));
    let (start, expiry) = bounds.map_err(|error| Fault::of(Code::Internal, &error))?;
    let storage = &mut relationship.storage;
    for (access, permissions) in [
        (&mut storage.inbox, Permissions::INBOX),
        (&mut storage.replica, Permissions::REPLICA),
    ] {
        let sas = site
            .account
            .sas(&access.container, permissions, start, expiry)
            .await;
        access.sas = sas.map_err(|error| error.fault())?;
    }
    storage.expires = Timestamp::from_second(expiry.as_second()).unwrap_or(expiry);
    let command = Command {
        generation: gathered.generation,
        operation: OperationId::from_random(random()),
        run: None,
        body: relationship.clone(),
    };
    agent.create_relationship(&command).await?;
    let (host, session) = (found.host.clone(), found.state.observed.session);
    memory.told = Some(Told {
        host,
        session,
        generation: gathered.generation,
        relationship,
    });
    Ok(())
}

async fn start(gathered: &Gathered, found: &Found) -> Result<(), Fault> {
    let agent = found.state.agent().ok_or_else(|| unreachable(found))?;
    let replica = &replica_of(gathered)?.replica;
    let command = Command {
        generation: gathered.generation,
        operation: OperationId::from_random(random()),
        run: None,
        body: Start::default(),
    };
    agent.start(replica, &command).await?;
    Ok(())
}

/// Ends replication and keeps the replica. Nothing here holds up the deletion: a host that cannot be reached is told
/// when it comes back, because the record says that the replica is retained.
async fn retain(gathered: &Gathered, context: &Context) {
    let Some(record) = &gathered.record else {
        return;
    };
    context.detach(&record.replica);
    if let Some(site) = &gathered.site {
        let retained = Record {
            retained: true,
            ..record.clone()
        };
        if let Err(fault) = site.keep_record(retained).await {
            tracing::warn!(vm = %record.object, %fault, "the record does not say that the replica is retained");
        }
    }
    if let Some((agent, host)) = gathered
        .found
        .as_ref()
        .and_then(|found| Some((found.state.agent()?, &found.host)))
    {
        // Where the fence cannot be read, what the agent itself obeys is enough: the site is ours.
        let known = gathered.replication.as_ref().map(|seen| seen.generation);
        let command = Command {
            generation: known.map_or(gathered.generation, |known| gathered.generation.max(known)),
            operation: OperationId::from_random(random()),
            run: None,
            body: Remove::default(),
        };
        match tokio::time::timeout(REMOVE, agent.remove(&record.replica, &command)).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => {
                tracing::warn!(vm = %record.object, %host, %fault, "replication on the host is ended later");
            }
            Err(_) => {
                tracing::warn!(vm = %record.object, %host, "replication on the host is ended later");
            }
        }
    }
}

fn unreachable(found: &Found) -> Fault {
    Fault::new(
        Code::AgentUnreachable,
        format!("the agent of host {} is not connected", found.host),
    )
}
