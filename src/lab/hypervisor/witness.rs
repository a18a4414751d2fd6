//! An image file that tells, before it is changed, that it will be, and under which DataWriteGuid.
//!
//! After a kill the hypervisor must know whether an image is as *it* left it. Our own writes are known by the intent map;
//! the question is whether anybody else wrote in between. A VHDX answers it: whoever changes what its guest sees gives it
//! a new DataWriteGuid first (`[MS-VHDX]` 2.2.2). Ours is drawn inside `formats`, at the first write after opening. Had
//! we recorded it after that write, a kill in between would leave an id that nobody knows, which is no different from
//! somebody else's. So it is seen here on its way to the file, and recorded before it gets there:
//!
//! ```text
//! header with a new id arrives ── machine's record names it too ── header is written ── data is written
//! killed before the header: the file has the old id      both are ours: the record names the old and the new
//! killed after it:          the file has the new id
//! ```

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::formats::file::ImageFile;
use crate::units::KIB;

/// Where a VHDX has its two headers (`[MS-VHDX]` 2.2).
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const HEADER_SIGNATURE: &[u8] = b"head";
/// Where a header has the DataWriteGuid (`[MS-VHDX]` 2.2.2).
const DATA_WRITE: std::ops::Range<usize> = 32..48;

/// Told before the first change of the file, and before each new DataWriteGuid. If it fails, so does the write.
pub(crate) type Tell = Box<dyn Fn(Option<Uuid>) -> io::Result<()> + Send + Sync>;

pub(crate) struct Witness {
    file: File,
    tell: Tell,
    /// Whether the file may have been changed since it was opened.
    changed: AtomicBool,
    /// The DataWriteGuid that was told last.
    data_write: Mutex<Option<Uuid>>,
}

impl Witness {
    /// A witness over a file whose DataWriteGuid, if it has one, is known.
    pub(crate) fn new(file: File, data_write: Option<Uuid>, tell: Tell) -> Self {
        Witness {
            file,
            tell,
            changed: AtomicBool::new(false),
            data_write: Mutex::new(data_write),
        }
    }

    fn before_change(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let next = data_write_of(offset, data);
        if next.is_none() && self.changed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut known = self
            .data_write
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if next.is_some() && next != *known {
            (self.tell)(next)?;
            *known = next;
        } else if !self.changed.load(Ordering::Acquire) {
            (self.tell)(None)?;
        }
        self.changed.store(true, Ordering::Release);
        Ok(())
    }
}

impl ImageFile for Witness {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        ImageFile::read_at(&self.file, offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.before_change(offset, data)?;
        ImageFile::write_at(&self.file, offset, data)
    }

    fn resize(&self, size: u64) -> io::Result<()> {
        self.before_change(u64::MAX, &[])?;
        self.file.resize(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// The DataWriteGuid that a write brings, if it writes a header.
fn data_write_of(offset: u64, data: &[u8]) -> Option<Uuid> {
    if !HEADERS.contains(&offset) || !data.starts_with(HEADER_SIGNATURE) {
        return None;
    }
    Uuid::from_slice_le(data.get(DATA_WRITE)?).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::formats::create::{Allocation, CreateOptions};
    use crate::formats::info::Format;
    use crate::formats::source::Source;
    use crate::formats::{self, OpenOptions, WritableImage};

    type Told = Arc<Mutex<Vec<Option<Uuid>>>>;

    fn create(path: &Path, format: Format) -> Option<Uuid> {
        let now = Timestamp::UNIX_EPOCH;
        let options = CreateOptions::new(format, Allocation::Dynamic, 1 << 24, Uuid::new_v4(), now);
        let image = formats::create(path, &options).unwrap();
        let data_write = image.image().info().data_write;
        image.close().unwrap();
        data_write
    }

    fn open(path: &Path, known: Option<Uuid>) -> (WritableImage, Told) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let told = Told::default();
        let tell = {
            let told = Arc::clone(&told);
            move |next| {
                told.lock().unwrap().push(next);
                Ok(())
            }
        };
        let source = Source::new(path, Arc::new(Witness::new(file, known, Box::new(tell))));
        let image =
            formats::open_sources_writable(source, Vec::new(), &OpenOptions::default()).unwrap();
        (image, told)
    }

    #[test]
    fn the_id_of_the_first_write_is_told_and_nothing_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhdx");
        let before = create(&path, Format::Vhdx);
        let (mut image, told) = open(&path, before);
        assert!(told.lock().unwrap().is_empty(), "opening changes nothing");
        image.write_at(0, &[1; 512]).unwrap();
        image.flush().unwrap();
        image.write_at(4096, &[2; 512]).unwrap();
        image.close().unwrap();
        let after = formats::open(&path, &OpenOptions::default()).unwrap();
        let after = after.info().data_write;
        assert_ne!(after, before);
        assert_eq!(*told.lock().unwrap(), [after]);
    }

    #[test]
    fn the_first_write_to_a_file_without_an_id_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhd");
        create(&path, Format::Vhd);
        let (mut image, told) = open(&path, None);
        image.write_at(0, &[1; 512]).unwrap();
        image.write_at(4096, &[1; 512]).unwrap();
        image.close().unwrap();
        assert_eq!(*told.lock().unwrap(), [None]);
    }

    #[test]
    fn what_could_not_be_told_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhdx");
        let before = create(&path, Format::Vhdx);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let refuse: Tell = Box::new(|_| Err(io::ErrorKind::StorageFull.into()));
        let source = Source::new(&path, Arc::new(Witness::new(file, before, refuse)));
        let options = OpenOptions::default();
        let mut image = formats::open_sources_writable(source, Vec::new(), &options).unwrap();
        assert!(image.write_at(0, &[1; 512]).is_err());
        drop(image);
        let image = formats::open(&path, &options).unwrap();
        assert_eq!(image.info().data_write, before);
    }
}
