//! Why a replica cannot be looked at, compared or restored.

use std::io;
use std::path::PathBuf;

use crate::blob;
use crate::datapath;
use crate::formats;
use crate::ids::{DiskId, ReplicaId};
use crate::replica::{self, table::parts};
use crate::report::{Code, Fault};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Replica(Box<datapath::Error>),
    #[error("cannot {action}")]
    Storage {
        action: &'static str,
        source: Box<blob::Error>,
    },
    #[error("{object} cannot be understood")]
    Document {
        object: String,
        source: replica::Error,
    },
    #[error("container {container} has no replica.json: nothing was ever replicated into it")]
    NoManifest { container: String },
    #[error("{account} has no replica of {wanted}")]
    NoReplica { account: String, wanted: String },
    #[error("{account} has several replicas of {wanted}; name one by its id: {}", replicas.join(", "))]
    Ambiguous {
        account: String,
        wanted: String,
        replicas: Vec<String>,
    },
    #[error("replica {replica} has no recovery point yet")]
    NoPoints { replica: ReplicaId },
    #[error("replica {replica} has no recovery point {wanted}, or it was pruned meanwhile")]
    NoPoint { replica: ReplicaId, wanted: String },
    #[error("more than one recovery point of replica {replica} begins with {wanted}")]
    ManyPoints { replica: ReplicaId, wanted: String },
    #[error("the recovery point has no disk {wanted}; it has {}", disks.join(", "))]
    NoDisk { wanted: String, disks: Vec<String> },
    #[error(transparent)]
    Table(#[from] parts::Error),
    #[error("{blob} spans recovery point {point}: the chunk table of the point cannot be told")]
    Spanning { blob: String, point: String },
    #[error("the chunk table of disk {disk} at recovery point {point} is not there")]
    NoTable { disk: DiskId, point: String },
    #[error("recovery point {point} names a snapshot of disk {disk} that cannot be one")]
    Snapshot {
        disk: DiskId,
        point: String,
        source: blob::names::Invalid,
    },
    #[error("{blob} is not what the chunk table says at byte {offset}")]
    Differs { blob: String, offset: u64 },
    #[error("cannot keep a chunk table in a temporary file")]
    Spool { source: io::Error },
    #[error("cannot write the image")]
    Image { source: Box<formats::Error> },
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is there already", path.display())]
    Exists { path: PathBuf },
    #[error("{what} was cut short")]
    Aborted { what: &'static str },
}

impl Error {
    /// Whether storage has no such container, blob or snapshot.
    pub fn is_not_found(&self) -> bool {
        match self {
            Error::Replica(source) => source.is_not_found(),
            Error::Storage { source, .. } => source.is_not_found(),
            _ => false,
        }
    }

    pub fn code(&self) -> Code {
        match self {
            Error::Replica(source) => source.code(),
            Error::Storage { source, .. } => source.code(),
            Error::Document { source, .. } => source.code(),
            Error::NoManifest { .. } | Error::NoReplica { .. } => Code::StorageNotFound,
            Error::Ambiguous { .. }
            | Error::NoPoints { .. }
            | Error::NoPoint { .. }
            | Error::ManyPoints { .. }
            | Error::NoDisk { .. }
            | Error::Exists { .. } => Code::Configuration,
            Error::Table(_)
            | Error::Spanning { .. }
            | Error::NoTable { .. }
            | Error::Snapshot { .. }
            | Error::Differs { .. } => Code::ReplicaDamaged,
            Error::Image { source } => source.code(),
            Error::Spool { .. } | Error::File { .. } => Code::HostIo,
            Error::Aborted { .. } => Code::Internal,
        }
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }

    /// What makes an error of storage one of `action`.
    pub fn storage(action: &'static str) -> impl Fn(blob::Error) -> Error {
        move |source| Error::Storage {
            action,
            source: Box::new(source),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        error.fault()
    }
}

impl From<datapath::Error> for Error {
    fn from(source: datapath::Error) -> Self {
        Error::Replica(Box::new(source))
    }
}

impl From<formats::Error> for Error {
    fn from(source: formats::Error) -> Self {
        Error::Image {
            source: Box::new(source),
        }
    }
}
