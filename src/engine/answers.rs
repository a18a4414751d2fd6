//! Asks a frozen disk for ranges, one window after another, and believes an answer only if it can be gone on from.
//!
//! No byte is skipped and no window is asked for twice: an answer that covers nothing, goes backwards, leaves its window
//! or is longer than agreed is an error of the hypervisor. One answer is held at a time, whatever the disk's size.

use crate::engine::Error;
use crate::host::{self, FrozenDisk, RANGES_MAX, Ranges};
use crate::ids::DiskId;
use crate::units::{ByteRange, GIB};

/// Ranges are asked for over this much of the disk at a time.
const WINDOW: u64 = 64 * GIB;

/// What is asked of which disk.
#[derive(Clone, Debug)]
pub struct Question {
    disk: DiskId,
    /// Bytes of the disk.
    size: u64,
    which: &'static str,
}

impl Question {
    /// Which ranges may hold other than zeroes.
    pub fn allocated(disk: DiskId, frozen: &dyn FrozenDisk) -> Self {
        Question {
            disk,
            size: frozen.size(),
            which: "allocated",
        }
    }

    /// Which ranges may have changed.
    pub fn changed(disk: DiskId, frozen: &dyn FrozenDisk) -> Self {
        Question {
            disk,
            size: frozen.size(),
            which: "changed",
        }
    }

    /// The answer to what lies from `looked` on, which is before the end. It covers more than `looked`.
    ///
    /// # Errors
    /// The hypervisor's, or [`Error::Answer`] if what it says cannot be.
    pub fn ask(
        &self,
        looked: u64,
        ask: impl FnOnce(ByteRange) -> host::Result<Ranges>,
    ) -> Result<Ranges, Error> {
        let end = looked.saturating_add(WINDOW).min(self.size);
        let window = ByteRange::new(looked, end).unwrap_or(ByteRange::to(0));
        let answer = ask(window)?;
        match objection(window, &answer) {
            None => Ok(answer),
            Some(why) => Err(Error::Answer {
                disk: self.disk.clone(),
                which: self.which,
                window,
                why,
            }),
        }
    }
}

/// Why an answer cannot be gone on from; nothing if it can.
fn objection(window: ByteRange, answer: &Ranges) -> Option<String> {
    let Ranges { ranges, covered } = answer;
    if *covered <= window.start() || *covered > window.end() {
        return Some(format!("it covers up to {covered}"));
    }
    if ranges.len() > RANGES_MAX {
        return Some(format!(
            "it has {} ranges, at most {RANGES_MAX}",
            ranges.len()
        ));
    }
    let mut least = window.start();
    for range in ranges {
        if range.is_empty() || range.start() < least || range.end() > *covered {
            return Some(format!(
                "{range} is not between {least} and {covered}, where it has to be"
            ));
        }
        least = range.end();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::Code;

    const SIZE: u64 = 100 * GIB;

    fn question() -> Question {
        Question {
            disk: DiskId::from_random(1),
            size: SIZE,
            which: "changed",
        }
    }

    fn answer(ranges: &[(u64, u64)], covered: u64) -> Ranges {
        let range = |(start, end): &(u64, u64)| ByteRange::new(*start, *end).unwrap();
        Ranges {
            ranges: ranges.iter().map(range).collect(),
            covered,
        }
    }

    #[test]
    fn a_disk_is_asked_about_in_windows_up_to_its_end() {
        let mut asked = Vec::new();
        let mut looked = 0;
        while looked < SIZE {
            let found = question().ask(looked, |window| {
                asked.push((window.start(), window.end()));
                Ok(answer(&[], window.end()))
            });
            looked = found.unwrap().covered;
        }
        assert_eq!(asked, [(0, WINDOW), (WINDOW, SIZE)]);
    }

    #[test]
    fn an_answer_that_does_not_go_on_is_an_error() {
        for wrong in [
            answer(&[], 4096),
            answer(&[], 0),
            answer(&[], SIZE + 1),
            answer(&[(0, 512)], 8192),
            answer(&[(4096, 9000)], 8192),
            answer(&[(6000, 7000), (5000, 6000)], 8192),
            answer(&[(5000, 5000)], 8192),
        ] {
            let refused = question().ask(4096, |_| Ok(wrong)).unwrap_err();
            assert!(matches!(refused, Error::Answer { .. }));
            assert_eq!(refused.code(), Code::Internal);
        }
    }

    #[test]
    fn an_answer_has_no_more_ranges_than_agreed() {
        let ranges = |count: usize| {
            let ranges = (0..u64::try_from(count).unwrap()).map(|at| (at * 8192, at * 8192 + 4096));
            answer(&ranges.collect::<Vec<_>>(), WINDOW)
        };
        assert!(question().ask(0, |_| Ok(ranges(RANGES_MAX))).is_ok());
        assert!(question().ask(0, |_| Ok(ranges(RANGES_MAX + 1))).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_answered_a_walk_ends_and_its_ranges_ascend(
            answers in prop::collection::vec((prop::collection::vec((0..40u64, 0..40u64), 0..4), 0..40u64), 1..60),
        ) {
            let question = Question { size: 32 * 512, ..question() };
            let (mut looked, mut seen) = (0, 0);
            for (ranges, covered) in answers {
                if looked == question.size {
                    break;
                }
                let ranges: Vec<_> = ranges.into_iter().filter_map(|(a, b)| ByteRange::new(a * 512, b * 512)).collect();
                let said = Ranges { ranges, covered: covered * 512 };
                let Ok(found) = question.ask(looked, |_| Ok(said)) else { break };
                prop_assert!(found.covered > looked && found.covered <= question.size);
                for range in found.ranges {
                    prop_assert!(range.start() >= seen && range.start() >= looked && range.end() <= found.covered);
                    seen = range.end();
                }
                looked = found.covered;
            }
        }
    }
}
