//! Reads captured logs back and cuts them into logs that can be shipped.
//!
//! What was captured is compared with its record before the barrier is handed out: a log that a failing disk has changed
//! is never sealed as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use jiff::Timestamp;

use crate::engine::Error;
use crate::engine::capture::record::{self, CapturedDisk, Record};
use crate::engine::filling::{Filling, Subject};
use crate::engine::phase::Cursors;
use crate::engine::progress::Progress;
use crate::engine::ship::{EndDisk, Outlet, Piece};
use crate::hrl::{Content, LogReader};
use crate::ids::DiskId;
use crate::replica::Digest;
use crate::replica::seal::{DiskCursor, Kind};
use crate::units::to_u64;

/// The way of a capture from disk to those who ship it.
pub struct Replay {
    pub record: Record,
    /// How the disks stand now, and until the barrier is sealed.
    pub standing: BTreeMap<DiskId, DiskCursor>,
    /// Bytes of each disk: what changed before is sealed.
    pub sealed: BTreeMap<DiskId, u64>,
    /// Where changes are counted from after the barrier.
    pub cursors: Cursors,
    pub progress: BTreeMap<DiskId, Arc<Progress>>,
    pub now: Timestamp,
}

impl Replay {
    /// Hands out all logs that are not sealed, then the barrier. Blocks; ends early when nobody takes the pieces.
    ///
    /// # Errors
    /// [`Error::Capture`] if a log cannot be read or is not what was captured.
    pub fn run(&self, outlet: &Outlet) -> Result<(), Error> {
        let mut ends = Vec::new();
        for disk in &self.record.disks {
            if !self.replay(disk, outlet)? {
                return Ok(());
            }
            let cursor = self.cursors.get(&disk.disk).cloned();
            let cursor = cursor.ok_or(Error::Broken {
                doing: "looked for the cursor of a disk",
            })?;
            let cursor = DiskCursor::Tracking { cursor };
            ends.push(EndDisk {
                disk: disk.disk.clone(),
                size: disk.size,
                kind: Kind::Delta,
                cursor,
            });
        }
        // If nobody takes it any more, shipping has failed and says so itself.
        let _ = outlet.give(Piece::End(ends, Some(self.record.barrier.clone())));
        Ok(())
    }

    /// Hands out one disk's logs: whether somebody takes them.
    fn replay(&self, disk: &CapturedDisk, outlet: &Outlet) -> Result<bool, Error> {
        let unusable = |source| unusable(disk, source);
        let standing = self.standing.get(&disk.disk);
        let standing = standing.ok_or(Error::Broken {
            doing: "looked for the cursor of a disk",
        })?;
        let progress = self.progress.get(&disk.disk).cloned().unwrap_or_default();
        let subject = Subject {
            disk: disk.disk.clone(),
            size: disk.size,
            kind: Kind::Delta,
            previous: Some(disk.log),
            now: self.now,
        };
        let file = File::open(&disk.path).map_err(|error| unusable(Box::new(error)))?;
        let mut reader =
            LogReader::open(BufReader::new(file)).map_err(|error| unusable(Box::new(error)))?;
        let sealed = self.sealed.get(&disk.disk).copied().unwrap_or(0);
        let mut content = record::content_hasher();
        let mut log = Filling::new(subject);
        let mut data = Vec::new();
        // Block by block: a log of many small changes has more records than belong in memory.
        for block in 0..reader.blocks() {
            let records = reader.records_of(block);
            for next in records.map_err(|error| unusable(Box::new(error)))? {
                reader
                    .read(&next, &mut data)
                    .map_err(|error| unusable(Box::new(error)))?;
                let data = (next.content != Content::Zeroes).then_some(data.as_slice());
                record::hash_run(&mut content, next.range, data);
                if next.range.start() < sealed {
                    continue;
                }
                if !log.has_room(data.map_or(0, |data| to_u64(data.len())))
                    && let Some(log) = log.take(|| standing.clone())?
                    && outlet.log(log, &progress).is_err()
                {
                    return Ok(false);
                }
                log.add(next.range, data)?;
                if let Some(log) = log.take_full(|| standing.clone())?
                    && outlet.log(log, &progress).is_err()
                {
                    return Ok(false);
                }
            }
        }
        let found = Digest::from(content.finalize());
        if found != disk.content {
            return Err(unusable(
                format!("it holds {found}, captured was {}", disk.content).into(),
            ));
        }
        match log.take(|| standing.clone())? {
            Some(log) => Ok(outlet.log(log, &progress).is_ok()),
            None => Ok(true),
        }
    }
}

fn unusable(disk: &CapturedDisk, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Capture {
        path: disk.path.clone(),
        source,
    }
}
