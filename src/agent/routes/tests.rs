//! What each route answers, and what it refuses.

use std::sync::Mutex;

use axum::body::Body as HttpBody;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::ids::{HostName, OperationId};
use crate::units::Generation;
use crate::wire::REQUEST_MAX;

const REPLICA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaae";

/// A host that does what its test says when it is asked to start.
struct Host {
    start: Box<dyn Fn() -> Result<(), Fault> + Send + Sync>,
    hold: Semaphore,
    removed: Mutex<Vec<ReplicaId>>,
}

impl Host {
    fn new(start: impl Fn() -> Result<(), Fault> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Host {
            start: Box::new(start),
            hold: Semaphore::new(0),
            removed: Mutex::default(),
        })
    }
}

fn done(operation: OperationId) -> Answer {
    Answer {
        operation,
        repeated: false,
    }
}

#[async_trait]
impl Service for Host {
    fn hello(&self, _: &Hello, version: u32) -> HelloReply {
        HelloReply {
            version,
            release: "0.1.0".to_owned(),
            host: "hv1".parse::<HostName>().unwrap(),
            session: Uuid::from_u128(5),
        }
    }

    async fn observations(
        &self,
        session: Option<Uuid>,
        after: u64,
        _: Instant,
    ) -> Result<Observations, Fault> {
        assert!(after < u64::MAX, "a bug that a test can provoke");
        Ok(Observations {
            session: session.unwrap_or_default(),
            revision: after + 1,
            host: None,
            replications: Vec::new(),
            existing: Vec::new(),
        })
    }

    async fn settings(&self, command: HostCommand<Settings>) -> Result<Answer, Fault> {
        let held = self.hold.acquire().await;
        drop(held);
        Ok(done(command.operation))
    }

    async fn create_relationship(&self, command: Command<Relationship>) -> Result<Answer, Fault> {
        Ok(done(command.operation))
    }

    async fn start(&self, _: ReplicaId, command: Command<Start>) -> Result<Answer, Fault> {
        (self.start)().map(|()| done(command.operation))
    }

    async fn synchronize(
        &self,
        _: ReplicaId,
        command: Command<Synchronize>,
    ) -> Result<Answer, Fault> {
        Ok(done(command.operation))
    }

    async fn resynchronize(
        &self,
        _: ReplicaId,
        command: Command<Resynchronize>,
    ) -> Result<Answer, Fault> {
        Ok(done(command.operation))
    }

    async fn remove(&self, replica: ReplicaId, command: Command<Remove>) -> Result<Answer, Fault> {
        self.removed.lock().unwrap().push(replica);
        Ok(done(command.operation))
    }
}

/// A router on a connection, to which a leader has said hello.
async fn led(host: Arc<Host>) -> Router {
    let router = silent(host);
    let hello = Hello {
        versions: Versions::OURS,
        release: "0.1.0".to_owned(),
        leader: true,
    };
    let (status, _) = ask(&router, "POST", "/v1/hello", json(&hello)).await;
    assert_eq!(status, StatusCode::OK);
    router
}

fn silent(host: Arc<Host>) -> Router {
    router(host).layer(Extension(Arc::new(Conversation::new())))
}

fn json(value: &impl serde::Serialize) -> HttpBody {
    HttpBody::from(serde_json::to_vec(value).unwrap())
}

fn settings() -> HostCommand<Settings> {
    HostCommand {
        operation: OperationId::from_random(1),
        body: Settings::default(),
    }
}

fn command<T>(body: T) -> Command<T> {
    Command {
        generation: Generation::ZERO,
        operation: OperationId::from_random(1),
        run: None,
        body,
    }
}

async fn ask(router: &Router, method: &str, path: &str, body: HttpBody) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).body(body);
    let response = router.clone().oneshot(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, body.to_vec())
}

async fn fault(router: &Router, method: &str, path: &str, body: HttpBody) -> (StatusCode, Fault) {
    let (status, body) = ask(router, method, path, body).await;
    let fault = serde_json::from_slice(&body);
    (
        status,
        fault.unwrap_or_else(|_| panic!("no fault: {}", String::from_utf8_lossy(&body))),
    )
}

fn start_path() -> String {
    format!("/v1/replications/{REPLICA}/start")
}

#[tokio::test]
async fn a_paths_replica_reaches_the_service() {
    let host = Host::new(|| Ok(()));
    let router = led(host.clone()).await;
    let path = format!("/v1/replications/{REPLICA}/remove");
    let (status, _) = ask(&router, "POST", &path, json(&command(Remove {}))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(host.removed.lock().unwrap()[0].as_str(), REPLICA);
}

#[tokio::test]
async fn a_poll_without_a_session_asks_for_everything() {
    let router = led(Host::new(|| Ok(()))).await;
    for (query, session, revision) in [
        ("", 0, 1),
        ("?session=&after=3", 0, 4),
        (
            "?session=00000000-0000-0000-0000-000000000005&after=9",
            5,
            10,
        ),
    ] {
        let path = format!("/v1/observations{query}");
        let (_, body) = ask(&router, "GET", &path, HttpBody::empty()).await;
        let answer: Observations = serde_json::from_slice(&body).unwrap();
        let expected = (Uuid::from_u128(session), revision);
        assert_eq!((answer.session, answer.revision), expected, "{query}");
    }
}

#[tokio::test]
async fn nothing_is_done_before_hello_or_for_a_controller_that_does_not_lead() {
    let router = silent(Host::new(|| Ok(())));
    let body = || json(&command(Start {}));
    let (status, _) = fault(&router, "POST", &start_path(), body()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let hello = Hello {
        versions: Versions::OURS,
        release: String::new(),
        leader: false,
    };
    assert_eq!(
        ask(&router, "POST", "/v1/hello", json(&hello)).await.0,
        StatusCode::OK
    );
    let (_, refused) = fault(&router, "POST", &start_path(), body()).await;
    assert_eq!(refused.code, Code::InvalidRequest);
}

#[tokio::test]
async fn versions_that_do_not_meet_are_said_by_both_ends() {
    let router = silent(Host::new(|| Ok(())));
    let hello = Hello {
        versions: Versions {
            oldest: 90,
            newest: 91,
        },
        release: String::new(),
        leader: true,
    };
    let (status, refused) = fault(&router, "POST", "/v1/hello", json(&hello)).await;
    assert_eq!(
        (status, refused.code),
        (StatusCode::CONFLICT, Code::AgentIncompatible)
    );
    assert!(refused.message.contains("90 to 91"), "{}", refused.message);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_fault() {
    let router = led(Host::new(|| Ok(()))).await;
    let start = start_path();
    let small = || json(&command(Start {}));
    let cases = [
        ("GET", "/", HttpBody::empty()),
        ("GET", "/v2/hello", HttpBody::empty()),
        ("DELETE", start.as_str(), HttpBody::empty()),
        ("POST", "/v1/replications/UPPER/start", small()),
        ("POST", start.as_str(), HttpBody::from("{")),
        ("POST", start.as_str(), HttpBody::from("[]")),
        (
            "POST",
            start.as_str(),
            HttpBody::from(vec![b' '; REQUEST_MAX + 1]),
        ),
        ("GET", "/v1/observations?session=5", HttpBody::empty()),
        ("GET", "/v1/observations?after=-1", HttpBody::empty()),
    ];
    for (method, path, body) in cases {
        let (status, refused) = fault(&router, method, path, body).await;
        let expected = (StatusCode::BAD_REQUEST, Code::InvalidRequest);
        assert_eq!((status, refused.code), expected, "{method} {path}");
        assert!(refused.message.len() < 1000);
    }
}

#[tokio::test]
async fn a_body_that_is_not_understood_is_not_repeated() {
    let router = led(Host::new(|| Ok(()))).await;
    let body = HttpBody::from(r#"{"operation":"sig=hunter2","body":{}}"#);
    let (_, refused) = fault(&router, "POST", &start_path(), body).await;
    assert!(!refused.message.contains("hunter2"), "{}", refused.message);
}

#[tokio::test]
async fn the_services_faults_keep_their_code_and_status() {
    let busy = Fault::new(Code::HostBusy, "merging disks");
    let router = led(Host::new({
        let busy = busy.clone();
        move || Err(busy.clone())
    }))
    .await;
    let (status, said) = fault(&router, "POST", &start_path(), json(&command(Start {}))).await;
    assert_eq!((status, said), (StatusCode::SERVICE_UNAVAILABLE, busy));
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let router = led(Host::new(|| panic!("a bug"))).await;
    let (status, said) = fault(&router, "POST", &start_path(), json(&command(Start {}))).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(said.code, Code::Internal);
}

#[tokio::test]
async fn a_panic_of_a_poll_is_an_answer_too() {
    let router = led(Host::new(|| Ok(()))).await;
    let path = format!("/v1/observations?after={}", u64::MAX);
    let (_, said) = fault(&router, "GET", &path, HttpBody::empty()).await;
    assert_eq!(said.code, Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_command_goes_on_when_nobody_waits_for_it_any_more() {
    let host = Host::new(|| Ok(()));
    let router = led(host.clone()).await;
    let body = || json(&settings());
    let (status, said) = fault(&router, "PUT", "/v1/settings", body()).await;
    assert_eq!(said.code, Code::HostTimeout);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    host.hold.add_permits(1);
    assert_eq!(
        ask(&router, "PUT", "/v1/settings", body()).await.0,
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn commands_that_never_end_do_not_pile_up() {
    let host = Host::new(|| Ok(()));
    let router = led(host.clone()).await;
    for _ in 0..COMMANDS {
        let (_, said) = fault(&router, "PUT", "/v1/settings", json(&settings())).await;
        assert_eq!(said.code, Code::HostTimeout);
    }
    let (_, said) = fault(&router, "PUT", "/v1/settings", json(&settings())).await;
    assert_eq!(said.code, Code::HostBusy);
}
