//! One container over HTTP. Every method is a request of [`super`], read.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::blob::answer::{
    CopyState, Got, Leased, ListPage, Listed, PageRange, PageRanges, Properties, Stored,
};
use crate::blob::client::call::Call;
use crate::blob::client::{Client, Options, Reply, blob_calls, page_calls, read};
use crate::blob::credential::{Credential, RenewableSas};
use crate::blob::endpoint::Endpoint;
use crate::blob::error::{Error, Kind, Operation};
use crate::blob::names::{BlobRef, BlockId, ETag, Invalid, SequenceNumber, SnapshotId};
use crate::blob::parameters::{
    Condition, CopySource, DeleteSnapshots, Include, LeaseAction, Metadata, PutOptions,
};
use crate::blob::xml;
use crate::blob::{Container, Result};
use crate::transport::http::Http;
use crate::units::ByteRange;

/// A container of a storage account.
#[derive(Clone)]
pub struct ContainerClient {
    client: Arc<Client>,
    name: String,
}

impl ContainerClient {
    /// A container that is reached by a shared access signature for it alone, as an agent does.
    pub fn with_sas(
        http: &Http,
        endpoint: Endpoint,
        container: impl Into<String>,
        sas: RenewableSas,
        options: Options,
    ) -> Self {
        let client = Client::new(http, endpoint, Credential::Signature(sas), options);
        ContainerClient::of(Arc::new(client), container)
    }

    pub(crate) fn of(client: Arc<Client>, name: impl Into<String>) -> Self {
        ContainerClient {
            client,
            name: name.into(),
        }
    }

    async fn send(&self, call: Call) -> Result<Reply> {
        self.client.send(call).await
    }

    fn object(&self, blob: &str) -> String {
        self.client.endpoint().object(Some(&self.name), Some(blob))
    }
}

#[async_trait]
impl Container for ContainerClient {
    fn name(&self) -> &str {
        &self.name
    }

    async fn put(&self, blob: &str, body: Bytes, options: &PutOptions) -> Result<Stored> {
        let call = blob_calls::put(&self.name, blob, body, options);
        self.send(call).await?.read(read::stored)
    }

    async fn put_block(&self, blob: &str, block: BlockId, body: Bytes) -> Result<()> {
        let call = blob_calls::put_block(&self.name, blob, block, body);
        self.send(call).await?.read(read::date).map(drop)
    }

    async fn put_block_list(
        &self,
        blob: &str,
        blocks: &[BlockId],
        options: &PutOptions,
    ) -> Result<Stored> {
        let call = blob_calls::put_block_list(&self.name, blob, blocks, options);
        self.send(call).await?.read(read::stored)
    }

    async fn get(&self, blob: &BlobRef, range: Option<ByteRange>, limit: u64) -> Result<Got> {
        let call = blob_calls::get(&self.name, blob, range, limit);
        let got = self
            .send(call)
            .await?
            .read(|answer| read::got(answer, range))?;
        if got.bytes.is_empty() && range.is_some() {
            // Azure refuses this itself; an emulator may answer with nothing.
            let object = self.object(&blob.name);
            let why = Invalid::new(
                format!("{} bytes", got.total_length),
                "the range begins beyond",
            );
            return Err(Error::invalid(Operation::GetBlob, object, why));
        }
        Ok(got)
    }

    async fn properties(&self, blob: &BlobRef) -> Result<Properties> {
        let call = blob_calls::properties(&self.name, blob);
        self.send(call).await?.read(read::properties)
    }

    async fn delete(
        &self,
        blob: &BlobRef,
        condition: &Condition,
        snapshots: DeleteSnapshots,
    ) -> Result<bool> {
        let call = blob_calls::delete(&self.name, blob, condition, snapshots);
        found(self.send(call).await)
    }

    async fn list(
        &self,
        prefix: &str,
        include: Include,
        marker: Option<&str>,
    ) -> Result<ListPage<Listed>> {
        let call = blob_calls::list(&self.name, prefix, include, marker);
        self.send(call).await?.read(|answer| {
            let page = xml::listing::blobs(&answer.body)?;
            Ok(ListPage {
                items: page.items,
                next: page.next,
                date: read::date(answer)?,
            })
        })
    }

    async fn create_page_blob(
        &self,
        blob: &str,
        size: u64,
        sequence_number: SequenceNumber,
        metadata: &Metadata,
        replaces: Option<&ETag>,
    ) -> Result<Stored> {
        let call = page_calls::create(&self.name, blob, size, sequence_number, metadata, replaces);
        self.send(call).await?.read(read::stored)
    }

    async fn put_pages(
        &self,
        blob: &str,
        offset: u64,
        body: Bytes,
        fence: SequenceNumber,
    ) -> Result<()> {
        let call = page_calls::put_pages(&self.name, blob, offset, body, fence);
        self.send(call).await?.read(read::stored).map(drop)
    }

    async fn clear_pages(&self, blob: &str, range: ByteRange, fence: SequenceNumber) -> Result<()> {
        let call = page_calls::clear_pages(&self.name, blob, range, fence);
        self.send(call).await?.read(read::stored).map(drop)
    }

    async fn page_ranges(
        &self,
        blob: &BlobRef,
        window: Option<ByteRange>,
        previous: Option<&SnapshotId>,
        marker: Option<&str>,
    ) -> Result<PageRanges> {
        let call = page_calls::page_ranges(&self.name, blob, window, previous, marker);
        self.send(call).await?.read(|answer| {
            let blob_length = read::blob_length(answer)?;
            let pages = xml::pages::ranges(&answer.body, blob_length)?;
            Ok(PageRanges {
                ranges: inside(pages.ranges, window),
                next: pages.next,
                blob_length,
                etag: read::required(&answer.headers, "etag")?,
                date: read::date(answer)?,
            })
        })
    }

    async fn set_sequence_number(
        &self,
        blob: &str,
        number: SequenceNumber,
    ) -> Result<SequenceNumber> {
        let call = page_calls::set_sequence_number(&self.name, blob, number);
        self.send(call).await?.read(read::sequence_number)
    }

    async fn resize(&self, blob: &str, size: u64, condition: &Condition) -> Result<Stored> {
        let call = page_calls::resize(&self.name, blob, size, condition);
        self.send(call).await?.read(read::stored)
    }

    async fn snapshot(
        &self,
        blob: &str,
        metadata: &Metadata,
        condition: &Condition,
    ) -> Result<SnapshotId> {
        let call = blob_calls::snapshot(&self.name, blob, metadata, condition);
        self.send(call).await?.read(read::snapshot)
    }

    async fn lease(&self, blob: &str, action: LeaseAction) -> Result<Leased> {
        let call = blob_calls::lease(&self.name, blob, action);
        self.send(call).await?.read(read::leased)
    }

    async fn copy_from(
        &self,
        blob: &str,
        source: &CopySource,
        condition: &Condition,
    ) -> Result<CopyState> {
        let source_url = self
            .client
            .endpoint()
            .url(Some(&source.container), Some(&source.blob.name));
        let call = blob_calls::copy_from(&self.name, blob, source, source_url, condition);
        self.send(call).await?.read(read::started_copy)
    }
}

/// Whether there was something to delete.
pub(crate) fn found(result: std::result::Result<Reply, Error>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind == Kind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What of `ranges` lies in the window: the service may list a range whole that only begins there.
fn inside(ranges: Vec<PageRange>, window: Option<ByteRange>) -> Vec<PageRange> {
    let Some(window) = window else { return ranges };
    ranges
        .into_iter()
        .map(|page| PageRange {
            range: window.intersect(page.range),
            ..page
        })
        .filter(|page| !page.range.is_empty())
        .collect()
}
