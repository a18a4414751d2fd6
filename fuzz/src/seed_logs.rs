//! Seeds of the target `hrl`: logs that the library has written, and such logs torn, lying, or another writer's.

use std::io::Cursor;

use jiff::Timestamp;
use site_recovery::hrl::{Identity, LogWriter};
use site_recovery::units::{ByteRange, KIB, MIB};
use uuid::Uuid;

use super::mend;
use super::sparse::{self, Sparse};

/// A seed's name and bytes.
type Named = (&'static str, Vec<u8>);

/// Where the first record's entry stands in a log of one block: behind the header, the empty block and a sector.
const FIRST: usize = 4096 + 4096 + 512 + 32;

/// Seeds of the target `hrl`.
pub fn hrl() -> Vec<Named> {
    let (empty, one, many) = (log(0), log(1), log(130));
    let one_torn = |len: usize| torn(&one[..len]);
    vec![
        ("empty", input(&empty)),
        ("one", input(&one)),
        ("two-blocks", input(&many)),
        ("zeroes", input(&zeroes())),
        ("foreign", input(&foreign(&one))),
        ("open", input(&torn(&many))),
        ("torn-in-the-header", input(&one_torn(4000))),
        ("torn-behind-the-header", input(&one_torn(4096))),
        ("torn-in-the-first-block", input(&one_torn(5000))),
        ("torn-in-the-data", input(&one_torn(8192 + 100))),
        (
            "torn-in-the-last-block",
            input(&torn(&many[..many.len() - 700])),
        ),
        (
            "more-behind",
            input(&[&one[..], b"behind the end"].concat()),
        ),
        (
            "end-behind",
            input(&patched(&one, 44, &(MIB).to_le_bytes())),
        ),
        (
            "end-before",
            input(&patched(&one, 44, &4096_u64.to_le_bytes())),
        ),
        (
            "one-block-only",
            input(&patched(&one, 44, &8192_u64.to_le_bytes())),
        ),
        (
            "goes-round",
            input(&patched(&one, FIRST - 32, &u64::MAX.to_le_bytes())),
        ),
        (
            "stands-still",
            input(&patched(&one, FIRST - 32, &0_u64.to_le_bytes())),
        ),
        (
            "too-many-records",
            input(&patched(&one, FIRST - 32 + 8, &128_u32.to_le_bytes())),
        ),
        (
            "outside-of-the-disk",
            input(&patched(&one, FIRST, &(64 * MIB).to_le_bytes())),
        ),
        (
            "longer-than-the-log",
            input(&patched(&one, FIRST + 12, &MIB.to_le_bytes()[..4])),
        ),
        ("other-data", input(&patched(&one, 8192 + 7, b"other data"))),
        ("unknown-operation", input(&patched(&one, FIRST + 20, &[3]))),
        (
            "large-blocks",
            input(&patched(&one, 56, &(MIB).to_le_bytes()[..4])),
        ),
        (
            "odd-blocks",
            input(&patched(&one, 56, &513_u32.to_le_bytes())),
        ),
        ("smallest-blocks", input(&small_blocks())),
    ]
}

fn writer() -> LogWriter<Cursor<Vec<u8>>> {
    let identity = Identity {
        id: Uuid::from_u128(7),
        previous: Some(Uuid::from_u128(6)),
        disk_size: 16 * MIB,
        created: created(),
    };
    LogWriter::new(Cursor::new(Vec::new()), identity).expect("memory")
}

fn created() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time of this century")
}

/// A log of as many writes, of a sector each that is mostly zeroes.
fn log(writes: u64) -> Vec<u8> {
    let mut log = writer();
    for write in 0..writes {
        let mut sector = [0; 512];
        sector[..8].copy_from_slice(&(write + 1).to_le_bytes());
        log.write(512 * (3 * write % 1000), &sector)
            .expect("in the disk");
    }
    log.finish(created()).expect("memory").into_inner()
}

fn zeroes() -> Vec<u8> {
    let mut log = writer();
    let range = |start, end| ByteRange::new(start, end).expect("start before end");
    log.zero(range(0, 16 * MIB)).expect("in the disk");
    log.write(4 * KIB, &[1; 512]).expect("in the disk");
    log.zero(range(4 * KIB, 5 * KIB)).expect("in the disk");
    log.finish(created()).expect("memory").into_inner()
}

/// As another program would have written it.
fn foreign(log: &[u8]) -> Vec<u8> {
    let mut log = patched(log, 16, b"wdsk");
    // Reserved, where ours has its hash.
    for block in [4096, FIRST - 32] {
        log[block + 16..block + 32].fill(0);
    }
    mended(log)
}

/// A log whose blocks have one record each.
fn small_blocks() -> Vec<u8> {
    let one = foreign(&log(1));
    let block = &one[FIRST - 32..FIRST - 32 + 512];
    let mut log = patched(&one[..4096], 56, &512_u32.to_le_bytes());
    log.extend([0; 512]);
    for back in [1024_u64, 1024] {
        log.extend(&one[8192..8704]);
        let mut block = block.to_vec();
        block[..8].copy_from_slice(&back.to_le_bytes());
        log.extend(block);
    }
    let end = log.len().to_le_bytes();
    log[44..52].copy_from_slice(&end);
    mended(log)
}

/// As its writer leaves it when it stops: without an end.
fn torn(log: &[u8]) -> Vec<u8> {
    if log.len() < 4096 {
        return log.to_vec();
    }
    let mut log = patched(log, 44, &[0; 8]);
    mend::hrl(&mut log);
    log
}

fn patched(log: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut log = log.to_vec();
    log[at..at + bytes.len()].copy_from_slice(bytes);
    log
}

fn mended(mut log: Vec<u8>) -> Vec<u8> {
    mend::hrl(&mut log);
    log
}

fn input(log: &[u8]) -> Vec<u8> {
    sparse::encode(&[Sparse::of(log)], &[])
}
