//! A container on a bad day. Every method is that of another container, with the trouble that it meets.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::blob::answer::{
    CopyState, Got, Leased, ListPage, Listed, PageRanges, Properties, Stored,
};
use crate::blob::error::{Error, Operation};
use crate::blob::faulty::Faults;
use crate::blob::names::{
    BlobRef, BlockId, ETag, Invalid, PAGES_MAX, SequenceNumber, SnapshotId, check_pages,
};
use crate::blob::parameters::{
    Condition, CopySource, DeleteSnapshots, Include, LeaseAction, Metadata, PutOptions,
};
use crate::blob::{Container, Result};
use crate::units::{ByteRange, to_u64};

/// A container on a bad day.
#[derive(Clone)]
pub struct FaultyContainer {
    inner: Arc<dyn Container>,
    faults: Arc<Faults>,
}

impl FaultyContainer {
    pub fn new(inner: Arc<dyn Container>, faults: Arc<Faults>) -> Self {
        FaultyContainer { inner, faults }
    }

    /// Carries out `act`, which owns what it needs: it may outlive its caller.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        blob: &str,
        act: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.faults.run(operation, self.object(blob), act).await
    }

    fn object(&self, blob: &str) -> String {
        format!("{}/{blob}", self.inner.name())
    }
}

#[async_trait]
impl Container for FaultyContainer {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn put(&self, blob: &str, body: Bytes, options: &PutOptions) -> Result<Stored> {
        let (to, name, options) = (self.inner.clone(), blob.to_owned(), options.clone());
        let act = async move { to.put(&name, body, &options).await };
        self.run(Operation::PutBlob, blob, act).await
    }

    async fn put_block(&self, blob: &str, block: BlockId, body: Bytes) -> Result<()> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let act = async move { to.put_block(&name, block, body).await };
        self.run(Operation::PutBlock, blob, act).await
    }

    async fn put_block_list(
        &self,
        blob: &str,
        blocks: &[BlockId],
        options: &PutOptions,
    ) -> Result<Stored> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let (blocks, options) = (blocks.to_vec(), options.clone());
        let act = async move { to.put_block_list(&name, &blocks, &options).await };
        self.run(Operation::PutBlockList, blob, act).await
    }

    async fn get(&self, blob: &BlobRef, range: Option<ByteRange>, limit: u64) -> Result<Got> {
        let (to, wanted) = (self.inner.clone(), blob.clone());
        let act = async move { to.get(&wanted, range, limit).await };
        self.run(Operation::GetBlob, &blob.name, act).await
    }

    async fn properties(&self, blob: &BlobRef) -> Result<Properties> {
        let (to, wanted) = (self.inner.clone(), blob.clone());
        let act = async move { to.properties(&wanted).await };
        self.run(Operation::GetProperties, &blob.name, act).await
    }

    async fn delete(
        &self,
        blob: &BlobRef,
        condition: &Condition,
        snapshots: DeleteSnapshots,
    ) -> Result<bool> {
        let (to, wanted, condition) = (self.inner.clone(), blob.clone(), condition.clone());
        let act = async move { to.delete(&wanted, &condition, snapshots).await };
        self.run(Operation::DeleteBlob, &blob.name, act).await
    }

    async fn list(
        &self,
        prefix: &str,
        include: Include,
        marker: Option<&str>,
    ) -> Result<ListPage<Listed>> {
        let to = self.inner.clone();
        let (wanted, marker) = (prefix.to_owned(), marker.map(str::to_owned));
        let act = async move { to.list(&wanted, include, marker.as_deref()).await };
        self.run(Operation::ListBlobs, prefix, act).await
    }

    async fn create_page_blob(
        &self,
        blob: &str,
        size: u64,
        sequence_number: SequenceNumber,
        metadata: &Metadata,
        replaces: Option<&ETag>,
    ) -> Result<Stored> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let (metadata, replaces) = (metadata.clone(), replaces.cloned());
        let act = async move {
            to.create_page_blob(&name, size, sequence_number, &metadata, replaces.as_ref())
                .await
        };
        self.run(Operation::CreatePageBlob, blob, act).await
    }

    async fn put_pages(
        &self,
        blob: &str,
        offset: u64,
        body: Bytes,
        fence: SequenceNumber,
    ) -> Result<()> {
        let size = to_u64(body.len());
        let checked = check_pages(offset, size).and_then(|()| {
            let rule = "one request writes at most 4 MiB of pages";
            (size <= PAGES_MAX)
                .then_some(())
                .ok_or_else(|| Invalid::new(format!("{size} bytes"), rule))
        });
        checked.map_err(|why| Error::invalid(Operation::PutPages, self.object(blob), why))?;
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let act = async move { to.put_pages(&name, offset, body, fence).await };
        self.run(Operation::PutPages, blob, act).await
    }

    async fn clear_pages(&self, blob: &str, range: ByteRange, fence: SequenceNumber) -> Result<()> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let act = async move { to.clear_pages(&name, range, fence).await };
        self.run(Operation::ClearPages, blob, act).await
    }

    async fn page_ranges(
        &self,
        blob: &BlobRef,
        window: Option<ByteRange>,
        previous: Option<&SnapshotId>,
        marker: Option<&str>,
    ) -> Result<PageRanges> {
        let (to, wanted) = (self.inner.clone(), blob.clone());
        let (previous, marker) = (previous.cloned(), marker.map(str::to_owned));
        let act = async move {
            to.page_ranges(&wanted, window, previous.as_ref(), marker.as_deref())
                .await
        };
        self.run(Operation::GetPageRanges, &blob.name, act).await
    }

    async fn set_sequence_number(
        &self,
        blob: &str,
        number: SequenceNumber,
    ) -> Result<SequenceNumber> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let act = async move { to.set_sequence_number(&name, number).await };
        self.run(Operation::SetSequenceNumber, blob, act).await
    }

    async fn resize(&self, blob: &str, size: u64, condition: &Condition) -> Result<Stored> {
        let (to, name, condition) = (self.inner.clone(), blob.to_owned(), condition.clone());
        let act = async move { to.resize(&name, size, &condition).await };
        self.run(Operation::Resize, blob, act).await
    }

    async fn snapshot(
        &self,
        blob: &str,
        metadata: &Metadata,
        condition: &Condition,
    ) -> Result<SnapshotId> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let (metadata, condition) = (metadata.clone(), condition.clone());
        let act = async move { to.snapshot(&name, &metadata, &condition).await };
        self.run(Operation::Snapshot, blob, act).await
    }

    async fn lease(&self, blob: &str, action: LeaseAction) -> Result<Leased> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let act = async move { to.lease(&name, action).await };
        self.run(Operation::Lease, blob, act).await
    }

    async fn copy_from(
        &self,
        blob: &str,
        source: &CopySource,
        condition: &Condition,
    ) -> Result<CopyState> {
        let (to, name) = (self.inner.clone(), blob.to_owned());
        let (source, condition) = (source.clone(), condition.clone());
        let act = async move { to.copy_from(&name, &source, &condition).await };
        self.run(Operation::CopyBlob, blob, act).await
    }
}
