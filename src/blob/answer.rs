//! What the storage account says, as values. Data only.
//!
//! Times are the service's own clock: `date` is when it answered, and ages are counted by it, never by ours.

use bytes::Bytes;
use jiff::Timestamp;

use crate::blob::names::{ETag, SequenceNumber, SnapshotId};
use crate::blob::parameters::Metadata;
use crate::units::ByteRange;

/// A write that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub etag: ETag,
    pub last_modified: Timestamp,
    pub date: Timestamp,
}

/// A blob's content, or a range of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub bytes: Bytes,
    pub etag: ETag,
    /// The whole blob's length in bytes, whatever range was asked for.
    pub total_length: u64,
    pub last_modified: Timestamp,
    pub date: Timestamp,
}

/// What the service knows of a blob without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    pub etag: ETag,
    /// Bytes.
    pub length: u64,
    pub kind: BlobKind,
    /// Page blobs only.
    pub sequence_number: Option<SequenceNumber>,
    /// Names in lower case.
    pub metadata: Metadata,
    pub lease: LeaseState,
    /// The last copy into this blob, if it was the target of one and was not written since.
    pub copy: Option<CopyState>,
    pub last_modified: Timestamp,
    pub date: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobKind {
    Block,
    Page,
    Append,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Also where the service says nothing, as for snapshots.
    Available,
    Leased,
    Expired,
    Breaking,
    Broken,
}

/// A copy, which the service carries out on its own time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyState {
    pub id: String,
    pub status: CopyStatus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyStatus {
    /// Bytes copied and to copy in all, where told.
    Pending {
        copied: Option<(u64, u64)>,
    },
    Success,
    Aborted,
    /// In the service's words.
    Failed {
        description: String,
    },
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage<Item> {
    pub items: Vec<Item>,
    /// Where the next page begins; a page may be empty and yet have a next one.
    pub next: Option<String>,
    pub date: Timestamp,
}

/// A blob or blob snapshot of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub snapshot: Option<SnapshotId>,
    pub etag: ETag,
    /// Bytes.
    pub length: u64,
    pub kind: BlobKind,
    pub last_modified: Timestamp,
    /// When the blob was created, where told.
    pub created: Option<Timestamp>,
    /// Empty unless asked for. Names in lower case.
    pub metadata: Metadata,
}

/// A container of a listing, or one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerProperties {
    pub name: String,
    pub etag: ETag,
    pub last_modified: Timestamp,
}

/// Some of a page blob's ranges that were written, in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRanges {
    /// Not overlapping; neighbours of one kind are joined.
    pub ranges: Vec<PageRange>,
    /// What to ask with for the ranges after these.
    pub next: Option<String>,
    /// Bytes of the whole blob.
    pub blob_length: u64,
    pub etag: ETag,
    pub date: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    pub range: ByteRange,
    pub kind: PageKind,
}

/// What a range of pages is, compared with the earlier snapshot or, without one, with an empty blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Was written; it may hold the same bytes as before.
    Written,
    /// Was cleared: it reads as zeroes.
    Cleared,
}

/// A lease after an action on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Who holds it now.
    pub id: Option<uuid::Uuid>,
}

/// What kind of account this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountInformation {
    /// `Standard_LRS`, `Premium_LRS`, …
    pub sku: String,
    /// `StorageV2`, `BlobStorage`, …
    pub kind: String,
    /// Page blobs need an account without one. Nothing where the service does not say.
    pub hierarchical_namespace: Option<bool>,
}

/// Settings of the blob service that make page blobs costly. Nothing where the service does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceProperties {
    /// Days that deleted blobs are kept; zero if they are not.
    pub soft_delete_days: Option<u32>,
    pub versioning: Option<bool>,
}
