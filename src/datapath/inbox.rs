//! The inbox of a replica: the seals that come next, and how what was applied leaves it.
//!
//! Seals are numbered one by one and never overwritten, so the next one is asked for by its name. The inbox is listed
//! only for what cannot be asked for: whether there is anything at all, what no seal names, and whether a seal stands
//! behind one that is missing. A listing is held one page at a time: an inbox of any length takes the same memory.

use crate::blob::names::BlobRef;
use crate::blob::parameters::{Condition, DeleteSnapshots, Include};
use crate::blob::walk::Pages;
use crate::datapath::Error;
use crate::datapath::plan::{Ahead, Cycle, Found};
use crate::datapath::store::Store;
use crate::replica::document::{self, Document};
use crate::replica::manifest::Manifest;
use crate::replica::names::{self, InboxBlob};
use crate::replica::seal::Seal;
use crate::units::{Sequence, to_u64};

const LIST: &str = "list the inbox";
/// Blobs that are deleted at the same time.
const DELETES: usize = 8;
/// Seals of other chains that are passed over on the way to the next: months of a retired chain.
const PASSED_OVER_MAX: usize = 1 << 16;

/// Whether nothing of ours stands in the inbox.
///
/// # Errors
/// If it cannot be listed.
pub async fn is_empty(store: &Store) -> Result<bool, Error> {
    let mut pages = Pages::new(store.inbox.as_ref(), "", Include::default());
    while let Some(page) = pages.next().await.map_err(store.storage(LIST))? {
        let ours = |name: &str| names::inbox_blob(name) != InboxBlob::Foreign;
        if page.iter().any(|blob| ours(&blob.name)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads seals from the sequence `from` on, as many as are worth it, or up to the first that is missing. Those of other
/// chains are passed over.
///
/// # Errors
/// If a seal cannot be read or is refused. What stands before it is returned first, on an earlier call.
pub async fn read_ahead(
    store: &Store,
    manifest: &Manifest,
    from: Sequence,
) -> Result<Ahead, Error> {
    let mut ahead = Ahead::from(from);
    let mut passed_over = 0;
    loop {
        let (found, length) = match read_seal(store, ahead.end()).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(ahead),
            Err(error) if ahead.is_empty() => return Err(error),
            Err(_) => return Ok(ahead),
        };
        passed_over += usize::from(found.seal.chain != manifest.chain);
        if passed_over > PASSED_OVER_MAX {
            return Err(Error::Foreign {
                replica: store.id.clone(),
                blob: names::seal(found.seal.sequence),
                why: format!(
                    "it and {PASSED_OVER_MAX} seals before it are of other chains than {}",
                    manifest.chain
                ),
            });
        }
        if !ahead.take(manifest, found, length) {
            return Ok(ahead);
        }
    }
}

/// The seal of a sequence and how many bytes it has; nothing if there is none.
///
/// # Errors
/// [`Error::Seal`] if it is refused; else if it cannot be read.
pub async fn read_seal(store: &Store, sequence: Sequence) -> Result<Option<(Found, usize)>, Error> {
    let name = BlobRef::head(names::seal(sequence));
    let limit = to_u64(Seal::LENGTH_MAX);
    let refused = |source: crate::replica::Error| Error::Seal {
        replica: store.id.clone(),
        sequence,
        source,
    };
    let bytes = match store.inbox.get(&name, None, limit).await {
        Ok(got) => got.bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if error.is_too_large() => return Err(refused(document::too_long::<Seal>())),
        Err(error) => return Err(store.storage("read a seal")(error)),
    };
    let (seal, id) = Seal::decode(&bytes, &store.id, sequence).map_err(refused)?;
    Ok(Some((Found { seal, id }, bytes.len())))
}

/// Whether there is a seal of this sequence, whatever it says.
///
/// # Errors
/// If storage cannot be asked.
pub async fn is_sealed(store: &Store, sequence: Sequence) -> Result<bool, Error> {
    let name = BlobRef::head(names::seal(sequence));
    match store.inbox.properties(&name).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(store.storage("look for a seal")(error)),
    }
}

/// Deletes what a cycle has brought, which the manifest now says is in the disks: its logs first, so that a seal never
/// names what was deleted unless it was applied.
///
/// # Errors
/// If something could not be deleted; it is swept later.
pub async fn drop_applied(store: &Store, cycle: &Cycle) -> Result<(), Error> {
    let (logs, seals) = names_of(cycle);
    delete_all(store, logs).await?;
    delete_all(store, seals).await
}

/// The blobs that a cycle was brought by: logs, and seals.
fn names_of(cycle: &Cycle) -> (Vec<String>, Vec<String>) {
    let seals = || cycle.seals.iter().map(|found| &found.seal);
    let logs = seals().flat_map(|seal| {
        let logs = seal.disks.iter().flat_map(|disk| &disk.logs);
        logs.map(|log| names::log(seal.sequence, &log.log))
    });
    let logs = logs.collect();
    (
        logs,
        seals().map(|seal| names::seal(seal.sequence)).collect(),
    )
}

/// Deletes all that stands at or before `applied`, named or not. Returns the first seal that stands at `end` or behind
/// it: `end` itself if it was sealed meanwhile; a later one if that is missing.
///
/// # Errors
/// If the inbox cannot be listed, or something not be deleted.
pub async fn sweep(
    store: &Store,
    applied: Sequence,
    end: Sequence,
) -> Result<Option<Sequence>, Error> {
    let mut pages = Pages::new(store.inbox.as_ref(), "", Include::default());
    while let Some(page) = pages.next().await.map_err(store.storage(LIST))? {
        let (mut logs, mut seals, mut later) = (Vec::new(), Vec::new(), None);
        for blob in page {
            match names::inbox_blob(&blob.name) {
                InboxBlob::Log(sequence, _) if sequence <= applied => logs.push(blob.name),
                InboxBlob::Seal(sequence) if sequence <= applied => seals.push(blob.name),
                InboxBlob::Seal(sequence) if sequence >= end && later.is_none() => {
                    later = Some(sequence);
                }
                InboxBlob::Log(..) | InboxBlob::Seal(_) | InboxBlob::Foreign => {}
            }
        }
        // The logs of a sequence are listed before its seal.
        delete_all(store, logs).await?;
        delete_all(store, seals).await?;
        if let Some(later) = later {
            return first_of(store, end, later).await.map(Some);
        }
    }
    Ok(None)
}

/// The highest sequence that something of ours stands at, but not beyond `reach`.
///
/// # Errors
/// If the inbox cannot be listed.
pub async fn highest(store: &Store, reach: Sequence) -> Result<Sequence, Error> {
    let mut highest = Sequence::ZERO;
    let mut pages = Pages::new(store.inbox.as_ref(), "", Include::default());
    while let Some(page) = pages.next().await.map_err(store.storage(LIST))? {
        for blob in page {
            match names::inbox_blob(&blob.name) {
                InboxBlob::Log(sequence, _) | InboxBlob::Seal(sequence) if sequence <= reach => {
                    highest = highest.max(sequence);
                }
                InboxBlob::Log(..) | InboxBlob::Seal(_) | InboxBlob::Foreign => {}
            }
        }
    }
    Ok(highest)
}

/// Which of `end` and `later`, which is listed, is the first: `end` may have been sealed after its page was listed.
async fn first_of(store: &Store, end: Sequence, later: Sequence) -> Result<Sequence, Error> {
    if later == end {
        return Ok(end);
    }
    match is_sealed(store, end).await? {
        true => Ok(end),
        false => Ok(later),
    }
}

async fn delete_all(store: &Store, names: Vec<String>) -> Result<(), Error> {
    use futures::{StreamExt, TryStreamExt};
    let deletes = names.into_iter().map(|name| async move {
        let blob = BlobRef::head(name);
        let deleted = store
            .inbox
            .delete(&blob, &Condition::Always, DeleteSnapshots::None)
            .await;
        deleted
            .map(drop)
            .map_err(store.storage("delete an applied log"))
    });
    futures::stream::iter(deletes)
        .buffer_unordered(DELETES)
        .try_collect()
        .await
}
