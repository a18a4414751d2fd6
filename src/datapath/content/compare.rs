//! Whether bytes are what a chunk table says of them. Pure.

use std::ops::AddAssign;

use serde::Serialize;

use crate::replica::table::{Chunk, Run};
use crate::units::{ByteRange, CHUNK, is_zero, to_u64, to_usize};

/// Wrong chunks whose offsets are kept; all are counted.
const OFFSETS_MAX: usize = 10;

/// Chunks by what came of comparing them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Chunks with the content that their hash names.
    pub hashed: u64,
    /// Chunks that are zero, as they shall be.
    pub zero: u64,
    /// Chunks that were written in part: the table has no hash of them.
    pub touched: u64,
    /// Chunks that are not what the table says.
    pub differing: u64,
    /// Where the first of them begin, in bytes.
    pub differing_at: Vec<u64>,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.hashed += other.hashed;
        self.zero += other.zero;
        self.touched += other.touched;
        self.differing += other.differing;
        let room = OFFSETS_MAX - self.differing_at.len();
        self.differing_at
            .extend(other.differing_at.into_iter().take(room));
    }
}

/// Compares the chunks of `range`, which begins with a chunk and ends with one or with the disk. `data` is the content,
/// nothing if all is zero; `runs` ascend, and where none is, chunks shall be zero.
pub fn compare(range: ByteRange, data: Option<&[u8]>, runs: &[Run]) -> Compared {
    static ZEROES: [u8; to_usize(CHUNK)] = [0; to_usize(CHUNK)];
    let mut compared = Compared::default();
    for chunk in range.split_at_multiples(CHUNK) {
        let at = to_usize(chunk.start() - range.start());
        let content = data.map(|data| &data[at..at + to_usize(chunk.len())]);
        let (right, counter) = match expected(runs, chunk.start() / CHUNK) {
            Chunk::Touched => (true, &mut compared.touched),
            Chunk::Zero => (content.is_none_or(is_zero), &mut compared.zero),
            Chunk::Hash(hash) => {
                let content = content.unwrap_or(&ZEROES[..to_usize(chunk.len())]);
                let right = *blake3::hash(content).as_bytes() == hash;
                (right, &mut compared.hashed)
            }
        };
        if right {
            *counter += 1;
            continue;
        }
        compared.differing += 1;
        if compared.differing_at.len() < OFFSETS_MAX {
            compared.differing_at.push(chunk.start());
        }
    }
    compared
}

impl Compared {
    /// All chunks.
    pub const fn total(&self) -> u64 {
        self.hashed + self.zero + self.touched + self.differing
    }
}

/// What the table says of a chunk.
pub fn expected(runs: &[Run], index: u64) -> Chunk {
    let after = runs.partition_point(|run| run.first <= index);
    let run = after.checked_sub(1).and_then(|at| runs.get(at));
    run.and_then(|run| run.get(index)).unwrap_or(Chunk::Zero)
}

/// The parts of `written`, ascending and inside of `range`, that are of use to a comparison: of a chunk without a hash
/// nothing is.
pub fn comparable(range: ByteRange, written: &[ByteRange], runs: &[Run]) -> Vec<ByteRange> {
    let mut useful: Vec<ByteRange> = Vec::new();
    for chunk in range.split_at_multiples(CHUNK) {
        if expected(runs, chunk.start() / CHUNK) == Chunk::Touched {
            continue;
        }
        let inside = written.iter().map(|part| chunk.intersect(*part));
        useful.extend(inside.filter(|part| !part.is_empty()));
    }
    useful
}

/// Joins ranges, ascending, whose gaps are shorter than `gap`: a request costs more than such a gap's bytes.
pub fn coalesced(ranges: &[ByteRange], gap: u64) -> Vec<ByteRange> {
    let mut joined: Vec<ByteRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start() - last.end() < gap => {
                *last = ByteRange::new(last.start(), range.end()).expect("they ascend");
            }
            Some(_) | None => joined.push(*range),
        }
    }
    joined
}

/// Bytes of a range that are not zero, in whole chunks.
pub fn nonzero_chunks(range: ByteRange, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    debug_assert_eq!(range.len(), to_u64(data.len()), "the data is the range's");
    let chunks = range.split_at_multiples(CHUNK).map(move |chunk| {
        let at = to_usize(chunk.start() - range.start());
        (chunk.start(), &data[at..at + to_usize(chunk.len())])
    });
    chunks.filter(|(_, content)| !is_zero(content))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::replica::table::States;

    fn hashed(first: u64, content: &[u8]) -> Run {
        let hash = blake3::hash(content);
        Run {
            first,
            states: States::Hashes(Bytes::copy_from_slice(hash.as_bytes())),
        }
    }

    #[test]
    fn each_kind_of_chunk_is_compared_in_its_own_way() {
        // Given five chunks, the last one short: right, wrong, touched, zero, zero where it should not be
        let chunk = to_usize(CHUNK);
        let range = ByteRange::to(4 * CHUNK + 512);
        let mut data = vec![0; 4 * chunk + 512];
        data[..chunk].fill(1);
        data[chunk..2 * chunk].fill(2);
        data[2 * chunk..3 * chunk].fill(3);
        let touched = Run {
            first: 2,
            states: States::Touched(1),
        };
        let runs = [
            hashed(0, &vec![1; chunk]),
            hashed(1, &vec![9; chunk]),
            touched,
            hashed(4, &[5; 512]),
        ];
        // Then
        let compared = compare(range, Some(&data), &runs);
        assert_eq!(
            (compared.hashed, compared.zero, compared.touched),
            (1, 1, 1)
        );
        assert_eq!(compared.differing_at, [CHUNK, 4 * CHUNK]);
        assert_eq!(compared.total(), 5);
        let nothing = compare(range, None, &runs);
        assert_eq!((nothing.zero, nothing.differing), (1, 3));
    }

    #[test]
    fn content_where_there_should_be_none_is_seen() {
        let range = ByteRange::to(CHUNK);
        let data = [vec![0; to_usize(CHUNK) - 1], vec![1]].concat();
        assert_eq!(compare(range, Some(&data), &[]).differing, 1);
    }

    #[test]
    fn only_what_can_be_compared_is_read_and_neighbours_at_once() {
        let range = ByteRange::to(4 * CHUNK);
        let touched = Run {
            first: 1,
            states: States::Touched(1),
        };
        let useful = comparable(range, &[ByteRange::to(3 * CHUNK)], &[touched]);
        let part = |from, to| ByteRange::new(from * CHUNK, to * CHUNK).unwrap();
        assert_eq!(useful, [part(0, 1), part(2, 3)]);
        assert_eq!(coalesced(&useful, CHUNK), useful);
        assert_eq!(coalesced(&useful, 2 * CHUNK), [part(0, 3)]);
    }
}
