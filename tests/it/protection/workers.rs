//! Workers of the data path share the VMs: one that dies is replaced, one that was thought dead changes nothing.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};
use site_recovery::controller::workers::assignment;
use site_recovery::lab::stage::{Replica, Stage};
use site_recovery::replica::manifest::Manifest;
use site_recovery::units::MIB;

use super::world::{World, is_protected, machine, programs, protected_vm, until, values};

/// Slow enough that a copy can be met in its middle.
const SLOW: &str = "48Mbit";
const NAMES: [&str; 2] = ["w0", "w1"];

fn slowly(spec: &mut Value) {
    spec["bandwidth"] = json!({ "perHost": SLOW });
}

/// Cluster, storage and a chart with two workers, which run; and a controller that leaves the work to them.
async fn with_workers() -> (World, Replica, Vec<Replica>) {
    let folder = tempfile::Builder::new().prefix("sr").tempdir().unwrap();
    let mut values = values();
    values["dataPath"] = json!({ "workers": { "replicas": NAMES.len() } });
    let place = folder.path().join("1");
    let stage = Stage::start(programs().await, &place, &values, &|_| {}).await;
    let stage = stage.unwrap();
    let mut workers = Vec::new();
    for name in NAMES {
        let mut worker = stage.worker(name).await.unwrap();
        worker.wait_ready().await.unwrap();
        workers.push(worker);
    }
    let controller = stage.controller("c0").await.unwrap();
    (World { stage, folder }, controller, workers)
}

/// Which worker has a replica while both live.
fn owner_of(replica: &str) -> usize {
    let both: BTreeSet<String> = NAMES.map(str::to_owned).into();
    let owner = assignment::owner(&replica.parse().unwrap(), &both).unwrap();
    NAMES.iter().position(|name| *name == owner).unwrap()
}

/// How many replicas a worker has, as it says itself.
async fn replicas(worker: &Replica) -> Option<usize> {
    let metrics = worker.metrics().await?;
    let mut lines = metrics.lines();
    lines.find_map(|line| {
        line.strip_prefix("site_recovery_data_path_replicas ")?
            .parse()
            .ok()
    })
}

/// Waits until the workers have so many replicas between them.
async fn until_shared(workers: &[Replica], all: usize) {
    until("all replicas to have a worker", async || {
        let mut sum = 0;
        for worker in workers {
            sum += replicas(worker).await?;
        }
        (sum == all).then_some(())
    })
    .await;
}

/// Whether a cycle has begun to write pages and has not been published.
fn is_in_mid_cycle(manifest: &Manifest) -> bool {
    let applied = manifest.last_applied.sequence;
    let targets = manifest.disks.values().map(|disk| disk.head.target());
    targets.flatten().any(|target| target > applied)
}

async fn recorded(world: &World, vm: &str) -> String {
    let status = world.until_status(vm, "recorded", |status| status.replica_id.is_some());
    status.await.replica_id.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_are_shared_and_those_of_a_worker_that_dies_are_taken_over() {
    let (world, controller, mut workers) = with_workers().await;
    let mut host = world.host("hv1").await;
    let web = machine(&host, "web", &[("scsi:0:0", 256 * MIB)], 48 * MIB).await;
    for other in ["sql", "mail"] {
        machine(&host, other, &[("scsi:0:0", 64 * MIB)], 4 * MIB).await;
    }
    let observing = world.witness(&host, &web).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], slowly)).await;
    world.apply(&["web", "sql", "mail"].map(protected_vm)).await;
    let replica = recorded(&world, "web").await;
    until("a part of the copy to be applied", async || {
        let manifest = world.manifest(&replica).await?;
        (manifest.last_applied.sequence.value() > 0).then_some(())
    })
    .await;
    until_shared(&workers, 3).await;
    let before = world.manifest(&replica).await.unwrap();
    assert_eq!(before.points, [], "the copy is over");

    workers[owner_of(&replica)].process.kill();
    let status = world.until_protected("web").await;

    world.judge(observing, &status).await;
    let after = world.manifest(&replica).await.unwrap();
    assert!(after.writer.generation > before.writer.generation);
    workers.remove(owner_of(&replica));
    until_shared(&workers, 3).await;
    for other in ["sql", "mail"] {
        world.until_status(other, "protected", is_protected).await;
    }
    let log = controller.process.log().text();
    assert!(!log.contains("took over"), "the controller applied: {log}");
    // Who is asked to end leaves nothing that the next would have to wait for.
    workers[0].process.signal(Signal::TERM).unwrap();
    let ended = workers[0]
        .process
        .wait_ended(std::time::Duration::from_secs(60));
    assert!(ended.await.unwrap().success());
    let leases = [
        "get",
        "leases",
        "--namespace=site-recovery",
        "--output=name",
    ];
    let left = world.stage.kubectl(&leases, b"").await.unwrap();
    let other = format!(
        "lease.coordination.k8s.io/{}",
        NAMES[1 - owner_of(&replica)]
    );
    assert!(!left.contains(&other), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_paused_in_mid_cycle_and_goes_on_late_is_fenced() {
    let (mut world, _controller, mut workers) = with_workers().await;
    let mut host = world.host("hv1").await;
    let web = machine(&host, "web", &[("scsi:0:0", 256 * MIB)], 64 * MIB).await;
    let observing = world.witness(&host, &web).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], slowly)).await;
    world.apply(&[protected_vm("web")]).await;
    let replica = recorded(&world, "web").await;
    let late = &mut workers[owner_of(&replica)];
    let paused = until("a cycle to be met in its middle", async || {
        world.manifest(&replica).await.filter(is_in_mid_cycle)?;
        late.process.signal(Signal::STOP).unwrap();
        let manifest = world.manifest(&replica).await.unwrap();
        if is_in_mid_cycle(&manifest) {
            return Some(manifest);
        }
        late.process.signal(Signal::CONT).unwrap();
        None
    })
    .await;
    until("the other to take the replica over", async || {
        let manifest = world.manifest(&replica).await?;
        (manifest.writer.generation > paused.writer.generation).then_some(())
    })
    .await;

    // Nobody tells it: what it is in the middle of goes on.
    world.stage.cluster.kill_api_server();
    late.process.signal(Signal::CONT).unwrap();
    for said in [
        "another writer has taken over replica",
        "leaves the replica",
    ] {
        until(said, async || {
            late.process.log().text().contains(said).then_some(())
        })
        .await;
    }
    world.stage.cluster.restart().await.unwrap();
    let _next = world.stage.controller("c1").await.unwrap();
    let status = world.until_protected("web").await;

    world.judge(observing, &status).await;
    until_shared(&workers, 1).await;
    for worker in &mut workers {
        assert_eq!(worker.process.ended().unwrap(), None);
    }
}
