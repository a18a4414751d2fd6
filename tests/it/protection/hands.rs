//! What people do to a machine and to what protects it, and a look at what came of it.

use std::time::Duration;

use site_recovery::api::vm_status::ProtectedVMStatus;
use site_recovery::controller::documents;
use site_recovery::host::lab::spec::Arrival;
use site_recovery::host::{Hypervisor, PowerOperation};
use site_recovery::ids::{ObjectName, VmId};
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::stage::host::Host;
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::names::{self, Prefix};
use site_recovery::replica::record::Record;
use site_recovery::units::{ByteRange, MIB};

use super::world::{Machine, NAMESPACE, SITE, World, blocking};

const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    /// Has a barrier taken of `web`, and waits until that is acted upon.
    pub(crate) async fn synchronize(&self, token: &str) {
        let annotation = format!("siterecovery.dev/sync-now={token}");
        self.annotate("protectedvm", "web", &annotation).await;
        let done = |status: &ProtectedVMStatus| {
            let handled = status.last_handled.as_ref();
            handled.and_then(|handled| handled.sync_now.as_deref()) == Some(token)
        };
        self.until_status("web", "synchronized", done).await;
    }

    /// Waits until the agent of the VM's host takes barriers.
    pub(crate) async fn until_changes_follow(&self, host: &str) -> ProtectedVMStatus {
        let follow = |status: &ProtectedVMStatus| {
            let mut conditions = status.conditions.iter();
            let replicating = conditions.find(|condition| condition.type_ == "Replicating");
            replicating.is_some_and(|replicating| replicating.reason == "ChangesFollow")
                && status.host.as_deref() == Some(host)
        };
        self.until_status("web", "followed by its changes", follow)
            .await
    }

    /// Waits until `Ready` says this reason: its message.
    pub(crate) async fn until_ready_says(&self, reason: &str) -> String {
        let ready = |status: &ProtectedVMStatus| {
            let mut conditions = status.conditions.iter();
            conditions
                .find(|condition| condition.type_ == "Ready")
                .cloned()
        };
        let said = |status: &ProtectedVMStatus| ready(status).is_some_and(|r| r.reason == reason);
        let status = self.until_status("web", reason, said).await;
        ready(&status).unwrap().message
    }

    /// The record of `web`.
    pub(crate) async fn record(&self) -> Record {
        let prefix: Prefix = "sr".parse().unwrap();
        let site = ObjectName::new(NAMESPACE, SITE).unwrap();
        let container = self.account().container(&prefix.site(&site));
        let name = names::record(&ObjectName::new(NAMESPACE, "web").unwrap());
        let held = documents::load(container.as_ref(), &name).await;
        held.unwrap().unwrap().value
    }

    /// Waits until the newest recovery point of `web` holds what the disks of `machine` hold, in these places and no
    /// others: the manifest with it.
    pub(crate) async fn until_point_is_source(
        &self,
        host: &Host,
        machine: &str,
        places: &[&str],
    ) -> Manifest {
        self.until_point_is("web", (host, machine), places).await
    }
}

/// Writes mebibytes `from` to `to` of a disk.
pub(crate) async fn write(host: &Host, export: &str, (from, to): (u64, u64), seed: u64) {
    let (address, export) = (Address::Tcp(host.nbd()), export.to_owned());
    let area = ByteRange::new(from * MIB, to * MIB).unwrap();
    let written = blocking(move || guest::fill(&address, &export, area, seed).unwrap()).await;
    assert_eq!(written, area.len());
}

/// Moves a machine, as it is or as `arrival` says.
pub(crate) async fn relocate(
    world: &World,
    (from, to): (&Host, &Host),
    machine: &Machine,
    arrival: Arrival,
) -> Machine {
    let on_its_way = hand_over(world, from, machine).await;
    let console = to.console();
    blocking(move || Machine {
        id: console.take_in(on_its_way, &arrival).unwrap(),
    })
    .await
}

/// Takes a machine from its host: where its folder is then.
pub(crate) async fn hand_over(world: &World, from: &Host, machine: &Machine) -> std::path::PathBuf {
    let to = world.folder.path().join(format!("moving-{}", machine.id));
    let (console, id, place) = (from.console(), machine.id.clone(), to.clone());
    blocking(move || console.hand_over(&id, place).unwrap()).await;
    to
}

/// Changes a machine while it is off.
pub(crate) async fn while_off(
    host: &Host,
    machine: &Machine,
    change: impl FnOnce(&site_recovery::host::lab::console::Console, &VmId) -> bool + Send + 'static,
) {
    let (console, hypervisor, id) = (host.console(), host.hypervisor(), machine.id.clone());
    blocking(move || {
        hypervisor
            .power(&id, PowerOperation::TurnOff, PATIENCE)
            .unwrap();
        assert!(change(&console, &id));
        hypervisor
            .power(&id, PowerOperation::Start, PATIENCE)
            .unwrap();
    })
    .await;
}

/// What an agent has logged so far.
pub(crate) fn log_of(host: &Host) -> String {
    std::fs::read_to_string(host.folder().join("agent.log")).unwrap()
}

/// Lines of an agent's log that tell of a copy or comparison: with what an engine began, and what it found.
pub(crate) fn copies(host: &Host) -> Vec<String> {
    let of_copy = |line: &&str| {
        let begun = line.contains("resumes") && (line.contains("Copy") || line.contains("Resync"));
        begun || line.contains("a comparison is needed")
    };
    log_of(host)
        .lines()
        .filter(of_copy)
        .map(str::to_owned)
        .collect()
}
