//! What a disk holds before it is protected: runs of some MiB here and there, about half of it compressible.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::formats::{Result, WritableImage};
use crate::units::{MIB, to_usize};

/// The length of a run in bytes: file systems scatter what they hold, but not page by page.
const RUN: u64 = 4 * MIB;
/// Random and repeated bytes alternate in pieces of this size.
const PIECE: usize = 4096;

/// Writes `data` bytes into `image`, in runs that are spread over it evenly.
///
/// # Errors
/// If the image cannot be written.
pub(super) fn fill(image: &mut WritableImage, data: u64, seed: u64) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut run = vec![0; to_usize(RUN)];
    let runs = data / RUN;
    let stride = image.size() / runs.max(1) / MIB * MIB;
    for number in 0..runs {
        for (piece, bytes) in run.chunks_mut(PIECE).enumerate() {
            if piece % 2 == 0 {
                random.fill_bytes(bytes);
            } else {
                bytes.fill(random.random());
            }
        }
        image.write_at(number * stride, &run)?;
    }
    image.flush()
}
