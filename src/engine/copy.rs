//! Copies a frozen point: `copy(frozen point, chunk table)`.
//!
//! The one procedure behind first copy, resynchronization, an added disk and reprotect. A thread walks the disk in
//! windows of 4 MiB, jumping over what neither the point has allocated nor the table knows; what differs goes into logs
//! of about 4 MiB, in ascending order. A seal says how far it is, so that it goes on from there after any interruption.

pub mod scan;
pub mod window;

use std::sync::Arc;

use jiff::Timestamp;

use crate::engine::Error;
use crate::engine::copy::scan::{Scan, Windowed};
use crate::engine::copy::window::{Difference, Window, compare};
use crate::engine::filling::{Filling, Subject};
use crate::engine::progress::Progress;
use crate::engine::ship::{EndDisk, Outlet, Piece};
use crate::ids::{DiskId, FrozenPointId};
use crate::replica::seal::{DiskCursor, Kind};
use crate::units::{GIB, to_usize};

/// After looking at this much without anything to send, the position is sealed all the same.
const PASS: u64 = 16 * GIB;

/// The copy of one disk.
pub struct Copy {
    pub disk: DiskId,
    pub size: u64,
    pub point: FrozenPointId,
    pub scan: Scan,
    pub progress: Arc<Progress>,
    pub now: Timestamp,
}

impl Copy {
    /// Reads the disk to its end and hands out what has to be sent. Blocks; ends early when nobody takes the pieces.
    ///
    /// # Errors
    /// If the point or the chunk table cannot be read.
    pub fn run(mut self, outlet: &Outlet) -> Result<(), Error> {
        let subject = Subject {
            disk: self.disk.clone(),
            size: self.size,
            kind: Kind::Copy,
            previous: None,
            now: self.now,
        };
        let mut log = Filling::new(subject);
        let mut handed_out = self.scan.position();
        let mut buffer = Vec::new();
        while let Some(windowed) = self.scan.next(&mut buffer)? {
            let Windowed {
                range,
                allocated,
                table,
            } = windowed;
            let window = Window {
                range,
                buffer: &buffer,
                allocated: &allocated,
                table: &table,
            };
            let differences = compare(&window);
            if !log.has_room(data_of(&differences)) {
                let before = self.copying(range.start());
                if let Some(log) = log.take(|| before)?
                    && outlet.log(log, &self.progress).is_err()
                {
                    return Ok(());
                }
                handed_out = range.start();
            }
            for difference in differences {
                match difference {
                    Difference::Zero(zero) => log.add(zero, None)?,
                    Difference::Data(data) => {
                        let from = to_usize(data.start() - range.start());
                        log.add(data, Some(&buffer[from..from + to_usize(data.len())]))?;
                    }
                }
            }
            self.progress
                .add_done(allocated.iter().map(|range| range.len()).sum());
            let cursor = self.copying(range.end());
            let given = match log.take_full(|| cursor.clone())? {
                Some(log) => outlet.log(log, &self.progress),
                None if log.is_empty() && range.end() - handed_out >= PASS => {
                    outlet.give(Piece::Passed(self.stand(cursor)))
                }
                None => continue,
            };
            if given.is_err() {
                return Ok(());
            }
            handed_out = range.end();
        }
        let copied = DiskCursor::Copied {
            point: self.point.clone(),
        };
        if let Some(log) = log.take(|| copied.clone())?
            && outlet.log(log, &self.progress).is_err()
        {
            return Ok(());
        }
        // If nobody takes it any more, shipping has failed and says so itself.
        let _ = outlet.give(Piece::End(vec![self.stand(copied)], None));
        Ok(())
    }

    fn copying(&self, position: u64) -> DiskCursor {
        DiskCursor::Copying {
            point: self.point.clone(),
            position,
        }
    }

    fn stand(&self, cursor: DiskCursor) -> EndDisk {
        EndDisk {
            disk: self.disk.clone(),
            size: self.size,
            kind: Kind::Copy,
            cursor,
        }
    }
}

/// Bytes of data among differences.
fn data_of(differences: &[Difference]) -> u64 {
    let data = differences.iter().map(|difference| match difference {
        Difference::Data(range) => range.len(),
        Difference::Zero(_) => 0,
    });
    data.sum()
}
