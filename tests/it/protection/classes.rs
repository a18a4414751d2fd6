//! Each class of errors is told in its own way: what passes by itself, and what waits for somebody.

use jiff::Timestamp;
use serde_json::json;
use site_recovery::api::vm_status::{Health, ProtectedVMStatus, Retry};
use site_recovery::host::lab::fault::{Effect, Fault, Place};
use site_recovery::host::{Kind, Volume};
use site_recovery::ids::VmId;
use site_recovery::lab::guest;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::stage::host::Host;
use site_recovery::units::{ByteRange, GIB, MIB};

use super::look::{condition, is, until_later};
use super::world::{World, blocking, machine, protected_vm};

/// What passes by itself: a VM, what its host fails with, and how that is called.
const PASSING: [(&str, Kind, &str); 4] = [
    ("memory", Kind::OutOfMemory, "HostMemory"),
    ("late", Kind::Timeout, "HostTimeout"),
    ("away", Kind::Unavailable, "HypervisorUnavailable"),
    ("unreadable", Kind::Io, "HostIo"),
];
/// What waits for a human.
const WAITING: [(&str, Kind, &str); 5] = [
    ("broken", Kind::BrokenChain, "BrokenDiskChain"),
    ("state", Kind::InvalidState, "InvalidVmState"),
    ("denied", Kind::Unauthorized, "HostAuthorization"),
    ("unsupported", Kind::Unsupported, "Unsupported"),
    ("damaged", Kind::DiskFormat, "DiskFormat"),
];
/// Its volume is nearly full.
const FULL: &str = "full";

async fn configure(host: &Host, id: &VmId, volume: Option<Volume>, memory_mib: u64) {
    let (console, id) = (host.console(), id.clone());
    let change = move |settings: &mut site_recovery::host::lab::spec::Settings| {
        (settings.volume, settings.memory_mib) = (volume, memory_mib);
    };
    blocking(move || console.configure(&id, change).unwrap()).await;
}

/// What fails whenever disks of the machine are frozen.
fn fails(id: &VmId, kind: Kind) -> Fault {
    Fault {
        place: Place::Freeze,
        vm: Some(id.clone()),
        disk: None,
        times: u32::MAX,
        effect: Effect::Fail {
            kind,
            detail: "as asked for".to_owned(),
        },
    }
}

fn retry_of(status: &ProtectedVMStatus) -> &Retry {
    status.retry.as_ref().unwrap()
}

/// It is said that an error passes by itself, and when it is tried again.
async fn assert_passes(world: &World, vm: &str, code: &str) -> ProtectedVMStatus {
    let retried = |status: &ProtectedVMStatus| {
        is(status, "Reconciling", ("True", "ProgressingWithRetry"))
            && retry_of(status).last_error.code == code
    };
    let status = world.until_status(vm, "retried", retried).await;
    assert!(
        is(&status, "Ready", ("False", "ProgressingWithRetry")),
        "{vm}: {status:#?}"
    );
    assert!(
        is(&status, "Replicating", ("False", code)),
        "{vm}: {status:#?}"
    );
    assert!(
        is(&status, "Critical", ("False", "NotCritical")),
        "{vm}: {status:#?}"
    );
    assert_eq!(condition(&status, "Stalled"), None, "{vm}");
    let retry = retry_of(&status);
    assert_eq!(retry.step.as_deref(), Some("Replicate"), "{vm}");
    assert!(!retry.last_error.remedy.is_empty(), "{vm}");
    // A minute after the first attempt began, two after the second.
    let next: Timestamp = retry.next_retry_time.unwrap().into();
    let since: Timestamp = retry.since.unwrap().into();
    assert!(
        (next - since).total(jiff::Unit::Second).unwrap() >= 59.0,
        "{vm}: {retry:?}"
    );
    assert_eq!(world.until_warned(vm, code).await, 1, "{vm}");
    status
}

/// It is said that an error waits for a human, at once.
async fn assert_waits(world: &World, vm: &str, code: &str) {
    let stalled = |status: &ProtectedVMStatus| is(status, "Stalled", ("True", code));
    let status = world.until_status(vm, "stalled", stalled).await;
    assert!(is(&status, "Ready", ("False", code)), "{vm}: {status:#?}");
    assert!(is(&status, "Critical", ("True", code)), "{vm}: {status:#?}");
    assert_eq!(condition(&status, "Reconciling"), None, "{vm}");
    assert_eq!(status.health, Some(Health::Critical), "{vm}");
    assert_eq!(retry_of(&status).next_retry_time, None, "{vm}");
    assert_eq!(world.until_warned(vm, code).await, 1, "{vm}");
}

/// Waits until attempts begin anew after those of `before`: that they went on would say the same beginning.
async fn until_begun_anew(world: &World, vm: &str, before: &ProtectedVMStatus) {
    let since = retry_of(before).since;
    let anew = |status: &ProtectedVMStatus| {
        let retry = status.retry.as_ref();
        retry.is_some_and(|retry| retry.since > since)
    };
    world.until_status(vm, "tried anew", anew).await;
}

/// The volume of a machine fills up once it is protected, and what changes finds no room.
async fn fill_up(world: &World, host: &Host, full: &VmId) {
    let follows = |status: &ProtectedVMStatus| is(status, "Replicating", ("True", "ChangesFollow"));
    world.until_status(FULL, "followed", follows).await;
    let volume = Volume {
        name: "D:".to_owned(),
        free: MIB,
        size: 100 * GIB,
    };
    configure(host, full, Some(volume), 4096).await;
    let address = Address::Tcp(host.nbd());
    let changed = ByteRange::new(2 * MIB, 3 * MIB).unwrap();
    blocking(move || guest::fill(&address, "full/scsi:0:0", changed, 9).unwrap()).await;
    let now = "siterecovery.dev/sync-now=1";
    world.annotate("protectedvm", FULL, now).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_and_what_does_not_waits_until_its_cause_is_gone() {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    let mut waiting = Vec::new();
    for (vm, kind, _) in PASSING.iter().chain(&WAITING) {
        let id = machine(&host, vm, &[("scsi:0:0", 8 * MIB)], 0).await.id;
        let (console, fault) = (host.console(), fails(&id, *kind));
        blocking(move || console.fault(&fault).unwrap()).await;
        if WAITING.iter().any(|(waits, _, _)| waits == vm) {
            waiting.push(id);
        }
    }
    let full = machine(&host, FULL, &[("scsi:0:0", 8 * MIB)], MIB).await.id;
    host.start_agent().unwrap();
    let site = world.site(&["hv1"], |spec| {
        let at_once = json!({ "initialReplication": { "maxConcurrentPerHost": 16 } });
        spec["replicationPolicy"] = at_once;
    });
    world.apply(&site).await;
    let names = PASSING.iter().chain(&WAITING).map(|(vm, _, _)| *vm);
    let vms: Vec<_> = names.chain([FULL]).map(protected_vm).collect();
    world.apply(&vms).await;
    let _controller = world.stage.controller("c0").await.unwrap();

    fill_up(&world, &host, &full).await;
    let low = assert_passes(&world, FULL, "HostDiskFull").await;
    assert!(
        retry_of(&low)
            .last_error
            .message
            .contains("volume D: has 1 MiB free")
    );
    for (vm, _, code) in PASSING {
        let before = assert_passes(&world, vm, code).await;
        until_later(retry_of(&before).since).await;
        // A change of the spec begins anew at once, and so does a word.
        if vm == "memory" {
            let retry = "siterecovery.dev/retry=1";
            world.annotate("protectedvm", vm, retry).await;
        } else {
            let spec = json!({ "deletionPolicy": "DeleteReplica" });
            world.patch("protectedvm", vm, &spec).await;
        }
        until_begun_anew(&world, vm, &before).await;
    }
    for (vm, _, code) in WAITING {
        assert_waits(&world, vm, code).await;
    }

    // Its cause is mended: that the machine changed is enough to look again.
    let console = host.console();
    blocking(move || console.clear_faults().unwrap()).await;
    for id in &waiting {
        configure(&host, id, None, 2048).await;
    }
    configure(&host, &full, None, 4096).await;
    let retry = "siterecovery.dev/retry=2";
    world.annotate("protectedvm", FULL, retry).await;
    for (vm, _, _) in &WAITING {
        let status = world.until_protected(vm).await;
        assert_eq!(status.last_handled, None, "{vm}");
    }
    let over = |status: &ProtectedVMStatus| {
        status.retry.is_none() && is(status, "Ready", ("True", "Protected"))
    };
    for vm in PASSING.map(|(vm, _, _)| vm).into_iter().chain([FULL]) {
        world.until_status(vm, "over it", over).await;
    }
    world.until_newest_point_is_source(&host, FULL).await;
}
