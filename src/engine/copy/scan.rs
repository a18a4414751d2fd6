//! Walks a frozen disk and its chunk table side by side, window by window.
//!
//! What neither the point has allocated nor the table knows is jumped over: an empty terabyte costs a few calls.

use std::collections::VecDeque;

use futures::Stream;
use futures::stream::BoxStream;
use tokio::runtime::Handle;

use crate::engine::Error;
use crate::engine::answers::Question;
use crate::host::FrozenDisk;
use crate::ids::DiskId;
use crate::replica::table::Run;
use crate::replica::table::overlay::Overlay;
use crate::units::{ByteRange, CHUNK, MIB, to_usize};

/// The disk is read in pieces of this length: what one page write takes.
const WINDOW: u64 = 4 * MIB;

/// What the table says, as a stream that can be taken to another thread.
pub type Parts = Vec<BoxStream<'static, Result<Run, Error>>>;

/// A window of the disk that has to be looked at.
pub struct Windowed {
    pub range: ByteRange,
    pub allocated: Vec<ByteRange>,
    pub table: Vec<Run>,
}

/// The walk over one disk.
pub struct Scan {
    disk: Box<dyn FrozenDisk>,
    question: Question,
    position: u64,
    allocated: VecDeque<ByteRange>,
    /// Up to here `allocated` is known.
    looked: u64,
    table: Table<BoxStream<'static, Result<Run, Error>>>,
}

/// The chunk table from the position on.
struct Table<S> {
    overlay: Overlay<S>,
    ahead: VecDeque<Run>,
    ended: bool,
}

impl Scan {
    /// A walk over disk `id` from `position` (a multiple of a chunk) to the end. `parts` is the table, the newest part
    /// first.
    pub fn new(id: DiskId, disk: Box<dyn FrozenDisk>, position: u64, parts: Parts) -> Self {
        let table = Table {
            overlay: Overlay::new(parts),
            ahead: VecDeque::new(),
            ended: false,
        };
        Scan {
            question: Question::allocated(id, disk.as_ref()),
            disk,
            position,
            allocated: VecDeque::new(),
            looked: position,
            table,
        }
    }

    /// Everything before is dealt with.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next window, and its content in `buffer`; nothing at the end.
    ///
    /// # Errors
    /// If the disk or the table cannot be read.
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Windowed>, Error> {
        let size = self.disk.size();
        let Some(at) = self.next_interesting()? else {
            self.position = size;
            return Ok(None);
        };
        let start = (at - at % WINDOW).max(self.position);
        let end = size.min(start - start % WINDOW + WINDOW);
        let range = ByteRange::new(start, end).expect("a window lies inside of the disk");
        let allocated = self.take_allocated(range)?;
        let table = self.table.take(range)?;
        self.read(range, &allocated, buffer)?;
        self.position = end;
        Ok(Some(Windowed {
            range,
            allocated,
            table,
        }))
    }

    /// Where something allocated or known to the table is next, at or after the position.
    fn next_interesting(&mut self) -> Result<Option<u64>, Error> {
        let size = self.disk.size();
        // The last chunk of the table may be longer than what is left of the disk.
        let known = self.table.next_start(self.position)?;
        let known = known.filter(|start| *start < size);
        self.look_until(known.unwrap_or(size))?;
        let allocated = self
            .allocated
            .front()
            .map(|range| range.start().max(self.position));
        Ok([allocated, known].into_iter().flatten().min())
    }

    /// Asks for allocated ranges until there is one, or none begins before `limit`.
    fn look_until(&mut self, limit: u64) -> Result<(), Error> {
        while self.allocated.is_empty() && self.looked < limit {
            let disk = &self.disk;
            let found = self
                .question
                .ask(self.looked, |window| disk.allocated(window))?;
            self.allocated.extend(found.ranges);
            self.looked = found.covered;
        }
        Ok(())
    }

    /// The allocated ranges inside of `window`; what goes on behind it stays.
    fn take_allocated(&mut self, window: ByteRange) -> Result<Vec<ByteRange>, Error> {
        let mut taken = Vec::new();
        loop {
            self.look_until(window.end())?;
            let Some(range) = self
                .allocated
                .pop_front_if(|range| range.start() < window.end())
            else {
                return Ok(taken);
            };
            let inside = window.intersect(range);
            if !inside.is_empty() {
                taken.push(inside);
            }
            if let Some(rest) =
                ByteRange::new(window.end(), range.end()).filter(|rest| !rest.is_empty())
            {
                self.allocated.push_front(rest);
                return Ok(taken);
            }
        }
    }

    fn read(
        &self,
        range: ByteRange,
        allocated: &[ByteRange],
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let whole = allocated.first().is_some_and(|first| *first == range);
        if !whole {
            buffer.clear();
        }
        buffer.resize(to_usize(range.len()), 0);
        for part in allocated {
            let from = to_usize(part.start() - range.start());
            self.disk
                .read_at(part.start(), &mut buffer[from..from + to_usize(part.len())])?;
        }
        Ok(())
    }
}

impl<S> Table<S>
where
    S: Stream<Item = Result<Run, Error>> + Unpin,
{
    /// Where the table next says something, at or after `position`.
    fn next_start(&mut self, position: u64) -> Result<Option<u64>, Error> {
        loop {
            if let Some(run) = self.ahead.front() {
                if run.end() * CHUNK > position {
                    return Ok(Some((run.first * CHUNK).max(position)));
                }
                self.ahead.pop_front();
            } else if !self.read()? {
                return Ok(None);
            }
        }
    }

    /// What the table says of `window`.
    fn take(&mut self, window: ByteRange) -> Result<Vec<Run>, Error> {
        let mut taken = Vec::new();
        while self
            .next_start(window.start())?
            .is_some_and(|start| start < window.end())
        {
            let run = self.ahead.pop_front().expect("its start was just seen");
            let end = run.end();
            let goes_on = end * CHUNK > window.end();
            if goes_on {
                self.ahead.push_front(run.clone());
            }
            taken.push(run);
            if goes_on {
                break;
            }
        }
        Ok(taken)
    }

    fn read(&mut self) -> Result<bool, Error> {
        if !self.ended {
            // The walk has a thread of its own, where waiting is allowed.
            match Handle::current().block_on(self.overlay.next())? {
                Some(run) => self.ahead.push_back(run),
                None => self.ended = true,
            }
        }
        Ok(!self.ahead.is_empty())
    }
}
