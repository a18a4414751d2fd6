//! Turns machines on and off.
//!
//! | | Off | Running | Paused, Saved, Other |
//! |---|---|---|---|
//! | Start | disks opened, guests let in | holds already | as from Off |
//! | ShutDown | holds already | the guest is asked, its requests end, disks closed | refused: there is nobody to ask |
//! | TurnOff | holds already | guests cut off, disks closed | Off |

use std::time::Duration;

use crate::host::{Error, Kind, PowerOperation, PowerState, Result, StartAction};
use crate::lab::hypervisor::hook;
use crate::lab::hypervisor::machine::Machine;
use crate::report;

/// How long the last requests of a guest may take that has shut down by itself.
const DRAIN: Duration = Duration::from_secs(30);

/// What an operation means in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Start,
    ShutDown,
    TurnOff,
    Refuse,
}

fn step(state: PowerState, operation: PowerOperation) -> Step {
    match (operation, state) {
        (PowerOperation::Start, PowerState::Running)
        | (PowerOperation::ShutDown | PowerOperation::TurnOff, PowerState::Off) => Step::Nothing,
        (
            PowerOperation::Start,
            PowerState::Off | PowerState::Paused | PowerState::Saved | PowerState::Other(_),
        ) => Step::Start,
        (PowerOperation::ShutDown, PowerState::Running) => Step::ShutDown,
        (
            PowerOperation::ShutDown,
            PowerState::Paused | PowerState::Saved | PowerState::Other(_),
        ) => Step::Refuse,
        (
            PowerOperation::TurnOff,
            PowerState::Running | PowerState::Paused | PowerState::Saved | PowerState::Other(_),
        ) => Step::TurnOff,
    }
}

/// Brings a machine into the state that an operation means, at most within `patience`.
pub(crate) fn change(
    machine: &Machine,
    operation: PowerOperation,
    patience: Duration,
) -> Result<PowerState> {
    let name = match operation {
        PowerOperation::Start => "starting",
        PowerOperation::ShutDown => "shutting down",
        PowerOperation::TurnOff => "turning off",
    };
    let _doing = machine.work.begin(name)?;
    let state = machine.home.store.get().power;
    match step(state, operation) {
        Step::Nothing => Ok(state),
        Step::Start => {
            start(machine, name)?;
            Ok(PowerState::Running)
        }
        Step::ShutDown => {
            shut_down(machine, name, patience)?;
            Ok(PowerState::Off)
        }
        Step::TurnOff => {
            stop(machine, name, PowerState::Off)?;
            Ok(PowerState::Off)
        }
        Step::Refuse => {
            let detail = format!("no guest runs that could be asked: the machine is {state:?}");
            Err(Error::new(Kind::InvalidState, name, detail))
        }
    }
}

/// The state that a machine has once its host has started, if it is another than the one it had before.
pub(crate) const fn after_start(before: PowerState, action: StartAction) -> Option<PowerState> {
    match (before, action) {
        (PowerState::Running, StartAction::Nothing) => Some(PowerState::Off),
        (PowerState::Off, StartAction::Always) => Some(PowerState::Running),
        (_, StartAction::Nothing | StartAction::IfRunning | StartAction::Always) => None,
    }
}

pub(crate) fn set_start_action(machine: &Machine, action: StartAction) -> Result<()> {
    let doing = "change the start action";
    let changed = machine.home.store.update(doing, |record| {
        record.settings.start_action = action;
    });
    changed?;
    machine.home.context.revisions.bump();
    Ok(())
}

/// Brings a running machine into a state in which no guest runs.
pub(crate) fn suspend(machine: &Machine, state: PowerState) -> Result<()> {
    const OPERATION: &str = "suspending";
    let _doing = machine.work.begin(OPERATION)?;
    let now = machine.home.store.get().power;
    let allowed = !matches!(state, PowerState::Running | PowerState::Off);
    if now != PowerState::Running || !allowed {
        let detail = format!("a machine that is {now:?} cannot become {state:?}");
        return Err(Error::new(Kind::InvalidState, OPERATION, detail));
    }
    stop(machine, OPERATION, state)
}

fn start(machine: &Machine, operation: &'static str) -> Result<()> {
    machine.open_disks()?;
    let recorded = machine.home.store.update(operation, |record| {
        record.power = PowerState::Running;
    });
    recorded.inspect_err(|_| machine.close_disks())?;
    machine.traffic.open();
    machine.home.context.revisions.bump();
    Ok(())
}

fn shut_down(machine: &Machine, operation: &'static str, patience: Duration) -> Result<()> {
    let late = |detail: String| Error::new(Kind::Timeout, operation, detail);
    let hooks = machine.home.store.get().settings.hooks.clone();
    if let Some(hook) = &hooks.shutdown {
        let asked = hook::run(hook, patience);
        asked.map_err(|error| late(format!("the guest did not end: {}", report::chain(&error))))?;
    }
    if !machine.traffic.drain(DRAIN.min(patience)) {
        return Err(late("requests of the guest do not end".to_owned()));
    }
    stop(machine, operation, PowerState::Off)
}

/// Cuts guests off and closes the disks.
fn stop(machine: &Machine, operation: &'static str, state: PowerState) -> Result<()> {
    machine.traffic.cut();
    machine.close_disks();
    machine
        .home
        .store
        .update(operation, |record| record.power = state)?;
    machine.home.context.revisions.bump();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_holds_already_needs_nothing() {
        use PowerOperation as Do;
        assert_eq!(step(PowerState::Running, Do::Start), Step::Nothing);
        assert_eq!(step(PowerState::Off, Do::ShutDown), Step::Nothing);
        assert_eq!(step(PowerState::Off, Do::TurnOff), Step::Nothing);
    }

    #[test]
    fn a_host_that_starts_leaves_off_what_is_to_start_by_no_means() {
        use StartAction as Do;
        let (off, running) = (PowerState::Off, PowerState::Running);
        assert_eq!(after_start(running, Do::Nothing), Some(off));
        assert_eq!(after_start(running, Do::IfRunning), None);
        assert_eq!(after_start(off, Do::IfRunning), None);
        assert_eq!(after_start(off, Do::Always), Some(running));
        assert_eq!(after_start(PowerState::Saved, Do::Always), None);
    }

    #[test]
    fn nobody_is_asked_to_shut_down_where_nobody_runs() {
        for state in [PowerState::Saved, PowerState::Paused, PowerState::Other(10)] {
            assert_eq!(step(state, PowerOperation::ShutDown), Step::Refuse);
            assert_eq!(step(state, PowerOperation::TurnOff), Step::TurnOff);
        }
    }
}
