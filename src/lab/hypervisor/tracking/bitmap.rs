//! A set of block numbers in memory: as large as what was touched, whatever the disk's size.
//!
//! ```text
//! page = 4096 blocks (16 MiB of disk):   absent = none · full = all · mixed = 512 bytes of bits
//! encoded: pages ascending, each  number u64 · kind u8 (1 full, 2 mixed) · 64 × u64 if mixed   (little-endian)
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

/// Words of a mixed page.
const WORDS: usize = 64;
/// Blocks in a page.
const PAGE: u64 = 4096;
/// Blocks in a word.
const WORD: u64 = 64;
const FULL: u8 = 1;
const MIXED: u8 = 2;
/// Bytes of the longest encoded page.
const PAGE_BYTES: u64 = 8 + 1 + 8 * 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bitmap {
    pages: BTreeMap<u64, Page>,
}

/// A page that has at least one block.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Page {
    Full,
    Mixed(Box<[u64; WORDS]>),
}

/// An encoding that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its pages are out of order, cut off, or of an unknown kind")]
pub(crate) struct Malformed;

impl Bitmap {
    /// Adds all `blocks`.
    pub(crate) fn insert(&mut self, blocks: Range<u64>) {
        let mut at = blocks.start;
        while at < blocks.end {
            let number = at / PAGE;
            let end = ((number + 1) * PAGE).min(blocks.end);
            if end - at == PAGE {
                self.pages.insert(number, Page::Full);
            } else {
                self.insert_in(number, at - number * PAGE..end - number * PAGE);
            }
            at = end;
        }
    }

    fn insert_in(&mut self, number: u64, within: Range<u64>) {
        let empty = || Page::Mixed(Box::new([0; WORDS]));
        let page = self.pages.entry(number).or_insert_with(empty);
        let Page::Mixed(words) = page else {
            return;
        };
        for (word, mask) in words_of(within) {
            words[word] |= mask;
        }
        if words.iter().all(|word| *word == u64::MAX) {
            *page = Page::Full;
        }
    }

    /// Adds all blocks of `other`.
    pub(crate) fn union_with(&mut self, other: &Bitmap) {
        self.union_within(other, 0..u64::MAX);
    }

    /// Adds the blocks of `other` in the pages that `blocks` lie in.
    pub(crate) fn union_within(&mut self, other: &Bitmap, blocks: Range<u64>) {
        for (number, theirs) in other
            .pages
            .range(blocks.start / PAGE..blocks.end.div_ceil(PAGE))
        {
            match (self.pages.get_mut(number), theirs) {
                (Some(Page::Full), _) => {}
                (None, theirs) => {
                    self.pages.insert(*number, theirs.clone());
                }
                (Some(ours), Page::Full) => *ours = Page::Full,
                (Some(ours @ Page::Mixed(_)), Page::Mixed(theirs)) => ours.add(theirs),
            }
        }
    }

    /// The runs of blocks in `within`, ascending, not touching each other, at most `limit`; and up to where all are told.
    pub(crate) fn runs(&self, within: Range<u64>, limit: usize) -> (Vec<Range<u64>>, u64) {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (number, page) in self
            .pages
            .range(within.start / PAGE..within.end.div_ceil(PAGE))
        {
            let base = number * PAGE;
            let inside = within.start.max(base)..within.end.min(base + PAGE);
            for run in page.runs(inside.start - base..inside.end - base) {
                let run = base + run.start..base + run.end;
                // A run that ends a page may go on in the next: only another run shows where it ends.
                let full = runs.len() == limit;
                match runs.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    Some(last) if full => {
                        let covered = last.end;
                        return (runs, covered);
                    }
                    Some(_) | None => runs.push(run),
                }
            }
        }
        (runs, within.end.max(within.start))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (number, page) in &self.pages {
            out.extend(number.to_le_bytes());
            match page {
                Page::Full => out.push(FULL),
                Page::Mixed(words) => {
                    out.push(MIXED);
                    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                }
            }
        }
    }

    /// Bytes that the blocks below `blocks` take at most when they are encoded.
    pub(crate) const fn encoded_max(blocks: u64) -> u64 {
        blocks.div_ceil(PAGE).saturating_mul(PAGE_BYTES)
    }

    /// Reads what [`Bitmap::encode`] has written.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut pages = BTreeMap::new();
        while !bytes.is_empty() {
            let number = u64::from_le_bytes(take(&mut bytes)?);
            let [kind] = take(&mut bytes)?;
            let page = match kind {
                FULL => Page::Full,
                MIXED => {
                    let mut words = Box::new([0; WORDS]);
                    for word in words.iter_mut() {
                        *word = u64::from_le_bytes(take(&mut bytes)?);
                    }
                    Page::Mixed(words)
                }
                _ => return Err(Malformed),
            };
            // A page beyond this could not be counted in blocks.
            let ascends = pages
                .last_key_value()
                .is_none_or(|(last, _)| *last < number);
            if !ascends || number >= u64::MAX / PAGE {
                return Err(Malformed);
            }
            pages.insert(number, page);
        }
        Ok(Bitmap { pages })
    }
}

impl Page {
    fn add(&mut self, theirs: &[u64; WORDS]) {
        let Page::Mixed(ours) = self else {
            return;
        };
        for (our, their) in ours.iter_mut().zip(theirs) {
            *our |= their;
        }
        if ours.iter().all(|word| *word == u64::MAX) {
            *self = Page::Full;
        }
    }

    /// The runs of set bits in `within`, which lies in the page.
    fn runs(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let words = match self {
            Page::Full => return vec![within],
            Page::Mixed(words) => words,
        };
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (word, mask) in words_of(within) {
            let mut bits = words[word] & mask;
            let base = WORD * crate::units::to_u64(word);
            while bits != 0 {
                let first = u64::from(bits.trailing_zeros());
                let len = u64::from((bits >> first).trailing_ones());
                let run = base + first..base + first + len;
                match runs.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => runs.push(run),
                }
                bits &= !mask_of(first, len);
            }
        }
        runs
    }
}

/// `len` bits from `first` on; all in one word.
const fn mask_of(first: u64, len: u64) -> u64 {
    if len == WORD {
        u64::MAX
    } else {
        ((1 << len) - 1) << first
    }
}

/// The words of a page that `within` touches, each with the bits of it.
fn words_of(within: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let mut at = within.start;
    std::iter::from_fn(move || {
        if at >= within.end {
            return None;
        }
        let word = at / WORD;
        let end = ((word + 1) * WORD).min(within.end);
        let mask = mask_of(at % WORD, end - at);
        at = end;
        Some((crate::units::to_usize(word), mask))
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    *bytes = rest;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};

    use super::*;

    const END: u64 = 6 * PAGE;

    fn of(ranges: &[Range<u64>]) -> (Bitmap, BTreeSet<u64>) {
        let mut bitmap = Bitmap::default();
        ranges.iter().for_each(|range| bitmap.insert(range.clone()));
        (bitmap, ranges.iter().cloned().flatten().collect())
    }

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        let range = (0..END, 0..2 * PAGE).prop_map(|(start, len)| start..(start + len).min(END));
        vec(range, 0..12)
    }

    fn blocks(bitmap: &Bitmap, limit: usize) -> BTreeSet<u64> {
        let (mut found, mut at) = (BTreeSet::new(), 0);
        while at < END {
            let (runs, covered) = bitmap.runs(at..END, limit);
            assert!(covered > at);
            found.extend(runs.into_iter().flatten());
            at = covered;
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_bitmap_is_a_set_of_blocks(first in ranges(), second in ranges(), limit in 1_usize..5) {
            let ((mut a, in_a), (b, in_b)) = (of(&first), of(&second));
            prop_assert_eq!(blocks(&a, limit), in_a.clone());
            a.union_with(&b);
            prop_assert_eq!(blocks(&a, limit), in_a.union(&in_b).copied().collect::<BTreeSet<_>>());
        }

        #[test]
        fn a_bitmap_comes_back_as_it_was_encoded(ranges in ranges()) {
            let (bitmap, _) = of(&ranges);
            let mut bytes = Vec::new();
            bitmap.encode(&mut bytes);
            prop_assert_eq!(Bitmap::decode(&bytes), Ok(bitmap));
        }

        #[test]
        fn hostile_bytes_are_refused_or_understood(bytes in vec(0_u8..4, 0..600)) {
            let _ = Bitmap::decode(&bytes);
        }
    }

    #[test]
    fn what_is_written_in_order_takes_no_bits() {
        let mut bitmap = Bitmap::default();
        for block in 0..100 * PAGE {
            bitmap.insert(block..block + 1);
        }
        assert!(bitmap.pages.values().all(|page| *page == Page::Full));
        assert_eq!(bitmap.runs(0..u64::MAX, 2).0, vec![0..100 * PAGE]);
    }
}
