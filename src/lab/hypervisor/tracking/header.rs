//! The first bytes of both kinds of tracking file: whose they are. Little-endian.
//!
//! ```text
//!  0  magic      8    `SRLABMAP` (changed blocks) or `SRLABINT` (intent)
//!  8  version    4
//! 12  unit       4    bytes of disk per bit
//! 16  tracking  16
//! 32  generation 8
//! 40  size       8    bytes of the disk
//! 48  BLAKE3    32    of the 48 bytes before
//! ```

use uuid::Uuid;

pub(crate) const HEADER: usize = 80;
const SUMMED: usize = 48;
const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) unit: u32,
    pub(crate) tracking: Uuid,
    pub(crate) generation: u64,
    pub(crate) size: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(&self.magic);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.unit.to_le_bytes());
        bytes[16..32].copy_from_slice(self.tracking.as_bytes());
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.size.to_le_bytes());
        let sum = blake3::hash(&bytes[..SUMMED]);
        bytes[SUMMED..].copy_from_slice(sum.as_bytes());
        bytes
    }

    /// Whether a file begins with this header.
    pub(crate) fn begins(&self, file: &[u8]) -> bool {
        file.starts_with(&self.encode())
    }
}
