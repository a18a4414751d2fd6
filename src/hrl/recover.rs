//! Finds what is whole in a log whose writer stopped in the middle.
//!
//! An open log does not say where its blocks are. They stand at multiples of 512, each after exactly the data that it
//! lists, each as far from the one before as it says, and each of ours carries a hash keyed with the log's id. So the
//! next block is the first place after the last one where all of that holds; where there is none, the log is torn.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::Error;
use super::layout::{self, BLOCK, HEADER, Header, RECORDS_PER_BLOCK, byte_sum, damaged};
use super::reader::{read_at, read_header};
use super::writer::WRITE_MAX;
use crate::units::{SECTOR, to_u64, to_usize};

/// Bytes that are searched after the last whole block: the data of one block of ours, and the block.
const SEARCH_MAX: u64 = to_u64(RECORDS_PER_BLOCK) * WRITE_MAX + to_u64(BLOCK);
/// Bytes looked at in one piece.
const WINDOW: usize = 1 << 20;

/// What a recovery kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub records: u64,
    /// Bytes of the recovered log.
    pub length: u64,
    /// Bytes after it that belong to no whole block.
    pub dropped: u64,
}

/// Closes an open log of ours after its last whole block. A log that is closed already is left as it is.
///
/// The caller truncates the file to `length` and syncs it.
///
/// # Errors
/// If it is not a log of ours, ends before its first block or where the header says, or cannot be read or written.
pub fn recover(log: &mut (impl Read + Write + Seek)) -> Result<Recovered, Error> {
    let mut header = read_header(log)?;
    // Other block sizes are not ours either, and would make the search longer than its bound.
    if !header.ours() || header.block_size != BLOCK {
        return Err(Error::NotALog {
            what: "only logs of ours can be recovered",
        });
    }
    let file_length = log
        .seek(SeekFrom::End(0))
        .map_err(|e| io("measure", 0, e))?;
    let size = to_u64(header.block_size);
    let least = to_u64(HEADER) + size;
    if file_length < least {
        let found = format!("{} bytes", file_length.saturating_sub(to_u64(HEADER)));
        let expected = format!("{size} bytes");
        return Err(damaged(to_u64(HEADER), "first block", &expected, &found));
    }
    if header.end != 0 {
        if !(least..=file_length).contains(&header.end) {
            let expected = format!("{least} to {file_length}");
            return Err(damaged(44, "EOLLocation", &expected, &header.end));
        }
        let dropped = file_length - header.end;
        return Ok(Recovered {
            records: header.records,
            length: header.end,
            dropped,
        });
    }
    let mut last = to_u64(HEADER);
    let mut first = vec![0; header.block_size];
    read_at(log, last, &mut first)?;
    let first = layout::decode_block(&header, last, &first)?;
    if first.back != 0 || !first.entries.is_empty() {
        let found = format!("{} records", first.entries.len());
        return Err(damaged(last, "first block", "an empty block", &found));
    }
    header.records = 0;
    while let Some((at, records)) = next_block(log, &header, last, file_length)? {
        header.records += records;
        last = at;
    }
    header.end = last + size;
    log.seek(SeekFrom::Start(0))
        .map_err(|e| io("seek in", 0, e))?;
    log.write_all(&header.encode())
        .map_err(|e| io("close", 0, e))?;
    Ok(Recovered {
        records: header.records,
        length: header.end,
        dropped: file_length - header.end,
    })
}

/// The whole block after the one at `last`: its position and number of records.
fn next_block(
    log: &mut (impl Read + Seek),
    header: &Header,
    last: u64,
    file_length: u64,
) -> Result<Option<(u64, u64)>, Error> {
    let size = to_u64(header.block_size);
    let data_starts = last + size;
    let stop = file_length.min(data_starts.saturating_add(SEARCH_MAX));
    let mut window = Vec::new();
    let mut at = data_starts;
    while at + size <= stop {
        let length = (stop - at).min(to_u64(WINDOW));
        window.resize(to_usize(length), 0);
        read_at(log, at, &mut window)?;
        let mut inside = 0;
        while inside + header.block_size <= window.len() {
            let candidate = &window[inside..inside + header.block_size];
            let here = at + to_u64(inside);
            // The distance is a cheap first look; most places fail it.
            if candidate[..8] == (here - last).to_le_bytes()
                && let Ok(block) = layout::decode_block(header, here, candidate)
                && data_starts + block.data_len() == here
            {
                let whole = data_is_whole(log, data_starts, &block)?;
                return Ok(whole.then_some((here, to_u64(block.entries.len()))));
            }
            inside += to_usize(SECTOR);
        }
        at += to_u64(inside);
    }
    Ok(None)
}

fn data_is_whole(
    log: &mut (impl Read + Seek),
    from: u64,
    block: &layout::Block,
) -> Result<bool, Error> {
    let mut position = from;
    let mut data = Vec::new();
    for entry in &block.entries {
        data.resize(to_usize(entry.data_len()), 0);
        read_at(log, position, &mut data)?;
        if entry.operation == layout::Operation::Write && byte_sum(&data) != entry.data_sum {
            return Ok(false);
        }
        position += entry.data_len();
    }
    Ok(true)
}

fn io(action: &'static str, offset: u64, source: std::io::Error) -> Error {
    Error::Io {
        action,
        offset,
        source,
    }
}
