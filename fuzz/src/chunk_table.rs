//! What must hold for every part of a chunk table.
//!
//! - However it is cut into pieces, it says the same runs, and ends the same way.
//! - Runs ascend, do not overlap, lie in the disk and are bounded.
//! - A part that reads whole, written again, says the same; laid over itself, too.
//! - A wrong hash, a missing byte and one too many are found out.

use std::convert::Infallible;

use bytes::Bytes;
use futures::executor::block_on;
use futures::stream;
use site_recovery::replica::Digest;
use site_recovery::replica::manifest::TableRef;
use site_recovery::replica::table::overlay::Overlay;
use site_recovery::replica::table::parts::{Error, Parser, Writer};
use site_recovery::replica::table::{Run, States, chunks};
use site_recovery::units::{Sequence, to_u64};

use super::input::Input;

/// Runs that are looked at one chunk at a time, for a short while.
const CHUNKS_LOOKED_AT: u64 = 64;
/// Hashes that one run may have.
const HASHES_MAX: u64 = 4096;

/// The target `chunk_table`. The input: disk size u64 │ piece u16 │ the part.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (disk_size, piece) = (input.u64(), usize::from(input.u16()).max(1));
    let part = input.rest();
    let whole = parse(part, &expected(part), disk_size, part.len().max(1));
    let pieces = parse(part, &expected(part), disk_size, piece);
    let said = |parsed: &(Vec<Run>, Result<(), Error>)| (joined(&parsed.0), ends(&parsed.1));
    assert_eq!(said(&whole), said(&pieces), "cut into {piece} bytes");
    check_runs(&whole.0, disk_size);
    if whole.1.is_ok() {
        check_lies(part, disk_size);
        check_again(&whole.0, disk_size);
        check_overlay(&whole.0);
    }
}

/// The part as its manifest describes it.
fn expected(part: &[u8]) -> TableRef {
    TableRef {
        blob: "tables/input".to_owned(),
        from: Sequence::ZERO,
        to: Sequence::new(1),
        length: to_u64(part.len()),
        blake3: Digest::of(part),
    }
}

/// The runs of a part that comes in pieces, and how it ends.
fn parse(
    part: &[u8],
    expected: &TableRef,
    disk_size: u64,
    piece: usize,
) -> (Vec<Run>, Result<(), Error>) {
    let mut parser = Parser::new(expected.clone(), disk_size);
    let mut runs = Vec::new();
    for piece in part.chunks(piece) {
        let mut fed = parser.feed(piece);
        while fed.is_ok() {
            match parser.next_run() {
                Ok(Some(run)) => runs.push(run),
                Ok(None) => break,
                Err(error) => fed = Err(error),
            }
        }
        if fed.is_err() {
            return (runs, fed);
        }
    }
    (runs, parser.finish())
}

/// Whether the part ends as it should; if not, the error must be short.
fn ends(end: &Result<(), Error>) -> bool {
    let said = end.as_ref().err().map(ToString::to_string);
    assert!(said.is_none_or(|said| said.len() <= 512));
    end.is_ok()
}

fn check_runs(runs: &[Run], disk_size: u64) {
    let mut end = 0;
    for run in runs {
        assert!(run.first >= end && run.count() > 0, "{run:?}");
        end = run.end();
        assert!(end <= chunks(disk_size), "{run:?}");
        assert!(
            matches!(run.states, States::Zero(_) | States::Touched(_)) || run.count() <= HASHES_MAX
        );
        assert!(run.get(end).is_none());
        let last = run.end().min(run.first + CHUNKS_LOOKED_AT);
        for index in run.first..last {
            let chunk = run.get(index);
            assert!(chunk.is_some() && chunk == run.slice(index, end).get(index));
        }
    }
}

/// What the manifest does not mean is refused.
fn check_lies(part: &[u8], disk_size: u64) {
    let right = expected(part);
    let wrong_hash = TableRef {
        blake3: Digest::of(b"another part"),
        ..right.clone()
    };
    let longer = TableRef {
        length: right.length + 1,
        ..right.clone()
    };
    let shorter = TableRef {
        length: right.length - 1,
        ..right
    };
    for lie in [wrong_hash, longer, shorter] {
        let (_, end) = parse(part, &lie, disk_size, 4096);
        assert!(end.is_err(), "{lie:?}");
    }
    let cut = &part[..part.len() - 1];
    assert!(parse(cut, &expected(cut), disk_size, 4096).1.is_err());
}

fn check_again(runs: &[Run], disk_size: u64) {
    let mut writer = Writer::new(disk_size);
    let mut part = Vec::new();
    for run in runs {
        writer.push(run);
        part.extend(writer.take());
    }
    let (rest, length, blake3) = writer.finish();
    part.extend(rest);
    let described = expected(&part);
    assert_eq!((length, blake3), (described.length, described.blake3));
    let (found, end) = parse(&part, &described, disk_size, 1000);
    assert!(end.is_ok(), "what we write, we read");
    assert_eq!(joined(&found), joined(runs));
}

fn check_overlay(runs: &[Run]) {
    let part = || stream::iter(runs.iter().cloned().map(Ok::<_, Infallible>));
    let mut overlay = Overlay::new(vec![part(), part()]);
    let mut found = Vec::new();
    while let Ok(Some(run)) = block_on(overlay.next()) {
        found.push(run);
    }
    assert_eq!(joined(&found), joined(runs));
}

/// Runs with neighbours of one kind joined: what they say, however it was cut.
fn joined(runs: &[Run]) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        let last = joined.last_mut().filter(|last| last.end() == run.first);
        let states = last
            .as_ref()
            .and_then(|last| join(&last.states, &run.states));
        match (last, states) {
            (Some(last), Some(states)) => last.states = states,
            _ => joined.push(run.clone()),
        }
    }
    joined
}

fn join(first: &States, second: &States) -> Option<States> {
    match (first, second) {
        (States::Zero(first), States::Zero(second)) => Some(States::Zero(first + second)),
        (States::Touched(first), States::Touched(second)) => Some(States::Touched(first + second)),
        (States::Hashes(first), States::Hashes(second)) => {
            let mut all = Vec::with_capacity(first.len() + second.len());
            all.extend_from_slice(first);
            all.extend_from_slice(second);
            Some(States::Hashes(Bytes::from(all)))
        }
        _ => None,
    }
}
