//! What the tests of the formats share: disks in memory, pseudo-random bytes, and the tools that judge.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use site_recovery::formats::create::{
    Allocation, ChildOptions, CreateOptions, NewParent, create_child_on, create_on,
};
use site_recovery::formats::extent::{Content, Extent};
use site_recovery::formats::file::ImageFile;
use site_recovery::formats::info::{Format, ImageInfo, PathKind, RecordedPath};
use site_recovery::formats::source::Source;
use site_recovery::formats::{self, Image, OpenOptions, Result};
use site_recovery::units::ByteRange;
use uuid::Uuid;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
const SECTOR: u64 = 512;

pub(crate) fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("a 64-bit machine")
}

pub(crate) fn u64_of(value: usize) -> u64 {
    u64::try_from(value).expect("at most 64 bits")
}

/// Numbers that look random and are the same in every run (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// The content of a sparse file: sectors that were written, and the size.
#[derive(Clone, Debug, Default)]
struct Sectors {
    by_number: BTreeMap<u64, Arc<[u8; 512]>>,
    size: u64,
}

impl Sectors {
    fn get(&self, number: u64) -> [u8; 512] {
        self.by_number
            .get(&number)
            .map_or([0; 512], |sector| **sector)
    }

    fn resize(&mut self, size: u64) {
        if size < self.size {
            self.by_number.split_off(&size.div_ceil(SECTOR));
            if !size.is_multiple_of(SECTOR) {
                let mut last = self.get(size / SECTOR);
                last[usize_of(size % SECTOR)..].fill(0);
                self.by_number.insert(size / SECTOR, Arc::new(last));
            }
        }
        self.size = size;
    }
}

/// What was done to a disk since its last sync.
#[derive(Clone, Debug)]
enum Pending {
    Sector {
        number: u64,
        bytes: Arc<[u8; 512]>,
        /// The size that the file has at least when this is written out.
        end: u64,
    },
    Resize(u64),
}

/// What several disks are fed from: it may fail some of their writes, resizes and syncs.
#[derive(Debug, Default)]
pub(crate) struct Power {
    state: Mutex<PowerState>,
}

#[derive(Debug, Default)]
struct PowerState {
    /// Operations that were asked for.
    used: u64,
    /// The first that fails, and how many do from there on; then the disks work again.
    failing: Option<(u64, u64)>,
}

impl Power {
    pub(crate) fn ending_after(operations: u64) -> Arc<Self> {
        Power::failing(operations, u64::MAX)
    }

    /// Fails `count` operations after the first `operations`.
    pub(crate) fn failing(operations: u64, count: u64) -> Arc<Self> {
        let power = Power::default();
        power.lock().failing = Some((operations, count));
        Arc::new(power)
    }

    pub(crate) fn used(&self) -> u64 {
        self.lock().used
    }

    fn operate(&self) -> io::Result<()> {
        let mut state = self.lock();
        let number = state.used;
        state.used += 1;
        match state.failing {
            Some((first, count)) if number >= first && number - first < count => {
                Err(io::Error::other("the power is gone"))
            }
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, PowerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk in memory that can lose power: what was not synced is then there or not, sector by sector.
#[derive(Debug, Default)]
pub(crate) struct CrashDisk {
    state: Mutex<State>,
    power: Arc<Power>,
}

#[derive(Clone, Debug, Default)]
struct State {
    durable: Sectors,
    current: Sectors,
    pending: Vec<Pending>,
    /// Reads and writes stop at multiples of this many bytes, as a system may let them.
    short: Option<u64>,
}

impl State {
    fn limit(&self, offset: u64, len: usize) -> usize {
        self.short
            .map_or(len, |short| len.min(usize_of(short - offset % short)))
    }
}

impl CrashDisk {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(CrashDisk::default())
    }

    pub(crate) fn fed_by(power: &Arc<Power>) -> Arc<Self> {
        Arc::new(CrashDisk {
            power: Arc::clone(power),
            ..CrashDisk::default()
        })
    }

    /// From now on reads and writes end at every multiple of `short` bytes.
    pub(crate) fn shorten_calls(&self, short: u64) {
        self.lock().short = Some(short);
    }

    /// A disk that holds these bytes durably.
    pub(crate) fn of(bytes: &[u8]) -> Arc<Self> {
        let disk = CrashDisk::new();
        for (index, chunk) in bytes.chunks(512).enumerate() {
            if chunk.iter().any(|&byte| byte != 0) {
                disk.write_at(512 * u64_of(index), chunk).unwrap();
            }
        }
        disk.resize(u64_of(bytes.len())).unwrap();
        disk.sync().unwrap();
        disk
    }

    /// An independent disk with the same content, all of it durable.
    pub(crate) fn copy(&self) -> Arc<Self> {
        self.copy_fed_by(&Arc::default())
    }

    pub(crate) fn copy_fed_by(&self, power: &Arc<Power>) -> Arc<Self> {
        let state = self.lock();
        let copy = State {
            durable: state.current.clone(),
            current: state.current.clone(),
            ..State::default()
        };
        Arc::new(CrashDisk {
            state: Mutex::new(copy),
            power: Arc::clone(power),
        })
    }

    /// The disk after the power came back: of what was not synced, `choose` says what had reached it.
    pub(crate) fn crashed(&self, mut choose: impl FnMut() -> bool) -> Arc<Self> {
        let state = self.lock();
        let mut found = state.durable.clone();
        for pending in &state.pending {
            match pending {
                Pending::Sector { number, bytes, end } if choose() => {
                    found.by_number.insert(*number, Arc::clone(bytes));
                    found.size = found.size.max(*end);
                }
                Pending::Resize(size) if choose() => found.resize(*size),
                Pending::Sector { .. } | Pending::Resize(_) => {}
            }
        }
        let state = State {
            durable: found.clone(),
            current: found,
            ..State::default()
        };
        Arc::new(CrashDisk {
            state: Mutex::new(state),
            power: Arc::default(),
        })
    }

    pub(crate) fn source(self: &Arc<Self>, name: &str) -> Source {
        Source::new(name, Arc::clone(self) as Arc<dyn ImageFile>)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let state = self.lock();
        let mut bytes = vec![0; usize_of(state.current.size.next_multiple_of(512))];
        for (&number, sector) in &state.current.by_number {
            let at = usize_of(512 * number);
            bytes[at..at + 512].copy_from_slice(&sector[..]);
        }
        bytes.truncate(usize_of(state.current.size));
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageFile for CrashDisk {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().current.size)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.lock();
        let left = state.current.size.saturating_sub(offset);
        let len = state
            .limit(offset, buffer.len())
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < len {
            let at = offset + u64_of(done);
            let within = usize_of(at % SECTOR);
            let count = (512 - within).min(len - done);
            let sector = state.current.by_number.get(&(at / SECTOR));
            let target = &mut buffer[done..done + count];
            match sector {
                Some(sector) => target.copy_from_slice(&sector[within..within + count]),
                None => target.fill(0),
            }
            done += count;
        }
        Ok(len)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        self.power.operate()?;
        let len = state.limit(offset, data.len());
        let mut done = 0;
        while done < len {
            let at = offset + u64_of(done);
            let (number, within) = (at / SECTOR, usize_of(at % SECTOR));
            let count = (512 - within).min(len - done);
            let mut sector = state.current.get(number);
            sector[within..within + count].copy_from_slice(&data[done..done + count]);
            let bytes = Arc::new(sector);
            let end = at + u64_of(count);
            state.current.by_number.insert(number, Arc::clone(&bytes));
            state.current.size = state.current.size.max(end);
            state.pending.push(Pending::Sector { number, bytes, end });
            done += count;
        }
        Ok(len)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        let mut state = self.lock();
        self.power.operate()?;
        state.current.resize(size);
        state.pending.push(Pending::Resize(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        self.power.operate()?;
        state.pending.clear();
        state.durable = state.current.clone();
        Ok(())
    }
}

/// An image format with a kind and a sector, as the tests go through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) format: Format,
    pub(crate) allocation: Allocation,
    pub(crate) sector: u32,
}

pub(crate) const SHAPES: [Shape; 7] = [
    shape(Format::Raw, Allocation::Fixed, 512),
    shape(Format::Vhd, Allocation::Fixed, 512),
    shape(Format::Vhd, Allocation::Dynamic, 512),
    shape(Format::Vhdx, Allocation::Fixed, 512),
    shape(Format::Vhdx, Allocation::Dynamic, 512),
    shape(Format::Vhdx, Allocation::Fixed, 4096),
    shape(Format::Vhdx, Allocation::Dynamic, 4096),
];

const fn shape(format: Format, allocation: Allocation, sector: u32) -> Shape {
    Shape {
        format,
        allocation,
        sector,
    }
}

impl Shape {
    /// Small blocks, so that small disks have several.
    pub(crate) fn options(self, size: u64) -> CreateOptions {
        CreateOptions {
            logical_sector: self.sector,
            block_size: Some(self.block_size()),
            ..CreateOptions::new(
                self.format,
                self.allocation,
                size,
                Uuid::from_u128(0xd15c),
                created(),
            )
        }
    }

    pub(crate) fn block_size(self) -> u32 {
        match self.format {
            Format::Vhd => 512 << 10,
            Format::Raw | Format::Vhdx => 1 << 20,
        }
    }

    pub(crate) fn has_children(self) -> bool {
        self.format != Format::Raw
    }
}

pub(crate) fn created() -> Timestamp {
    "2024-02-03T04:05:06Z".parse().unwrap()
}

pub(crate) fn new_disk(disk: &Arc<CrashDisk>, shape: Shape, size: u64) {
    create_on(&disk.source("new"), &shape.options(size)).unwrap();
}

/// Makes `disk` a child of the image that `parent` describes.
pub(crate) fn new_child(
    disk: &Arc<CrashDisk>,
    parent: &ImageInfo,
    block_size: Option<u32>,
) -> Result<()> {
    let new_parent = NewParent {
        linkage: parent.linkage().expect("raw images have no children"),
        modified: created(),
        paths: vec![RecordedPath {
            kind: PathKind::Relative,
            text: ".\\parent".to_owned(),
        }],
    };
    let options = ChildOptions {
        block_size,
        identifier: Uuid::new_v4(),
        created: created(),
    };
    create_child_on(&disk.source("child"), parent, &new_parent, &options)
}

pub(crate) fn raw_allowed() -> OpenOptions {
    OpenOptions {
        allow_raw: true,
        ..OpenOptions::default()
    }
}

/// Opens a chain of disks, the child first.
pub(crate) fn open(disks: &[Arc<CrashDisk>]) -> Result<Image> {
    let mut sources = disks.iter().map(|disk| disk.source("chain"));
    let top = sources.next().expect("a chain has a disk");
    formats::open_sources(top, sources.collect(), &raw_allowed())
}

pub(crate) fn open_writable(disks: &[Arc<CrashDisk>]) -> Result<formats::WritableImage> {
    let mut sources = disks.iter().map(|disk| disk.source("chain"));
    let top = sources.next().expect("a chain has a disk");
    formats::open_sources_writable(top, sources.collect(), &raw_allowed())
}

/// All bytes of a disk.
pub(crate) fn read_all(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = vec![0xee; usize_of(image.size())];
    image.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// All extents of a disk, however many calls they take.
pub(crate) fn map_all(image: &Image) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut done = 0;
    while done < image.size() {
        let window = ByteRange::new(done, image.size()).unwrap();
        let found = image.map(window)?;
        assert!(found.covered > done, "every call goes on");
        extents.extend(found.extents);
        done = found.covered;
    }
    Ok(extents)
}

/// Checks that a map covers the disk and calls nothing zero that is not.
pub(crate) fn check_map(image: &Image, content: &[u8]) {
    let mut at = 0;
    for extent in map_all(image).unwrap() {
        assert_eq!(extent.range.start(), at);
        at = extent.range.end();
        let bytes = &content[usize_of(extent.range.start())..usize_of(at)];
        assert_ne!(extent.content, Content::Parent);
        let zero = bytes.iter().all(|&byte| byte == 0);
        assert!(
            extent.content == Content::Data || zero,
            "{extent:?} is not zero"
        );
    }
    assert_eq!(at, u64_of(content.len()));
}

/// Whether two byte strings are equal; a difference is told by its place, not by megabytes.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if found != expected {
        let sectors: BTreeSet<usize> = (0..found.len())
            .filter(|&at| found[at] != expected[at])
            .map(|at| at / 512)
            .collect();
        let first: Vec<_> = sectors.iter().take(5).collect();
        panic!(
            "{what}: {} sectors differ, the first are {first:?}",
            sectors.len()
        );
    }
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}
