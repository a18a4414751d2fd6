//! What must hold for hostile bytes: one plain function per parser of ours, for the fuzzer and for the tests alike.
//!
//! ```text
//! fuzz_targets/<target>.rs ─┐
//!                           ├─► TARGETS: fn(&[u8]), panics if a promise is broken
//! tests/it/corpus.rs ───────┘       images · log · xml · wire · documents · chunk_table
//! seeds/<target>/*                  inputs: what `seeds` makes, and what fuzzing found (`found-…`)
//! ```
//! No function here asserts merely that nothing panics. What opens must read, what decodes must mean the same when it is
//! encoded again, what is said twice must be the same twice, and what is called zero must be zero. Memory and time are
//! bounded by the fuzzer's limits, and for images by a budget of bytes ([`sparse`]).
//!
//! ```text
//! cargo +nightly fuzz run vhdx fuzz/corpus/vhdx fuzz/seeds/vhdx -- -rss_limit_mb=1024 -timeout=10 -max_len=65536
//! cargo +nightly fuzz tmin vhdx fuzz/artifacts/vhdx/crash-…      then: keep it as fuzz/seeds/vhdx/found-<what it is>
//! SEEDS=write cargo test --test it corpus                        after a change of what `seeds` makes
//! ```
//!
//! The modules name each other by `super`, because the tests take them in as a module of theirs.

pub mod chunk_table;
pub mod documents;
pub mod images;
pub mod input;
pub mod log;
pub mod mend;
mod seed_images;
mod seed_logs;
pub mod seeds;
pub mod sparse;
pub mod wire;
pub mod xml;

/// A fuzz target.
pub struct Target {
    /// Of the target, and of the folder of its seeds.
    pub name: &'static str,
    /// Panics if the input makes the library break a promise.
    pub run: fn(&[u8]),
}

/// All targets, in the order of their names.
pub const TARGETS: [Target; 7] = [
    target("chunk_table", chunk_table::run),
    target("documents", documents::run),
    target("hrl", log::run),
    target("page_ranges", xml::run),
    target("vhd", images::vhd),
    target("vhdx", images::vhdx),
    target("wire", wire::run),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}
