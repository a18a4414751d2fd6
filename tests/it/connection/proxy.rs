//! Through an HTTP proxy, as hosts in guarded networks have to go.

use std::net::SocketAddr;

use site_recovery::agent::connection::address::Proxy;
use site_recovery::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::world::{AgentProcess, Controller, Pki, TestHost, config, quick};

/// A proxy that lets `agent:p@ss` through to wherever it wants, and tells what it was asked.
struct TestProxy {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<String>,
}

impl TestProxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass(near, tell.clone()));
            }
        });
        TestProxy { address, asked }
    }
}

async fn pass(mut near: TcpStream, tell: mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let destination = head.split(' ').nth(1).unwrap().to_owned();
    let known = head.contains("Proxy-Authorization: Basic YWdlbnQ6cEBzcw==\r\n");
    let _ = tell.send(head);
    if !known {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
        near.write_all(refusal).await.unwrap();
        return;
    }
    let mut far = TcpStream::connect(destination).await.unwrap();
    near.write_all(b"HTTP/1.1 200 OK\r\nVia: test\r\n\r\n")
        .await
        .unwrap();
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn agent_through(credentials: &str) -> (Pki, Controller, TestProxy, AgentProcess) {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let proxy = TestProxy::start().await;
    let mut config = config(pki.agent("hv1"), controller.address);
    let url = Secret::new(format!("http://{credentials}{}", proxy.address));
    config.proxy = Proxy::parse(&url).unwrap();
    let agent = AgentProcess::start_with(TestHost::new("hv1"), config);
    (pki, controller, proxy, agent)
}

#[tokio::test]
async fn an_agent_connects_through_a_proxy_that_wants_credentials() {
    let (_pki, controller, mut proxy, agent) = agent_through("agent:p%40ss@").await;
    controller.connected("hv1").await;
    let asked = proxy.asked.recv().await.unwrap();
    let gateway = controller.address;
    assert!(
        asked.starts_with(&format!("CONNECT {gateway} HTTP/1.1\r\n")),
        "{asked}"
    );
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_proxy_that_wants_other_credentials_is_said_by_name_and_without_them() {
    let (_pki, controller, proxy, agent) = agent_through("agent:hunter2@").await;
    let fault = agent.failed().await;
    assert!(fault.message.contains("407"), "{}", fault.message);
    assert!(
        fault.message.contains(&proxy.address.to_string()),
        "{}",
        fault.message
    );
    assert!(!fault.message.contains("hunter2"), "{}", fault.message);
    agent.stop().await;
    controller.stop().await;
}
