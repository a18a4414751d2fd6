//! Power fails between any two writes, resizes or syncs of a writer.
//!
//! What was synced is there; of the rest, any set of sectors and resizes may be. Then the chain must open, for reading
//! and for writing, and every sector must hold what it held at the last flush or what was written to it since.

use std::collections::HashMap;
use std::sync::Arc;

use site_recovery::formats::{Merge, Result, WritableImage};
use site_recovery::units::ByteRange;

use crate::formats::support::{
    CrashDisk, KIB, MIB, Numbers, Power, SHAPES, Shape, assert_same, new_child, new_disk, open,
    open_writable, raw_allowed, read_all, u64_of, usize_of,
};

const SIZE: u64 = 2 * MIB + 36 * KIB;
/// Steps of one script; scripts of one shape; moments at which one script is cut.
const STEPS: u64 = 14;
const SCRIPTS: u64 = 6;
const MOMENTS: u64 = 24;

/// A disk whose sectors have all the contents that they may have after a crash.
struct Expected {
    latest: Vec<u8>,
    /// What sectors held since the last flush, but for the latest.
    older: HashMap<u64, Vec<[u8; 512]>>,
}

impl Expected {
    fn sector(&self, number: u64) -> [u8; 512] {
        self.latest[usize_of(512 * number)..][..512]
            .try_into()
            .unwrap()
    }

    /// Called before the disk is told to write.
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let sectors = ByteRange::at(at, u64_of(bytes.len()))
            .unwrap()
            .align_out(512);
        for number in sectors.start() / 512..sectors.end() / 512 {
            let old = self.sector(number);
            self.older.entry(number).or_default().push(old);
        }
        self.latest[usize_of(at)..][..bytes.len()].copy_from_slice(bytes);
    }

    fn check(&self, found: &[u8], when: &str) {
        for (number, sector) in found.chunks(512).enumerate() {
            let number = u64_of(number);
            let known = sector == self.sector(number)
                || self
                    .older
                    .get(&number)
                    .is_some_and(|old| old.iter().any(|o| o == sector));
            assert!(known, "{when}: sector {number} holds what was never there");
        }
    }
}

/// A chain that is written until its power ends.
struct Scripted {
    shape: Shape,
    power: Arc<Power>,
    /// The top first.
    disks: Vec<Arc<CrashDisk>>,
    expected: Expected,
    numbers: Numbers,
}

impl Scripted {
    fn new(shape: Shape, script: u64, power: Arc<Power>) -> Self {
        let disk = CrashDisk::new();
        new_disk(&disk, shape, SIZE);
        let fed = disk.copy_fed_by(&power);
        Scripted {
            shape,
            power,
            disks: vec![fed],
            expected: Expected {
                latest: vec![0; usize_of(SIZE)],
                older: HashMap::new(),
            },
            numbers: Numbers(script),
        }
    }

    /// Runs the script; an error is the end of the power.
    fn run(&mut self) -> Result<()> {
        let mut image = open_writable(&self.disks)?;
        for _ in 0..STEPS {
            match self.numbers.below(16) {
                0..7 => self.write(&mut image)?,
                7..9 => self.zero(&mut image)?,
                9..12 => self.flush(&mut image)?,
                12 => {
                    self.close(image)?;
                    image = open_writable(&self.disks)?;
                }
                13 | 14 if self.shape.has_children() => {
                    self.close(image)?;
                    let parent = open(&self.disks)?.info().clone();
                    let child = CrashDisk::fed_by(&self.power);
                    new_child(&child, &parent, Some(self.shape.block_size()))?;
                    self.disks.insert(0, child);
                    image = open_writable(&self.disks)?;
                }
                _ if self.disks.len() > 1 => {
                    self.close(image)?;
                    image = self.merge()?;
                }
                _ => self.write(&mut image)?,
            }
        }
        self.close(image)
    }

    fn place(&mut self, largest: u64) -> (u64, usize) {
        let at = self.numbers.below(SIZE);
        let len = 1 + self.numbers.below(largest.min(SIZE - at));
        // Most writes are whole sectors, as a guest's are.
        if self.numbers.below(4) == 0 {
            return (at, usize_of(len));
        }
        let range = ByteRange::at(at, len)
            .unwrap()
            .align_out(4096)
            .intersect(ByteRange::to(SIZE));
        (range.start(), usize_of(range.len()))
    }

    fn write(&mut self, image: &mut WritableImage) -> Result<()> {
        let largest = [9 * KIB, 100 * KIB, 1300 * KIB][usize_of(self.numbers.below(3))];
        let (at, len) = self.place(largest);
        let bytes = self.numbers.bytes(len);
        self.expected.write(at, &bytes);
        image.write_at(at, &bytes)
    }

    fn zero(&mut self, image: &mut WritableImage) -> Result<()> {
        let (at, len) = self.place(1300 * KIB);
        self.expected.write(at, &vec![0; len]);
        image.write_zeroes(ByteRange::at(at, u64_of(len)).unwrap())
    }

    fn flush(&mut self, image: &mut WritableImage) -> Result<()> {
        image.flush()?;
        self.expected.older.clear();
        Ok(())
    }

    fn close(&mut self, image: WritableImage) -> Result<()> {
        image.close()?;
        self.expected.older.clear();
        Ok(())
    }

    /// A merge during which the guest writes and flushes.
    fn merge(&mut self) -> Result<WritableImage> {
        let mut sources = self.disks.iter().map(|disk| disk.source("chain"));
        let top = sources.next().unwrap();
        let mut merge = Merge::open_sources(top, sources.collect(), &raw_allowed())?;
        let mut done = 0;
        while done < SIZE {
            let to = (done + 1 + self.numbers.below(MIB)).min(SIZE);
            done = merge.copy(ByteRange::new(done, to).unwrap())?;
            let (at, len) = self.place(20 * KIB);
            let bytes = self.numbers.bytes(len);
            self.expected.write(at, &bytes);
            merge.write_at(at, &bytes)?;
            if self.numbers.below(3) == 0 {
                merge.flush()?;
                self.expected.older.clear();
            }
        }
        let image = merge.finish()?;
        // Whoever owns the disk makes the parent its file, and the child is gone.
        self.disks.remove(0);
        self.expected.older.clear();
        Ok(image)
    }
}

/// Looks at what a crash has left of a script, in several ways in which it may have left it.
fn examine(scripted: &Scripted, ways: u64, when: &str) {
    for way in 0..ways {
        let mut numbers = Numbers(scripted.power.used() * ways + way);
        let mut choose = || match way {
            0 => false,
            1 => true,
            _ => numbers.below(2) == 0,
        };
        let left: Vec<_> = scripted
            .disks
            .iter()
            .map(|disk| disk.crashed(&mut choose))
            .collect();
        let when = format!("{when}, way {way}");
        let image = open(&left).unwrap_or_else(|e| panic!("{when}: {e}"));
        let found = read_all(&image).unwrap_or_else(|e| panic!("{when}: {e}"));
        scripted.expected.check(&found, &when);
        go_on(&left, found, &when);
    }
}

/// Cuts the power of a script after `operations`.
fn cut(shape: Shape, script: u64, operations: u64) {
    let mut scripted = Scripted::new(shape, script, Power::ending_after(operations));
    let outcome = scripted.run();
    assert!(
        outcome.is_err(),
        "{shape:?}, script {script}: it ended before the power"
    );
    examine(
        &scripted,
        4,
        &format!("{shape:?}, script {script}, cut after {operations}"),
    );
}

/// Opens what a crash has left for writing, and goes on as if nothing had been.
fn go_on(disks: &[Arc<CrashDisk>], mut content: Vec<u8>, when: &str) {
    let mut image = open_writable(disks).unwrap_or_else(|e| panic!("{when}, for writing: {e}"));
    assert_same(&read_all(image.image()).unwrap(), &content, when);
    for (at, len) in [
        (0, 4096),
        (MIB - 512, 1024),
        (SIZE - 600, 600),
        (700_000, 60_000),
    ] {
        let bytes = Numbers(at).bytes(len);
        image.write_at(at, &bytes).unwrap();
        content[usize_of(at)..][..len].copy_from_slice(&bytes);
    }
    image.flush().unwrap();
    // Not closed: the log of the new session counts, never the one of the old.
    drop(image);
    let image = open(disks).unwrap_or_else(|e| panic!("{when}, after going on: {e}"));
    assert_same(&read_all(&image).unwrap(), &content, when);
}

fn survives_crashes(shape: Shape) {
    for script in 0..SCRIPTS {
        let power = Power::ending_after(u64::MAX);
        let mut whole = Scripted::new(shape, script, Arc::clone(&power));
        whole.run().unwrap();
        let found = read_all(&open(&whole.disks).unwrap()).unwrap();
        assert_same(&found, &whole.expected.latest, "without a crash");
        let mut moments = Numbers(script);
        for _ in 0..MOMENTS {
            cut(shape, script, moments.below(power.used()));
        }
    }
}

/// The life of a child: written in part and closed; opened again, written, flushed, written and closed.
fn short_life(scripted: &mut Scripted) -> Result<()> {
    let parent = open(&scripted.disks)?.info().clone();
    let child = CrashDisk::fed_by(&scripted.power);
    new_child(&child, &parent, Some(scripted.shape.block_size()))?;
    scripted.disks.insert(0, child);
    for round in 0..2 {
        let mut image = open_writable(&scripted.disks)?;
        for at in [MIB / 2 - 4096, MIB - 4096, 8192 * round] {
            let bytes = scripted.numbers.bytes(8192);
            scripted.expected.write(at, &bytes);
            image.write_at(at, &bytes)?;
        }
        if round == 1 {
            scripted.flush(&mut image)?;
            let bytes = scripted.numbers.bytes(4096);
            scripted.expected.write(MIB, &bytes);
            image.write_at(MIB, &bytes)?;
        }
        scripted.close(image)?;
    }
    Ok(())
}

#[test]
fn no_moment_of_a_short_life_is_unsafe() {
    for shape in [SHAPES[2], SHAPES[4]] {
        let mut operations = 0;
        loop {
            let mut scripted = Scripted::new(shape, 1, Power::ending_after(operations));
            if short_life(&mut scripted).is_ok() {
                break;
            }
            examine(
                &scripted,
                8,
                &format!("{shape:?}, a short life cut after {operations}"),
            );
            operations += 1;
        }
        assert!(
            operations > 30,
            "{shape:?}: {operations} are a very short life"
        );
    }
}

#[test]
fn a_crash_while_a_log_is_replayed_is_no_worse_than_one_before() {
    // Given: a disk with a log, and all of its pages in place lost
    let mut scripted = Scripted::new(SHAPES[4], 1, Power::ending_after(u64::MAX));
    let mut image = open_writable(&scripted.disks).unwrap();
    scripted.write(&mut image).unwrap();
    scripted.flush(&mut image).unwrap();
    drop(image);
    let left = scripted.disks[0].crashed(|| false);
    let read = open(&[left.copy()]).unwrap();
    assert!(read.info().log_replayed);
    assert_same(
        &read_all(&read).unwrap(),
        &scripted.expected.latest,
        "replayed in memory",
    );
    // When: the power ends at every moment of the replay
    for operations in 0.. {
        let power = Power::ending_after(operations);
        let disk = left.copy_fed_by(&power);
        let outcome = open_writable(std::slice::from_ref(&disk));
        // Then: the disk is the same, whatever of it was written
        for way in 0..8 {
            let mut numbers = Numbers(operations * 8 + way);
            let again = disk.crashed(|| way == 1 || (way > 1 && numbers.below(2) == 0));
            let found = read_all(&open(&[again]).unwrap()).unwrap();
            assert_same(&found, &scripted.expected.latest, "after a second crash");
        }
        if outcome.is_ok() {
            assert!(operations > 4, "a replay writes headers, pages and headers");
            return;
        }
    }
}

#[test]
fn a_write_that_failed_may_be_repeated_and_leaves_nothing_in_the_new_block() {
    for shape in [SHAPES[2], SHAPES[4]] {
        let mut served = 0;
        for failing in 0..40 {
            // Given: a disk on a volume on which some operation fails
            let mut scripted = Scripted::new(shape, 1, Power::failing(failing, 1));
            scripted.disks[0].shorten_calls(64 * KIB);
            let mut image = loop {
                if let Ok(image) = open_writable(&scripted.disks) {
                    break image;
                }
            };
            // When: a large write is tried first, and a small one at another place succeeds
            let large = scripted.numbers.bytes(300_000);
            let failed = image.write_at(100, &large).is_err();
            let small = scripted.numbers.bytes(512);
            if !failed {
                scripted.expected.write(100, &large);
            }
            let mut done = || {
                image
                    .write_at(1_400_320, &small)
                    .and_then(|()| image.flush())
            };
            // Twice, for what failed may be this one; if a sync has, the image says so until it is opened again.
            if done().is_err() && done().is_err() {
                continue;
            }
            scripted.expected.write(1_400_320, &small);
            served += 1;
            drop(image);
            // Then: the small one is there; the large one is, or is not, sector by sector; nothing else is
            let mut found = read_all(&open(&scripted.disks).unwrap()).unwrap();
            if failed {
                for at in 100..300_100 {
                    assert!(
                        [0, large[at - 100]].contains(&found[at]),
                        "{shape:?}: byte {at}"
                    );
                }
                found[100..300_100].fill(0);
            }
            assert_same(&found, &scripted.expected.latest, "after a failed write");
        }
        assert!(
            served > 25,
            "{shape:?}: only {served} failures were overcome"
        );
    }
}

#[test]
fn a_fixed_vhd_survives_crashes() {
    survives_crashes(SHAPES[1]);
}

#[test]
fn a_dynamic_vhd_and_its_children_survive_crashes() {
    survives_crashes(SHAPES[2]);
}

#[test]
fn a_fixed_vhdx_and_its_children_survive_crashes() {
    survives_crashes(SHAPES[3]);
}

#[test]
fn a_dynamic_vhdx_and_its_children_survive_crashes() {
    survives_crashes(SHAPES[4]);
}

#[test]
fn a_vhdx_of_large_sectors_and_its_children_survive_crashes() {
    survives_crashes(SHAPES[6]);
}
