//! A lab hypervisor in a process of its own, and whoever talks to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use site_recovery::host::lab::LabHypervisor;
use site_recovery::host::lab::console::Console;
use site_recovery::host::lab::fault::{Effect, Fault, Place};
use site_recovery::host::lab::spec::{DiskContent, DiskSpec, MachineSpec};
use site_recovery::host::{
    Error, FrozenDisk, FrozenPoint, Hypervisor as _, Kind, Machine, PowerOperation, Revision,
    TrackingCursor,
};
use site_recovery::ids::{DiskSlot, VmId};
use site_recovery::lab::guest::client::{Address, Client};
use site_recovery::lab::process::Process;
use site_recovery::units::{ByteRange, to_usize};
use tempfile::TempDir;

use crate::hypervisor::disk::{Tags, tags};

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    folder: TempDir,
    process: Option<Process>,
}

impl Rig {
    /// A hypervisor without machines.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Rig {
            folder,
            process: None,
        };
        rig.launch();
        rig
    }

    fn launch(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_site-recovery"));
        command.args(["lab", "hypervisor", "--folder"]);
        command.arg(self.path("host")).arg("--socket");
        command.arg(self.path("api")).arg("--nbd-socket");
        command.arg(self.path("nbd"));
        let log = self.path("log");
        let mut process = Process::start("lab hypervisor", &mut command, &log).unwrap();
        let console = self.console();
        block_on(process.wait_ready(PATIENCE, || {
            let ready = console.about().is_ok();
            std::future::ready(ready)
        }))
        .unwrap();
        self.process = Some(process);
    }

    /// SIGKILL, at whatever it is.
    pub(crate) fn kill(&mut self) {
        self.process.as_mut().unwrap().kill();
    }

    /// SIGKILL, and a new process.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.launch();
    }

    /// Ends it as a service manager would.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::TERM).unwrap();
        let status = block_on(process.wait_ended(PATIENCE)).unwrap();
        assert!(status.success(), "{status}: {}", process.log().tail());
    }

    /// Begins again what was killed or stopped.
    pub(crate) fn start_again(&mut self) {
        self.launch();
    }

    pub(crate) fn stop_and_start(&mut self) {
        self.stop();
        self.launch();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of a machine.
    pub(crate) fn home(&self, machine: &str) -> PathBuf {
        self.path("host").join("machines").join(machine)
    }

    pub(crate) fn console(&self) -> Console {
        Console::new(self.path("api"))
    }

    pub(crate) fn host(&self) -> LabHypervisor {
        LabHypervisor::new(self.path("api"))
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.path("nbd"))
    }

    /// A guest's connection to a disk of a running machine.
    pub(crate) fn connect(&self, machine: &str, slot: &DiskSlot) -> Client {
        Client::connect(&self.address(), &format!("{machine}/{slot}"), PATIENCE).unwrap()
    }

    /// A machine with these disks at `scsi:0:0` and so on, running.
    pub(crate) fn machine(&self, name: &str, disks: Vec<DiskContent>) -> VmId {
        let vm = self.console().create(&spec(name, disks)).unwrap();
        self.power_on(&vm);
        vm
    }

    pub(crate) fn power_on(&self, vm: &VmId) {
        let started = self.host().power(vm, PowerOperation::Start, PATIENCE);
        started.unwrap();
    }

    pub(crate) fn turn_off(&self, vm: &VmId) {
        let off = self.host().power(vm, PowerOperation::TurnOff, PATIENCE);
        off.unwrap();
    }

    pub(crate) fn describe(&self, vm: &VmId) -> Machine {
        self.host().machine(vm).unwrap()
    }

    /// Waits until a machine is as wanted.
    pub(crate) fn wait_until(&self, vm: &VmId, wanted: impl Fn(&Machine) -> bool) -> Machine {
        let host = self.host();
        let mut seen = Revision::default();
        for _ in 0..1000 {
            seen = host.wait_for_change(seen, PATIENCE).unwrap();
            let machine = host.machine(vm).unwrap();
            if wanted(&machine) {
                return machine;
            }
        }
        panic!("the machine never was as wanted: {:?}", host.machine(vm));
    }

    pub(crate) fn wait_merged(&self, vm: &VmId) {
        self.wait_until(vm, |machine| machine.busy.is_none());
    }

    /// Sets a fault for the next time that a machine comes to `place`.
    pub(crate) fn hold(&self, vm: &VmId, place: Place, gate: &str) {
        self.fault(vm, place, 1, Effect::Hold { gate: gate.into() });
    }

    pub(crate) fn fail(&self, vm: &VmId, place: Place, times: u32, kind: Kind) {
        let detail = "as the test asked for".to_owned();
        self.fault(vm, place, times, Effect::Fail { kind, detail });
    }

    fn fault(&self, vm: &VmId, place: Place, times: u32, effect: Effect) {
        let fault = Fault {
            place,
            vm: Some(vm.clone()),
            disk: None,
            times,
            effect,
        };
        self.console().fault(&fault).unwrap();
    }

    pub(crate) fn open(
        &self,
        vm: &VmId,
        point: &FrozenPoint,
        slot: &DiskSlot,
    ) -> Box<dyn FrozenDisk> {
        self.host().open(vm, &point.id, slot).unwrap()
    }
}

pub(crate) fn slot(number: usize) -> DiskSlot {
    format!("scsi:0:{number}").parse().unwrap()
}

/// A machine with these disks at `scsi:0:0` and so on.
pub(crate) fn spec(name: &str, disks: Vec<DiskContent>) -> MachineSpec {
    let disks = disks
        .into_iter()
        .enumerate()
        .map(|(number, content)| DiskSpec {
            slot: slot(number),
            content,
        });
    MachineSpec {
        disks: disks.collect(),
        ..MachineSpec::new(name)
    }
}

/// All of a frozen disk.
pub(crate) fn frozen_tags(disk: &dyn FrozenDisk) -> Tags {
    let mut bytes = vec![0; to_usize(disk.size())];
    disk.read_at(0, &mut bytes).unwrap();
    tags(&bytes)
}

/// All of a running machine's disk.
pub(crate) fn live_tags(client: &mut Client) -> Tags {
    let mut bytes = vec![0; to_usize(client.size())];
    client.read(0, &mut bytes).unwrap();
    tags(&bytes)
}

/// All changes of a frozen disk since a cursor.
pub(crate) fn changes(
    disk: &dyn FrozenDisk,
    since: &TrackingCursor,
) -> Result<Vec<ByteRange>, Error> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < disk.size() {
        let window = ByteRange::new(at, disk.size()).unwrap();
        let found = disk.changes(since, window)?;
        assert!(found.covered > at, "an answer covers nothing");
        ranges.extend(found.ranges);
        at = found.covered;
    }
    let apart = ranges
        .windows(2)
        .all(|pair: &[ByteRange]| pair[0].end() <= pair[1].start());
    assert!(apart, "ranges overlap or are out of order: {ranges:?}");
    Ok(ranges)
}

/// The names of the images in a folder.
pub(crate) fn images_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut images: Vec<_> = names.filter(|name| name.contains("vhd")).collect();
    images.sort();
    images
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}
