//! What of a window of a disk has to be sent, so that the replica holds what the frozen point holds.
//!
//! | frozen point | chunk table | |
//! |---|---|---|
//! | not allocated, or all zero | zero | nothing |
//! | not allocated, or all zero | a hash, or touched | zeroes |
//! | data | the same hash | nothing |
//! | data | zero, another hash, or touched | the data |
//!
//! The first copy's table is all zero; then nothing is hashed.

use crate::replica::table::{Chunk, Run};
use crate::units::{ByteRange, CHUNK, is_zero, to_usize};

/// What differs in a window and is to be sent; ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// These bytes of the window's buffer, which lie at `range` of the disk.
    Data(ByteRange),
    Zero(ByteRange),
}

/// A window as it was read: `buffer` holds `range` of the disk, zero where nothing is allocated.
pub struct Window<'a> {
    /// Begins at a chunk; ends at a chunk or at the disk's end.
    pub range: ByteRange,
    pub buffer: &'a [u8],
    /// Parts of the window that may hold other than zeroes; ascending.
    pub allocated: &'a [ByteRange],
    /// What the chunk table says of the window; ascending, zero where it says nothing.
    pub table: &'a [Run],
}

/// Compares a window chunk by chunk; neighbours of one kind are joined.
pub fn compare(window: &Window<'_>) -> Vec<Difference> {
    let mut differences: Vec<Difference> = Vec::new();
    let mut allocated = window.allocated.iter().peekable();
    let mut table = window.table.iter().peekable();
    for chunk in window.range.split_at_multiples(CHUNK) {
        while allocated
            .next_if(|range| range.end() <= chunk.start())
            .is_some()
        {}
        let has_data = allocated
            .peek()
            .is_some_and(|range| range.start() < chunk.end());
        let index = chunk.start() / CHUNK;
        while table.next_if(|run| run.end() <= index).is_some() {}
        let known = table
            .peek()
            .and_then(|run| run.get(index))
            .unwrap_or(Chunk::Zero);
        let bytes = bytes_of(window, chunk);
        let zero = !has_data || is_zero(bytes);
        let difference = match (zero, known) {
            (true, Chunk::Zero) => continue,
            (true, Chunk::Touched | Chunk::Hash(_)) => Difference::Zero(chunk),
            (false, Chunk::Hash(hash)) if *blake3::hash(bytes).as_bytes() == hash => continue,
            (false, Chunk::Zero | Chunk::Touched | Chunk::Hash(_)) => Difference::Data(chunk),
        };
        push(&mut differences, difference);
    }
    differences
}

fn push(differences: &mut Vec<Difference>, next: Difference) {
    let joined = match (differences.last(), &next) {
        (Some(Difference::Data(a)), Difference::Data(b)) if a.end() == b.start() => {
            ByteRange::new(a.start(), b.end()).map(Difference::Data)
        }
        (Some(Difference::Zero(a)), Difference::Zero(b)) if a.end() == b.start() => {
            ByteRange::new(a.start(), b.end()).map(Difference::Zero)
        }
        (Some(_) | None, _) => None,
    };
    match (joined, differences.last_mut()) {
        (Some(joined), Some(last)) => *last = joined,
        (Some(_) | None, _) => differences.push(next),
    }
}

fn bytes_of<'a>(window: &Window<'a>, range: ByteRange) -> &'a [u8] {
    let from = to_usize(range.start() - window.range.start());
    &window.buffer[from..from + to_usize(range.len())]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::replica::table::States;

    const CHUNKS: u64 = 8;
    /// The last chunk of the disk is short.
    const END: u64 = CHUNKS * CHUNK - 512;

    /// One chunk: what the point holds, and what the table says of it.
    #[derive(Clone, Debug)]
    struct Case {
        allocated: bool,
        fill: u8,
        table: Option<Chunk>,
    }

    fn case() -> impl Strategy<Value = Case> {
        let table = prop_oneof![
            Just(None),
            Just(Some(Chunk::Zero)),
            Just(Some(Chunk::Touched)),
            (0..3u8).prop_map(|fill| Some(Chunk::Hash([fill; 32]))),
        ];
        (any::<bool>(), 0..3u8, table).prop_map(|(allocated, fill, table)| Case {
            allocated,
            fill,
            table,
        })
    }

    fn range_of(index: u64) -> ByteRange {
        ByteRange::new(index * CHUNK, END.min((index + 1) * CHUNK)).unwrap()
    }

    fn run_of(index: u64, table: Chunk) -> Run {
        let states = match table {
            Chunk::Zero => States::Zero(1),
            Chunk::Touched => States::Touched(1),
            // In these tests a hash names the fill that it is of.
            Chunk::Hash(hash) => {
                let content = vec![hash[0]; to_usize(range_of(index).len())];
                States::Hashes(Bytes::copy_from_slice(blake3::hash(&content).as_bytes()))
            }
        };
        Run {
            first: index,
            states,
        }
    }

    proptest! {
        #[test]
        fn a_replica_that_holds_what_the_table_says_becomes_the_frozen_point(
            cases in prop::collection::vec(case(), to_usize(CHUNKS)),
        ) {
            // Given a frozen point, a table, and a replica that the table is true of
            let (mut source, mut replica) = (Vec::new(), Vec::new());
            let (mut allocated, mut table) = (Vec::new(), Vec::new());
            for (index, case) in (0..).zip(&cases) {
                let length = to_usize(range_of(index).len());
                source.extend(vec![if case.allocated { case.fill } else { 0 }; length]);
                if case.allocated {
                    allocated.push(range_of(index));
                }
                let held = match case.table {
                    None | Some(Chunk::Zero) => 0,
                    Some(Chunk::Touched) => 0xee,
                    Some(Chunk::Hash(hash)) => hash[0],
                };
                replica.extend(vec![held; length]);
                table.extend(case.table.map(|chunk| run_of(index, chunk)));
            }
            let range = ByteRange::to(END);
            // When the window is compared and what comes out is sent
            let differences = compare(&Window { range, buffer: &source, allocated: &allocated, table: &table });
            for difference in &differences {
                let (Difference::Data(range) | Difference::Zero(range)) = difference;
                let bytes = to_usize(range.start())..to_usize(range.end());
                match difference {
                    Difference::Data(_) => replica[bytes.clone()].copy_from_slice(&source[bytes]),
                    Difference::Zero(_) => replica[bytes].fill(0),
                }
            }
            // Then the replica is the frozen point, and nothing was sent that was there.
            prop_assert!(replica == source);
            let sent: u64 = differences.iter().map(|(Difference::Data(range) | Difference::Zero(range))| range.len()).sum();
            let needed: u64 = (0..).zip(&cases).filter(|(_, case)| {
                let fill = if case.allocated { case.fill } else { 0 };
                match case.table {
                    None | Some(Chunk::Zero) => fill != 0,
                    Some(Chunk::Touched) => true,
                    Some(Chunk::Hash(hash)) => hash[0] != fill || fill == 0,
                }
            }).map(|(index, _)| range_of(index).len()).sum();
            prop_assert_eq!(sent, needed);
        }
    }
}
