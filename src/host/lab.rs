//! The lab hypervisor as an agent sees it: a client over a Unix socket that reads frozen disks from their files.
//!
//! ```text
//! agent ── LabHypervisor ──socket──► lab hypervisor, a process of its own
//!               │                         │ writes
//!               └── reads frozen images ◄─┘ (`frozen`: through `formats`, as Hyper-V's edge through virtdisk)
//! ```
//! Never writes an image, and keeps nothing: every call connects anew, so that either side may be restarted at any time.
//! `protocol`, `spec` and `fault` are what both sides speak; [`console`] is what an agent has no use for.

pub mod connection;
pub mod console;
pub mod failure;
pub mod fault;
mod frozen;
pub mod protocol;
pub mod spec;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::host::lab::connection::{Connection, SLACK};
use crate::host::lab::frozen::{Frozen, Name};
use crate::host::lab::protocol::{Call, FrozenChain, WAIT_MAX_MS};
use crate::host::{
    Consistency, FrozenDisk, FrozenPoint, Hypervisor, Machine, PowerOperation, PowerState, Result,
    Revision, StartAction, TrackingCursor,
};
use crate::ids::{DiskSlot, FrozenPointId, VmId};

/// A client of a lab hypervisor.
#[derive(Clone, Debug)]
pub struct LabHypervisor {
    connection: Connection,
}

impl LabHypervisor {
    /// A client of the hypervisor that listens at `socket`. Nothing is tried before the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        LabHypervisor {
            connection: Connection::new(socket),
        }
    }

    /// The same with another patience for calls that do not wait.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        LabHypervisor {
            connection: self.connection.with_patience(patience),
        }
    }

    fn call<T: DeserializeOwned>(&self, operation: &'static str, call: &Call) -> Result<T> {
        self.connection
            .call(call)
            .map_err(|failure| failure.of(operation))
    }

    fn call_on<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        vm: &VmId,
        call: &Call,
    ) -> Result<T> {
        self.call(operation, call).map_err(|error| error.on(vm))
    }
}

impl Hypervisor for LabHypervisor {
    fn machines(&self) -> Result<Vec<Machine>> {
        self.call("list the machines", &Call::Machines)
    }

    fn machine(&self, vm: &VmId) -> Result<Machine> {
        let call = Call::Machine { vm: vm.clone() };
        self.call_on("describe the machine", vm, &call)
    }

    fn wait_for_change(&self, seen: Revision, patience: Duration) -> Result<Revision> {
        let started = Instant::now();
        loop {
            let left = patience.saturating_sub(started.elapsed());
            let step = left.min(Duration::from_millis(WAIT_MAX_MS));
            let patience_ms = u64::try_from(step.as_millis()).unwrap_or(WAIT_MAX_MS);
            let call = Call::WaitForChange { seen, patience_ms };
            let revision: Revision = self
                .connection
                .call_within(&call, step + SLACK)
                .map_err(|failure| failure.of("wait for a change"))?;
            if revision != seen || step == left {
                return Ok(revision);
            }
        }
    }

    fn start_tracking(&self, vm: &VmId, disks: &[DiskSlot]) -> Result<()> {
        let call = Call::StartTracking {
            vm: vm.clone(),
            disks: disks.to_vec(),
        };
        self.call_on("start to track the disks", vm, &call)
    }

    fn stop_tracking(&self, vm: &VmId) -> Result<()> {
        let call = Call::StopTracking { vm: vm.clone() };
        self.call_on("stop tracking the disks", vm, &call)
    }

    fn freeze(&self, vm: &VmId, disks: &[DiskSlot], wanted: Consistency) -> Result<FrozenPoint> {
        let call = Call::Freeze {
            vm: vm.clone(),
            disks: disks.to_vec(),
            wanted,
        };
        self.call_on("freeze the disks", vm, &call)
    }

    fn points(&self, vm: &VmId) -> Result<Vec<FrozenPoint>> {
        let call = Call::Points { vm: vm.clone() };
        self.call_on("list the frozen points", vm, &call)
    }

    fn open(
        &self,
        vm: &VmId,
        point: &FrozenPointId,
        disk: &DiskSlot,
    ) -> Result<Box<dyn FrozenDisk>> {
        let name = Name {
            vm: vm.clone(),
            point: point.clone(),
            disk: disk.clone(),
        };
        let call = Call::Open {
            vm: vm.clone(),
            point: point.clone(),
            disk: disk.clone(),
        };
        let chain: FrozenChain = self.call_on("open a frozen disk", vm, &call)?;
        let frozen = Frozen::open(self.connection.clone(), name, &chain)?;
        Ok(Box::new(frozen))
    }

    fn commit(&self, vm: &VmId, point: &FrozenPointId) -> Result<Vec<(DiskSlot, TrackingCursor)>> {
        let call = Call::Commit {
            vm: vm.clone(),
            point: point.clone(),
        };
        self.call_on("release the point", vm, &call)
    }

    fn abandon(&self, vm: &VmId, point: &FrozenPointId) -> Result<()> {
        let call = Call::Abandon {
            vm: vm.clone(),
            point: point.clone(),
        };
        self.call_on("abandon the point", vm, &call)
    }

    fn forget(&self, vm: &VmId, keep: &[TrackingCursor]) -> Result<()> {
        let call = Call::Forget {
            vm: vm.clone(),
            keep: keep.to_vec(),
        };
        self.call_on("forget old cursors", vm, &call)
    }

    fn power(
        &self,
        vm: &VmId,
        operation: PowerOperation,
        patience: Duration,
    ) -> Result<PowerState> {
        let call = Call::Power {
            vm: vm.clone(),
            operation,
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        let reply = self
            .connection
            .call_within(&call, patience.saturating_add(SLACK));
        reply.map_err(|failure| failure.of("change the power state").on(vm))
    }

    fn set_start_action(&self, vm: &VmId, action: StartAction) -> Result<()> {
        let call = Call::SetStartAction {
            vm: vm.clone(),
            action,
        };
        self.call_on("change the start action", vm, &call)
    }
}
