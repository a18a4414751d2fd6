//! A machine's life: made of what exists, started, stopped, deleted; and what is left of it.

use site_recovery::azure::Arm as _;
use site_recovery::azure::body::{Body, DeleteOption};
use site_recovery::azure::id::ResourceKind;
use site_recovery::azure::operation::{Action, Outcome};
use site_recovery::azure::seen::Power;
use site_recovery::units::ByteRange;

use crate::arm::world::{World, adapter, group, machine, public_address, resource, run};

async fn power(world: &World, id: &site_recovery::azure::id::ResourceId) -> Power {
    world.client.get(id).await.unwrap().unwrap().power()
}

#[tokio::test]
async fn a_machine_is_made_stopped_started_and_deleted_and_its_disks_stay() {
    let world = World::with_storage().await;
    let os = world.disk("os", &[0; 1 << 20], true).await;
    let data = world.disk("data", &[0; 1 << 20], false).await;
    let vm = world.machine("vm1", &os, &[&data]).await;
    assert_eq!(power(&world, &vm).await, Power::Running);
    let seen = world.client.get(&data).await.unwrap().unwrap();
    assert!(seen.machine().is_some_and(|id| id.ends_with("/vm1")));

    let act = async |action: Action| {
        let begun = world.client.act(&vm, &action).await.unwrap();
        assert_eq!(world.finish(begun).await, Outcome::Nothing);
    };
    act(Action::PowerOff {
        skip_shutdown: true,
    })
    .await;
    assert_eq!(power(&world, &vm).await, Power::Stopped);
    act(Action::Deallocate).await;
    assert_eq!(power(&world, &vm).await, Power::Deallocated);
    act(Action::Start).await;
    assert_eq!(power(&world, &vm).await, Power::Running);

    let begun = world.client.delete(&vm).await.unwrap();
    world.finish(begun).await;
    assert!(world.client.get(&vm).await.unwrap().is_none());
    let seen = world.client.get(&os).await.unwrap().unwrap();
    assert_eq!(
        (seen.machine(), seen.disk().disk_state.as_deref()),
        (None, Some("Unattached"))
    );
    let again = world.client.delete(&vm).await.unwrap();
    assert_eq!(world.finish(again).await, Outcome::Nothing);
}

#[tokio::test]
async fn what_is_to_go_with_its_machine_goes_and_nothing_else() {
    let world = World::with_storage().await;
    let os = world.disk("os", &[0; 1 << 20], true).await;
    let data = world.disk("data", &[0; 1 << 20], false).await;
    let nic = world.adapter("nic").await;
    let mut body = machine(&os, &[&data], &[&nic]);
    body.properties.storage_profile.os_disk.delete_option = DeleteOption::Delete;
    body.properties.network_profile.network_interfaces[0]
        .properties
        .delete_option = DeleteOption::Delete;
    let vm = resource(ResourceKind::VirtualMachine, "vm1");
    world
        .create(&vm, Body::VirtualMachine(Box::new(body)))
        .await;
    let begun = world.client.delete(&vm).await.unwrap();
    world.finish(begun).await;
    let mut left = Vec::new();
    for id in [&vm, &os, &data, &nic] {
        left.extend(world.client.get(id).await.unwrap().map(|_| id.clone()));
    }
    assert_eq!(left, [data]);
}

#[tokio::test]
async fn only_a_machine_that_runs_writes_to_its_disks() {
    let world = World::with_storage().await;
    let os = world.disk("os", &[0; 1 << 20], true).await;
    let data = world.disk("data", &[0; 1 << 20], false).await;
    let vm = world.machine("vm1", &os, &[&data]).await;
    let write = |byte: u8| {
        world
            .arm()
            .write(&vm.to_string(), Some(0), 4096, &[byte; 512])
    };
    write(7).unwrap();
    let begun = world.client.act(&vm, &Action::Deallocate).await.unwrap();
    world.finish(begun).await;
    assert!(write(8).is_err());
    let range = ByteRange::new(4096, 4608).unwrap();
    assert_eq!(
        world.arm().read(&data.to_string(), range).unwrap(),
        [7; 512]
    );
}

#[tokio::test]
async fn an_adapter_has_the_address_that_it_asks_for_and_its_public_one() {
    let world = World::empty().await;
    let public = resource(ResourceKind::PublicAddress, "pip");
    world.create(&public, public_address()).await;
    let id = resource(ResourceKind::NetworkInterface, "nic");
    let body = Body::NetworkInterface(adapter(Some("10.0.0.10"), Some(&public)));
    let Outcome::Resource(seen) = world.create(&id, body).await else {
        panic!("no adapter");
    };
    assert_eq!(seen.private_addresses(), ["10.0.0.10"]);
    let public = world.client.get(&public).await.unwrap().unwrap();
    assert!(
        public
            .public_address()
            .is_some_and(|address| address.starts_with("203.0.113."))
    );
}

#[tokio::test]
async fn a_public_address_can_be_given_to_an_adapter_later_and_taken_back() {
    let world = World::empty().await;
    let id = world.adapter("nic").await;
    let before = world.client.get(&id).await.unwrap().unwrap();
    let before = before.private_addresses()[0].to_owned();
    let public = resource(ResourceKind::PublicAddress, "pip");
    world.create(&public, public_address()).await;
    for given in [Some(&public), None] {
        let body = Body::NetworkInterface(adapter(None, given));
        let begun = world.client.update(&id, &run(), &body).await.unwrap();
        let Outcome::Resource(seen) = world.finish(begun).await else {
            panic!("no adapter");
        };
        let pointer = "/properties/ipConfigurations/0/properties/publicIPAddress/id";
        assert_eq!(seen.whole().pointer(pointer).is_some(), given.is_some());
        assert_eq!(
            seen.private_addresses(),
            [before.as_str()],
            "its address stays"
        );
    }
    let begun = world.client.delete(&public).await.unwrap();
    world.finish(begun).await;
}

#[tokio::test]
async fn everything_of_a_run_is_found_by_its_tag() {
    let world = World::empty().await;
    let nic = world.adapter("nic").await;
    let public = resource(ResourceKind::PublicAddress, "pip");
    world.create(&public, public_address()).await;
    let mut found = world
        .client
        .list_of_run(&group(), &run().run)
        .await
        .unwrap();
    found.sort_by_key(ToString::to_string);
    assert_eq!(found, [nic, public]);
    let other = world
        .client
        .list_of_run(&group(), "prod/it's another")
        .await
        .unwrap();
    assert!(other.is_empty(), "{other:?}");
}

#[tokio::test]
async fn a_group_is_made_once_and_whoever_made_it_is_asked_for_it() {
    let world = World::empty().await;
    let id = site_recovery::azure::id::GroupId::new("s-1", "drill").unwrap();
    assert!(world.client.group(&id).await.unwrap().is_none());
    let tags = std::collections::BTreeMap::new();
    let body = site_recovery::azure::body::Group::new("westeurope", tags);
    for _ in 0..2 {
        let seen = world.client.create_group(&id, &body).await.unwrap();
        assert_eq!(seen.location.as_deref(), Some("westeurope"));
    }
    let made = world
        .arm()
        .journal()
        .into_iter()
        .filter(|(method, ..)| method == "PUT");
    assert_eq!(made.count(), 1);
}
