//! What the status of a site says, computed anew from what is known.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::condition::{self, Said, Status, types};
use crate::api::hyperv_site::{
    DeletionBreaker, HostStatus, HyperVSiteStatus, RefusedAgent, VirtualMachineCounts, VolumeStatus,
};
use crate::api::time::Time;
use crate::controller::site::deletions;
use crate::host::Machine;
use crate::report::{Code, Fault};
use crate::retry::{Class, class};

/// Free space is said in steps of this many percent.
const STEP: i32 = 5;
/// The reason of a site whose spec has a field that means nothing.
const INVALID: &str = "InvalidSpec";
/// Volumes of a host that are listed, and how much of a volume's name: a host can say anything.
const VOLUMES_MAX: usize = 64;
const VOLUME_NAME_MAX: usize = 256;

/// Everything that a status is made of.
pub struct Facts<'a> {
    pub hosts: Vec<Host<'a>>,
    /// Agents that were turned away and claim to be of this site.
    pub refused: Vec<RefusedAgent>,
    /// Whether the credentials could be made use of.
    pub credentials: Result<(), &'a Fault>,
    /// Whether the account answered, and may hold replicas; nothing before it was asked.
    pub account: Option<Result<(), &'a Fault>>,
    pub owner: Owner,
    pub counts: VirtualMachineCounts,
    pub unsupported: &'a [&'static str],
    /// Fields of the spec that mean nothing, and what follows.
    pub wrong: Vec<String>,
    /// Whether the spec pauses replication of all VMs.
    pub suspended: bool,
    pub breaker: Option<DeletionBreaker>,
    /// Whether the object is deleted and waits for its VMs.
    pub deleting: bool,
}

/// A host of the spec, and what its agent says.
pub struct Host<'a> {
    pub name: String,
    /// Somebody works on it: that it is not there is no news.
    pub maintenance: bool,
    /// When it was connected or lost; nothing if it never was since this controller leads.
    pub link: Option<(bool, Timestamp)>,
    pub release: Option<String>,
    pub machines: Option<&'a [Machine]>,
    /// Why the host's machines cannot be listed.
    pub fault: Option<Fault>,
}

/// Who acts for the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Unknown,
    Ours,
    Other {
        cluster: String,
        /// What an annotation names to take its place.
        reign: String,
        silent: Duration,
    },
}

/// The status to write.
pub fn status(
    facts: &Facts<'_>,
    old: &HyperVSiteStatus,
    generation: i64,
    now: Time,
) -> HyperVSiteStatus {
    let connected = facts.hosts.iter().filter(|host| is_connected(host)).count();
    HyperVSiteStatus {
        observed_generation: generation,
        conditions: condition::merge(&old.conditions, conditions(facts), generation, now),
        hosts_connected: Some(format!("{connected}/{}", facts.hosts.len())),
        hosts: facts
            .hosts
            .iter()
            .map(|host| host_status(host, old, now))
            .collect(),
        virtual_machines_protected: Some(format!(
            "{}/{}",
            facts.counts.protected, facts.counts.total
        )),
        virtual_machines: Some(facts.counts.clone()),
        refused_agents: facts.refused.clone(),
        deletion_breaker: facts.breaker.clone(),
    }
}

/// Why VMs of the site have to wait, if they have to.
pub fn not_ready(facts: &Facts<'_>) -> Option<String> {
    let ready = ready(facts);
    (ready.status != Status::True).then_some(ready.message)
}

fn is_connected(host: &Host<'_>) -> bool {
    host.link.is_some_and(|(connected, _)| connected)
}

fn host_status(host: &Host<'_>, old: &HyperVSiteStatus, now: Time) -> HostStatus {
    let before = old.hosts.iter().find(|before| before.name == host.name);
    let connected = is_connected(host);
    let same = before.filter(|before| before.connected == connected);
    // A controller that has just begun to lead does not know since when: what was said before still holds.
    let since = same
        .map(|before| before.since)
        .or_else(|| host.link.map(|(_, since)| since.into()));
    HostStatus {
        name: host.name.clone(),
        connected,
        since: since.unwrap_or(now),
        agent_version: host
            .release
            .clone()
            .or_else(|| before.and_then(|before| before.agent_version.clone())),
        virtual_machines: host
            .machines
            .map(|machines| i32::try_from(machines.len()).unwrap_or(i32::MAX))
            .or_else(|| before.and_then(|before| before.virtual_machines)),
        volumes: host.machines.map_or_else(
            || {
                before
                    .map(|before| before.volumes.clone())
                    .unwrap_or_default()
            },
            |machines| volumes(machines, before.map_or(&[], |before| &before.volumes)),
        ),
    }
}

/// The volumes of all disks, with free space in coarse steps, so that the status stays quiet. What is about as it was said
/// `before` is said again: a volume at the edge of two steps would move with every file.
fn volumes(machines: &[Machine], before: &[VolumeStatus]) -> Vec<VolumeStatus> {
    let volumes = machines
        .iter()
        .flat_map(|machine| &machine.disks)
        .filter_map(|disk| disk.volume.as_ref());
    let mut volumes: Vec<VolumeStatus> = volumes
        .map(|volume| {
            let percent = u128::from(volume.free) * 100 / u128::from(volume.size.max(1));
            let percent = i32::try_from(percent).unwrap_or(100).min(100);
            let name: String = volume.name.chars().take(VOLUME_NAME_MAX).collect();
            let said = before.iter().find(|before| before.name == name);
            let said = said.map(|before| before.free_percent);
            let still = said.filter(|said| {
                (said.saturating_sub(1)..=said.saturating_add(STEP)).contains(&percent)
            });
            VolumeStatus {
                name,
                free_percent: still.unwrap_or(percent / STEP * STEP),
            }
        })
        .collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    volumes.dedup_by(|a, b| a.name == b.name);
    volumes.truncate(VOLUMES_MAX);
    volumes
}

fn conditions(facts: &Facts<'_>) -> Vec<Said> {
    let ready = match facts.deleting {
        true => deleting(facts),
        false => ready(facts),
    };
    let mut said = vec![ready.clone()];
    if ready.status != Status::True {
        let type_ = if is_stalled(facts, &ready) && !facts.deleting {
            types::STALLED
        } else {
            types::RECONCILING
        };
        said.push(Said {
            type_,
            status: Status::True,
            ..ready
        });
    }
    said.extend([
        agents(facts),
        credentials(facts),
        reachable(facts),
        owner(facts),
        deletions::condition(facts.breaker.as_ref()),
    ]);
    said
}

fn ready(facts: &Facts<'_>) -> Said {
    let parts = [owner(facts), credentials(facts), reachable(facts)];
    // What failed, before what is unknown because of it.
    let worst = [Status::False, Status::Unknown]
        .into_iter()
        .find_map(|status| parts.iter().find(|part| part.status == status));
    if let Some(part) = worst {
        return Said {
            type_: types::READY,
            status: Status::False,
            ..part.clone()
        };
    }
    if !facts.wrong.is_empty() {
        let message = facts.wrong.join("; ");
        return Said::new(types::READY, Status::False, INVALID, message);
    }
    if !facts.hosts.iter().any(is_connected) && !facts.hosts.iter().all(|host| host.maintenance) {
        let message = agents(facts).message;
        return Said::new(types::READY, Status::False, "AgentsDisconnected", message);
    }
    let (reason, mut message) = match facts.suspended {
        true => (
            "Suspended",
            "spec.suspend pauses replication of all VMs of the site; it goes on when that is taken back"
                .to_owned(),
        ),
        false => ("Usable", "the site is usable".to_owned()),
    };
    if !facts.unsupported.is_empty() {
        message = format!(
            "{message}; not acted upon by this version: {}",
            facts.unsupported.join(", ")
        );
    }
    Said::new(types::READY, Status::True, reason, message)
}

fn deleting(facts: &Facts<'_>) -> Said {
    let message = format!(
        "the site is deleted when its {} ProtectedVMs are: they need its storage and its records",
        facts.counts.total
    );
    Said::new(
        types::READY,
        Status::False,
        "WaitingForVirtualMachines",
        message,
    )
}

/// Whether only a human can help.
fn is_stalled(facts: &Facts<'_>, ready: &Said) -> bool {
    let permanent = |fault: &Fault| class(fault.code) == Class::NonRecoverable;
    ready.reason == INVALID
        || matches!(facts.owner, Owner::Other { .. })
        || facts.credentials.is_err_and(permanent)
        || facts
            .account
            .is_some_and(|account| account.is_err_and(permanent))
}

fn agents(facts: &Facts<'_>) -> Said {
    let lost: Vec<&str> = facts
        .hosts
        .iter()
        .filter(|host| !is_connected(host) && !host.maintenance)
        .map(|host| host.name.as_str())
        .collect();
    let failing: Vec<String> = facts
        .hosts
        .iter()
        .filter(|host| !host.maintenance)
        .filter_map(|host| {
            host.fault
                .as_ref()
                .map(|fault| format!("{}: {}", host.name, fault.message))
        })
        .collect();
    if !lost.is_empty() {
        let refused: Vec<String> = facts
            .refused
            .iter()
            .map(|refused| format!("{} was refused: {}", refused.host, refused.reason))
            .collect();
        let mut message = format!(
            "no agent of {} is connected; check the agent's service and that it reaches the gateway",
            lost.join(", ")
        );
        if !refused.is_empty() {
            message = format!("{message}; {}", refused.join("; "));
        }
        return Said::new(
            types::AGENTS_CONNECTED,
            Status::False,
            "AgentsMissing",
            message,
        );
    }
    if !failing.is_empty() {
        return Said::new(
            types::AGENTS_CONNECTED,
            Status::False,
            "HypervisorUnavailable",
            failing.join("; "),
        );
    }
    if let Some(refused) = facts.refused.first() {
        let message = format!("{} was refused: {}", refused.host, refused.reason);
        return Said::new(
            types::AGENTS_CONNECTED,
            Status::True,
            "AgentRefused",
            message,
        );
    }
    let worked_on = facts.hosts.iter().filter(|host| host.maintenance);
    let worked_on: Vec<&str> = worked_on.map(|host| host.name.as_str()).collect();
    if worked_on.is_empty() {
        return Said::new(types::AGENTS_CONNECTED, Status::True, "AllConnected", "");
    }
    let message = format!(
        "replication holds for the maintenance of {}; it goes on when hosts[].maintenance is taken back",
        worked_on.join(", ")
    );
    Said::new(
        types::AGENTS_CONNECTED,
        Status::True,
        "Maintenance",
        message,
    )
}

fn credentials(facts: &Facts<'_>) -> Said {
    let refused = |fault: &&Fault| fault.code == Code::StorageUnauthorized;
    match (facts.credentials, facts.account) {
        (Err(fault), _) => failed(types::CREDENTIALS_VALID, fault),
        (Ok(()), Some(Err(fault))) if refused(&fault) => failed(types::CREDENTIALS_VALID, fault),
        (Ok(()), Some(Ok(()))) => Said::new(types::CREDENTIALS_VALID, Status::True, "Accepted", ""),
        (Ok(()), Some(Err(_)) | None) => Said::new(
            types::CREDENTIALS_VALID,
            Status::Unknown,
            "NotTried",
            "the storage account has not answered yet",
        ),
    }
}

fn reachable(facts: &Facts<'_>) -> Said {
    match facts.account {
        Some(Ok(())) => Said::new(types::AZURE_REACHABLE, Status::True, "Reachable", ""),
        Some(Err(fault)) => failed(types::AZURE_REACHABLE, fault),
        None => Said::new(
            types::AZURE_REACHABLE,
            Status::Unknown,
            "NotTried",
            "the storage account was not asked yet",
        ),
    }
}

fn failed(type_: &'static str, fault: &Fault) -> Said {
    let message = format!("{} ({})", fault.message, fault.code.remedy());
    Said::new(type_, Status::False, fault.code.as_str(), message)
}

fn owner(facts: &Facts<'_>) -> Said {
    match &facts.owner {
        Owner::Ours => Said::new(types::OWNER, Status::True, "ThisCluster", ""),
        Owner::Unknown => Said::new(
            types::OWNER,
            Status::Unknown,
            "NotTried",
            "the storage account has not answered yet",
        ),
        // Not for how long it has been silent: that moves by itself.
        Owner::Other { cluster, reign, .. } => Said::new(
            types::OWNER,
            Status::False,
            Code::ManagedByAnotherCluster.as_str(),
            format!(
                "cluster {cluster} acts for this site; it is taken over when that cluster has been silent for ten \
                 minutes, or at once with the annotation {}={reign}",
                crate::api::annotation::TAKE_OVER
            ),
        ),
    }
}

/// What keeps an account from holding replicas, beyond its kind.
pub fn unsuitable(sku: &str, kind: &str, hierarchical: Option<bool>) -> Option<Fault> {
    let premium = sku.starts_with("Premium");
    let wrong_kind = !matches!(kind, "StorageV2" | "Storage");
    let why = if hierarchical == Some(true) {
        "it has a hierarchical namespace, which has no page blobs".to_owned()
    } else if premium {
        format!("it is {sku}: a premium page blob keeps at most 100 snapshots")
    } else if wrong_kind {
        format!("it is of kind {kind}, page blobs need general-purpose v2")
    } else {
        return None;
    };
    Some(Fault::new(
        Code::AccountUnsuitable,
        format!("the storage account cannot hold replicas: {why}"),
    ))
}

#[cfg(test)]
mod tests;
