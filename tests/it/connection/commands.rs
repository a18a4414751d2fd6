//! Commands to hosts that are slow, silent, or say too much.

use std::sync::Arc;
use std::time::Duration;

use site_recovery::agent_client::Agent;
use site_recovery::agent_client::breaker;
use site_recovery::agent_client::faulty::Gate;
use site_recovery::ids::{DiskId, ObjectName};
use site_recovery::report::Code;
use site_recovery::secret::SasToken;
use site_recovery::wire::{
    self, Command, ContainerAccess, HostCommand, Policy, RelatedDisk, Relationship, Settings,
    StorageAccess,
};

use super::world::{
    AgentProcess, Controller, Pki, TestHost, command, config, host_command, quick, replica,
};

fn settings() -> HostCommand<Settings> {
    host_command(Settings::default())
}

/// A relationship that is described in about so many bytes.
fn relationship(bytes: usize) -> Command<Relationship> {
    let access = |container: &str| ContainerAccess {
        container: container.to_owned(),
        sas: SasToken::new("sv=1&sig=x"),
    };
    command(Relationship {
        replica: replica(1),
        object: ObjectName::new("dr", "web").unwrap(),
        vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        disks: vec![RelatedDisk {
            id: DiskId::from_random(4),
            slot: "scsi:0:0".parse().unwrap(),
        }],
        policy: Policy {
            copy_interval: 300,
            application_consistent_hours: 0,
            compress: true,
        },
        suspended: false,
        resynchronize: false,
        storage: StorageAccess {
            endpoint: "e".repeat(bytes),
            account: "account".to_owned(),
            inbox: access("i"),
            replica: access("r"),
            expires: jiff::Timestamp::UNIX_EPOCH,
        },
    })
}

/// A controller, an agent whose `settings` wait at a gate, and its client.
struct Held {
    controller: Controller,
    agent: AgentProcess,
    client: Arc<dyn Agent>,
    gate: Gate,
    _pki: Pki,
}

impl Held {
    async fn start(limits: site_recovery::controller::gateway::Limits) -> Self {
        let pki = Pki::new();
        let controller = Controller::start(pki.gateway(), limits).await;
        let gate = Gate::default();
        let host = Arc::new(TestHost::with_gate("hv1", Some(gate.clone())));
        let config = config(pki.agent("hv1"), controller.address);
        let agent = AgentProcess::start_with(host, config);
        let client = controller.agent_of("hv1").await;
        Held {
            controller,
            agent,
            client,
            gate,
            _pki: pki,
        }
    }

    async fn stop(self) {
        self.agent.stop().await;
        self.controller.stop().await;
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_commands_is_left_alone_after_a_few() {
    let mut limits = quick();
    limits.agent.command = Duration::from_millis(100);
    let held = Held::start(limits).await;
    for _ in 0..breaker::THRESHOLD {
        let fault = held.client.settings(&settings()).await.unwrap_err();
        assert_eq!(fault.code, Code::AgentUnreachable);
        assert!(fault.message.contains("hv1"), "{}", fault.message);
    }
    let fault = held.client.settings(&settings()).await.unwrap_err();
    assert!(fault.message.contains("left alone"), "{}", fault.message);
    let asked = held.agent.host.commands.borrow().len();
    assert!(u32::try_from(asked).unwrap() <= breaker::THRESHOLD);
    held.controller.connected("hv1").await;
    held.stop().await;
}

#[tokio::test]
async fn a_host_is_given_no_more_commands_at_once_than_it_may_have() {
    let mut limits = quick();
    limits.agent.commands_at_once = 2;
    let held = Held::start(limits).await;
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let client = held.client.clone();
            tokio::spawn(async move { client.settings(&settings()).await })
        })
        .collect();
    held.gate.arrived(2).await;
    let hello = wire::Hello {
        versions: wire::Versions::OURS,
        release: "0.1.0".to_owned(),
        leader: true,
    };
    // Whatever was sent before this has arrived before its answer.
    held.client.hello(&hello).await.unwrap();
    assert_eq!(held.agent.host.commands.borrow().len(), 2);
    held.gate.open();
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(held.agent.host.commands.borrow().len(), 5);
    held.stop().await;
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_and_costs_nothing_else() {
    let held = Held::start(quick()).await;
    let fits = relationship(wire::REQUEST_MAX / 2);
    held.client.create_relationship(&fits).await.unwrap();
    let too_long = relationship(2 * wire::REQUEST_MAX);
    let fault = held
        .client
        .create_relationship(&too_long)
        .await
        .unwrap_err();
    assert_eq!(fault.code, Code::InvalidRequest, "{}", fault.message);
    held.client.create_relationship(&fits).await.unwrap();
    assert_eq!(held.agent.host.commands.borrow().len(), 2);
    held.stop().await;
}

#[tokio::test]
async fn a_command_on_a_connection_that_is_gone_says_so() {
    let held = Held::start(quick()).await;
    held.agent.stop().await;
    held.controller.lost("hv1").await;
    let fault = held.client.settings(&settings()).await.unwrap_err();
    assert_eq!(fault.code, Code::AgentUnreachable);
    held.controller.stop().await;
}
