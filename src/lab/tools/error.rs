//! Why a program could not be obtained, in words that say what to install or to correct.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::lab::file::FileError;
use crate::lab::process;
use crate::report::Code;

/// A program that the lab needs and cannot get.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no folder for a cache: set SITE_RECOVERY_CACHE or HOME to an absolute path")]
    NoCache,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{command}` is not on PATH: {remedy}")]
    Missing {
        command: String,
        remedy: &'static str,
    },
    #[error("`{command}` cannot be used ({said}): {remedy}")]
    TooOld {
        command: &'static str,
        said: String,
        remedy: &'static str,
    },
    #[error("cannot run `{command}`")]
    Run {
        command: String,
        source: process::Error,
    },
    #[error("`{command}` failed with {status}, its last lines: {tail}")]
    Failed {
        command: String,
        status: ExitStatus,
        tail: String,
    },
    #[error("`{command}` was ended after {} minutes, its last lines: {tail}", limit.as_secs() / 60)]
    TooLong {
        command: String,
        limit: Duration,
        tail: String,
    },
    #[error("`{command}` should name version {expected} and says: {said}")]
    WrongVersion {
        command: String,
        expected: &'static str,
        said: String,
    },
    #[error("{what} ended well but left no {}", path.display())]
    Incomplete { what: String, path: PathBuf },
    #[error("{variable} is set to {}, which has no {missing}", folder.display())]
    Assets {
        variable: &'static str,
        folder: PathBuf,
        missing: &'static str,
    },
    #[error("missing on this machine; as root, run: apt-get install {packages}")]
    Packages { packages: String },
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::NoCache
            | Error::File(_)
            | Error::Missing { .. }
            | Error::TooOld { .. }
            | Error::Failed { .. }
            | Error::TooLong { .. }
            | Error::Assets { .. }
            | Error::Packages { .. } => Code::Configuration,
            Error::Run { source, .. } => source.code(),
            Error::WrongVersion { .. } | Error::Incomplete { .. } => Code::Internal,
        }
    }
}
