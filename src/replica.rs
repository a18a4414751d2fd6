//! What stands in the storage account: its names, its documents, and the rules between them.
//!
//! ```text
//! <prefix>-s-<site>      owner.json                     which cluster acts for the site
//!                        vms/<namespace>/<name>.json    which replica an object has
//! <prefix>-i-<replica>   <sequence>/<log>.hrl           what the agent ships, create only
//!                        <sequence>/sealed.json         the commit mark, last
//! <prefix>-r-<replica>   fence.json                     who may command, which side is active, what the machine is
//!                        replica.json                   how far the data path is: heads, points, tables
//!                        trouble.json                   what keeps a data path of its own process from going on
//!                        disks/<disk>.vhd               page blobs; their snapshots are the recovery points
//!                        tables/<disk>/<sequence>-….chunks
//! ```
//! Data and pure rules only: no network, no clock. Each document has one writer and a format number; a higher number
//! than ours is refused, never guessed at. Every parser takes hostile bytes of bounded length.

pub mod document;
pub mod fence;
pub mod manifest;
pub mod names;
pub mod owner;
pub mod record;
pub mod retention;
pub mod seal;
pub mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use document::Error;

/// A BLAKE3 hash, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Digest(*hash.as_bytes())
    }
}

impl TryFrom<String> for Digest {
    type Error = blake3::HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(Digest(*blake3::Hash::from_hex(text)?.as_bytes()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
