//! From a captured log to what is stored of it: hashed as it was captured, compressed if that gains anything.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use uuid::Uuid;
use zstd::bulk::Compressor;

use crate::buffers::Buffer;
use crate::ids::DiskId;
use crate::replica::Digest;
use crate::replica::seal::{DiskCursor, Encoding, Kind, SealedLog};
use crate::units::{ByteRange, KIB, to_u64, to_usize};

/// Fast enough not to be what limits a copy; higher levels gain a few percent on disk content.
const LEVEL: i32 = 1;
/// As much of a log tells whether the rest is worth compressing.
const SAMPLE: usize = to_usize(128 * KIB);

thread_local! {
    /// Its memory is cleared by the kernel only once, and goes with the thread when there is nothing to pack.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// A finished log in memory.
#[derive(Debug)]
pub struct RawLog {
    pub disk: DiskId,
    /// Bytes of the disk.
    pub size: u64,
    pub kind: Kind,
    /// Where the disk stands once this log is sealed.
    pub cursor: DiskCursor,
    /// All records lie in here.
    pub range: ByteRange,
    pub log: Uuid,
    pub bytes: Buffer,
}

/// A log as it is stored, and what its seal says of it.
#[derive(Debug)]
pub struct Packed {
    pub sealed: SealedLog,
    pub body: Bytes,
}

/// Packs a log; it takes milliseconds of a core.
pub fn pack(log: Uuid, range: ByteRange, bytes: Buffer, compress: bool) -> Packed {
    let captured = bytes.as_ref();
    let length = to_u64(captured.len());
    let blake3 = Digest::of(captured);
    let compressed = if compress && is_compressible(captured) {
        compressed_of(captured)
    } else {
        None
    };
    let (encoding, body) = match compressed {
        Some(smaller) => (Encoding::Zstd, smaller),
        None => (Encoding::Identity, bytes),
    };
    let body = body.freeze();
    let stored = to_u64(body.len());
    Packed {
        sealed: SealedLog {
            log,
            range,
            encoding,
            stored,
            length,
            blake3,
        },
        body,
    }
}

/// Whether samples of the log shrink by at least a sixteenth: one from its middle, which is data, not the log's header.
fn is_compressible(bytes: &[u8]) -> bool {
    let middle = bytes.len() / 2;
    let sample = &bytes[middle..bytes.len().min(middle + SAMPLE)];
    let packed = compressed_of(sample);
    packed.is_some_and(|packed| packed.as_ref().len() < sample.len() - sample.len() / 16)
}

/// `bytes` compressed, if that makes them shorter.
fn compressed_of(bytes: &[u8]) -> Option<Buffer> {
    let mut into = Buffer::with_capacity(bytes.len());
    COMPRESSOR
        .with_borrow_mut(|kept| {
            let mut compressor = match kept.take() {
                Some(compressor) => compressor,
                None => Compressor::new(LEVEL)?,
            };
            compressor.compress_to_buffer(bytes, into.bytes())?;
            *kept = Some(compressor);
            io::Result::Ok(())
        })
        .ok()?;
    (into.bytes().len() < bytes.len()).then_some(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: Vec<u8>) -> Packed {
        pack(Uuid::nil(), ByteRange::to(1), Buffer::from(bytes), true)
    }

    #[test]
    fn what_compresses_is_compressed_and_named_by_what_was_captured() {
        let bytes = b"replication ".repeat(100_000);
        let packed = packed(bytes.clone());
        assert_eq!(packed.sealed.encoding, Encoding::Zstd);
        assert_eq!(packed.sealed.blake3, Digest::of(&bytes));
        assert_eq!(
            zstd::bulk::decompress(&packed.body, bytes.len()).unwrap(),
            bytes
        );
    }

    #[test]
    fn what_does_not_compress_is_stored_as_it_is() {
        let mut bytes = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let packed = packed(bytes.clone());
        assert_eq!(
            (packed.sealed.encoding, packed.body),
            (Encoding::Identity, Bytes::from(bytes))
        );
    }

    #[test]
    fn an_empty_log_is_packed_too() {
        assert_eq!(packed(Vec::new()).sealed.length, 0);
    }
}
