//! What can go wrong with a cluster of the lab.

use std::path::PathBuf;

use crate::durable;
use crate::lab::file::FileError;
use crate::lab::process;
use crate::report::Code;

/// A cluster that does not start, or cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot keep the cluster's own files")]
    Record(#[source] Box<durable::Error>),
    #[error("cannot run the cluster")]
    Process(#[from] process::Error),
    #[error("cannot make the cluster's {what}")]
    Key {
        what: &'static str,
        source: rcgen::Error,
    },
    #[error("cannot write the kubeconfig {}", path.display())]
    WriteKubeconfig {
        path: PathBuf,
        source: serde_yaml::Error,
    },
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        path: PathBuf,
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("cannot make a client from {}", path.display())]
    Client {
        path: PathBuf,
        source: Box<kube::Error>,
    },
    #[error("cannot get a token of the ServiceAccount {namespace}/{name}")]
    Token {
        namespace: String,
        name: String,
        source: Box<kube::Error>,
    },
    #[error("the API server granted the ServiceAccount {namespace}/{name} no token")]
    NoToken { namespace: String, name: String },
    #[error("{} is no audit log at offset {offset}", path.display())]
    Audit {
        path: PathBuf,
        offset: u64,
        source: serde_json::Error,
    },
    #[error("{} is {length} bytes long and was {mark} before: it was cut or replaced", path.display())]
    AuditCut {
        path: PathBuf,
        length: u64,
        mark: u64,
    },
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Process(source) => source.code(),
            Error::File(_)
            | Error::Record(_)
            | Error::WriteKubeconfig { .. }
            | Error::Kubeconfig { .. }
            | Error::Token { .. } => Code::Configuration,
            Error::Key { .. }
            | Error::Client { .. }
            | Error::NoToken { .. }
            | Error::Audit { .. }
            | Error::AuditCut { .. } => Code::Internal,
        }
    }
}

/// For `map_err`: a file of ours that could not be kept.
pub(super) fn of_durable(source: durable::Error) -> Error {
    Error::Record(Box::new(source))
}
