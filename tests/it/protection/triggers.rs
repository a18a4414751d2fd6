//! What makes a comparison necessary, and what does not: each is done for real, and ends in a point that is the source.

use std::path::Path;

use bytes::Bytes;
use rustix::process::Signal;
use serde_json::json;
use site_recovery::api::vm_status::{Health, ProtectedVMStatus, ReplicationState};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{DeleteSnapshots, PutOptions};
use site_recovery::formats::{self, OpenOptions};
use site_recovery::host::lab::fault::{Effect, Fault, Place};
use site_recovery::host::{Hypervisor, Kind, PowerOperation};
use site_recovery::ids::VmId;
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::stage::Replica;
use site_recovery::lab::stage::host::Host;
use site_recovery::replica::manifest::Manifest;
use site_recovery::units::{ByteRange, MIB};

use super::look::{hours_from_now, is};
use super::world::{World, blocking, machine, protected_vm, until};

const FIRST: &str = "scsi:0:0";
const SECOND: &str = "scsi:0:1";
const SIZE: u64 = 16 * MIB;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A VM that something happens to, and what is said of it then.
struct Trigger {
    vm: &'static str,
    code: &'static str,
    /// A part of what is said.
    said: &'static str,
    /// Which disks have to be compared; none: all.
    disks: &'static [&'static str],
}

const TRIGGERS: [Trigger; 7] = [
    Trigger {
        vm: "unlogged",
        code: "TrackingLost",
        said: "disk scsi:0:1: no room for the map",
        disks: &[SECOND],
    },
    Trigger {
        vm: "crashed",
        code: "TrackingLost",
        said: "is damaged",
        disks: &[SECOND],
    },
    Trigger {
        vm: "edited",
        code: "DiskChangedOffline",
        said: "DataWriteGuid",
        disks: &[SECOND],
    },
    Trigger {
        vm: "reverted",
        code: "TrackingLost",
        said: "the checkpoint `before the update` was applied",
        disks: &[FIRST, SECOND],
    },
    Trigger {
        vm: "overgrown",
        code: "TooManyChanges",
        said: "more than half of disk scsi:0:1, which has 16 MiB",
        disks: &[SECOND],
    },
    Trigger {
        vm: "gap",
        code: "SequenceGap",
        said: "a seal is missing",
        disks: &[],
    },
    Trigger {
        vm: "torn",
        code: "SealInvalid",
        said: "is refused",
        disks: &[],
    },
];
/// It lives through everything that is no trigger.
const STEADY: &str = "steady";

/// Machines with two disks each, protected by a site that compares nothing at this hour.
struct Site {
    world: World,
    host: Host,
    controller: Replica,
    machines: Vec<(&'static str, VmId)>,
}

impl Site {
    async fn protected(vms: impl IntoIterator<Item = &'static str>) -> Self {
        let world = World::new().await;
        let mut host = world.host("hv1").await;
        let mut machines = Vec::new();
        for vm in vms {
            let disks = [(FIRST, SIZE), (SECOND, SIZE)];
            machines.push((vm, machine(&host, vm, &disks, 2 * MIB).await.id));
        }
        host.start_agent().unwrap();
        let site = world.site(&["hv1"], |spec| {
            spec["resynchronization"] = json!({ "window": hours_from_now(360, 420) });
            let at_once = json!({ "initialReplication": { "maxConcurrentPerHost": 16 } });
            spec["replicationPolicy"] = at_once;
        });
        world.apply(&site).await;
        let vms: Vec<_> = machines.iter().map(|(vm, _)| protected_vm(vm)).collect();
        world.apply(&vms).await;
        let controller = world.stage.controller("c0").await.unwrap();
        let site = Site {
            world,
            host,
            controller,
            machines,
        };
        for (vm, _) in &site.machines {
            site.until_changes_follow(vm).await;
        }
        site
    }

    async fn until_changes_follow(&self, vm: &str) {
        let follow = |status: &ProtectedVMStatus| {
            is(status, "Replicating", ("True", "ChangesFollow"))
                && status.state == Some(ReplicationState::Protected)
        };
        let what = "protected and followed by its changes";
        self.world.until_status(vm, what, follow).await;
    }

    fn id(&self, vm: &str) -> VmId {
        let mut machines = self.machines.iter();
        machines.find(|(name, _)| *name == vm).unwrap().1.clone()
    }

    async fn replica(&self, vm: &str) -> String {
        self.world.status(vm).await.replica_id.unwrap()
    }

    async fn manifest(&self, vm: &str) -> Manifest {
        let replica = self.replica(vm).await;
        self.world.manifest(&replica).await.unwrap()
    }

    /// The guest of a VM writes what it did not write before.
    async fn write(&self, vm: &str, disk: &str, range: (u64, u64), seed: u64) {
        let (address, export) = (Address::Tcp(self.host.nbd()), format!("{vm}/{disk}"));
        let range = ByteRange::new(range.0, range.1).unwrap();
        blocking(move || guest::fill(&address, &export, range, seed).unwrap()).await;
    }

    async fn power(&self, vm: &str, operation: PowerOperation) {
        let (hypervisor, id) = (self.host.hypervisor(), self.id(vm));
        blocking(move || hypervisor.power(&id, operation, PATIENCE).unwrap()).await;
    }

    /// A new agent process, which looks at once where storage and hypervisor stand, and takes a barrier.
    fn restart_agent(&mut self) {
        self.host.kill_agent();
        self.host.start_agent().unwrap();
    }

    /// Waits until nothing of ours is frozen or merged.
    async fn until_free(&self, vm: &str) {
        until(&format!("{vm} to be free"), async || {
            let (hypervisor, id) = (self.host.hypervisor(), self.id(vm));
            blocking(move || {
                let free = hypervisor.machine(&id).unwrap().busy.is_none()
                    && hypervisor.points(&id).unwrap().is_empty();
                free.then_some(())
            })
            .await
        })
        .await;
    }

    /// Files of a disk's tracking.
    fn intents(&self, vm: &str, disk: &str) -> Vec<std::path::PathBuf> {
        let machine = self.host.folder().join("machines").join(vm);
        let tracking = machine.join("tracking").join(disk.replace(':', "-"));
        let files = std::fs::read_dir(tracking)
            .unwrap()
            .map(|file| file.unwrap().path());
        let is_intent = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "intent");
        files.filter(is_intent).collect()
    }
}

fn is_required(status: &ProtectedVMStatus) -> bool {
    status.state == Some(ReplicationState::ResynchronizationRequired)
        && status.resynchronization.is_some()
}

/// Cuts the end off a file, as the crash of a host may.
fn tear(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 1).unwrap();
}

/// An agent that is killed or upgraded, a host that is rebooted or crashes: nobody has to compare anything. One VM's map
/// of changes does not survive the crash.
async fn live_through_what_is_no_trigger(site: &mut Site) {
    let before = site.manifest(STEADY).await;
    for (number, ends) in (0..).zip(["kill", "upgrade", "reboot", "crash"]) {
        site.write(
            STEADY,
            FIRST,
            (number * MIB, (number + 1) * MIB),
            50 + number,
        )
        .await;
        site.write("crashed", SECOND, (8 * MIB, 9 * MIB), 60 + number)
            .await;
        if ends != "kill" {
            let agent = site.host.agent().unwrap();
            agent.signal(Signal::TERM).unwrap();
            agent.wait_ended(PATIENCE).await.unwrap();
        }
        site.host.kill_agent();
        match ends {
            "reboot" => site.host.stop_hypervisor().await.unwrap(),
            "crash" => {
                site.host.kill_hypervisor();
                for intent in site.intents("crashed", SECOND) {
                    tear(&intent);
                }
            }
            _ => {}
        }
        site.host.start_hypervisor().await.unwrap();
        site.host.start_agent().unwrap();
        let after = site
            .world
            .until_newest_point_is_source(&site.host, STEADY)
            .await;
        assert_eq!(after.chain, before.chain, "{ends}");
        let resync = site.world.status(STEADY).await.resynchronization;
        assert_eq!(resync, None, "{ends}");
    }
}

/// What the hypervisor, its guests and its administrators do.
async fn pull_triggers_of_the_host(site: &Site) {
    let console = site.host.console();
    let full = Fault {
        place: Place::Track,
        vm: Some(site.id("unlogged")),
        disk: Some(SECOND.parse().unwrap()),
        times: 1,
        effect: Effect::Fail {
            kind: Kind::DiskFull,
            detail: "no room for the map".to_owned(),
        },
    };
    blocking(move || console.fault(&full).unwrap()).await;
    site.write("unlogged", SECOND, (4 * MIB, 5 * MIB), 71).await;

    site.write("overgrown", SECOND, (0, 9 * MIB), 72).await;

    site.until_free("edited").await;
    site.power("edited", PowerOperation::TurnOff).await;
    let (hypervisor, id) = (site.host.hypervisor(), site.id("edited"));
    blocking(move || {
        let disks = hypervisor.machine(&id).unwrap().disks;
        let disk = disks.iter().find(|disk| disk.slot.as_str() == SECOND);
        let path = disk.unwrap().path.clone();
        let opened = formats::open_writable(path.as_ref(), &OpenOptions::default());
        let mut image = opened.unwrap();
        image.write_at(5 * MIB, &[7; 4096]).unwrap();
        image.close().unwrap();
    })
    .await;
    site.power("edited", PowerOperation::Start).await;

    site.until_free("reverted").await;
    let (console, id) = (site.host.console(), site.id("reverted"));
    let taken = blocking(move || console.checkpoint(&id, "before the update").unwrap()).await;
    for disk in [FIRST, SECOND] {
        site.write("reverted", disk, (0, MIB), 73).await;
    }
    let now = "siterecovery.dev/sync-now=updated";
    site.world.annotate("protectedvm", "reverted", now).await;
    site.world
        .until_newest_point_is_source(&site.host, "reverted")
        .await;
    site.until_free("reverted").await;
    site.power("reverted", PowerOperation::TurnOff).await;
    let (console, id) = (site.host.console(), site.id("reverted"));
    blocking(move || console.apply_checkpoint(&id, taken.id).unwrap()).await;
    site.power("reverted", PowerOperation::Start).await;

    for vm in ["unlogged", "overgrown", "edited", "reverted"] {
        let now = "siterecovery.dev/sync-now=1";
        site.world.annotate("protectedvm", vm, now).await;
    }
}

/// What happens to seals and logs that nobody has applied yet.
async fn pull_triggers_of_storage(site: &mut Site) {
    site.controller.process.signal(Signal::TERM).unwrap();
    site.controller.process.wait_ended(PATIENCE).await.unwrap();
    for number in 1..=2 {
        for vm in ["gap", "torn"] {
            site.write(vm, FIRST, (number * MIB, (number + 1) * MIB), 80 + number)
                .await;
        }
        site.restart_agent();
        for vm in ["gap", "torn"] {
            let replica = site.replica(vm).await;
            until("the seal", async || {
                let inbox = site.world.inbox(&replica).await;
                let seals = inbox
                    .iter()
                    .filter(|(name, _)| name.ends_with("sealed.json"));
                (seals.count() >= usize::try_from(number).unwrap()).then_some(())
            })
            .await;
        }
    }
    for vm in ["gap", "torn"] {
        let replica = site.replica(vm).await;
        let container = site.world.account().container(&format!("sr-i-{replica}"));
        let mut inbox = site.world.inbox(&replica).await;
        inbox.sort();
        let first = |end: &str| {
            let mut names = inbox.iter().map(|(name, _)| name);
            names.find(|name| name.ends_with(end)).unwrap().clone()
        };
        if vm == "gap" {
            let seal = BlobRef::head(first("sealed.json"));
            let always = site_recovery::blob::parameters::Condition::Always;
            let deleted = container
                .delete(&seal, &always, DeleteSnapshots::None)
                .await;
            assert!(deleted.unwrap());
        } else {
            let torn = Bytes::from_static(b"half a log");
            let put = container
                .put(&first(".hrl"), torn, &PutOptions::default())
                .await;
            put.unwrap();
        }
    }
    site.controller = site.world.stage.controller("c1").await.unwrap();
}

/// It is said of a VM what has to be compared and why, and that it waits for its hour.
async fn assert_required(world: &World, trigger: &Trigger) {
    let Trigger {
        vm,
        code,
        said,
        disks,
    } = trigger;
    let what = "required to be compared";
    let status = world.until_status(vm, what, is_required).await;
    let resync = status.resynchronization.clone().unwrap();
    assert_eq!(resync.reason.as_deref(), Some(*code), "{vm}: {resync:?}");
    assert!(resync.message.unwrap().contains(said), "{vm}: {status:#?}");
    assert_eq!(resync.disks, *disks, "{vm}");
    assert!(resync.next_window.is_some() && !resync.running, "{vm}");
    let required = "ResynchronizationRequired";
    assert!(
        is(&status, "Ready", ("False", required)),
        "{vm}: {status:#?}"
    );
    assert!(
        is(&status, "Resyncing", ("False", "WaitingForWindow")),
        "{vm}: {status:#?}"
    );
    assert!(
        is(&status, "Critical", ("True", required)),
        "{vm}: {status:#?}"
    );
    assert_eq!(
        (status.health, &status.retry),
        (Some(Health::Critical), &None),
        "{vm}"
    );
    assert_eq!(world.until_warned(vm, required).await, 1, "{vm}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_may_have_hidden_a_change_is_compared_at_its_hour_and_nothing_else_is() {
    let vms = TRIGGERS.iter().map(|trigger| trigger.vm);
    let mut site = Site::protected(vms.chain([STEADY])).await;
    live_through_what_is_no_trigger(&mut site).await;
    pull_triggers_of_the_host(&site).await;
    for trigger in &TRIGGERS[..5] {
        let what = "required to be compared";
        site.world.until_status(trigger.vm, what, is_required).await;
    }
    pull_triggers_of_storage(&mut site).await;

    let mut chains = Vec::new();
    for trigger in &TRIGGERS {
        assert_required(&site.world, trigger).await;
        chains.push(site.manifest(trigger.vm).await.chain);
    }

    // A word is enough for those that cannot wait; the others begin when the window opens.
    for vm in ["unlogged", "gap"] {
        let now = "siterecovery.dev/resynchronize=now";
        site.world.annotate("protectedvm", vm, now).await;
        site.until_changes_follow(vm).await;
        site.world
            .until_newest_point_is_source(&site.host, vm)
            .await;
    }
    assert!(is_required(&site.world.status("edited").await));
    let open = json!({ "resynchronization": { "window": hours_from_now(-60, 60) } });
    site.world.patch("hypervsite", "site", &open).await;
    for (trigger, chain) in TRIGGERS.iter().zip(chains) {
        let vm = trigger.vm;
        site.until_changes_follow(vm).await;
        let after = site
            .world
            .until_newest_point_is_source(&site.host, vm)
            .await;
        // Where the chain is whole, it goes on.
        assert_eq!(after.chain != chain, trigger.disks.is_empty(), "{vm}");
        assert_eq!(site.world.status(vm).await.resynchronization, None, "{vm}");
    }
    let steady = site.world.status(STEADY).await;
    assert_eq!(
        (steady.state, steady.resynchronization),
        (Some(ReplicationState::Protected), None)
    );
}
