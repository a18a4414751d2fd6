//! Where the machine is, since when nobody knows, and how the fence stands to that.

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use crate::controller::context::Context;
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::find::Found;
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::step;
use crate::ids::HostName;
use crate::replica::fence::Fence;
use crate::replica::record::Record;

/// How long a machine may be on no host while it moves: the host that it leaves and the one that it comes to do not
/// speak at the same time.
const MOVES: Duration = Duration::from_secs(60);

/// The host that the machine is still believed to be on, although it is found elsewhere: the one that was commanded last,
/// for a while, unless it says itself that it does not have the machine any more. Its agent may only be starting anew,
/// and what is found elsewhere be a copy.
pub(super) fn left_behind(
    found: Option<&HostName>,
    mut silent: Vec<HostName>,
    memory: &mut VmMemory,
    now: Timestamp,
) -> Option<HostName> {
    let fence = memory.fence.as_ref().and_then(|(_, held)| held.as_ref());
    let commanded = fence.and_then(|held| held.value.host.as_ref());
    silent.retain(|host| Some(host) == commanded && found.is_some_and(|found| found != host));
    let Some(left) = silent.pop() else {
        memory.elsewhere = None;
        return None;
    };
    let since = *memory.elsewhere.get_or_insert(now);
    (since_then(since, now) < MOVES).then_some(left)
}

/// After which time something is believed that is held back now.
pub fn until_believed(memory: &VmMemory, now: Timestamp) -> Option<Duration> {
    let since = memory.elsewhere.or(memory.missing)?;
    let left = MOVES.saturating_sub(since_then(since, now));
    (!left.is_zero()).then_some(left)
}

/// What is said of the machine: that one which was found before is nowhere is believed only after a while.
pub(super) fn believed(
    machine: step::Machine,
    found: bool,
    (recorded, memory): (bool, &mut VmMemory),
    now: Timestamp,
) -> step::Machine {
    if found {
        memory.missing = None;
        return machine;
    }
    let since = *memory.missing.get_or_insert(now);
    let moves = since_then(since, now) < MOVES;
    match machine {
        step::Machine::NotFound { .. } if recorded && moves => {
            let silent = Vec::new();
            step::Machine::Unknown { silent }
        }
        other => other,
    }
}

/// How long nobody has been heard of who could say where the machine is, or what becomes of it.
pub(super) fn silent(
    context: &Context,
    found: Option<&Found>,
    memory: &VmMemory,
) -> Option<Duration> {
    let now = context.clock.now();
    let since = match found {
        Some(found) if found.state.is_connected() => return None,
        Some(found) => found.state.heard_at,
        None => memory.missing.unwrap_or(now),
    };
    // Before this controller led, nobody could be heard.
    Some(since_then(since.max(context.registry.since()), now))
}

fn since_then(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// How the fence stands to the owner's term and to the host that the machine is on. While the site is not ready, the
/// term is that of before.
pub(super) fn fence(
    memory: &VmMemory,
    record: Option<&Record>,
    handle: Option<&SiteHandle>,
    found: Option<&Found>,
) -> step::Fence {
    match (&memory.fence, record) {
        (_, None) if handle.is_some() => step::Fence::Absent,
        (None, _) | (_, None) => step::Fence::Unknown,
        (Some((_, None)), Some(_)) => step::Fence::Absent,
        (Some((_, Some(held))), Some(_)) => {
            let Some(handle) = handle else {
                return step::Fence::Current;
            };
            handle.saw_fence(held.value.term);
            match held.value.term.cmp(&handle.term) {
                Ordering::Less => step::Fence::Behind,
                Ordering::Equal if is_elsewhere(&held.value, found) => step::Fence::Elsewhere,
                Ordering::Equal => step::Fence::Current,
                Ordering::Greater => step::Fence::Ahead,
            }
        }
    }
}

/// Whether another host was commanded last than the one that says that it has the machine.
fn is_elsewhere(fence: &Fence, found: Option<&Found>) -> bool {
    let here = found.filter(|found| found.state.is_connected());
    here.zip(fence.host.as_ref())
        .is_some_and(|(here, commanded)| here.host != *commanded)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::blob::memory::MemoryContainer;
    use crate::controller::documents;
    use crate::ids::ReplicaId;
    use crate::units::SystemClock;

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn nowhere() -> step::Machine {
        let asked = vec!["hv1".parse().unwrap()];
        step::Machine::NotFound { asked }
    }

    #[test]
    fn a_machine_on_its_way_is_lost_only_after_a_while() {
        let mut memory = VmMemory::default();
        let mut look = |found, recorded, second| {
            believed(nowhere(), found, (recorded, &mut memory), at(second))
        };
        let on_its_way = step::Machine::Unknown { silent: Vec::new() };
        assert_eq!(look(false, true, 0), on_its_way);
        assert_eq!(look(false, true, 59), on_its_way);
        assert_eq!(look(false, true, 60), nowhere());
        // It was found in between, and goes again.
        look(true, true, 61);
        assert_eq!(look(false, true, 62), on_its_way);
    }

    /// A fence by which hv1 was commanded last.
    async fn commanded() -> VmMemory {
        let replica = ReplicaId::from_random(1);
        let fence: Fence = serde_json::from_value(json!({
            "replica": replica, "generation": 7, "host": "hv1", "epoch": 0, "activeSide": "OnPremises",
            "activeRun": null, "pinned": [],
            "machine": {
                "vm": ID, "name": "web", "boot": "Gen2", "processors": 1, "memoryMib": 1, "secureBoot": false,
                "guestOs": null, "networkAdapters": [], "disks": [],
            },
        }))
        .unwrap();
        let container = MemoryContainer::new("replica", Arc::new(SystemClock));
        let held = documents::create(&container, "fence.json", fence).await;
        VmMemory {
            fence: Some((replica, Some(held.unwrap()))),
            ..VmMemory::default()
        }
    }

    #[tokio::test]
    async fn a_copy_elsewhere_is_not_taken_for_the_machine_while_its_host_starts_anew() {
        let mut memory = commanded().await;
        let name = |name: &&str| -> HostName { name.parse().unwrap() };
        let mut look = |found: Option<&str>, silent: &[&str], second| {
            let (found, silent) = (found.as_ref().map(name), silent.iter().map(name));
            left_behind(found.as_ref(), silent.collect(), &mut memory, at(second))
        };
        let left = Some(name(&"hv1"));
        assert_eq!(look(Some("hv2"), &["hv1"], 0), left);
        assert_eq!(look(Some("hv2"), &["hv3", "hv1"], 59), left);
        // Its host is back and has it, or has lost it while it was away; or nobody has it.
        assert_eq!(look(Some("hv1"), &[], 60), None);
        assert_eq!(look(Some("hv1"), &["hv1"], 61), None);
        assert_eq!(look(Some("hv2"), &["hv3"], 62), None);
        assert_eq!(look(None, &["hv1"], 63), None);
        // It does not come back: the machine has moved.
        assert_eq!(look(Some("hv2"), &["hv1"], 64), left);
        assert_eq!(look(Some("hv2"), &["hv1"], 123), left);
        assert_eq!(look(Some("hv2"), &["hv1"], 124), None);
    }

    #[test]
    fn a_machine_that_was_never_found_is_not_on_its_way() {
        let mut memory = VmMemory::default();
        let said = believed(nowhere(), false, (false, &mut memory), at(0));
        assert_eq!(said, nowhere());
    }
}
