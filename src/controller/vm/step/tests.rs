//! What is done next, in the situations that a VM comes into.

use super::*;
use crate::controller::vm::resync::{Leave, Need};
use crate::report::{Code, Fault};

/// A VM whose replica is set up and which is replicating.
fn replicating() -> Observed {
    Observed {
        removal: None,
        pause: None,
        site: Site::Ready,
        machine: Machine::Found {
            host: "hv1".parse().unwrap(),
            connected: true,
        },
        taken_by: None,
        replaced: None,
        failures: Vec::new(),
        record: true,
        replica: Replica::Present,
        fence: Fence::Current,
        described: true,
        agent: Agent::Replicating(Phase::Copying),
        related: true,
        slot: Slot::Free,
        window_closed: false,
        point: false,
        resync: Resync::default(),
        synchronize: false,
    }
}

#[test]
fn the_enable_job_takes_its_steps_in_order() {
    let mut seen = Observed {
        record: false,
        replica: Replica::Absent,
        fence: Fence::Absent,
        described: false,
        agent: Agent::Absent,
        related: false,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Record);
    seen.record = true;
    assert_eq!(next(&seen), Step::CreateReplica);
    seen.replica = Replica::Present;
    assert_eq!(next(&seen), Step::Describe);
    (seen.fence, seen.described) = (Fence::Current, true);
    assert_eq!(next(&seen), Step::Relate);
    (seen.agent, seen.related) = (Agent::Replicating(Phase::Created), true);
    assert_eq!(next(&seen), Step::Start);
    seen.agent = Agent::Replicating(Phase::Copying);
    assert_eq!(next(&seen), Step::Nothing(Why::Copying));
    seen.point = true;
    assert_eq!(next(&seen), Step::Nothing(Why::Protected));
}

#[test]
fn nothing_is_touched_of_a_site_that_another_cluster_acts_for() {
    let seen = Observed {
        site: Site::NotOurs("b".to_owned()),
        record: false,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Nothing(Why::NotOurs));
}

#[test]
fn a_machine_that_a_silent_host_may_have_is_unknown_and_not_lost() {
    let silent = vec!["hv2".parse().unwrap()];
    let seen = Observed {
        machine: Machine::Unknown { silent },
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Nothing(Why::MachineUnknown));
}

#[test]
fn a_queued_vm_waits_unless_its_replica_is_there_already() {
    let queued = Observed {
        agent: Agent::Replicating(Phase::Created),
        slot: Slot::Queued {
            position: 1,
            waiting: 1,
        },
        ..replicating()
    };
    assert_eq!(next(&queued), Step::Nothing(Why::Queued));
    assert_eq!(
        next(&Observed {
            point: true,
            ..queued
        }),
        Step::Start
    );
}

#[test]
fn access_that_ends_soon_is_renewed_in_every_phase() {
    for phase in [Phase::Created, Phase::Copying, Phase::Replicating] {
        let seen = Observed {
            agent: Agent::Replicating(phase),
            related: false,
            ..replicating()
        };
        assert_eq!(next(&seen), Step::Relate);
    }
}

#[test]
fn what_cannot_be_read_is_neither_made_anew_nor_given_up() {
    let unread = Observed {
        replica: Replica::Unknown,
        ..replicating()
    };
    assert_eq!(next(&unread), Step::Nothing(Why::ReplicaUnknown));
    let absent = Observed {
        agent: Agent::Absent,
        related: false,
        ..unread.clone()
    };
    assert_eq!(next(&absent), Step::Nothing(Why::ReplicaUnknown));
    let access_ends = Observed {
        related: false,
        ..unread.clone()
    };
    assert_eq!(next(&access_ends), Step::Relate);
    let no_fence = Observed {
        replica: Replica::Present,
        fence: Fence::Unknown,
        related: false,
        ..unread
    };
    assert_eq!(next(&no_fence), Step::Nothing(Why::ReplicaUnknown));
}

#[test]
fn a_fence_of_an_earlier_term_is_raised_before_anybody_is_told_anything() {
    let behind = Observed {
        fence: Fence::Behind,
        machine: Machine::NotFound { asked: Vec::new() },
        failures: vec![Failure::new("SharedDisk", "b", "c")],
        related: false,
        ..replicating()
    };
    assert_eq!(next(&behind), Step::Raise);
    let not_ours = Observed {
        site: Site::NotOurs("b".to_owned()),
        ..behind
    };
    assert_eq!(next(&not_ours), Step::Nothing(Why::NotOurs));
}

#[test]
fn nothing_is_commanded_under_a_fence_that_somebody_else_has_raised() {
    let ahead = Observed {
        fence: Fence::Ahead,
        related: false,
        described: false,
        ..replicating()
    };
    assert_eq!(next(&ahead), Step::Nothing(Why::Superseded));
}

#[test]
fn a_machine_that_came_to_another_host_is_commanded_there_once_nobody_else_may_be() {
    let mut moved = Observed {
        fence: Fence::Elsewhere,
        agent: Agent::Absent,
        related: false,
        point: true,
        ..replicating()
    };
    assert_eq!(next(&moved), Step::Raise);
    moved.failures = vec![Failure::new("SharedDisk", "b", "c")];
    assert_eq!(next(&moved), Step::Raise);
    moved.fence = Fence::Current;
    assert_eq!(next(&moved), Step::Relate);
}

#[test]
fn another_vm_of_the_name_gets_the_replica_when_somebody_says_so_and_on_a_chain_of_its_own() {
    let replaced = |asked| {
        let token = "a.b".to_owned();
        Some(Replaced { token, asked })
    };
    let mut seen = Observed {
        replaced: replaced(false),
        point: true,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Nothing(Why::Replaced));
    seen.replaced = replaced(true);
    assert_eq!(next(&seen), Step::Rebind);
    seen.taken_by = Some(ObjectName::new("a", "b").unwrap());
    assert_eq!(next(&seen), Step::Nothing(Why::Taken));
    // Bound, and nobody is told anything before the chain of the machine of before has ended.
    seen = Observed {
        resync: Resync {
            need: Some(Need {
                reason: Fault::new(Code::ResyncRequested, "imported anew"),
                disks: Vec::new(),
                running: false,
                chain: true,
                leave: Leave::Now,
            }),
            rebound: true,
            ..Resync::default()
        },
        described: false,
        related: false,
        point: true,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::StartChain);
    seen.resync = Resync::default();
    assert_eq!(next(&seen), Step::Describe);
}

#[test]
fn a_rule_that_fails_later_does_not_end_the_access_of_what_replicates() {
    let failures = vec![Failure::new("SharedDisk", "b", "c")];
    for point in [true, false] {
        let mut seen = Observed {
            failures: failures.clone(),
            described: false,
            related: false,
            point,
            ..replicating()
        };
        assert_eq!(next(&seen), Step::Relate, "point: {point}");
        seen.related = true;
        assert_eq!(next(&seen), Step::Nothing(Why::Invalid), "point: {point}");
        seen.agent = Agent::Replicating(Phase::Created);
        let goes_on = if point {
            Step::Start
        } else {
            Step::Nothing(Why::Invalid)
        };
        assert_eq!(next(&seen), goes_on, "point: {point}");
    }
}

#[test]
fn what_is_asked_for_comes_after_what_the_agent_should_know_and_not_in_a_pause() {
    let token = Resync {
        demand: true,
        ..Resync::default()
    };
    let mut seen = Observed {
        agent: Agent::Replicating(Phase::Replicating),
        point: true,
        resync: token,
        synchronize: true,
        related: false,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Relate);
    seen.related = true;
    assert_eq!(next(&seen), Step::Resynchronize);
    seen.resync = Resync::default();
    assert_eq!(next(&seen), Step::Synchronize);
    seen.agent = Agent::Replicating(Phase::Copying);
    assert_eq!(next(&seen), Step::Nothing(Why::Protected));
    seen.pause = Some(Pause::Vm);
    assert_eq!(next(&seen), Step::Nothing(Why::Suspended));
}

#[test]
fn a_pause_never_holds_up_what_the_agent_should_know() {
    let seen = Observed {
        pause: Some(Pause::Site),
        related: false,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Relate);
}

#[test]
fn a_broken_chain_is_begun_anew_when_there_is_leave() {
    let need = |leave| Resync {
        need: Some(Need {
            reason: Fault::new(Code::SequenceGap, "5 is missing"),
            disks: Vec::new(),
            running: false,
            chain: true,
            leave,
        }),
        ..Resync::default()
    };
    let mut seen = Observed {
        point: true,
        resync: need(Leave::Now),
        ..replicating()
    };
    assert_eq!(next(&seen), Step::StartChain);
    seen.resync = need(Leave::Manual);
    assert_eq!(next(&seen), Step::Nothing(Why::Protected));
}

#[test]
fn a_deleted_vm_is_let_go_whatever_else_is_so() {
    let seen = Observed {
        removal: Some(Removal::Retain),
        site: Site::Missing,
        ..replicating()
    };
    assert_eq!(next(&seen), Step::Retain);
}
