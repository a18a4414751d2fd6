//! What the client makes of a network and a service that fail: which requests it repeats, and what it then knows.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use site_recovery::blob::client::Options;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::client::container::ContainerClient;
use site_recovery::blob::credential::{AccountKey, RenewableSas};
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::names::{BlobRef, SequenceNumber};
use site_recovery::blob::parameters::{Condition, DeleteSnapshots, Metadata, PutOptions};
use site_recovery::blob::{Account, Container, Kind};
use site_recovery::report::Code;
use site_recovery::retry::Again;
use site_recovery::secret::{SasToken, Secret};
use site_recovery::units::ByteRange;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::blob::emulator::{self, impatient, noise, patient};
use crate::blob::server::{Reply, Server, answer, refusal};

const SIGNATURE: &str = "sv=2023-11-03&sp=rcl&sig=c2VjcmV0";

fn agent(endpoint: Endpoint, options: Options) -> ContainerClient {
    let sas = RenewableSas::new(SasToken::new(SIGNATURE));
    ContainerClient::with_sas(&emulator::http(&[]), endpoint, "inbox", sas, options)
}

fn owner(endpoint: Endpoint, options: Options) -> AccountClient {
    let key = AccountKey::new(&Secret::new("a2V5")).unwrap();
    AccountClient::with_key(&emulator::http(&[]), endpoint, key, options)
}

fn content(text: &str) -> Reply {
    Reply::Answer(answer(200).body(text))
}

fn fence() -> SequenceNumber {
    SequenceNumber::ZERO
}

#[tokio::test]
async fn a_read_that_is_torn_is_read_again_whole() {
    let torn = Reply::Torn(answer(200).body("content"));
    let server = Server::answering(vec![Reply::Broken, torn, content("content")]).await;
    let container = agent(server.endpoint(), patient());

    let got = container.get(&BlobRef::head("a"), None, 100).await.unwrap();
    assert_eq!(&got.bytes[..], b"content");
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_busy_or_failing_service_is_asked_again() {
    let replies = vec![
        refusal(503, "ServerBusy"),
        refusal(500, "InternalError"),
        refusal(429, "TooManyRequests"),
        refusal(408, ""),
        content("content"),
    ];
    let server = Server::answering(replies).await;
    let container = agent(server.endpoint(), patient());
    container.get(&BlobRef::head("a"), None, 100).await.unwrap();
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn an_answer_that_would_be_the_same_again_is_taken_at_once() {
    let cases = [
        (403, "AuthenticationFailed", Code::WaitingForCredentials),
        (404, "BlobNotFound", Code::StorageNotFound),
        (409, "SnapshotsPresent", Code::StorageConflict),
        (412, "ConditionNotMet", Code::StorageChanged),
        (412, "SequenceNumberConditionNotMet", Code::Fenced),
        (400, "InvalidHeaderValue", Code::StorageRefused),
        (416, "InvalidRange", Code::StorageRefused),
        (302, "", Code::StorageServerError),
    ];
    for (status, code, expected) in cases {
        let server = Server::answering(vec![refusal(status, code)]).await;
        let container = agent(server.endpoint(), patient());
        let error = container
            .put_pages("a", 0, noise(1, 512), fence())
            .await
            .unwrap_err();
        assert_eq!(error.code(), expected, "{status} {code}");
        assert_eq!(error.again(), Again::Never, "{status} {code}");
        assert!(!error.repeated);
        assert_eq!(server.requests().len(), 1, "{status} {code}");
    }
}

#[tokio::test]
async fn the_service_may_say_how_long_to_wait() {
    let busy = answer(503)
        .with("retry-after", "7")
        .with("x-ms-error-code", "ServerBusy");
    let server = Server::answering(vec![Reply::Answer(busy)]).await;
    let container = agent(server.endpoint(), impatient());

    let error = container
        .get(&BlobRef::head("a"), None, 100)
        .await
        .unwrap_err();
    assert_eq!(error.again(), Again::After(Duration::from_secs(7)));
    assert_eq!(error.code(), Code::StorageBusy);
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_creation_whose_reply_was_lost_says_that_it_may_be_its_own() {
    let server = Server::answering(vec![Reply::Broken, refusal(409, "BlobAlreadyExists")]).await;
    let container = agent(server.endpoint(), patient());

    let put = container
        .put("a", Bytes::from_static(b"x"), &PutOptions::create())
        .await;
    let error = put.unwrap_err();
    assert!(error.is_already_exists() && error.repeated && error.outcome_unknown());
    assert_eq!(server.requests()[1].header("if-none-match"), Some("*"));
}

#[tokio::test]
async fn a_snapshot_is_not_taken_twice() {
    let lost = Server::answering(vec![Reply::Broken, Reply::Broken]).await;
    let failed = Server::answering(vec![refusal(500, "InternalError"), Reply::Broken]).await;
    for server in [&lost, &failed] {
        let container = agent(server.endpoint(), patient());
        let taken = container
            .snapshot("a", &Metadata::new(), &Condition::Always)
            .await;
        assert!(taken.unwrap_err().outcome_unknown());
        assert_eq!(server.requests().len(), 1);
    }

    let taken = Reply::Answer(answer(201).with("x-ms-snapshot", "2026-01-21T10:00:00.0000000Z"));
    let busy = Server::answering(vec![refusal(503, "ServerBusy"), taken]).await;
    let container = agent(busy.endpoint(), patient());
    container
        .snapshot("a", &Metadata::new(), &Condition::Always)
        .await
        .unwrap();
    assert_eq!(busy.requests().len(), 2);
}

#[tokio::test]
async fn a_delete_whose_reply_was_lost_finds_nothing() {
    let server = Server::answering(vec![Reply::Broken, refusal(404, "BlobNotFound")]).await;
    let container = agent(server.endpoint(), patient());
    let blob = BlobRef::head("a");
    let deleted = container
        .delete(&blob, &Condition::Always, DeleteSnapshots::None)
        .await;
    assert!(!deleted.unwrap());
}

#[tokio::test]
async fn an_unreachable_service_has_done_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint = Endpoint::parse(&format!("http://{address}/acct1")).unwrap();
    let container = agent(endpoint, impatient());

    let put = container
        .put("a", Bytes::from_static(b"x"), &PutOptions::create())
        .await;
    let error = put.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert_eq!(error.code(), Code::StorageUnreachable);
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn no_error_shows_a_signature() {
    let empty = Server::answering(vec![]).await;
    let gone = {
        let server = Server::answering(vec![]).await;
        server.endpoint()
    };
    let html = Server::answering(vec![Reply::Answer(answer(200).body("<html>"))]).await;
    let refused = Server::answering(vec![refusal(403, "AuthenticationFailed")]).await;
    for endpoint in [empty.endpoint(), gone, html.endpoint(), refused.endpoint()] {
        let container = agent(endpoint, impatient());
        let error = container
            .list("x", Default::default(), None)
            .await
            .unwrap_err();
        let said = format!("{error} {error:?} {}", error.fault());
        assert!(
            !said.contains("c2VjcmV0") && !said.contains("sig="),
            "{said}"
        );
        assert!(said.contains("/acct1/inbox"), "{said}");
    }
}

#[tokio::test]
async fn bytes_that_were_changed_on_the_way_are_sent_again() {
    let emulator = emulator::start().await;
    let container = emulator.container().await;
    container
        .create_page_blob("a", 4096, fence(), &Metadata::new(), None)
        .await
        .unwrap();
    let url = reqwest::Url::parse(&emulator.endpoint().to_string()).unwrap();
    let azurite: SocketAddr = *url.socket_addrs(|| None).unwrap().first().unwrap();
    let mut damages = [true, false, true].into_iter();
    let proxy = Server::start(move |request| {
        let mut body = request.body.clone();
        if damages.next().unwrap_or(false) {
            body[100] ^= 1;
        }
        Reply::Forwarded(azurite, body)
    })
    .await;
    let through = proxy
        .endpoint()
        .to_string()
        .replace("acct1", emulator.endpoint().account());
    let through = Endpoint::parse(&through).unwrap();
    let by = |options| {
        AccountClient::with_key(
            &emulator::http(&[]),
            through.clone(),
            emulator.key(),
            options,
        )
        .container(container.name())
    };

    let body = noise(1, 4096);
    by(patient())
        .put_pages("a", 0, body.clone(), fence())
        .await
        .unwrap();
    let read = container
        .get(&BlobRef::head("a"), None, 4096)
        .await
        .unwrap();
    assert_eq!(read.bytes, body);
    let damaged = by(impatient())
        .put_pages("a", 0, noise(2, 4096), fence())
        .await;
    let error = damaged.unwrap_err();
    assert_eq!(error.code(), Code::StorageIntegrity);
    assert_eq!(
        error.refusal.unwrap().code.as_deref(),
        Some("Crc64Mismatch")
    );
    let read = container
        .get(&BlobRef::head("a"), None, 4096)
        .await
        .unwrap();
    assert_eq!(read.bytes, body);
}

#[tokio::test]
async fn a_checksum_that_the_service_does_not_confirm_is_no_success() {
    let other = answer(201).with("x-ms-content-crc64", "AAAAAAAAAAA=");
    let server = Server::answering(vec![Reply::Answer(other)]).await;
    let container = agent(server.endpoint(), impatient());

    let error = container
        .put_pages("a", 0, noise(1, 512), fence())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::StorageIntegrity);
    assert!(error.outcome_unknown());
    let sent = &server.requests()[0];
    assert!(sent.header("x-ms-content-crc64").is_some() && sent.header("content-md5").is_none());
    assert_eq!(sent.header("x-ms-if-sequence-number-eq"), Some("0"));
}

#[tokio::test]
async fn an_answer_of_a_proxy_is_not_taken_for_the_services() {
    for stranger in ["etag", "x-ms-request-id"] {
        let mut html = answer(201).body("<html>Welcome</html>");
        html.headers.remove(stranger);
        let server = Server::answering(vec![Reply::Answer(html)]).await;
        let container = agent(server.endpoint(), impatient());
        let put = container
            .put("a", Bytes::from_static(b"x"), &PutOptions::create())
            .await;
        let error = put.unwrap_err();
        assert_eq!(error.code(), Code::StorageServerError, "{error}");
        assert!(error.outcome_unknown());
    }
    let html = Reply::Answer(answer(202).body(vec![b'x'; 100_000]));
    let server = Server::answering(vec![html]).await;
    let container = agent(server.endpoint(), impatient());
    let blob = BlobRef::head("a");
    let deleted = container
        .delete(&blob, &Condition::Always, DeleteSnapshots::None)
        .await;
    assert_eq!(deleted.unwrap_err().kind, Kind::Malformed);
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_not_read_announced_or_not() {
    let long = || answer(200).body(vec![b'x'; 100_000]);
    let server = Server::answering(vec![Reply::Answer(long()), Reply::Chunked(long())]).await;
    let container = agent(server.endpoint(), impatient());
    for _ in 0..2 {
        let error = container
            .get(&BlobRef::head("a"), None, 5000)
            .await
            .unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge { limit: 5000 });
    }
}

#[tokio::test]
async fn a_stop_ends_the_waiting_and_not_the_asking() {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let mut seen = 0;
    let server = Server::start(move |_| {
        seen += 1;
        if seen == 2 {
            stopped.cancel();
        }
        refusal(503, "ServerBusy")
    })
    .await;
    let options = Options { stop, ..patient() };
    let container = agent(server.endpoint(), options);

    let error = container
        .get(&BlobRef::head("a"), None, 1)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::StorageBusy);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_signature_that_was_renewed_meanwhile_is_used_at_once() {
    let sas = RenewableSas::new(SasToken::new("sig=old"));
    let renewed = sas.clone();
    let server = Server::start(move |request| {
        if request.head.contains("sig=new") {
            return content("content");
        }
        renewed.replace(SasToken::new("sig=new"));
        refusal(403, "AuthenticationFailed")
    })
    .await;
    let http = emulator::http(&[]);
    let container = ContainerClient::with_sas(&http, server.endpoint(), "inbox", sas, patient());

    container.get(&BlobRef::head("a"), None, 100).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn requests_of_the_account_are_signed_and_carry_no_query_of_a_signature() {
    let server = Server::answering(vec![Reply::Answer(answer(201))]).await;
    let account = owner(server.endpoint(), impatient());
    account.create_container("abc").await.unwrap();
    let request = &server.requests()[0];
    assert!(
        request
            .header("authorization")
            .unwrap()
            .starts_with("SharedKey acct1:")
    );
    assert!(!request.head.contains("sig="));
    assert_eq!(request.header("content-length"), Some("0"));
    assert_eq!(request.header("x-ms-version"), Some("2023-11-03"));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_falls_silent_is_given_up() {
    let stuck = Reply::Stuck(answer(200).body("content"));
    let server = Server::answering(vec![Reply::Silence, stuck]).await;
    let container = agent(server.endpoint(), impatient());
    for _ in 0..2 {
        let error = container
            .get(&BlobRef::head("a"), None, 100)
            .await
            .unwrap_err();
        assert_eq!(error.kind, Kind::Interrupted);
    }
}

#[tokio::test]
async fn a_range_that_a_proxy_ignores_is_not_taken_for_it() {
    let server = Server::answering(vec![content("0123456789")]).await;
    let container = agent(server.endpoint(), impatient());
    let range = ByteRange::new(0, 10);
    let error = container
        .get(&BlobRef::head("a"), range, 10)
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Malformed);
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_body_was_sent_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let head = "HTTP/1.1 403 Forbidden\r\nx-ms-error-code: AuthenticationFailed\r\n";
        let rest = "content-length: 0\r\nconnection: close\r\n\r\n";
        stream
            .write_all([head, rest].concat().as_bytes())
            .await
            .unwrap();
        // As a server should: what it does not want any more, it still reads.
        tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .ok();
    });
    let endpoint = Endpoint::parse(&format!("http://{address}/acct1")).unwrap();
    let container = agent(endpoint, impatient());

    let put = container
        .put("a", noise(1, 64 << 20), &PutOptions::create())
        .await;
    assert_eq!(put.unwrap_err().code(), Code::WaitingForCredentials);
    service.await.unwrap();
}
