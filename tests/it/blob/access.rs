//! What a shared access signature opens and what it does not.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use site_recovery::blob::client::container::ContainerClient;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::once::{self, Creation};
use site_recovery::blob::parameters::{
    Condition, DeleteSnapshots, Include, Permissions, PutOptions,
};
use site_recovery::blob::{Account, Container, Kind};
use site_recovery::report::Code;

use crate::blob::emulator::{self, Emulator};

const HOUR: Duration = Duration::from_secs(3600);

async fn signed(emulator: &Emulator, container: &str, permissions: Permissions) -> ContainerClient {
    let now = Timestamp::now();
    let sas = emulator
        .account()
        .sas(container, permissions, now - HOUR, now + HOUR)
        .await;
    emulator.by_signature(container, sas.unwrap())
}

#[tokio::test]
async fn an_inbox_takes_new_blobs_and_lets_nobody_change_them() {
    let emulator = emulator::start().await;
    let owner = emulator.container().await;
    let agent = signed(&emulator, owner.name(), Permissions::INBOX).await;
    let body = Bytes::from_static(b"log");

    agent
        .put("1/a.hrl", body.clone(), &PutOptions::create())
        .await
        .unwrap();
    let again = agent
        .put(
            "1/a.hrl",
            Bytes::from_static(b"other"),
            &PutOptions::default(),
        )
        .await;
    let error = again.unwrap_err();
    assert!(
        matches!(error.kind, Kind::SignatureRefused | Kind::AlreadyExists),
        "{error}"
    );
    assert_eq!(error.refusal.unwrap().status, 403);
    let head = BlobRef::head("1/a.hrl");
    let delete = agent
        .delete(&head, &Condition::Always, DeleteSnapshots::None)
        .await;
    assert_eq!(delete.unwrap_err().code(), Code::WaitingForCredentials);
    assert_eq!(agent.get(&head, None, 10).await.unwrap().bytes, body);
    let listed = agent.list("1/", Include::default(), None).await.unwrap();
    assert_eq!(listed.items.len(), 1);
}

#[tokio::test]
async fn a_seal_whose_reply_was_lost_is_recognized_by_a_signature_that_may_only_create() {
    let emulator = emulator::start().await;
    let owner = emulator.container().await;
    let agent = signed(&emulator, owner.name(), Permissions::INBOX).await;
    let create = |body: &'static [u8]| {
        let agent = agent.clone();
        async move {
            let body = Bytes::from_static(body);
            once::create(&agent, "1/sealed.json", body, &PutOptions::default()).await
        }
    };

    assert!(matches!(
        create(b"seal").await.unwrap(),
        Creation::Created(_)
    ));
    assert!(matches!(
        create(b"seal").await.unwrap(),
        Creation::AlreadyThere(_)
    ));
    assert_eq!(create(b"other").await.unwrap(), Creation::Different);
}

#[tokio::test]
async fn a_replica_is_only_read_by_its_agent() {
    let emulator = emulator::start().await;
    let owner = emulator.container().await;
    let body = Bytes::from_static(b"{}");
    owner
        .put("fence.json", body.clone(), &PutOptions::create())
        .await
        .unwrap();
    let agent = signed(&emulator, owner.name(), Permissions::REPLICA).await;

    let read = agent
        .get(&BlobRef::head("fence.json"), None, 10)
        .await
        .unwrap();
    assert_eq!(read.bytes, body);
    let write = agent
        .put("new", body, &PutOptions::create())
        .await
        .unwrap_err();
    assert_eq!(write.code(), Code::WaitingForCredentials);
}

#[tokio::test]
async fn a_signature_opens_its_own_container_alone_and_only_in_its_time() {
    let emulator = emulator::start().await;
    let (mine, other) = (emulator.container().await, emulator.container().await);
    let account = emulator.account();
    let now = Timestamp::now();
    let sas = account
        .sas(mine.name(), Permissions::INBOX, now - HOUR, now + HOUR)
        .await
        .unwrap();
    let expired = account
        .sas(mine.name(), Permissions::INBOX, now - 2 * HOUR, now - HOUR)
        .await
        .unwrap();

    let stranger = emulator.by_signature(other.name(), sas);
    let late = emulator.by_signature(mine.name(), expired);
    for agent in [stranger, late] {
        let error = agent.list("", Include::default(), None).await.unwrap_err();
        assert_eq!(error.code(), Code::WaitingForCredentials);
        assert!(!format!("{error:?}").contains("sig="), "{error:?}");
    }
    let backwards = account
        .sas(mine.name(), Permissions::INBOX, now, now - HOUR)
        .await;
    assert_eq!(backwards.unwrap_err().kind, Kind::Refused);
}
