//! The inbox of a replica: what has been sealed there, and how what was applied leaves it.

use std::collections::BTreeMap;

use crate::blob::names::BlobRef;
use crate::blob::parameters::{Condition, DeleteSnapshots, Include};
use crate::blob::walk;
use crate::datapath::Error;
use crate::datapath::plan::{AHEAD, Found};
use crate::datapath::store::Store;
use crate::replica::names::{self, InboxBlob};
use crate::replica::seal::Seal;
use crate::replica::{self, document};
use crate::units::{Sequence, to_u64};

/// The most blobs that an inbox may hold: a backlog of weeks. More is not read, and is an error.
const BLOBS_MAX: u64 = 1_000_000;
/// Blobs that are deleted at the same time.
const DELETES: usize = 8;

/// What stands in an inbox, by sequence.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    sequences: BTreeMap<Sequence, Entry>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    sealed: bool,
    /// Names of its logs.
    logs: Vec<String>,
}

impl Inbox {
    /// Lists the inbox. Names that are none of ours are passed over.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub async fn list(store: &Store) -> Result<Self, Error> {
        let listed = walk::blobs(store.inbox.as_ref(), "", Include::default(), BLOBS_MAX).await;
        let mut inbox = Inbox::default();
        for blob in listed.map_err(store.storage("list the inbox"))?.items {
            match names::inbox_blob(&blob.name) {
                InboxBlob::Log(sequence, _) => {
                    inbox
                        .sequences
                        .entry(sequence)
                        .or_default()
                        .logs
                        .push(blob.name);
                }
                InboxBlob::Seal(sequence) => {
                    inbox.sequences.entry(sequence).or_default().sealed = true;
                }
                InboxBlob::Foreign => {}
            }
        }
        Ok(inbox)
    }

    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Reads the seals after `applied`: up to the first barrier, to where there are no more, or [`AHEAD`] of them.
    ///
    /// # Errors
    /// If a seal cannot be read or is refused. What stands before it is returned first, on an earlier call.
    pub async fn read_ahead(&self, store: &Store, applied: Sequence) -> Result<Vec<Found>, Error> {
        let mut found: Vec<Found> = Vec::new();
        let sealed = self
            .sequences
            .range(applied.next()..)
            .filter(|(_, entry)| entry.sealed);
        for (sequence, _) in sealed.take(AHEAD) {
            match read_seal(store, *sequence).await {
                Ok(next) => found.push(next),
                Err(error) if found.is_empty() => return Err(error),
                Err(_) => break,
            }
            if found
                .last()
                .is_some_and(|found| found.seal.barrier.is_some())
            {
                break;
            }
        }
        Ok(found)
    }

    /// Deletes what stands at or before `applied`: its logs first, so that a seal never names what was deleted unless
    /// it was applied.
    ///
    /// # Errors
    /// If something could not be deleted; it goes the next time.
    pub async fn drop_applied(&self, store: &Store, applied: Sequence) -> Result<(), Error> {
        let entries = || self.sequences.range(..=applied);
        let logs = entries().flat_map(|(_, entry)| entry.logs.iter().cloned());
        delete_all(store, logs.collect()).await?;
        let seals = entries().filter(|(_, entry)| entry.sealed);
        delete_all(
            store,
            seals.map(|(sequence, _)| names::seal(*sequence)).collect(),
        )
        .await
    }
}

async fn read_seal(store: &Store, sequence: Sequence) -> Result<Found, Error> {
    let name = BlobRef::head(names::seal(sequence));
    let got = store
        .inbox
        .get(&name, None, to_u64(document::LENGTH_MAX))
        .await;
    let bytes = got.map_err(store.storage("read a seal"))?.bytes;
    let refused = |source: replica::Error| Error::Seal {
        replica: store.id.clone(),
        sequence,
        source,
    };
    let (seal, id) = Seal::decode(&bytes, &store.id, sequence).map_err(refused)?;
    Ok(Found { seal, id })
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
