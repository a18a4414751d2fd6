//! The chunk table: what every 64 KiB of a replica's disk holds, without reading the disk.
//!
//! A chunk is *zero*, known by its BLAKE3, or *touched*: written in part, its hash unknown. A table is a base and one
//! part per apply cycle, newest last; where a part says nothing, the one before it counts, and in the end all is zero.
//! It tells a resynchronization what to send, a failback what to fetch, and what changed between two points.
//!
//! Parts are streams of [`Run`]s: never whole in memory. [`parts`] has the bytes, [`overlay`] lays parts over each
//! other.

pub mod overlay;
pub mod parts;

use bytes::Bytes;

use crate::units::{CHUNK, to_u64, to_usize};

/// Bytes of a hash.
const HASH: usize = 32;

/// Some neighbouring chunks of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index of the first chunk.
    pub first: u64,
    pub states: States,
}

/// What the chunks of a run hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum States {
    /// As many zero chunks.
    Zero(u64),
    /// As many chunks whose content is not known.
    Touched(u64),
    /// The BLAKE3 of each chunk, 32 bytes each.
    Hashes(Bytes),
}

/// What one chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    Zero,
    Touched,
    Hash([u8; HASH]),
}

impl Run {
    pub fn count(&self) -> u64 {
        match &self.states {
            States::Zero(count) | States::Touched(count) => *count,
            States::Hashes(hashes) => to_u64(hashes.len() / HASH),
        }
    }

    /// Index after the last chunk.
    pub fn end(&self) -> u64 {
        self.first + self.count()
    }

    /// The chunk of index `index`, if it lies in this run.
    pub fn get(&self, index: u64) -> Option<Chunk> {
        if index < self.first || index >= self.end() {
            return None;
        }
        Some(match &self.states {
            States::Zero(_) => Chunk::Zero,
            States::Touched(_) => Chunk::Touched,
            States::Hashes(hashes) => {
                let at = to_usize(index - self.first) * HASH;
                let mut hash = [0; HASH];
                hash.copy_from_slice(&hashes[at..at + HASH]);
                Chunk::Hash(hash)
            }
        })
    }

    /// The part of the run in `from..to`, which must lie in it.
    #[must_use]
    pub fn slice(&self, from: u64, to: u64) -> Run {
        let states = match &self.states {
            States::Zero(_) => States::Zero(to - from),
            States::Touched(_) => States::Touched(to - from),
            States::Hashes(hashes) => {
                let (from, to) = (to_usize(from - self.first), to_usize(to - self.first));
                States::Hashes(hashes.slice(from * HASH..to * HASH))
            }
        };
        Run {
            first: from,
            states,
        }
    }
}

/// How many chunks a disk of `size` bytes has; the last may be short, and is hashed as short as it is.
pub const fn chunks(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

#[cfg(test)]
mod tests;
