//! Whose a replica is: rendezvous hashing. No I/O.
//!
//! Every worker has a weight for every replica, and the heaviest has it. So all who know the same workers agree without
//! a word, the replicas are spread evenly, and one that comes or goes moves those alone that it gets or had.

use std::collections::BTreeSet;

use crate::ids::ReplicaId;

/// The worker that has `replica`; none if there is none.
pub fn owner<'a>(replica: &ReplicaId, workers: &'a BTreeSet<String>) -> Option<&'a str> {
    let heaviest = workers
        .iter()
        .max_by_key(|worker| (weight(worker, replica), *worker));
    heaviest.map(String::as_str)
}

fn weight(worker: &str, replica: &ReplicaId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    // A replica's id has always the same length: no two pairs are one text.
    hasher.update(replica.as_str().as_bytes());
    hasher.update(worker.as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replicas() -> impl Strategy<Value = Vec<ReplicaId>> {
        let replica = any::<u128>().prop_map(ReplicaId::from_random);
        proptest::collection::vec(replica, 1..200)
    }

    fn workers() -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-z0-9-]{1,20}", 1..12)
    }

    proptest! {
        #[test]
        fn every_replica_has_one_worker_that_lives(replicas in replicas(), workers in workers()) {
            for replica in &replicas {
                let owner = owner(replica, &workers).unwrap();
                prop_assert!(workers.contains(owner));
            }
        }

        #[test]
        fn one_that_leaves_moves_its_own_replicas_and_no_others(
            replicas in replicas(),
            workers in workers(),
            gone in any::<prop::sample::Index>(),
        ) {
            let gone = workers.iter().nth(gone.index(workers.len())).unwrap().clone();
            let mut left = workers.clone();
            left.remove(&gone);
            for replica in &replicas {
                let before = owner(replica, &workers).unwrap();
                if before != gone {
                    prop_assert_eq!(owner(replica, &left), Some(before));
                }
            }
        }

        #[test]
        fn one_that_comes_takes_replicas_only_for_itself(
            replicas in replicas(),
            workers in workers(),
            new in "[A-Z]{1,20}",
        ) {
            let mut more = workers.clone();
            more.insert(new.clone());
            for replica in &replicas {
                let now = owner(replica, &more);
                prop_assert!(now == Some(&new) || now == owner(replica, &workers));
            }
        }
    }

    #[test]
    fn replicas_are_spread_evenly() {
        let workers: BTreeSet<String> = (0..4).map(|n| format!("worker-{n}")).collect();
        let mut counts = std::collections::BTreeMap::<&str, u32>::new();
        for n in 0..4000_u128 {
            let replica = ReplicaId::from_random(n);
            *counts
                .entry(owner(&replica, &workers).unwrap())
                .or_default() += 1;
        }
        assert!(
            counts.values().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn without_workers_nobody_has_anything() {
        assert_eq!(owner(&ReplicaId::from_random(1), &BTreeSet::new()), None);
    }
}
