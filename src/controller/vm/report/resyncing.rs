//! What a status says of a comparison with the replica: state, verdict, condition, and what it waits for.

use jiff::Timestamp;

use crate::api::condition::{Said, Status, types};
use crate::api::time::Time;
use crate::api::vm_status::{ProtectedVMStatus, ReplicationState, ResynchronizationStatus};
use crate::controller::vm::report::{Kind, Verdict};
use crate::controller::vm::resync::{Leave, Need, Resync};

/// The reasons of conditions.
const REQUIRED: &str = "ResynchronizationRequired";
const RUNNING: &str = "Resynchronizing";

/// The state of a VM that has to be compared.
pub(super) fn state(need: &Need) -> ReplicationState {
    match need.leave {
        Leave::Now => ReplicationState::Resynchronizing,
        Leave::Opens(_) | Leave::Manual | Leave::Unclear(_) => {
            ReplicationState::ResynchronizationRequired
        }
    }
}

/// What the status comes down to. A comparison that waits is critical: nothing is replicated.
pub(super) fn verdict(need: &Need) -> Verdict {
    let (reason, kind) = match &need.leave {
        Leave::Now => (RUNNING, Kind::Reconciling),
        Leave::Opens(_) => (REQUIRED, Kind::Overdue),
        Leave::Manual | Leave::Unclear(_) => (REQUIRED, Kind::Stalled),
    };
    Verdict {
        state: state(need),
        ready: Status::False,
        reason: reason.to_owned(),
        message: message(need),
        kind,
    }
}

/// What happened, what it costs, and what ends it.
fn message(need: &Need) -> String {
    let disks = match need.disks.as_slice() {
        [] => "all disks are".to_owned(),
        [one] => format!("disk {one} is"),
        some => format!("disks {} are", some.join(", ")),
    };
    let happened = &need.reason.message;
    let begins = match &need.leave {
        Leave::Now => {
            return format!(
                "{happened}; {disks} compared with the replica, whose recovery points stay usable"
            );
        }
        Leave::Opens(at) => format!(
            "that begins at {}, when the site's window opens, or at once with",
            minute(*at)
        ),
        Leave::Manual => {
            "the site does not begin it by itself (resynchronization.automatic): begin it with"
                .to_owned()
        }
        Leave::Unclear(error) => {
            format!(
                "the site's resynchronization.window is not understood ({error}): mend it, or begin at once with"
            )
        }
    };
    format!(
        "{happened}; nothing is replicated until {disks} compared with the replica; {begins} the annotation \
         siterecovery.dev/resynchronize=<any new value>"
    )
}

fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%MZ").to_string()
}

/// The condition; `progress` moves, and is the only part of it that does.
pub(super) fn condition(resync: &Resync, progress: Option<&str>) -> Said {
    let Some(need) = &resync.need else {
        return match &resync.token {
            Some(_) => Said::new(
                types::RESYNCING,
                Status::True,
                "Requested",
                "a comparison was asked for",
            ),
            None => Said::new(types::RESYNCING, Status::False, "NotNeeded", ""),
        };
    };
    let reason = match need.leave {
        Leave::Now => RUNNING,
        Leave::Opens(_) => "WaitingForWindow",
        Leave::Manual | Leave::Unclear(_) => REQUIRED,
    };
    let mut message = message(need);
    if let Some(progress) = progress.filter(|_| need.leave == Leave::Now) {
        message = format!("{message}; {progress}");
    }
    let status = match need.leave {
        Leave::Now => Status::True,
        Leave::Opens(_) | Leave::Manual | Leave::Unclear(_) => Status::False,
    };
    Said::new(types::RESYNCING, status, reason, message)
}

/// What is remembered of it in the status: a token that allows it is kept here, until it is done.
pub(super) fn status(
    resync: &Resync,
    old: &ProtectedVMStatus,
    now: Time,
) -> Option<ResynchronizationStatus> {
    let before = old.resynchronization.as_ref();
    let need = resync.need.as_ref();
    if need.is_none() && resync.token.is_none() {
        return None;
    }
    let same = before.filter(|before| before.reason.is_some() == need.is_some());
    Some(ResynchronizationStatus {
        reason: need.map(|need| need.reason.code.to_string()),
        message: need.map(|need| need.reason.message.clone()),
        since: same.map_or(now, |before| before.since),
        disks: need.map(|need| need.disks.clone()).unwrap_or_default(),
        running: need.is_some_and(|need| need.running),
        next_window: need.and_then(|need| match need.leave {
            Leave::Opens(at) => Some(at.into()),
            Leave::Now | Leave::Manual | Leave::Unclear(_) => None,
        }),
        token: resync.token.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::hours;
    use crate::report::{Code, Fault};

    fn need(leave: Leave) -> Need {
        Need {
            reason: Fault::new(Code::TrackingLost, "the host crashed"),
            disks: vec!["scsi:0:1".to_owned()],
            running: leave == Leave::Now,
            chain: false,
            leave,
        }
    }

    fn opens() -> Leave {
        Leave::Opens("2026-11-23T18:30:00Z".parse().unwrap())
    }

    #[test]
    fn what_waits_is_critical_and_says_why_when_and_what_else_can_be_done() {
        let waiting = verdict(&need(opens()));
        assert_eq!(waiting.state, ReplicationState::ResynchronizationRequired);
        assert_eq!(
            (waiting.ready, waiting.kind),
            (Status::False, Kind::Overdue)
        );
        let said = "the host crashed; nothing is replicated until disk scsi:0:1 is compared with the replica; that begins \
                    at 2026-11-23T18:30Z, when the site's window opens, or at once with the annotation \
                    siterecovery.dev/resynchronize=<any new value>";
        assert_eq!(waiting.message, said);
    }

    #[test]
    fn what_runs_goes_on_by_itself_and_what_nobody_begins_needs_a_human() {
        let runs = verdict(&need(Leave::Now));
        assert_eq!(
            (runs.state, runs.kind),
            (ReplicationState::Resynchronizing, Kind::Reconciling)
        );
        let zone = hours::Error::Zone("Berln".to_owned());
        for leave in [Leave::Manual, Leave::Unclear(zone)] {
            let waits = verdict(&need(leave));
            assert_eq!(waits.kind, Kind::Stalled);
            assert_eq!(waits.state, ReplicationState::ResynchronizationRequired);
        }
    }

    #[test]
    fn progress_is_said_while_it_runs() {
        let resync = |leave| Resync {
            need: Some(need(leave)),
            ..Resync::default()
        };
        let running = condition(&resync(Leave::Now), Some("43%"));
        assert_eq!(running.status, Status::True);
        assert!(running.message.ends_with("; 43%"), "{}", running.message);
        let waiting = condition(&resync(opens()), Some("43%"));
        assert_eq!(
            (waiting.status, waiting.reason.as_str()),
            (Status::False, "WaitingForWindow")
        );
        assert!(!waiting.message.contains("43%"));
    }

    #[test]
    fn a_token_is_remembered_as_long_as_it_is_leave() {
        let now: Time = Timestamp::UNIX_EPOCH.into();
        let demanded = Resync {
            token: Some("a".to_owned()),
            demand: true,
            need: None,
            rebound: false,
        };
        let kept = status(&demanded, &ProtectedVMStatus::default(), now).unwrap();
        assert_eq!((kept.token.as_deref(), kept.reason), (Some("a"), None));
        assert_eq!(
            status(&Resync::default(), &ProtectedVMStatus::default(), now),
            None
        );
    }
}
