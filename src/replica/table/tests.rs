//! What a chunk table promises: parts read back as written, lies are found, and the newest part counts.

use std::collections::BTreeMap;
use std::convert::Infallible;

use futures::executor::block_on;
use futures::stream;
use proptest::prelude::*;

use super::overlay::Overlay;
use super::parts::{Error, Parser, Writer};
use super::*;
use crate::replica::manifest::TableRef;
use crate::units::Sequence;

const CHUNKS: u64 = 20_000;

type Model = BTreeMap<u64, Chunk>;

/// Ascending runs that do not overlap.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    let piece = (0..200u64, 1..300u64, 0..3u8, any::<u8>());
    prop::collection::vec(piece, 0..40).prop_map(|pieces| {
        let mut next = 0;
        let mut runs = Vec::new();
        for (gap, count, kind, fill) in pieces {
            let states = match kind {
                0 => States::Zero(count),
                1 => States::Touched(count),
                _ => States::Hashes(Bytes::from(vec![fill; to_usize(count) * HASH])),
            };
            runs.push(Run {
                first: next + gap,
                states,
            });
            next += gap + count;
        }
        runs
    })
}

fn model<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Model {
    let chunks = runs
        .into_iter()
        .flat_map(|run| (run.first..run.end()).map(move |index| (index, run.get(index).unwrap())));
    chunks.collect()
}

fn write(runs: &[Run]) -> (Vec<u8>, TableRef) {
    let mut writer = Writer::new(CHUNKS * CHUNK);
    let mut bytes = Vec::new();
    for run in runs {
        writer.push(run);
        bytes.extend(writer.take());
    }
    let (rest, length, blake3) = writer.finish();
    bytes.extend(rest);
    assert_eq!(bytes.len() as u64, length);
    let (from, to) = (Sequence::ZERO, Sequence::new(1));
    (
        bytes,
        TableRef {
            blob: "tables/x".to_owned(),
            from,
            to,
            length,
            blake3,
        },
    )
}

fn read(bytes: &[u8], expected: TableRef, piece: usize) -> Result<Vec<Run>, Error> {
    let mut parser = Parser::new(expected, CHUNKS * CHUNK);
    let mut runs = Vec::new();
    for piece in bytes.chunks(piece) {
        parser.feed(piece)?;
        while let Some(run) = parser.next_run()? {
            runs.push(run);
        }
    }
    parser.finish()?;
    Ok(runs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_part_reads_back_as_written_however_it_is_cut(written in runs(), piece in 1..5000usize) {
        let (bytes, expected) = write(&written);
        prop_assert_eq!(model(&read(&bytes, expected, piece).unwrap()), model(&written));
    }

    #[test]
    fn a_part_that_was_changed_is_found_out(written in runs(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let (mut bytes, expected) = write(&written);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(read(&bytes, expected, 4096).is_err());
    }

    #[test]
    fn hostile_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (start, mut expected) = write(&[]);
        let mut file = start[..32].to_vec();
        file.extend(bytes);
        expected.length = file.len() as u64;
        prop_assert!(read(&file, expected, 100).is_err());
    }

    #[test]
    fn the_newest_part_counts(parts in prop::collection::vec(runs(), 0..5)) {
        // Given parts, the newest first
        let streams = parts.iter().map(|runs| stream::iter(runs.clone().into_iter().map(Ok::<_, Infallible>)));
        let mut overlay = Overlay::new(streams.collect());
        // When they are laid over each other
        let mut merged = Vec::new();
        while let Ok(Some(run)) = block_on(overlay.next()) {
            merged.push(run);
        }
        // Then it is as if each had been written over the older ones, in ascending order.
        let mut expected = Model::new();
        for runs in parts.iter().rev() {
            expected.extend(model(runs));
        }
        prop_assert!(merged.windows(2).all(|pair| pair[0].end() <= pair[1].first));
        prop_assert_eq!(model(&merged), expected);
    }
}
