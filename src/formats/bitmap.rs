//! Bits of sector bitmaps: runs of equal ones, and ranges set at once.
//!
//! The two formats count bits in opposite directions inside a byte; everything else is the same.

/// Which bit of a byte stands for the first of its eight sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitOrder {
    /// Bit 0 (VHDX).
    LeastFirst,
    /// Bit 7 (VHD).
    MostFirst,
}

impl BitOrder {
    fn mask(self, bit: usize) -> u8 {
        match self {
            BitOrder::LeastFirst => 1 << (bit % 8),
            BitOrder::MostFirst => 0x80 >> (bit % 8),
        }
    }

    fn get(self, bytes: &[u8], bit: usize) -> bool {
        bytes[bit / 8] & self.mask(bit) != 0
    }

    /// The value of bit `from`, and how many bits before `to` have it in one run. `from < to <= 8 * bytes.len()`.
    pub(crate) fn run(self, bytes: &[u8], from: usize, to: usize) -> (bool, usize) {
        let value = self.get(bytes, from);
        let whole = if value { 0xff } else { 0x00 };
        let mut bit = from + 1;
        while bit < to {
            if bit.is_multiple_of(8) && bytes[bit / 8] == whole {
                bit += 8;
            } else if self.get(bytes, bit) == value {
                bit += 1;
            } else {
                break;
            }
        }
        (value, bit.min(to) - from)
    }

    /// Gives all bits from `from` to before `to` the same value.
    pub(crate) fn fill(self, bytes: &mut [u8], from: usize, to: usize, value: bool) {
        let mut bit = from;
        while bit < to {
            if bit.is_multiple_of(8) && to - bit >= 8 {
                let last = bit / 8 + (to - bit) / 8;
                bytes[bit / 8..last].fill(if value { 0xff } else { 0x00 });
                bit = last * 8;
                continue;
            }
            let mask = self.mask(bit);
            if value {
                bytes[bit / 8] |= mask;
            } else {
                bytes[bit / 8] &= !mask;
            }
            bit += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sector_is_the_lowest_bit_in_vhdx_and_the_highest_in_vhd() {
        let mut bytes = [0; 2];
        BitOrder::LeastFirst.fill(&mut bytes, 0, 1, true);
        BitOrder::MostFirst.fill(&mut bytes, 8, 9, true);
        assert_eq!(bytes, [0x01, 0x80]);
    }

    #[test]
    fn runs_and_fills_agree_with_a_list_of_bools_in_both_orders() {
        for order in [BitOrder::LeastFirst, BitOrder::MostFirst] {
            let mut bytes = [0; 6];
            let mut model = [false; 48];
            for (from, to, value) in [
                (0, 48, true),
                (5, 29, false),
                (8, 17, true),
                (40, 41, false),
            ] {
                order.fill(&mut bytes, from, to, value);
                model[from..to].fill(value);
                for start in 0..48 {
                    for end in start + 1..=48 {
                        let same = model[start..end].iter().take_while(|&&b| b == model[start]);
                        let expected = (model[start], same.count());
                        assert_eq!(order.run(&bytes, start, end), expected, "{start}..{end}");
                    }
                }
            }
        }
    }
}
