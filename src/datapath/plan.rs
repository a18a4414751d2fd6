//! What to apply next: the longest stretch of seals that one apply cycle may bring.
//!
//! A cycle ends with the first barrier, before it would write a range twice (under one sequence number a page has only
//! one content), before a disk has another size, and before it grows past a bound. Parts of a delta wait for their barrier as long as the disk is
//! consistent: there is no gain in leaving that state early. A copy after them says that their barrier may never come.

use crate::replica::Digest;
use crate::replica::manifest::{Head, Manifest, Verdict};
use crate::replica::seal::{Barrier, Kind, Seal};
use crate::units::{ByteRange, MIB, Sequence};

/// Bytes of logs that one cycle brings: enough to make its own requests small beside them, few enough to repeat.
pub const CYCLE_MAX: u64 = 256 * MIB;

/// The most seals that are looked at ahead. A delta with more parts is applied without waiting for its barrier.
const AHEAD: usize = 256;
/// Bytes of seals that are held, as they are stored; the last may be longer. All [`AHEAD`] of the usual kind stay below.
const AHEAD_BYTES: usize = 4 << 20;

/// A seal that was found in the inbox, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub seal: Seal,
    pub id: Digest,
}

/// What one cycle brings: at least one seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    pub seals: Vec<Found>,
}

impl Cycle {
    /// The last seal.
    pub fn target(&self) -> &Found {
        self.seals.last().expect("a cycle has at least one seal")
    }

    /// The part of it before `sequence`; nothing if that is where it begins.
    pub fn before(&self, sequence: Sequence) -> Option<Cycle> {
        let earlier = |found: &&Found| found.seal.sequence < sequence;
        let seals: Vec<Found> = self.seals.iter().take_while(earlier).cloned().collect();
        (!seals.is_empty()).then_some(Cycle { seals })
    }

    /// The barrier that it ends with.
    pub fn barrier(&self) -> Option<&Barrier> {
        self.target().seal.barrier.as_ref()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything that can be applied is.
    Nothing,
    /// A delta whose barrier is not sealed yet.
    Wait,
    Apply(Cycle),
    /// The chain is broken: the seal at this sequence does not follow what was applied.
    Gap(Sequence),
}

/// Seals of the replica's chain that were found one after the other.
#[derive(Debug)]
pub struct Ahead {
    found: Vec<Found>,
    /// The sequence behind the last that was looked at.
    end: Sequence,
    /// Bytes of the seals as they are stored.
    bytes: usize,
    /// Bytes of their logs.
    length: u64,
    /// Whether one of them is a part that waits for its barrier.
    waits: bool,
}

impl Ahead {
    /// Nothing yet; the first to look at is `from`.
    pub const fn from(from: Sequence) -> Self {
        Ahead {
            found: Vec::new(),
            end: from,
            bytes: 0,
            length: 0,
            waits: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The sequence to look at next.
    pub const fn end(&self) -> Sequence {
        self.end
    }

    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Takes in the seal at [`Ahead::end`], stored in `bytes` bytes: whether the next one is worth looking at. One of
    /// another chain is passed over.
    pub fn take(&mut self, manifest: &Manifest, found: Found, bytes: usize) -> bool {
        self.end = found.seal.sequence.next();
        if found.seal.chain != manifest.chain {
            return true;
        }
        self.bytes += bytes;
        self.length += found.seal.length();
        self.waits |= leaves_consistency(manifest, &found.seal);
        let barrier = found.seal.barrier.is_some();
        self.found.push(found);
        let enough = !self.waits && self.length >= CYCLE_MAX;
        !(barrier || enough || self.is_full())
    }

    fn is_full(&self) -> bool {
        self.found.len() >= AHEAD || self.bytes >= AHEAD_BYTES
    }
}

/// Plans over what was found ahead: the seals after what was applied, up to the first barrier, or to where there are no
/// more, or as many as one looks at.
pub fn plan(manifest: &Manifest, ahead: Ahead) -> Plan {
    let endless = ahead.is_full();
    let mut chain: Vec<Found> = Vec::new();
    for next in ahead.found {
        let before = chain
            .last()
            .map_or(manifest.last_applied.seal, |found| Some(found.id));
        match manifest.judge(&next.seal, before) {
            Verdict::Garbage => {}
            Verdict::Gap if chain.is_empty() => return Plan::Gap(next.seal.sequence),
            Verdict::Gap => break,
            Verdict::Next => chain.push(next),
        }
    }
    let ended = |seal: &Seal| seal.barrier.is_some() || begins_copy(seal);
    let barrier = endless || chain.iter().any(|found| ended(&found.seal));
    if chain.is_empty() {
        Plan::Nothing
    } else if !barrier
        && chain
            .iter()
            .any(|found| leaves_consistency(manifest, &found.seal))
    {
        Plan::Wait
    } else {
        Plan::Apply(first_cycle(chain))
    }
}

/// The longest prefix that is one cycle.
fn first_cycle(chain: Vec<Found>) -> Cycle {
    let mut seals: Vec<Found> = Vec::new();
    let mut length = 0;
    for next in chain {
        let ended = seals.last().is_some_and(|last| last.seal.barrier.is_some());
        let full = !seals.is_empty() && length + next.seal.length() > CYCLE_MAX;
        if ended
            || full
            || seals.iter().any(|earlier| {
                overlap(&earlier.seal, &next.seal) || resizes(&earlier.seal, &next.seal)
            })
        {
            break;
        }
        length += next.seal.length();
        seals.push(next);
    }
    Cycle { seals }
}

/// Whether a seal belongs to a copy: disks that were consistent are not any more, so nothing is gained by waiting.
fn begins_copy(seal: &Seal) -> bool {
    seal.disks.iter().any(|disk| disk.kind == Kind::Copy)
}

/// Whether a seal is a part of a delta to a disk that is consistent.
fn leaves_consistency(manifest: &Manifest, seal: &Seal) -> bool {
    seal.disks.iter().any(|disk| {
        let head = manifest.disks.get(&disk.disk).map(|disk| &disk.head);
        disk.kind == Kind::Delta && matches!(head, Some(Head::Consistent { .. }))
    })
}

/// Whether a disk has another size in the later seal.
fn resizes(earlier: &Seal, later: &Seal) -> bool {
    later.disks.iter().any(|new| {
        let mut same = earlier.disks.iter().filter(|old| old.disk == new.disk);
        same.any(|old| old.size != new.size)
    })
}

fn overlap(earlier: &Seal, later: &Seal) -> bool {
    let meet = |a: ByteRange, b: ByteRange| a.start() < b.end() && b.start() < a.end();
    later.disks.iter().any(|new| {
        let same = earlier.disks.iter().filter(|old| old.disk == new.disk);
        let logs = same.flat_map(|old| &old.logs);
        logs.flat_map(|old| new.logs.iter().map(move |new| (old.range, new.range)))
            .any(|(a, b)| meet(a, b))
    })
}

#[cfg(test)]
mod tests;
