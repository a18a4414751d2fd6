//! Who does not get in, and where an administrator sees it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use axum::{Json, http::StatusCode};
use jiff::SignedDuration;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use site_recovery::controller::gateway::Registry;
use site_recovery::controller::gateway::refusals::{Claimant, Refused};
use site_recovery::lab::authority::{Authority, Validity};
use site_recovery::report::{Code, Fault};
use site_recovery::tls::PeerIdentity;
use site_recovery::units::{Clock as _, SystemClock};
use site_recovery::wire::{HelloReply, Versions};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::world::{
    AgentProcess, Controller, HOUR, Pki, TestHost, config, host_name, identity, impostor, quick,
    replica, replication, site, valid,
};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn refusal_of<'a>(claimant: &'a Claimant) -> impl Fn(&Registry) -> Option<Refused> + 'a {
    move |registry| {
        let refused = registry.refused();
        refused
            .into_iter()
            .find(|refused| refused.claimant == *claimant)
    }
}

async fn refused(controller: &Controller, claimant: &Claimant) -> Refused {
    let what = format!("{claimant:?} is refused");
    controller.until(&what, refusal_of(claimant)).await
}

fn from_here() -> Claimant {
    Claimant::Address([127, 0, 0, 1].into())
}

/// An agent with these certificates is refused: by that name, for this reason, and it knows.
async fn check_refused(pki: &Pki, certificates: PathBuf, claimant: Claimant, reason: &str) {
    let controller = Controller::start(pki.gateway(), quick()).await;
    let agent = AgentProcess::start("hv1", certificates, controller.address);
    let refused = refused(&controller, &claimant).await;
    assert_eq!(refused.fault.code, Code::Configuration);
    assert!(
        refused.fault.message.contains(reason),
        "{}",
        refused.fault.message
    );
    assert!(controller.registry.hosts(&site()).is_empty());
    let fault = agent.failed().await;
    assert_eq!(fault.code, Code::Configuration, "{}", fault.message);
    assert!(
        fault.message.contains("refused this agent"),
        "{}",
        fault.message
    );
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_its_date() {
    let pki = Pki::new();
    let now = SystemClock.now();
    let ended = Validity {
        from: now - 2 * DAY,
        until: now - DAY,
    };
    let issued = pki.authority.agent(&identity("hv1"), ended).unwrap();
    let date = (now - DAY).strftime("%Y-%m-%d").to_string();
    let reason =
        format!("host hv1 of site dr/factory was refused: its certificate expired on {date}");
    check_refused(
        &pki,
        pki.folder(&issued),
        Claimant::Host(identity("hv1")),
        &reason,
    )
    .await;
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused() {
    let pki = Pki::new();
    let now = SystemClock.now();
    let later = Validity {
        from: now + DAY,
        until: now + 2 * DAY,
    };
    let issued = pki.authority.agent(&identity("hv1"), later).unwrap();
    let claimant = Claimant::Host(identity("hv1"));
    check_refused(&pki, pki.folder(&issued), claimant, "not valid before").await;
}

/// An agent's certificate of another authority, that trusts the gateway all the same.
fn foreign(pki: &Pki) -> PathBuf {
    let authority = Authority::new("another authority", valid()).unwrap();
    let folder = pki.folder(&authority.agent(&identity("hv1"), valid()).unwrap());
    std::fs::copy(pki.agent("hv1").join("ca.crt"), folder.join("ca.crt")).unwrap();
    folder
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let pki = Pki::new();
    let claimant = Claimant::Host(identity("hv1"));
    check_refused(&pki, foreign(&pki), claimant, "unknown authority").await;
}

#[tokio::test]
async fn a_certificate_that_names_no_host_of_a_site_is_refused() {
    let pki = Pki::new();
    let one = identity("hv1").uri();
    let two = identity("hv2").uri();
    for uris in [
        vec![],
        vec!["spiffe://other.example/dr/factory/hv1"],
        vec![one.as_str(), two.as_str()],
    ] {
        let issued = pki.authority.client(&uris, valid()).unwrap();
        check_refused(&pki, pki.folder(&issued), from_here(), "certificate").await;
    }
}

#[tokio::test]
async fn a_gateways_certificate_does_not_make_an_agent() {
    let pki = Pki::new();
    check_refused(&pki, pki.gateway(), from_here(), "extended key usage").await;
}

#[tokio::test]
async fn an_agent_that_calls_itself_otherwise_than_its_certificate_is_refused() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let agent = AgentProcess::start("hv2", pki.agent("hv1"), controller.address);
    let refused = refused(&controller, &Claimant::Host(identity("hv1"))).await;
    assert!(
        refused.fault.message.contains("calls itself hv2"),
        "{}",
        refused.fault.message
    );
    assert!(controller.registry.hosts(&site()).is_empty());
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_host_of_a_site_that_nobody_has_created_is_connected_and_nobodys() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    controller.registry.know_sites([site()].into());
    let stranger = PeerIdentity {
        site: "dr/elsewhere".parse().unwrap(),
        host: host_name("hv1"),
    };
    let issued = pki.authority.agent(&stranger, valid()).unwrap();
    let agent = AgentProcess::start("hv1", pki.folder(&issued), controller.address);
    let connected = |registry: &Registry| registry.host(&stranger.site, &stranger.host);
    controller
        .until("the stranger is connected", connected)
        .await;
    assert!(controller.registry.hosts(&site()).is_empty());
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn whoever_was_refused_and_is_let_in_is_not_shown_as_refused_any_more() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let folder = foreign(&pki);
    let agent = AgentProcess::start("hv1", folder.clone(), controller.address);
    refused(&controller, &Claimant::Host(identity("hv1"))).await;
    let good = pki.authority.agent(&identity("hv1"), valid()).unwrap();
    good.write(&folder).unwrap();
    controller.connected("hv1").await;
    assert_eq!(controller.registry.refused(), []);
    agent.stop().await;
    controller.stop().await;
}

/// A TLS client that is no agent of ours.
fn raw_client(
    trust: &Path,
    show: Option<&Path>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(trust.join("ca.crt")).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match show {
        None => builder.with_no_client_auth(),
        Some(folder) => {
            let chain = CertificateDer::from_pem_file(folder.join("tls.crt")).unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join("tls.key")).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    let pki = Pki::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let controller = Controller::start(pki.gateway(), quick()).await;
        let client = raw_client(&pki.agent("hv1"), None, &[version]);
        let stream = TcpStream::connect(controller.address).await.unwrap();
        let name = config(pki.agent("hv1"), controller.address).server_name;
        let shaking = tokio::spawn(client.connect(name, stream));
        let refused = refused(&controller, &from_here()).await;
        assert!(refused.fault.message.contains("presented no certificate"));
        drop(shaking.await.unwrap());
        controller.stop().await;
    }
}

#[tokio::test]
async fn with_tls_1_2_certificates_are_judged_the_same() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let name = config(pki.agent("hv1"), controller.address).server_name;
    let foreign = foreign(&pki);
    let client = raw_client(&foreign, Some(&foreign), &[&rustls::version::TLS12]);
    let stream = TcpStream::connect(controller.address).await.unwrap();
    assert!(client.connect(name, stream).await.is_err());
    refused(&controller, &Claimant::Host(identity("hv1"))).await;
    controller.stop().await;
}

#[tokio::test]
async fn an_agent_does_not_trust_a_gateway_of_another_name_or_authority() {
    let pki = Pki::new();
    let other = Authority::new("another authority", valid()).unwrap();
    let elsewhere = pki
        .authority
        .gateway(&["gateway.example"], valid())
        .unwrap();
    let unknown = other.gateway(&["127.0.0.1"], valid()).unwrap();
    let now = SystemClock.now();
    let past = Validity::around(now - 3 * DAY, HOUR, HOUR);
    let expired = pki.authority.gateway(&["127.0.0.1"], past).unwrap();
    let cases = [
        (elsewhere, "not valid for name"),
        (unknown, "unknown authority"),
        (expired, "expired on"),
    ];
    for (issued, reason) in cases {
        let folder = pki.folder(&issued);
        let controller = Controller::start(folder, quick()).await;
        let agent = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);
        let fault = agent.failed().await;
        assert_eq!(fault.code, Code::Configuration);
        assert!(fault.message.contains(reason), "{}", fault.message);
        agent.stop().await;
        controller.stop().await;
    }
}

/// An agent that answers hello with this, whatever it is.
async fn greeted_with(status: StatusCode, body: serde_json::Value, code: Code, reason: &str) {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let router = Router::new().route(
        "/v1/hello",
        post(move || async move { (status, Json(body)) }),
    );
    let config = config(pki.agent("hv1"), controller.address);
    let agent = AgentProcess::serving(TestHost::new("hv1"), router, config);
    let refused = refused(&controller, &Claimant::Host(identity("hv1"))).await;
    assert_eq!(refused.fault.code, code, "{}", refused.fault.message);
    assert!(
        refused.fault.message.contains(reason),
        "{}",
        refused.fault.message
    );
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn versions_that_do_not_meet_are_visible() {
    let fault = Fault::new(
        Code::AgentIncompatible,
        "the agent speaks versions 90 to 91",
    );
    let body = serde_json::to_value(fault).unwrap();
    greeted_with(
        StatusCode::CONFLICT,
        body,
        Code::AgentIncompatible,
        "90 to 91",
    )
    .await;
    let reply = HelloReply {
        version: 90,
        release: "0.1.0".to_owned(),
        host: host_name("hv1"),
        session: Uuid::new_v4(),
    };
    let body = serde_json::to_value(reply).unwrap();
    greeted_with(StatusCode::OK, body, Code::AgentIncompatible, "version 90").await;
}

#[tokio::test]
async fn an_agent_that_cannot_be_understood_is_visible() {
    let body = serde_json::json!({"version": "one"});
    greeted_with(
        StatusCode::OK,
        body,
        Code::InvalidRequest,
        "not what was asked for",
    )
    .await;
    let body = serde_json::Value::String("x".repeat(1 << 20));
    greeted_with(StatusCode::OK, body, Code::InvalidRequest, "longer than").await;
}

#[tokio::test]
async fn an_agent_whose_observations_contradict_themselves_is_disconnected() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let agent = AgentProcess::start("hv1", pki.agent("hv1"), controller.address);
    controller.connected("hv1").await;
    agent.host.observed.send_modify(|observed| {
        observed.revision += 1;
        observed.replications = vec![replication(1, 1)];
        observed.existing = vec![replica(2)];
    });
    let refused = refused(&controller, &Claimant::Host(identity("hv1"))).await;
    assert_eq!(refused.fault.code, Code::InvalidRequest);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn a_controller_whose_versions_do_not_meet_is_known_to_the_agent() {
    let pki = Pki::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = AgentProcess::start("hv1", pki.agent("hv1"), listener.local_addr().unwrap());
    let tls = site_recovery::tls::ServerTls::new(pki.gateway());
    let accepted = tls
        .accept(listener.accept().await.unwrap().0)
        .await
        .unwrap();
    let client = site_recovery::agent_client::HttpAgent::connect(
        host_name("hv1"),
        accepted.stream,
        Default::default(),
        Default::default(),
    );
    let client = client.await.unwrap();
    let hello = site_recovery::wire::Hello {
        versions: Versions {
            oldest: 90,
            newest: 91,
        },
        release: "90.0.0".to_owned(),
        leader: true,
    };
    let refused = site_recovery::agent_client::Agent::hello(&client, &hello).await;
    assert_eq!(refused.unwrap_err().code, Code::AgentIncompatible);
    assert_eq!(agent.failed().await.code, Code::AgentIncompatible);
    agent.stop().await;
}

#[tokio::test]
async fn an_impostor_with_a_good_certificate_is_still_asked_who_it_is() {
    let pki = Pki::new();
    let mut limits = quick();
    limits.agent.hello = std::time::Duration::from_millis(200);
    let controller = Controller::start(pki.gateway(), limits).await;
    let silent = impostor(pki.agent("hv1"), controller.address).await;
    let refused = refused(&controller, &Claimant::Host(identity("hv1"))).await;
    assert!(
        refused.fault.message.contains("no answer in"),
        "{}",
        refused.fault.message
    );
    drop(silent);
    controller.stop().await;
}
