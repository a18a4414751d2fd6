//! From `kubectl apply` to Protected.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::json;
use site_recovery::lab::tools::Tools;
use site_recovery::lab::tools::debian::QEMU_UTILS;
use site_recovery::units::MIB;

use super::world::{World, blocking, machine, protected_vm};

/// A guest whose NBD client is QEMU's: writes until it is told to end.
struct QemuGuest {
    ending: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<()>,
}

impl QemuGuest {
    fn start(export: String) -> Self {
        let (ending, rounds) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (told, count) = (ending.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            let mut round = 0_u32;
            while !told.load(Ordering::Relaxed) {
                round += 1;
                let write = |at: u32| format!("write -P {} {at}k 24k", round % 250 + 1);
                let output = Command::new("qemu-io")
                    .args(["--format", "raw", "-c", &write(round * 7919 % 60_000 * 4)])
                    .args(["-c", &write(round * 104_729 % 60_000 * 4), "-c", "flush"])
                    .arg(&export)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "qemu-io: {said}");
                count.store(round, Ordering::Relaxed);
            }
        });
        QemuGuest {
            ending,
            rounds,
            thread,
        }
    }

    fn end(self) -> u32 {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.rounds.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_protected_while_a_guest_writes_with_a_client_that_is_not_ours() {
    blocking(|| {
        let tools = Tools::locate().unwrap();
        tools.ensure_packages(&[QEMU_UTILS]).unwrap();
    })
    .await;
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    let disks = [("scsi:0:0", 512 * MIB), ("scsi:0:1", 256 * MIB)];
    let web = machine(&host, "web", &disks, 24 * MIB).await;
    let guest = QemuGuest::start(format!("nbd://{}/web/scsi:0:1", host.nbd()));
    let observing = world.witness(&host, &web).await;
    host.start_agent().unwrap();

    // The VM comes first: it waits for its site, and says so.
    world.apply(&[protected_vm("web")]).await;
    let waiting = |status: &site_recovery::api::vm_status::ProtectedVMStatus| {
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        ready.is_some_and(|ready| ready.reason == "WaitingForSite")
    };
    world
        .until_status("web", "waiting for its site", waiting)
        .await;
    world.apply(&world.site(&["hv1"], |_| {})).await;
    let status = world.until_protected("web").await;

    assert!(guest.end() > 0, "the guest has not written");
    world.judge(observing, &status).await;
    let tasks = status
        .tasks
        .iter()
        .map(|task| (task.name.as_str(), task.state));
    for (name, state) in tasks {
        assert_eq!(json!(state), "Succeeded", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_waits_for_machines_until_they_are_protected() {
    let world = World::new().await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut host = world.host("hv1").await;
    machine(&host, "legacy", &[("ide:0:0", 128 * MIB)], 8 * MIB).await;
    host.start_agent().unwrap();
    // A chart of somebody who keeps sites and VMs in Git.
    let chart = world.folder.path().join("protection");
    let templates = chart.join("templates");
    std::fs::create_dir_all(&templates).unwrap();
    let about = "apiVersion: v2\nname: protection\nversion: 1.0.0\n";
    std::fs::write(chart.join("Chart.yaml"), about).unwrap();
    let mut objects = world.site(&["hv1"], |_| {});
    objects.push(protected_vm("legacy"));
    for (number, object) in objects.iter().enumerate() {
        let file = templates.join(format!("{number}.yaml"));
        std::fs::write(file, object.to_string()).unwrap();
    }
    let mut helm = world.stage.cluster.helm();
    helm.args(["install", "protection", "--namespace", "default"]);
    helm.args(["--wait", "--timeout", "3m"]).arg(&chart);
    let output = blocking(move || helm.output().unwrap()).await;

    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm: {said}");
    let status = world.status("legacy").await;
    assert!(super::world::is_protected(&status), "{status:#?}");
}
