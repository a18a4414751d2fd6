//! Cylinders, heads and sectors: how a VHD footer tells its size to programs of another age.
//!
//! The appendix of the VHD specification, *CHS calculation*. Nothing of ours ever reads the result.

/// A disk's geometry, as near to its size as three small numbers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

/// The largest geometry there is: about 127.5 GiB; larger disks say this.
const SECTORS_MAX: u64 = 65_535 * 16 * 255;

impl Geometry {
    /// The geometry of a disk of `sectors` sectors of 512 bytes.
    pub(crate) fn of(sectors: u64) -> Self {
        let total = sectors.min(SECTORS_MAX);
        let (heads, per_track) = if total >= 65_535 * 16 * 63 {
            (16, 255)
        } else {
            small(total)
        };
        Geometry {
            cylinders: u16::try_from(total / per_track / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(u8::MAX),
            sectors: u8::try_from(per_track).unwrap_or(u8::MAX),
        }
    }

    pub(crate) fn encode(self) -> [u8; 4] {
        let [high, low] = self.cylinders.to_be_bytes();
        [high, low, self.heads, self.sectors]
    }
}

/// Heads and sectors per track of a disk below 31.5 GiB: the smallest of 17, 31 and 63 sectors that 1024 cylinders hold.
fn small(total: u64) -> (u64, u64) {
    let tracks = total / 17;
    let heads = tracks.div_ceil(1024).max(4);
    if tracks < heads * 1024 && heads <= 16 {
        return (heads, 17);
    }
    if total / 31 < 16 * 1024 {
        return (16, 31);
    }
    (16, 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sizes_get_the_geometry_that_other_programs_compute() {
        // Sectors and geometry of images that qemu-img 7.2 made.
        let cases = [
            (6_188, (91, 4, 17)),
            (81_940, (964, 5, 17)),
            (1_049_328, (1_041, 16, 63)),
            (8_389_584, (8_323, 16, 63)),
            (65_011_968, (64_496, 16, 63)),
            (67_111_920, (16_449, 16, 255)),
            (266_338_320, (65_279, 16, 255)),
            (17_177_772_032, (65_535, 16, 255)),
        ];
        for (total, (cylinders, heads, sectors)) in cases {
            let expected = Geometry {
                cylinders,
                heads,
                sectors,
            };
            assert_eq!(Geometry::of(total), expected, "{total}");
        }
    }
}
