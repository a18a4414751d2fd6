//! What must hold for every replication log: one that opens, and one that is recovered.
//!
//! - Records lie in the disk, in whole sectors; their data tiles the log; reading one twice gives the same.
//! - A log that reads, written again, reads the same.
//! - Recovery changes nothing but the header; what it leaves opens and reads whole; again it finds nothing to do.
//! - It leaves a log that was closed as it is.

use std::io::Cursor;

use jiff::Timestamp;
use site_recovery::hrl::layout::{DATA_MAX, HEADER};
use site_recovery::hrl::{Content, Error, Identity, LogReader, LogWriter, Record, recover};
use site_recovery::units::{MIB, SECTOR, to_u64, to_usize};

use super::input::Input;
use super::mend;
use super::sparse;

/// The longest log that is looked at: recovery searches all of it.
const LENGTH_MAX: u64 = 2 * MIB;
/// The most data that is read from one log.
const DATA_READ_MAX: u64 = 4 * MIB;

/// A record, and its data.
type Change = (Record, Vec<u8>);

/// The target `hrl`.
pub fn run(input: &[u8]) {
    let files = sparse::decode(&mut Input::new(input));
    let Some(bytes) = files.first().and_then(|file| file.bytes(LENGTH_MAX)) else {
        return;
    };
    let mut mended = bytes.clone();
    mend::hrl(&mut mended);
    // As its writer would have left it in the middle.
    let mut open = bytes.clone();
    if let Some(end) = open.get_mut(44..52) {
        end.fill(0);
    }
    mend::hrl(&mut open);
    for log in [bytes, mended, open] {
        check_reading(&log);
        check_recovery(&log);
    }
}

fn check_reading(bytes: &[u8]) {
    let Some(changes) = read(bytes) else { return };
    let mut log = LogReader::open(Cursor::new(bytes)).expect("what opened once opens again");
    let identity = Identity {
        id: log.header().id,
        previous: None,
        disk_size: log.header().disk_size,
        created: Timestamp::UNIX_EPOCH,
    };
    let ours = log.header().ours();
    let again = records(&mut log).expect("what was read once is read again");
    assert!(again.iter().eq(changes.iter().map(|(record, _)| record)));
    let mut writer = LogWriter::new(Cursor::new(Vec::new()), identity).expect("memory");
    for (record, data) in &changes {
        match record.content {
            Content::Data { .. } => writer.write(record.range.start(), data),
            Content::Zeroes => writer.zero(record.range),
        }
        .expect("a record that was read can be written");
    }
    let length = writer.len();
    let written = writer.finish(Timestamp::UNIX_EPOCH).expect("memory");
    let written = written.into_inner();
    assert_eq!(to_u64(written.len()), length);
    let expected = changes.iter().map(meaning);
    let found = read(&written).expect("what we write, we read");
    assert!(
        found.iter().map(meaning).eq(expected),
        "written differently"
    );
    let zeroes = |(record, _): &Change| record.content == Content::Zeroes;
    assert!(ours || !changes.iter().any(zeroes), "an operation of ours");
}

/// What a change does, wherever its data stood in the log.
fn meaning((record, data): &Change) -> (u64, u64, bool, &[u8]) {
    let zeroes = record.content == Content::Zeroes;
    (record.range.start(), record.range.end(), zeroes, data)
}

/// The changes of a log, if it is whole.
fn read(bytes: &[u8]) -> Option<Vec<Change>> {
    let mut log = match LogReader::open(Cursor::new(bytes)) {
        Ok(log) => log,
        Err(error) => {
            judge(&error);
            return None;
        }
    };
    assert!(log.header().end <= to_u64(bytes.len()));
    let records = records(&mut log)?;
    let mut changes = Vec::new();
    let (mut whole, mut position, mut budget) = (true, to_u64(HEADER), DATA_READ_MAX);
    for record in records {
        check_record(&record, &mut position, &log);
        let mut data = Vec::new();
        let mut second = vec![7; 9];
        budget = budget.checked_sub(record.range.len().min(to_u64(bytes.len())))?;
        let read = log.read(&record, &mut data);
        let again = log.read(&record, &mut second);
        assert_eq!(read.is_ok(), again.is_ok(), "{record:?}");
        match read {
            Ok(()) => {
                assert_eq!(data, second, "{record:?}");
                changes.push((record, data));
            }
            Err(error) => {
                judge(&error);
                whole = false;
            }
        }
    }
    whole.then_some(changes)
}

/// A record says something of whole sectors of the disk, and its data follows that of the record before.
fn check_record(record: &Record, position: &mut u64, log: &LogReader<Cursor<&[u8]>>) {
    let (range, header) = (record.range, log.header());
    assert!(!range.is_empty() && range.end() <= header.disk_size);
    assert!(range.start().is_multiple_of(SECTOR) && range.len().is_multiple_of(SECTOR));
    if let Content::Data { position: at, .. } = record.content {
        assert!(range.len() <= DATA_MAX);
        // Between the data of two blocks stands the first of them, and empty blocks may follow each other.
        let gap = at.checked_sub(*position);
        let blocks = gap.is_some_and(|gap| gap.is_multiple_of(to_u64(header.block_size)));
        assert!(blocks, "the data of {range} overlaps or leaves a gap");
        *position = at + range.len();
        assert!(*position <= header.end);
    }
}

/// The records of a log; nothing after an error.
fn records<R: std::io::Read + std::io::Seek>(log: &mut LogReader<R>) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut all = log.records();
    while let Some(record) = all.next() {
        match record {
            Ok(record) => records.push(record),
            Err(error) => {
                judge(&error);
                assert!(all.next().is_none(), "something follows an error");
                return None;
            }
        }
    }
    Some(records)
}

fn check_recovery(bytes: &[u8]) {
    let closed = bytes.get(44..52).is_some_and(|end| end != [0; 8]);
    let mut log = Cursor::new(bytes.to_vec());
    let recovered = match recover(&mut log) {
        Ok(recovered) => recovered,
        Err(error) => {
            judge(&error);
            assert_eq!(log.into_inner(), bytes, "not recovered, but changed");
            return;
        }
    };
    let mut after = log.into_inner();
    if closed {
        assert_eq!(after, bytes, "a closed log is left as it is");
    } else {
        assert_eq!(after.len(), bytes.len());
        assert_eq!(after[HEADER..], bytes[HEADER..], "only the header changes");
    }
    let length = to_u64(bytes.len());
    assert_eq!(
        recovered.length.checked_add(recovered.dropped),
        Some(length)
    );
    after.truncate(to_usize(recovered.length));
    let mut log = Cursor::new(after);
    let again = recover(&mut log).expect("what was recovered is ours");
    assert_eq!((again.length, again.dropped), (recovered.length, 0));
    if !closed {
        let changes = read(&log.into_inner()).expect("what recovery keeps is whole");
        assert_eq!(to_u64(changes.len()), recovered.records);
    }
}

/// An error of a log in memory is never the operating system's.
fn judge(error: &Error) {
    assert!(
        !matches!(error, Error::Io { .. }),
        "memory does not fail: {error:?}"
    );
    assert!(error.to_string().len() <= 512, "{error}");
}
