//! What changed on a frozen disk, range by range: whole sectors, close ranges joined, one answer in memory at a time.

use std::collections::VecDeque;

use crate::engine::Error;
use crate::engine::answers::Question;
use crate::host::{FrozenDisk, TrackingCursor};
use crate::ids::DiskId;
use crate::units::{ByteRange, KIB, SECTOR};

/// Changes closer than this are captured as one: reading the gap costs less than another request in Azure.
const GAP: u64 = 16 * KIB;

/// The changes of one disk since a cursor; ascending.
pub struct Changes<'a> {
    frozen: &'a dyn FrozenDisk,
    since: &'a TrackingCursor,
    question: Question,
    size: u64,
    looked: u64,
    answered: VecDeque<ByteRange>,
    /// What the next change may still join.
    open: Option<ByteRange>,
}

impl<'a> Changes<'a> {
    pub fn new(disk: &DiskId, frozen: &'a dyn FrozenDisk, since: &'a TrackingCursor) -> Self {
        Changes {
            frozen,
            since,
            question: Question::changed(disk.clone(), frozen),
            size: frozen.size(),
            looked: 0,
            answered: VecDeque::new(),
            open: None,
        }
    }

    /// The next change; nothing at the end.
    ///
    /// # Errors
    /// If the disk cannot tell what changed.
    pub fn next_change(&mut self) -> Result<Option<ByteRange>, Error> {
        loop {
            while let Some(range) = self.answered.pop_front() {
                let sectors = range.align_out(SECTOR);
                if let Some(apart) = self.join(ByteRange::to(self.size).intersect(sectors)) {
                    return Ok(Some(apart));
                }
            }
            if self.looked >= self.size {
                return Ok(self.open.take());
            }
            let (frozen, since) = (self.frozen, self.since);
            let answer = self
                .question
                .ask(self.looked, |window| frozen.changes(since, window))?;
            self.answered = answer.ranges.into();
            self.looked = answer.covered;
        }
    }

    /// Joins a range to the one before if they are close; if not, that one is complete.
    fn join(&mut self, next: ByteRange) -> Option<ByteRange> {
        match self.open {
            Some(open) if next.start() <= open.end().saturating_add(GAP) => {
                let end = open.end().max(next.end());
                self.open = ByteRange::new(open.start(), end);
                None
            }
            before => {
                self.open = Some(next);
                before
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::host::{self, RANGES_MAX, Ranges};
    use crate::units::{GIB, to_u64};

    /// A disk whose answers are given.
    struct Disk<F> {
        size: u64,
        answer: Mutex<F>,
    }

    impl<F: FnMut(ByteRange) -> Ranges + Send> FrozenDisk for Disk<F> {
        fn size(&self) -> u64 {
            self.size
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> host::Result<()> {
            Ok(())
        }

        fn allocated(&self, window: ByteRange) -> host::Result<Ranges> {
            Ok(self.answer.lock().unwrap()(window))
        }

        fn changes(&self, _: &TrackingCursor, window: ByteRange) -> host::Result<Ranges> {
            self.allocated(window)
        }
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    fn collected(frozen: &dyn FrozenDisk) -> Result<Vec<ByteRange>, Error> {
        let since = TrackingCursor::new("c");
        let mut changes = Changes::new(&DiskId::from_random(1), frozen, &since);
        let mut all = Vec::new();
        while let Some(change) = changes.next_change()? {
            all.push(change);
        }
        Ok(all)
    }

    #[test]
    fn close_changes_are_one_over_answers_too_and_distant_ones_are_not() {
        // Given changes that are told in two answers, in parts of sectors
        let told = [
            range(100, 512),
            range(GAP, GAP + 512),
            range(3 * GAP + 512, 4 * GAP + 1),
        ];
        let disk = Disk {
            size: 8 * GAP,
            answer: Mutex::new(|window: ByteRange| {
                let covered = if window.start() == 0 {
                    GAP
                } else {
                    window.end()
                };
                let inside = told
                    .iter()
                    .filter(|range| range.start() >= window.start() && range.end() <= covered);
                Ranges {
                    ranges: inside.copied().collect(),
                    covered,
                }
            }),
        };
        // Then those that are close are one, in whole sectors.
        let expected = [range(0, GAP + 512), range(3 * GAP + 512, 4 * GAP + 512)];
        assert_eq!(collected(&disk).unwrap(), expected);
    }

    #[test]
    fn of_a_disk_in_fragments_one_answer_is_held_at_a_time() {
        // Given 64 TiB of which every second stretch changed, told in answers of the agreed length
        const STRETCH: u64 = 2 * GAP;
        let asked = AtomicU64::new(0);
        let disk = Disk {
            size: 64 << 40,
            answer: Mutex::new(|window: ByteRange| {
                asked.fetch_add(1, Ordering::Relaxed);
                let stretches = (0..to_u64(RANGES_MAX))
                    .map(|at| ByteRange::at(window.start() + 2 * at * STRETCH, STRETCH).unwrap());
                Ranges {
                    ranges: stretches.collect(),
                    covered: window.start() + 2 * to_u64(RANGES_MAX) * STRETCH,
                }
            }),
        };
        let since = TrackingCursor::new("c");
        let id = DiskId::from_random(1);
        let mut changes = Changes::new(&id, &disk, &since);
        // When the first changes are taken, and those of three answers
        assert_eq!(changes.next_change().unwrap(), Some(range(0, STRETCH)));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        for _ in 0..3 * RANGES_MAX {
            changes.next_change().unwrap();
        }
        // Then only as much has been asked, and is held, as was taken.
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        assert!(changes.answered.len() <= RANGES_MAX);
    }

    #[test]
    fn a_disk_that_covers_nothing_is_an_error_and_not_asked_for_ever() {
        let disk = Disk {
            size: GIB,
            answer: Mutex::new(|window: ByteRange| Ranges {
                ranges: Vec::new(),
                covered: window.start(),
            }),
        };
        assert!(matches!(collected(&disk), Err(Error::Answer { .. })));
    }
}
