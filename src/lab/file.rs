//! A file or folder of the lab that cannot be used, said in one way.

use std::io;
use std::path::{Path, PathBuf};

/// What could not be done to which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// For `map_err`: the action that failed, on which path.
pub(super) fn file_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> FileError + use<'a> {
    move |source| FileError {
        action,
        path: path.to_owned(),
        source,
    }
}
