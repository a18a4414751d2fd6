//! What is written to a disk: bytes, or a length of zeroes that nobody has to hold in memory.

use crate::formats::error::Result;
use crate::formats::source::Source;
use crate::units::{to_u64, to_usize};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    Zeroes(u64),
}

impl<'a> Payload<'a> {
    pub(crate) const fn len(self) -> u64 {
        match self {
            Payload::Bytes(bytes) => to_u64(bytes.len()),
            Payload::Zeroes(len) => len,
        }
    }

    pub(crate) const fn is_zeroes(self) -> bool {
        matches!(self, Payload::Zeroes(_))
    }

    /// The `len` bytes from `start` of the payload on.
    pub(crate) fn part(self, start: u64, len: u64) -> Payload<'a> {
        match self {
            Payload::Bytes(bytes) => Payload::Bytes(&bytes[to_usize(start)..to_usize(start + len)]),
            Payload::Zeroes(_) => Payload::Zeroes(len),
        }
    }

    /// Cuts the payload, which starts at `offset` of the disk, at the boundaries of blocks of `size` bytes: the block's
    /// number, where in the block, and what.
    pub(crate) fn by_block(
        self,
        offset: u64,
        size: u64,
    ) -> impl Iterator<Item = (u64, u64, Payload<'a>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done;
            let within = at % size;
            let len = (self.len() - done).min(size - within);
            let piece = self.part(done, len);
            done += len;
            (len > 0).then_some((at / size, within, piece))
        })
    }

    pub(crate) fn write_to(self, source: &Source, offset: u64) -> Result<()> {
        match self {
            Payload::Bytes(bytes) => source.write_all_at(offset, bytes),
            Payload::Zeroes(len) => source.write_zeroes(offset, len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_block_boundaries_and_are_the_whole() {
        let bytes: Vec<u8> = (0..10).collect();
        let pieces: Vec<_> = Payload::Bytes(&bytes)
            .by_block(6, 4)
            .map(|(block, within, piece)| match piece {
                Payload::Bytes(bytes) => (block, within, bytes.to_vec()),
                Payload::Zeroes(_) => panic!("bytes stay bytes"),
            })
            .collect();
        let expected = [
            (1, 2, vec![0, 1]),
            (2, 0, vec![2, 3, 4, 5]),
            (3, 0, vec![6, 7, 8, 9]),
        ];
        assert_eq!(pieces, expected);
        let zeroes = Payload::Zeroes(5).by_block(3, 4);
        let lengths: Vec<_> = zeroes
            .map(|(block, _, piece)| (block, piece.len()))
            .collect();
        assert_eq!(lengths, [(0, 1), (1, 4)]);
    }
}
