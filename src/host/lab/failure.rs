//! A failure as it crosses the socket, and the kinds that an image's errors become.

use serde::{Deserialize, Serialize};

use crate::formats;
use crate::host::{Error, Kind};
use crate::ids::DiskSlot;
use crate::report;

/// What went wrong, in the hypervisor's words; what was tried, and on which machine, the caller knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    pub disk: Option<DiskSlot>,
    pub detail: String,
}

impl Failure {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Failure {
            kind,
            disk: None,
            detail: detail.into(),
        }
    }

    /// The error of whoever tried `operation`.
    pub fn of(self, operation: &'static str) -> Error {
        let error = Error::new(self.kind, operation, self.detail);
        match &self.disk {
            Some(disk) => error.of_disk(disk),
            None => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure {
            kind: error.kind,
            disk: error.disk,
            detail: error.detail,
        }
    }
}

/// The error of an operation that an image's error ended.
pub fn of_image(operation: &'static str, error: &formats::Error) -> Error {
    let kind = match error.kind() {
        formats::Kind::NotFound | formats::Kind::Io => Kind::Io,
        formats::Kind::Denied => Kind::Unauthorized,
        formats::Kind::DiskFull => Kind::DiskFull,
        formats::Kind::Truncated
        | formats::Kind::Checksum
        | formats::Kind::Corrupt
        | formats::Kind::TooLarge => Kind::DiskFormat,
        formats::Kind::Unsupported => Kind::Unsupported,
        formats::Kind::BrokenChain => Kind::BrokenChain,
        formats::Kind::OutOfBounds => Kind::Internal,
    };
    Error::new(kind, operation, report::chain(error))
}
