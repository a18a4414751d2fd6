//! What can keep a stage from being set.

use std::io;

use crate::lab::file::FileError;
use crate::lab::{authority, azurite, cluster, installed, process, tools};
use crate::report::Code;

/// A part that is not there or does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot {action} {what}")]
    Ask {
        action: &'static str,
        what: String,
        source: Box<kube::Error>,
    },
    #[error("kubectl {arguments} failed: {said}")]
    Kubectl { arguments: String, said: String },
    #[error("cannot listen for agents")]
    Service { source: io::Error },
    #[error("cannot obtain a program")]
    Tools(#[from] tools::Error),
    #[error("cannot use the cluster")]
    Cluster(#[from] cluster::Error),
    #[error("cannot use Azurite")]
    Azurite(#[from] azurite::Error),
    #[error("cannot use the chart")]
    Installed(#[from] installed::Error),
    #[error("cannot issue certificates")]
    Authority(#[from] authority::Error),
    #[error("cannot run a part of the site")]
    Process(#[from] process::Error),
    #[error("the hypervisor refuses")]
    Host(#[from] Box<crate::host::Error>),
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::File(_) | Error::Ask { .. } | Error::Kubectl { .. } | Error::Service { .. } => {
                Code::Configuration
            }
            Error::Tools(source) => source.code(),
            Error::Cluster(source) => source.code(),
            Error::Azurite(source) => source.code(),
            Error::Installed(source) => source.code(),
            Error::Authority(source) => source.code(),
            Error::Process(source) => source.code(),
            Error::Host(source) => source.code(),
        }
    }
}

/// For `map_err`: what the API server refused.
pub(super) fn ask_error<'a>(
    action: &'static str,
    what: &'a str,
) -> impl FnOnce(kube::Error) -> Error + use<'a> {
    move |source| Error::Ask {
        action,
        what: what.to_owned(),
        source: Box::new(source),
    }
}
