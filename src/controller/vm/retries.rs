//! What failed and is tried again, whoever tries it; and when somebody has asked to begin anew.
//!
//! ```text
//! failed ──1, 2, 4, 8, 10 minutes, then every 30──► tried again          (status.retry: it survives a restart)
//!    └─ needs a human ──every 30 minutes, or when the machine changed──► its cause is looked at again
//! begins anew: the spec changed · the credentials changed · its site is usable again · another token of
//! siterecovery.dev/retry
//! ```
//! What failed is not over because nobody can see for a while what the next step would be: its agent is not connected
//! yet, say, when a restarted controller looks for the first time.
//!
//! To begin anew is to forget the controller's own attempts, to wake the data path, and to tell the agent again what it
//! should do: an engine that waits tries at once then.

use jiff::Timestamp;

use crate::api::time::Time;
use crate::api::vm_status::{LastError, ProtectedVMStatus, Retry};
use crate::controller::vm::gather::Gathered;
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::report::SILENCE;
use crate::host::Machine;
use crate::report::{Code, Fault};
use crate::retry::{Class, Trouble, class};

/// What the controller does beside its steps: it reads the fence.
pub const READ_FENCE: &str = "ReadFence";
/// What the agent does.
const REPLICATE: &str = "Replicate";
/// What the data path does.
const APPLY: &str = "Apply";

/// Stands for a machine that is nowhere.
const GONE: blake3::Hash = blake3::Hash::from_bytes([0; 32]);

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is tried: a step of the controller, `Replicate` or `Apply`.
    pub what: String,
    pub trouble: Trouble,
}

/// All that failed and has not gone well since: the controller's own first. What a silent agent said is not known to be
/// so any more.
pub fn all(memory: &VmMemory, gathered: &Gathered) -> Vec<Failure> {
    let silent = gathered.silent.is_some_and(|silent| silent >= SILENCE);
    let own = [&memory.failing, &memory.reading].into_iter();
    let own =
        own.filter_map(|failing| Some((failing.what().to_owned(), failing.trouble()?.clone())));
    let agents = gathered.replication.as_ref().filter(|_| !silent);
    let agents = agents.and_then(|seen| Some((REPLICATE.to_owned(), seen.trouble.clone()?)));
    let datapaths = gathered.datapath.as_ref();
    let datapaths = datapaths.and_then(|seen| Some((APPLY.to_owned(), seen.trouble.clone()?)));
    // What means that something has to be compared is said as that, once there is something to compare with.
    let compared = |trouble: &Trouble| {
        gathered.observed.point && class(trouble.fault.code) == Class::ResyncRequired
    };
    let all = own.chain(agents).chain(datapaths);
    all.filter(|(_, trouble)| !compared(trouble))
        .map(|(what, trouble)| Failure { what, trouble })
        .collect()
}

/// The failure to show: one that needs a human before one that does not, the controller's own before others'.
pub fn worst(failures: &[Failure]) -> Option<&Failure> {
    let mut human = failures
        .iter()
        .filter(|failure| failure.trouble.needs_human());
    human.next().or_else(|| failures.first())
}

/// How a failure is shown.
pub fn shown(failure: &Failure) -> Retry {
    let Failure { what, trouble } = failure;
    Retry {
        attempts: i32::try_from(trouble.attempts).unwrap_or(i32::MAX),
        step: Some(what.clone()),
        since: Some(trouble.since.into()),
        next_retry_time: trouble.next_attempt.map(Time::from),
        last_error: LastError {
            code: trouble.fault.code.to_string(),
            message: trouble.fault.message.clone(),
            remedy: trouble.fault.code.remedy().to_owned(),
        },
    }
}

/// The controller's own failure that a status tells of; nothing if it is somebody else's, who tells it himself.
pub fn told(retry: &Retry, now: Timestamp) -> Option<Failure> {
    let what = retry
        .step
        .clone()
        .filter(|what| what != REPLICATE && what != APPLY)?;
    let code = Code::named(&retry.last_error.code)?;
    Some(Failure {
        what,
        trouble: Trouble {
            fault: Fault::new(code, retry.last_error.message.clone()),
            attempts: u32::try_from(retry.attempts).unwrap_or(0),
            since: retry.since.map_or(now, Timestamp::from),
            next_attempt: retry.next_retry_time.map(Timestamp::from),
        },
    })
}

/// Takes up the controller's own attempts where a restart has left them, if the object is still the one that they were
/// made for.
pub fn resume(
    memory: &mut VmMemory,
    last: &ProtectedVMStatus,
    generation: Option<i64>,
    now: Timestamp,
) {
    if std::mem::replace(&mut memory.resumed, true) || Some(last.observed_generation) != generation
    {
        return;
    }
    let Some(failure) = last.retry.as_ref().and_then(|retry| told(retry, now)) else {
        return;
    };
    let failing = match failure.what.as_str() {
        READ_FENCE => &mut memory.reading,
        _ => &mut memory.failing,
    };
    failing.resume(failure, now);
}

/// Begins anew. The data path is woken by whoever has it.
pub fn begin_anew(memory: &mut VmMemory) {
    memory.failing.reset();
    memory.reading.reset();
    memory.told = None;
}

/// Begins anew if the site is usable after it was not, or if its account is opened with other credentials than those that
/// were tried, as `opened` says: whether the data path has to be woken, too, which has others' credentials at once.
pub fn see_site(memory: &mut VmMemory, opened: Option<blake3::Hash>) -> bool {
    let Some(opened) = opened else {
        memory.site_was_away = true;
        return false;
    };
    let back = std::mem::take(&mut memory.site_was_away);
    let before = memory.credentials.replace(opened);
    if back || before.is_some_and(|before| before != opened) {
        begin_anew(memory);
    }
    back
}

/// Whether the machine is another than at the last look, or is back, so that what waits for a human may have been mended.
pub fn see_machine(memory: &mut VmMemory, machine: Option<&Machine>) -> bool {
    let now = machine.map_or(GONE, digest);
    let before = memory.machine.replace(now);
    machine.is_some() && before.is_some_and(|before| before != now)
}

/// A digest of all but what moves by itself.
fn digest(machine: &Machine) -> blake3::Hash {
    let mut machine = machine.clone();
    machine.busy = None;
    for volume in machine
        .disks
        .iter_mut()
        .filter_map(|disk| disk.volume.as_mut())
    {
        volume.free = 0;
    }
    blake3::hash(
        serde_json::to_string(&machine)
            .unwrap_or_default()
            .as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn failure(what: &str) -> Failure {
        Failure {
            what: what.to_owned(),
            trouble: Trouble {
                fault: Fault::new(Code::StorageBusy, "503"),
                attempts: 4,
                since: at(0),
                next_attempt: Some(at(900)),
            },
        }
    }

    fn status(what: &str) -> ProtectedVMStatus {
        ProtectedVMStatus {
            observed_generation: 3,
            retry: Some(shown(&failure(what))),
            ..ProtectedVMStatus::default()
        }
    }

    #[test]
    fn attempts_survive_a_restart_with_their_number_and_their_time() {
        let mut memory = VmMemory::default();
        resume(&mut memory, &status("Relate"), Some(3), at(800));
        assert_eq!(memory.failing.trouble(), Some(&failure("Relate").trouble));
        let wait = memory.failing.wait().unwrap();
        assert!(wait <= tokio::time::Instant::now() + Duration::from_secs(100));
        // The fifth that fails is followed by the fifth pause of the schedule.
        memory
            .failing
            .failed("Relate", Fault::new(Code::StorageBusy, "503"), at(900));
        let trouble = memory.failing.trouble().unwrap();
        assert_eq!(
            (trouble.attempts, trouble.next_attempt),
            (5, Some(at(1500)))
        );
    }

    #[test]
    fn an_attempt_that_fell_due_meanwhile_is_made_at_once() {
        let mut memory = VmMemory::default();
        resume(&mut memory, &status(READ_FENCE), Some(3), at(901));
        assert!(memory.reading.trouble().is_some() && memory.reading.wait().is_none());
        assert!(memory.failing.trouble().is_none());
    }

    #[test]
    fn what_failed_begins_anew_when_the_site_is_usable_again_or_has_other_credentials() {
        let (first, second) = (blake3::hash(b"first"), blake3::hash(b"second"));
        let mut memory = VmMemory::default();
        let mut tried = |opened| {
            let fault = Fault::new(Code::StorageBusy, "503");
            memory.failing.failed("Relate", fault, at(0));
            let woken = see_site(&mut memory, opened);
            (woken, memory.failing.trouble().is_none())
        };
        assert_eq!(tried(Some(first)), (false, false));
        assert_eq!(tried(None), (false, false));
        assert_eq!(tried(Some(first)), (true, true));
        assert_eq!(tried(Some(first)), (false, false));
        assert_eq!(tried(Some(second)), (false, true));
    }

    #[test]
    fn a_clock_that_went_back_does_not_put_off_an_attempt_for_ever() {
        let mut memory = VmMemory::default();
        resume(&mut memory, &status("Relate"), Some(3), at(-86_400 * 365));
        let wait = memory.failing.wait().unwrap();
        assert!(wait <= tokio::time::Instant::now() + crate::retry::LOOK_AGAIN);
    }

    #[test]
    fn attempts_of_another_spec_or_of_somebody_else_are_not_taken_up() {
        for (what, generation) in [("Relate", 4), (REPLICATE, 3), (APPLY, 3)] {
            let mut memory = VmMemory::default();
            resume(&mut memory, &status(what), Some(generation), at(0));
            assert!(memory.failing.trouble().is_none(), "{what}");
        }
    }

    #[test]
    fn a_status_is_taken_up_once() {
        let mut memory = VmMemory::default();
        resume(&mut memory, &status("Relate"), Some(3), at(0));
        memory.failing.reset();
        resume(&mut memory, &status("Relate"), Some(3), at(1));
        assert!(memory.failing.trouble().is_none());
    }

    #[test]
    fn a_machine_that_was_gone_and_is_back_as_it_was_may_be_mended() {
        let machine: Machine = serde_json::from_value(serde_json::json!({
            "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "name": "web", "boot": "Gen2", "power": "Running",
            "busy": null, "processors": 1, "memoryMib": 1, "secureBoot": false, "guestOs": null,
            "replicatedBy": null, "networkAdapters": [], "disks": [],
        }))
        .unwrap();
        let mut memory = VmMemory::default();
        let mut look = |machine| see_machine(&mut memory, machine);
        assert!(!look(Some(&machine)) && !look(Some(&machine)));
        assert!(!look(None));
        assert!(look(Some(&machine)));
        assert!(!look(Some(&machine)));
    }

    #[test]
    fn what_needs_a_human_is_shown_before_what_does_not() {
        let mut human = failure(REPLICATE);
        human.trouble.fault.code = Code::BrokenDiskChain;
        human.trouble.next_attempt = None;
        let both = [failure("Relate"), human.clone()];
        assert_eq!(worst(&both), Some(&human));
        assert_eq!(worst(&both[..1]), Some(&both[0]));
    }
}
