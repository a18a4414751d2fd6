//! Creation: at most one of a name, never over somebody else's, and gone on with where it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use site_recovery::azure::body::Body;
use site_recovery::azure::id::ResourceKind;
use site_recovery::azure::operation::{Begun, Outcome, Progress};
use site_recovery::azure::{Arm as _, Kind};
use site_recovery::lab::arm::{Effect, Fault};

use crate::arm::world::{LOCATION, World, adapter, kind, owner, public_address, resource, run};

fn puts(world: &World) -> usize {
    let journal = world.arm().journal();
    journal
        .iter()
        .filter(|(method, ..)| method == "PUT")
        .count()
}

#[tokio::test]
async fn what_a_run_has_made_is_not_made_again() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    world.create(&id, public_address()).await;
    let again = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap();
    assert!(matches!(again, Begun::Done(Outcome::Resource(_))));
    assert_eq!(puts(&world), 1);
}

#[tokio::test]
async fn a_resource_of_somebody_else_is_never_written_over() {
    let world = World::empty().await;
    let id = resource(ResourceKind::NetworkInterface, "nic");
    let theirs = json!({ "location": LOCATION, "tags": { "owner": "me" }, "properties": {} });
    world.arm().place(&id.to_string(), theirs).unwrap();
    let body = Body::NetworkInterface(adapter(None, None));
    let error = world.client.create(&id, &run(), &body).await.unwrap_err();
    assert_eq!(error.kind, Kind::Taken);
    assert!(
        error.to_string().contains("/networkInterfaces/nic"),
        "{error}"
    );
    assert_eq!(
        kind(world.client.update(&id, &run(), &body).await),
        Kind::Taken
    );
    assert_eq!(puts(&world), 0);
}

#[tokio::test]
async fn another_runs_resource_and_another_content_are_no_creation() {
    let world = World::empty().await;
    let id = resource(ResourceKind::NetworkInterface, "nic");
    let at = |address| Body::NetworkInterface(adapter(Some(address), None));
    world.create(&id, at("10.0.0.10")).await;
    let other = owner("prod/failover-2");
    assert_eq!(
        kind(world.client.create(&id, &other, &at("10.0.0.10")).await),
        Kind::Taken
    );
    let error = world
        .client
        .create(&id, &run(), &at("10.0.0.11"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Differs);
    let said = site_recovery::report::chain(&error);
    assert!(said.contains("privateIPAddress"), "{said}");
}

#[tokio::test]
async fn tags_that_people_add_change_nothing() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    let more = BTreeMap::from([("cost".to_owned(), "42".to_owned())]);
    let tags = run().tags(&more).unwrap();
    let theirs = json!({
        "location": "West Europe", "tags": tags, "sku": { "name": "Standard" },
        "properties": { "publicIPAllocationMethod": "Static" },
    });
    world.arm().place(&id.to_string(), theirs).unwrap();
    let begun = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap();
    assert!(matches!(begun, Begun::Done(_)));
}

#[tokio::test]
async fn an_operation_that_takes_time_is_polled_by_whoever_has_its_value() {
    let mut world = World::changed(|options| {
        options.takes = Duration::from_millis(700);
    })
    .await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    let begun = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap();
    let Begun::Going(operation) = begun else {
        panic!("it takes its time");
    };
    let text = serde_json::to_string(&operation).unwrap();
    world.restart().await;
    let other = crate::arm::world::client(world.arm(), crate::arm::world::TOKEN);
    let going = other
        .poll(&serde_json::from_str(&text).unwrap())
        .await
        .unwrap();
    assert!(
        !matches!(going, Progress::Failed(_) | Progress::Unknown),
        "{going:?}"
    );
    world.finish(Begun::Going(operation)).await;
}

#[tokio::test]
async fn an_operation_that_azure_fails_says_why_and_can_be_begun_again() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    world.arm().fault(Fault {
        method: "PUT".into(),
        path: "/pip".into(),
        times: 1,
        effect: Effect::FailOperation {
            code: "AllocationFailed".into(),
            message: "We do not have sufficient capacity.".into(),
        },
    });
    let begun = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap();
    let error = world.end(begun).await.unwrap_err();
    assert_eq!(error.kind, Kind::NoCapacity);
    assert!(error.to_string().contains("sufficient capacity"), "{error}");
    world.create(&id, public_address()).await;
}

#[tokio::test]
async fn an_operation_that_azure_has_forgotten_is_settled_by_its_resource() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    for (method, path) in [("PUT", "/pip"), ("DELETE", "/pip")] {
        world.arm().fault(Fault {
            method: method.into(),
            path: path.into(),
            times: 1,
            effect: Effect::ForgetOperation,
        });
    }
    world.create(&id, public_address()).await;
    let begun = world.client.delete(&id).await.unwrap();
    assert!(matches!(begun, Begun::Going(_)));
    assert_eq!(world.finish(begun).await, Outcome::Nothing);
    assert!(world.client.get(&id).await.unwrap().is_none());
}
