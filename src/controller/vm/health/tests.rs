//! When a VM is healthy, and which alarms rise.

use proptest::prelude::*;

use super::*;
use crate::controller::vm::exposure::History;
use crate::ids::DiskId;
use crate::retry::Trouble;
use crate::units::{GIB, MIB};

const MINUTE: Duration = Duration::from_secs(60);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn healthy() -> Situation<'static> {
    Situation {
        point: true,
        pause: None,
        silent: false,
        phase: Some(Phase::Replicating),
        resync: None,
        quiesce: None,
        failures: &[],
        counted: Counted::default(),
        interval: 5 * MINUTE,
        uploaded: Some(4 * MINUTE),
        processed: Some(5 * MINUTE),
        growing: &[],
        volumes: &[],
    }
}

fn failure(code: Code, attempts: u32, next: bool) -> Failure {
    Failure {
        what: "Replicate".to_owned(),
        trouble: Trouble {
            fault: Fault::new(code, "it failed"),
            attempts,
            since: at(0),
            next_attempt: next.then(|| at(60)),
        },
    }
}

fn codes(of: &Situation<'_>) -> Vec<(String, bool)> {
    let all = reasons(of).into_iter();
    all.map(|reason| (reason.code, reason.critical)).collect()
}

fn only(code: &str, critical: bool) -> Vec<(String, bool)> {
    vec![(code.to_owned(), critical)]
}

/// Cycles of an interval, as a history has them.
fn counted(completed: u64, missed: u64, latency: Duration) -> Counted {
    use crate::wire::observation::Cycles;
    let mut seen = crate::controller::vm::report::tests::observation();
    let mut history = History::default();
    history.saw(&seen, at(0));
    seen.cycles = Cycles {
        completed,
        missed,
        changed: 0,
        latency: completed * u64::try_from(latency.as_millis()).unwrap(),
    };
    history.saw(&seen, at(1));
    history.counted(at(1))
}

#[test]
fn a_vm_that_keeps_up_is_healthy() {
    assert_eq!(reasons(&healthy()), []);
    let quiet = Situation {
        counted: counted(100, 20, MINUTE),
        ..healthy()
    };
    assert_eq!(reasons(&quiet), []);
    assert_eq!(health(&[]), Health::Normal);
}

#[test]
fn more_than_a_fifth_of_missed_cycles_is_a_warning_with_its_numbers() {
    let missing = Situation {
        counted: counted(70, 30, MINUTE),
        ..healthy()
    };
    let all = reasons(&missing);
    assert_eq!(codes(&missing), only("CyclesMissed", false));
    assert!(
        all[0].text.contains("30 of 100 cycles") && all[0].text.contains("30 %"),
        "{}",
        all[0].text
    );
    let few = Situation {
        counted: counted(1, 2, MINUTE),
        ..healthy()
    };
    assert_eq!(reasons(&few), []);
}

#[test]
fn a_transfer_that_does_not_end_misses_cycles_before_it_has_ended() {
    let stuck = Situation {
        counted: counted(10, 0, MINUTE),
        uploaded: Some(30 * MINUTE),
        ..healthy()
    };
    assert_eq!(codes(&stuck), only("CyclesMissed", false));
}

#[test]
fn an_hour_without_a_seal_is_a_warning() {
    let late = Situation {
        uploaded: Some(61 * MINUTE),
        interval: 15 * MINUTE,
        ..healthy()
    };
    assert_eq!(codes(&late), only("NotSynchronized", false));
}

#[test]
fn a_slow_way_to_azure_is_a_warning_beyond_the_interval() {
    let slow = Situation {
        counted: counted(20, 0, 6 * MINUTE),
        ..healthy()
    };
    assert_eq!(codes(&slow), only("LatencyHigh", false));
    let within = Situation {
        interval: 15 * MINUTE,
        ..slow
    };
    assert_eq!(reasons(&within), []);
}

#[test]
fn a_data_path_that_lags_is_a_warning_of_its_own() {
    let lagging = Situation {
        processed: Some(20 * MINUTE),
        ..healthy()
    };
    assert_eq!(codes(&lagging), only("ProcessingBehind", false));
}

#[test]
fn suspended_is_a_warning_that_says_by_whom_and_nothing_else() {
    let suspended = |pause| Situation {
        pause,
        phase: Some(Phase::Suspended),
        uploaded: Some(1000 * MINUTE),
        ..healthy()
    };
    let cases = [
        (Some(Pause::Vm), "spec.suspend of the VM"),
        (Some(Pause::Site), "spec.suspend of its HyperVSite"),
    ];
    for (pause, said) in cases {
        let of = suspended(pause);
        assert_eq!(codes(&of), only("Suspended", false));
        assert!(reasons(&of)[0].text.contains(said), "{pause:?}");
    }
    // Until its agent has gone on it is said as before.
    let goes_on = Situation {
        uploaded: Some(MINUTE),
        ..suspended(None)
    };
    assert_eq!(codes(&goes_on), only("Suspended", false));
    assert_eq!(reasons(&suspended(Some(Pause::Maintenance))), []);
}

#[test]
fn a_resynchronization_is_critical_until_it_runs() {
    let mut resync = Resync {
        disks: vec![DiskId::from_random(1)],
        reason: Fault::new(Code::TrackingLost, "the host crashed"),
        running: false,
    };
    let required = Situation {
        phase: Some(Phase::ResyncRequired),
        resync: Some(&resync),
        ..healthy()
    };
    assert_eq!(codes(&required), only("ResynchronizationRequired", true));
    let said = &reasons(&required)[0].text;
    assert!(said.ends_with(": the host crashed"), "{said}");
    resync.running = true;
    let running = Situation {
        phase: Some(Phase::Copying),
        resync: Some(&resync),
        ..healthy()
    };
    assert_eq!(codes(&running), only("Resynchronizing", false));
}

#[test]
fn an_error_is_critical_if_it_waits_for_a_human_or_outlasts_the_schedule() {
    let cases = [
        (failure(Code::StorageUnreachable, 1, true), false),
        (failure(Code::StorageUnreachable, 6, true), true),
        (failure(Code::BrokenDiskChain, 1, false), true),
        // A fault of ours is tried again by itself.
        (failure(Code::Internal, 1, true), false),
    ];
    for (failure, critical) in cases {
        let of = Situation {
            failures: std::slice::from_ref(&failure),
            ..healthy()
        };
        assert_eq!(
            codes(&of),
            only(failure.trouble.fault.code.as_str(), critical)
        );
    }
}

#[test]
fn several_reasons_are_all_told_and_the_worst_counts() {
    let failures = [
        failure(Code::StorageBusy, 1, true),
        failure(Code::BrokenDiskChain, 1, false),
    ];
    let of = Situation {
        failures: &failures,
        counted: counted(5, 5, MINUTE),
        ..healthy()
    };
    let all = reasons(&of);
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(health(&all), Health::Critical);
}

#[test]
fn a_full_disk_names_the_volumes_and_their_space() {
    let volumes = [Volume {
        name: "D:".to_owned(),
        free: 3 * MIB,
        size: GIB,
    }];
    let failures = [failure(Code::HostDiskFull, 1, true)];
    let of = Situation {
        failures: &failures,
        volumes: &volumes,
        ..healthy()
    };
    let all = reasons(&of);
    assert!(!all[0].critical);
    assert!(all[0].text.contains("D: has 3 MiB free"), "{}", all[0].text);
}

#[test]
fn changes_that_pile_up_are_warned_of_before_half_of_the_disk_is_reached() {
    let growing = [Growing {
        id: DiskId::from_random(1),
        slot: "scsi:0:0".parse().unwrap(),
        size: 20 * GIB,
        pending: 0,
        churn: Some(MIB),
    }];
    let keeping_up = Situation {
        growing: &growing,
        ..healthy()
    };
    assert_eq!(reasons(&keeping_up), []);
    let behind = Situation {
        uploaded: Some(20 * MINUTE),
        ..keeping_up
    };
    let all = reasons(&behind);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].code, "ChangesPileUp");
    assert!(all[0].text.contains("reached in 2h 30m"), "{}", all[0].text);
}

#[test]
fn what_comes_and_goes_alarms_nobody_and_what_lasts_does() {
    let busy = [failure(Code::StorageBusy, 1, true)];
    let all = || {
        reasons(&Situation {
            failures: &busy,
            ..healthy()
        })
    };
    let mut alarms = Alarms::default();
    for minute in 0..20 {
        let said = if minute % 2 == 0 { all() } else { Vec::new() };
        assert_eq!(alarms.held(said, &[], at(minute * 60)).0, []);
    }
    let mut alarms = Alarms::default();
    assert_eq!(alarms.held(all(), &[], at(0)), (Vec::new(), Some(HOLD)));
    assert_eq!(
        alarms.held(all(), &[], at(299)).1,
        Some(Duration::from_secs(1))
    );
    assert_eq!(alarms.held(all(), &[], at(300)).0.len(), 1);
}

#[test]
fn what_waits_for_a_human_alarms_at_once() {
    let broken = [failure(Code::BrokenDiskChain, 1, false)];
    let all = reasons(&Situation {
        failures: &broken,
        ..healthy()
    });
    assert_eq!(Alarms::default().held(all, &[], at(0)).0.len(), 1);
}

#[test]
fn a_restart_takes_back_no_alarm() {
    let busy = [failure(Code::StorageBusy, 2, true)];
    let all = || {
        reasons(&Situation {
            failures: &busy,
            ..healthy()
        })
    };
    let shown: Vec<String> = all().iter().map(Reason::line).collect();
    assert_eq!(Alarms::default().held(all(), &shown, at(0)).0.len(), 1);
}

#[test]
fn each_reason_is_news_once_and_a_lost_site_is_none() {
    let lines = |codes: &[&str]| -> Vec<String> {
        codes.iter().map(|code| format!("{code}: why")).collect()
    };
    let now = lines(&["CyclesMissed", "Suspended", "LatencyHigh"]);
    let new = news(&lines(&["CyclesMissed"]), &now);
    assert_eq!(new, [("LatencyHigh", "LatencyHigh: why")]);
    assert_eq!(
        news(&[], &lines(&["AgentUnreachable", "NotSynchronized"])),
        []
    );
}

proptest! {
    #[test]
    fn an_alarm_never_rises_twice_within_its_hold(ticks in proptest::collection::vec(any::<bool>(), 1..100)) {
        let busy = [failure(Code::StorageBusy, 1, true)];
        let mut alarms = Alarms::default();
        let (mut shown, mut risen) = (false, None);
        for (minute, on) in (0..).zip(ticks) {
            let said = if on { reasons(&Situation { failures: &busy, ..healthy() }) } else { Vec::new() };
            let held = !alarms.held(said, &[], at(minute * 60)).0.is_empty();
            if held && !shown {
                prop_assert!(risen.is_none_or(|before| minute - before >= 5));
                risen = Some(minute);
            }
            shown = held;
        }
    }
}
