//! Certificates that change while everything runs.

use std::path::Path;
use std::time::Duration;

use site_recovery::controller::gateway::host_state::Link;
use site_recovery::lab::authority::{Authority, Validity};
use site_recovery::tls::server::{AcceptError, Accepted};
use site_recovery::tls::{ClientTls, ServerTls};
use site_recovery::units::{Clock as _, SystemClock};
use tokio::io::DuplexStream;

use super::world::{
    AgentProcess, Controller, HOUR, Pki, config, identity, quick, replica, replication, site, valid,
};

/// A handshake in memory.
async fn shake(
    server: &ServerTls,
    client: &ClientTls,
) -> Result<Accepted<DuplexStream>, AcceptError> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = config("unused".into(), ([127, 0, 0, 1], 1).into()).server_name;
    let (accepted, _connected) = tokio::join!(server.accept(near), client.connect(&name, far));
    accepted
}

fn expiry(accepted: Result<Accepted<DuplexStream>, AcceptError>) -> jiff::Timestamp {
    let accepted = accepted.map_err(|error| error.fault());
    accepted.unwrap().certificate_expires.unwrap()
}

fn valid_for(time: Duration) -> Validity {
    Validity::around(SystemClock.now(), HOUR, time)
}

#[tokio::test]
async fn a_new_certificate_is_used_by_the_next_connection_and_the_running_one_stays() {
    let pki = Pki::new();
    let controller = Controller::start(pki.gateway(), quick()).await;
    let folder = pki.agent("hv1");
    let agent = AgentProcess::start("hv1", folder.clone(), controller.address);
    let expires = |link: &Link| match link {
        Link::Connected {
            since,
            certificate_expires,
            ..
        } => (*since, certificate_expires.unwrap()),
        Link::Lost { reason, .. } => panic!("lost: {reason}"),
    };
    let first = expires(&controller.connected("hv1").await.link);

    let renewed = pki
        .authority
        .agent(&identity("hv1"), valid_for(5 * HOUR))
        .unwrap();
    renewed.write(&folder).unwrap();
    agent.host.observe(vec![replication(1, 1)]);
    let (after, _) = controller
        .until("the running connection observes on", |registry| {
            registry.replication(&site(), &replica(1)).pop()
        })
        .await;
    assert_eq!(expires(&after.link), first);

    controller.leader.send_replace(false);
    agent.host.greeted(false).await;
    controller.leader.send_replace(true);
    let second = expires(&controller.connected("hv1").await.link);
    assert!(second.1 > first.1 + 3 * HOUR);
    agent.stop().await;
    controller.stop().await;
}

#[tokio::test]
async fn both_ends_follow_their_files() {
    let pki = Pki::new();
    let (server_files, client_files) = (pki.gateway(), pki.agent("hv1"));
    let server = ServerTls::new(server_files.clone());
    let client = ClientTls::new(client_files.clone());
    expiry(shake(&server, &client).await);

    let other = Authority::new("the next authority", valid()).unwrap();
    let gateway = other.gateway(&["127.0.0.1"], valid()).unwrap();
    gateway.write(&server_files).unwrap();
    assert!(shake(&server, &client).await.is_err());
    let agent = other.agent(&identity("hv1"), valid_for(7 * HOUR)).unwrap();
    agent.write(&client_files).unwrap();
    let expires = expiry(shake(&server, &client).await);
    assert!(expires > SystemClock.now() + 6 * HOUR);
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_those_of_before_in_use() {
    let pki = Pki::new();
    let folder = pki.agent("hv1");
    let server = ServerTls::new(pki.gateway());
    let client = ClientTls::new(folder.clone());
    let before = expiry(shake(&server, &client).await);
    let kept = tempfile::tempdir().unwrap();
    copy(&folder, kept.path());
    let renewed = pki.folder(
        &pki.authority
            .agent(&identity("hv1"), valid_for(9 * HOUR))
            .unwrap(),
    );
    let other_certificate = std::fs::read(renewed.join("tls.crt")).unwrap();
    let broken: [(&str, &[u8]); 6] = [
        ("tls.crt", b""),
        (
            "tls.crt",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
        ("tls.crt", &other_certificate),
        ("tls.key", b"-----BEGIN PRIVATE KEY-----\nnot base64!\n"),
        ("ca.crt", b"\xff\xfe"),
        ("ca.crt", &[b'x'; 2 << 20]),
    ];
    for (file, content) in broken {
        std::fs::write(folder.join(file), content).unwrap();
        assert_eq!(expiry(shake(&server, &client).await), before, "{file}");
        copy(kept.path(), &folder);
    }
    std::fs::remove_file(folder.join("tls.key")).unwrap();
    assert_eq!(expiry(shake(&server, &client).await), before);
    copy(&renewed, &folder);
    assert!(expiry(shake(&server, &client).await) > before);
}

#[test]
fn what_cannot_be_used_from_the_start_is_said_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let missing = ServerTls::new(folder.path().to_owned())
        .check()
        .unwrap_err();
    assert!(missing.to_string().contains("tls.crt"), "{missing}");
    let pki = Pki::new();
    let gateway = pki.gateway();
    copy(&pki.gateway(), folder.path());
    std::fs::copy(gateway.join("tls.key"), folder.path().join("tls.key")).unwrap();
    let mixed = ServerTls::new(folder.path().to_owned())
        .check()
        .unwrap_err();
    assert!(mixed.to_string().contains("do not go together"), "{mixed}");
}

/// As kubelet does it: the files are links into a folder that is itself a link, and that one is swapped.
#[cfg(unix)]
#[tokio::test]
async fn a_swapped_link_is_a_change() {
    use std::os::unix::fs::symlink;

    let pki = Pki::new();
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    symlink(pki.agent("hv1"), at("..data")).unwrap();
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(file), at(file)).unwrap();
    }
    let server = ServerTls::new(pki.gateway());
    let client = ClientTls::new(mount.path().to_owned());
    let before = expiry(shake(&server, &client).await);
    let renewed = pki
        .authority
        .agent(&identity("hv1"), valid_for(3 * HOUR))
        .unwrap();
    symlink(pki.folder(&renewed), at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    assert!(expiry(shake(&server, &client).await) > before);
}

fn copy(from: &Path, to: &Path) {
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}
