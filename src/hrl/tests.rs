//! What a log promises: it gives back what was written, refuses what was changed, and survives its writer.

use std::io::Cursor;

use jiff::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::units::{ByteRange, MIB, to_usize};

const DISK: u64 = 16 * MIB;

fn identity() -> Identity {
    Identity {
        id: Uuid::from_u128(7),
        previous: None,
        disk_size: DISK,
        created: Timestamp::from_second(1_790_000_000).unwrap(),
    }
}

fn writer() -> LogWriter<Cursor<Vec<u8>>> {
    LogWriter::new(Cursor::new(Vec::new()), identity()).unwrap()
}

fn finish(log: LogWriter<Cursor<Vec<u8>>>) -> Vec<u8> {
    log.finish(identity().created).unwrap().into_inner()
}

#[derive(Clone, Debug)]
enum Change {
    Write { sector: u64, sectors: u64, fill: u8 },
    Zero { sector: u64, sectors: u64 },
}

fn change() -> impl Strategy<Value = Change> {
    let sectors = DISK / 512;
    prop_oneof![
        (0..sectors - 64, 1..64u64, any::<u8>()).prop_map(|(sector, sectors, fill)| {
            Change::Write {
                sector,
                sectors,
                fill,
            }
        }),
        (0..sectors - 4096, 1..4096u64)
            .prop_map(|(sector, sectors)| Change::Zero { sector, sectors }),
    ]
}

fn log(changes: &[Change], log: &mut LogWriter<Cursor<Vec<u8>>>) {
    for change in changes {
        match *change {
            Change::Write {
                sector,
                sectors,
                fill,
            } => {
                log.write(sector * 512, &vec![fill; to_usize(sectors * 512)])
                    .unwrap();
            }
            Change::Zero { sector, sectors } => {
                log.zero(ByteRange::at(sector * 512, sectors * 512).unwrap())
                    .unwrap();
            }
        }
    }
}

/// What a disk of zeroes holds after `changes`.
fn model(changes: &[Change]) -> Vec<u8> {
    let mut disk = vec![0; to_usize(DISK)];
    for change in changes {
        let (sector, sectors, fill) = match *change {
            Change::Write {
                sector,
                sectors,
                fill,
            } => (sector, sectors, fill),
            Change::Zero { sector, sectors } => (sector, sectors, 0),
        };
        disk[to_usize(sector * 512)..to_usize((sector + sectors) * 512)].fill(fill);
    }
    disk
}

/// What a disk of zeroes holds after the log.
fn replay(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut log = LogReader::open(Cursor::new(bytes))?;
    let mut disk = vec![0; to_usize(DISK)];
    let mut data = Vec::new();
    for record in log.records().collect::<Result<Vec<_>, _>>()? {
        let target = &mut disk[to_usize(record.range.start())..to_usize(record.range.end())];
        match record.content {
            Content::Zeroes => target.fill(0),
            Content::Data { .. } => {
                log.read(&record, &mut data)?;
                target.copy_from_slice(&data);
            }
        }
    }
    Ok(disk)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_gives_back_what_was_written(changes in prop::collection::vec(change(), 0..300)) {
        let mut open = writer();
        log(&changes, &mut open);
        let expected_length = open.len();
        let bytes = finish(open);
        prop_assert_eq!(bytes.len() as u64, expected_length);
        prop_assert!(replay(&bytes).unwrap() == model(&changes));
    }

    #[test]
    fn recovery_keeps_every_whole_block_and_nothing_else(
        changes in prop::collection::vec(change(), 130..400),
        cut in 0.0..1.0f64,
    ) {
        let mut open = writer();
        log(&changes, &mut open);
        let mut bytes = finish(open);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                 reason = "a random place in a small file")]
        let torn = 8192 + ((bytes.len() - 8192) as f64 * cut) as usize;
        bytes.truncate(torn);
        // As its writer left it: without an end.
        let mut header = layout::Header::decode(bytes[..4096].try_into().unwrap()).unwrap();
        header.end = 0;
        bytes[..4096].copy_from_slice(&header.encode());

        let mut file = Cursor::new(bytes);
        let recovered = recover(&mut file).unwrap();
        let mut bytes = file.into_inner();
        bytes.truncate(to_usize(recovered.length));

        let kept = to_usize(recovered.records);
        prop_assert_eq!(kept % layout::RECORDS_PER_BLOCK * usize::from(kept != changes.len()), 0);
        prop_assert!(replay(&bytes).unwrap() == model(&changes[..kept]));
        prop_assert_eq!(recovered.length + recovered.dropped, torn as u64);
    }

    #[test]
    fn a_changed_byte_is_an_error_or_changes_nothing(at in 0..40_000usize, flip in 1..=255u8) {
        let changes: Vec<_> = (0..40).map(|n| Change::Write { sector: n * 9, sectors: 1, fill: 3 }).collect();
        let mut open = writer();
        log(&changes, &mut open);
        let mut bytes = finish(open);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(disk) = replay(&bytes) {
            prop_assert!(disk == model(&changes), "byte {} changed the content silently", at);
        }
    }

    #[test]
    fn hostile_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        let mut header = layout::Header::decode(finish(writer())[..4096].try_into().unwrap()).unwrap();
        header.end = (4096 + bytes.len()) as u64;
        let mut file = header.encode().to_vec();
        file.extend(bytes);
        prop_assert!(replay(&file).is_err());
    }
}

#[test]
fn an_open_log_is_not_read() {
    let mut open = writer();
    open.write(0, &[1; 512]).unwrap();
    let mut bytes = finish(open);
    let mut header = layout::Header::decode(bytes[..4096].try_into().unwrap()).unwrap();
    header.end = 0;
    bytes[..4096].copy_from_slice(&header.encode());
    assert!(matches!(
        LogReader::open(Cursor::new(&bytes)),
        Err(Error::Open)
    ));
}

#[test]
fn guest_data_that_looks_like_a_block_is_not_taken_for_one() {
    // Given a guest that writes what our block would be, had it known the log's id wrongly by one bit.
    let mut header = layout::Header::decode(finish(writer())[..4096].try_into().unwrap()).unwrap();
    header.end = 0;
    let foreign = layout::Header {
        id: Uuid::from_u128(6),
        ..header.clone()
    };
    let forged = layout::encode_block(&foreign, 4096, &[]);
    let mut file = header.encode().to_vec();
    file.extend(layout::encode_block(&header, 0, &[]));
    file.extend(&forged);
    // When the torn log is recovered
    let recovered = recover(&mut Cursor::new(file)).unwrap();
    // Then the forged block is dropped.
    assert_eq!(
        recovered,
        Recovered {
            records: 0,
            length: 8192,
            dropped: 4096
        }
    );
}

#[test]
fn a_log_that_ends_where_it_cannot_is_not_recovered() {
    let bytes = finish(writer());
    let header = layout::Header::decode(bytes[..4096].try_into().unwrap()).unwrap();
    let with_end = |end: u64, length: usize| {
        let header = layout::Header {
            end,
            ..header.clone()
        };
        [&header.encode()[..], &bytes[4096..length]].concat()
    };
    let damaged = |file: Vec<u8>| {
        let recovered = recover(&mut Cursor::new(file));
        matches!(recovered, Err(Error::Damaged { .. }))
    };
    assert!(damaged(with_end(0, 5000)), "torn in the first block");
    assert!(damaged(with_end(5000, 8192)), "closed in the first block");
    assert!(damaged(with_end(8704, 8192)), "closed behind its end");
    assert!(!damaged(with_end(8192, 8192)));
    // A first block that is not empty is one that no reader takes.
    let zero = layout::Entry {
        range: ByteRange::to(512),
        operation: layout::Operation::Zero,
        time: 0,
        data_sum: 0,
    };
    let header = layout::Header { end: 0, ..header };
    let block = layout::encode_block(&header, 0, &[zero]);
    assert!(damaged([&header.encode()[..], &block].concat()));
}

#[test]
fn a_record_outside_of_the_disk_is_refused_when_it_is_written() {
    let mut log = writer();
    assert!(log.write(DISK, &[0; 512]).is_err());
    assert!(log.write(DISK - 512, &[0; 1024]).is_err());
    assert!(log.write(1, &[0; 512]).is_err());
    assert!(log.zero(ByteRange::to(0)).is_err());
}

#[test]
fn a_long_zero_run_costs_one_record_and_no_data() {
    let mut log = writer();
    log.zero(ByteRange::to(DISK)).unwrap();
    assert_eq!(finish(log).len(), 3 * 4096);
}
