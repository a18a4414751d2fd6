//! Peers that are slow, silent, or speak something else: each is closed, and keeps nobody else out.

use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::routing::{get, post};
use axum::{Json, body::Bytes};
use site_recovery::controller::gateway::refusals::Claimant;
use site_recovery::controller::gateway::{Limits, Registry};
use site_recovery::report::Code;
use site_recovery::wire::{self, HelloReply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use uuid::Uuid;

use super::world::{
    AgentProcess, Controller, NEVER, Pki, TestHost, config, host_name, identity, impostor, quick,
};

/// Reads until the other side closes, however it does.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    let read = timeout(NEVER, stream.read_to_end(&mut rest)).await;
    let _how = read.expect("the connection was not closed");
}

async fn refused_from_here(controller: &Controller) -> String {
    let here = Claimant::Address([127, 0, 0, 1].into());
    let found = |registry: &Registry| {
        let refused = registry.refused();
        refused.into_iter().find(|refused| refused.claimant == here)
    };
    controller
        .until("a refusal is shown", found)
        .await
        .fault
        .message
}

fn hasty() -> Limits {
    let mut limits = quick();
    limits.handshake = Duration::from_millis(200);
    limits.agent.hello = Duration::from_millis(200);
    limits
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_closed() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), hasty()).await;
    let mut slow = TcpStream::connect(controller.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    closed(slow).await;
    assert!(
        refused_from_here(&controller)
            .await
            .contains("did not finish its handshake")
    );
    controller.stop().await;
}

#[tokio::test]
async fn many_handshakes_that_do_not_go_on_keep_no_agent_out() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), hasty()).await;
    let mut slow = Vec::new();
    for _ in 0..300 {
        slow.push(TcpStream::connect(controller.address).await.unwrap());
    }
    let mut config = config(pki.agent("hv1"), controller.address);
    config.limits.handshake = NEVER;
    let agent = AgentProcess::start_with(TestHost::new("hv1"), config);
    controller.connected("hv1").await;
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn what_is_not_tls_is_closed() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let mut plain = TcpStream::connect(controller.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    closed(plain).await;
    assert!(
        refused_from_here(&controller)
            .await
            .contains("does not speak TLS")
    );
    controller.stop().await;
}

#[tokio::test]
async fn a_health_check_that_connects_and_leaves_is_not_shown() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    drop(TcpStream::connect(controller.address).await.unwrap());
    let agent = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);
    controller.connected("hv1").await;
    assert_eq!(controller.registry.refused(), []);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_that_speaks_something_else_than_http2_is_closed_and_shown() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let mut stream = impostor(pki.agent("hv1"), controller.address).await;
    stream.write_all(&[0xff; 4096]).await.unwrap();
    stream.flush().await.unwrap();
    closed(stream).await;
    let shown = |registry: &Registry| {
        let hv1 = Claimant::Host(identity("hv1"));
        registry.refused().into_iter().find(|r| r.claimant == hv1)
    };
    controller.until("it is shown", shown).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_peer_that_never_answers_hello_is_closed() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), hasty()).await;
    closed(impostor(pki.agent("hv1"), controller.address).await).await;
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_gives_up_a_gateway_that_does_not_say_hello() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(pki.agent("hv1"), listener.local_addr().unwrap());
    config.limits.hello = Duration::from_millis(200);
    let agent = AgentProcess::start_with(TestHost::new("hv1"), config);
    let tls = site_recovery::tls::ServerTls::new(pki.gateway());
    let accepted = tls
        .accept(listener.accept().await.unwrap().0)
        .await
        .unwrap();
    let fault = agent.failed().await;
    assert!(
        fault.message.contains("did not say hello"),
        "{}",
        fault.message
    );
    closed(accepted.stream).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_gives_up_a_gateway_that_does_not_shake_hands() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(pki.agent("hv1"), listener.local_addr().unwrap());
    config.limits.handshake = Duration::from_millis(200);
    let agent = AgentProcess::start_with(TestHost::new("hv1"), config);
    let fault = agent.failed().await;
    assert_eq!(fault.code, Code::AgentUnreachable);
    assert!(
        fault.message.contains("did not finish the TLS handshake"),
        "{}",
        fault.message
    );
    agent.stop().await;
}

/// An agent that is greeted like any other, and whose observations are `answer`.
fn answering(answer: Bytes) -> Router {
    let reply = HelloReply {
        version: wire::VERSION,
        release: "0.1.0".to_owned(),
        host: host_name("hv1"),
        session: Uuid::from_u128(1),
    };
    Router::new()
        .route("/v1/hello", post(async move || Json(reply)))
        .route(
            "/v1/observations",
            get(async |Extension(answer): Extension<Bytes>| answer),
        )
        .layer(Extension(answer))
}

#[tokio::test]
async fn observations_that_are_too_long_or_nonsense_end_the_connection() {
    let pki = Pki::new();
    for (answer, reason) in [
        (vec![b' '; wire::ANSWER_MAX + 1], "longer than"),
        (vec![b' '; 4 << 20], "not what was asked for"),
        (b"{}".to_vec(), "not what was asked for"),
    ] {
        let controller = Controller::start(pki.gateway(), quick()).await;
        let config = config(pki.agent("hv1"), controller.address);
        let agent = AgentProcess::serving(TestHost::new("hv1"), answering(answer.into()), config);
        let shown = |registry: &Registry| {
            let hv1 = Claimant::Host(identity("hv1"));
            registry.refused().into_iter().find(|r| r.claimant == hv1)
        };
        let shown = controller.until("it is shown", shown).await;
        assert_eq!(shown.fault.code, Code::InvalidRequest);
        assert!(
            shown.fault.message.contains(reason),
            "{}",
            shown.fault.message
        );
        agent.stop().await;
        controller.stop().await;
    }
}
