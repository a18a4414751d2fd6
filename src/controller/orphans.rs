//! Ends replications that nobody wants any more: their object was deleted while their host was away, or their VM is on
//! another host now.
//!
//! A replication goes only if the site's record says that its replica is retained, or the fence that another host is
//! commanded. One without a record may be of an object that a rebuilt cluster has not applied yet: it is left alone.
//!
//! The command is of the generation that the fence in storage says, never of the one that the agent says itself: that
//! would be admitted whoever commands by now. A fence of a later term is another owner's: nothing is ended under it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::controller::context::{Context, name_of};
use crate::controller::documents;
use crate::controller::gateway::host_state::HostState;
use crate::controller::site::handle::{SiteHandle, SiteView};
use crate::ids::{HostName, ObjectName, OperationId, ReplicaId, VmId, random};
use crate::replica::fence::Fence;
use crate::replica::names;
use crate::report::Fault;
use crate::units::Generation;
use crate::wire::{Command, Remove};

/// How often replications are compared with records.
const EVERY: Duration = Duration::from_secs(60);

/// Compares until `stop`.
pub async fn sweep(context: Arc<Context>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        show_counts(&context);
        for site in sites(&context) {
            let Some(SiteView::Ready(handle)) = context.view(&site) else {
                continue;
            };
            for host in context.registry.hosts(&site) {
                end_unwanted(&handle, &host).await;
            }
        }
    }
}

/// Tells the gateway which sites exist.
pub fn know_sites(context: &Context) {
    context
        .registry
        .know_sites(sites(context).into_iter().collect::<HashSet<_>>());
}

fn sites(context: &Context) -> Vec<ObjectName> {
    context
        .sites
        .list()
        .iter()
        .filter_map(|site| name_of(site.as_ref()))
        .collect()
}

fn show_counts(context: &Context) {
    let vms = context.vms.list();
    let states = vms
        .iter()
        .filter_map(|vm| Some(format!("{:?}", vm.0.as_ref().ok()?.status.as_ref()?.state?)));
    context.metrics.set_vms(states);
    let hosts = sites(context)
        .iter()
        .flat_map(|site| context.registry.hosts(site))
        .collect::<Vec<_>>();
    context
        .metrics
        .set_agents(hosts.iter().filter(|host| host.is_connected()).count());
}

async fn end_unwanted(handle: &SiteHandle, host: &HostState) {
    let Some(agent) = host.agent() else { return };
    for (replica, seen) in host.observed.replications.iter() {
        let Some(record) = handle.record_of(replica) else {
            continue;
        };
        // Only where there is reason to is storage asked.
        if !record.retained && has(host, &seen.vm) {
            continue;
        }
        let condemned = record.condemned;
        let generation = match fence_of(handle, replica).await {
            Ok(Some(fence)) => {
                handle.saw_fence(fence.term);
                match of_fence(&fence, handle.term, (record.retained, &host.host)) {
                    Some(generation) => generation,
                    None => continue,
                }
            }
            // The fence went with the replica: what it said last is in the record.
            Ok(None) if let Some(condemned) = condemned => condemned.generation,
            Ok(None) => {
                tracing::warn!(%replica, host = %host.host, "a replication without a fence is left alone");
                continue;
            }
            Err(fault) => {
                tracing::warn!(%replica, host = %host.host, %fault, "a replication is ended later");
                continue;
            }
        };
        let command = Command {
            generation,
            operation: OperationId::from_random(random()),
            run: None,
            body: Remove::default(),
        };
        match agent.remove(replica, &command).await {
            Ok(_) => {
                tracing::info!(%replica, host = %host.host, "ended a replication that nobody wants any more");
            }
            Err(fault) => {
                tracing::warn!(%replica, host = %host.host, %fault, "a replication is ended later");
            }
        }
    }
}

/// Whether the host says that it has the machine, or has not said which it has.
fn has(host: &HostState, vm: &VmId) -> bool {
    let listed = host.observed.machines.as_ref();
    listed.is_none_or(|listed| listed.with_id(vm.as_str()).next().is_some())
}

/// The generation in which a replication may be ended by the owner of `term`, if it may be: its replica is retained, or
/// another host is commanded. Who has taken over since may want it kept up.
fn of_fence(fence: &Fence, term: u64, (retained, host): (bool, &HostName)) -> Option<Generation> {
    let commanded = fence.host.as_ref();
    let elsewhere = commanded.is_some_and(|commanded| commanded != host);
    (fence.term <= term && (retained || elsewhere)).then_some(fence.generation)
}

async fn fence_of(handle: &SiteHandle, replica: &ReplicaId) -> Result<Option<Fence>, Fault> {
    let container = handle.store(replica).replica;
    let held = documents::load(container.as_ref(), names::FENCE).await?;
    Ok(held.map(|held| held.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(host: &str, term: u64) -> Fence {
        serde_json::from_value(serde_json::json!({
            "replica": ReplicaId::from_random(1), "generation": 7, "term": term, "host": host, "epoch": 0,
            "activeSide": "OnPremises", "activeRun": null, "pinned": [],
            "machine": {
                "vm": "0f8fad5b-d9cb-469f-a165-70867728950e", "name": "web", "boot": "Gen2", "processors": 1,
                "memoryMib": 1, "secureBoot": false, "guestOs": null, "networkAdapters": [], "disks": [],
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_retained_or_commanded_elsewhere_ends_unless_another_owner_has_it() {
        let (hv1, hv2) = ("hv1".parse().unwrap(), "hv2".parse().unwrap());
        let ends = Some(Generation::new(7));
        assert_eq!(of_fence(&fence("hv1", 3), 3, (true, &hv1)), ends);
        assert_eq!(of_fence(&fence("hv1", 3), 3, (false, &hv2)), ends);
        assert_eq!(of_fence(&fence("hv1", 3), 3, (false, &hv1)), None);
        // The owner of a later term has taken up again what this one retained.
        assert_eq!(of_fence(&fence("hv1", 4), 3, (true, &hv1)), None);
        assert_eq!(of_fence(&fence("hv1", 4), 3, (false, &hv2)), None);
    }
}
