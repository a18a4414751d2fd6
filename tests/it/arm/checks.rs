//! What is asked before a failover, and that the same is refused when it is done all the same.

use site_recovery::azure::body::Body;
use site_recovery::azure::check::{Provider, allows};
use site_recovery::azure::id::ResourceKind;
use site_recovery::azure::{Arm as _, Checks as _, Kind};
use site_recovery::report::Code;

use crate::arm::world::{
    LOCATION, SUBSCRIPTION, World, adapter, group, kind, machine, network, public_address,
    resource, run, subnet,
};

#[tokio::test]
async fn networks_subnets_and_groups_are_found_or_not() {
    let world = World::empty().await;
    assert!(world.client.get(&network()).await.unwrap().is_some());
    assert!(world.client.get(&subnet()).await.unwrap().is_some());
    let other = network().subnet("s2").unwrap();
    assert!(world.client.get(&other).await.unwrap().is_none());
    assert!(world.client.group(&group()).await.unwrap().is_some());
    let rights = world.client.permissions(&group()).await.unwrap();
    assert!(allows(&rights, "Microsoft.Compute/virtualMachines/write"));
}

#[tokio::test]
async fn an_address_that_is_taken_is_seen_before_and_refused_after() {
    let world = World::empty().await;
    let address = "10.0.0.10".parse().unwrap();
    assert!(
        world
            .client
            .address(&network(), address)
            .await
            .unwrap()
            .available
    );
    let id = resource(ResourceKind::NetworkInterface, "nic");
    world
        .create(
            &id,
            Body::NetworkInterface(adapter(Some("10.0.0.10"), None)),
        )
        .await;

    let check = world.client.address(&network(), address).await.unwrap();
    assert!(!check.available && !check.others.is_empty());
    let other = resource(ResourceKind::NetworkInterface, "nic2");
    let create = async |address| {
        let body = Body::NetworkInterface(adapter(Some(address), None));
        kind(world.client.create(&other, &run(), &body).await)
    };
    assert_eq!(create("10.0.0.10").await, Kind::AddressUnusable);
    assert_eq!(create("10.9.0.10").await, Kind::AddressUnusable);
    let reserved = world
        .client
        .address(&network(), "10.0.0.1".parse().unwrap())
        .await
        .unwrap();
    assert!(reserved.reserved && !reserved.available);
    let outside = world
        .client
        .address(&network(), "192.168.0.1".parse().unwrap())
        .await;
    assert_eq!(kind(outside), Kind::AddressUnusable);
}

#[tokio::test]
async fn sizes_say_what_they_hold_and_which_cannot_be_had() {
    let world = World::with_storage().await;
    let sizes = world.client.sizes(SUBSCRIPTION, LOCATION).await.unwrap();
    let size = |name: &str| sizes.iter().find(|size| size.name == name).unwrap();
    assert_eq!(size("Standard_D2s_v5").data_disks_max, Some(4));
    assert_eq!(size("Standard_D2s_v5").restricted(None), None);
    assert!(size("Standard_D96s_v5").restricted(None).is_some());

    let os = world.disk("os", &[0; 1 << 20], true).await;
    let nic = world.adapter("nic").await;
    let id = resource(ResourceKind::VirtualMachine, "vm1");
    let of_size = async |size: &str| {
        let mut body = machine(&os, &[], &[&nic]);
        body.properties.hardware_profile.vm_size = size.into();
        let body = Body::VirtualMachine(Box::new(body));
        world.client.create(&id, &run(), &body).await.unwrap_err()
    };
    assert_eq!(
        of_size("Standard_D96s_v5").await.code(),
        Code::AzureSizeUnavailable
    );
    assert_eq!(of_size("Standard_None").await.kind, Kind::Refused);
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_seen_before_and_refused_after() {
    let emulator = crate::blob::emulator::start().await;
    let few = |options: &mut site_recovery::lab::arm::Options| {
        for quota in &mut options.quotas {
            quota.limit = match quota.name.as_str() {
                "cores" => 3,
                "PublicIPAddresses" => 1,
                _ => quota.limit,
            };
        }
    };
    let world = World::with(few, Some(emulator)).await;
    let [one, two] = [
        world.disk("os1", &[0; 1 << 20], true).await,
        world.disk("os2", &[0; 1 << 20], true).await,
    ];
    let free = async |provider, name: &str| {
        let usages = world
            .client
            .usages(SUBSCRIPTION, provider, LOCATION)
            .await
            .unwrap();
        usages
            .iter()
            .find(|usage| usage.name == name)
            .unwrap()
            .free()
    };
    assert_eq!(free(Provider::Compute, "cores").await, 3);
    let vm = world.machine("vm1", &one, &[]).await;
    assert_eq!(free(Provider::Compute, "cores").await, 1);

    let nic = world.adapter("nic2").await;
    let id = resource(ResourceKind::VirtualMachine, "vm2");
    let body = Body::VirtualMachine(Box::new(machine(&two, &[], &[&nic])));
    let error = world.client.create(&id, &run(), &body).await.unwrap_err();
    assert_eq!(error.code(), Code::AzureQuotaExceeded);
    assert!(error.to_string().contains("cores"), "{error}");
    let begun = world.client.delete(&vm).await.unwrap();
    world.finish(begun).await;
    world.create(&id, body).await;

    world
        .create(
            &resource(ResourceKind::PublicAddress, "p1"),
            public_address(),
        )
        .await;
    assert_eq!(free(Provider::Network, "PublicIPAddresses").await, 0);
}

#[tokio::test]
async fn a_group_or_a_part_that_is_not_there_is_named() {
    let world = World::empty().await;
    let elsewhere = site_recovery::azure::id::GroupId::new(SUBSCRIPTION, "nowhere").unwrap();
    let id = elsewhere
        .resource(ResourceKind::PublicAddress, "pip")
        .unwrap();
    let error = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::AzureNotFound);
    assert!(error.to_string().contains("nowhere"), "{error}");

    let absent = resource(ResourceKind::PublicAddress, "absent");
    let body = Body::NetworkInterface(adapter(None, Some(&absent)));
    let nic = resource(ResourceKind::NetworkInterface, "nic");
    let error = world.client.create(&nic, &run(), &body).await.unwrap_err();
    assert_eq!(error.code(), Code::AzureNotFound);
    assert!(error.to_string().contains("absent"), "{error}");
}
