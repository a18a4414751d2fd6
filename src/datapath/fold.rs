//! Which parts of a chunk table are worth folding into one.
//!
//! Every apply cycle adds a part. Folding all into a base each time would write the base over and over; never folding
//! would let a reader open thousands of parts. So parts fold as in a log-structured merge: a run of neighbours, the
//! newest first, as long as each older one is no larger than all newer ones of the run together. Each byte is
//! then rewritten a logarithmic number of times, and the number of parts stays logarithmic.

use std::ops::Range;

use crate::replica::manifest::TableRef;
use crate::units::Sequence;

/// As many neighbours make a fold worth its requests.
const RUN_MIN: usize = 12;
/// The most parts that one fold reads at the same time.
const RUN_MAX: usize = 64;

/// The neighbours to fold now, if any. Parts on both sides of a recovery point (`points`: their sequences, ascending)
/// stay apart, so that the table of that point can still be read.
pub fn next_fold(parts: &[TableRef], points: &[Sequence]) -> Option<Range<usize>> {
    let mut end = parts.len();
    while end >= RUN_MIN {
        let start = run_start(&parts[..end], points);
        if end - start >= RUN_MIN {
            return Some(start..end);
        }
        // Nothing to gain up to the run's start; what lies before a point may have more.
        end = start.min(end - 1);
    }
    None
}

/// Where the run that ends with the last of `parts` begins.
fn run_start(parts: &[TableRef], points: &[Sequence]) -> usize {
    let Some(newest) = parts.last() else { return 0 };
    let mut start = parts.len() - 1;
    let mut length = newest.length;
    while let Some(older) = start.checked_sub(1).map(|index| &parts[index]) {
        let apart = points
            .iter()
            .any(|point| older.to <= *point && *point < newest.to);
        if apart || older.length > length || parts.len() - start >= RUN_MAX {
            break;
        }
        length = length.saturating_add(older.length);
        start -= 1;
    }
    start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::replica::Digest;

    fn part(from: u64, to: u64, length: u64) -> TableRef {
        let (from, to) = (Sequence::new(from), Sequence::new(to));
        TableRef {
            blob: String::new(),
            from,
            to,
            length,
            blake3: Digest::of(b""),
        }
    }

    /// Adds one part of `length` per sequence and folds whenever it says so: the parts left and the bytes written.
    fn grown(sequences: u64, length: u64, points: &[Sequence]) -> (Vec<TableRef>, u64) {
        let (mut parts, mut written) = (Vec::new(), 0);
        for sequence in 1..=sequences {
            parts.push(part(sequence, sequence, length));
            let until = points.partition_point(|point| point.value() <= sequence);
            while let Some(run) = next_fold(&parts, &points[..until]) {
                let folded = &parts[run.clone()];
                let sum = folded.iter().map(|part| part.length).sum();
                let new = part(
                    folded[0].from.value(),
                    folded[folded.len() - 1].to.value(),
                    sum,
                );
                written += sum;
                parts.splice(run, [new]);
            }
        }
        (parts, written)
    }

    #[test]
    fn a_long_first_copy_keeps_few_parts_and_rewrites_each_byte_few_times() {
        let (parts, written) = grown(32_768, 100, &[]);
        assert!(parts.len() <= 24, "{} parts", parts.len());
        assert!(
            written <= 32_768 * 100 * 12,
            "each byte {} times",
            written / 3_276_800
        );
    }

    proptest! {
        #[test]
        fn a_fold_never_joins_what_a_recovery_point_keeps_apart(
            points in prop::collection::btree_set(1..400u64, 0..20),
            lengths in 1..1000u64,
        ) {
            let points: Vec<_> = points.into_iter().map(Sequence::new).collect();
            let (parts, _) = grown(400, lengths, &points);
            for point in points {
                prop_assert!(parts.iter().all(|part| part.to <= point || part.from > point));
            }
        }
    }
}
