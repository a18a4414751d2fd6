//! What can go wrong with an installed chart.

use std::io;
use std::path::PathBuf;

use crate::durable;
use crate::lab::file::FileError;
use crate::lab::{cluster, process};
use crate::report::Code;

/// A release that cannot be installed or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot keep a file of the release")]
    Record(#[source] Box<durable::Error>),
    #[error("cannot start Helm, to {action} a release")]
    Start {
        action: &'static str,
        source: io::Error,
    },
    #[error("Helm cannot {action} the release {release}: {said}")]
    Helm {
        action: &'static str,
        release: String,
        said: String,
    },
    #[error("cannot {action} {what} of the release {release}")]
    Ask {
        action: &'static str,
        what: String,
        release: String,
        source: Box<kube::Error>,
    },
    #[error("the release {release} has {number} Deployments instead of one")]
    Deployments { release: String, number: usize },
    #[error("the Deployment asks for {what}, which the lab does not do")]
    NotDone { what: String },
    #[error("the Deployment has no argument {flag}, for which the lab has an address of its own")]
    NoArgument { flag: &'static str },
    #[error("the path {} is no text", path.display())]
    Path { path: PathBuf },
    #[error("cannot use the cluster")]
    Cluster(#[from] cluster::Error),
    #[error("cannot run the controller")]
    Process(#[from] process::Error),
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Cluster(source) => source.code(),
            Error::Process(source) => source.code(),
            Error::File(_)
            | Error::Record(_)
            | Error::Start { .. }
            | Error::Helm { .. }
            | Error::Ask { .. }
            | Error::Path { .. } => Code::Configuration,
            Error::Deployments { .. } | Error::NotDone { .. } | Error::NoArgument { .. } => {
                Code::Internal
            }
        }
    }
}

/// For `map_err`: a file of ours that could not be kept.
pub(super) fn of_durable(source: durable::Error) -> Error {
    Error::Record(Box::new(source))
}
