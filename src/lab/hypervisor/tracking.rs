//! Which parts of a disk were written since when, surviving a kill at any moment.
//!
//! Writes are counted in *generations*. A freeze closes one and opens the next; a cursor names the first generation that
//! counts. What a generation knows is, on disk, the union of two files, either of which may be absent, never both:
//!
//! ```text
//! <tracking>-<generation>.map       blocks of 4 KiB (`saved`)       written when nothing is in doubt
//! <tracking>-<generation>.intent    regions of 1 MiB (`intent`)     a bit is there before the first write to its region
//!
//! write:   intent bit on disk (mostly it is there) ── block in memory ── the image
//! save:    map durable ── intent replaced by an empty one, or removed
//! switch:  next intent durable ── [barrier] the machine's record names the next generation ── save of the closed one
//! ```
//! Killed between any two: what was written is in the map, in the intent, or in both; so more may be told than changed,
//! never less. After a clean end the map alone is left, and it is exact. A file that cannot be believed is an error: the
//! tracking is then lost, and nothing is ever taken for unchanged that is not known to be.
//!
//! Memory and map grow with what is touched; the intent takes one bit per MiB of disk.

mod bitmap;
pub(crate) mod cursor;
mod header;
mod intent;
mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::durable;
use crate::host::Kind;
use crate::ids::DiskSlot;
use crate::lab::hypervisor::store::{of_durable, of_io};
use crate::lab::hypervisor::tracking::bitmap::Bitmap;
use crate::lab::hypervisor::tracking::cursor::Cursor;
use crate::lab::hypervisor::tracking::header::Header;
use crate::lab::hypervisor::tracking::intent::Intent;
use crate::units::{ByteRange, KIB, MIB};

/// Bytes of disk that one bit of the fine map stands for: what file systems write at least.
pub(crate) const BLOCK: u64 = 4 * KIB;
/// Bytes of disk that one bit of the intent stands for.
pub(crate) const REGION: u64 = MIB;
/// Closed generations that are kept apart; beyond it two become one, and cursors between them report more.
const CLOSED_MAX: usize = 16;

/// What keeps tracking from going on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot mark what is about to be written in {}", path.display())]
    Mark { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("neither {} nor its intent is there", path.display())]
    Missing { path: PathBuf },
    #[error(transparent)]
    Durable(durable::Error),
}

impl Error {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Error::Read { source, .. } | Error::Mark { source, .. } => of_io(source),
            Error::Damaged { .. } | Error::Missing { .. } => Kind::TrackingLost,
            Error::Durable(error) => of_durable("track a disk", error).kind,
        }
    }
}

/// The tracking of one disk as the machine's record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Generations {
    pub(crate) tracking: Uuid,
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// The first generation from which on nothing is missing.
    oldest: u64,
    closed: BTreeSet<u64>,
    /// The generation that writes are counted in.
    pub(crate) open: u64,
}

impl Generations {
    fn begin(size: u64) -> Self {
        Generations {
            tracking: Uuid::new_v4(),
            size,
            oldest: 1,
            closed: BTreeSet::new(),
            open: 1,
        }
    }

    /// After a barrier.
    fn switched(&self) -> Self {
        let mut next = self.clone();
        next.closed.insert(self.open);
        next.open += 1;
        next
    }

    /// The cursor from which changes since the opening of `generation` are counted.
    pub(crate) fn cursor(&self, slot: &DiskSlot, generation: u64) -> Cursor {
        Cursor {
            tracking: self.tracking,
            generation,
            slot: slot.clone(),
            size: self.size,
        }
    }

    /// The first generation that counts for a cursor, or why nothing can be said for it.
    pub(crate) fn first_of(&self, cursor: &Cursor, slot: &DiskSlot) -> Result<u64, String> {
        if cursor.slot != *slot {
            return Err(format!("the cursor is of disk {}", cursor.slot));
        }
        if cursor.size != self.size {
            let (then, now) = (cursor.size, self.size);
            return Err(format!("the disk had {then} bytes then and has {now} now"));
        }
        if cursor.tracking != self.tracking {
            return Err("tracking was begun anew since".to_owned());
        }
        if cursor.generation < self.oldest {
            return Err("what the cursor needs was forgotten".to_owned());
        }
        if cursor.generation > self.open {
            return Err("the cursor is from a time that is not known here".to_owned());
        }
        Ok(cursor.generation)
    }

    /// Without what only cursors before `generation` need.
    pub(crate) fn forgotten_before(&self, generation: u64) -> Self {
        let mut left = self.clone();
        left.oldest = self.oldest.max(generation.min(self.open));
        left.closed.retain(|closed| *closed >= left.oldest);
        left
    }

    /// The generation to fold into the one after it, if there are too many: the oldest that no cursor of `boundaries`
    /// tells from its successor, or else the oldest.
    fn to_fold(&self, boundaries: &BTreeSet<u64>) -> Option<(u64, u64)> {
        if self.closed.len() <= CLOSED_MAX {
            return None;
        }
        let mut pairs = self.closed.iter().zip(self.closed.iter().skip(1));
        let oldest = pairs.clone().next();
        // A cursor tells two generations apart if it counts the later one only.
        let unneeded = pairs.find(|(from, into)| {
            let counts_one = |cursor: &u64| from < &cursor && cursor <= *into;
            !boundaries.iter().any(counts_one)
        });
        unneeded.or(oldest).map(|(from, into)| (*from, *into))
    }

    fn header(&self, generation: u64, magic: [u8; 8]) -> Header {
        let unit = if magic == saved::MAGIC { BLOCK } else { REGION };
        Header {
            magic,
            unit: u32::try_from(unit).expect("a few MiB at most"),
            tracking: self.tracking,
            generation,
            size: self.size,
        }
    }
}

/// The tracking of one disk, at work.
pub(crate) struct Tracker {
    folder: PathBuf,
    generations: Generations,
    /// Blocks written in the open generation.
    blocks: Bitmap,
    intent: Intent,
    closed: BTreeMap<u64, Arc<Bitmap>>,
}

/// A next generation that is ready to be opened.
pub(crate) struct Next {
    pub(crate) generations: Generations,
    intent: Intent,
}

/// A closed generation whose map is not on disk yet; its intent stands for it until then.
pub(crate) struct Unsaved {
    map: PathBuf,
    intent: PathBuf,
    header: Header,
    blocks: Arc<Bitmap>,
}

impl Tracker {
    /// Begins to track a disk of `size` bytes, with files in `folder`, which is made.
    pub(crate) fn begin(folder: &Path, size: u64) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::Read {
            path: folder.to_owned(),
            source,
        })?;
        let generations = Generations::begin(size);
        let intent = create_intent(folder, &generations, generations.open)?;
        Ok(Tracker {
            folder: folder.to_owned(),
            generations,
            blocks: Bitmap::default(),
            intent,
            closed: BTreeMap::new(),
        })
    }

    /// Goes on with tracking that an earlier process has done, however that ended.
    pub(crate) fn load(folder: &Path, generations: &Generations) -> Result<Self, Error> {
        sweep(folder, generations)?;
        let mut closed = BTreeMap::new();
        for &generation in &generations.closed {
            let (blocks, in_doubt) = load_blocks(folder, generations, generation)?;
            let blocks = Arc::new(blocks);
            if in_doubt {
                Unsaved::new(folder, generations, generation, Arc::clone(&blocks)).save()?;
            }
            closed.insert(generation, blocks);
        }
        let open = generations.open;
        let (blocks, _) = load_blocks(folder, generations, open)?;
        let header = generations.header(open, saved::MAGIC);
        saved::write(&map_path(folder, generations, open), &header, &blocks)?;
        let intent = create_intent(folder, generations, open)?;
        Ok(Tracker {
            folder: folder.to_owned(),
            generations: generations.clone(),
            blocks,
            intent,
            closed,
        })
    }

    pub(crate) const fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Must have returned before `range` is written. After a failure nothing is known of later writes.
    pub(crate) fn note(&mut self, range: ByteRange) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        self.intent.ensure(range)?;
        let blocks = range.start() / BLOCK..range.end().div_ceil(BLOCK);
        self.blocks.insert(blocks);
        Ok(())
    }

    /// Makes the next generation ready: what takes time, before the barrier.
    pub(crate) fn prepare(&self) -> Result<Next, Error> {
        let generations = self.generations.switched();
        let intent = create_intent(&self.folder, &generations, generations.open)?;
        Ok(Next {
            generations,
            intent,
        })
    }

    /// Counts in the next generation from now on; the record names it already.
    pub(crate) fn switch(&mut self, next: Next) -> Unsaved {
        let generation = self.generations.open;
        let blocks = Arc::new(std::mem::take(&mut self.blocks));
        self.closed.insert(generation, Arc::clone(&blocks));
        self.generations = next.generations;
        self.intent = next.intent;
        Unsaved::new(&self.folder, &self.generations, generation, blocks)
    }

    /// Saves the open generation, when nobody writes: what is on disk is then exact.
    pub(crate) fn save(&mut self) -> Result<(), Error> {
        let open = self.generations.open;
        let header = self.generations.header(open, saved::MAGIC);
        let path = map_path(&self.folder, &self.generations, open);
        saved::write(&path, &header, &self.blocks)?;
        // Half replaced, its name may be another file's already: bits that are set in the old one then help nobody.
        self.intent.doubt();
        self.intent = create_intent(&self.folder, &self.generations, open)?;
        Ok(())
    }

    /// Ranges of `window` that were written in generations `first..=last`, and up to where all are told.
    pub(crate) fn changes(
        &self,
        (first, last): (u64, u64),
        window: ByteRange,
        limit: usize,
    ) -> (Vec<ByteRange>, u64) {
        let window = ByteRange::to(self.generations.size).intersect(window);
        let within = window.start() / BLOCK..window.end().div_ceil(BLOCK);
        let mut union = Bitmap::default();
        if first <= last {
            for (_, blocks) in self.closed.range(first..=last) {
                union.union_within(blocks, within.clone());
            }
            if (first..=last).contains(&self.generations.open) {
                union.union_within(&self.blocks, within.clone());
            }
        }
        let (runs, covered) = union.runs(within, limit);
        let bytes = |run: Range<u64>| ByteRange::new(run.start * BLOCK, run.end * BLOCK);
        let ranges = runs.into_iter().filter_map(bytes);
        let inside = ranges.map(|range| window.intersect(range));
        let covered = covered.saturating_mul(BLOCK).min(window.end());
        (inside.filter(|range| !range.is_empty()).collect(), covered)
    }

    /// Takes what [`Generations::forgotten_before`] or a fold has left, once the record says so.
    pub(crate) fn keep(&mut self, generations: Generations) -> Result<(), Error> {
        self.closed
            .retain(|generation, _| generations.closed.contains(generation));
        self.generations = generations;
        sweep(&self.folder, &self.generations)
    }

    /// Makes one generation of two where there are too many. The record must name what is returned before it is kept.
    pub(crate) fn fold(
        &mut self,
        boundaries: &BTreeSet<u64>,
    ) -> Result<Option<Generations>, Error> {
        let Some((from, into)) = self.generations.to_fold(boundaries) else {
            return Ok(None);
        };
        let mut blocks = Bitmap::default();
        for generation in [from, into] {
            if let Some(closed) = self.closed.get(&generation) {
                blocks.union_with(closed);
            }
        }
        let blocks = Arc::new(blocks);
        Unsaved::new(&self.folder, &self.generations, into, Arc::clone(&blocks)).save()?;
        self.closed.insert(into, blocks);
        let mut folded = self.generations.clone();
        folded.closed.remove(&from);
        Ok(Some(folded))
    }
}

impl Unsaved {
    fn new(folder: &Path, generations: &Generations, generation: u64, blocks: Arc<Bitmap>) -> Self {
        Unsaved {
            map: map_path(folder, generations, generation),
            intent: intent_path(folder, generations, generation),
            header: generations.header(generation, saved::MAGIC),
            blocks,
        }
    }

    /// Saves the map, and only then drops the intent.
    pub(crate) fn save(&self) -> Result<(), Error> {
        saved::write(&self.map, &self.header, &self.blocks)?;
        durable::remove(&self.intent).map_err(Error::Durable)
    }
}

/// The blocks of a generation, and whether its map alone does not tell them.
fn load_blocks(
    folder: &Path,
    generations: &Generations,
    generation: u64,
) -> Result<(Bitmap, bool), Error> {
    let path = map_path(folder, generations, generation);
    let map = saved::read(&path, &generations.header(generation, saved::MAGIC))?;
    let intent = Intent::read(
        &intent_path(folder, generations, generation),
        &generations.header(generation, intent::MAGIC),
    )?;
    let in_doubt = intent.is_some();
    let mut blocks = match (map, &intent) {
        (None, None) => return Err(Error::Missing { path }),
        (map, _) => map.unwrap_or_default(),
    };
    let last = generations.size.div_ceil(BLOCK);
    for regions in intent.unwrap_or_default() {
        let per_region = REGION / BLOCK;
        blocks.insert(regions.start * per_region..(regions.end * per_region).min(last));
    }
    Ok((blocks, in_doubt))
}

/// Removes the files of generations that the record does not name, and what a crash left half made.
fn sweep(folder: &Path, generations: &Generations) -> Result<(), Error> {
    let cannot = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let all = generations.closed.iter().chain([&generations.open]);
    let known: BTreeSet<PathBuf> = all
        .flat_map(|&generation| {
            [
                map_path(folder, generations, generation),
                intent_path(folder, generations, generation),
            ]
        })
        .collect();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if !known.contains(&path) {
            durable::remove(&path).map_err(Error::Durable)?;
        }
    }
    Ok(())
}

fn create_intent(
    folder: &Path,
    generations: &Generations,
    generation: u64,
) -> Result<Intent, Error> {
    let path = intent_path(folder, generations, generation);
    Intent::create(&path, &generations.header(generation, intent::MAGIC))
}

fn map_path(folder: &Path, generations: &Generations, generation: u64) -> PathBuf {
    folder.join(format!("{}-{generation}.map", generations.tracking))
}

fn intent_path(folder: &Path, generations: &Generations, generation: u64) -> PathBuf {
    folder.join(format!("{}-{generation}.intent", generations.tracking))
}

#[cfg(test)]
mod tests;
