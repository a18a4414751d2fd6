//! The file that a child process writes to, read from where this start of the child began.
//!
//! Reading is for people and for start-up messages: it takes the end, bounded, and never fails.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::lab::process::Error;
use crate::units::KIB;

/// How much of the end of a log is looked at; far more than any program says while it starts.
const READ_MAX: u64 = 64 * KIB;
/// How much of it an error shows.
const TAIL_LINES: usize = 20;

/// A log file and the place where the current start's output begins.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    /// Creates the file or goes on at its end.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let mut log = Log {
            path: path.to_owned(),
            start: 0,
        };
        let length = log.writer()?.metadata().map(|metadata| metadata.len());
        log.start = length.map_err(|source| log.error("measure", source))?;
        Ok(log)
    }

    /// A handle that appends; several do not overwrite each other.
    pub(super) fn writer(&self) -> Result<File, Error> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(|source| self.error("open", source))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last 64 KiB that this start wrote; empty if the file cannot be read.
    pub fn text(&self) -> String {
        self.read().unwrap_or_default()
    }

    /// The last lines that this start wrote, for an error message.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn read(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        let from = self.start.max(length.saturating_sub(READ_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(READ_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::Log {
            action,
            path: self.path.clone(),
            source,
        }
    }
}
