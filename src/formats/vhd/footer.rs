//! The VHD footer: the last 512 bytes of every VHD, and a copy of them at the start of those with a table of blocks.
//!
//! ```text
//!  0 `conectix`        24 seconds since 2000   48 current size    68 unique id
//!  8 features          28 creator application  56 geometry        84 saved state
//! 12 version           32 creator version      60 disk type       85 zeroes to 512
//! 16 data offset       36 creator host         64 checksum
//!                      40 original size
//! ```
//! Big-endian. The checksum is the complement of the sum of all bytes, its own taken as zero. The disk's size is the
//! current size; the geometry is only what old programs would show.

use jiff::Timestamp;
use uuid::Uuid;

use crate::formats::bytes::{field, put};
use crate::formats::error::{Flaw, Kind, Parsed};
use crate::formats::vhd::geometry::Geometry;
use crate::units::to_u64;

/// Bytes in a footer.
pub(crate) const FOOTER_SIZE: usize = 512;
pub(crate) const COOKIE: [u8; 8] = *b"conectix";
/// The data offset of a disk without a dynamic header, and of the dynamic header itself.
pub(crate) const NO_OFFSET: u64 = u64::MAX;
/// The bit of the features that is always set.
const FEATURES: u32 = 2;
const VERSION: u32 = 0x0001_0000;
/// Hyper-V's own marks. Readers that believe the geometry of some creators take the current size for this one.
const CREATOR: [u8; 4] = *b"win ";
const CREATOR_VERSION: u32 = 0x000a_0000;
const CREATOR_HOST: [u8; 4] = *b"Wi2k";
/// 2000-01-01T00:00:00Z.
const EPOCH: i64 = 946_684_800;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskType {
    Fixed = 2,
    Dynamic = 3,
    Differencing = 4,
}

/// What a reader needs of a footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) disk_type: DiskType,
    /// Where the dynamic header is.
    pub(crate) data_offset: u64,
    /// Seconds since 2000.
    pub(crate) timestamp: u32,
    /// Bytes of disk.
    pub(crate) size: u64,
    pub(crate) identifier: Uuid,
}

impl Footer {
    pub(crate) fn new(
        disk_type: DiskType,
        size: u64,
        identifier: Uuid,
        created: Timestamp,
    ) -> Self {
        Footer {
            disk_type,
            data_offset: match disk_type {
                DiskType::Fixed => NO_OFFSET,
                DiskType::Dynamic | DiskType::Differencing => to_u64(FOOTER_SIZE),
            },
            timestamp: seconds_since_2000(created),
            size,
            identifier,
        }
    }

    /// # Errors
    /// If the bytes are no footer of version 1, or of a type that has no content here.
    pub(crate) fn parse(bytes: &[u8; FOOTER_SIZE]) -> Parsed<Self> {
        if field::<8>(bytes, 0) != COOKIE {
            return Err(Flaw::corrupt(
                0,
                "this is no VHD footer: it lacks `conectix`",
            ));
        }
        check_sum(bytes, 64, "VHD footer")?;
        let version = u32::from_be_bytes(field(bytes, 12));
        if version >> 16 != VERSION >> 16 {
            let detail = format!("VHD version is {version:#010x}, expected {VERSION:#010x}");
            return Err(Flaw::new(Kind::Unsupported, 12, detail));
        }
        let disk_type = match u32::from_be_bytes(field(bytes, 60)) {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => {
                let detail = format!("VHD disk type is {other}, expected 2, 3 or 4");
                return Err(Flaw::new(Kind::Unsupported, 60, detail));
            }
        };
        let size = u64::from_be_bytes(field(bytes, 48));
        if size == 0 || !size.is_multiple_of(512) {
            let detail = format!("disk size is {size}, expected a multiple of 512 above zero");
            return Err(Flaw::corrupt(48, detail));
        }
        Ok(Footer {
            disk_type,
            data_offset: u64::from_be_bytes(field(bytes, 16)),
            timestamp: u32::from_be_bytes(field(bytes, 24)),
            size,
            identifier: Uuid::from_bytes(field(bytes, 68)),
        })
    }

    pub(crate) fn is_differencing(&self) -> bool {
        self.disk_type == DiskType::Differencing
    }

    pub(crate) fn encode(&self) -> [u8; FOOTER_SIZE] {
        let mut bytes = [0; FOOTER_SIZE];
        put(&mut bytes, 0, &COOKIE);
        put(&mut bytes, 8, &FEATURES.to_be_bytes());
        put(&mut bytes, 12, &VERSION.to_be_bytes());
        put(&mut bytes, 16, &self.data_offset.to_be_bytes());
        put(&mut bytes, 24, &self.timestamp.to_be_bytes());
        put(&mut bytes, 28, &CREATOR);
        put(&mut bytes, 32, &CREATOR_VERSION.to_be_bytes());
        put(&mut bytes, 36, &CREATOR_HOST);
        put(&mut bytes, 40, &self.size.to_be_bytes());
        put(&mut bytes, 48, &self.size.to_be_bytes());
        put(&mut bytes, 56, &Geometry::of(self.size / 512).encode());
        put(&mut bytes, 60, &(self.disk_type as u32).to_be_bytes());
        put(&mut bytes, 68, self.identifier.as_bytes());
        let sum = checksum(&bytes, 64);
        put(&mut bytes, 64, &sum.to_be_bytes());
        bytes
    }
}

/// Seconds since 2000 as VHD counts them; times that it cannot say are its first or last second.
pub(crate) fn seconds_since_2000(time: Timestamp) -> u32 {
    let seconds = time.as_second().saturating_sub(EPOCH);
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// The complement of the sum of all bytes, taking the four at `field` as zero.
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(&bytes[..field]) + sum(&bytes[field + 4..]))
}

/// # Errors
/// If the checksum at `at` of `bytes` does not match.
pub(crate) fn check_sum(bytes: &[u8], at: usize, what: &str) -> Parsed<()> {
    let (found, expected) = (u32::from_be_bytes(field(bytes, at)), checksum(bytes, at));
    if found == expected {
        return Ok(());
    }
    let detail = format!("checksum of the {what} is {found:#010x}, expected {expected:#010x}");
    Err(Flaw::new(Kind::Checksum, to_u64(at), detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        let created = "2024-05-06T07:08:09Z".parse().unwrap();
        Footer::new(DiskType::Fixed, 64 << 20, Uuid::from_u128(0x0102), created)
    }

    #[test]
    fn a_footer_comes_back_as_it_was_written() {
        assert_eq!(Footer::parse(&footer().encode()).unwrap(), footer());
    }

    #[test]
    fn the_fields_stand_where_the_specification_puts_them() {
        let bytes = footer().encode();
        assert_eq!(bytes[..16], *b"conectix\0\0\0\x02\0\x01\0\0");
        assert_eq!(bytes[16..24], [0xff; 8]);
        assert_eq!(bytes[24..28], 768_294_489_u32.to_be_bytes());
        assert_eq!(bytes[28..40], *b"win \0\x0a\0\0Wi2k");
        assert_eq!(bytes[40..56], [[0, 0, 0, 0, 4, 0, 0, 0]; 2].concat()[..]);
        assert_eq!(bytes[60..64], [0, 0, 0, 2]);
        assert_eq!(bytes[82..], [[1, 2].as_slice(), &[0; 428]].concat()[..]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = footer().encode();
        for bit in 0..8 * FOOTER_SIZE {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn times_outside_the_format_are_its_ends() {
        assert_eq!(
            seconds_since_2000("1999-12-31T23:59:59Z".parse().unwrap()),
            0
        );
        assert_eq!(
            seconds_since_2000("2000-01-01T00:00:01Z".parse().unwrap()),
            1
        );
        assert_eq!(
            seconds_since_2000("2200-01-01T00:00:00Z".parse().unwrap()),
            u32::MAX
        );
    }
}
