//! Commands against a host whose hypervisor and storage do not answer: what is decided before either is asked.

use std::path::Path;

use super::*;
use crate::agent::routes::Service;
use crate::host::lab::LabHypervisor;
use crate::ids::{ObjectName, OperationId};
use crate::secret::SasToken;
use crate::units::SystemClock;
use crate::wire::{ContainerAccess, Remove, Start};

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

#[tokio::test]
async fn a_pause_that_cannot_be_tidied_up_after_is_a_pause_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path());
    let agent = supervisor(folder.path());
    // Given a pause, and a hypervisor that does not let points go
    let suspended = Relationship {
        suspended: true,
        ..relationship()
    };
    let paused = agent.create_relationship(command(5, 8, suspended)).await;
    paused.unwrap_err();
    // Then the relationship is known, and obeys nobody of before.
    let replica = relationship().replica;
    let stale = Service::start(agent.as_ref(), replica, command(4, 9, Start {})).await;
    assert_eq!(stale.unwrap_err().code, Code::GenerationStale);
}

#[tokio::test]
async fn the_end_of_one_replication_leaves_what_another_of_the_machine_counts_on() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path());
    // Given another object that has the machine
    let other = Relationship {
        replica: ReplicaId::from_random(2),
        ..relationship()
    };
    let state = StateFolder::open(folder.path()).unwrap();
    let other = Replication::new(other, Generation::new(1));
    state.keep(&other).unwrap();
    let agent = supervisor(folder.path());
    // When the first ends, then the hypervisor, which does not answer, is not asked to track no longer.
    let removed = agent.remove(relationship().replica, command(5, 9, Remove {}));
    assert!(!removed.await.unwrap().repeated);
    // The last one asks it.
    let last = agent.remove(other.relationship.replica, command(5, 10, Remove {}));
    last.await.unwrap_err();
}

#[tokio::test]
async fn a_command_that_waits_for_storage_holds_up_none_of_another_replica() {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path());
    let agent = supervisor(folder.path());
    // Given a relationship whose fence is asked for where nobody answers
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut other = relationship();
    other.replica = ReplicaId::from_random(2);
    other.storage.replica.container = "replica".to_owned();
    other.storage.endpoint = format!("http://{}/account", silent.local_addr().unwrap());
    let mut waiting = tokio::spawn({
        let agent = agent.clone();
        async move { agent.create_relationship(command(1, 11, other)).await }
    });
    let _asked = tokio::select! {
        asked = silent.accept() => asked.unwrap(),
        ended = &mut waiting => panic!("storage was not asked: {ended:?}"),
    };
    // When another replica is commanded, then the answer comes before.
    let replica = relationship().replica;
    let stale = Service::start(agent.as_ref(), replica, command(4, 12, Start {})).await;
    assert_eq!(stale.unwrap_err().code, Code::GenerationStale);
    assert!(!waiting.is_finished());
    waiting.abort();
}
