//! A VM that moves between the hosts of its site goes on from what is in storage.

use std::time::Duration;

use serde_json::json;
use site_recovery::api::vm_status::{ProtectedVMStatus, ReplicationState};
use site_recovery::host::lab::spec::Arrival;
use site_recovery::lab::guest::client::Address;
use site_recovery::lab::guest::{Guest, Workload};
use site_recovery::lab::stage::host::Host;
use site_recovery::units::{ByteRange, MIB};

use super::hands::{copies, log_of, relocate, write};
use super::world::{World, machine, protected_vm, until};

const DISKS: [(&str, u64); 2] = [("scsi:0:0", 32 * MIB), ("scsi:0:1", 16 * MIB)];
const PLACES: [&str; 2] = ["scsi:0:0", "scsi:0:1"];

/// A guest that writes to the first disk wherever its machine is at this host.
fn guest(host: &Host, seed: u64) -> Guest {
    Guest::start(Workload {
        address: Address::Tcp(host.nbd()),
        export: "web/scsi:0:0".to_owned(),
        area: ByteRange::new(4 * MIB, 8 * MIB).unwrap(),
        record: 4096,
        bytes_per_second: MIB,
        records_per_flush: 16,
        seed,
    })
    .unwrap()
}

fn until_written(guest: &Guest) {
    let written = |counters: &site_recovery::lab::guest::Counters| counters.written >= MIB;
    assert!(guest.wait_until(Duration::from_secs(120), written));
}

/// Whether the agent of a host keeps a replication.
fn keeps(host: &Host, replica: &str) -> bool {
    let folder = host.agent_state().join("replications").join(replica);
    folder.join("relationship.json").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_moves_goes_on_with_its_changes_and_the_host_that_it_left_is_refused() {
    let world = World::new().await;
    let (mut hv1, mut hv2) = (world.host("hv1").await, world.host("hv2").await);
    let web = machine(&hv1, "web", &DISKS, 8 * MIB).await;
    hv1.start_agent().unwrap();
    hv2.start_agent().unwrap();
    let by_hand = |spec: &mut serde_json::Value| {
        spec["resynchronization"] = json!({ "automatic": false });
    };
    world.apply(&world.site(&["hv1", "hv2"], by_hand)).await;
    world.apply(&[protected_vm("web")]).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    world.until_changes_follow("hv1").await;
    let first = world.manifest(&replica).await.unwrap();
    let fence = world.fence(&replica).await;
    assert_eq!(fence.host, Some("hv1".parse().unwrap()));

    // Given a guest that writes before the move and after it
    let (before, after) = (guest(&hv1, 1), guest(&hv2, 2));
    until_written(&before);
    let web = relocate(&world, (&hv1, &hv2), &web, Arrival::default()).await;
    until_written(&after);
    before.end();
    after.end();

    // Then the host that it came to goes on with what changed, and nothing is copied or compared.
    world.until_changes_follow("hv2").await;
    world.synchronize("moved").await;
    let second = world.until_point_is_source(&hv2, "web", &PLACES).await;
    assert_eq!(second.chain, first.chain);
    assert_eq!(copies(&hv2), Vec::<String>::new());
    let moved = world.fence(&replica).await;
    assert_eq!(moved.host, Some("hv2".parse().unwrap()));
    assert_eq!(moved.generation, fence.generation.next());

    // When it moves back while its host cannot be reached, and what was tracked of a disk stays behind
    hv2.kill_agent();
    let lost = Arrival {
        tracking_lost: Some("the disk was moved without its change tracking".to_owned()),
        ..Arrival::default()
    };
    relocate(&world, (&hv2, &hv1), &web, lost).await;
    write(&hv1, "web/scsi:0:1", (2, 3), 9).await;
    let required = |status: &ProtectedVMStatus| {
        status.state == Some(ReplicationState::ResynchronizationRequired)
    };
    let status = world.until_status("web", "to be compared", required).await;
    let resync = status.resynchronization.unwrap();
    assert!(
        resync
            .message
            .unwrap()
            .contains("without its change tracking")
    );
    world
        .annotate("protectedvm", "web", "siterecovery.dev/resynchronize=now")
        .await;
    world.until_changes_follow("hv1").await;
    world.synchronize("back").await;
    let third = world.until_point_is_source(&hv1, "web", &PLACES).await;
    assert_eq!(third.chain, first.chain);

    // Then the host that it left is refused when it comes back, and does not keep the replication.
    hv2.start_agent().unwrap();
    until("the end of the replication on hv2", async || {
        (!keeps(&hv2, &replica)).then_some(())
    })
    .await;
    assert!(log_of(&hv2).contains("GenerationStale"));
    until("the end of nothing on hv1", async || {
        keeps(&hv1, &replica).then_some(())
    })
    .await;
    world.until_protected("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_moves_in_mid_transfer_loses_nothing_of_what_was_captured() {
    let world = World::new().await;
    let (mut hv1, mut hv2) = (world.host("hv1").await, world.host("hv2").await);
    let web = machine(&hv1, "web", &DISKS, 4 * MIB).await;
    hv1.start_agent().unwrap();
    hv2.start_agent().unwrap();
    world.apply(&world.site(&["hv1", "hv2"], |_| {})).await;
    world.apply(&[protected_vm("web")]).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    world.until_changes_follow("hv1").await;
    let before = world.manifest(&replica).await.unwrap();

    // Given changes that are captured and stand in a link that is far too slow for them
    let slow = json!({ "bandwidth": { "perHost": "1Mbit" } });
    world.patch("hypervsite", "site", &slow).await;
    let settings = hv1.agent_state().join("settings.json");
    until("a slow link", async || {
        let kept = std::fs::read_to_string(&settings).ok()?;
        kept.contains("bandwidth").then_some(())
    })
    .await;
    write(&hv1, "web/scsi:0:0", (8, 20), 5).await;
    world.synchronize("captured").await;
    let captured = hv1
        .agent_state()
        .join("replications")
        .join(&replica)
        .join("capture.json");
    until("the capture", async || captured.exists().then_some(())).await;

    // When the VM moves, and writes on
    relocate(&world, (&hv1, &hv2), &web, Arrival::default()).await;
    assert!(captured.exists(), "it was sealed before the move");
    write(&hv2, "web/scsi:0:0", (10, 12), 6).await;
    write(&hv2, "web/scsi:0:1", (0, 1), 7).await;
    world
        .patch("hypervsite", "site", &json!({ "bandwidth": null }))
        .await;

    // Then its new host brings all of it, counted from the last seal.
    world.until_changes_follow("hv2").await;
    world.synchronize("moved").await;
    let after = world.until_point_is_source(&hv2, "web", &PLACES).await;
    assert_eq!(after.chain, before.chain);
    assert_eq!(copies(&hv2), Vec::<String>::new());
}
