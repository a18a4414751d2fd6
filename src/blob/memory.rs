//! A container in memory: what replication asks of one, without a network, an emulator's process or its pace.
//!
//! It refuses what the service refuses (the same tests run against it and the emulator), and what it does not have:
//! leases, and copies between blobs. Its lists come in short pages, so that whoever reads them reads all of them. Its
//! clock is its owner's, and ages are counted by it.

mod shelf;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::blob::answer::{
    CopyState, Got, Leased, ListPage, Listed, PageRanges, Properties, Stored,
};
use crate::blob::error::{Error, Kind, Operation};
use crate::blob::memory::shelf::{Failed, Shelf};
use crate::blob::names::{
    BlobRef, BlockId, ETag, Invalid, PAGES_MAX, PUT_MAX, SequenceNumber, SnapshotId, check_blob,
    check_page_blob_size, check_pages,
};
use crate::blob::parameters::{
    Condition, CopySource, DeleteSnapshots, Include, LeaseAction, Metadata, Permissions,
    PutOptions, check_metadata,
};
use crate::blob::{Container, Result};
use crate::units::{ByteRange, Clock, to_u64};

/// Everything: what an account's key may do.
const OWNER: Permissions = Permissions {
    read: true,
    create: true,
    write: true,
    delete: true,
    list: true,
};

/// A container in memory, by one right. Clones are the same container.
#[derive(Clone)]
pub struct MemoryContainer {
    name: String,
    right: Permissions,
    shelf: Arc<Mutex<Shelf>>,
}

impl MemoryContainer {
    /// An empty container, with every right to it.
    pub fn new(name: &str, clock: Arc<dyn Clock>) -> Self {
        MemoryContainer {
            name: name.to_owned(),
            right: OWNER,
            shelf: Arc::new(Mutex::new(Shelf::new(clock))),
        }
    }

    /// The same container, as a shared access signature reaches it.
    #[must_use]
    pub fn by_signature(&self, right: Permissions) -> Self {
        MemoryContainer {
            right,
            ..self.clone()
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<T>(
        &self,
        operation: Operation,
        blob: &str,
        act: impl FnOnce(&mut Shelf) -> std::result::Result<T, Failed>,
    ) -> Result<T> {
        let object = || format!("{}/{blob}", self.name);
        check_blob(blob).map_err(|why| Error::invalid(operation, object(), why))?;
        act(&mut self.shelf()).map_err(|failed| failed.of(operation, object()))
    }

    /// A write of `blob`: by the right to create, only what is not there.
    fn write<T>(
        &self,
        operation: Operation,
        blob: &str,
        creating: bool,
        act: impl FnOnce(&mut Shelf) -> std::result::Result<T, Failed>,
    ) -> Result<T> {
        let right = self.right;
        self.run(operation, blob, |shelf| {
            match shelf.has(blob) {
                _ if right.write => {}
                // UnauthorizedBlobOverwrite
                true if right.create && creating => return Err(Failed(Kind::AlreadyExists)),
                false if right.create => {}
                true | false => return Err(Failed(Kind::SignatureRefused)),
            }
            act(shelf)
        })
    }

    fn checked(
        &self,
        operation: Operation,
        blob: &str,
        check: std::result::Result<(), Invalid>,
    ) -> Result<()> {
        check.map_err(|why| Error::invalid(operation, format!("{}/{blob}", self.name), why))
    }

    fn read_right(&self) -> std::result::Result<(), Failed> {
        allowed(self.right.read)
    }

    fn lacks<T>(&self, operation: Operation, blob: &str, what: &'static str) -> Result<T> {
        let why = Invalid::new(blob, what);
        Err(Error::invalid(
            operation,
            format!("{}/{blob}", self.name),
            why,
        ))
    }
}

fn allowed(right: bool) -> std::result::Result<(), Failed> {
    match right {
        true => Ok(()),
        false => Err(Failed(Kind::SignatureRefused)),
    }
}

fn at_most(size: u64, most: u64, rule: &'static str) -> std::result::Result<(), Invalid> {
    match size <= most {
        true => Ok(()),
        false => Err(Invalid::new(format!("{size} bytes"), rule)),
    }
}

#[async_trait]
impl Container for MemoryContainer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, blob: &str, body: Bytes, options: &PutOptions) -> Result<Stored> {
        let operation = Operation::PutBlob;
        let length = at_most(
            to_u64(body.len()),
            PUT_MAX,
            "one request writes at most 256 MiB",
        );
        self.checked(operation, blob, length)?;
        self.checked(operation, blob, check_metadata(&options.metadata))?;
        let creating = options.condition == Condition::Absent;
        self.write(operation, blob, creating, |shelf| {
            shelf.put(blob, body, options)
        })
    }

    async fn put_block(&self, blob: &str, block: BlockId, body: Bytes) -> Result<()> {
        let operation = Operation::PutBlock;
        let length = at_most(to_u64(body.len()), PUT_MAX, "a block has at most 256 MiB");
        self.checked(operation, blob, length)?;
        self.write(operation, blob, false, |shelf| {
            shelf.put_block(blob, block, body);
            Ok(())
        })
    }

    async fn put_block_list(
        &self,
        blob: &str,
        blocks: &[BlockId],
        options: &PutOptions,
    ) -> Result<Stored> {
        let operation = Operation::PutBlockList;
        self.checked(operation, blob, check_metadata(&options.metadata))?;
        let creating = options.condition == Condition::Absent;
        self.write(operation, blob, creating, |shelf| {
            shelf.put_block_list(blob, blocks, options)
        })
    }

    async fn get(&self, blob: &BlobRef, range: Option<ByteRange>, limit: u64) -> Result<Got> {
        self.run(Operation::GetBlob, &blob.name, |shelf| {
            self.read_right()?;
            shelf.get(blob, range, limit)
        })
    }

    async fn properties(&self, blob: &BlobRef) -> Result<Properties> {
        self.run(Operation::GetProperties, &blob.name, |shelf| {
            self.read_right()?;
            shelf.properties(blob)
        })
    }

    async fn delete(
        &self,
        blob: &BlobRef,
        condition: &Condition,
        snapshots: DeleteSnapshots,
    ) -> Result<bool> {
        self.run(Operation::DeleteBlob, &blob.name, |shelf| {
            allowed(self.right.delete)?;
            shelf.delete(blob, condition, snapshots)
        })
    }

    async fn list(
        &self,
        prefix: &str,
        include: Include,
        marker: Option<&str>,
    ) -> Result<ListPage<Listed>> {
        allowed(self.right.list)
            .map_err(|failed| failed.of(Operation::ListBlobs, self.name.clone()))?;
        Ok(self.shelf().list(prefix, include, marker))
    }

    async fn create_page_blob(
        &self,
        blob: &str,
        size: u64,
        sequence_number: SequenceNumber,
        metadata: &Metadata,
        replaces: Option<&ETag>,
    ) -> Result<Stored> {
        let operation = Operation::CreatePageBlob;
        self.checked(operation, blob, check_page_blob_size(size))?;
        self.checked(operation, blob, check_metadata(metadata))?;
        self.write(operation, blob, replaces.is_none(), |shelf| {
            shelf.create_page_blob(blob, size, sequence_number, metadata, replaces)
        })
    }

    async fn put_pages(
        &self,
        blob: &str,
        offset: u64,
        body: Bytes,
        fence: SequenceNumber,
    ) -> Result<()> {
        let (operation, size) = (Operation::PutPages, to_u64(body.len()));
        self.checked(operation, blob, check_pages(offset, size))?;
        let length = at_most(size, PAGES_MAX, "one request writes at most 4 MiB of pages");
        self.checked(operation, blob, length)?;
        self.write(operation, blob, false, |shelf| {
            let range = ByteRange::at(offset, size).ok_or(Failed(Kind::Refused))?;
            shelf.write_pages(blob, range, Some(&body), fence)
        })
    }

    async fn clear_pages(&self, blob: &str, range: ByteRange, fence: SequenceNumber) -> Result<()> {
        let operation = Operation::ClearPages;
        self.checked(operation, blob, check_pages(range.start(), range.len()))?;
        self.write(operation, blob, false, |shelf| {
            shelf.write_pages(blob, range, None, fence)
        })
    }

    async fn page_ranges(
        &self,
        blob: &BlobRef,
        window: Option<ByteRange>,
        _previous: Option<&SnapshotId>,
        _marker: Option<&str>,
    ) -> Result<PageRanges> {
        self.run(Operation::GetPageRanges, &blob.name, |shelf| {
            self.read_right()?;
            shelf.page_ranges(blob, window)
        })
    }

    async fn set_sequence_number(
        &self,
        blob: &str,
        number: SequenceNumber,
    ) -> Result<SequenceNumber> {
        self.write(Operation::SetSequenceNumber, blob, false, |shelf| {
            shelf.set_sequence_number(blob, number)
        })
    }

    async fn resize(&self, blob: &str, size: u64, condition: &Condition) -> Result<Stored> {
        let operation = Operation::Resize;
        self.checked(operation, blob, check_page_blob_size(size))?;
        self.write(operation, blob, false, |shelf| {
            shelf.resize(blob, size, condition)
        })
    }

    async fn snapshot(
        &self,
        blob: &str,
        metadata: &Metadata,
        condition: &Condition,
    ) -> Result<SnapshotId> {
        let operation = Operation::Snapshot;
        self.checked(operation, blob, check_metadata(metadata))?;
        let right = self.right.write || self.right.create;
        self.run(operation, blob, |shelf| {
            allowed(right)?;
            shelf.snapshot(blob, metadata, condition)
        })
    }

    async fn lease(&self, blob: &str, _action: LeaseAction) -> Result<Leased> {
        self.lacks(
            Operation::Lease,
            blob,
            "a container in memory has no leases",
        )
    }

    async fn copy_from(
        &self,
        blob: &str,
        _source: &CopySource,
        _condition: &Condition,
    ) -> Result<CopyState> {
        self.lacks(
            Operation::CopyBlob,
            blob,
            "a container in memory has no copies",
        )
    }
}
