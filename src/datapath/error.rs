//! Why a replica cannot be brought forward.

use crate::blob;
use crate::hrl;
use crate::ids::{DiskId, ReplicaId};
use crate::replica::names::{self, InboxBlob};
use crate::replica::{self, Digest, table::parts};
use crate::report::{Code, Fault};
use crate::units::Sequence;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} of replica {replica}")]
    Storage {
        action: &'static str,
        replica: ReplicaId,
        source: Box<blob::Error>,
    },
    #[error("replica {replica} cannot be understood")]
    Document {
        replica: ReplicaId,
        source: replica::Error,
    },
    #[error("the seal at sequence {sequence} of replica {replica} is refused")]
    Seal {
        replica: ReplicaId,
        sequence: Sequence,
        source: replica::Error,
    },
    #[error("log {log} of replica {replica} is refused: {why}")]
    Log {
        replica: ReplicaId,
        log: String,
        why: String,
    },
    #[error("log {log} of replica {replica} is refused")]
    LogFormat {
        replica: ReplicaId,
        log: String,
        source: hrl::Error,
    },
    #[error(
        "log {log} of replica {replica} is refused: its BLAKE3 is {found}, its seal says {expected}"
    )]
    LogHash {
        replica: ReplicaId,
        log: String,
        expected: Digest,
        found: Digest,
    },
    #[error(
        "sequence {sequence} of replica {replica} does not follow what was applied: a seal is missing"
    )]
    Gap {
        replica: ReplicaId,
        sequence: Sequence,
    },
    #[error(
        "the seal at sequence {sequence} of replica {replica} names disk {disk}, which fence.json does not know as one of machine {machine}"
    )]
    UnknownDisk {
        replica: ReplicaId,
        sequence: Sequence,
        disk: DiskId,
        /// The machine's name.
        machine: String,
    },
    #[error("cannot read a chunk table of replica {replica}")]
    Table {
        replica: ReplicaId,
        source: parts::Error,
    },
    #[error("{blob} of replica {replica} is gone, although {why}")]
    Lost {
        replica: ReplicaId,
        blob: String,
        why: &'static str,
    },
    #[error("another writer has taken over replica {replica}")]
    Fenced { replica: ReplicaId },
    #[error("{blob} of replica {replica} is not ours: {why}")]
    Foreign {
        replica: ReplicaId,
        blob: String,
        why: String,
    },
    #[error(
        "sequence {sequence} of replica {replica} says that disk {disk} shrank from {from} to {to} bytes, which a replica does not follow: make it as large as before, or exclude it, and ask for a resynchronization"
    )]
    Shrunk {
        replica: ReplicaId,
        sequence: Sequence,
        disk: DiskId,
        from: u64,
        to: u64,
    },
    #[error("{blob} was not copied from replica {replica}, the service says: {why}")]
    NotCopied {
        replica: ReplicaId,
        blob: String,
        why: String,
    },
    #[error("{what} of replica {replica} was cut short")]
    Aborted {
        what: &'static str,
        replica: ReplicaId,
    },
}

impl Error {
    /// Whether storage has no such container or blob.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Storage { source, .. } if source.is_not_found())
    }

    /// The sequence that nothing can be applied of, however often it is tried; what stands before it can.
    pub fn refused(&self) -> Option<Sequence> {
        match self {
            Error::Seal { sequence, .. }
            | Error::Gap { sequence, .. }
            | Error::UnknownDisk { sequence, .. }
            | Error::Shrunk { sequence, .. } => Some(*sequence),
            Error::Log { log, .. } | Error::LogFormat { log, .. } | Error::LogHash { log, .. } => {
                match names::inbox_blob(log) {
                    InboxBlob::Log(sequence, _) => Some(sequence),
                    InboxBlob::Seal(_) | InboxBlob::Foreign => None,
                }
            }
            Error::Storage { .. }
            | Error::Document { .. }
            | Error::Table { .. }
            | Error::Lost { .. }
            | Error::Fenced { .. }
            | Error::Foreign { .. }
            | Error::NotCopied { .. }
            | Error::Aborted { .. } => None,
        }
    }

    pub fn code(&self) -> Code {
        match self {
            Error::Storage { source, .. } => source.code(),
            Error::Document { source, .. } => source.code(),
            Error::Seal {
                source: replica::Error::TooNew { .. },
                ..
            } => Code::FormatTooNew,
            Error::Seal { .. }
            | Error::UnknownDisk { .. }
            | Error::Log { .. }
            | Error::LogFormat { .. }
            | Error::LogHash { .. } => Code::SealInvalid,
            Error::Gap { .. } => Code::SequenceGap,
            Error::Table { .. } | Error::Lost { .. } => Code::ReplicaDamaged,
            Error::Fenced { .. } => Code::Fenced,
            Error::Foreign { .. } => Code::ForeignBlob,
            Error::Shrunk { .. } => Code::Unsupported,
            Error::NotCopied { .. } => Code::StorageServerError,
            Error::Aborted { .. } => Code::StorageUnreachable,
        }
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }
}
