//! The checksum that goes with every body: CRC-64/NVME, little-endian, base64 (`x-ms-content-crc64`).
//!
//! MD5 is never sent: it costs several times as much and the service takes only one of the two.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Shorter bodies are summed where they are; for longer ones another thread is worth the way there.
const INLINE_MAX: usize = 4 << 20;

/// The header's value for `body`.
pub(crate) fn crc64(body: &[u8]) -> String {
    let mut digest = crc64fast_nvme::Digest::new();
    digest.write(body);
    STANDARD.encode(digest.sum64().to_le_bytes())
}

/// [`crc64`], without holding up the other tasks of this thread.
pub(crate) async fn crc64_of(body: &Bytes) -> String {
    if body.len() <= INLINE_MAX {
        return crc64(body);
    }
    let shared = body.clone();
    // It does not come back only when the runtime is being shut down.
    tokio::task::spawn_blocking(move || crc64(&shared))
        .await
        .unwrap_or_else(|_| crc64(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_check_value() {
        let sum = STANDARD.decode(crc64(b"123456789")).unwrap();
        assert_eq!(sum, 0xae8b_1486_0a79_9888_u64.to_le_bytes());
    }

    #[tokio::test]
    async fn a_long_body_has_the_same_checksum_on_another_thread() {
        let body = Bytes::from(vec![7; INLINE_MAX + 1]);
        assert_eq!(crc64_of(&body).await, crc64(&body));
    }
}
