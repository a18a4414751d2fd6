//! Which machine a ProtectedVM means, among what the agents of its site say.

use std::sync::Arc;

use crate::api::protected_vm::VmSelector;
use crate::controller::gateway::host_state::HostState;
use crate::controller::gateway::inventory::Inventory;
use crate::controller::vm::step;
use crate::host::Machine;
use crate::ids::{HostName, VmId};

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
/// renamed machine is still found; `commanded` is the host that was commanded last: of two that have it, it counts.
pub fn find(
    selector: &VmSelector,
    known: Option<&VmId>,
    commanded: Option<&HostName>,
    hosts: &[Host],
) -> (step::Machine, Option<Found>) {
    let silent = silent(hosts);
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
        0 if silent.is_empty() => {
            let asked = hosts.iter().map(|host| host.name.clone()).collect();
            (step::Machine::NotFound { asked }, None)
        }
        0 => (step::Machine::Unknown { silent }, None),
        1 => {
            let best = found.into_iter().max_by_key(|found| rank(found, commanded));
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

/// The hosts that are not there to say which machines they have: what a lost one said last tells what it had, not what
/// came to it since.
pub fn silent(hosts: &[Host]) -> Vec<HostName> {
    let has_answered = |host: &&Host| {
        let state = host.state.as_ref();
        state.is_some_and(|state| state.is_connected()) && machines(host).is_some()
    };
    let silent = hosts.iter().filter(|host| !has_answered(host));
    silent.map(|host| host.name.clone()).collect()
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

/// Of two hosts that say that they have the machine: the one that is connected, then the one that was commanded last. That
/// stands in the fence: what an agent says of it does not take a machine away from another host.
fn rank(found: &Found, commanded: Option<&HostName>) -> (bool, bool) {
    let is_commanded = commanded == Some(&found.host);
    (found.state.is_connected(), is_commanded)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::controller::gateway::host_state::Link;
    use crate::controller::gateway::observed::Observed;
    use crate::ids::{ObjectName, ReplicaId};
    use crate::units::Sequence;
    use crate::wire::observation::HostObservation;

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    /// A host that has the machine, and says that it obeys this generation.
    fn host(name: &str, generation: u64) -> Host {
        let machine = serde_json::from_value(json!({
            "id": ID, "name": "web", "boot": "Gen2", "power": "Running", "busy": null, "processors": 1,
            "memoryMib": 1, "secureBoot": false, "guestOs": null, "replicatedBy": null, "networkAdapters": [],
            "disks": [],
        }));
        let replica = ReplicaId::from_random(1);
        let replication = serde_json::from_value(json!({
            "replica": replica, "vm": ID, "generation": generation, "phase": "Replicating", "disks": [],
            "sealed": Sequence::ZERO, "credentialsExpire": "2026-11-23T12:00:00Z",
        }));
        let said = HostObservation {
            machines: vec![machine.unwrap()],
            fault: None,
        };
        let observed = Observed {
            machines: Some(Arc::new(Inventory::new(said))),
            replications: Arc::new([(replica, Arc::new(replication.unwrap()))].into()),
            ..Observed::default()
        };
        let name: HostName = name.parse().unwrap();
        let state = HostState {
            site: ObjectName::new("dr", "site").unwrap(),
            host: name.clone(),
            release: String::new(),
            link: Link::Lost {
                since: Timestamp::UNIX_EPOCH,
                reason: String::new(),
            },
            heard_at: Timestamp::UNIX_EPOCH,
            observed,
            trouble: None,
        };
        Host {
            name,
            state: Some(Arc::new(state)),
        }
    }

    #[test]
    fn a_host_that_claims_to_be_commanded_does_not_take_the_machine_away() {
        let hosts = [host("hv1", 3), host("hv2", 900), host("hv3", 0)];
        let selector: VmSelector = serde_json::from_value(json!({ "name": "web" })).unwrap();
        for name in ["hv1", "hv2", "hv3"] {
            let commanded = name.parse().unwrap();
            let (_, found) = find(&selector, None, Some(&commanded), &hosts);
            assert_eq!(found.unwrap().host, commanded);
        }
    }
}
