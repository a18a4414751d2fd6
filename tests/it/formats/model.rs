//! Random operations on every format, kind and sector size, against a disk that is a list of bytes.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use site_recovery::formats::{Merge, WritableImage};
use site_recovery::units::ByteRange;

use crate::formats::support::{
    CrashDisk, KIB, MIB, Numbers, SHAPES, Shape, assert_same, check_map, new_child, new_disk, open,
    open_writable, raw_allowed, read_all, u64_of, usize_of,
};

/// A few blocks, the last one not whole.
const SIZE: u64 = 3 * MIB + 68 * KIB;
/// Operations of one case, and cases of one shape: about a second for each shape.
const OPERATIONS: usize = 24;
const CASES: u32 = 40;
/// Layers that a case may have.
const DEPTH_MAX: usize = 4;

#[derive(Clone, Debug)]
enum Operation {
    Write {
        at: u64,
        len: u64,
        seed: u64,
    },
    Zero {
        at: u64,
        len: u64,
    },
    Flush,
    /// Closed and opened again, or only opened again: a log is then replayed.
    Reopen {
        closed: bool,
    },
    Snapshot {
        large_blocks: bool,
    },
    /// Merges the top into its parent while the guest goes on writing.
    Merge {
        seed: u64,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    // Lengths of bytes, of sectors, and of blocks.
    let len = prop_oneof![
        1..2000_u64,
        4000..20_000_u64,
        Just(4096),
        900 * KIB..2200 * KIB
    ];
    let at = prop_oneof![
        0..SIZE,
        (0..SIZE / 4096).prop_map(|page| page * 4096),
        Just(MIB)
    ];
    let place = (at, len).prop_map(|(at, len)| (at, len.min(SIZE - at)));
    prop_oneof![
        8 => (place.clone(), any::<u64>()).prop_map(|((at, len), seed)| Operation::Write { at, len, seed }),
        3 => place.prop_map(|(at, len)| Operation::Zero { at, len }),
        2 => Just(Operation::Flush),
        2 => any::<bool>().prop_map(|closed| Operation::Reopen { closed }),
        2 => any::<bool>().prop_map(|large_blocks| Operation::Snapshot { large_blocks }),
        1 => any::<u64>().prop_map(|seed| Operation::Merge { seed }),
    ]
}

/// A chain under test and what it should hold.
struct Case {
    shape: Shape,
    /// The top first.
    disks: Vec<Arc<CrashDisk>>,
    image: Option<WritableImage>,
    content: Vec<u8>,
}

impl Case {
    fn new(shape: Shape, disk: Arc<CrashDisk>) -> Self {
        new_disk(&disk, shape, SIZE);
        let image = open_writable(std::slice::from_ref(&disk)).unwrap();
        Case {
            shape,
            disks: vec![disk],
            image: Some(image),
            content: vec![0; usize_of(SIZE)],
        }
    }

    fn image(&mut self) -> &mut WritableImage {
        self.image.as_mut().unwrap()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.image().write_at(at, bytes).unwrap();
        let at = usize_of(at);
        self.content[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Write { at, len, seed } => {
                let bytes = Numbers(seed).bytes(usize_of(len));
                self.write(at, &bytes);
            }
            Operation::Zero { at, len } => {
                self.image()
                    .write_zeroes(ByteRange::at(at, len).unwrap())
                    .unwrap();
                self.content[usize_of(at)..usize_of(at + len)].fill(0);
            }
            Operation::Flush => self.image().flush().unwrap(),
            Operation::Reopen { closed } => self.reopen(closed),
            Operation::Snapshot { large_blocks } => self.snapshot(large_blocks),
            Operation::Merge { seed } => self.merge(seed),
        }
    }

    fn reopen(&mut self, closed: bool) {
        let mut image = self.image.take().unwrap();
        if closed {
            image.close().unwrap();
        } else {
            image.flush().unwrap();
        }
        // For reading first: a log that is there is replayed in memory.
        let read = open(&self.disks).unwrap();
        assert_same(
            &read_all(&read).unwrap(),
            &self.content,
            "opened for reading",
        );
        assert!(
            !closed || !read.info().log_replayed,
            "a closed image has no log"
        );
        self.image = Some(open_writable(&self.disks).unwrap());
    }

    fn snapshot(&mut self, large_blocks: bool) {
        if !self.shape.has_children() || self.disks.len() == DEPTH_MAX {
            return;
        }
        let image = self.image.take().unwrap();
        let parent = image.image().info().clone();
        image.close().unwrap();
        let child = CrashDisk::new();
        let block_size = self.shape.block_size() * if large_blocks { 4 } else { 1 };
        new_child(&child, &parent, Some(block_size)).unwrap();
        self.disks.insert(0, child);
        self.image = Some(open_writable(&self.disks).unwrap());
    }

    fn merge(&mut self, seed: u64) {
        if self.disks.len() == 1 {
            return;
        }
        self.image.take().unwrap().close().unwrap();
        let mut sources = self.disks.iter().map(|disk| disk.source("chain"));
        let top = sources.next().unwrap();
        let mut merge = Merge::open_sources(top, sources.collect(), &raw_allowed()).unwrap();
        let mut numbers = Numbers(seed);
        let mut done = 0;
        while done < SIZE {
            let to = (done + 1 + numbers.below(MIB)).min(SIZE);
            done = merge.copy(ByteRange::new(done, to).unwrap()).unwrap();
            let at = numbers.below(SIZE);
            let len = (1 + numbers.below(9000)).min(SIZE - at);
            let bytes = numbers.bytes(usize_of(len));
            merge.write_at(at, &bytes).unwrap();
            self.content[usize_of(at)..usize_of(at + len)].copy_from_slice(&bytes);
        }
        assert_same(
            &read_all(merge.image()).unwrap(),
            &self.content,
            "while merging",
        );
        self.image = Some(merge.finish().unwrap());
        self.disks.remove(0);
    }

    fn check(&mut self) {
        let found = read_all(self.image().image()).unwrap();
        assert_same(&found, &self.content, "open for writing");
        check_map(self.image.as_ref().unwrap().image(), &self.content);
        // Pieces of any alignment are parts of the whole.
        let mut numbers = Numbers(u64_of(self.disks.len()));
        for _ in 0..20 {
            let at = numbers.below(SIZE);
            let len = numbers.below(SIZE - at + 1);
            let mut piece = vec![0xee; usize_of(len)];
            self.image().read_at(at, &mut piece).unwrap();
            assert_same(
                &piece,
                &self.content[usize_of(at)..usize_of(at + len)],
                "a piece",
            );
        }
        self.reopen(true);
    }
}

fn every_operation_has_its_effect(shape: Shape, disk: fn() -> Arc<CrashDisk>) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let result = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&vec(operation(), 1..OPERATIONS), |operations| {
        let mut case = Case::new(shape, disk());
        for operation in &operations {
            case.apply(operation);
        }
        case.check();
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{shape:?}: {e}"));
}

#[test]
fn a_raw_disk_is_the_bytes_that_were_written() {
    every_operation_has_its_effect(SHAPES[0], CrashDisk::new);
}

#[test]
fn a_vhd_is_the_bytes_that_were_written() {
    every_operation_has_its_effect(SHAPES[1], CrashDisk::new);
    every_operation_has_its_effect(SHAPES[2], CrashDisk::new);
}

#[test]
fn a_vhdx_is_the_bytes_that_were_written() {
    every_operation_has_its_effect(SHAPES[3], CrashDisk::new);
    every_operation_has_its_effect(SHAPES[4], CrashDisk::new);
}

#[test]
fn a_vhdx_of_large_sectors_is_the_bytes_that_were_written() {
    every_operation_has_its_effect(SHAPES[5], CrashDisk::new);
    every_operation_has_its_effect(SHAPES[6], CrashDisk::new);
}

#[test]
fn threads_that_read_at_once_see_the_same_disk() {
    let mut case = Case::new(SHAPES[4], CrashDisk::new());
    for seed in 0..3 {
        case.write(seed * MIB, &Numbers(seed).bytes(usize_of(MIB)));
        case.write(seed * 300 * KIB, &Numbers(seed).bytes(9000));
        case.snapshot(false);
    }
    case.image.take().unwrap().close().unwrap();
    let image = open(&case.disks).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (image, content) = (&image, &case.content);
            scope.spawn(move || {
                let mut numbers = Numbers(thread);
                for _ in 0..200 {
                    let at = numbers.below(SIZE);
                    let len = numbers.below((SIZE - at).min(200 * KIB) + 1);
                    let mut piece = vec![0xee; usize_of(len)];
                    image.read_at(at, &mut piece).unwrap();
                    let expected = &content[usize_of(at)..usize_of(at + len)];
                    assert_same(&piece, expected, "a thread");
                }
            });
        }
    });
}

#[test]
fn calls_that_do_a_part_of_their_work_change_nothing() {
    let short = || {
        let disk = CrashDisk::new();
        disk.shorten_calls(700);
        disk
    };
    every_operation_has_its_effect(SHAPES[2], short);
    every_operation_has_its_effect(SHAPES[4], short);
}
