//! The file below an image: positional reads and writes, no cursor, and nothing that knows a format.
//!
//! In production it is a [`std::fs::File`]; tests put memory there, or a disk that loses what was not synced.

use std::fs::File;
use std::io;
use std::sync::{PoisonError, RwLock};

use crate::units::{to_u64, to_usize};

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
