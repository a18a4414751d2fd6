//! Why an engine cannot go on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::blob;
use crate::durable;
use crate::engine::phase;
use crate::host;
use crate::hrl;
use crate::ids::{DiskId, DiskSlot, ReplicaId};
use crate::replica;
use crate::replica::table::parts;
use crate::report::{Code, Fault};
use crate::retry::{Class, class};
use crate::units::{ByteRange, Bytes, Generation, Sequence};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Host(#[from] host::Error),
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
    #[error("{blob} in the place of replica {replica} is of replica {said}")]
    Foreign {
        replica: ReplicaId,
        blob: &'static str,
        said: ReplicaId,
    },
    #[error("the seal at sequence {sequence} of replica {replica} is refused")]
    Seal {
        replica: ReplicaId,
        sequence: Sequence,
        source: replica::Error,
    },
    #[error("replica {replica} has no replica.json")]
    NoManifest { replica: ReplicaId },
    #[error(
        "sequence {sequence} of replica {replica} does not follow the one before: a seal is missing"
    )]
    Gap {
        replica: ReplicaId,
        sequence: Sequence,
    },
    #[error("somebody else sealed sequence {sequence} of replica {replica}")]
    Superseded {
        replica: ReplicaId,
        sequence: Sequence,
    },
    #[error(
        "the present chain of replica {replica} takes no seals any more: a new one is about to begin"
    )]
    Closed { replica: ReplicaId },
    #[error("replica {replica} is commanded by generation {fence}, this agent's is {ours}")]
    Stale {
        replica: ReplicaId,
        fence: Generation,
        ours: Generation,
    },
    #[error("the active side of replica {replica} is Azure: nothing is replicated from here")]
    NotActive { replica: ReplicaId },
    #[error("cannot read a chunk table of replica {replica}")]
    Table {
        replica: ReplicaId,
        source: parts::Error,
    },
    #[error("cannot write a log of disk {disk}")]
    Log { disk: DiskId, source: hrl::Error },
    #[error("the captured log {} cannot be used", path.display())]
    Capture {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("volume {volume} has {} free, capturing stops below {}", Bytes(*free), Bytes(*least))]
    LowSpace {
        volume: String,
        free: u64,
        least: u64,
    },
    #[error("more than half of disk {slot}, which has {}, was written since the last barrier", Bytes(*size))]
    Overgrown {
        disk: DiskId,
        slot: DiskSlot,
        size: u64,
    },
    #[error("cannot keep what was captured in mind")]
    State(#[from] durable::Error),
    #[error(
        "what was frozen or captured was lost twice before it was sealed; the agent's log says what became of it"
    )]
    LostAgain,
    #[error("the engine is at fault")]
    Phase(#[from] phase::Rejected),
    #[error(
        "what the hypervisor says of {which} ranges of disk {disk} in {window} cannot be: {why}"
    )]
    Answer {
        disk: DiskId,
        which: &'static str,
        window: ByteRange,
        why: String,
    },
    #[error("a part of the engine ended unexpectedly while it {doing}")]
    Broken { doing: &'static str },
    #[error("stopped")]
    Stopped,
}

impl Error {
    pub fn code(&self) -> Code {
        match self {
            Error::Host(error) => error.code(),
            Error::Storage { source, .. } => source.code(),
            Error::Document { source, .. } => source.code(),
            Error::Foreign { .. } => Code::ForeignBlob,
            Error::Seal {
                source: replica::Error::TooNew { .. },
                ..
            } => Code::FormatTooNew,
            Error::Seal { .. } => Code::SealInvalid,
            Error::NoManifest { .. } => Code::StorageNotFound,
            Error::Gap { .. } => Code::SequenceGap,
            Error::Superseded { .. } | Error::Closed { .. } | Error::NotActive { .. } => {
                Code::Fenced
            }
            Error::Stale { .. } => Code::GenerationStale,
            Error::Table { .. } => Code::ReplicaDamaged,
            Error::Log { source, .. } => match source.code() {
                Code::HostDiskFull => Code::HostDiskFull,
                _ => Code::HostIo,
            },
            Error::Capture { .. } | Error::LostAgain => Code::HostIo,
            Error::LowSpace { .. } => Code::HostDiskFull,
            Error::Overgrown { .. } => Code::TooManyChanges,
            Error::State(_) => Code::HostIo,
            Error::Phase(_) | Error::Answer { .. } | Error::Broken { .. } | Error::Stopped => {
                Code::Internal
            }
        }
    }

    /// The same failure; if it is the hypervisor's and names no disk, of this one.
    #[must_use]
    pub fn of_disk(self, slot: &DiskSlot) -> Self {
        match self {
            Error::Host(error) if error.disk.is_none() => Error::Host(error.of_disk(slot)),
            other => other,
        }
    }

    /// Of which disks changes may have been missed: all, where that is not known of one; nothing, if this is about
    /// something else.
    pub fn lost(&self, disks: &BTreeMap<DiskId, DiskSlot>) -> Option<Vec<DiskId>> {
        if class(self.code()) != Class::ResyncRequired {
            return None;
        }
        let slot = match self {
            Error::Host(error) => error.disk.as_ref(),
            Error::Overgrown { disk, .. } => return Some(vec![disk.clone()]),
            _ => return None,
        };
        let named = disks.iter().filter(|(_, at)| Some(*at) == slot);
        let named: Vec<DiskId> = named.map(|(id, _)| id.clone()).collect();
        Some(if named.is_empty() {
            disks.keys().cloned().collect()
        } else {
            named
        })
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }

    /// The same as the reason of a comparison: what happened to which disk, not what was tried when it was found.
    pub fn reason(&self) -> Fault {
        match self {
            Error::Host(host::Error {
                disk: Some(disk),
                detail,
                ..
            }) => Fault::new(self.code(), format!("disk {disk}: {detail}")),
            other => other.fault(),
        }
    }
}
