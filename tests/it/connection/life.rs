//! The life of a connection: made, used, lost, replaced, given up.

use std::time::Duration;

use site_recovery::agent_client::http::KeepAlive;
use site_recovery::controller::gateway::host_state::Link;
use site_recovery::report::Code;
use site_recovery::tls::PeerIdentity;
use site_recovery::wire::Start;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::world::{
    AgentProcess, Controller, NEVER, Pki, TestHost, command, config, host_command, identity, quick,
    replica, replication, site,
};

#[tokio::test]
async fn an_agent_that_dials_in_is_listed_commanded_and_observed() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let agent = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);

    let state = controller.connected("hv1").await;
    assert_eq!(state.release, "9.9.9");
    assert_eq!(state.observed.session, agent.host.session);
    assert_eq!(controller.registry.hosts(&site()).len(), 1);
    let seen = agent.until("it knows that it is connected", |s| s.connected.is_some());
    assert_eq!(seen.await.last_error, None);

    let id = replica(7);
    let client = state.agent().unwrap();
    client.start(&id, &command(Start {})).await.unwrap();
    assert_eq!(agent.host.told(1).await, [format!("start {id}")]);
    let refused = client.remove(&id, &command(Default::default())).await;
    assert_eq!(refused.unwrap_err().code, Code::NotReplicating);

    agent
        .host
        .observe(vec![replication(7, 1), replication(8, 1)]);
    agent.host.observe(vec![replication(7, 2)]);
    let (host, seen) = controller
        .until(
            "the newest observation is there and the removed one is gone",
            |registry| {
                let gone = registry.replication(&site(), &replica(8)).is_empty();
                let found = registry.replication(&site(), &id).pop();
                found.filter(|(_, seen)| gone && seen.sealed.value() == 2)
            },
        )
        .await;
    assert_eq!(host.host.as_str(), "hv1");
    assert_eq!(seen.replica, id);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_that_stops_or_is_killed_is_lost_at_once() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let first = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);
    let second = AgentProcess::start("hv2", pki.agent("hv2"), controller.address);
    let since = match &controller.connected("hv1").await.link {
        Link::Connected { since, .. } => *since,
        Link::Lost { .. } => panic!("it was connected"),
    };
    controller.connected("hv2").await;
    first.stop().await;
    second.task.abort();
    for host in ["hv1", "hv2"] {
        let lost = controller.lost(host).await;
        assert!(matches!(&lost.link, Link::Lost { since: lost, .. } if *lost >= since));
    }
    controller.stop().await;
}

#[tokio::test]
async fn a_line_that_goes_dead_is_noticed_by_both_ends() {
    let pki = Pki::new();
    let mut limits = quick();
    limits.agent.keep_alive = KeepAlive {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(200),
    };
    let controller = Controller::start(pki.gateway(), limits).await;
    let line = Line::to(controller.address).await;
    let mut config = config(pki.agent("hv1"), line.address);
    config.limits.ping = Duration::from_millis(100);
    config.limits.silence = Duration::from_millis(500);
    let agent = AgentProcess::start_with(TestHost::new("hv1"), config);
    controller.connected("hv1").await;

    line.cut.cancel();
    controller.lost("hv1").await;
    let fault = agent.failed().await;
    assert_eq!(fault.code, Code::AgentUnreachable);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn the_newest_connection_of_a_host_wins() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let certificates = pki.agent("hv1");
    let older = AgentProcess::start("hv1", certificates.clone(), controller.address);
    controller.connected("hv1").await;
    older.host.observe(vec![replication(1, 1)]);
    let observed = |id| {
        move |registry: &site_recovery::controller::gateway::Registry| {
            registry.replication(&site(), &replica(id)).pop()
        }
    };
    controller
        .until("the older host is observed", observed(1))
        .await;

    let newer = AgentProcess::start("hv1", certificates, controller.address);
    newer.host.observe(vec![replication(2, 1)]);
    controller
        .until("the newer host is observed", observed(2))
        .await;
    older.failed().await;
    older.stop().await;

    let PeerIdentity { site, host } = identity("hv1");
    let state = controller.registry.host(&site, &host).unwrap();
    assert!(state.is_connected());
    assert_eq!(state.observed.session, newer.host.session);
    assert!(
        controller
            .registry
            .replication(&site, &replica(1))
            .is_empty()
    );
    newer.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_tries_again_until_a_leader_answers() {
    let pki = Pki::new();
    let controller = Controller::start_as(pki.gateway(), quick(), false).await;
    let agent = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);
    agent.host.greeted(false).await;
    assert!(controller.registry.hosts(&site()).is_empty());
    let fault = agent.failed().await;
    assert!(fault.message.contains("does not lead"), "{}", fault.message);

    controller.leader.send_replace(true);
    controller.connected("hv1").await;
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_controller_that_leads_no_more_knows_nothing_of_hosts() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let began = controller.registry.since();
    let agent = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);
    controller.connected("hv1").await;

    controller.leader.send_replace(false);
    agent.host.greeted(false).await;
    let empty = |registry: &site_recovery::controller::gateway::Registry| {
        registry.hosts(&site()).is_empty().then_some(())
    };
    controller.until("the hosts are forgotten", empty).await;

    controller.leader.send_replace(true);
    controller.connected("hv1").await;
    assert!(controller.registry.since() > began);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_gateway_that_stops_says_goodbye_and_lets_commands_end() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let gate = site_recovery::agent_client::faulty::Gate::default();
    let host = std::sync::Arc::new(TestHost::with_gate("hv1", Some(gate.clone())));
    let config = config(pki.agent("hv1"), controller.address);
    let agent = AgentProcess::start_with(host, config);
    let client = controller.agent_of("hv1").await;
    let asking =
        tokio::spawn(async move { client.settings(&host_command(Default::default())).await });
    gate.arrived(1).await;

    controller.shutdown.cancel();
    agent.host.greeted(false).await;
    gate.open();
    asking.await.unwrap().unwrap();
    tokio::time::timeout(NEVER, controller.task)
        .await
        .unwrap()
        .unwrap();
    agent.stop().await;
}

/// A line between agent and gateway that can go dead: what is sent is lost, and nobody is told.
struct Line {
    address: std::net::SocketAddr,
    cut: CancellationToken,
}

impl Line {
    async fn to(gateway: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = CancellationToken::new();
        let dead = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let dead = dead.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(gateway).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = dead.cancelled() => {
                            // Both sockets stay open, and nobody reads them.
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Line { address, cut }
    }
}
