//! Which regions of a disk may have been written, on disk *before* they are: `<tracking>-<generation>.intent`.
//!
//! ```text
//!    0  header (80 bytes), zeroes
//! 4096  one bit per region of 1 MiB, the least first
//! ```
//! After a crash this is all that is known of the time since the fine map was saved, and it is never too little: a bit is
//! written and synced before the first write into its region is passed on. Bits are only ever set, so that a torn write
//! of the file leaves, byte for byte, something between the old and the new state: all that was synced is there.
//!
//! A sync costs more than a guest's write, so bits are set ahead of need ([`Ahead`]): along a run that goes upwards, and
//! in ever larger groups the more often it had to be done. That costs nothing until a crash, and then more is reported.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::lab::hypervisor::tracking::header::Header;
use crate::lab::hypervisor::tracking::{Error, REGION};
use crate::units::{ByteRange, to_u64, to_usize};

pub(crate) const MAGIC: [u8; 8] = *b"SRLABINT";
/// Where the bits begin; also the unit in which they are written.
const PAGE: u64 = 4096;
/// Regions that are set ahead of an upward run at most: a crash then reports 1 GiB in vain, and a sync, which may have to
/// wait for all that the system writes out, comes with every GiB.
const RUN_MAX: u64 = 1024;

pub(crate) struct Intent {
    path: PathBuf,
    file: File,
    bits: Vec<u8>,
    regions: u64,
    ahead: Ahead,
    doubted: bool,
}

impl Intent {
    /// Makes the file, durably, without any bit; one that was there is replaced.
    pub(crate) fn create(path: &Path, header: &Header) -> Result<Self, Error> {
        let regions = header.size.div_ceil(REGION);
        let bits = vec![0; to_usize(regions.div_ceil(8))];
        let mut content = header.encode().to_vec();
        content.resize(to_usize(PAGE), 0);
        content.extend_from_slice(&bits);
        // Written out, not left sparse: setting a bit later needs no space and no journal.
        durable::write(path, &content).map_err(Error::Durable)?;
        let file = OpenOptions::new().write(true).open(path);
        Ok(Intent {
            path: path.to_owned(),
            file: file.map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })?,
            bits,
            regions,
            ahead: Ahead::default(),
            doubted: false,
        })
    }

    /// The file is about to be replaced by another: nothing can be promised by this one any more.
    pub(crate) const fn doubt(&mut self) {
        self.doubted = true;
    }

    /// The runs of regions whose bits are set; nothing if there is no such file.
    pub(crate) fn read(path: &Path, header: &Header) -> Result<Option<Vec<Range<u64>>>, Error> {
        let cannot = |source: io::Error| Error::Read {
            path: path.to_owned(),
            source,
        };
        if !fs::exists(path).map_err(cannot)? {
            return Ok(None);
        }
        let regions = header.size.div_ceil(REGION);
        let expected = PAGE + regions.div_ceil(8);
        let mut content = Vec::new();
        let mut file = File::open(path).map_err(cannot)?.take(expected + 1);
        file.read_to_end(&mut content).map_err(cannot)?;
        if to_u64(content.len()) != expected || !header.begins(&content) {
            return Err(Error::Damaged {
                path: path.to_owned(),
                what: "it is of another disk or generation",
            });
        }
        Ok(Some(runs(&content[to_usize(PAGE)..], regions)))
    }

    /// Returns when the bits of all regions that `range` touches are on disk.
    pub(crate) fn ensure(&mut self, range: ByteRange) -> Result<(), Error> {
        if self.doubted {
            return Err(Error::Damaged {
                path: self.path.clone(),
                what: "it was to be replaced, and was not",
            });
        }
        let touched = range.start() / REGION..range.end().div_ceil(REGION).min(self.regions);
        if touched.clone().all(|region| self.is_set(region)) {
            return Ok(());
        }
        let wanted = self.ahead.plan(&touched, self.regions);
        let changed = PAGE * (wanted.start / 8 / PAGE)
            ..(PAGE * (wanted.end.div_ceil(8).div_ceil(PAGE))).min(to_u64(self.bits.len()));
        let mut bytes = self.bits[to_usize(changed.start)..to_usize(changed.end)].to_vec();
        for region in wanted.clone() {
            bytes[to_usize(region / 8 - changed.start)] |= 1 << (region % 8);
        }
        self.file
            .write_all_at(&bytes, PAGE + changed.start)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| Error::Mark {
                path: self.path.clone(),
                source,
            })?;
        // Only now: what is believed to be set is on disk.
        self.bits[to_usize(changed.start)..to_usize(changed.end)].copy_from_slice(&bytes);
        Ok(())
    }

    fn is_set(&self, region: u64) -> bool {
        self.bits[to_usize(region / 8)] & (1 << (region % 8)) != 0
    }
}

/// How far ahead of need bits are set.
#[derive(Clone, Debug, Default)]
struct Ahead {
    /// How often bits had to be set.
    times: u32,
    /// The run that was planned last.
    last: Range<u64>,
}

impl Ahead {
    /// The regions to set because of `touched`, of a disk with `regions`.
    fn plan(&mut self, touched: &Range<u64>, regions: u64) -> Range<u64> {
        self.times = self.times.saturating_add(1);
        let goes_on = !self.last.is_empty() && touched.start == self.last.end;
        let planned = if goes_on {
            let more = (4 * (self.last.end - self.last.start)).min(RUN_MAX);
            touched.start..touched.end.max(touched.start + more)
        } else {
            let group = match self.times {
                0..4 => 1,
                4..8 => 4,
                8..16 => 16,
                16..32 => 64,
                _ => 256,
            };
            touched.start / group * group..touched.end.div_ceil(group) * group
        };
        self.last = planned.start..planned.end.min(regions);
        self.last.clone()
    }
}

/// The runs of set bits among the first `count`.
fn runs(bits: &[u8], count: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for bit in 0..count {
        if bits[to_usize(bit / 8)] & (1 << (bit % 8)) == 0 {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == bit => last.end = bit + 1,
            _ => runs.push(bit..bit + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::units::{GIB, MIB};

    fn header(size: u64) -> Header {
        Header {
            magic: MAGIC,
            unit: 1 << 20,
            tracking: Uuid::from_u128(1),
            generation: 1,
            size,
        }
    }

    fn range(start: u64, len: u64) -> ByteRange {
        ByteRange::at(start, len).unwrap()
    }

    #[test]
    fn what_is_ensured_is_in_the_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.intent");
        let header = header(10 * GIB + 1);
        let mut intent = Intent::create(&path, &header).unwrap();
        assert_eq!(Intent::read(&path, &header).unwrap(), Some(vec![]));
        intent.ensure(range(5 * MIB - 1, 2)).unwrap();
        intent.ensure(range(10 * GIB, 1)).unwrap();
        let expected = vec![4..6, 10 * 1024..10 * 1024 + 1];
        assert_eq!(Intent::read(&path, &header).unwrap(), Some(expected));
    }

    #[test]
    fn a_file_that_may_have_been_replaced_promises_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut intent = Intent::create(&folder.path().join("a.intent"), &header(GIB)).unwrap();
        intent.ensure(range(0, 1)).unwrap();
        intent.doubt();
        assert!(intent.ensure(range(0, 1)).is_err());
    }

    #[test]
    fn a_file_of_another_generation_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.intent");
        Intent::create(&path, &header(GIB)).unwrap();
        let other = Header {
            generation: 2,
            ..header(GIB)
        };
        assert!(matches!(
            Intent::read(&path, &other),
            Err(Error::Damaged { .. })
        ));
    }

    #[test]
    fn writing_upwards_marks_seldom_and_ahead() {
        let mut ahead = Ahead::default();
        let (mut at, mut marks) = (0, 0);
        while at < 10 * 1024 {
            at = ahead.plan(&(at..at + 1), 10 * 1024).end;
            marks += 1;
        }
        assert!(marks <= 20, "10 GiB took {marks} marks");
    }

    #[test]
    fn writing_at_random_marks_in_ever_larger_groups() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.plan(&(100..101), 10_240), 100..101);
        let mut ahead = Ahead {
            times: 500,
            last: 0..1,
        };
        assert_eq!(ahead.plan(&(300..301), 10_240), 256..512);
        assert_eq!(ahead.plan(&(10_200..10_201), 10_240), 9984..10_240);
    }
}
