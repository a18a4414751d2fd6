//! What a status says in the situations that people meet.

use super::*;
use crate::api::condition::is_true;
use crate::controller::metrics::vms::Figures;
use crate::controller::vm::rebind::Replaced;
use crate::controller::vm::removal::Removal;
use crate::controller::vm::resync::{Leave, Need, Resync};
use crate::controller::vm::rules::Failure;
use crate::controller::vm::step;
use crate::ids::ReplicaId;
use crate::report::{Code, Fault};
use crate::retry::{Class, class};
use crate::units::{Generation, Sequence};
use crate::wire::ReplicationObservation;
use crate::wire::observation::Cycles;

fn now() -> Time {
    jiff::Timestamp::from_second(1_790_000_000).unwrap().into()
}

/// What the agent of a VM says in which nothing has happened.
pub(in crate::controller::vm) fn observation() -> ReplicationObservation {
    ReplicationObservation {
        replica: ReplicaId::from_random(1),
        vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        generation: Generation::ZERO,
        phase: Phase::Replicating,
        disks: Vec::new(),
        sealed: Sequence::new(1),
        credentials_expire: jiff::Timestamp::UNIX_EPOCH,
        synchronized: None,
        cycles: Cycles::default(),
        resync: None,
        quiesce: None,
        trouble: None,
    }
}

pub(in crate::controller::vm) fn protected() -> Observed {
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
        replica: step::Replica::Present,
        fence: step::Fence::Current,
        described: true,
        agent: Agent::Replicating(Phase::Replicating),
        related: true,
        slot: Slot::Free,
        window_closed: false,
        point: true,
        resync: Resync::default(),
        synchronize: false,
    }
}

fn trouble(code: Code) -> Trouble {
    let since = jiff::Timestamp::from_second(1_790_000_000).unwrap();
    Trouble {
        fault: Fault::new(code, "it failed"),
        attempts: 2,
        since,
        next_attempt: (class(code) == Class::Recoverable).then_some(since),
    }
}

struct Case {
    observed: Observed,
    trouble: Option<Trouble>,
    silent: Option<Duration>,
    measured: Measured,
}

/// Of a VM that keeps up.
fn measured() -> Measured {
    Measured {
        reasons: Vec::new(),
        rpo: Said::new(types::RPO_MET, Status::True, "WithinTarget", ""),
        look: None,
        figures: Figures::default(),
    }
}

impl Case {
    fn of(observed: Observed) -> Self {
        Case {
            observed,
            trouble: None,
            silent: None,
            measured: measured(),
        }
    }

    fn status(&self) -> ProtectedVMStatus {
        self.status_after(&ProtectedVMStatus::default())
    }

    fn status_after(&self, old: &ProtectedVMStatus) -> ProtectedVMStatus {
        let facts = Facts {
            observed: &self.observed,
            step: step::next(&self.observed),
            trouble: self.trouble.as_ref(),
            silent: self.silent,
            measured: &self.measured,
            site: "berlin",
            details: Details::default(),
            unsupported: &[],
        };
        status(&facts, old, 3, now())
    }

    /// Ready's status and reason, and which of Reconciling and Stalled is there.
    fn summary(&self) -> (String, String, bool, bool) {
        let status = self.status();
        let ready = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == types::READY)
            .unwrap();
        let (reconciling, stalled) = (types::RECONCILING, types::STALLED);
        let conditions = &status.conditions;
        (
            ready.status.clone(),
            ready.reason.clone(),
            is_true(conditions, reconciling),
            is_true(conditions, stalled),
        )
    }
}

fn summary(
    ready: &str,
    reason: &str,
    reconciling: bool,
    stalled: bool,
) -> (String, String, bool, bool) {
    (ready.to_owned(), reason.to_owned(), reconciling, stalled)
}

#[test]
fn a_protected_vm_is_ready_and_nothing_else() {
    let case = Case::of(protected());
    assert_eq!(case.summary(), summary("True", "Protected", false, false));
    assert_eq!(case.status().health, Some(Health::Normal));
    assert_eq!(case.status().observed_generation, 3);
}

#[test]
fn a_vm_before_its_site_waits_and_says_for_what() {
    let case = Case::of(Observed {
        site: Site::Missing,
        record: false,
        point: false,
        ..protected()
    });
    assert_eq!(
        case.summary(),
        summary("False", "WaitingForSite", true, false)
    );
    let message = &case.status().conditions[0].message;
    assert!(message.contains("HyperVSite berlin"), "{message}");
}

#[test]
fn what_fails_the_rules_is_stalled_with_every_failure() {
    let failures = vec![
        Failure::new("DiskTooLarge", "disk a is large", "shrink it"),
        Failure::new("SharedDisk", "b", "c"),
    ];
    let case = Case::of(Observed {
        failures,
        point: false,
        record: false,
        ..protected()
    });
    assert_eq!(
        case.summary(),
        summary("False", "PrerequisitesFailed", false, true)
    );
    let message = &case.status().conditions[0].message;
    assert!(
        message.contains("disk a is large (shrink it)") && message.contains("b (c)"),
        "{message}"
    );
    assert_eq!(case.status().state, Some(ReplicationState::EnablingFailed));
}

#[test]
fn a_recoverable_failure_is_reconciling_with_retries() {
    let case = Case {
        trouble: Some(trouble(Code::StorageUnreachable)),
        ..Case::of(protected())
    };
    assert_eq!(
        case.summary(),
        summary("False", "ProgressingWithRetry", true, false)
    );
}

#[test]
fn a_failure_that_needs_a_human_is_critical() {
    let case = Case {
        trouble: Some(trouble(Code::BrokenDiskChain)),
        ..Case::of(protected())
    };
    assert_eq!(
        case.summary(),
        summary("False", "BrokenDiskChain", false, true)
    );
    assert_eq!(case.status().health, Some(Health::Critical));
    assert!(is_true(&case.status().conditions, types::CRITICAL));
}

#[test]
fn a_silent_agent_makes_the_vm_unknown_only_after_a_while() {
    let lost = Observed {
        machine: Machine::Found {
            host: "hv1".parse().unwrap(),
            connected: false,
        },
        ..protected()
    };
    let case = |silent| Case {
        silent: Some(silent),
        ..Case::of(lost.clone())
    };
    assert_eq!(
        case(SILENCE / 2).summary(),
        summary("True", "Protected", false, false)
    );
    assert_eq!(
        case(SILENCE).summary(),
        summary("Unknown", "AgentUnreachable", false, false)
    );
}

fn said_of<'a>(status: &'a ProtectedVMStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let mut conditions = status.conditions.iter();
    let found = conditions.find(|condition| condition.type_ == type_);
    let found = found.expect("every condition is said");
    (&found.status, &found.reason, &found.message)
}

/// A VM that no agent has been heard of for long.
fn unheard(site: Site, machine: Machine) -> ProtectedVMStatus {
    let case = Case {
        silent: Some(SILENCE),
        ..Case::of(Observed {
            site,
            machine,
            agent: Agent::Unknown,
            record: false,
            point: false,
            ..protected()
        })
    };
    case.status()
}

#[test]
fn a_vm_whose_site_does_not_exist_blames_no_host_however_long_it_waits() {
    let asked = Vec::new();
    let status = unheard(Site::Missing, Machine::NotFound { asked });
    let types = [types::READY, types::VALIDATED, types::REPLICATING];
    for type_ in types {
        let (_, reason, message) = said_of(&status, type_);
        assert_eq!(reason, "WaitingForSite", "{type_}");
        assert!(message.contains("spec.siteRef"), "{type_}: {message}");
    }
    assert_eq!(said_of(&status, types::VALIDATED).0, "Unknown");
}

#[test]
fn a_vm_that_no_host_has_names_the_hosts_that_were_asked() {
    let asked = (1..=10).map(|number| format!("hv{number}").parse().unwrap());
    let asked = asked.collect();
    let status = unheard(Site::Ready, Machine::NotFound { asked });
    for type_ in [types::READY, types::VALIDATED] {
        let (ready, reason, message) = said_of(&status, type_);
        assert_eq!((ready, reason), ("False", "VmNotFound"), "{type_}");
        assert!(message.contains("hv1, hv2"), "{type_}: {message}");
        assert!(message.contains("hv8 and 2 more"), "{type_}: {message}");
        assert!(message.contains("check spec.vm"), "{type_}: {message}");
    }
    assert_eq!(said_of(&status, types::REPLICATING).1, "VmNotFound");
}

#[test]
fn a_vm_that_may_be_on_a_host_that_is_not_heard_of_names_that_host() {
    let silent = vec!["hv2".parse().unwrap()];
    let status = unheard(Site::Ready, Machine::Unknown { silent });
    for type_ in [types::READY, types::VALIDATED] {
        let (ready, reason, message) = said_of(&status, type_);
        assert_eq!((ready, reason), ("Unknown", "AgentUnreachable"), "{type_}");
        assert!(message.contains("hv2"), "{type_}: {message}");
    }
}

#[test]
fn a_queued_vm_shows_its_place() {
    let slot = Slot::Queued {
        position: 2,
        waiting: 5,
    };
    let agent = Agent::Replicating(Phase::Created);
    let case = Case::of(Observed {
        slot,
        agent,
        point: false,
        ..protected()
    });
    assert_eq!(case.summary(), summary("False", "Queued", true, false));
    assert_eq!(case.status().progress.as_deref(), Some("queued 2/5"));
}

#[test]
fn another_clusters_site_stalls_its_vms() {
    let case = Case::of(Observed {
        site: Site::NotOurs("b acts".to_owned()),
        ..protected()
    });
    assert_eq!(
        case.summary(),
        summary("False", "ManagedByAnotherCluster", false, true)
    );
}

#[test]
fn tasks_keep_the_times_at_which_they_began_and_ended() {
    let first = Case::of(Observed {
        point: false,
        agent: Agent::Replicating(Phase::Copying),
        ..protected()
    });
    let tasks = first.status().tasks;
    let states: Vec<String> = tasks
        .iter()
        .map(|task| format!("{:?}", task.state))
        .collect();
    assert_eq!(
        states,
        [
            "Succeeded",
            "Succeeded",
            "Succeeded",
            "Succeeded",
            "InProgress",
            "NotStarted"
        ]
    );
    let later: Time = jiff::Timestamp::from_second(1_790_000_500).unwrap().into();
    let after = details::tasks(&protected(), false, &tasks, later);
    assert_eq!(
        (after[0].start_time, after[0].end_time),
        (tasks[0].start_time, tasks[0].end_time)
    );
    assert_eq!(
        (after[4].start_time, after[4].end_time),
        (tasks[4].start_time, Some(later))
    );
}

fn old_status() -> ProtectedVMStatus {
    let first = Case::of(protected()).status();
    assert_eq!(first.state, Some(ReplicationState::Protected));
    first
}

fn ready_of(status: &ProtectedVMStatus) -> (&str, &str) {
    let mut conditions = status.conditions.iter();
    let ready = conditions.find(|condition| condition.type_ == types::READY);
    let ready = ready.unwrap();
    (ready.reason.as_str(), ready.message.as_str())
}

#[test]
fn a_replica_that_cannot_be_read_keeps_its_state_and_says_what_cannot_be_read() {
    let old = old_status();
    for observed in [
        Observed {
            replica: step::Replica::Unknown,
            ..protected()
        },
        Observed {
            fence: step::Fence::Unknown,
            described: false,
            ..protected()
        },
    ] {
        let case = Case {
            trouble: Some(trouble(Code::StorageBusy)),
            ..Case::of(observed)
        };
        let status = case.status_after(&old);
        let (reason, message) = ready_of(&status);
        assert_eq!(reason, "ReplicaUnknown");
        assert!(message.contains("it failed"), "{message}");
        assert_eq!(status.state, old.state);
        assert_eq!(status.tasks, old.tasks);
    }
}

#[test]
fn a_replica_that_is_damaged_is_a_humans_to_mend_and_keeps_its_state() {
    let old = old_status();
    let observed = Observed {
        fence: step::Fence::Unknown,
        ..protected()
    };
    let case = Case {
        trouble: Some(trouble(Code::ReplicaDamaged)),
        ..Case::of(observed)
    };
    let status = case.status_after(&old);
    assert_eq!(ready_of(&status).0, "ReplicaDamaged");
    assert_eq!(status.state, old.state);
    assert!(is_true(&status.conditions, types::STALLED));
}

#[test]
fn a_rule_that_fails_later_is_said_the_same_while_access_is_renewed() {
    let invalid = Observed {
        failures: vec![Failure::new("SharedDisk", "b", "c")],
        ..protected()
    };
    let renewing = Observed {
        related: false,
        ..invalid.clone()
    };
    let (first, second) = (Case::of(invalid).status(), Case::of(renewing).status());
    assert_eq!(ready_of(&first), ("PrerequisitesFailed", "b (c)"));
    assert_eq!(first.state, Some(ReplicationState::Protected));
    assert_eq!(first, second);
}

#[test]
fn a_site_that_is_lost_does_not_take_back_what_its_vms_were() {
    let old = old_status();
    let case = Case::of(Observed {
        site: Site::NotReady("storage does not answer".to_owned()),
        record: false,
        replica: step::Replica::Unknown,
        fence: step::Fence::Unknown,
        described: false,
        related: false,
        ..protected()
    });
    let status = case.status_after(&old);
    assert_eq!(status.state, old.state);
    assert_eq!(ready_of(&status).0, "Protected");
    assert_eq!(status.tasks, old.tasks);
}

fn requires(leave: Leave) -> Observed {
    let need = Need {
        reason: Fault::new(Code::TrackingLost, "a crash"),
        disks: Vec::new(),
        running: leave == Leave::Now,
        chain: false,
        leave,
    };
    Observed {
        resync: Resync {
            need: Some(need),
            ..Resync::default()
        },
        ..protected()
    }
}

#[test]
fn a_vm_that_has_to_be_compared_is_critical_while_it_waits_and_not_while_it_runs() {
    let at = jiff::Timestamp::from_second(1_790_040_000).unwrap();
    let waits = Case::of(requires(Leave::Opens(at)));
    let required = "ResynchronizationRequired";
    assert_eq!(waits.summary(), summary("False", required, true, false));
    let status = waits.status();
    assert_eq!(
        status.state,
        Some(ReplicationState::ResynchronizationRequired)
    );
    assert_eq!(status.health, Some(Health::Critical));
    assert!(is_true(&status.conditions, types::CRITICAL));
    let resync = status.resynchronization.unwrap();
    assert_eq!(resync.next_window, Some(at.into()));

    let runs = Case::of(requires(Leave::Now));
    assert_eq!(
        runs.summary(),
        summary("False", "Resynchronizing", true, false)
    );
    let status = runs.status();
    assert!(is_true(&status.conditions, types::RESYNCING));
    assert!(!is_true(&status.conditions, types::CRITICAL));
}

#[test]
fn what_only_a_human_begins_is_stalled() {
    let manual = Case::of(requires(Leave::Manual));
    let required = "ResynchronizationRequired";
    assert_eq!(manual.summary(), summary("False", required, false, true));
}

#[test]
fn a_paused_vm_is_ready_and_says_what_the_pause_costs() {
    for phase in [Phase::Created, Phase::Suspended] {
        let paused = Case::of(Observed {
            pause: Some(Pause::Vm),
            agent: Agent::Replicating(phase),
            ..protected()
        });
        assert_eq!(paused.summary(), summary("True", "Suspended", false, false));
        let status = paused.status();
        assert_eq!(status.state, Some(ReplicationState::Suspended));
        let mut conditions = status.conditions.iter();
        let ready = conditions.find(|condition| condition.type_ == types::READY);
        assert!(ready.unwrap().message.contains("more than half of a disk"));
    }
}

#[test]
fn work_on_a_host_is_no_alarm_even_when_the_host_is_gone() {
    let mut case = Case::of(Observed {
        pause: Some(Pause::Maintenance),
        machine: Machine::Found {
            host: "hv1".parse().unwrap(),
            connected: false,
        },
        agent: Agent::Unknown,
        ..protected()
    });
    case.silent = Some(SILENCE);
    assert_eq!(
        case.summary(),
        summary("True", "HostMaintenance", false, false)
    );
    assert_eq!(case.status().health, Some(Health::Normal));
}

#[test]
fn taking_barriers_changes_nothing_that_is_said() {
    let said = |phase| {
        let agent = Agent::Replicating(phase);
        let case = Case::of(Observed {
            agent,
            ..protected()
        });
        case.status()
    };
    let rests = said(Phase::Replicating);
    for phase in [Phase::Freezing, Phase::Capturing, Phase::Shipping] {
        assert_eq!(said(phase), rests, "{phase:?}");
    }
}

#[test]
fn a_replica_that_is_needed_holds_its_deletion_and_says_why() {
    let wait = crate::controller::vm::removal::Wait::ActiveInAzure;
    let case = Case::of(Observed {
        removal: Some(Removal::Wait(wait)),
        ..protected()
    });
    assert_eq!(
        case.summary(),
        summary("False", "ActiveInAzure", true, false)
    );
    assert_eq!(case.status().state, Some(ReplicationState::Deleting));
}

#[test]
fn a_pause_is_there_once_what_is_captured_is_sealed_and_work_on_a_host_alarms_nobody() {
    for (phase, ready, reason) in [
        (Phase::Shipping, "False", "Pausing"),
        (Phase::Suspended, "True", "HostMaintenance"),
    ] {
        let status = Case::of(Observed {
            pause: Some(Pause::Maintenance),
            agent: Agent::Replicating(phase),
            ..protected()
        })
        .status();
        let said = status.conditions.iter().find(|c| c.type_ == types::READY);
        let said = said.unwrap();
        assert_eq!(
            (said.status.as_str(), said.reason.as_str()),
            (ready, reason)
        );
        assert_eq!(status.health, Some(Health::Normal), "{phase:?}");
    }
}

#[test]
fn a_vm_of_the_name_that_is_another_says_how_the_replica_goes_on_with_it() {
    let replaced = |asked| Observed {
        replaced: Some(Replaced {
            token: "a.b".to_owned(),
            asked,
        }),
        ..protected()
    };
    let status = Case::of(replaced(false)).status();
    let stalled = status.conditions.iter().find(|c| c.type_ == types::STALLED);
    let said = stalled.unwrap();
    assert_eq!(said.reason, "VMReplaced");
    assert!(said.message.contains("siterecovery.dev/rebind=a.b"));
    let asked = Case::of(replaced(true)).status();
    assert!(!is_true(&asked.conditions, types::STALLED));
}
