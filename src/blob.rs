//! The storage edge: what replication asks of an Azure Storage account, and a thin client of its REST interface.
//!
//! [`Container`] and [`Account`] are the edge. Implementations: [`client`], the real one, which also speaks to Azurite;
//! [`faulty`], which wraps another and fails as it is told; [`memory`], containers without a service. All say what is
//! true after an error: see [`Error`].
//!
//! | here | what it is |
//! |---|---|
//! | [`names`], [`parameters`], [`answer`] | the values that go in and come out |
//! | [`error`] | what went wrong, whether to ask again, whether it may have happened all the same |
//! | [`client`] | one request, seen through: signed, sent, classified, retried, paced |
//! | [`endpoint`], [`credential`] | where, by which right |
//! | [`pacer`] | how fast one page blob is written |
//! | [`xml`], `date`, `integrity` | the service's formats |
//! | [`once`], [`walk`] | what callers need more than once: creation with a lost reply, whole listings |
//! | [`exported`] | the bytes of a managed disk, by the URL that the control plane grants |
//! | [`faulty`], [`memory`] | the stand-ins for a bad day, and for the service where its pace is in the way |
//!
//! What no part of it ever does: print a signature, a key or a token; send a token without TLS; follow a redirect; send
//! again what must not happen twice; call something done that the service has not said is done.

pub mod answer;
pub mod client;
pub mod credential;
mod date;
pub mod endpoint;
pub mod error;
pub mod exported;
pub mod faulty;
mod integrity;
pub mod memory;
pub mod names;
pub mod once;
pub mod pacer;
pub mod parameters;
pub mod walk;
pub mod xml;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::blob::answer::{
    AccountInformation, ContainerProperties, CopyState, Got, Leased, ListPage, Listed, PageRanges,
    Properties, ServiceProperties, Stored,
};
use crate::blob::endpoint::Endpoint;
use crate::blob::names::{BlobRef, BlockId, ETag, SequenceNumber, SnapshotId};
use crate::blob::parameters::{
    Condition, CopySource, DeleteSnapshots, Include, LeaseAction, Metadata, Permissions, PutOptions,
};
use crate::secret::SasToken;
use crate::units::ByteRange;

pub use error::{Error, Kind};

pub type Result<T> = std::result::Result<T, Error>;

/// The version of the REST interface that every request asks for: it has markers in page lists and CRC64, and every
/// emulator and cloud of interest speaks it.
pub(crate) const VERSION: &str = "2023-11-03";

/// One container, whatever the right by which it is reached.
///
/// A method returns success only after the service has said that it is done. After an error
/// [`Error::outcome_unknown`] says whether it may have been done all the same; dropping a method's future leaves the
/// same uncertainty. Requests are sent again within the client's patience where each method says that a repeat is
/// harmless.
#[async_trait]
pub trait Container: Send + Sync {
    fn name(&self) -> &str;

    /// Writes a whole block blob in one request of at most [`names::PUT_MAX`] bytes; it appears at once or not at all.
    ///
    /// A repeat after a lost reply meets what the first attempt wrote. Under [`Condition::Absent`] that is
    /// [`Kind::AlreadyExists`], or, by a signature that may only create, [`Kind::SignatureRefused`] (some services
    /// answer 403); under [`Condition::Matches`] it is [`Kind::Changed`]. [`Error::repeated`] is then set, and the
    /// caller reads the blob; [`once::create`] does that for small ones.
    ///
    /// # Errors
    /// As above, and [`Kind::Corrupted`] if the bytes were changed on the way.
    async fn put(&self, blob: &str, body: Bytes, options: &PutOptions) -> Result<Stored>;

    /// Uploads one block of a block blob; it is no part of the blob until a list names it. A repeat replaces the block
    /// by itself.
    ///
    /// # Errors
    /// [`Kind::Corrupted`] if the bytes were changed on the way.
    async fn put_block(&self, blob: &str, block: BlockId, body: Bytes) -> Result<()>;

    /// Makes a blob of uploaded blocks, in this order. A repeat meets what the first attempt made, as with
    /// [`Container::put`].
    ///
    /// # Errors
    /// [`Kind::Refused`] if a block was not uploaded, and as [`Container::put`].
    async fn put_block_list(
        &self,
        blob: &str,
        blocks: &[BlockId],
        options: &PutOptions,
    ) -> Result<Stored>;

    /// Reads a blob or a range of it. Of a range, the part beyond the blob's end is missing from the answer; a range
    /// that begins there is an error.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if it has more than `limit` bytes: nothing of it is then read. [`Kind::Refused`] if the range
    /// is empty or begins beyond the end.
    async fn get(&self, blob: &BlobRef, range: Option<ByteRange>, limit: u64) -> Result<Got>;

    /// What the service knows of a blob without its content.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such blob.
    async fn properties(&self, blob: &BlobRef) -> Result<Properties>;

    /// Deletes a blob or one snapshot; `false` if it was not there. A repeat after a lost reply finds nothing, so that
    /// `false` may also mean that this call has deleted it.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if the blob has snapshots that are to stay, or is leased.
    async fn delete(
        &self,
        blob: &BlobRef,
        condition: &Condition,
        snapshots: DeleteSnapshots,
    ) -> Result<bool>;

    /// One page of the blobs whose names begin with `prefix`, in the order of their names, a blob and its
    /// snapshots in no order; [`walk::blobs`] reads all pages. Names are what others wrote there: data, not truth.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such container.
    async fn list(
        &self,
        prefix: &str,
        include: Include,
        marker: Option<&str>,
    ) -> Result<ListPage<Listed>>;

    /// Creates a page blob of `size` zeroes, or replaces exactly the version that `replaces` names (its snapshots
    /// stay). There is no replacing of whatever is there: such a request, delayed, would empty a blob that was written
    /// meanwhile. A repeat after a lost reply is [`Kind::AlreadyExists`] or [`Kind::Changed`].
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`], [`Kind::Changed`] as above.
    async fn create_page_blob(
        &self,
        blob: &str,
        size: u64,
        sequence_number: SequenceNumber,
        metadata: &Metadata,
        replaces: Option<&ETag>,
    ) -> Result<Stored>;

    /// Writes whole pages, at most [`names::PAGES_MAX`] bytes, while the blob's sequence number is `fence`. A repeat
    /// writes the same bytes; that is harmless as long as one sequence number sees one content.
    ///
    /// # Errors
    /// [`Kind::Fenced`] if the sequence number is another. [`Kind::Corrupted`] if the bytes were changed on the way.
    async fn put_pages(
        &self,
        blob: &str,
        offset: u64,
        body: Bytes,
        fence: SequenceNumber,
    ) -> Result<()>;

    /// Makes whole pages zeroes again, in a range of any length, while the blob's sequence number is `fence`. As
    /// harmless to repeat as [`Container::put_pages`].
    ///
    /// # Errors
    /// [`Kind::Fenced`] if the sequence number is another.
    async fn clear_pages(&self, blob: &str, range: ByteRange, fence: SequenceNumber) -> Result<()>;

    /// One page of the ranges of `window` (or of the whole blob) that were ever written, or that differ from the older
    /// snapshot `previous`; [`walk::pages`] reads all of them. Azurite ignores `previous` and lists everything.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the list is out of order or leaves the blob.
    async fn page_ranges(
        &self,
        blob: &BlobRef,
        window: Option<ByteRange>,
        previous: Option<&SnapshotId>,
        marker: Option<&str>,
    ) -> Result<PageRanges>;

    /// Raises a page blob's sequence number to `number` if it is lower, and says what it is then: higher means that
    /// somebody else has taken over. A repeat changes nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such blob.
    async fn set_sequence_number(
        &self,
        blob: &str,
        number: SequenceNumber,
    ) -> Result<SequenceNumber>;

    /// Changes a page blob's size; what lies beyond a smaller one is lost, what a larger one adds is zeroes. A repeat
    /// changes nothing, but a delayed one takes effect when it arrives: resize only what nobody else resizes.
    ///
    /// # Errors
    /// [`Kind::Changed`] if the condition does not hold.
    async fn resize(&self, blob: &str, size: u64, condition: &Condition) -> Result<Stored>;

    /// Takes a snapshot. Without metadata it gets the blob's. A repeat would take another one, so that it is not sent
    /// again after a lost reply: list the snapshots and look for the metadata.
    ///
    /// # Errors
    /// [`Kind::Changed`] if the condition does not hold.
    async fn snapshot(
        &self,
        blob: &str,
        metadata: &Metadata,
        condition: &Condition,
    ) -> Result<SnapshotId>;

    /// Takes, keeps or ends the lease of a blob; while it is leased, requests of this module cannot write it. A repeat
    /// changes nothing, except that a lease which was given back cannot be given back again: [`Kind::Conflict`].
    ///
    /// # Errors
    /// [`Kind::Conflict`] if somebody else holds it.
    async fn lease(&self, blob: &str, action: LeaseAction) -> Result<Leased>;

    /// Starts a copy of another blob of the account; how it goes on is in [`Properties::copy`]. A repeat could copy
    /// over what was begun, so that it is not sent again after a lost reply: ask for the properties.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such source. [`Kind::AlreadyExists`], [`Kind::Changed`] if the condition does
    /// not hold.
    async fn copy_from(
        &self,
        blob: &str,
        source: &CopySource,
        condition: &Condition,
    ) -> Result<CopyState>;
}

/// A whole storage account, for those who have rights over it: the controller and the data path.
#[async_trait]
pub trait Account: Send + Sync {
    fn endpoint(&self) -> &Endpoint;

    /// A container of the account, whether it exists or not. Containers of one account share their pace and their
    /// connections.
    fn container(&self, name: &str) -> Arc<dyn Container>;

    /// Creates a container; `false` if it was there. A repeat after a lost reply finds it there.
    ///
    /// # Errors
    /// [`Kind::Conflict`] while one of the same name is being deleted, which takes the service half a minute or more.
    async fn create_container(&self, name: &str) -> Result<bool>;

    /// Deletes a container and all that is in it; `false` if it was not there.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it is leased.
    async fn delete_container(&self, name: &str) -> Result<bool>;

    /// The container, if it exists.
    ///
    /// # Errors
    /// If the service cannot be asked.
    async fn container_properties(&self, name: &str) -> Result<Option<ContainerProperties>>;

    /// One page of the containers whose names begin with `prefix`; [`walk::containers`] reads all pages.
    ///
    /// # Errors
    /// If the service cannot be asked.
    async fn list_containers(
        &self,
        prefix: &str,
        marker: Option<&str>,
    ) -> Result<ListPage<ContainerProperties>>;

    /// What kind of account it is (Get Account Information).
    ///
    /// # Errors
    /// If the service cannot be asked.
    async fn information(&self) -> Result<AccountInformation>;

    /// Settings that make page blobs costly (Get Blob Service Properties).
    ///
    /// # Errors
    /// If the service cannot be asked, or the identity may not ask.
    async fn service_properties(&self) -> Result<ServiceProperties>;

    /// A shared access signature for one container: a service SAS with the account's key, a user-delegation SAS with an
    /// Entra identity. `start` is best some minutes ago, because clocks differ.
    ///
    /// # Errors
    /// [`Kind::Refused`] if an identity is to sign for more than seven days.
    async fn sas(
        &self,
        container: &str,
        permissions: Permissions,
        start: Timestamp,
        expiry: Timestamp,
    ) -> Result<SasToken>;
}
