//! Many deletions at once are more likely a mistake than a wish.

use kube::Api;
use serde_json::json;
use site_recovery::api::ProtectedVM;
use site_recovery::units::MIB;

use super::world::{NAMESPACE, SITE, World, machine, protected_vm, until};

async fn delete(world: &World, vms: &[&str]) {
    let arguments = [&["delete", "protectedvm", "--wait=false"], vms].concat();
    world.stage.kubectl(&arguments, b"").await.unwrap();
    let api: Api<ProtectedVM> = Api::namespaced(world.stage.client(), NAMESPACE);
    for vm in vms {
        until(&format!("the end of {vm}"), async || {
            let there = api.get_opt(vm).await.unwrap().is_some();
            (!there).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_stay_when_many_are_deleted_at_once_until_somebody_says_that_it_was_meant() {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    let vms = ["a", "b", "c", "d", "e"];
    for vm in vms {
        machine(&host, vm, &[("scsi:0:0", 8 * MIB)], MIB).await;
    }
    host.start_agent().unwrap();
    let doomed = vms.map(|vm| {
        let mut object = protected_vm(vm);
        object["spec"]["deletionPolicy"] = json!("DeleteReplica");
        object
    });
    world.apply(&world.site(&["hv1"], |_| {})).await;
    world.apply(&doomed).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let mut replicas = Vec::new();
    for vm in vms {
        replicas.push(world.until_protected(vm).await.replica_id.unwrap());
    }

    delete(&world, &vms[..4]).await;
    let said = world
        .until_site("DeletionsAllowed", |status, _| status == "False")
        .await;
    assert!(said.starts_with("ManyDeletions"), "{said}");
    // Not even one alone goes now.
    delete(&world, &vms[4..]).await;
    for (vm, replica) in vms.iter().zip(&replicas) {
        assert!(!world.is_condemned(vm).await, "{vm}");
        let manifest = world.manifest(replica).await.unwrap();
        assert!(!manifest.points.is_empty(), "{vm}");
        assert_eq!(world.until_warned(vm, "ReplicaRetained").await, 1);
    }

    let meant = "siterecovery.dev/allow-deletions=1";
    world.annotate("hypervsite", SITE, meant).await;
    world
        .until_site("DeletionsAllowed", |status, _| status == "True")
        .await;
    world.apply(&doomed[4..]).await;
    world.until_protected("e").await;
    delete(&world, &vms[4..]).await;
    assert!(world.manifest(&replicas[4]).await.is_none());
    assert!(world.manifest(&replicas[3]).await.is_some());
}
