//! CRC-32C (Castagnoli), the checksum of everything in a VHDX that has one.
//!
//! Structures are small (a log entry is at most half a megabyte in practice), so a table of 256 is fast enough.

/// The reflected polynomial 0x1EDC6F41.
const POLYNOMIAL: u32 = 0x82f6_3b78;

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut value = 0_u32;
    while value < 256 {
        let mut crc = value;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
            bit += 1;
        }
        table[value as usize] = crc;
        value += 1;
    }
    table
}

/// The CRC-32C of `bytes`, taking the four at `field`, where the checksum itself stands, as zero.
pub(crate) fn crc32c(bytes: &[u8], field: usize) -> u32 {
    let start = extend(u32::MAX, &bytes[..field]);
    let hole = extend(start, &[0; 4]);
    !extend(hole, &bytes[field + 4..])
}

fn extend(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ TABLE[usize::from(low ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_polynomial_comes_out() {
        assert_eq!(!extend(u32::MAX, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_field_of_the_checksum_does_not_count() {
        assert_eq!(
            crc32c(b"12\xff\xff\xff\xff789", 2),
            crc32c(b"12\x00\x00\x00\x00789", 2)
        );
    }
}
