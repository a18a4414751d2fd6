//! Why a log cannot be read or written.

use std::io;

use crate::report::Code;
use crate::units::ByteRange;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} the log at offset {offset}")]
    Io {
        action: &'static str,
        offset: u64,
        source: io::Error,
    },
    /// The log was never closed: its writer stopped in the middle. [`super::recover`] finds what is whole.
    #[error("the log was not closed (EOLLocation is 0)")]
    Open,
    #[error("not a replication log: {what}")]
    NotALog { what: &'static str },
    #[error("the log is damaged at offset {offset}: {what}, expected {expected}, found {found}")]
    Damaged {
        offset: u64,
        what: &'static str,
        expected: String,
        found: String,
    },
    #[error("the log has more than {limit} metadata blocks")]
    TooManyBlocks { limit: usize },
    #[error(
        "record {range} is outside of the disk of {size} bytes, or empty, or not in whole sectors of 512 bytes"
    )]
    Range { range: ByteRange, size: u64 },
}

impl Error {
    pub fn code(&self) -> Code {
        match self {
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Code::HostDiskFull
            }
            Error::Io { .. } => Code::HostIo,
            Error::Open
            | Error::NotALog { .. }
            | Error::Damaged { .. }
            | Error::TooManyBlocks { .. }
            | Error::Range { .. } => Code::SealInvalid,
        }
    }
}
