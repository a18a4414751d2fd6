//! Work on a host: what is captured is sealed before, nobody is alarmed meanwhile, and all goes on afterwards.

use serde_json::{Value, json};
use site_recovery::api::vm_status::{Health, ProtectedVMStatus};
use site_recovery::units::MIB;

use super::hands::{copies, write};
use super::world::{World, until};

const PLACES: [&str; 1] = ["scsi:0:0"];

fn maintenance(holds: bool) -> Value {
    json!({ "hosts": [{ "name": "hv1", "maintenance": holds }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_captured_is_sealed_before_the_maintenance_of_a_host_begins() {
    let (world, mut host, _) = World::with_web(&[("scsi:0:0", 32 * MIB)], 4 * MIB).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    world.until_changes_follow("hv1").await;
    let copied = copies(&host).len();

    // Given changes that are captured, and a link that is far too slow for them
    let slow = json!({ "bandwidth": { "perHost": "1Mbit" } });
    world.patch("hypervsite", "site", &slow).await;
    let settings = host.agent_state().join("settings.json");
    until("a slow link", async || {
        let kept = std::fs::read_to_string(&settings).ok()?;
        kept.contains("bandwidth").then_some(())
    })
    .await;
    write(&host, "web/scsi:0:0", (8, 20), 5).await;
    world.synchronize("captured").await;
    let folder = host.agent_state().join("replications").join(&replica);
    let captured = folder.join("capture.json");
    until("the capture", async || captured.exists().then_some(())).await;

    // When somebody is about to work on the host
    world.patch("hypervsite", "site", &maintenance(true)).await;
    world.until_ready_says("Pausing").await;
    world
        .patch("hypervsite", "site", &json!({ "bandwidth": null }))
        .await;

    // Then what is captured is in Azure when it is said that the host may be worked on.
    world.until_ready_says("HostMaintenance").await;
    assert!(!captured.exists());
    world.until_point_is_source(&host, "web", &PLACES).await;
    let calm = |status: &ProtectedVMStatus| {
        status.health == Some(Health::Normal) && status.health_reasons.is_empty()
    };
    world.until_status("web", "no alarm", calm).await;

    // The agent may end meanwhile; afterwards the changes of that time follow.
    host.kill_agent();
    write(&host, "web/scsi:0:0", (22, 23), 6).await;
    host.start_agent().unwrap();
    world.patch("hypervsite", "site", &maintenance(false)).await;
    world.until_changes_follow("hv1").await;
    world.synchronize("after").await;
    world.until_point_is_source(&host, "web", &PLACES).await;
    assert_eq!(copies(&host).len(), copied, "{:?}", copies(&host));
}
