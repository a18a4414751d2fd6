//! What an inbox holds: sealed and not applied, applied and not yet deleted, never sealed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::blob::parameters::Include;
use crate::blob::walk;
use crate::datapath::inspect::Error;
use crate::datapath::store::Store;
use crate::replica::names::{self, InboxBlob};
use crate::units::Sequence;

/// The most blobs that an inbox may hold, as the data path has it.
const BLOBS_MAX: u64 = 1_000_000;

/// An inbox as it was listed.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    sequences: BTreeMap<Sequence, Entry>,
    foreign: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    sealed: bool,
    logs: u64,
    bytes: u64,
}

/// What waits in an inbox, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Sequences that are sealed and not applied.
    pub sealed: u64,
    pub first: Option<Sequence>,
    pub last: Option<Sequence>,
    /// Their logs, and the bytes of these as they are stored.
    pub logs: u64,
    pub bytes: u64,
    /// Sequences that were applied and are not deleted yet.
    pub applied: u64,
    /// Logs that no seal names yet: the agent ships them now, or never finished.
    pub unsealed_logs: u64,
    /// Blobs with names that are none of ours.
    pub foreign: u64,
}

impl Listing {
    /// Lists the inbox.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub async fn list(store: &Store) -> Result<Self, Error> {
        let listed = walk::blobs(store.inbox.as_ref(), "", Include::default(), BLOBS_MAX).await;
        let mut listing = Listing::default();
        for blob in listed.map_err(Error::storage("list the inbox"))?.items {
            match names::inbox_blob(&blob.name) {
                InboxBlob::Log(sequence, _) => {
                    let entry = listing.sequences.entry(sequence).or_default();
                    entry.logs += 1;
                    entry.bytes += blob.length;
                }
                InboxBlob::Seal(sequence) => {
                    listing.sequences.entry(sequence).or_default().sealed = true;
                }
                InboxBlob::Foreign => listing.foreign += 1,
            }
        }
        Ok(listing)
    }

    /// The sequences after `applied` that are sealed, ascending.
    pub fn sealed_after(&self, applied: Sequence) -> impl Iterator<Item = Sequence> {
        let later = self.sequences.range(applied.next()..);
        later
            .filter(|(_, entry)| entry.sealed)
            .map(|(sequence, _)| *sequence)
    }

    /// What waits, given what was applied.
    pub fn waiting(&self, applied: Sequence) -> Waiting {
        let mut waiting = Waiting {
            foreign: self.foreign,
            ..Waiting::default()
        };
        for (sequence, entry) in &self.sequences {
            if *sequence <= applied {
                waiting.applied += 1;
            } else if entry.sealed {
                waiting.sealed += 1;
                waiting.first = waiting.first.or(Some(*sequence));
                waiting.last = Some(*sequence);
                waiting.logs += entry.logs;
                waiting.bytes += entry.bytes;
            } else {
                waiting.unsealed_logs += entry.logs;
            }
        }
        waiting
    }
}
