//! What can be wrong with an image, in the kinds that callers act on.
//!
//! An [`Error`] names the file, the byte, what was found and what was expected; the operating system's own words, or
//! what was wrong with a parent, follow as its source. Parsers do not know files: they return a [`Flaw`], which becomes
//! an error where the file is known.

use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};

use crate::report::Code;

pub type Result<T> = std::result::Result<T, Error>;

/// What callers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such file.
    NotFound,
    /// The operating system does not let us read or write the file.
    Denied,
    /// The volume is full.
    DiskFull,
    /// Any other failure of the operating system.
    Io,
    /// The file ends before what it says that it holds.
    Truncated,
    /// A checksum does not match.
    Checksum,
    /// A structure is not what its specification allows.
    Corrupt,
    /// A valid image, or a request, that this implementation does not serve.
    Unsupported,
    /// A parent is missing, is not the one that the child was made from, or is its own child.
    BrokenChain,
    /// A valid structure beyond the bounds that are kept for memory's and time's sake.
    TooLarge,
    /// The caller asked for bytes outside the disk, or to write what is open for reading.
    OutOfBounds,
}

/// A failed operation on an image file.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {detail}", path.display(), Place(*offset))]
pub struct Error {
    kind: Kind,
    path: PathBuf,
    offset: Option<u64>,
    detail: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The byte that an error is about, where there is one.
struct Place(Option<u64>);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |offset| write!(f, " at byte {offset}"))
    }
}

impl Error {
    pub(crate) fn new(kind: Kind, path: &Path, detail: impl Into<String>) -> Self {
        Error {
            kind,
            path: path.to_owned(),
            offset: None,
            detail: detail.into(),
            source: None,
        }
    }

    /// A call to the operating system that failed; `action` is what was tried: `read 512 bytes`.
    pub(crate) fn io(path: &Path, action: impl Display, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename => Kind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::DiskFull,
            _ => Kind::Io,
        };
        Error::new(kind, path, format!("cannot {action}")).caused_by(source)
    }

    #[must_use]
    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    #[must_use]
    pub(crate) fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The file that could not be used.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The byte of the file (of the disk, for [`Kind::OutOfBounds`]) that the error is about.
    pub const fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// What is wrong, without the file and the byte.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub const fn code(&self) -> Code {
        match self.kind {
            Kind::NotFound | Kind::Io => Code::HostIo,
            Kind::Denied => Code::HostAuthorization,
            Kind::DiskFull => Code::HostDiskFull,
            Kind::Truncated | Kind::Checksum | Kind::Corrupt | Kind::TooLarge => Code::DiskFormat,
            Kind::Unsupported => Code::Unsupported,
            Kind::BrokenChain => Code::BrokenDiskChain,
            Kind::OutOfBounds => Code::Internal,
        }
    }
}

/// What a parser returns.
pub(crate) type Parsed<T> = std::result::Result<T, Flaw>;

/// What a parser found wrong in the bytes that it was given.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) kind: Kind,
    /// Counted from the start of the parsed structure.
    pub(crate) offset: u64,
    pub(crate) detail: String,
}

impl Flaw {
    pub(crate) fn new(kind: Kind, offset: u64, detail: impl Into<String>) -> Self {
        Flaw {
            kind,
            offset,
            detail: detail.into(),
        }
    }

    pub(crate) fn corrupt(offset: u64, detail: impl Into<String>) -> Self {
        Flaw::new(Kind::Corrupt, offset, detail)
    }

    /// The error that this flaw is in the file `path`, where the structure starts at `base`.
    pub(crate) fn within(self, path: &Path, base: u64) -> Error {
        Error::new(self.kind, path, self.detail).at(base.saturating_add(self.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chain;

    #[test]
    fn an_error_names_file_byte_and_what_was_tried_and_leaves_the_rest_to_its_source() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::io(Path::new("a.vhdx"), "write 512 bytes", full).at(1024);
        assert_eq!(error.kind(), Kind::DiskFull);
        assert_eq!(error.code(), Code::HostDiskFull);
        assert_eq!(
            error.to_string(),
            "a.vhdx at byte 1024: cannot write 512 bytes"
        );
        assert_eq!(
            chain(&error),
            "a.vhdx at byte 1024: cannot write 512 bytes: no storage space"
        );
    }

    #[test]
    fn a_flaw_is_placed_by_the_start_of_its_structure() {
        let flaw = Flaw::corrupt(8, "entry count is 9000, expected at most 2047");
        let error = flaw.within(Path::new("a.vhdx"), 196_608);
        assert_eq!(error.offset(), Some(196_616));
        assert_eq!(error.code(), Code::DiskFormat);
    }
}
