//! An open file with its name: whole reads and writes, and errors that say which file and which byte.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::formats::error::{Error, Kind, Result};
use crate::formats::file::ImageFile;
use crate::units::{ByteRange, to_u64, to_usize};

/// A file with the name by which errors speak of it.
pub struct Source {
    path: PathBuf,
    file: Arc<dyn ImageFile>,
    /// A sync has failed. The system may have dropped what was to be written, and would call the next sync a success.
    lost: AtomicBool,
}

/// What an open file may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Operating systems count bytes of a file with 63 bits; asked for more, they complain of the argument.
const OFFSET_MAX: u64 = u64::MAX / 4;
/// The file's bytes that [`Source::write_zeroes`] writes with one call.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

impl Source {
    pub fn new(path: impl Into<PathBuf>, file: Arc<dyn ImageFile>) -> Self {
        Source {
            path: path.into(),
            file,
            lost: AtomicBool::new(false),
        }
    }

    /// Opens a regular file that is not empty. An image may name any path as its parent: opening a pipe would block, and
    /// so may reading what only looks like a file.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|e| Error::io(path, "open the file", e))?;
        if !metadata.is_file() {
            let detail = "it is not a regular file";
            return Err(Error::new(Kind::Unsupported, path, detail));
        }
        if metadata.len() == 0 {
            return Err(Error::new(Kind::Truncated, path, "it is empty"));
        }
        let file = File::options()
            .read(true)
            .write(access == Access::Write)
            .open(path)
            .map_err(|e| Error::io(path, "open the file", e))?;
        Ok(Source::new(path, Arc::new(file)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same name over what `wrap` makes of the file.
    pub(crate) fn wrapped(
        &self,
        wrap: impl FnOnce(Arc<dyn ImageFile>) -> Arc<dyn ImageFile>,
    ) -> Source {
        Source::new(&self.path, wrap(Arc::clone(&self.file)))
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.file
            .size()
            .map_err(|e| Error::io(&self.path, "find the file's size", e))
    }

    /// Fills `buffer` from `offset`; a file that ends before is truncated.
    pub(crate) fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        if offset > OFFSET_MAX {
            let detail = "the file ends before this byte, as every file does";
            return Err(Error::new(Kind::Truncated, &self.path, detail).at(offset));
        }
        while done < buffer.len() {
            let at = offset.saturating_add(to_u64(done));
            match self.file.read_at(at, &mut buffer[done..]) {
                Ok(0) => {
                    let missing = buffer.len() - done;
                    let detail = format!("the file ends here, {missing} more bytes were expected");
                    return Err(Error::new(Kind::Truncated, &self.path, detail).at(at));
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let action = format_args!("read {} bytes", buffer.len() - done);
                    return Err(Error::io(&self.path, action, error).at(at));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn read_array<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn write_all_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = offset.saturating_add(to_u64(done));
            let written = match self.file.write_at(at, &data[done..]) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                other => other,
            };
            let action = format_args!("write {} bytes", data.len() - done);
            done += written.map_err(|e| Error::io(&self.path, action, e).at(at))?;
        }
        Ok(())
    }

    pub(crate) fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        let range = ByteRange::at(offset, len).unwrap_or(ByteRange::to(0));
        // Cut at multiples, so that no sector is written in two parts, between which a crash could come.
        for piece in range.split_at_multiples(to_u64(ZEROES.len())) {
            self.write_all_at(piece.start(), &ZEROES[..to_usize(piece.len())])?;
        }
        Ok(())
    }

    pub(crate) fn resize(&self, size: u64) -> Result<()> {
        self.file
            .resize(size)
            .map_err(|e| Error::io(&self.path, format_args!("set the file's size to {size}"), e))
    }

    /// After the first failure all syncs fail: the file must be opened again, and be found as it then is.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.lost.load(Ordering::Acquire) {
            let detail = "an earlier sync failed: the image must be opened again";
            return Err(Error::new(Kind::Io, &self.path, detail));
        }
        self.file.sync().map_err(|e| {
            self.lost.store(true, Ordering::Release);
            Error::io(&self.path, "sync the file", e)
        })
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.path.display())
    }
}
