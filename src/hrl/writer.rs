//! Writes a log: data as it comes, a metadata block after every 127 records, the end into the header last.
//!
//! ```text
//! open     header with end = 0, empty block
//! push     data …, then its block          a crash leaves an open log; `recover` keeps its whole blocks
//! finish   last block, then the header     only a finished log can be read
//! ```
//! Syncing is the caller's: a log in memory needs none.

use std::io::{Seek, SeekFrom, Write};

use jiff::Timestamp;
use uuid::Uuid;

use super::CREATOR;
use super::error::Error;
use super::layout::{
    self, BLOCK, Entry, HEADER, Header, Operation, RECORDS_PER_BLOCK, acceptable, byte_sum,
    seconds_since_2000,
};
use crate::units::{ByteRange, SECTOR, to_u64, to_usize};

/// The longest record with data: what recovery may have to search for a block is then bounded.
pub const WRITE_MAX: u64 = 4 << 20;
/// The longest record without: lengths are 32 bits, and sectors must stay whole.
const ZERO_MAX: u64 = (1 << 32) - SECTOR;

/// What a log is of.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub id: Uuid,
    /// The log before it, if there is one.
    pub previous: Option<Uuid>,
    /// Bytes of the disk.
    pub disk_size: u64,
    pub created: Timestamp,
}

/// A log that is being written.
#[derive(Debug)]
pub struct LogWriter<W> {
    sink: W,
    header: Header,
    /// Where the next byte goes.
    position: u64,
    last_block: u64,
    entries: Vec<Entry>,
}

impl<W: Write + Seek> LogWriter<W> {
    /// Starts a log at the sink's beginning.
    ///
    /// # Errors
    /// If the sink fails.
    pub fn new(sink: W, identity: Identity) -> Result<Self, Error> {
        let created = seconds_since_2000(identity.created);
        let header = Header {
            creator: CREATOR,
            created,
            modified: created,
            disk_size: identity.disk_size,
            end: 0,
            block_size: BLOCK,
            id: identity.id,
            previous: identity.previous.unwrap_or(Uuid::nil()),
            records: 0,
            data_write: Uuid::nil(),
        };
        let mut log = LogWriter {
            sink,
            header,
            position: 0,
            last_block: 0,
            entries: Vec::new(),
        };
        log.put(&log.header.encode())?;
        log.last_block = log.position;
        log.put(&layout::encode_block(&log.header, 0, &[]))?;
        Ok(log)
    }

    /// Appends: from `offset` on the disk holds `data`.
    ///
    /// # Errors
    /// If it is not in whole sectors inside of the disk, or the sink fails.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut rest = self.check(offset, to_u64(data.len()))?;
        for data in data.chunks(to_usize(WRITE_MAX)) {
            let (range, after) = rest.split_at(to_u64(data.len()));
            self.put(data)?;
            self.record(range, Operation::Write, byte_sum(data))?;
            rest = after;
        }
        Ok(())
    }

    /// Appends: `range` of the disk reads as zeroes.
    ///
    /// # Errors
    /// If it is not in whole sectors inside of the disk, or the sink fails.
    pub fn zero(&mut self, range: ByteRange) -> Result<(), Error> {
        let mut rest = self.check(range.start(), range.len())?;
        while !rest.is_empty() {
            let (range, after) = rest.split_at(ZERO_MAX);
            self.record(range, Operation::Zero, 0)?;
            rest = after;
        }
        Ok(())
    }

    /// Bytes that the log would have if it were finished now.
    pub fn len(&self) -> u64 {
        self.position
            + if self.entries.is_empty() {
                0
            } else {
                to_u64(BLOCK)
            }
    }

    /// Whether nothing has been appended.
    pub fn is_empty(&self) -> bool {
        self.header.records == 0
    }

    /// Ends the log and gives back the sink.
    ///
    /// # Errors
    /// If the sink fails; the log is then open.
    pub fn finish(mut self, modified: Timestamp) -> Result<W, Error> {
        self.end_block()?;
        self.header.end = self.position;
        self.header.modified = seconds_since_2000(modified);
        let header = self.header.encode();
        let io = |source| Error::Io {
            action: "finish",
            offset: 0,
            source,
        };
        self.sink.seek(SeekFrom::Start(0)).map_err(io)?;
        self.sink.write_all(&header).map_err(io)?;
        self.sink.seek(SeekFrom::Start(self.position)).map_err(io)?;
        self.sink.flush().map_err(io)?;
        Ok(self.sink)
    }

    fn check(&self, offset: u64, len: u64) -> Result<ByteRange, Error> {
        let size = self.header.disk_size;
        ByteRange::at(offset, len)
            .filter(|range| acceptable(*range, size))
            .ok_or(Error::Range {
                range: ByteRange::at(offset, len).unwrap_or(ByteRange::to(0)),
                size,
            })
    }

    fn record(
        &mut self,
        range: ByteRange,
        operation: Operation,
        data_sum: u32,
    ) -> Result<(), Error> {
        self.entries.push(Entry {
            range,
            operation,
            time: self.header.created,
            data_sum,
        });
        self.header.records += 1;
        if self.entries.len() == RECORDS_PER_BLOCK {
            self.end_block()
        } else {
            Ok(())
        }
    }

    fn end_block(&mut self) -> Result<(), Error> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let back = self.position - self.last_block;
        let block = layout::encode_block(&self.header, back, &self.entries);
        self.last_block = self.position;
        self.entries.clear();
        self.put(&block)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let offset = self.position;
        self.sink.write_all(bytes).map_err(|source| Error::Io {
            action: "write",
            offset,
            source,
        })?;
        self.position += to_u64(bytes.len());
        Ok(())
    }
}

const _: () = assert!(HEADER == 4096, "the first block stands at 4096");
