//! A hypervisor in memory that remembers what every frozen point held. It does what the trait promises and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use site_recovery::host::{
    Backing, BootGeneration, Consistency, Disk, Error, FrozenDisk, FrozenPoint, Hypervisor, Kind,
    Machine, PowerOperation, PowerState, Ranges, Result, Revision, StartAction, TrackingCursor,
    Volume,
};
use site_recovery::ids::{DiskId, DiskSlot, FrozenPointId, ReplicaId, VmId};
use site_recovery::replica::fence::{DescribedDisk, Fence, MachineDescription};
use site_recovery::report::{Code, Fault};
use site_recovery::units::{ByteRange, GIB, Generation, to_u64};

/// The granularity of change tracking.
const BLOCK: u64 = 4096;

/// One machine, whose disks are bytes.
#[derive(Default)]
pub(crate) struct Model {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    folder: std::path::PathBuf,
    disks: BTreeMap<DiskSlot, Vec<u8>>,
    /// Blocks written since each generation began, by disk; the last is the present one.
    written: Vec<BTreeMap<DiskSlot, BTreeSet<u64>>>,
    points: Vec<Point>,
    committed: BTreeMap<FrozenPointId, usize>,
    freezes: usize,
    /// Changes before this generation are not known any more, by disk.
    lost: BTreeMap<DiskSlot, usize>,
    /// Nor are those before this one, of any disk: nobody needs them any more.
    forgotten: usize,
    regrets: Regrets,
    fails: bool,
    off: bool,
    /// The guest cannot be quiesced.
    restless: bool,
    /// Days that the host's clock is wrong by.
    turned: i64,
}

impl State {
    /// A second after the freeze before, by a clock that may have been turned.
    fn now(&self) -> Timestamp {
        let second = 1_790_000_000 + i64::try_from(self.freezes).unwrap();
        Timestamp::from_second(second + self.turned * 86_400).unwrap()
    }
}

/// Whether somebody counted on what had been dropped as not needed.
#[derive(Clone, Default)]
struct Regrets {
    excused: Arc<AtomicBool>,
    told: Arc<AtomicBool>,
}

struct Point {
    shown: FrozenPoint,
    /// The generation that began with it.
    generation: usize,
    content: BTreeMap<DiskSlot, Arc<Vec<u8>>>,
    written: Vec<BTreeMap<DiskSlot, BTreeSet<u64>>>,
}

pub(crate) fn vm() -> VmId {
    "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap()
}

pub(crate) fn slot(number: usize) -> DiskSlot {
    format!("scsi:0:{number}").parse().unwrap()
}

impl Model {
    /// A machine with disks of these sizes; `folder` is where captures go.
    pub(crate) fn new(folder: &std::path::Path, sizes: &[usize]) -> Arc<Self> {
        let disks = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| (slot(number), vec![0; *size]));
        let state = State {
            folder: folder.to_owned(),
            disks: disks.collect(),
            written: vec![BTreeMap::new()],
            ..State::default()
        };
        Arc::new(Model {
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The guest writes.
    pub(crate) fn write(&self, disk: usize, offset: usize, data: &[u8]) {
        let (mut state, slot) = (self.lock(), slot(disk));
        state.disks.get_mut(&slot).unwrap()[offset..offset + data.len()].copy_from_slice(data);
        let blocks = (offset as u64 / BLOCK)..=((offset + data.len() - 1) as u64 / BLOCK);
        state
            .written
            .last_mut()
            .unwrap()
            .entry(slot)
            .or_default()
            .extend(blocks);
    }

    /// A disk has so many more bytes, which are zero.
    pub(crate) fn grow(&self, disk: usize, by: usize) {
        let mut state = self.lock();
        let content = state.disks.get_mut(&slot(disk)).unwrap();
        content.resize(content.len() + by, 0);
    }

    /// What a disk holds now.
    pub(crate) fn content(&self, disk: usize) -> Vec<u8> {
        self.lock().disks[&slot(disk)].clone()
    }

    /// Loses all frozen points, as a restored checkpoint store would.
    pub(crate) fn lose_points(&self) {
        self.lock().points.clear();
    }

    /// Changes of a disk up to now may have been missed.
    pub(crate) fn lose_tracking(&self, disk: usize) {
        let mut state = self.lock();
        let now = state.written.len();
        state.lost.insert(slot(disk), now);
    }

    pub(crate) fn turn_off(&self) {
        self.lock().off = true;
    }

    pub(crate) fn turn_on(&self) {
        self.lock().off = false;
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().off
    }

    /// What a disk holds now.
    pub(crate) fn content_of(&self, slot: &DiskSlot) -> Vec<u8> {
        self.lock().disks[slot].clone()
    }

    /// The host's clock is turned by so many days: barriers from now on say so.
    pub(crate) fn turn_clock(&self, days: i64) {
        self.lock().turned += days;
    }

    /// From now on the guest can be quiesced again.
    pub(crate) fn calm(&self) {
        self.lock().restless = false;
    }

    /// From now on the guest cannot be quiesced.
    pub(crate) fn disturb(&self) {
        self.lock().restless = true;
    }

    /// Points that are opened from now on cannot tell what changed.
    pub(crate) fn fail_changes(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// Whether changes were asked for since a cursor that had been dropped as not needed, before it was excused.
    pub(crate) fn regrets(&self) -> bool {
        self.lock().regrets.told.load(Ordering::SeqCst)
    }

    /// From now on an older cursor than the one that was kept may be the last.
    pub(crate) fn excuse(&self) {
        self.lock().regrets.excused.store(true, Ordering::SeqCst);
    }

    pub(crate) fn freezes(&self) -> usize {
        self.lock().freezes
    }

    /// What a controller writes of this machine when it begins to protect it.
    pub(crate) fn fence(&self, replica: &ReplicaId, disks: &BTreeMap<DiskId, DiskSlot>) -> Fence {
        let described = |(id, slot): (&DiskId, &DiskSlot)| DescribedDisk {
            id: id.clone(),
            slot: slot.clone(),
            identifier: None,
            size: to_u64(self.content_of(slot).len()),
            boot: false,
        };
        let machine = MachineDescription {
            vm: vm(),
            name: "model".to_owned(),
            boot: BootGeneration::Gen2,
            processors: 1,
            memory_mib: 1024,
            secure_boot: false,
            guest_os: None,
            network_adapters: Vec::new(),
            disks: disks.iter().map(described).collect(),
        };
        Fence::first(replica.clone(), Generation::new(1), machine)
    }

    /// What the newest frozen point held, committed or not.
    pub(crate) fn last_frozen(&self, witness: &Witness) -> BTreeMap<DiskSlot, Arc<Vec<u8>>> {
        witness.0.lock().unwrap().last().unwrap().1.clone()
    }
}

/// What every disk held at one instant.
pub(crate) type Content = BTreeMap<DiskSlot, Arc<Vec<u8>>>;

/// What every frozen point held, the newest last.
#[derive(Default)]
pub(crate) struct Witness(Mutex<Vec<(Timestamp, Content)>>);

impl Witness {
    /// When each point was frozen, the oldest first.
    pub(crate) fn times(&self) -> Vec<Timestamp> {
        let frozen = self.0.lock().unwrap();
        frozen.iter().map(|(taken, _)| *taken).collect()
    }

    /// When the first point was frozen.
    pub(crate) fn first(&self) -> Timestamp {
        self.0.lock().unwrap().first().unwrap().0
    }

    /// What the disks held at the barrier of `time`.
    pub(crate) fn at(&self, time: Timestamp) -> Content {
        let frozen = self.0.lock().unwrap();
        let found = frozen.iter().find(|(taken, _)| *taken == time);
        found.expect("a barrier of this time was taken").1.clone()
    }
}

/// The model with a witness: what is frozen is remembered for ever.
pub(crate) struct Witnessed {
    pub(crate) model: Arc<Model>,
    pub(crate) witness: Arc<Witness>,
}

fn error(kind: Kind, operation: &'static str) -> Error {
    Error::new(kind, operation, "the model says so").on(&vm())
}

impl Hypervisor for Witnessed {
    fn machines(&self) -> Result<Vec<Machine>> {
        Ok(vec![self.machine(&vm())?])
    }

    fn machine(&self, _: &VmId) -> Result<Machine> {
        let state = self.model.lock();
        let disks = state.disks.iter().map(|(slot, content)| Disk {
            slot: slot.clone(),
            backing: Backing::Vhdx,
            path: state
                .folder
                .join(format!("{}.vhdx", slot.as_str().replace(':', "-")))
                .display()
                .to_string(),
            virtual_size: content.len() as u64,
            logical_sector: 512,
            physical_sector: 4096,
            identifier: None,
            boot: slot.as_str() == "scsi:0:0",
            volume: Some(Volume {
                name: "/".to_owned(),
                free: 1000 * GIB,
                size: 2000 * GIB,
            }),
            problem: None,
        });
        Ok(Machine {
            id: vm(),
            name: "model".to_owned(),
            boot: BootGeneration::Gen2,
            power: if state.off {
                PowerState::Off
            } else {
                PowerState::Running
            },
            busy: None,
            processors: 1,
            memory_mib: 1024,
            secure_boot: false,
            guest_os: None,
            start_action: None,
            replicated_by: None,
            disks: disks.collect(),
            network_adapters: Vec::new(),
        })
    }

    fn wait_for_change(&self, _: Revision, _: Duration) -> Result<Revision> {
        Ok(Revision(1))
    }

    fn start_tracking(&self, _: &VmId, _: &[DiskSlot]) -> Result<()> {
        Ok(())
    }

    fn stop_tracking(&self, _: &VmId) -> Result<()> {
        let mut state = self.model.lock();
        state.points.clear();
        state.committed.clear();
        let now = state.written.len();
        state.lost = state.disks.keys().map(|slot| (slot.clone(), now)).collect();
        Ok(())
    }

    fn freeze(&self, _: &VmId, disks: &[DiskSlot], wanted: Consistency) -> Result<FrozenPoint> {
        let mut state = self.model.lock();
        if !state.points.is_empty() {
            return Err(error(Kind::Busy, "freeze the disks"));
        }
        state.freezes += 1;
        let restless = wanted == Consistency::Application && state.restless;
        let shown = FrozenPoint {
            id: format!("point-{}", state.freezes).parse().unwrap(),
            taken_at: state.now(),
            consistency: if restless { Consistency::Crash } else { wanted },
            fallback: restless.then(|| Fault::new(Code::GuestQuiesceFailed, "a writer is busy")),
            disks: disks.to_vec(),
        };
        let content: BTreeMap<_, _> = state
            .disks
            .iter()
            .map(|(slot, content)| (slot.clone(), Arc::new(content.clone())))
            .collect();
        let frozen = (shown.taken_at, content.clone());
        self.witness.0.lock().unwrap().push(frozen);
        let written = state.written.clone();
        state.written.push(BTreeMap::new());
        let generation = state.written.len() - 1;
        state.points.push(Point {
            shown: shown.clone(),
            generation,
            content,
            written,
        });
        Ok(shown)
    }

    fn points(&self, _: &VmId) -> Result<Vec<FrozenPoint>> {
        Ok(self
            .model
            .lock()
            .points
            .iter()
            .map(|point| point.shown.clone())
            .collect())
    }

    fn open(
        &self,
        _: &VmId,
        point: &FrozenPointId,
        disk: &DiskSlot,
    ) -> Result<Box<dyn FrozenDisk>> {
        let state = self.model.lock();
        let point = state.points.iter().find(|known| known.shown.id == *point);
        let point = point.ok_or_else(|| error(Kind::PointNotFound, "open the point"))?;
        Ok(Box::new(Frozen {
            content: point.content[disk].clone(),
            written: point
                .written
                .iter()
                .map(|disks| disks.get(disk).cloned().unwrap_or_default())
                .collect(),
            lost: state.lost.get(disk).copied().unwrap_or_default(),
            forgotten: state.forgotten,
            regrets: state.regrets.clone(),
            fails: state.fails,
        }))
    }

    fn commit(&self, _: &VmId, point: &FrozenPointId) -> Result<Vec<(DiskSlot, TrackingCursor)>> {
        let mut state = self.model.lock();
        let generation = match state.committed.get(point) {
            Some(generation) => *generation,
            None => {
                let at = state
                    .points
                    .iter()
                    .position(|known| known.shown.id == *point);
                let at = at.ok_or_else(|| error(Kind::PointNotFound, "release the point"))?;
                let released = state.points.remove(at);
                state.committed.insert(point.clone(), released.generation);
                released.generation
            }
        };
        let cursor = TrackingCursor::new(generation.to_string());
        Ok(state
            .disks
            .keys()
            .map(|slot| (slot.clone(), cursor.clone()))
            .collect())
    }

    fn abandon(&self, _: &VmId, point: &FrozenPointId) -> Result<()> {
        self.model
            .lock()
            .points
            .retain(|known| known.shown.id != *point);
        Ok(())
    }

    fn forget(&self, _: &VmId, keep: &[TrackingCursor]) -> Result<()> {
        let least = keep
            .iter()
            .filter_map(|cursor| cursor.as_str().parse::<usize>().ok())
            .min();
        let mut state = self.model.lock();
        state.forgotten = state.forgotten.max(least.unwrap_or_default());
        state
            .committed
            .retain(|_, generation| least.is_none_or(|least| *generation >= least));
        Ok(())
    }

    fn power(&self, _: &VmId, _: PowerOperation, _: Duration) -> Result<PowerState> {
        Ok(PowerState::Running)
    }

    fn set_start_action(&self, _: &VmId, _: StartAction) -> Result<()> {
        Ok(())
    }
}

struct Frozen {
    content: Arc<Vec<u8>>,
    written: Vec<BTreeSet<u64>>,
    lost: usize,
    forgotten: usize,
    regrets: Regrets,
    fails: bool,
}

impl FrozenDisk for Frozen {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.content[from..from + buffer.len()]);
        Ok(())
    }

    /// Pretends that megabytes without data are not allocated.
    fn allocated(&self, window: ByteRange) -> Result<Ranges> {
        let megabytes = window.split_at_multiples(1 << 20).filter(|part| {
            let range =
                usize::try_from(part.start()).unwrap()..usize::try_from(part.end()).unwrap();
            self.content[range].iter().any(|byte| *byte != 0)
        });
        Ok(Ranges {
            ranges: joined(megabytes),
            covered: window.end(),
        })
    }

    fn changes(&self, since: &TrackingCursor, window: ByteRange) -> Result<Ranges> {
        let generation: usize = since.as_str().parse().unwrap();
        if self.fails {
            return Err(error(Kind::Unavailable, "list changes"));
        }
        let is_forgotten = generation < self.forgotten;
        if is_forgotten && generation >= self.lost && !self.regrets.excused.load(Ordering::SeqCst) {
            self.regrets.told.store(true, Ordering::SeqCst);
        }
        if generation < self.lost || is_forgotten {
            return Err(error(Kind::TrackingLost, "list changes"));
        }
        let blocks: BTreeSet<u64> = self.written[generation..]
            .iter()
            .flatten()
            .copied()
            .collect();
        let ranges = blocks
            .into_iter()
            .map(|block| ByteRange::at(block * BLOCK, BLOCK).unwrap());
        let inside = ranges
            .map(|range| window.intersect(range))
            .filter(|range| !range.is_empty());
        Ok(Ranges {
            ranges: joined(inside),
            covered: window.end(),
        })
    }
}

fn joined(ranges: impl Iterator<Item = ByteRange>) -> Vec<ByteRange> {
    let mut all: Vec<ByteRange> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end() == range.start() => {
                *last = ByteRange::new(last.start(), range.end()).unwrap();
            }
            Some(_) | None => all.push(range),
        }
    }
    all
}
