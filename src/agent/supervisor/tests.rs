//! Commands against a host whose hypervisor and storage do not answer: what is decided before either is asked.

use std::path::Path;

use super::*;
use crate::agent::routes::Service;
use crate::host::lab::LabHypervisor;
use crate::ids::{ObjectName, OperationId};
use crate::secret::SasToken;
use crate::units::SystemClock;
use crate::wire::{ContainerAccess, Start};

fn relationship() -> Relationship {
    let access = |container: &str| ContainerAccess {
        container: container.to_owned(),
        sas: SasToken::new("sv=1&sig=x"),
    };
    Relationship {
        replica: ReplicaId::from_random(1),
        object: ObjectName::new("dr", "web").unwrap(),
        vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        disks: Vec::new(),
        policy: Policy {
            copy_interval: 300,
            application_consistent_hours: 0,
            compress: true,
        },
        suspended: false,
        resynchronize: false,
        storage: StorageAccess {
            account: "account".to_owned(),
            endpoint: "http://127.0.0.1:9".to_owned(),
            inbox: access("i"),
            replica: access("r"),
            expires: Timestamp::UNIX_EPOCH,
        },
    }
}

/// What an agent left in `folder` that obeyed generation 5, and did operation 7.
fn leave(folder: &Path) {
    let mut left = Replication::new(relationship(), Generation::new(5));
    left.done(OperationId::from_random(7));
    StateFolder::open(folder).unwrap().keep(&left).unwrap();
}

fn supervisor(folder: &Path) -> Arc<Supervisor> {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(LabHypervisor::new(folder.join("nobody")));
    let nothing_to_listen_to = CancellationToken::new();
    nothing_to_listen_to.cancel();
    let inventory = Inventory::watch(hypervisor.clone(), nothing_to_listen_to);
    let edges = Edges {
        hypervisor,
        http: Http::new(&[]).unwrap(),
        clock: Arc::new(SystemClock),
    };
    let state = StateFolder::open(folder).unwrap();
    let host = "hv1".parse().unwrap();
    Supervisor::start(host, state, edges, inventory, CancellationToken::new())
}

fn command<T>(generation: u64, operation: u128, body: T) -> Command<T> {
    Command {
        generation: Generation::new(generation),
        operation: OperationId::from_random(operation),
        run: None,
        body,
    }
}

#[tokio::test]
async fn the_first_command_after_a_restart_is_judged_by_what_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path());
    let replica = relationship().replica;
    // Given an agent that has just started
    let agent = supervisor(folder.path());
    // When a lower generation commands at once, then it is refused.
    let stale = Service::start(agent.as_ref(), replica.clone(), command(4, 1, Start {})).await;
    assert_eq!(stale.unwrap_err().code, Code::GenerationStale);
    let stale = agent
        .create_relationship(command(4, 2, relationship()))
        .await;
    assert_eq!(stale.unwrap_err().code, Code::GenerationStale);
}

#[tokio::test]
async fn an_operation_that_was_done_before_a_restart_gets_its_answer_again() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path());
    let agent = supervisor(folder.path());
    let again = agent
        .create_relationship(command(5, 7, relationship()))
        .await;
    assert!(again.unwrap().repeated);
}
