//! The page blob of a disk: made, fenced, and grown. Nothing that is not ours is written to.
//!
//! ```text
//! 0 ……………………… size ┄┄ whole MiB │ footer        a fixed VHD
//! 0 ……………………………………………… old MiB │ zeroes … │ footer   grown
//! ```
//! Growing has a fence of its own, before the one of the cycle that brings what is in the new part: the old footer
//! becomes zeroes, and a request for that which arrives late must not empty what was written there since. The manifest
//! says from what a disk grows until that cycle is published, so whoever dies in it leaves the same thing to be done
//! again.

use jiff::Timestamp;

use crate::blob::answer::Properties;
use crate::blob::names::{BlobRef, SequenceNumber};
use crate::blob::parameters::{Condition, Metadata};
use crate::datapath::Error;
use crate::datapath::store::Store;
use crate::formats::vhd;
use crate::ids::DiskId;
use crate::replica::manifest::{ReplicaDisk, WriterMark};
use crate::replica::names;
use crate::units::{ByteRange, MIB, SECTOR};

/// Blob metadata that says whose a page blob or a snapshot is.
pub const META_REPLICA: &str = "replica";
pub const META_DISK: &str = "disk";

/// Azure takes disks of whole mebibytes.
pub const fn padded(size: u64) -> u64 {
    size.next_multiple_of(MIB)
}

/// The sequence number that page writes of a cycle demand.
///
/// # Panics
/// Never: a fence has at most 63 bits.
pub fn fence_of(writer: WriterMark) -> SequenceNumber {
    SequenceNumber::new(writer.fence()).expect("a fence has at most 63 bits")
}

/// What a disk's page blob, and each of its snapshots, says of itself.
pub fn metadata_of(store: &Store, id: &DiskId) -> Metadata {
    [(META_REPLICA, store.id.as_str()), (META_DISK, id.as_str())]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// What storage knows of a disk's blob; nothing if there is none.
///
/// # Errors
/// [`Error::Foreign`] if somebody else's stands there.
pub async fn find(store: &Store, id: &DiskId) -> Result<Option<Properties>, Error> {
    let blob = names::disk(id);
    match store.replica.properties(&BlobRef::head(&blob)).await {
        Ok(found) if is_ours(&found.metadata, store, id) => Ok(Some(found)),
        Ok(_) => Err(foreign(store, id, "it does not say that it is this disk")),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(store.storage("look at a disk")(error)),
    }
}

/// Makes sure that the disk's page blob is there, is ours, and takes no writes but those of `fence`.
///
/// # Errors
/// If it is not, or cannot be made.
pub async fn prepare(
    store: &Store,
    id: &DiskId,
    disk: &ReplicaDisk,
    fence: SequenceNumber,
) -> Result<(), Error> {
    let length = padded(disk.size) + SECTOR;
    match find(store, id).await? {
        Some(found) if found.length == length => {}
        Some(found) => {
            let why = format!("it has {} bytes and not {length}", found.length);
            return Err(foreign(store, id, &why));
        }
        None if disk.tables.is_empty() => create(store, id, length).await?,
        // In a blob that is made anew everything is zero, and the next recovery point would say so of all that was not
        // written since.
        None => return Err(store.lost(&names::disk(id), "it was written to")),
    }
    take(store, id, fence).await?;
    if disk.tables.is_empty() {
        put_footer(store, id, disk.size, fence).await?;
    }
    Ok(())
}

async fn create(store: &Store, id: &DiskId, length: u64) -> Result<(), Error> {
    let (blob, metadata) = (names::disk(id), metadata_of(store, id));
    let created = store
        .replica
        .create_page_blob(&blob, length, SequenceNumber::ZERO, &metadata, None)
        .await;
    match created {
        Ok(_) => Ok(()),
        // A lost reply of an earlier attempt; what stands there is looked at the next time.
        Err(error) if error.is_already_exists() && error.repeated => Ok(()),
        Err(error) => Err(store.storage("create a disk")(error)),
    }
}

/// Makes `fence` the sequence number of a disk's blob.
async fn take(store: &Store, id: &DiskId, fence: SequenceNumber) -> Result<(), Error> {
    let now = store
        .replica
        .set_sequence_number(&names::disk(id), fence)
        .await;
    if now.map_err(store.storage("fence a disk"))? != fence {
        return Err(store.fenced());
    }
    Ok(())
}

/// Fences a disk for a new owner. One that was marked and not created yet needs no fence.
///
/// # Errors
/// [`Error::Fenced`] if there is a newer one, [`Error::Foreign`] if what stands there takes no fence and is not ours.
pub async fn take_over(store: &Store, id: &DiskId, fence: SequenceNumber) -> Result<(), Error> {
    match take(store, id, fence).await {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error @ Error::Storage { .. }) => match find(store, id).await {
            Err(foreign @ Error::Foreign { .. }) => Err(foreign),
            Ok(_) | Err(_) => Err(error),
        },
        taken => taken,
    }
}

/// Makes a blob as large as its disk has become since it had `from` bytes: what is new is zeroes, the old footer too.
/// One that does not exist yet has nothing to grow.
///
/// # Errors
/// If it is not ours, is larger than that, or cannot be changed.
pub async fn grow(
    store: &Store,
    id: &DiskId,
    (from, to): (u64, u64),
    fence: SequenceNumber,
) -> Result<(), Error> {
    let length = padded(to) + SECTOR;
    if find(store, id).await?.is_none() {
        return Ok(());
    }
    take(store, id, fence).await?;
    let Some(found) = find(store, id).await? else {
        return Ok(());
    };
    if found.length > length {
        let why = format!("it has {} bytes, more than {length}", found.length);
        return Err(foreign(store, id, &why));
    }
    let blob = names::disk(id);
    if found.length < length {
        // A request that arrives late finds another tag, and does not shorten what has grown farther.
        let unchanged = Condition::Matches(found.etag);
        let resized = store.replica.resize(&blob, length, &unchanged).await;
        resized.map_err(store.storage("enlarge a disk"))?;
    }
    let added = ByteRange::new(padded(from), padded(to)).unwrap_or(ByteRange::to(0));
    if !added.is_empty() {
        let cleared = store.replica.clear_pages(&blob, added, fence).await;
        cleared.map_err(store.storage("clear pages"))?;
    }
    put_footer(store, id, to, fence).await
}

async fn put_footer(
    store: &Store,
    id: &DiskId,
    size: u64,
    fence: SequenceNumber,
) -> Result<(), Error> {
    let end = padded(size);
    let footer = vhd::fixed_footer(end, identity_of(id), Timestamp::UNIX_EPOCH);
    let body = bytes::Bytes::copy_from_slice(&footer);
    let written = store
        .replica
        .put_pages(&names::disk(id), end, body, fence)
        .await;
    written.map_err(store.storage("write the footer of a disk"))
}

/// The UUID that stands in a disk's footer: the first bits of its id.
pub fn identity_of(id: &DiskId) -> uuid::Uuid {
    let mut bits = [0; 16];
    bits.copy_from_slice(&blake3::hash(id.as_str().as_bytes()).as_bytes()[..16]);
    uuid::Builder::from_random_bytes(bits).into_uuid()
}

/// Whether metadata say that a blob is this disk, at whatever point.
pub fn is_ours(metadata: &Metadata, store: &Store, id: &DiskId) -> bool {
    let says = |name: &str, value: &str| metadata.get(name).is_some_and(|found| found == value);
    says(META_REPLICA, store.id.as_str()) && says(META_DISK, id.as_str())
}

fn foreign(store: &Store, id: &DiskId, why: &str) -> Error {
    Error::Foreign {
        replica: store.id.clone(),
        blob: names::disk(id),
        why: why.to_owned(),
    }
}
