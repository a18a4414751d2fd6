//! Reads a finished log, whoever wrote it.
//!
//! Blocks are found from the end backwards and then read forwards. Opening checks that they tile the file exactly, so
//! that a record's data can only be what its writer put there; memory is 8 bytes a block, whatever the log's length.

use std::io::{Read, Seek, SeekFrom};

use super::error::Error;
use super::layout::{self, Block, HEADER, Header, Operation, byte_sum, damaged};
use crate::units::{ByteRange, to_u64, to_usize};

/// Blocks that a reader remembers: 8 MiB of positions, or 133 million records.
const BLOCKS_MAX: usize = 1 << 20;

/// What a range holds after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes that stand in the log from `position` on, as many as the range has.
    Data {
        position: u64,
        sum: u32,
    },
    Zeroes,
}

/// One change, in the order in which they were logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub range: ByteRange,
    pub content: Content,
}

/// A finished log.
#[derive(Debug)]
pub struct LogReader<R> {
    source: R,
    header: Header,
    /// Positions of the metadata blocks, ascending.
    blocks: Vec<u64>,
}

impl<R: Read + Seek> LogReader<R> {
    /// Opens a log and finds its blocks.
    ///
    /// # Errors
    /// [`Error::Open`] if it was never finished; others if it is not a log or is damaged.
    pub fn open(mut source: R) -> Result<Self, Error> {
        let header = read_header(&mut source)?;
        if header.end == 0 {
            return Err(Error::Open);
        }
        let length = source
            .seek(SeekFrom::End(0))
            .map_err(|e| io("measure", 0, e))?;
        let least = to_u64(HEADER + header.block_size);
        if header.end < least || header.end > length {
            return Err(damaged(
                44,
                "EOLLocation",
                &format!("{least} to {length}"),
                &header.end,
            ));
        }
        let mut log = LogReader {
            source,
            header,
            blocks: Vec::new(),
        };
        log.find_blocks()?;
        Ok(log)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many metadata blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The records of one block, oldest first; none behind the last block. For who reads data in between.
    ///
    /// # Errors
    /// If the source fails, or the block has changed since the log was opened.
    pub fn records_of(&mut self, block: usize) -> Result<Vec<Record>, Error> {
        match self.blocks.get(block) {
            Some(at) => self.block_records(*at),
            None => Ok(Vec::new()),
        }
    }

    /// All records, oldest first. After an error there are no more.
    pub fn records(&mut self) -> impl Iterator<Item = Result<Record, Error>> {
        let blocks = self.blocks.clone();
        let mut failed = false;
        blocks.into_iter().flat_map(move |at| {
            let records = if failed {
                Ok(Vec::new())
            } else {
                self.block_records(at)
            };
            failed |= records.is_err();
            match records {
                Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// Reads a record's data into `buffer`, which gets its length (at most [`layout::DATA_MAX`]); a zero record has
    /// none.
    ///
    /// # Errors
    /// If the source fails or the data is not what was summed.
    pub fn read(&mut self, record: &Record, buffer: &mut Vec<u8>) -> Result<(), Error> {
        buffer.clear();
        let Content::Data { position, sum } = record.content else {
            return Ok(());
        };
        buffer.resize(to_usize(record.range.len()), 0);
        read_at(&mut self.source, position, buffer)?;
        let found = byte_sum(buffer);
        if found == sum {
            return Ok(());
        }
        Err(damaged(
            position,
            "data checksum",
            &format!("{sum:#010x}"),
            &format!("{found:#010x}"),
        ))
    }

    fn find_blocks(&mut self) -> Result<(), Error> {
        let size = to_u64(self.header.block_size);
        let mut at = self.header.end - size;
        loop {
            if self.blocks.len() == BLOCKS_MAX {
                return Err(Error::TooManyBlocks { limit: BLOCKS_MAX });
            }
            self.blocks.push(at);
            let block = self.block(at)?;
            // The block before ends where this one's data begins.
            let before = at
                .checked_sub(block.back)
                .filter(|before| *before >= to_u64(HEADER));
            let Some(before) = before else {
                return Err(damaged(
                    at,
                    "distance to the block before",
                    "inside of the log",
                    &block.back,
                ));
            };
            let data_starts = if block.back == 0 {
                to_u64(HEADER)
            } else {
                before.saturating_add(size)
            };
            if data_starts.checked_add(block.data_len()) != Some(at) {
                let gap = at.saturating_sub(data_starts);
                return Err(damaged(
                    at,
                    "data before the block",
                    &format!("{gap} bytes"),
                    &block.data_len(),
                ));
            }
            if block.back == 0 {
                break;
            }
            at = before;
        }
        self.blocks.reverse();
        Ok(())
    }

    fn block(&mut self, at: u64) -> Result<Block, Error> {
        let mut bytes = vec![0; self.header.block_size];
        read_at(&mut self.source, at, &mut bytes)?;
        layout::decode_block(&self.header, at, &bytes)
    }

    fn block_records(&mut self, at: u64) -> Result<Vec<Record>, Error> {
        let block = self.block(at)?;
        let mut position = at.checked_sub(block.data_len()).ok_or_else(|| {
            damaged(
                at,
                "data before the block",
                "less than the log",
                &block.data_len(),
            )
        })?;
        let records = block.entries.iter().map(|entry| {
            let content = match entry.operation {
                Operation::Zero => Content::Zeroes,
                Operation::Write => Content::Data {
                    position,
                    sum: entry.data_sum,
                },
            };
            position += entry.data_len();
            Record {
                range: entry.range,
                content,
            }
        });
        Ok(records.collect())
    }
}

pub(super) fn read_header(source: &mut (impl Read + Seek)) -> Result<Header, Error> {
    let mut bytes = [0; HEADER];
    match read_at(source, 0, &mut bytes) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Error::NotALog {
                what: "it is shorter than a header",
            })
        }
        Err(error) => Err(error),
        Ok(()) => Header::decode(&bytes),
    }
}

pub(super) fn read_at(
    source: &mut (impl Read + Seek),
    at: u64,
    buffer: &mut [u8],
) -> Result<(), Error> {
    source
        .seek(SeekFrom::Start(at))
        .map_err(|e| io("seek in", at, e))?;
    source.read_exact(buffer).map_err(|e| io("read", at, e))
}

fn io(action: &'static str, offset: u64, source: std::io::Error) -> Error {
    Error::Io {
        action,
        offset,
        source,
    }
}
