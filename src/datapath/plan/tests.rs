//! Which seals one cycle brings, case by case.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::ids::{ChainId, DiskId, ReplicaId};
use crate::replica::document::Document;
use crate::replica::manifest::ReplicaDisk;
use crate::replica::seal::{Consistency, DiskCursor, Encoding, SealedDisk, SealedLog, Writer};
use crate::units::Generation;

fn manifest(head: Head) -> Manifest {
    let mut manifest = Manifest::new(ReplicaId::from_random(1), ChainId::from_random(2));
    let disk = ReplicaDisk {
        size: 1 << 40,
        grown_from: None,
        head,
        tables: Vec::new(),
    };
    manifest.disks = BTreeMap::from([(DiskId::from_random(3), disk)]);
    manifest
}

/// A chain of seals after the manifest, each with one log of the range that it is given.
struct Chain {
    found: Vec<Found>,
}

impl Chain {
    fn new() -> Self {
        Chain { found: Vec::new() }
    }

    fn seal(mut self, kind: Kind, range: (u64, u64), barrier: bool) -> Self {
        let prev = self.found.last().map(|found| found.id);
        let sequence = Sequence::new(self.found.len() as u64 + 1);
        let range = ByteRange::new(range.0 * MIB, range.1 * MIB).unwrap();
        let log = SealedLog {
            log: Uuid::from_u128(sequence.value().into()),
            range,
            encoding: Encoding::Identity,
            stored: 32 * MIB,
            length: 32 * MIB,
            blake3: Digest::of(b"log"),
        };
        let disk = SealedDisk {
            disk: DiskId::from_random(3),
            size: 1 << 40,
            kind,
            logs: vec![log],
            cursor: DiskCursor::Copied {
                point: "p".parse().unwrap(),
            },
        };
        let seal = Seal {
            replica: ReplicaId::from_random(1),
            chain: ChainId::from_random(2),
            sequence,
            prev,
            writer: Writer {
                host: "hv1".parse().unwrap(),
                generation: Generation::ZERO,
            },
            barrier: barrier.then_some(Barrier {
                time: Timestamp::UNIX_EPOCH,
                consistency: Consistency::Crash,
            }),
            disks: vec![disk],
        };
        let (_, id) = seal.encode().unwrap();
        self.found.push(Found { seal, id });
        self
    }

    fn copies(self, ranges: impl IntoIterator<Item = u64>) -> Self {
        ranges.into_iter().fold(self, |chain, at| {
            chain.seal(Kind::Copy, (at, at + 1), false)
        })
    }
}

/// The bytes that a seal of these tests has in storage.
const STORED: usize = 1000;

/// What is found ahead when these seals stand in the inbox.
fn looked_ahead(manifest: &Manifest, found: Vec<Found>, bytes: usize) -> Ahead {
    let mut ahead = Ahead::from(manifest.last_applied.sequence.next());
    for next in found {
        if !ahead.take(manifest, next, bytes) {
            break;
        }
    }
    ahead
}

fn planned(head: Head, found: Vec<Found>) -> Plan {
    let manifest = manifest(head);
    let ahead = looked_ahead(&manifest, found, STORED);
    plan(&manifest, ahead)
}

/// The sequences that the plan applies.
fn applied(plan: &Plan) -> Vec<u64> {
    let Plan::Apply(cycle) = plan else {
        panic!("nothing is applied: {plan:?}")
    };
    cycle
        .seals
        .iter()
        .map(|found| found.seal.sequence.value())
        .collect()
}

const COPYING: Head = Head::Copying { target: None };
const CONSISTENT: Head = Head::Consistent {
    sequence: Sequence::ZERO,
};

#[test]
fn copies_are_applied_together_up_to_the_bound() {
    let chain = Chain::new().copies(0..20);
    assert_eq!(
        applied(&planned(COPYING, chain.found)),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[test]
fn a_cycle_ends_with_the_first_barrier() {
    let chain = Chain::new()
        .seal(Kind::Copy, (0, 1), false)
        .seal(Kind::Delta, (5, 6), true)
        .copies([9]);
    assert_eq!(applied(&planned(COPYING, chain.found)), [1, 2]);
}

#[test]
fn a_range_is_written_once_in_a_cycle() {
    let chain = Chain::new().copies([0, 1, 0, 2]);
    assert_eq!(applied(&planned(COPYING, chain.found)), [1, 2]);
}

#[test]
fn a_part_of_a_delta_waits_for_its_barrier_while_the_disk_is_consistent() {
    let parts = || {
        Chain::new()
            .seal(Kind::Delta, (0, 1), false)
            .seal(Kind::Delta, (1, 2), false)
    };
    assert_eq!(planned(CONSISTENT, parts().found), Plan::Wait);
    let whole = parts().seal(Kind::Delta, (2, 3), true);
    assert_eq!(applied(&planned(CONSISTENT, whole.found)), [1, 2, 3]);
    assert_eq!(
        applied(&planned(
            Head::Applying {
                target: Sequence::new(1)
            },
            parts().found
        )),
        [1, 2]
    );
}

#[test]
fn parts_of_a_delta_that_a_copy_follows_wait_for_no_barrier() {
    let chain = Chain::new()
        .seal(Kind::Delta, (0, 1), false)
        .seal(Kind::Delta, (1, 2), false)
        .seal(Kind::Copy, (2, 3), false);
    assert_eq!(applied(&planned(CONSISTENT, chain.found)), [1, 2, 3]);
}

#[test]
fn a_missing_seal_is_a_gap_only_where_it_is_reached() {
    let mut chain = Chain::new().copies([0, 1, 2]);
    chain.found.remove(1);
    assert_eq!(applied(&planned(COPYING, chain.found.clone())), [1]);
    chain.found.remove(0);
    assert_eq!(planned(COPYING, chain.found), Plan::Gap(Sequence::new(3)));
}

#[test]
fn seals_of_a_retired_chain_are_passed_over() {
    let mut other = Chain::new().copies([0]);
    other.found[0].seal.chain = ChainId::from_random(9);
    assert_eq!(planned(COPYING, other.found), Plan::Nothing);
}

#[test]
fn no_more_seals_are_held_than_their_bytes_allow_and_a_delta_of_them_does_not_wait() {
    let longest = Seal::LENGTH_MAX;
    let delta = || {
        (0..40).fold(Chain::new(), |chain, at| {
            chain.seal(Kind::Delta, (at, at + 1), false)
        })
    };
    let manifest = manifest(CONSISTENT);
    let ahead = looked_ahead(&manifest, delta().found, longest);
    let held = ahead.found().len() * longest;
    assert!(held < AHEAD_BYTES + longest, "{held} bytes are held");
    assert!(matches!(plan(&manifest, ahead), Plan::Apply(_)));
    assert_eq!(planned(CONSISTENT, delta().found), Plan::Wait);
}

#[test]
fn of_a_copy_no_more_is_read_than_one_cycle_brings() {
    let chain = Chain::new().copies(0..200);
    let ahead = looked_ahead(&manifest(COPYING), chain.found, STORED);
    assert_eq!(ahead.found().len(), 8);
    assert_eq!(ahead.end(), Sequence::new(9));
}
