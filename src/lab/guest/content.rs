//! What a guest writes: drawn from a seed, never all zeroes, and compressible to about a half, as files mostly are.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Drawn bytes and repeated ones take turns in pieces of this length.
const PIECE: usize = 512;

pub(super) struct Content(SmallRng);

impl Content {
    pub(super) fn new(seed: u64) -> Self {
        Content(SmallRng::seed_from_u64(seed))
    }

    /// Fills `buffer`: one half drawn bytes, one half a byte again and again.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for pair in buffer.chunks_mut(2 * PIECE) {
            let (drawn, repeated) = pair.split_at_mut(pair.len() / 2);
            self.0.fill_bytes(drawn);
            repeated.fill(self.0.random_range(1..=u8::MAX));
        }
    }

    /// A number below `end`, which is not zero.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0.random_range(0..end.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_differs_from_record_to_record_and_compresses_by_half() {
        let mut content = Content::new(7);
        let mut records = vec![vec![0; 1 << 20]; 2];
        records.iter_mut().for_each(|record| content.fill(record));
        assert_ne!(records[0], records[1]);
        let packed = zstd::encode_all(records[0].as_slice(), 3).unwrap().len();
        let half = records[0].len() / 2;
        assert!((half..half + half / 10).contains(&packed), "{packed} bytes");
    }

    #[test]
    fn the_same_seed_gives_the_same_content() {
        let draw = |seed| {
            let mut record = [0; 1000];
            Content::new(seed).fill(&mut record);
            record
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
