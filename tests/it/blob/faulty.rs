//! The wrapper that injects faults: what happened and what was told are two things.

use std::sync::Arc;

use bytes::Bytes;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::account::FaultyAccount;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure, Rule};
use site_recovery::blob::names::{BlobRef, PAGES_MAX, SequenceNumber};
use site_recovery::blob::parameters::{Metadata, PutOptions};
use site_recovery::blob::{Account, Container, Kind};
use site_recovery::report::Code;
use site_recovery::units::to_usize;

use crate::blob::emulator::{self, noise};

fn rule(operation: Operation, object: &str, calls: Calls, effect: Effect) -> Rule {
    Rule {
        operations: vec![operation],
        object: object.to_owned(),
        calls,
        effect,
    }
}

/// A new container, and itself on a bad day.
async fn pair(
    emulator: &emulator::Emulator,
) -> (Arc<dyn Container>, Arc<dyn Container>, Arc<Faults>) {
    let sound = emulator.container().await;
    let faults = Faults::new(1);
    let faulty = Arc::new(FaultyContainer::new(sound.clone(), faults.clone()));
    (sound, faulty, faults)
}

#[tokio::test]
async fn what_fails_before_did_not_happen_and_what_fails_after_did() {
    let emulator = emulator::start().await;
    let (sound, faulty, faults) = pair(&emulator).await;
    let put = Operation::PutBlob;
    faults.add(rule(
        put,
        "*/before",
        Calls::All,
        Effect::Fail(Failure::Throttled),
    ));
    faults.add(rule(
        put,
        "*/after",
        Calls::Nth(1),
        Effect::FailAfter(Failure::Interrupted),
    ));
    let body = Bytes::from_static(b"x");
    let write = |name: &'static str| {
        let (faulty, body) = (faulty.clone(), body.clone());
        async move { faulty.put(name, body, &PutOptions::create()).await }
    };

    assert_eq!(write("before").await.unwrap_err().code(), Code::StorageBusy);
    assert!(
        sound
            .properties(&BlobRef::head("before"))
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(write("after").await.unwrap_err().outcome_unknown());
    assert!(sound.properties(&BlobRef::head("after")).await.is_ok());
    assert!(write("after").await.unwrap_err().is_already_exists());
    write("other").await.unwrap();
    assert_eq!(faults.calls(put), 4);
    faults.clear();
    write("before").await.unwrap();
}

#[tokio::test]
async fn a_write_that_was_delayed_in_the_network_meets_the_fence() {
    let emulator = emulator::start().await;
    let (sound, faulty, faults) = pair(&emulator).await;
    let number = |value| SequenceNumber::new(value).unwrap();
    sound
        .create_page_blob("d", 4096, number(1), &Metadata::new(), None)
        .await
        .unwrap();
    let gate = Gate::closed();
    let late = Effect::Late(gate.clone());
    faults.add(rule(Operation::PutPages, "*/d", Calls::Nth(1), late));

    let old = faulty.put_pages("d", 0, noise(1, 4096), number(1)).await;
    assert_eq!(old.unwrap_err().kind, Kind::Interrupted);
    sound.set_sequence_number("d", number(2)).await.unwrap();
    faulty
        .put_pages("d", 0, noise(2, 4096), number(2))
        .await
        .unwrap();
    gate.open();
    gate.finished(1).await;

    let read = sound.get(&BlobRef::head("d"), None, 4096).await.unwrap();
    assert_eq!(read.bytes, noise(2, 4096));
}

#[tokio::test]
async fn a_held_request_goes_on_when_its_gate_opens() {
    let emulator = emulator::start().await;
    let (sound, faulty, faults) = pair(&emulator).await;
    let (before, after) = (Gate::closed(), Gate::closed());
    faults.add(rule(
        Operation::PutBlob,
        "*",
        Calls::All,
        Effect::Hold(before.clone()),
    ));
    faults.add(rule(
        Operation::PutBlob,
        "*",
        Calls::All,
        Effect::HoldReply(after.clone()),
    ));
    let body = Bytes::from_static(b"x");
    let writing = tokio::spawn(async move { faulty.put("a", body, &PutOptions::create()).await });

    before.arrived(1).await;
    assert!(
        sound
            .properties(&BlobRef::head("a"))
            .await
            .unwrap_err()
            .is_not_found()
    );
    before.open();
    after.arrived(1).await;
    assert!(sound.properties(&BlobRef::head("a")).await.is_ok());
    assert!(!writing.is_finished());
    after.open();
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn containers_of_an_account_share_its_bad_day() {
    let emulator = emulator::start().await;
    let faults = Faults::new(1);
    let account = FaultyAccount::new(Arc::new(emulator.account()), faults.clone());
    let name = emulator::unique("bad");
    faults.add(rule(
        Operation::CreateContainer,
        "bad-*",
        Calls::Nth(1),
        Effect::Fail(Failure::Unreachable),
    ));
    faults.add(rule(
        Operation::GetBlob,
        "*",
        Calls::All,
        Effect::Fail(Failure::SignatureRefused),
    ));

    assert_eq!(
        account.create_container(&name).await.unwrap_err().kind,
        Kind::Unreachable
    );
    assert!(account.create_container(&name).await.unwrap());
    let read = account
        .container(&name)
        .get(&BlobRef::head("a"), None, 1)
        .await;
    assert_eq!(read.unwrap_err().code(), Code::WaitingForCredentials);
}

#[tokio::test]
async fn limits_that_the_emulator_lacks_hold_all_the_same() {
    let emulator = emulator::start().await;
    let (sound, faulty, faults) = pair(&emulator).await;
    let fence = SequenceNumber::ZERO;
    let size = 2 * PAGES_MAX;
    sound
        .create_page_blob("d", size, fence, &Metadata::new(), None)
        .await
        .unwrap();
    let long = noise(1, to_usize(PAGES_MAX) + 512);
    let error = faulty.put_pages("d", 0, long, fence).await.unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert_eq!(faults.calls(Operation::PutPages), 0);
}
