//! Which machine a ProtectedVM means, among what the agents of its site say.

use std::sync::Arc;

use crate::api::protected_vm::VmSelector;
use crate::controller::gateway::host_state::HostState;
use crate::controller::gateway::inventory::Inventory;
use crate::controller::vm::step;
use crate::host::Machine;
use crate::ids::{HostName, ReplicaId, VmId};
use crate::units::Generation;

/// A host of the site, and what is known of it.
pub struct Host {
    pub name: HostName,
    pub state: Option<Arc<HostState>>,
}

/// The machine, and where it is.
#[derive(Clone)]
pub struct Found {
    pub host: HostName,
    pub state: Arc<HostState>,
    pub machine: Machine,
}

/// Looks for the machine on `hosts`. `known` is the id of the machine that the object was bound to before, so that a
/// renamed machine is still found; `replica` tells which of two hosts replicates it.
pub fn find(
    selector: &VmSelector,
    known: Option<&VmId>,
    replica: Option<&ReplicaId>,
    hosts: &[Host],
) -> (step::Machine, Option<Found>) {
    let silent: Vec<HostName> = hosts
        .iter()
        .filter(|host| !has_answered(host))
        .map(|host| host.name.clone())
        .collect();
    let mut found = meant(selector, hosts);
    if found.is_empty()
        && let Some(known) = known.filter(|_| selector.name.is_some())
    {
        found = on_hosts(hosts, |machines| machines.with_id(known.as_str()));
    }
    // A second machine of the name does not take away the one that the object is bound to.
    if let Some(known) = known.filter(|_| selector.name.is_some())
        && found.iter().any(|found| found.machine.id == *known)
    {
        found.retain(|found| found.machine.id == *known);
    }
    let mut ids: Vec<&VmId> = found.iter().map(|found| &found.machine.id).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.len() {
        0 if silent.is_empty() => (step::Machine::NotFound, None),
        0 => (step::Machine::Unknown { silent }, None),
        1 => {
            let best = found.into_iter().max_by_key(|found| rank(found, replica));
            let best = best.expect("there is one");
            let (host, connected) = (best.host.clone(), best.state.is_connected());
            (step::Machine::Found { host, connected }, Some(best))
        }
        _ => (
            step::Machine::Ambiguous(ids.into_iter().map(ToString::to_string).collect()),
            None,
        ),
    }
}

/// The machines that `selector` means.
fn meant(selector: &VmSelector, hosts: &[Host]) -> Vec<Found> {
    match (&selector.id, &selector.name) {
        (Some(id), _) => on_hosts(hosts, |machines| machines.with_id(id)),
        (None, Some(name)) => {
            let name = name.to_lowercase();
            on_hosts(hosts, |machines| machines.named(&name))
        }
        (None, None) => Vec::new(),
    }
}

/// Whether a host has a machine that `selector` means.
pub fn has(machines: &Inventory, selector: &VmSelector) -> bool {
    match (&selector.id, &selector.name) {
        (Some(id), _) => machines.with_id(id).next().is_some(),
        (None, Some(name)) => machines.named(&name.to_lowercase()).next().is_some(),
        (None, None) => false,
    }
}

fn machines(host: &Host) -> Option<&Inventory> {
    host.state.as_ref()?.observed.machines.as_deref()
}

/// Whether a host is there to say which machines it has: what a lost one said last tells what it had, not what came to it
/// since.
fn has_answered(host: &Host) -> bool {
    let connected = host
        .state
        .as_ref()
        .is_some_and(|state| state.is_connected());
    connected && machines(host).is_some()
}

fn on_hosts<'a, Machines>(hosts: &'a [Host], of: impl Fn(&'a Inventory) -> Machines) -> Vec<Found>
where
    Machines: Iterator<Item = &'a Machine>,
{
    let mut found = Vec::new();
    for host in hosts {
        let (Some(state), Some(machines)) = (&host.state, machines(host)) else {
            continue;
        };
        found.extend(of(machines).map(|machine| Found {
            host: host.name.clone(),
            state: state.clone(),
            machine: machine.clone(),
        }));
    }
    found
}

/// Of two hosts that say that they have the machine: the one that is connected, then the one that was commanded last.
fn rank(found: &Found, replica: Option<&ReplicaId>) -> (bool, Option<Generation>) {
    let commanded = replica.and_then(|replica| {
        let replications = &found.state.observed.replications;
        replications.get(replica).map(|seen| seen.generation)
    });
    (found.state.is_connected(), commanded)
}
