//! Replays every input of `fuzz/seeds` through the functions that the fuzzer calls: what was found once stays found.
//!
//! A seed that the library made is also made anew and replayed, so that what it writes today is an input, too. After a
//! change of `fuzz/src/seeds.rs`, `SEEDS=write cargo test --test it corpus` writes the files.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use self::shared::seeds::{self, Seed};
use self::shared::{TARGETS, Target};

#[cfg(test)]
#[expect(
    unreachable_pub,
    reason = "the fuzz targets are crates of their own, and see the same files as a library"
)]
#[path = "../../fuzz/src/lib.rs"]
mod shared;

/// What all seeds together may have: a checkout should not notice them.
const BYTES_MAX: usize = 300 << 10;

/// The files of a target's folder, with their names.
fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder(target);
    let entries = fs::read_dir(&folder);
    let entries = entries.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

/// Runs all inputs, and names those that fail.
fn replay(target: &Target, inputs: impl IntoIterator<Item = (String, Vec<u8>)>) {
    let failed: Vec<_> = inputs
        .into_iter()
        .filter(|(_, bytes)| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err())
        .map(|(name, _)| name)
        .collect();
    assert!(failed.is_empty(), "{}: {failed:?} failed", target.name);
}

fn replay_folder(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target of this name");
    replay(target, files(name));
    let made = seeds::all().into_iter().filter(|seed| seed.target == name);
    replay(target, made.map(|seed| (seed.name.to_owned(), seed.bytes)));
}

#[test]
fn chunk_tables_keep_their_promises() {
    replay_folder("chunk_table");
}

#[test]
fn documents_keep_their_promises() {
    replay_folder("documents");
}

#[test]
fn replication_logs_keep_their_promises() {
    replay_folder("hrl");
}

#[test]
fn answers_of_the_storage_service_keep_their_promises() {
    replay_folder("page_ranges");
}

#[test]
fn vhds_keep_their_promises() {
    replay_folder("vhd");
}

#[test]
fn vhdxs_keep_their_promises() {
    replay_folder("vhdx");
}

#[test]
fn messages_keep_their_promises() {
    replay_folder("wire");
}

#[test]
fn every_target_has_a_fuzzer_and_the_seeds_that_are_made_for_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = seeds::all();
    if std::env::var_os("SEEDS").is_some_and(|value| value == "write") {
        write(&made);
    }
    let mut bytes = 0;
    for Target { name: target, .. } in TARGETS {
        let fuzzer = root.join(format!("fuzz/fuzz_targets/{target}.rs"));
        assert!(fuzzer.is_file(), "{} is missing", fuzzer.display());
        let files = files(target);
        bytes += files.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let kept: BTreeSet<String> = files.into_iter().map(|(name, _)| name).collect();
        let made = made.iter().filter(|seed| seed.target == target);
        let made: BTreeSet<String> = made.map(|seed| seed.name.to_owned()).collect();
        assert!(!made.is_empty(), "{target} has no seeds");
        let found = |name: &&String| !name.starts_with("found-");
        let expected = kept.iter().filter(found).cloned().collect();
        assert_eq!(made, expected, "of {target}: SEEDS=write makes them anew");
    }
    assert!(bytes <= BYTES_MAX, "the seeds have {bytes} bytes");
}

#[test]
fn the_same_seeds_are_made_every_time() {
    let said = |seed: Seed| (seed.target, seed.name, seed.bytes);
    let first = seeds::all().into_iter().map(said);
    assert!(first.eq(seeds::all().into_iter().map(said)));
}

/// Writes the seeds, and removes those that are not made any more. What fuzzing found stays.
fn write(made: &[Seed]) {
    for Target { name: target, .. } in TARGETS {
        let folder = folder(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, _) in files(target) {
            if !name.starts_with("found-") {
                fs::remove_file(folder.join(name)).unwrap();
            }
        }
        for seed in made.iter().filter(|seed| seed.target == target) {
            fs::write(folder.join(seed.name), &seed.bytes).unwrap();
        }
    }
}
