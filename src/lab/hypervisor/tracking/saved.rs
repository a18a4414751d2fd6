//! The file of a generation's changed blocks, written when nothing changes them any more: `<tracking>-<generation>.map`.
//!
//! ```text
//! header (80 bytes) · encoded bitmap · BLAKE3 of all before
//! ```
//! Written whole and replaced as a whole; one that cannot be believed is an error, never an empty set.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use crate::durable;
use crate::lab::hypervisor::tracking::bitmap::Bitmap;
use crate::lab::hypervisor::tracking::header::{HEADER, Header};
use crate::lab::hypervisor::tracking::{BLOCK, Error};
use crate::units::to_u64;

pub(crate) const MAGIC: [u8; 8] = *b"SRLABMAP";
const SUM: usize = 32;

/// Writes the changed blocks of a generation, durably.
pub(crate) fn write(path: &Path, header: &Header, blocks: &Bitmap) -> Result<(), Error> {
    let mut content = header.encode().to_vec();
    blocks.encode(&mut content);
    let sum = blake3::hash(&content);
    content.extend(sum.as_bytes());
    durable::write(path, &content).map_err(Error::Durable)
}

/// Reads the changed blocks of a generation; nothing if there is no such file.
pub(crate) fn read(path: &Path, header: &Header) -> Result<Option<Bitmap>, Error> {
    let cannot = |source: io::Error| Error::Read {
        path: path.to_owned(),
        source,
    };
    let damaged = |what| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    if !fs::exists(path).map_err(cannot)? {
        return Ok(None);
    }
    let blocks = header.size.div_ceil(BLOCK);
    let longest = Bitmap::encoded_max(blocks).saturating_add(to_u64(HEADER + SUM));
    let mut content = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    let file = file.take(longest.saturating_add(1));
    { file }.read_to_end(&mut content).map_err(cannot)?;
    if to_u64(content.len()) > longest {
        return Err(damaged("it is longer than all blocks of the disk take"));
    }
    let Some((body, sum)) = content.split_last_chunk::<SUM>() else {
        return Err(damaged("it has no checksum"));
    };
    if blake3::hash(body).as_bytes() != sum {
        return Err(damaged("its checksum does not match"));
    }
    if !header.begins(body) {
        return Err(damaged("it is of another disk or generation"));
    }
    let bitmap = Bitmap::decode(&body[HEADER..]);
    bitmap
        .map(Some)
        .map_err(|_| damaged("its pages make no sense"))
}
