//! The file below an image: positional reads and writes, no cursor, and nothing that knows a format.
//!
//! In production it is a [`std::fs::File`]; tests put memory there, or a disk that loses what was not synced.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::formats::error::{Error, Kind, Result};
use crate::units::{ByteRange, to_u64, to_usize};

/// What an image needs of a file. Several threads may call any of it at once.
pub trait ImageFile: Send + Sync {
    /// Bytes in the file.
    ///
    /// # Errors
    /// If the operating system does not tell.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes from `offset`; zero only at or behind the end.
    ///
    /// # Errors
    /// If the read fails; how much of `buffer` was filled is then unknown.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes up to `data.len()` bytes at `offset`, growing the file as needed; zeroes fill a gap. What was written may
    /// be lost, or be written out in any order, until [`ImageFile::sync`] returns.
    ///
    /// # Errors
    /// If the write fails; a part may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize>;

    /// Cuts the file, or grows it with zeroes.
    ///
    /// # Errors
    /// If the file keeps its size.
    fn resize(&self, size: u64) -> io::Result<()>;

    /// Returns when all that was written before is on stable storage, with the file's size.
    ///
    /// # Errors
    /// If some of it may not be; it may then be lost for good.
    fn sync(&self) -> io::Result<()>;
}

impl ImageFile for File {
    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(self, buffer, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(self, buffer, offset);
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_at(self, data, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_write(self, data, offset);
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A file in memory: for images that came as bytes, and for tests.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: RwLock<Vec<u8>>,
}

impl Memory {
    pub const fn new(bytes: Vec<u8>) -> Self {
        Memory {
            bytes: RwLock::new(bytes),
        }
    }
}

impl ImageFile for Memory {
    fn size(&self) -> io::Result<u64> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        Ok(to_u64(bytes.len()))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let start = to_usize(offset.min(to_u64(bytes.len())));
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let start = usize::try_from(offset).map_err(|_| full())?;
        let end = start.checked_add(data.len()).ok_or_else(full)?;
        if bytes.len() < end {
            let more = end - bytes.len();
            bytes.try_reserve(more).map_err(|_| full())?;
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        Ok(data.len())
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let size = usize::try_from(size).map_err(|_| full())?;
        let more = size.saturating_sub(bytes.len());
        bytes.try_reserve(more).map_err(|_| full())?;
        bytes.resize(size, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

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

    /// Opens a regular file. Nothing else will do: an image may name any path as its parent, and opening a pipe blocks.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|e| Error::io(path, "open the file", e))?;
        if !metadata.is_file() {
            return Err(Error::new(
                Kind::Unsupported,
                path,
                "it is not a regular file",
            ));
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
