//! Lets things go wrong where and as often as was asked for.
//!
//! A place that is reached asks [`Faults::strike`]. With no fault set that is one load of an atomic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::host::lab::failure::Failure;
use crate::host::lab::fault::{Effect, Fault, Place};
use crate::ids::{DiskSlot, VmId};
use crate::lab::hypervisor::store::lock;

/// Faults that are set at one time.
const FAULTS_MAX: usize = 1024;

#[derive(Default)]
pub(crate) struct Faults {
    /// How many are set.
    count: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    /// Gates that let pass.
    released: BTreeSet<String>,
    /// How many wait at each gate.
    held: BTreeMap<String, usize>,
    /// Nothing is held any more.
    ended: bool,
}

impl Faults {
    /// Sets a fault: whether there was room for it.
    pub(crate) fn set(&self, fault: Fault) -> bool {
        let mut state = lock(&self.state);
        if state.faults.len() >= FAULTS_MAX {
            return false;
        }
        if let Effect::Hold { gate } = &fault.effect {
            state.released.remove(gate);
        }
        state.faults.push(fault);
        self.count.store(state.faults.len(), Ordering::Release);
        true
    }

    /// Forgets all faults, and lets all pass that is held.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        state.faults.clear();
        let held: Vec<String> = state.held.keys().cloned().collect();
        state.released.extend(held);
        self.count.store(0, Ordering::Release);
        self.changed.notify_all();
    }

    /// Lets all pass that is held at a gate.
    pub(crate) fn release(&self, gate: &str) {
        lock(&self.state).released.insert(gate.to_owned());
        self.changed.notify_all();
    }

    /// The end: whatever is held goes on.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// Waits until something is held at a gate: whether it is.
    pub(crate) fn await_held(&self, gate: &str, patience: Duration) -> bool {
        let waits = |state: &mut State| !state.ended && !state.held.contains_key(gate);
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.state), patience, waits);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.held.contains_key(gate)
    }

    /// What happens at a place: nothing, a delay, or a failure.
    pub(crate) fn strike(
        &self,
        place: Place,
        vm: Option<&VmId>,
        disk: Option<&DiskSlot>,
    ) -> Result<(), Failure> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        match self.take(place, vm, disk) {
            None => Ok(()),
            Some(Effect::Fail { kind, detail }) => Err(Failure::new(kind, detail)),
            Some(Effect::Delay { milliseconds }) => {
                self.wait(Duration::from_millis(milliseconds));
                Ok(())
            }
            Some(Effect::Hold { gate }) => {
                self.hold(&gate);
                Ok(())
            }
        }
    }

    fn take(&self, place: Place, vm: Option<&VmId>, disk: Option<&DiskSlot>) -> Option<Effect> {
        let mut state = lock(&self.state);
        let meant = |wanted: &Fault| {
            wanted.place == place
                && (wanted.vm.is_none() || wanted.vm.as_ref() == vm)
                && (wanted.disk.is_none() || disk.is_none() || wanted.disk.as_ref() == disk)
        };
        let index = state.faults.iter().position(meant)?;
        let fault = &mut state.faults[index];
        let effect = fault.effect.clone();
        fault.times = fault.times.saturating_sub(1);
        if fault.times == 0 {
            state.faults.remove(index);
            self.count.store(state.faults.len(), Ordering::Release);
        }
        Some(effect)
    }

    /// Waits for some time, or until the end.
    fn wait(&self, time: Duration) {
        let state = lock(&self.state);
        drop(
            self.changed
                .wait_timeout_while(state, time, |state| !state.ended),
        );
    }

    fn hold(&self, gate: &str) {
        let mut state = lock(&self.state);
        *state.held.entry(gate.to_owned()).or_default() += 1;
        self.changed.notify_all();
        while !state.ended && !state.released.contains(gate) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(held) = state.held.get_mut(gate) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(gate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Kind;

    fn fail(place: Place, times: u32) -> Fault {
        Fault {
            place,
            vm: None,
            disk: None,
            times,
            effect: Effect::Fail {
                kind: Kind::Busy,
                detail: "as asked".into(),
            },
        }
    }

    #[test]
    fn a_fault_strikes_as_often_as_was_asked_for_and_only_there() {
        let faults = Faults::default();
        faults.set(fail(Place::Freeze, 2));
        let strikes = |place| faults.strike(place, None, None).is_err();
        assert!(!strikes(Place::Commit));
        assert_eq!(
            [(); 3].map(|()| strikes(Place::Freeze)),
            [true, true, false]
        );
    }

    #[test]
    fn what_is_held_goes_on_when_the_gate_is_released() {
        let faults = Faults::default();
        let effect = Effect::Hold { gate: "g".into() };
        faults.set(Fault {
            effect,
            ..fail(Place::Barrier, 1)
        });
        std::thread::scope(|scope| {
            let held = scope.spawn(|| faults.strike(Place::Barrier, None, None));
            assert!(faults.await_held("g", Duration::from_secs(30)));
            faults.release("g");
            assert!(held.join().unwrap().is_ok());
        });
    }
}
