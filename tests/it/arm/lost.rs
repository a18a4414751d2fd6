//! Bad days: replies and requests that are lost, servers that fail, throttling, credentials.

use std::time::Duration;

use site_recovery::azure::body::Body;
use site_recovery::azure::id::ResourceKind;
use site_recovery::azure::operation::{Action, Begun, Outcome};
use site_recovery::azure::{Arm as _, Kind};
use site_recovery::lab::arm::{Effect, Fault};
use site_recovery::report::Code;
use site_recovery::retry::{Class, class};

use crate::arm::world::{
    TOKEN, World, adapter, client, group, kind, public_address, resource, run,
};

fn fault(world: &World, method: &str, path: &str, times: u32, effect: Effect) {
    world.arm().fault(Fault {
        method: method.into(),
        path: path.into(),
        times,
        effect,
    });
}

fn answer(status: u16, code: &str, retry_after: Option<u64>) -> Effect {
    Effect::Answer {
        status,
        code: code.into(),
        message: "as asked for".into(),
        retry_after,
    }
}

fn count(world: &World, method: &str) -> usize {
    let journal = world.arm().journal();
    journal.iter().filter(|(other, ..)| other == method).count()
}

#[tokio::test]
async fn a_creation_whose_reply_is_lost_is_found_and_not_made_twice() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    fault(&world, "PUT", "/pip", 1, Effect::LoseReply);
    let begun = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap();
    assert!(matches!(world.finish(begun).await, Outcome::Resource(_)));
    assert_eq!(count(&world, "PUT"), 1);
}

#[tokio::test]
async fn a_creation_whose_request_is_lost_is_unknown_and_not_sent_again_by_itself() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    fault(&world, "PUT", "/pip", 1, Effect::LoseRequest);
    let error = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap_err();
    assert!(error.outcome_unknown());
    assert_eq!(class(error.code()), Class::Recoverable);
    assert_eq!(count(&world, "PUT"), 0);
    world.create(&id, public_address()).await;
}

#[tokio::test]
async fn a_creation_that_a_server_failed_is_unknown_and_not_sent_again() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    fault(
        &world,
        "PUT",
        "/pip",
        1,
        answer(500, "InternalServerError", None),
    );
    let error = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (Kind::ServerFailed, true)
    );
    assert_eq!(count(&world, "PUT"), 1);
}

#[tokio::test]
async fn a_deletion_whose_reply_is_lost_is_settled_by_a_look() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    world.create(&id, public_address()).await;
    fault(&world, "DELETE", "/pip", 1, Effect::LoseReply);
    let begun = world.client.delete(&id).await.unwrap();
    assert_eq!(world.finish(begun).await, Outcome::Nothing);
    assert!(world.client.get(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_of_an_adapter_that_did_not_arrive_is_not_taken_for_made() {
    let world = World::empty().await;
    let id = world.adapter("nic").await;
    let body = Body::NetworkInterface(adapter(Some("10.0.0.77"), None));
    fault(&world, "PUT", "/nic", 1, Effect::LoseRequest);
    let error = world.client.update(&id, &run(), &body).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    let begun = world.client.update(&id, &run(), &body).await.unwrap();
    let Outcome::Resource(seen) = world.finish(begun).await else {
        panic!("no adapter");
    };
    assert_eq!(seen.private_addresses(), ["10.0.0.77"]);
}

#[tokio::test]
async fn a_stop_whose_reply_is_lost_is_settled_by_the_machines_power() {
    let world = World::with_storage().await;
    let os = world.disk("os", &[0; 1 << 20], true).await;
    let vm = world.machine("vm1", &os, &[]).await;
    for effect in [Effect::LoseReply, Effect::LoseRequest] {
        let lost = matches!(effect, Effect::LoseRequest);
        fault(&world, "POST", "/deallocate", 1, effect);
        let begun = world.client.act(&vm, &Action::Deallocate).await;
        match begun {
            Ok(begun) => assert_eq!(world.finish(begun).await, Outcome::Nothing),
            Err(error) => panic!("{error}: it is deallocated, lost: {lost}"),
        }
    }
    fault(&world, "POST", "/start", 1, Effect::LoseRequest);
    let error = world.client.act(&vm, &Action::Start).await.unwrap_err();
    assert!(error.outcome_unknown(), "it is still off: {error}");
}

#[tokio::test]
async fn reads_are_sent_again_and_changes_that_were_refused_for_pace_too() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    fault(&world, "GET", "/pip", 1, Effect::LoseReply);
    fault(
        &world,
        "GET",
        "/pip",
        1,
        answer(503, "ServiceUnavailable", Some(0)),
    );
    fault(
        &world,
        "PUT",
        "/pip",
        1,
        answer(429, "TooManyRequests", Some(1)),
    );
    world.create(&id, public_address()).await;
    assert_eq!(count(&world, "PUT"), 2);
}

#[tokio::test]
async fn more_requests_than_azure_admits_take_their_turn() {
    let world = World::changed(|options| options.throttle = Some((5, 20))).await;
    let resources: Vec<_> = (0..12)
        .map(|number| resource(ResourceKind::PublicAddress, &format!("pip{number}")))
        .collect();
    let made = resources
        .iter()
        .map(|id| world.create(id, public_address()));
    let made = futures::future::join_all(made).await;
    assert_eq!(made.len(), 12);
}

#[tokio::test]
async fn credentials_that_are_refused_are_told_from_rights_that_lack() {
    let world = World::empty().await;
    let stranger = client(world.arm(), "expired");
    let id = resource(ResourceKind::PublicAddress, "pip");
    let error = stranger.get(&id).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code()),
        (Kind::Unauthorized, Code::AzureUnauthorized)
    );

    fault(
        &world,
        "PUT",
        "/pip",
        1,
        answer(403, "AuthorizationFailed", None),
    );
    let error = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.code()),
        (Kind::Forbidden, Code::AzureForbidden)
    );
    assert!(!error.outcome_unknown());
    for code in [Code::AzureUnauthorized, Code::AzureForbidden] {
        assert_eq!(class(code), Class::NonRecoverable);
    }
    let said = format!("{error:?} {}", error.fault());
    assert!(!said.contains(TOKEN), "{said}");
}

#[tokio::test]
async fn a_cloud_that_is_away_is_unreachable_and_nothing_was_done() {
    let mut world = World::empty().await;
    world.arm.take().unwrap().kill().await;
    let impatient = site_recovery::azure::client::Options {
        patience: Duration::ZERO,
        ..Default::default()
    };
    let url = format!("http://127.0.0.1:{}", world.options.port.unwrap());
    let environment = site_recovery::azure::cloud::Environment::custom(&url, None).unwrap();
    let identity = std::sync::Arc::new(crate::arm::world::Given(TOKEN));
    let http = crate::blob::emulator::http(&[]);
    let client =
        site_recovery::azure::client::ArmClient::new(&http, environment, identity, impatient);
    let error = client.group(&group()).await.unwrap_err();
    assert_eq!(
        (error.kind, error.outcome_unknown()),
        (Kind::Unreachable, false)
    );
}

#[tokio::test]
async fn a_token_is_not_sent_where_a_stored_operation_points() {
    let world = World::empty().await;
    let id = resource(ResourceKind::PublicAddress, "pip");
    let begun = world
        .client
        .create(&id, &run(), &public_address())
        .await
        .unwrap();
    let Begun::Going(operation) = begun else {
        panic!("it is begun");
    };
    let stored = serde_json::to_string(&operation).unwrap();
    let turned = stored.replace("127.0.0.1", "127.0.0.2");
    assert_ne!(stored, turned);
    let operation = serde_json::from_str(&turned).unwrap();
    assert_eq!(kind(world.client.poll(&operation).await), Kind::Refused);
}
