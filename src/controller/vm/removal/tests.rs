//! When a replica goes, and when it does not.

use super::*;
use crate::host::BootGeneration;
use crate::ids::{RecoveryPointId, ReplicaId};
use crate::replica::fence::{Fence, MachineDescription};
use crate::units::Generation;
use crate::wire::observation::Phase;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn fence() -> Fence {
    let machine = MachineDescription {
        vm: "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap(),
        name: "web".to_owned(),
        boot: BootGeneration::Gen2,
        processors: 1,
        memory_mib: 1,
        secure_boot: false,
        guest_os: None,
        network_adapters: Vec::new(),
        disks: Vec::new(),
    };
    Fence::first(ReplicaId::from_random(1), Generation::new(1), machine)
}

struct Case {
    policy: DeletionPolicy,
    condemned: Option<Condemned>,
    site: step::Site,
    replica: step::Replica,
    term: step::Fence,
    fence: Fence,
    breaker: Breaker,
    agent: Agent,
    ended: bool,
    deleted: i64,
}

/// A VM that replicates, was deleted a minute ago, and whose replica is to go.
fn case() -> Case {
    Case {
        policy: DeletionPolicy::DeleteReplica,
        condemned: None,
        site: step::Site::Ready,
        replica: step::Replica::Present,
        term: step::Fence::Current,
        fence: fence(),
        breaker: Breaker::Armed,
        agent: Agent::Replicating(Phase::Replicating),
        ended: false,
        deleted: -60,
    }
}

impl Case {
    fn removal(&self) -> Removal {
        let machine = step::Machine::Found {
            host: "hv1".parse().unwrap(),
            connected: true,
        };
        Removal::decide(&Seen {
            policy: self.policy,
            recorded: true,
            condemned: self.condemned.as_ref(),
            site: &self.site,
            replica: self.replica,
            term: self.term,
            fence: Some(&self.fence),
            breaker: self.breaker,
            agent: self.agent,
            machine: &machine,
            ended: self.ended,
            deleted: Some(at(self.deleted)),
            now: at(0),
        })
    }

    fn condemned(since: i64) -> Self {
        Case {
            condemned: Some(Condemned {
                at: at(-since),
                generation: Generation::new(1),
                erased: false,
            }),
            ..case()
        }
    }
}

#[test]
fn a_replica_goes_when_it_was_said_and_nobody_needs_it() {
    assert_eq!(case().removal(), Removal::Condemn);
    let retain = Case {
        policy: DeletionPolicy::Retain,
        ..case()
    };
    assert_eq!(retain.removal(), Removal::Retain);
}

#[test]
fn a_replica_that_is_needed_in_azure_stays() {
    let mut active = case();
    active.fence.active_side = Side::Azure;
    assert_eq!(active.removal(), Removal::Wait(Wait::ActiveInAzure));
    let mut run = case();
    run.fence.active_run = Some("r".to_owned());
    assert_eq!(run.removal(), Removal::Wait(Wait::Run("r".to_owned())));
    let mut pinned = case();
    pinned.fence.pinned = vec![RecoveryPointId::from_random(1)];
    assert_eq!(pinned.removal(), Removal::Wait(Wait::Pinned(1)));
}

#[test]
fn nothing_is_removed_as_long_as_it_is_not_known_whether_it_is_needed() {
    let unread = Removal::Wait(Wait::Unread);
    let replica = Case {
        replica: step::Replica::Unknown,
        ..case()
    };
    assert_eq!(replica.removal(), unread);
    for term in [step::Fence::Unknown, step::Fence::Ahead] {
        let fence = Case { term, ..case() };
        assert_eq!(fence.removal(), unread);
    }
}

#[test]
fn a_replica_whose_site_cannot_say_anything_stays() {
    for site in [
        step::Site::Missing,
        step::Site::NotReady("no Secret".to_owned()),
        step::Site::NotOurs("b".to_owned()),
    ] {
        let case = Case { site, ..case() };
        assert_eq!(case.removal(), Removal::Retain);
    }
}

#[test]
fn many_deletions_at_once_are_seen_before_the_first_replica_goes_and_then_none_does() {
    let lately = Case {
        deleted: -29,
        ..case()
    };
    assert_eq!(lately.removal(), Removal::Wait(Wait::Settles));
    let many = Case {
        breaker: Breaker::Trips,
        ..case()
    };
    assert_eq!(many.removal(), Removal::Wait(Wait::ManyDeletions));
    let tripped = Case {
        breaker: Breaker::Tripped,
        ..case()
    };
    assert_eq!(tripped.removal(), Removal::Retain);
}

#[test]
fn late_commands_of_an_earlier_owner_are_refused_before_anything_goes() {
    let behind = Case {
        term: step::Fence::Behind,
        ..case()
    };
    assert_eq!(behind.removal(), Removal::Raise);
}

#[test]
fn what_was_begun_is_finished_in_order_whatever_is_said_afterwards() {
    let mut begun = Case::condemned(5);
    begun.policy = DeletionPolicy::Retain;
    begun.breaker = Breaker::Tripped;
    assert_eq!(begun.removal(), Removal::End);
    begun.ended = true;
    // The containers may be gone already.
    begun.replica = step::Replica::Absent;
    assert_eq!(begun.removal(), Removal::Erase);
    begun.site = step::Site::NotReady("no Secret".to_owned());
    assert_eq!(begun.removal(), Removal::Wait(Wait::Unread));
}

#[test]
fn a_host_that_does_not_come_back_does_not_hold_the_removal_for_ever() {
    let away = |since| Case {
        agent: Agent::Unknown,
        ..Case::condemned(since)
    };
    assert_eq!(away(599).removal(), Removal::End);
    assert_eq!(away(600).removal(), Removal::Erase);
}

#[test]
fn what_time_or_another_attempt_ends_is_looked_at_sooner_than_what_only_others_end() {
    assert!(
        [Wait::Settles, Wait::Unread]
            .iter()
            .all(|wait| !wait.is_for_others())
    );
    assert!(Wait::ActiveInAzure.is_for_others() && Wait::Pinned(1).is_for_others());
}
