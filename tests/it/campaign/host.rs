//! Hosts of one VM: a hypervisor that answers only where the VM is, fails by chance, and sees its agent die at any call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use site_recovery::host::{
    Consistency, Error, FrozenDisk, FrozenPoint, Hypervisor, Kind, Machine, PowerOperation,
    PowerState, Ranges, Result, Revision, StartAction, TrackingCursor,
};
use site_recovery::ids::{DiskSlot, FrozenPointId, VmId};
use site_recovery::units::ByteRange;
use tokio::sync::Notify;

use super::chronicle::{Barriers, Taken};
use crate::replication::model::Witnessed;

/// What happens to the calls of one life of an agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// The call at which the agent dies, and whether it is carried out.
    pub(crate) dies_at: Option<(u64, bool)>,
    /// One call in so many fails; half of these are carried out all the same.
    pub(crate) fails_one_in: Option<u64>,
    pub(crate) seed: u64,
}

/// A host as one life of an agent sees it.
#[derive(Clone)]
pub(crate) struct Host {
    inner: Arc<Witnessed>,
    number: usize,
    /// The host that the VM is on.
    home: Arc<AtomicUsize>,
    barriers: Barriers,
    state: Arc<Mutex<State>>,
    /// The agent has to die now.
    pub(crate) dies: Arc<Notify>,
}

struct State {
    fate: Fate,
    random: StdRng,
    calls: u64,
    dead: bool,
}

enum Meets {
    Nothing,
    Failure { carried_out: bool },
}

impl Host {
    /// Host `number` of a VM that is on the host which `home` says.
    pub(crate) fn new(
        inner: Witnessed,
        (number, home): (usize, Arc<AtomicUsize>),
        barriers: Barriers,
        fate: Fate,
    ) -> Self {
        let random = StdRng::seed_from_u64(fate.seed);
        let state = State {
            fate,
            random,
            calls: 0,
            dead: false,
        };
        Host {
            inner: Arc::new(inner),
            number,
            home,
            barriers,
            state: Arc::new(Mutex::new(state)),
            dies: Arc::default(),
        }
    }

    /// From now on nothing fails by chance.
    pub(crate) fn calm(&self) {
        self.state.lock().unwrap().fate = Fate::default();
    }

    fn call<T>(&self, operation: &'static str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let fails = |why| Err(Error::new(Kind::Unavailable, operation, why));
        if self.home.load(Ordering::SeqCst) != self.number {
            let why = "the VM is on another host";
            return Err(Error::new(Kind::VmNotFound, operation, why));
        }
        match self.meets() {
            Meets::Nothing => act(),
            Meets::Failure { carried_out: false } => fails("injected"),
            Meets::Failure { carried_out: true } => {
                act()?;
                fails("carried out, and its reply lost")
            }
        }
    }

    fn meets(&self) -> Meets {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        if state.dead {
            return Meets::Failure { carried_out: false };
        }
        match state.fate.dies_at {
            Some((at, carried_out)) if at == state.calls => {
                state.dead = true;
                self.dies.notify_one();
                return Meets::Failure { carried_out };
            }
            Some(_) | None => {}
        }
        let one_in = state.fate.fails_one_in;
        match one_in.map(|one_in| state.random.random_range(0..2 * one_in)) {
            Some(0) => Meets::Failure { carried_out: false },
            Some(1) => Meets::Failure { carried_out: true },
            Some(_) | None => Meets::Nothing,
        }
    }
}

impl Hypervisor for Host {
    fn machines(&self) -> Result<Vec<Machine>> {
        self.call("list", || self.inner.machines())
    }

    fn machine(&self, vm: &VmId) -> Result<Machine> {
        self.call("look at it", || self.inner.machine(vm))
    }

    fn wait_for_change(&self, seen: Revision, patience: Duration) -> Result<Revision> {
        self.inner.wait_for_change(seen, patience)
    }

    fn start_tracking(&self, vm: &VmId, disks: &[DiskSlot]) -> Result<()> {
        self.call("track", || self.inner.start_tracking(vm, disks))
    }

    fn stop_tracking(&self, vm: &VmId) -> Result<()> {
        self.call("stop tracking", || self.inner.stop_tracking(vm))
    }

    fn freeze(&self, vm: &VmId, disks: &[DiskSlot], wanted: Consistency) -> Result<FrozenPoint> {
        self.call("freeze", || {
            let point = self.inner.freeze(vm, disks, wanted)?;
            let taken = Taken {
                consistency: point.consistency,
                disks: point.disks.clone(),
            };
            self.barriers.lock().unwrap().insert(point.taken_at, taken);
            Ok(point)
        })
    }

    fn points(&self, vm: &VmId) -> Result<Vec<FrozenPoint>> {
        self.call("list points", || self.inner.points(vm))
    }

    fn open(
        &self,
        vm: &VmId,
        point: &FrozenPointId,
        disk: &DiskSlot,
    ) -> Result<Box<dyn FrozenDisk>> {
        let disk = self.call("open", || self.inner.open(vm, point, disk))?;
        Ok(Box::new(Frozen {
            disk,
            host: self.clone(),
        }))
    }

    fn commit(&self, vm: &VmId, point: &FrozenPointId) -> Result<Vec<(DiskSlot, TrackingCursor)>> {
        self.call("commit", || self.inner.commit(vm, point))
    }

    fn abandon(&self, vm: &VmId, point: &FrozenPointId) -> Result<()> {
        self.call("abandon", || self.inner.abandon(vm, point))
    }

    fn forget(&self, vm: &VmId, keep: &[TrackingCursor]) -> Result<()> {
        self.call("forget", || self.inner.forget(vm, keep))
    }

    fn power(
        &self,
        vm: &VmId,
        operation: PowerOperation,
        patience: Duration,
    ) -> Result<PowerState> {
        self.call("power", || self.inner.power(vm, operation, patience))
    }

    fn set_start_action(&self, vm: &VmId, action: StartAction) -> Result<()> {
        self.call("set its start action", || {
            self.inner.set_start_action(vm, action)
        })
    }
}

struct Frozen {
    disk: Box<dyn FrozenDisk>,
    host: Host,
}

impl FrozenDisk for Frozen {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.host.call("read", || self.disk.read_at(offset, buffer))
    }

    fn allocated(&self, window: ByteRange) -> Result<Ranges> {
        self.host
            .call("list what is allocated", || self.disk.allocated(window))
    }

    fn changes(&self, since: &TrackingCursor, window: ByteRange) -> Result<Ranges> {
        self.host
            .call("list changes", || self.disk.changes(since, window))
    }
}
