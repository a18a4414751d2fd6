//! A disk as a recovery point has it: read from its blob snapshot, compared with its chunk table.
//!
//! ```text
//! page list, 1 GiB at a time ─┐
//!                             ├─► windows of 4 MiB ──8 at a time──► read ► compare ──► pieces, in order
//! chunk table, composed ──────┘
//! ```
//! What was never written is not read: it is zero. Memory holds the windows under way, whatever the disk's size.

pub mod compare;
pub mod table;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt};

use crate::blob::answer::PageKind;
use crate::blob::names::{BlobRef, SnapshotId};
use crate::blob::walk;
use crate::datapath::content::compare::{Compared, coalesced, comparable, compare};
use crate::datapath::content::table::ComposedTable;
use crate::datapath::inspect::{self, Error};
use crate::datapath::store::Store;
use crate::ids::{DiskId, RecoveryPointId};
use crate::replica::manifest::{Manifest, Point, TableRef};
use crate::replica::names;
use crate::replica::table::Run;
use crate::units::{ByteRange, CHUNK, GIB, MIB, SECTOR, to_usize};

/// Bytes that are read and compared as one.
const WINDOW: u64 = 4 * MIB;
/// Windows under way: each has its bytes and, for a moment, a copy of them.
const READS: usize = 8;
/// Pages are listed for so much of a disk at a time.
const LISTED: u64 = GIB;
/// The most ranges in one listing: every second page, and one more.
const RANGES_MAX: u64 = LISTED / SECTOR / 2 + 1;
/// Written ranges with less than this between them are read at once.
const GAP: u64 = CHUNK;
/// A table whose parts were folded away while it was fetched is fetched anew so often.
const ATTEMPTS: u32 = 5;

/// A disk of a recovery point, and where it is told what it holds.
#[derive(Clone, Debug)]
pub struct Subject {
    pub disk: DiskId,
    pub snapshot: BlobRef,
    /// Bytes that the guest sees.
    pub size: u64,
    /// Oldest first.
    pub table: Vec<TableRef>,
}

impl Subject {
    /// A disk of `point`. Parts of the table never span a point: those that end at or before it are its table.
    ///
    /// # Errors
    /// If the manifest does not say enough of it.
    pub fn of(manifest: &Manifest, point: &Point, disk: &DiskId) -> Result<Self, Error> {
        let cut = point.disks.get(disk).ok_or_else(|| Error::NoDisk {
            wanted: disk.to_string(),
            disks: point.disks.keys().map(DiskId::to_string).collect(),
        })?;
        let snapshot: SnapshotId = cut.snapshot.parse().map_err(|source| Error::Snapshot {
            disk: disk.clone(),
            point: point.id.to_string(),
            source,
        })?;
        let parts = manifest.disks.get(disk).map(|disk| disk.tables.as_slice());
        let parts = parts.ok_or_else(|| Error::NoTable {
            disk: disk.clone(),
            point: point.id.to_string(),
        })?;
        let spans = |part: &&TableRef| part.from <= point.sequence && point.sequence < part.to;
        if let Some(part) = parts.iter().find(spans) {
            return Err(Error::Spanning {
                blob: part.blob.clone(),
                point: point.id.to_string(),
            });
        }
        let table = parts.iter().filter(|part| part.to <= point.sequence);
        Ok(Subject {
            disk: disk.clone(),
            snapshot: BlobRef::at(names::disk(disk), snapshot),
            size: cut.size,
            table: table.cloned().collect(),
        })
    }
}

/// A disk of a point and its table, which is fetched now. A running data path may fold its parts meanwhile.
///
/// # Errors
/// If the point is gone, or the table cannot be read.
pub async fn subject(
    store: &Store,
    point: &RecoveryPointId,
    disk: &DiskId,
) -> Result<(Subject, ComposedTable), Error> {
    let mut attempt = 1;
    loop {
        let manifest = inspect::manifest(store).await?;
        let point = inspect::find_point(&manifest, Some(point.as_str()))?;
        let subject = Subject::of(&manifest, point, disk)?;
        match table::compose(store, &subject.table, subject.size).await {
            Ok(table) => return Ok((subject, table)),
            Err(error) if error.is_not_found() && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// What of a disk is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// What can be compared; the rest is not read.
    Comparison,
    Everything,
}

/// A stretch of a disk.
#[derive(Clone, Debug)]
pub struct Piece {
    pub range: ByteRange,
    /// Nothing if it is zero. With [`Want::Comparison`], chunks without a hash are zeroes here.
    pub data: Option<Bytes>,
    /// What came of comparing it, if there was a table.
    pub compared: Compared,
}

/// How far something is, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// More bytes of disks are to be worked on.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes done, of how many.
    pub fn now(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.done), read(&self.total))
    }
}

/// A window that is to be read.
struct Window {
    range: ByteRange,
    /// What was written of it, ascending.
    written: Vec<ByteRange>,
    /// Nothing if it is not compared.
    runs: Option<Vec<Run>>,
}

/// All of a disk, in order. Without a table nothing is compared.
pub fn pieces<'a>(
    store: &'a Store,
    subject: &'a Subject,
    table: Option<ComposedTable>,
    want: Want,
) -> impl Stream<Item = Result<Piece, Error>> + Send + use<'a> {
    let planner = Planner {
        store,
        subject,
        table,
        listed: Vec::new(),
        listed_to: 0,
        at: 0,
    };
    let windows = futures::stream::try_unfold(planner, |mut planner| async move {
        let window = planner.next().await?;
        Ok(window.map(|window| (window, planner)))
    });
    windows
        .map_ok(move |window| read_window(store, subject, window, want))
        .try_buffered(READS)
}

/// Goes through the disk and says what each window needs.
struct Planner<'a> {
    store: &'a Store,
    subject: &'a Subject,
    table: Option<ComposedTable>,
    /// Written ranges up to `listed_to`, ascending.
    listed: Vec<ByteRange>,
    listed_to: u64,
    at: u64,
}

impl Planner<'_> {
    async fn next(&mut self) -> Result<Option<Window>, Error> {
        let rest = ByteRange::new(self.at, self.subject.size).expect("the end is never passed");
        if rest.is_empty() {
            return Ok(None);
        }
        if self.at == self.listed_to {
            let (listed, _) = rest.split_at(LISTED);
            self.listed = list(self.store, &self.subject.snapshot, listed).await?;
            self.listed_to = listed.end();
        }
        let (range, _) = rest.split_at(WINDOW);
        let first = self
            .listed
            .partition_point(|part| part.end() <= range.start());
        let inside = self.listed[first..]
            .iter()
            .take_while(|part| part.start() < range.end())
            .map(|part| range.intersect(*part));
        let written = inside.collect();
        let runs = match &mut self.table {
            Some(table) => Some(table.window(range.end().div_ceil(CHUNK)).await?),
            None => None,
        };
        self.at = range.end();
        Ok(Some(Window {
            range,
            written,
            runs,
        }))
    }
}

/// What was written of a range of the disk, ascending.
async fn list(store: &Store, blob: &BlobRef, range: ByteRange) -> Result<Vec<ByteRange>, Error> {
    let whole_pages = range.align_out(SECTOR);
    let pages = walk::pages(store.replica.as_ref(), blob, whole_pages, None, RANGES_MAX).await;
    let pages = pages.map_err(Error::storage("list the pages of a recovery point"))?;
    let written = pages
        .into_iter()
        .filter(|page| page.kind == PageKind::Written);
    Ok(written.map(|page| page.range).collect())
}

async fn read_window(
    store: &Store,
    subject: &Subject,
    window: Window,
    want: Want,
) -> Result<Piece, Error> {
    let Window {
        range,
        written,
        runs,
    } = window;
    let needed = match (want, &runs) {
        (Want::Comparison, Some(runs)) => comparable(range, &written, runs),
        (Want::Comparison, None) => Vec::new(),
        (Want::Everything, _) => written,
    };
    let data = read(store, &subject.snapshot, range, &coalesced(&needed, GAP)).await?;
    let Some(runs) = runs else {
        let compared = Compared::default();
        return Ok(Piece {
            range,
            data,
            compared,
        });
    };
    let done = tokio::task::spawn_blocking(move || Piece {
        range,
        compared: compare(range, data.as_deref(), &runs),
        data,
    });
    done.await.map_err(|_| Error::Aborted {
        what: "the comparison",
    })
}

/// The bytes of `range`, of which `parts` are not zero; nothing if there are no parts.
async fn read(
    store: &Store,
    blob: &BlobRef,
    range: ByteRange,
    parts: &[ByteRange],
) -> Result<Option<Bytes>, Error> {
    let mut data = BytesMut::new();
    for part in parts {
        let got = store.replica.get(blob, Some(*part), WINDOW).await;
        let bytes = got.map_err(Error::storage("read a recovery point"))?.bytes;
        if bytes.len() != to_usize(part.len()) {
            return Err(Error::Differs {
                blob: blob.to_string(),
                offset: part.start(),
            });
        }
        if *part == range {
            return Ok(Some(bytes));
        }
        data.resize(to_usize(range.len()), 0);
        let at = to_usize(part.start() - range.start());
        data[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    Ok((!parts.is_empty()).then(|| data.freeze()))
}
