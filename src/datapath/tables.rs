//! Chunk tables in storage: a part is written once and never changed, read as a stream, folded into larger ones.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use crate::blob::names::{BlobRef, BlockId};
use crate::blob::parameters::{Condition, DeleteSnapshots, PutOptions};
use crate::datapath::Error;
use crate::datapath::store::Store;
use crate::ids::DiskId;
use crate::replica::manifest::TableRef;
use crate::replica::names;
use crate::replica::table::Run;
use crate::replica::table::overlay::Overlay;
use crate::replica::table::parts::{self, Writer};
use crate::units::{ByteRange, KIB, MIB, Sequence, to_u64, to_usize};

/// Bytes of a part that are read at a time; a fold holds as many for each of its parts.
const PIECE: u64 = 256 * KIB;
/// Parts longer than this are put together of blocks.
const BLOCK: u64 = 4 * MIB;

/// A part that is being made.
pub struct NewPart<'a> {
    store: &'a Store,
    blob: String,
    from: Sequence,
    to: Sequence,
    writer: Writer,
    block: BytesMut,
    blocks: Vec<BlockId>,
}

impl<'a> NewPart<'a> {
    /// A part that tells what the sequences `from..=to` did to a disk. `salt` keeps two attempts apart.
    pub fn new(
        store: &'a Store,
        disk: &DiskId,
        size: u64,
        span: (Sequence, Sequence),
        salt: u32,
    ) -> Self {
        let (from, to) = span;
        NewPart {
            store,
            blob: names::table(disk, from, to, salt),
            from,
            to,
            writer: Writer::new(size),
            block: BytesMut::new(),
            blocks: Vec::new(),
        }
    }

    /// Appends a run.
    ///
    /// # Errors
    /// If a block cannot be uploaded.
    pub async fn push(&mut self, run: &Run) -> Result<(), Error> {
        self.writer.push(run);
        if to_u64(self.block.len() + self.writer.pending()) >= BLOCK {
            self.block.extend_from_slice(&self.writer.take());
            self.upload().await?;
        }
        Ok(())
    }

    /// Ends the part: it is stored, and the manifest may name it.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub async fn finish(mut self) -> Result<TableRef, Error> {
        let writer = std::mem::replace(&mut self.writer, Writer::new(0));
        let (rest, length, blake3) = writer.finish();
        self.block.extend_from_slice(&rest);
        // The name has a salt of its own: whatever stands there already is not this part.
        let options = PutOptions::create();
        let action = "write a chunk table";
        if self.blocks.is_empty() {
            let body = self.block.split().freeze();
            let put = self.store.replica.put(&self.blob, body, &options).await;
            put.map_err(self.store.storage(action))?;
        } else {
            self.upload().await?;
            let put = self
                .store
                .replica
                .put_block_list(&self.blob, &self.blocks, &options)
                .await;
            put.map_err(self.store.storage(action))?;
        }
        Ok(TableRef {
            blob: self.blob,
            from: self.from,
            to: self.to,
            length,
            blake3,
        })
    }

    async fn upload(&mut self) -> Result<(), Error> {
        let place = u32::try_from(self.blocks.len()).ok().and_then(BlockId::at);
        let block = place.ok_or_else(|| Error::Foreign {
            replica: self.store.id.clone(),
            blob: self.blob.clone(),
            why: "it would have more than 50,000 blocks".to_owned(),
        })?;
        let body = self.block.split().freeze();
        let put = self.store.replica.put_block(&self.blob, block, body).await;
        put.map_err(self.store.storage("write a chunk table"))?;
        self.blocks.push(block);
        Ok(())
    }
}

/// What a stream of runs can fail with.
#[derive(Debug)]
pub enum ReadError {
    Storage(crate::blob::Error),
    Table(parts::Error),
}

impl From<parts::Error> for ReadError {
    fn from(error: parts::Error) -> Self {
        ReadError::Table(error)
    }
}

/// Folds neighbouring parts of a disk's table, oldest first, into one.
///
/// # Errors
/// If a part cannot be read or is damaged, or the new one cannot be stored; the old ones stay.
pub async fn fold(
    store: &Store,
    disk: &DiskId,
    size: u64,
    parts: &[TableRef],
    salt: u32,
) -> Result<TableRef, Error> {
    let span = (parts[0].from, parts[parts.len() - 1].to);
    let streams = parts
        .iter()
        .rev()
        .map(|part| Box::pin(runs(store, part.clone(), size)));
    let mut overlay = Overlay::new(streams.collect());
    let mut folded = NewPart::new(store, disk, size, span, salt);
    while let Some(run) = overlay
        .next()
        .await
        .map_err(|error| read_error(store, error))?
    {
        folded.push(&run).await?;
    }
    folded.finish().await
}

/// Reads a part to its end.
///
/// # Errors
/// [`Error::Table`] if it is not what the manifest says; else if it cannot be read.
pub async fn check(store: &Store, part: &TableRef, size: u64) -> Result<(), Error> {
    let read = runs(store, part.clone(), size).try_for_each(async |_| Ok(()));
    read.await.map_err(|error| read_error(store, error))
}

/// Removes a part that no manifest names any more.
///
/// # Errors
/// If it cannot be deleted; it is collected later.
pub async fn remove(store: &Store, part: &TableRef) -> Result<(), Error> {
    let blob = BlobRef::head(&part.blob);
    let deleted = store
        .replica
        .delete(&blob, &Condition::Always, DeleteSnapshots::None)
        .await;
    deleted
        .map(drop)
        .map_err(store.storage("delete a folded chunk table"))
}

fn read_error(store: &Store, error: ReadError) -> Error {
    match error {
        ReadError::Storage(error) => store.storage("read a chunk table")(error),
        ReadError::Table(source) => Error::Table {
            replica: store.id.clone(),
            source,
        },
    }
}

/// The runs of one part, as they are in storage; an error at the end if its hash is wrong.
fn runs(
    store: &Store,
    part: TableRef,
    size: u64,
) -> impl futures::Stream<Item = Result<Run, ReadError>> + Send + use<'_> {
    let blob = BlobRef::head(&part.blob);
    parts::runs(part, size, PIECE, move |range: ByteRange| {
        let blob = blob.clone();
        async move {
            let bytes: Bytes = match store.replica.get(&blob, Some(range), PIECE).await {
                Ok(got) => got.bytes,
                Err(error) if error.is_not_found() => {
                    let blob = blob.name;
                    return Err(ReadError::Table(parts::Error::Missing { blob }));
                }
                Err(error) => return Err(ReadError::Storage(error)),
            };
            debug_assert!(
                bytes.len() <= to_usize(PIECE),
                "the edge keeps to its limit"
            );
            Ok(bytes)
        }
    })
}
