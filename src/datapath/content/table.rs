//! The chunk table of a disk at one point: all parts up to it, laid over each other into one temporary file.
//!
//! ```text
//! parts of the account, newest first ──32 at a time──► files ──32 at a time──► … ──► one file, read in windows
//! ```
//! All of it is fetched before the first window is read, for two reasons. A running data path folds parts and removes
//! the old ones, and reading a large disk takes longer than that. And a part is believed only once its hash was right.
//! The file has 32 bytes for each 64 KiB of data; memory has a piece of each of the parts that are merged at one time.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::Stream;

use crate::blob::names::BlobRef;
use crate::datapath::inspect::Error;
use crate::datapath::store::Store;
use crate::formats::file::ImageFile;
use crate::replica::manifest::TableRef;
use crate::replica::table::Run;
use crate::replica::table::overlay::Overlay;
use crate::replica::table::parts::{self, Writer};
use crate::units::{ByteRange, KIB, MIB, to_u64, to_usize};

/// Parts that are merged at one time: each holds a piece and a run, 384 KiB.
const FAN_IN: usize = 32;
/// Bytes of a part that are read at a time.
const PIECE: u64 = 256 * KIB;
/// Bytes that are gathered before they go to a temporary file.
const GATHERED: usize = 4 * to_usize(MIB);

type Runs = Pin<Box<dyn Stream<Item = Result<Run, Error>> + Send>>;

/// A part, in the account or in a temporary file.
#[derive(Clone)]
struct Layer {
    part: TableRef,
    spool: Option<Arc<File>>,
}

/// The chunk table of a disk, read from its start to its end.
pub struct ComposedTable {
    overlay: Overlay<Runs>,
    /// A run that was read and reaches beyond the last window.
    ahead: Option<Run>,
}

/// Fetches and merges `parts`, oldest first, of a disk of `size` bytes.
///
/// # Errors
/// If a part cannot be read or is damaged, or there is no room for temporary files.
pub async fn compose(store: &Store, parts: &[TableRef], size: u64) -> Result<ComposedTable, Error> {
    let newest_first = parts.iter().rev();
    let mut layers: Vec<Layer> = newest_first
        .map(|part| Layer {
            part: part.clone(),
            spool: None,
        })
        .collect();
    while layers.len() > 1 || layers.iter().any(|layer| layer.spool.is_none()) {
        let mut merged = Vec::new();
        for group in layers.chunks(FAN_IN) {
            merged.push(merge(store, group, size).await?);
        }
        layers = merged;
    }
    let streams = layers.into_iter().map(|layer| runs(store, layer, size));
    Ok(ComposedTable {
        overlay: Overlay::new(streams.collect()),
        ahead: None,
    })
}

impl ComposedTable {
    /// The runs of the chunks up to `end` that were not given before. Where none is, chunks are zero.
    ///
    /// # Errors
    /// If the temporary file cannot be read.
    pub async fn window(&mut self, end: u64) -> Result<Vec<Run>, Error> {
        let mut window = Vec::new();
        loop {
            let run = match self.ahead.take() {
                Some(run) => run,
                None => match self.overlay.next().await? {
                    Some(run) => run,
                    None => return Ok(window),
                },
            };
            if run.first >= end {
                self.ahead = Some(run);
                return Ok(window);
            }
            if run.end() > end {
                window.push(run.slice(run.first, end));
                self.ahead = Some(run.slice(end, run.end()));
                return Ok(window);
            }
            window.push(run);
        }
    }
}

/// Reads a part to its end: whether it is what the manifest says.
///
/// # Errors
/// If it cannot be read or is damaged.
pub async fn check(store: &Store, part: &TableRef, size: u64) -> Result<(), Error> {
    use futures::TryStreamExt;
    let layer = Layer {
        part: part.clone(),
        spool: None,
    };
    runs(store, layer, size)
        .try_for_each(async |_| Ok(()))
        .await
}

/// Lays neighbouring layers, the newest first, over each other into a temporary file.
async fn merge(store: &Store, group: &[Layer], size: u64) -> Result<Layer, Error> {
    let spooling = |source| Error::Spool { source };
    let file = Arc::new(tempfile::tempfile().map_err(spooling)?);
    let streams = group.iter().map(|layer| runs(store, layer.clone(), size));
    let mut overlay = Overlay::new(streams.collect());
    let (mut writer, mut gathered, mut at) = (Writer::new(size), BytesMut::new(), 0);
    while let Some(run) = overlay.next().await? {
        writer.push(&run);
        gathered.extend_from_slice(&writer.take());
        if gathered.len() >= GATHERED {
            let bytes = gathered.split().freeze();
            let length = to_u64(bytes.len());
            append(&file, at, bytes).await?;
            at += length;
        }
    }
    let (rest, length, blake3) = writer.finish();
    gathered.extend_from_slice(&rest);
    append(&file, at, gathered.freeze()).await?;
    let (newest, oldest) = (&group[0].part, &group[group.len() - 1].part);
    let part = TableRef {
        blob: newest.blob.clone(),
        from: oldest.from,
        to: newest.to,
        length,
        blake3,
    };
    Ok(Layer {
        part,
        spool: Some(file),
    })
}

fn runs(store: &Store, layer: Layer, size: u64) -> Runs {
    let Layer { part, spool } = layer;
    let (replica, blob) = (store.replica.clone(), BlobRef::head(&part.blob));
    Box::pin(parts::runs(part, size, PIECE, move |range| {
        let (replica, blob, spool) = (replica.clone(), blob.clone(), spool.clone());
        async move {
            if let Some(file) = spool {
                return read(file, range).await;
            }
            let got = replica.get(&blob, Some(range), PIECE).await;
            let got = got.map_err(Error::storage("read a chunk table"))?;
            Ok(got.bytes)
        }
    }))
}

async fn append(file: &Arc<File>, at: u64, bytes: Bytes) -> Result<(), Error> {
    let file = file.clone();
    blocking(move || {
        let mut done = 0;
        while done < bytes.len() {
            done += ImageFile::write_at(file.as_ref(), at + to_u64(done), &bytes[done..])?;
        }
        Ok(())
    })
    .await
}

async fn read(file: Arc<File>, range: ByteRange) -> Result<Bytes, Error> {
    blocking(move || {
        let mut bytes = BytesMut::zeroed(to_usize(range.len()));
        let mut done = 0;
        while done < bytes.len() {
            match ImageFile::read_at(
                file.as_ref(),
                range.start() + to_u64(done),
                &mut bytes[done..],
            )? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(bytes.freeze())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Aborted {
        what: "reading a chunk table",
    })?
    .map_err(|source| Error::Spool { source })
}
