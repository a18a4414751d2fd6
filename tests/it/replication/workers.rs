//! A data path that is a process of its own, and a controller that learns of it from storage alone.

use std::sync::Arc;

use site_recovery::datapath::runner::{DataPath, Duties, Observation, Role};
use site_recovery::ids::ReplicaId;
use site_recovery::replica::seal::Kind;
use site_recovery::report::Code;
use site_recovery::units::SystemClock;
use tokio::sync::mpsc;

use super::hand::{Hand, SIZE, applied};
use super::world::{PATIENCE, World};

async fn world() -> World {
    World::new(&[usize::try_from(SIZE).unwrap()]).await
}

/// A part of a data path with one replica.
struct Part {
    datapath: DataPath,
    changes: mpsc::UnboundedReceiver<ReplicaId>,
    replica: ReplicaId,
}

impl Part {
    fn new(world: &World, role: Role) -> Self {
        let (datapath, changes) = DataPath::new(role, 1, Arc::new(SystemClock));
        datapath.attach(world.cloud.clone(), Duties::default());
        Part {
            datapath,
            changes,
            replica: world.cloud.id.clone(),
        }
    }

    /// Waits until it shows what is wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Observation) -> bool) -> Observation {
        let seen = async {
            loop {
                let observed = self.datapath.observe(&self.replica).unwrap();
                if wanted(&observed) {
                    return observed;
                }
                self.changes.recv().await.unwrap();
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    async fn until_applied(&mut self, sequence: u64) -> Observation {
        self.until("a sequence to be applied", |seen| {
            let manifest = seen.manifest.as_ref();
            manifest.is_some_and(|manifest| manifest.last_applied.sequence.value() >= sequence)
        })
        .await
    }
}

fn fails_with(seen: &Observation, code: Code) -> bool {
    let trouble = seen.trouble.as_ref();
    trouble.is_some_and(|trouble| trouble.fault.code == code)
}

#[tokio::test]
async fn a_follower_sees_what_a_worker_that_hears_of_nothing_does() {
    let world = world().await;
    let (mut worker, mut follower) = (
        Part::new(&world, Role::Worker),
        Part::new(&world, Role::Follower),
    );
    follower.until("a look", |seen| seen.looked).await;
    // Nobody wakes either.
    let mut hand = Hand::new(&world).await;
    for sequence in 1..=2 {
        hand.write(Kind::Delta, true, &[(0, vec![1; 4096])]).await;
        worker.until_applied(sequence).await;
        let seen = follower.until_applied(sequence).await;
        assert!(seen.trouble.is_none());
    }
    assert_eq!(
        *follower.until_applied(2).await.manifest.unwrap(),
        world.manifest().await
    );
}

#[tokio::test]
async fn what_keeps_a_worker_from_going_on_is_told_and_ends_with_the_chain_that_the_follower_begins()
 {
    let world = world().await;
    let (mut worker, mut follower) = (
        Part::new(&world, Role::Worker),
        Part::new(&world, Role::Follower),
    );
    let mut old = Hand::new(&world).await;
    old.write(Kind::Delta, true, &[(0, vec![1; 4096])]).await;
    worker.until_applied(1).await;
    // Given a seal that is missing
    old.skip();
    old.write(Kind::Delta, true, &[(0, vec![2; 4096])]).await;
    let gap = |seen: &Observation| fails_with(seen, Code::SequenceGap);
    // What stands behind a seal that is missing is found by a full look, which comes every few minutes.
    worker.datapath.wake(&worker.replica);
    let said = worker.until("a gap", gap).await.trouble;
    let heard = follower.until("a gap", gap).await;
    assert_eq!(heard.trouble, said);
    // When the follower is told to begin a new chain
    let chain = heard.manifest.unwrap().chain.clone();
    follower.datapath.start_chain(&follower.replica, &chain);
    let renewed = |seen: &Observation| seen.manifest.as_ref().is_some_and(|m| m.chain != chain);
    let seen = follower.until("a new chain", renewed).await;
    // Then nothing is broken any more,
    assert!(seen.trouble.is_none(), "{:?}", seen.trouble);
    // the worker finds it by itself,
    let mends = |seen: &Observation| renewed(seen) && seen.trouble.is_none();
    worker.until("the new chain", mends).await;
    // and goes on with it.
    let mut new = Hand::new(&world).await;
    new.follow().await;
    let next = new.next.value();
    new.write(Kind::Delta, true, &[(4096, vec![3; 4096])]).await;
    worker.until_applied(next).await;
    let seen = follower.until_applied(next).await;
    assert!(seen.trouble.is_none());
}

#[tokio::test]
async fn what_an_earlier_owner_has_told_is_not_believed_and_replaces_nothing() {
    use site_recovery::datapath::trouble::{tell, told};
    use site_recovery::report::Fault;
    use site_recovery::retry::Attempts;
    use site_recovery::units::Generation;

    let (world, at) = (world().await, jiff::Timestamp::UNIX_EPOCH);
    let trouble = |said: &str| {
        let fault = Fault::new(Code::StorageBusy, said);
        Attempts::default().failed(fault, at).0
    };
    let (store, first, second) = (&world.cloud, Generation::new(1), Generation::new(2));
    tell(store, first, Some(&trouble("first"))).await.unwrap();
    assert_eq!(told(store, first).await.unwrap(), Some(trouble("first")));
    assert_eq!(told(store, second).await.unwrap(), None);

    tell(store, second, Some(&trouble("second"))).await.unwrap();
    for late in [Some(trouble("late")), None] {
        tell(store, first, late.as_ref()).await.unwrap();
        assert_eq!(told(store, second).await.unwrap(), Some(trouble("second")));
    }
    tell(store, second, None).await.unwrap();
    assert_eq!(told(store, second).await.unwrap(), None);
}

#[tokio::test]
async fn a_worker_that_another_has_replaced_meanwhile_takes_nothing_for_missing() {
    let world = world().await;
    let mut hand = Hand::new(&world).await;
    let mut first = world.worker();
    hand.write(Kind::Delta, true, &[(0, vec![1; 4096])]).await;
    world.apply_all(&mut first).await;
    // Given what another worker has applied, and dropped from the inbox
    hand.write(Kind::Delta, true, &[(0, vec![2; 4096])]).await;
    world.apply_all(&mut world.worker()).await;
    // When the first goes on with what it knows of before
    hand.write(Kind::Delta, true, &[(0, vec![3; 4096])]).await;
    world.apply_all(&mut first).await;
    // Then it has found no gap.
    assert_eq!(applied(&world).await, 3);

    // And where the other has begun a new chain, it does not wait for seals of the old one.
    let mut second = world.worker();
    second.retire(Some(world.manifest().await.chain));
    world.apply_all(&mut second).await;
    hand.follow().await;
    let next = hand.next.value();
    hand.write(Kind::Delta, true, &[(0, vec![4; 4096])]).await;
    world.apply_all(&mut first).await;
    assert_eq!(applied(&world).await, next);
}
