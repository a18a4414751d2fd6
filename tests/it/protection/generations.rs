//! What an owner commands that was replaced does nothing: over the wire, at the agent of a host.

use std::sync::Arc;

use site_recovery::controller::gateway::{Bounds, Gateway, Limits, Registry};
use site_recovery::ids::{HostName, ObjectName, OperationId, random};
use site_recovery::report::Code;
use site_recovery::tls::ServerTls;
use site_recovery::units::{Generation, MIB, SystemClock};
use site_recovery::wire::{Command, Remove, Synchronize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::world::{NAMESPACE, SITE, World, until};

fn command<T>(generation: u64, body: T) -> Command<T> {
    Command {
        generation: Generation::new(generation),
        operation: OperationId::from_random(random()),
        run: None,
        body,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_refuses_what_is_of_a_lower_generation_than_it_has_obeyed() {
    let (world, _host, _) = World::with_web(&[("scsi:0:0", 8 * MIB)], MIB).await;
    let mut controller = world.stage.controller("c0").await.unwrap();
    let replica = world.until_protected("web").await.replica_id.unwrap();
    assert_eq!(world.fence(&replica).await.generation, Generation::new(1));
    controller.process.kill();

    // Given another one that the agent comes to, and that commands in its own name.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let certificates = world.stage.admit(listener.local_addr().unwrap().port());
    let registry = Arc::new(Registry::new(Arc::new(SystemClock), Bounds::default()));
    let (_leads, leader) = watch::channel(true);
    let gateway = Gateway {
        tls: ServerTls::new(certificates),
        leader,
        registry: registry.clone(),
        limits: Limits::default(),
    };
    let shutdown = CancellationToken::new();
    let gateway = tokio::spawn(gateway.serve(listener, shutdown.clone()));
    let site = ObjectName::new(NAMESPACE, SITE).unwrap();
    let name: HostName = "hv1".parse().unwrap();
    let agent = until("the agent", async || {
        registry.host(&site, &name)?.agent().cloned()
    })
    .await;
    let replica = replica.parse().unwrap();

    let (stale, end) = (
        command(0, Synchronize::default()),
        command(0, Remove::default()),
    );
    let refused = agent.synchronize(&replica, &stale).await.unwrap_err();
    assert_eq!(refused.code, Code::GenerationStale);
    let refused = agent.remove(&replica, &end).await.unwrap_err();
    assert_eq!(refused.code, Code::GenerationStale);
    assert!(refused.message.contains("hv1"), "{}", refused.message);

    // It is still replicated, for whoever may command.
    let current = command(1, Synchronize::default());
    let answer = agent.synchronize(&replica, &current).await;
    assert!(!answer.unwrap().repeated);
    shutdown.cancel();
    gateway.await.unwrap();
}
