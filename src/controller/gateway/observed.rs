//! What a host has been observed to be, as of its newest answer. Pure: news in, what holds afterwards out.
//!
//! ```text
//! another session   what was held is void; the news are everything
//! the same session  the news replace what they name; what `existing` does not list is gone
//! ```
//! Cheap to copy: everything large is shared. News that contradict themselves are garbage and change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::controller::gateway::inventory::Inventory;
use crate::ids::ReplicaId;
use crate::wire::observation::HostObservation;
use crate::wire::{Observations, ReplicationObservation};

/// The newest observations of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Nil before the first session.
    pub session: Uuid,
    /// What to ask after.
    pub revision: u64,
    /// The host's machines; nothing before the first answer.
    pub machines: Option<Arc<Inventory>>,
    pub replications: Arc<BTreeMap<ReplicaId, Arc<ReplicationObservation>>>,
}

/// What the news changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// More of them than free space: it moves all the time, and who waits for it looks again by itself.
    pub machines: bool,
    /// Changed, new or gone.
    pub replications: Vec<ReplicaId>,
}

/// News that cannot be true.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    #[error("observations went back from revision {held} to {said}")]
    WentBack { held: u64, said: u64 },
    #[error("replication {0} is observed twice in one answer")]
    Twice(ReplicaId),
    #[error("replication {0} is observed, but not among those that exist")]
    NotExisting(ReplicaId),
}

impl Observed {
    /// Nothing yet, of `session`.
    pub fn nothing_of(session: Uuid) -> Self {
        Observed {
            session,
            ..Observed::default()
        }
    }

    /// What holds after `news`.
    ///
    /// # Errors
    /// If the news contradict themselves.
    pub fn after(&self, news: Observations) -> Result<(Observed, Changes), Garbage> {
        let void = news.session != self.session;
        if !void && news.revision < self.revision {
            return Err(Garbage::WentBack {
                held: self.revision,
                said: news.revision,
            });
        }
        let existing: BTreeSet<ReplicaId> = news.existing.into_iter().collect();
        let mut named = BTreeMap::new();
        for replication in news.replications {
            let id = replication.replica.clone();
            if !existing.contains(&id) {
                return Err(Garbage::NotExisting(id));
            }
            if named.insert(id.clone(), Arc::new(replication)).is_some() {
                return Err(Garbage::Twice(id));
            }
        }
        let mut replications = named;
        if !void {
            for (id, held) in self.replications.iter() {
                if existing.contains(id) {
                    replications
                        .entry(id.clone())
                        .or_insert_with(|| held.clone());
                }
            }
        }
        let machines = match news.host {
            Some(machines) => Some(Arc::new(Inventory::new(machines))),
            None if void => None,
            None => self.machines.clone(),
        };
        let changes = Changes {
            machines: differ(said(&self.machines), said(&machines)),
            replications: difference(&self.replications, &replications),
        };
        let observed = Observed {
            session: news.session,
            revision: news.revision,
            machines,
            replications: if changes.replications.is_empty() {
                self.replications.clone()
            } else {
                Arc::new(replications)
            },
        };
        Ok((observed, changes))
    }
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        !self.machines && self.replications.is_empty()
    }
}

fn said(machines: &Option<Arc<Inventory>>) -> Option<&HostObservation> {
    machines.as_ref().map(|machines| &***machines)
}

/// Whether two observations of a host differ in more than free space.
fn differ(before: Option<&HostObservation>, after: Option<&HostObservation>) -> bool {
    match (before, after) {
        (Some(before), Some(after)) => {
            before != after && without_space(before) != without_space(after)
        }
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    }
}

fn without_space(host: &HostObservation) -> HostObservation {
    let mut host = host.clone();
    let disks = host
        .machines
        .iter_mut()
        .flat_map(|machine| &mut machine.disks);
    for volume in disks.filter_map(|disk| disk.volume.as_mut()) {
        volume.free = 0;
    }
    host
}

type Replications = BTreeMap<ReplicaId, Arc<ReplicationObservation>>;

fn difference(before: &Replications, after: &Replications) -> Vec<ReplicaId> {
    let gone = before.keys().filter(|id| !after.contains_key(*id));
    let changed = after
        .iter()
        .filter(|(id, now)| before.get(*id) != Some(*now))
        .map(|(id, _)| id);
    gone.chain(changed).cloned().collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::{Strategy, proptest};

    use super::*;
    use crate::host::{Backing, BootGeneration, Disk, Machine, PowerState, Volume};
    use crate::units::{Generation, Sequence};
    use crate::wire::observation::{Cycles, Phase};

    const FIRST: Uuid = Uuid::from_u128(1);
    const SECOND: Uuid = Uuid::from_u128(2);

    fn id(number: u8) -> ReplicaId {
        ReplicaId::from_random(number.into())
    }

    fn replication(number: u8, sealed: u64) -> ReplicationObservation {
        ReplicationObservation {
            replica: id(number),
            vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            generation: Generation::ZERO,
            phase: Phase::Replicating,
            disks: Vec::new(),
            sealed: Sequence::new(sealed),
            credentials_expire: Timestamp::UNIX_EPOCH,
            synchronized: None,
            cycles: Cycles::default(),
            resync: None,
            quiesce: None,
            trouble: None,
        }
    }

    fn news(session: Uuid, revision: u64, changed: &[(u8, u64)], existing: &[u8]) -> Observations {
        Observations {
            session,
            revision,
            host: None,
            replications: changed
                .iter()
                .map(|(n, sealed)| replication(*n, *sealed))
                .collect(),
            existing: existing.iter().copied().map(id).collect(),
        }
    }

    fn held(observed: &Observed) -> Vec<(ReplicaId, u64)> {
        let sealed =
            |(id, r): (&ReplicaId, &Arc<ReplicationObservation>)| (id.clone(), r.sealed.value());
        observed.replications.iter().map(sealed).collect()
    }

    #[test]
    fn news_replace_what_they_name_and_drop_what_does_not_exist() {
        let before = Observed::nothing_of(FIRST);
        let (before, _) = before
            .after(news(FIRST, 1, &[(1, 1), (2, 1), (3, 1)], &[1, 2, 3]))
            .unwrap();
        let (after, changes) = before
            .after(news(FIRST, 2, &[(1, 1), (2, 9)], &[1, 2]))
            .unwrap();
        assert_eq!(held(&after), [(id(1), 1), (id(2), 9)]);
        let changed: BTreeSet<_> = changes.replications.into_iter().collect();
        assert_eq!(changed, BTreeSet::from([id(2), id(3)]));
    }

    fn with_free_space(bytes: u64, name: &str) -> HostObservation {
        let disk = Disk {
            slot: "scsi:0:0".parse().unwrap(),
            backing: Backing::Vhdx,
            path: "web.vhdx".to_owned(),
            virtual_size: 1,
            logical_sector: 512,
            physical_sector: 4096,
            identifier: None,
            boot: true,
            volume: Some(Volume {
                name: "C:".to_owned(),
                free: bytes,
                size: 100,
            }),
            problem: None,
        };
        let machine = Machine {
            id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            name: name.to_owned(),
            boot: BootGeneration::Gen2,
            power: PowerState::Running,
            start_action: None,
            busy: None,
            processors: 2,
            memory_mib: 4096,
            secure_boot: false,
            guest_os: None,
            replicated_by: None,
            disks: vec![disk],
            network_adapters: Vec::new(),
        };
        HostObservation {
            machines: vec![machine],
            fault: None,
        }
    }

    #[test]
    fn free_space_that_moves_is_known_and_is_no_change_of_a_machine() {
        let said = |revision, host| Observations {
            host: Some(host),
            ..news(FIRST, revision, &[], &[])
        };
        let nothing = Observed::nothing_of(FIRST);
        let (before, _) = nothing.after(said(1, with_free_space(50, "web"))).unwrap();
        let (after, changes) = before.after(said(2, with_free_space(10, "web"))).unwrap();
        assert!(changes.is_empty());
        let known = after.machines.as_ref().unwrap().machines[0].disks[0]
            .volume
            .clone();
        assert_eq!(known.unwrap().free, 10);
        let (_, changes) = after.after(said(3, with_free_space(10, "www"))).unwrap();
        assert!(changes.machines);
    }

    #[test]
    fn another_session_voids_all_that_was_held() {
        let machines = HostObservation {
            machines: Vec::new(),
            fault: None,
        };
        let mut first = news(FIRST, 5, &[(1, 1)], &[1]);
        first.host = Some(machines);
        let (before, _) = Observed::nothing_of(FIRST).after(first).unwrap();
        let (after, changes) = before.after(news(SECOND, 1, &[(2, 1)], &[1, 2])).unwrap();
        assert_eq!(held(&after), [(id(2), 1)]);
        assert_eq!(after.machines, None);
        assert!(changes.machines && changes.replications.len() == 2);
    }

    #[test]
    fn an_answer_without_news_changes_nothing_and_shares_everything() {
        let (before, _) = Observed::nothing_of(FIRST)
            .after(news(FIRST, 1, &[(1, 1)], &[1]))
            .unwrap();
        let (after, changes) = before.after(news(FIRST, 1, &[], &[1])).unwrap();
        assert!(changes.is_empty());
        assert!(Arc::ptr_eq(&before.replications, &after.replications));
    }

    #[test]
    fn contradictions_are_garbage() {
        let (held, _) = Observed::nothing_of(FIRST)
            .after(news(FIRST, 7, &[], &[]))
            .unwrap();
        let back = Garbage::WentBack { held: 7, said: 6 };
        assert_eq!(held.after(news(FIRST, 6, &[], &[])), Err(back));
        let twice = held.after(news(FIRST, 8, &[(1, 1), (1, 2)], &[1]));
        assert_eq!(twice, Err(Garbage::Twice(id(1))));
        let unlisted = held.after(news(FIRST, 8, &[(1, 1)], &[2]));
        assert_eq!(unlisted, Err(Garbage::NotExisting(id(1))));
    }

    /// What a host does between two polls: replicas set to a value, or removed.
    fn history() -> impl Strategy<Value = Vec<Vec<(u8, Option<u64>)>>> {
        let step = proptest::collection::vec((0_u8..6, proptest::option::of(0_u64..4)), 0..4);
        proptest::collection::vec(step, 0..20)
    }

    proptest! {
        #[test]
        fn following_the_news_ends_where_the_host_is(history in history()) {
            let mut truth = BTreeMap::new();
            let mut observed = Observed::nothing_of(FIRST);
            for (revision, steps) in (1..).zip(history) {
                let before = truth.clone();
                for (number, sealed) in steps {
                    match sealed {
                        Some(sealed) => truth.insert(number, sealed),
                        None => truth.remove(&number),
                    };
                }
                let changed: Vec<(u8, u64)> = truth
                    .iter()
                    .filter(|(number, sealed)| before.get(*number) != Some(*sealed))
                    .map(|(number, sealed)| (*number, *sealed))
                    .collect();
                let existing: Vec<u8> = truth.keys().copied().collect();
                observed = observed.after(news(FIRST, revision, &changed, &existing)).unwrap().0;
                let expected: BTreeMap<_, _> = truth.iter().map(|(n, s)| (id(*n), *s)).collect();
                assert_eq!(held(&observed), Vec::from_iter(expected));
            }
        }
    }
}
