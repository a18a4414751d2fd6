//! Fetches the logs of a seal and makes sure that they are what the seal says, before a single page is written.
//!
//! A seal of a copy fits in memory and is fetched once. A larger one is verified log by log first, and fetched again as
//! it is applied: memory stays bounded whatever a delta weighs.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::blob::names::BlobRef;
use crate::datapath::Error;
use crate::datapath::store::Store;
use crate::ids::DiskId;
use crate::replica::Digest;
use crate::replica::names;
use crate::replica::seal::{Encoding, KEPT_MAX, LOG_MAX, Seal, SealedLog};
use crate::units::{Sequence, to_u64, to_usize};

/// Logs that are fetched at the same time.
const FETCHES: usize = 4;

/// A log that its seal is right about, as it was captured.
#[derive(Clone, Debug)]
pub struct Verified {
    pub disk: DiskId,
    pub bytes: Bytes,
}

/// The verified logs of a seal.
#[derive(Debug)]
pub enum Logs {
    Kept(Vec<Verified>),
    /// Too much to keep: they are fetched, and verified, again.
    Known(Vec<(DiskId, SealedLog)>),
}

/// Verifies all logs of a seal.
///
/// # Errors
/// The first log that is missing or other than the seal says.
pub async fn verify(store: &Store, seal: &Seal) -> Result<Logs, Error> {
    let logs: Vec<(DiskId, SealedLog)> = seal
        .disks
        .iter()
        .flat_map(|disk| disk.logs.iter().map(|log| (disk.disk.clone(), log.clone())))
        .collect();
    let keep = seal.length() <= KEPT_MAX;
    let fetched = fetch(store, seal.sequence, logs.clone());
    if keep {
        return Ok(Logs::Kept(fetched.try_collect().await?));
    }
    fetched.try_for_each(async |_| Ok(())).await?;
    Ok(Logs::Known(logs))
}

/// Fetches and verifies logs, a few at a time, in their order.
pub fn fetch(
    store: &Store,
    sequence: Sequence,
    logs: Vec<(DiskId, SealedLog)>,
) -> impl futures::Stream<Item = Result<Verified, Error>> + Send + use<'_> {
    let fetches = logs.into_iter().map(move |(disk, log)| async move {
        let bytes = fetch_one(store, sequence, &log).await?;
        Ok(Verified { disk, bytes })
    });
    futures::stream::iter(fetches).buffered(FETCHES)
}

async fn fetch_one(store: &Store, sequence: Sequence, log: &SealedLog) -> Result<Bytes, Error> {
    let name = names::log(sequence, &log.log);
    let got = store.inbox.get(&BlobRef::head(&name), None, LOG_MAX).await;
    let stored = match got {
        Ok(got) => got.bytes,
        Err(error) if error.is_not_found() => {
            let why = "its seal names it, and it is not there".to_owned();
            return Err(Error::Log {
                replica: store.id.clone(),
                log: name,
                why,
            });
        }
        Err(error) => return Err(store.storage("read a log")(error)),
    };
    let (replica, log) = (store.id.clone(), log.clone());
    let opened =
        tokio::task::spawn_blocking(move || open(&stored, &log, &name).map_err(|e| e.of(replica)));
    opened.await.map_err(|_| Error::Aborted {
        what: "the verification",
        replica: store.id.clone(),
    })?
}

/// A refusal that does not know its replica yet.
enum Refused {
    Why(String, String),
    Hash {
        log: String,
        expected: Digest,
        found: Digest,
    },
}

impl Refused {
    fn of(self, replica: crate::ids::ReplicaId) -> Error {
        match self {
            Refused::Why(log, why) => Error::Log { replica, log, why },
            Refused::Hash {
                log,
                expected,
                found,
            } => Error::LogHash {
                replica,
                log,
                expected,
                found,
            },
        }
    }
}

/// The log as it was captured.
fn open(stored: &Bytes, log: &SealedLog, name: &str) -> Result<Bytes, Refused> {
    let refused = |why: String| Refused::Why(name.to_owned(), why);
    let length = to_u64(stored.len());
    if length != log.stored {
        return Err(refused(format!(
            "it has {length} bytes, its seal says {}",
            log.stored
        )));
    }
    let bytes = match log.encoding {
        Encoding::Identity => stored.clone(),
        Encoding::Zstd => {
            // The capacity bounds what a hostile frame can blow up to.
            let bytes = zstd::bulk::decompress(stored, to_usize(log.length));
            Bytes::from(
                bytes.map_err(|error| refused(format!("it cannot be decompressed: {error}")))?,
            )
        }
    };
    let length = to_u64(bytes.len());
    if length != log.length {
        return Err(refused(format!(
            "it has {length} bytes of log, its seal says {}",
            log.length
        )));
    }
    let found = Digest::of(&bytes);
    if found == log.blake3 {
        Ok(bytes)
    } else {
        Err(Refused::Hash {
            log: name.to_owned(),
            expected: log.blake3,
            found,
        })
    }
}
