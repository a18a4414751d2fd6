//! What is deleted goes if it was said, in Azure too; a site goes after its VMs.

use kube::Api;
use serde_json::json;
use site_recovery::api::{HyperVSite, ProtectedVM};
use site_recovery::blob::names::BlobRef;
use site_recovery::units::MIB;

use super::world::{NAMESPACE, SITE, World, machine, protected_vm, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_goes_with_its_object_if_that_was_said_and_its_site_goes_last() {
    let world = World::new().await;
    let mut host = world.host("hv1").await;
    machine(&host, "web", &[("scsi:0:0", 64 * MIB)], 16 * MIB).await;
    host.start_agent().unwrap();
    world.apply(&world.site(&["hv1"], |_| {})).await;
    let mut vm = protected_vm("web");
    vm["spec"]["deletionPolicy"] = json!("DeleteReplica");
    world.apply(&[vm]).await;
    let mut controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();

    // In the order in which people delete things: the site would take what its VMs need.
    let site = ["delete", "hypervsite", SITE, "--wait=false"];
    world.stage.kubectl(&site, b"").await.unwrap();
    world
        .until_site("Ready", |_, said| {
            said.starts_with("WaitingForVirtualMachines")
        })
        .await;
    let delete = ["delete", "protectedvm", "web", "--wait=false"];
    world.stage.kubectl(&delete, b"").await.unwrap();
    // What is written down is finished by whoever comes after.
    until("the word that the replica goes", async || {
        world.is_condemned("web").await.then_some(())
    })
    .await;
    controller.process.kill();
    let _next = world.stage.controller("c1").await.unwrap();

    let client = world.stage.client();
    let vms: Api<ProtectedVM> = Api::namespaced(client.clone(), NAMESPACE);
    let sites: Api<HyperVSite> = Api::namespaced(client, NAMESPACE);
    until("the end of the VM", async || {
        vms.get_opt("web").await.unwrap().is_none().then_some(())
    })
    .await;
    until("the end of the site", async || {
        sites.get_opt(SITE).await.unwrap().is_none().then_some(())
    })
    .await;
    let blob = BlobRef::head("replica.json");
    for container in [format!("sr-i-{replica}"), format!("sr-r-{replica}")] {
        let container = world.account().container(&container);
        let got = container.get(&blob, None, MIB).await;
        assert!(got.is_err_and(|error| error.is_not_found()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_with_its_secret_first_ends_all_the_same() {
    let (world, _host, _) = World::with_web(&[("scsi:0:0", 16 * MIB)], MIB).await;
    let _controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();

    let secret = ["delete", "secret", "storage"];
    world.stage.kubectl(&secret, b"").await.unwrap();
    let site = ["delete", "hypervsite", SITE, "--wait=false"];
    world.stage.kubectl(&site, b"").await.unwrap();
    world
        .until_site("CredentialsValid", |status, _| status == "False")
        .await;
    let delete = ["delete", "protectedvm", "web", "--wait=false"];
    world.stage.kubectl(&delete, b"").await.unwrap();

    let client = world.stage.client();
    let vms: Api<ProtectedVM> = Api::namespaced(client.clone(), NAMESPACE);
    let sites: Api<HyperVSite> = Api::namespaced(client, NAMESPACE);
    until("the end of both", async || {
        let left = vms.get_opt("web").await.unwrap().is_some();
        let all = left || sites.get_opt(SITE).await.unwrap().is_some();
        (!all).then_some(())
    })
    .await;
    // The replica stays, and it is written down that it does.
    assert!(world.record().await.retained);
    assert!(world.manifest(&replica).await.is_some());
}
