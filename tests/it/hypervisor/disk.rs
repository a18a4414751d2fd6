//! What a disk must hold, sector by sector, whatever happened to the hypervisor.
//!
//! Every write has a tag of its own and fills its sectors with it. So a disk is one number per sector, and a sector that
//! was torn or comes from nowhere is seen.

use std::collections::{BTreeMap, BTreeSet};

use site_recovery::units::{ByteRange, to_usize};

const SECTOR: u64 = 512;
/// The unit in which changes are tracked.
const BLOCK: u64 = 4096;

/// The tags of all sectors; zero stands for zeroes.
pub(crate) type Tags = Vec<u64>;

/// One sector for each tag.
pub(crate) fn sectors(tags: &[u64]) -> Vec<u8> {
    tags.iter()
        .flat_map(|tag| tag.to_le_bytes().repeat(64))
        .collect()
}

/// The tag of each sector.
pub(crate) fn tags(bytes: &[u8]) -> Tags {
    let sectors = bytes.chunks(to_usize(SECTOR));
    sectors
        .enumerate()
        .map(|(number, sector)| {
            let (tag, _) = sector.split_first_chunk().unwrap();
            let whole = sector.chunks(8).all(|piece| piece == tag);
            assert!(whole, "sector {number} is torn: {sector:x?}");
            u64::from_le_bytes(*tag)
        })
        .collect()
}

/// Differences are told by place, not by megabytes.
pub(crate) fn assert_same(found: &[u64], expected: &[u64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: sectors");
    let differs = |sector: &usize| found[*sector] != expected[*sector];
    let wrong: Vec<_> = (0..found.len()).filter(differs).collect();
    if let Some(&first) = wrong.first() {
        let (is, should) = (found[first], expected[first]);
        let count = wrong.len();
        panic!("{what}: {count} sectors are wrong, first {first}: {is}, expected {should}");
    }
}

/// One disk as its guest has left it.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) live: Tags,
    /// What a sector that was written since the last flush may hold after a kill.
    doubtful: BTreeMap<usize, BTreeSet<u64>>,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        Disk {
            live: vec![0; to_usize(size / SECTOR)],
            doubtful: BTreeMap::new(),
        }
    }

    /// The guest has asked for a write, and may have been answered.
    pub(crate) fn written(&mut self, range: ByteRange, tag: u64) {
        for sector in to_usize(range.start() / SECTOR)..to_usize(range.end() / SECTOR) {
            let may_hold = self.doubtful.entry(sector).or_default();
            may_hold.extend([self.live[sector], tag]);
            self.live[sector] = tag;
        }
    }

    /// All that was written before is durable.
    pub(crate) fn flushed(&mut self) {
        self.doubtful.clear();
    }

    /// What was found after a kill must be what may be there; it is what is there from now on.
    pub(crate) fn after_kill(&mut self, found: Tags) {
        assert_eq!(found.len(), self.live.len());
        for (sector, (found, expected)) in found.iter().zip(&self.live).enumerate() {
            let may_hold = self.doubtful.get(&sector);
            let allowed = found == expected || may_hold.is_some_and(|tags| tags.contains(found));
            assert!(
                allowed,
                "sector {sector} holds {found} after a kill, expected {expected} or {may_hold:?}"
            );
        }
        self.live = found;
        self.doubtful.clear();
    }
}

/// The blocks, in which changes are tracked, that hold other than before.
pub(crate) fn changed_blocks(before: &[u64], after: &[u64]) -> BTreeSet<u64> {
    let per_block = to_usize(BLOCK / SECTOR);
    let blocks = before.chunks(per_block).zip(after.chunks(per_block));
    let numbered = (0..).zip(blocks);
    let changed = numbered.filter(|(_, (before, after))| before != after);
    changed.map(|(number, _)| number).collect()
}

/// The blocks of ranges of bytes.
pub(crate) fn blocks(ranges: &[ByteRange]) -> BTreeSet<u64> {
    let blocks = ranges
        .iter()
        .flat_map(|range| range.start() / BLOCK..range.end().div_ceil(BLOCK));
    blocks.collect()
}
