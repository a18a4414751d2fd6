//! A digested log does to a disk exactly what its records do, one by one.

use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::hrl::{Identity, LogWriter};
use crate::replica::table::{Chunk, chunks};
use crate::units::{SECTOR, to_u64};

/// Not a multiple of a chunk: the last one is short.
const DISK: u64 = 9 * MIB + 3 * SECTOR;

#[derive(Clone, Debug)]
struct Change {
    sector: u64,
    sectors: u64,
    /// Nothing: a zero record.
    fill: Option<u8>,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let all = DISK / SECTOR;
    let length = prop_oneof![1..8u64, 100..400u64, 9000..10000u64];
    let change =
        (0..all, length, prop::option::of(0..4u8)).prop_map(move |(sector, sectors, fill)| {
            Change {
                sector,
                sectors: sectors.min(all - sector),
                fill,
            }
        });
    prop::collection::vec(change, 1..12)
}

fn log_of(changes: &[Change]) -> Bytes {
    let created = Timestamp::UNIX_EPOCH;
    let identity = Identity {
        id: Uuid::from_u128(1),
        previous: None,
        disk_size: DISK,
        created,
    };
    let mut log = LogWriter::new(Cursor::new(Vec::new()), identity).unwrap();
    for change in changes {
        let (offset, length) = (change.sector * SECTOR, change.sectors * SECTOR);
        match change.fill {
            Some(fill) => log.write(offset, &vec![fill; to_usize(length)]).unwrap(),
            None => log.zero(ByteRange::at(offset, length).unwrap()).unwrap(),
        }
    }
    log.finish(created).unwrap().into_inner().into()
}

fn range(start: u64, length: u64) -> std::ops::Range<usize> {
    to_usize(start)..to_usize(start + length)
}

fn applied(digested: &Digested, disk: &mut [u8]) {
    for write in &digested.writes {
        let data = write.data();
        disk[range(write.offset, to_u64(data.len()))].copy_from_slice(&data);
    }
    for clear in &digested.clears {
        disk[range(clear.start(), clear.len())].fill(0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_digested_log_does_what_its_records_do(changes in changes()) {
        let digested = digest(&log_of(&changes)).unwrap();
        let mut expected = vec![0xee; to_usize(DISK)];
        let mut found = expected.clone();
        for change in &changes {
            expected[range(change.sector * SECTOR, change.sectors * SECTOR)].fill(change.fill.unwrap_or(0));
        }
        applied(&digested, &mut found);
        prop_assert!(found == expected);
    }

    #[test]
    fn writes_and_clears_are_disjoint_so_that_their_order_does_not_matter(changes in changes()) {
        let digested = digest(&log_of(&changes)).unwrap();
        let writes = digested.writes.iter().map(|w| ByteRange::at(w.offset, to_u64(w.data().len())).unwrap());
        let mut ranges: Vec<_> = writes.chain(digested.clears.iter().copied()).collect();
        ranges.sort_unstable();
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end() <= pair[1].start()));
        let in_window = |write: &PageWrite| {
            let end = write.offset + to_u64(write.data().len());
            write.offset / WRITE_MAX == (end - 1) / WRITE_MAX
        };
        prop_assert!(digested.writes.iter().all(in_window));
    }

    #[test]
    fn what_is_said_of_a_chunk_is_true_whatever_the_disk_held(changes in changes()) {
        let digested = digest(&log_of(&changes)).unwrap();
        for before in [0, 0x11] {
            let mut disk = vec![before; to_usize(DISK)];
            applied(&digested, &mut disk);
            for index in 0..chunks(DISK) {
                let chunk = &disk[to_usize(index * CHUNK)..to_usize(((index + 1) * CHUNK).min(DISK))];
                let said = digested.chunks.iter().find_map(|run| run.get(index));
                match said {
                    None => prop_assert!(chunk.iter().all(|byte| *byte == before)),
                    Some(Chunk::Touched) => {}
                    Some(Chunk::Zero) => prop_assert!(chunk.iter().all(|byte| *byte == 0)),
                    Some(Chunk::Hash(hash)) => prop_assert_eq!(*blake3::hash(chunk).as_bytes(), hash),
                }
            }
        }
    }
}

#[test]
fn a_chunk_that_is_written_wholly_is_known_and_one_in_part_is_touched() {
    let whole = Change {
        sector: 128,
        sectors: 128,
        fill: Some(7),
    };
    let part = Change {
        sector: 256,
        sectors: 1,
        fill: Some(7),
    };
    let digested = digest(&log_of(&[whole, part])).unwrap();
    assert!(matches!(digested.chunks[0].get(1), Some(Chunk::Hash(_))));
    assert_eq!(digested.chunks[1].get(2), Some(Chunk::Touched));
}

#[test]
fn zeroes_of_any_length_are_one_run() {
    let zeroes = Change {
        sector: 1,
        sectors: DISK / SECTOR - 1,
        fill: None,
    };
    let states = |first, states| Run { first, states };
    assert_eq!(
        digest(&log_of(&[zeroes])).unwrap().chunks,
        [
            states(0, States::Touched(1)),
            states(1, States::Zero(chunks(DISK) - 1))
        ]
    );
}

/// What a log says that writes `sectors` sectors from `sector` on, of bytes or, with no fill, zeroes.
fn said(log: &str, sector: u64, sectors: u64, fill: Option<u8>) -> LogChunks {
    let change = Change {
        sector,
        sectors,
        fill,
    };
    LogChunks {
        log: log.to_owned(),
        range: ByteRange::at(sector * SECTOR, sectors * SECTOR).unwrap(),
        runs: digest(&log_of(&[change])).unwrap().chunks,
    }
}

#[test]
fn a_chunk_that_two_logs_write_to_is_touched() {
    let joined = join_chunks(vec![
        said("a", 128, 64, Some(1)),
        said("b", 192, 64, Some(1)),
    ]);
    let touched = Run {
        first: 1,
        states: States::Touched(1),
    };
    assert_eq!(joined, Ok(vec![touched]));
}

#[test]
fn logs_are_joined_by_their_ranges_in_whatever_order_they_come() {
    // One ends and the next begins in the same chunk, and goes on with many whole ones.
    let (first, second) = (
        said("a", 128, 10, Some(1)),
        said("b", 138, 118 + 1280, None),
    );
    let ascending = join_chunks(vec![first.clone(), second.clone()]).unwrap();
    assert_eq!(join_chunks(vec![second, first]), Ok(ascending.clone()));
    let zero = |index| ascending.iter().find_map(|run| run.get(index));
    assert_eq!(
        (zero(1), zero(2)),
        (Some(Chunk::Touched), Some(Chunk::Zero))
    );
    assert_eq!(zero(11), Some(Chunk::Zero));
}

#[test]
fn logs_that_overlap_are_refused_by_name_and_byte() {
    let whole = said("whole", 0, 1280, None);
    let inside = said("inside", 512, 10, Some(1));
    let refused = join_chunks(vec![inside, whole]).unwrap_err();
    assert_eq!(refused.log, "inside");
    assert!(refused.why.contains("byte 262144"), "{}", refused.why);
    assert!(refused.why.contains("whole"), "{}", refused.why);
}

#[test]
fn neighbouring_records_become_one_write_and_short_zeroes_between_them_are_filled() {
    let change = |sector, sectors, fill| Change {
        sector,
        sectors,
        fill,
    };
    let log = log_of(&[
        change(0, 8, Some(1)),
        change(8, 8, None),
        change(16, 8, Some(2)),
        change(24, 999, None),
    ]);
    let digested = digest(&log).unwrap();
    assert_eq!(digested.writes.len(), 1);
    assert_eq!(
        digested.clears,
        [ByteRange::at(24 * SECTOR, 999 * SECTOR).unwrap()]
    );
}
