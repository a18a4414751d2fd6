//! From a verified log to what has to be done to a page blob, without doing it.
//!
//! Records are laid over each other, the later one counting; neighbours are joined into writes of at most 4 MiB, zero
//! runs become clears. What is known of the chunks afterwards comes out as runs of the chunk table: a chunk that the log
//! covers wholly has its hash, one that it touches has not.
//!
//! Memory is in proportion to the log, whatever it says of the disk: zeroes of any length are one run, and a write is
//! put together only when it is its turn.

use std::collections::BTreeMap;
use std::io::Cursor;

use bytes::{Bytes, BytesMut};

use crate::hrl::{Content, Error, LogReader};
use crate::replica::table::{Run, States};
use crate::units::{ByteRange, CHUNK, MIB, is_zero, to_usize};

/// The most bytes that one Put Page takes.
const WRITE_MAX: u64 = 4 * MIB;
/// A zero run between data that is shorter than this is written, not cleared: a request costs more than its bytes.
const CLEAR_MIN: u64 = CHUNK;

/// What a log does to a disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Digested {
    /// Ascending, not overlapping, each within one 4 MiB window.
    pub writes: Vec<PageWrite>,
    pub clears: Vec<ByteRange>,
    /// What is known of the chunks that were written to; ascending.
    pub chunks: Vec<Run>,
}

/// One write of at most 4 MiB.
#[derive(Debug, PartialEq, Eq)]
pub struct PageWrite {
    pub offset: u64,
    log: Bytes,
    /// What makes it, without gaps; at least one.
    pieces: Vec<Piece>,
}

/// A stretch of the disk and where its content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    range: ByteRange,
    /// Position in the log, or zeroes.
    data: Option<u64>,
}

/// Digests `log`, whose BLAKE3 has been verified.
///
/// # Errors
/// If it is not a log.
pub fn digest(log: &Bytes) -> Result<Digested, Error> {
    let mut reader = LogReader::open(Cursor::new(log.as_ref()))?;
    let disk_size = reader.header().disk_size;
    let mut pieces = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let data = match record.content {
            Content::Data { position, .. } => Some(position),
            Content::Zeroes => None,
        };
        lay_over(
            &mut pieces,
            Piece {
                range: record.range,
                data,
            },
        );
    }
    let pieces: Vec<Piece> = pieces.into_values().collect();
    let chunks = known_chunks(log, &pieces, disk_size);
    let mut digested = Digested {
        chunks,
        ..Digested::default()
    };
    for stretch in stretches(&pieces) {
        for window in windows(stretch) {
            digested.writes.push(PageWrite {
                offset: window[0].range.start(),
                log: log.clone(),
                pieces: window,
            });
        }
    }
    digested.clears = clears(&pieces);
    Ok(digested)
}

/// Puts a piece over what was there: older pieces lose what it covers.
fn lay_over(pieces: &mut BTreeMap<u64, Piece>, new: Piece) {
    let range = new.range;
    let before = pieces
        .range(..range.start())
        .next_back()
        .map(|(_, piece)| *piece);
    if let Some(old) = before.filter(|old| old.range.end() > range.start()) {
        let (left, rest) = old.range.split_at(range.start() - old.range.start());
        pieces.insert(
            left.start(),
            Piece {
                range: left,
                data: old.data,
            },
        );
        keep_right(pieces, old, rest, range.end());
    }
    let covered: Vec<Piece> = pieces
        .range(range.start()..range.end())
        .map(|(_, piece)| *piece)
        .collect();
    for old in covered {
        pieces.remove(&old.range.start());
        keep_right(pieces, old, old.range, range.end());
    }
    pieces.insert(range.start(), new);
}

/// Keeps the part of `old` (of which `rest` is left) that lies after `end`.
fn keep_right(pieces: &mut BTreeMap<u64, Piece>, old: Piece, rest: ByteRange, end: u64) {
    if rest.end() > end {
        let right = ByteRange::new(end, rest.end()).expect("it was compared");
        let data = old
            .data
            .map(|position| position + (end - old.range.start()));
        pieces.insert(right.start(), Piece { range: right, data });
    }
}

/// Neighbouring pieces that are written together: data, and short zero runs between data.
fn stretches(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut all: Vec<Vec<Piece>> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        if piece.data.is_none() && !is_filling(pieces, index) {
            continue;
        }
        match all.last_mut() {
            Some(stretch)
                if stretch
                    .last()
                    .is_some_and(|last| last.range.end() == piece.range.start()) =>
            {
                stretch.push(*piece);
            }
            Some(_) | None => all.push(vec![*piece]),
        }
    }
    all
}

/// Whether the zero piece at `index` is short and has data right before and right after it.
fn is_filling(pieces: &[Piece], index: usize) -> bool {
    let piece = pieces[index];
    let touches_data = |other: Option<&Piece>, at: u64, end: fn(ByteRange) -> u64| {
        other.is_some_and(|other| other.data.is_some() && end(other.range) == at)
    };
    let before = index.checked_sub(1).and_then(|before| pieces.get(before));
    piece.range.len() < CLEAR_MIN
        && touches_data(before, piece.range.start(), ByteRange::end)
        && touches_data(pieces.get(index + 1), piece.range.end(), ByteRange::start)
}

fn clears(pieces: &[Piece]) -> Vec<ByteRange> {
    let mut clears: Vec<ByteRange> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        if piece.data.is_some() || is_filling(pieces, index) {
            continue;
        }
        match clears.last_mut() {
            Some(last) if last.end() == piece.range.start() => {
                *last = ByteRange::new(last.start(), piece.range.end()).expect("pieces ascend");
            }
            Some(_) | None => clears.push(piece.range),
        }
    }
    clears
}

/// Cuts a stretch at multiples of 4 MiB.
fn windows(stretch: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut windows: Vec<Vec<Piece>> = Vec::new();
    for piece in stretch {
        for part in piece.range.split_at_multiples(WRITE_MAX) {
            let data = piece
                .data
                .map(|position| position + (part.start() - piece.range.start()));
            let part = Piece { range: part, data };
            match windows.last_mut() {
                Some(window)
                    if window[0].range.start() / WRITE_MAX == part.range.start() / WRITE_MAX =>
                {
                    window.push(part);
                }
                Some(_) | None => windows.push(vec![part]),
            }
        }
    }
    windows
}

impl PageWrite {
    /// What is written: a slice of the log where one piece makes it, a copy where several do.
    pub fn data(&self) -> Bytes {
        if let [
            Piece {
                range,
                data: Some(position),
            },
        ] = self.pieces[..]
        {
            let from = to_usize(position);
            return self.log.slice(from..from + to_usize(range.len()));
        }
        let length = self.pieces.iter().map(|piece| piece.range.len()).sum();
        let mut data = BytesMut::with_capacity(to_usize(length));
        for piece in &self.pieces {
            match content(&self.log, piece, piece.range) {
                Some(bytes) => data.extend_from_slice(bytes),
                None => data.resize(data.len() + to_usize(piece.range.len()), 0),
            }
        }
        data.freeze()
    }
}

/// The bytes of a part of a piece; nothing for zeroes.
fn content<'a>(log: &'a Bytes, piece: &Piece, part: ByteRange) -> Option<&'a [u8]> {
    let from = to_usize(piece.data? + (part.start() - piece.range.start()));
    Some(&log[from..from + to_usize(part.len())])
}

/// What the log says of each chunk that it writes to.
fn known_chunks(log: &Bytes, pieces: &[Piece], disk_size: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut chunk: Option<OpenChunk> = None;
    for piece in pieces {
        let zero = zero_chunks(piece, disk_size);
        let (before, rest) = piece.range.split_at(zero.start() - piece.range.start());
        let (_, after) = rest.split_at(zero.len());
        let parts = [before, after];
        for (part, follows) in parts.into_iter().zip([zero, ByteRange::to(0)]) {
            for part in part.split_at_multiples(CHUNK) {
                let index = part.start() / CHUNK;
                if chunk.as_ref().is_none_or(|open| open.index != index) {
                    runs.extend(chunk.take().map(OpenChunk::close));
                }
                let open = chunk.get_or_insert_with(|| OpenChunk::new(index, disk_size));
                open.add(part, content(log, piece, part));
            }
            if !follows.is_empty() {
                runs.extend(chunk.take().map(OpenChunk::close));
                runs.push(Run {
                    first: follows.start() / CHUNK,
                    states: States::Zero(follows.len().div_ceil(CHUNK)),
                });
            }
        }
    }
    runs.extend(chunk.map(OpenChunk::close));
    runs
}

/// The whole chunks that a piece makes zero; empty, at the piece's end, if it makes none.
fn zero_chunks(piece: &Piece, disk_size: u64) -> ByteRange {
    let (start, end) = (piece.range.start(), piece.range.end());
    let first = start.checked_next_multiple_of(CHUNK).unwrap_or(end);
    // The disk's last chunk may be short.
    let last = if end == disk_size {
        end
    } else {
        end - end % CHUNK
    };
    ByteRange::new(first, last)
        .filter(|_| piece.data.is_none())
        .unwrap_or(ByteRange::at(end, 0).expect("an empty range fits everywhere"))
}

/// A chunk whose parts are being gathered, in ascending order.
struct OpenChunk {
    index: u64,
    range: ByteRange,
    covered_to: u64,
    hasher: blake3::Hasher,
    zero: bool,
}

impl OpenChunk {
    fn new(index: u64, disk_size: u64) -> Self {
        let start = index * CHUNK;
        let range =
            ByteRange::new(start, disk_size.min(start + CHUNK).max(start)).expect("it was bounded");
        OpenChunk {
            index,
            range,
            covered_to: start,
            hasher: blake3::Hasher::new(),
            zero: true,
        }
    }

    fn add(&mut self, part: ByteRange, data: Option<&[u8]>) {
        const ZEROES: [u8; 4096] = [0; 4096];
        if part.start() != self.covered_to {
            return;
        }
        self.covered_to = part.end();
        match data {
            Some(data) => {
                self.zero &= is_zero(data);
                self.hasher.update(data);
            }
            None => {
                let mut left = to_usize(part.len());
                while left > 0 {
                    let length = left.min(ZEROES.len());
                    self.hasher.update(&ZEROES[..length]);
                    left -= length;
                }
            }
        }
    }

    fn close(self) -> Run {
        let states = if self.covered_to < self.range.end() {
            States::Touched(1)
        } else if self.zero {
            States::Zero(1)
        } else {
            States::Hashes(Bytes::copy_from_slice(self.hasher.finalize().as_bytes()))
        };
        Run {
            first: self.index,
            states,
        }
    }
}

/// What one log says of the chunks of its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunks {
    /// The log's name.
    pub log: String,
    /// Where all its records lie.
    pub range: ByteRange,
    /// Ascending.
    pub runs: Vec<Run>,
}

/// Logs that do not follow each other on the disk: what they say of it cannot be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfOrder {
    /// The log that does not follow.
    pub log: String,
    pub why: String,
}

/// Joins what several logs of one disk say of its chunks; a chunk that two of them write to is touched. The logs'
/// ranges must not overlap, so that what two of them write to is at most the chunk in which one ends and the next
/// begins.
///
/// # Errors
/// If a log says something of what an earlier one has said already. Whatever were made of it might be wrong.
pub fn join_chunks(mut parts: Vec<LogChunks>) -> Result<Vec<Run>, OutOfOrder> {
    parts.sort_by_key(|part| part.range);
    let mut joined: Vec<Run> = Vec::new();
    let mut before = String::new();
    for LogChunks { log, runs, .. } in parts {
        for run in runs {
            let end = joined.last().map_or(0, Run::end);
            match joined.last_mut() {
                Some(last) if is_shared(last, &run) => last.states = States::Touched(1),
                Some(_) if run.first < end => {
                    let at = run.first * CHUNK;
                    let why = format!(
                        "it tells of the chunk at byte {at} after {before} has told of all up to byte {}",
                        end * CHUNK
                    );
                    return Err(OutOfOrder { log, why });
                }
                Some(_) | None => joined.push(run),
            }
        }
        before = log;
    }
    Ok(joined)
}

/// What becomes of the last chunk of a disk that had `from` bytes and has grown: if it was short, and `joined` does not
/// say what it holds now, that is not known.
pub fn lengthen_last(joined: &mut Vec<Run>, from: u64) {
    let last = from / CHUNK;
    let place = joined.partition_point(|run| run.end() <= last);
    let told = joined.get(place).is_some_and(|run| run.first <= last);
    if from.is_multiple_of(CHUNK) || told {
        return;
    }
    let touched = Run {
        first: last,
        states: States::Touched(1),
    };
    joined.insert(place, touched);
}

/// Whether both tell of one and the same chunk alone.
fn is_shared(last: &Run, run: &Run) -> bool {
    last.first == run.first && last.count() == 1 && run.count() == 1
}

#[cfg(test)]
mod tests;
