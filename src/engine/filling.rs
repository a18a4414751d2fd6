//! A log in memory that is filled until it is worth a request.

use std::io::Cursor;

use jiff::Timestamp;
use uuid::Uuid;

use crate::buffers::Buffer;
use crate::engine::Error;
use crate::engine::pack::RawLog;
use crate::hrl::{Identity, LogWriter};
use crate::ids::DiskId;
use crate::replica::seal::{DiskCursor, Kind};
use crate::units::{ByteRange, KIB, MIB, to_usize};

/// A log is closed once it has this many bytes: far below [`crate::replica::seal::LOG_MAX`].
const FULL: u64 = 4 * MIB;
/// A log has at most so many bytes, if what is added in one go has at most 4 MiB and whoever adds asks for room before:
/// that, and the log's own structures.
pub const LONGEST: u64 = FULL + 64 * KIB;
/// What the structures of a log may grow by with what is added in one go: two blocks, and what rounding needs.
const STRUCTURES: u64 = 16 * KIB;

/// What the logs of one disk have in common.
#[derive(Clone, Debug)]
pub struct Subject {
    pub disk: DiskId,
    /// Bytes of the disk.
    pub size: u64,
    pub kind: Kind,
    /// The log that these are cut from, if they are.
    pub previous: Option<Uuid>,
    /// When the headers say that they were made.
    pub now: Timestamp,
}

/// Collects changes of one disk, in ascending order.
pub struct Filling {
    subject: Subject,
    open: Option<Open>,
}

struct Open {
    id: Uuid,
    range: ByteRange,
    writer: LogWriter<Cursor<Vec<u8>>>,
}

impl Filling {
    pub fn new(subject: Subject) -> Self {
        Filling {
            subject,
            open: None,
        }
    }

    /// Adds data, or zeroes, behind what was added before.
    ///
    /// # Errors
    /// If the range is not in whole sectors inside of the disk.
    pub fn add(&mut self, range: ByteRange, data: Option<&[u8]>) -> Result<(), Error> {
        let Subject {
            disk,
            size,
            previous,
            now,
            ..
        } = &self.subject;
        let failed = |source| Error::Log {
            disk: disk.clone(),
            source,
        };
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let id = Uuid::new_v4();
                let identity = Identity {
                    id,
                    previous: *previous,
                    disk_size: *size,
                    created: *now,
                };
                let sink = Cursor::new(Buffer::with_capacity(to_usize(LONGEST)).into_vec());
                let writer = LogWriter::new(sink, identity).map_err(failed)?;
                self.open.insert(Open { id, range, writer })
            }
        };
        match data {
            Some(data) => open.writer.write(range.start(), data).map_err(failed)?,
            None => open.writer.zero(range).map_err(failed)?,
        }
        open.range = ByteRange::new(open.range.start(), range.end())
            .expect("changes are added in ascending order");
        Ok(())
    }

    /// Whether `data` bytes more make no log that is too long. If not, what is there has to be taken first.
    pub fn has_room(&self, data: u64) -> bool {
        let longer = |open: &Open| open.writer.len() + data + STRUCTURES;
        self.open
            .as_ref()
            .is_none_or(|open| longer(open) <= LONGEST)
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.open.is_none()
    }

    /// The log, if it is full: `cursor` is how the disk stands once it is sealed.
    ///
    /// # Errors
    /// If the log cannot be finished.
    pub fn take_full(
        &mut self,
        cursor: impl FnOnce() -> DiskCursor,
    ) -> Result<Option<RawLog>, Error> {
        let full = self
            .open
            .as_ref()
            .is_some_and(|open| open.writer.len() >= FULL);
        if full { self.take(cursor) } else { Ok(None) }
    }

    /// The log, however full; nothing if nothing was added.
    ///
    /// # Errors
    /// If the log cannot be finished.
    pub fn take(&mut self, cursor: impl FnOnce() -> DiskCursor) -> Result<Option<RawLog>, Error> {
        let Some(open) = self.open.take() else {
            return Ok(None);
        };
        let Subject {
            disk,
            size,
            kind,
            now,
            ..
        } = &self.subject;
        let failed = |source| Error::Log {
            disk: disk.clone(),
            source,
        };
        let bytes = open.writer.finish(*now).map_err(failed)?.into_inner();
        Ok(Some(RawLog {
            disk: disk.clone(),
            size: *size,
            kind: *kind,
            cursor: cursor(),
            range: open.range,
            log: open.id,
            bytes: Buffer::from(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{CHUNK, GIB, to_u64};

    #[test]
    fn no_log_is_longer_than_its_buffer() {
        // Given windows that leave logs nearly full, and others that bring all that comes in one go
        let subject = Subject {
            disk: DiskId::from_random(1),
            size: GIB,
            kind: Kind::Copy,
            previous: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let mut log = Filling::new(subject);
        let cursor = || DiskCursor::Copied {
            point: "p".parse().unwrap(),
        };
        let data = vec![1; to_usize(4 * MIB)];
        let mut taken = Vec::new();
        for window in 0..40 {
            let start = window * 4 * MIB;
            let part = if window % 3 == 2 {
                4 * MIB
            } else {
                2 * MIB - 4 * CHUNK
            };
            if !log.has_room(part) {
                taken.extend(log.take(cursor).unwrap());
            }
            // When each is added in chunks, data and zeroes by turns
            for at in (0..part).step_by(to_usize(2 * CHUNK)) {
                let range = ByteRange::at(start + at, CHUNK).unwrap();
                log.add(range, Some(&data[..to_usize(CHUNK)])).unwrap();
                let range = ByteRange::at(start + at + CHUNK, CHUNK).unwrap();
                log.add(range, None).unwrap();
            }
            taken.extend(log.take_full(cursor).unwrap());
            let range = ByteRange::at(start + part, 4 * MIB - part).unwrap();
            if !range.is_empty() && log.has_room(range.len()) {
                log.add(range, Some(&data[..to_usize(range.len())]))
                    .unwrap();
                taken.extend(log.take_full(cursor).unwrap());
            }
        }
        // Then none has more than it has room for.
        let lengths = taken.iter().map(|log| to_u64(log.bytes.as_ref().len()));
        assert!(taken.len() > 10);
        assert!(lengths.max() <= Some(LONGEST));
    }
}
