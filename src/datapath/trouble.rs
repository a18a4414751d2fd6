//! `trouble.json`: what keeps the data path from going on with a replica, for those who cannot ask its process.
//!
//! ```text
//! the worker that holds the replica ──writes──► trouble.json ──reads──► the controller
//! ```
//! It carries the generation of its writer. What an earlier owner of the replica has written says nothing any more: it
//! is neither believed nor does it replace what a later one says. Nothing is decided by its absence.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::blob::names::BlobRef;
use crate::blob::parameters::PutOptions;
use crate::datapath::Error;
use crate::datapath::store::Store;
use crate::replica::document::{self, Document};
use crate::replica::names;
use crate::retry::Trouble;
use crate::units::{Generation, to_u64};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// The generation in which its writer held the replica.
    writer: Generation,
    /// Nothing: all goes well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Trouble>,
}

impl Document for Told {
    const WHAT: &'static str = names::TROUBLE;
    const FORMAT: u32 = 1;
}

/// Writes down how it goes, as the owner of the replica in the generation `writer`. Where a later owner has said
/// something, and where all goes well and nobody has said otherwise, nothing is written.
///
/// # Errors
/// If storage does not take it.
pub async fn tell(
    store: &Store,
    writer: Generation,
    trouble: Option<&Trouble>,
) -> Result<(), Error> {
    let there = match store.replica.get(&head(), None, limit()).await {
        Ok(got) => Some(got),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(store.storage("read trouble.json")(error)),
    };
    // What cannot be understood is replaced.
    let said = there
        .as_ref()
        .and_then(|got| document::decode::<Told>(&got.bytes).ok());
    let known = match &said {
        Some(said) => said.writer > writer || said.trouble.as_ref() == trouble,
        None => there.is_none() && trouble.is_none(),
    };
    if known {
        return Ok(());
    }
    let told = Told {
        writer,
        trouble: trouble.cloned(),
    };
    let body = document::encode(&told).map_err(|source| Error::Document {
        replica: store.id.clone(),
        source,
    })?;
    let options = match there {
        Some(got) => PutOptions::replace(got.etag),
        None => PutOptions::create(),
    };
    let options = options.json();
    let put = store
        .replica
        .put(names::TROUBLE, Bytes::from(body), &options);
    let written = put.await.map(drop);
    written.map_err(store.storage("write trouble.json"))
}

/// What the owner of the replica in the generation `writer` says; nothing if all goes well, or if it has not said.
///
/// # Errors
/// If storage cannot be asked.
pub async fn told(store: &Store, writer: Generation) -> Result<Option<Trouble>, Error> {
    let got = match store.replica.get(&head(), None, limit()).await {
        Ok(got) => got,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(store.storage("read trouble.json")(error)),
    };
    match document::decode::<Told>(&got.bytes) {
        Ok(told) => Ok(told.trouble.filter(|_| told.writer >= writer)),
        Err(error) => {
            tracing::debug!(replica = %store.id, error = crate::report::chain(&error), "trouble.json says nothing");
            Ok(None)
        }
    }
}

fn head() -> BlobRef {
    BlobRef::head(names::TROUBLE)
}

fn limit() -> u64 {
    to_u64(Told::LENGTH_MAX)
}
