//! Fetches the logs of a seal and makes sure that they are what the seal says, before a single page is written: whole,
//! of a disk of that size, and without a record outside of their range, on which the plan of a cycle relies.
//!
//! A seal of a copy fits in memory and is fetched once. A larger one is verified log by log first, and fetched again as
//! it is applied. No log is read before there is [`Room`] for it: memory stays bounded whatever a delta weighs.

use std::io::Cursor;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::blob::names::BlobRef;
use crate::buffers::Buffer;
use crate::datapath::Error;
use crate::datapath::room::{Room, Share};
use crate::datapath::store::Store;
use crate::hrl::{self, LogReader};
use crate::ids::{DiskId, ReplicaId};
use crate::replica::Digest;
use crate::replica::names;
use crate::replica::seal::{Encoding, KEPT_MAX, Seal, SealedLog};
use crate::units::{ByteRange, Sequence, to_u64, to_usize};

/// Logs that are fetched at the same time.
const FETCHES: usize = 4;

/// A log that its seal is right about, as it was captured.
#[derive(Clone, Debug)]
pub struct Verified {
    pub disk: DiskId,
    /// Its blob's name.
    pub log: String,
    /// Where all its records lie.
    pub range: ByteRange,
    pub bytes: Bytes,
}

/// The verified logs of a seal.
#[derive(Debug)]
pub enum Logs {
    Kept(Vec<Verified>),
    /// Too much to keep: they are fetched, and verified, again.
    Known(Vec<Expected>),
}

/// A log as its seal describes it.
#[derive(Clone, Debug)]
pub struct Expected {
    disk: DiskId,
    /// Bytes of the disk.
    size: u64,
    log: SealedLog,
}

impl Expected {
    /// Bytes that it takes to open it.
    fn memory(&self) -> u64 {
        match self.log.encoding {
            Encoding::Identity => self.log.length,
            Encoding::Zstd => self.log.length + self.log.stored,
        }
    }
}

impl Verified {
    /// The same log, which gives back `share` with the last of its bytes.
    fn within(self, share: Share) -> Self {
        Verified {
            bytes: share.hold(self.bytes),
            ..self
        }
    }
}

/// Verifies all logs of a seal.
///
/// # Errors
/// The first log that is missing or other than the seal says.
pub async fn verify(store: &Store, seal: &Seal, room: &Room) -> Result<Logs, Error> {
    let logs: Vec<Expected> = seal
        .disks
        .iter()
        .flat_map(|disk| {
            disk.logs.iter().map(|log| Expected {
                disk: disk.disk.clone(),
                size: disk.size,
                log: log.clone(),
            })
        })
        .collect();
    if seal.length() <= KEPT_MAX {
        return Ok(Logs::Kept(keep(store, seal.sequence, logs, room).await?));
    }
    let fetched = fetch(store, seal.sequence, logs.clone(), room.clone());
    fetched.try_for_each(async |_| Ok(())).await?;
    Ok(Logs::Known(logs))
}

/// Fetches and verifies logs, a few at a time, and keeps them all. Room for them is taken at once: none is of use
/// without the others, and nobody else must wait for room that half of them have.
async fn keep(
    store: &Store,
    sequence: Sequence,
    logs: Vec<Expected>,
    room: &Room,
) -> Result<Vec<Verified>, Error> {
    let memory = logs.iter().map(Expected::memory).sum();
    let mut share = room.take(memory).await;
    let parts: Vec<(Expected, Share)> = logs
        .into_iter()
        .map(|expected| {
            let part = share.part(expected.log.length);
            (expected, part)
        })
        .collect();
    let fetches = parts.into_iter().map(|(expected, part)| async move {
        let fetched = fetch_one(store, sequence, expected).await?;
        Ok(fetched.within(part))
    });
    futures::stream::iter(fetches)
        .buffered(FETCHES)
        .try_collect()
        .await
}

/// Fetches and verifies logs, a few at a time, in their order.
pub fn fetch(
    store: &Store,
    sequence: Sequence,
    logs: Vec<Expected>,
    room: Room,
) -> impl futures::Stream<Item = Result<Verified, Error>> + Send + use<'_> {
    let fetches = logs.into_iter().map(move |expected| {
        let room = room.clone();
        async move {
            let mut share = room.take(expected.memory()).await;
            let part = share.part(expected.log.length);
            let fetched = fetch_one(store, sequence, expected).await?;
            Ok(fetched.within(part))
        }
    });
    futures::stream::iter(fetches).buffered(FETCHES)
}

async fn fetch_one(
    store: &Store,
    sequence: Sequence,
    expected: Expected,
) -> Result<Verified, Error> {
    let name = names::log(sequence, &expected.log.log);
    // No more than there is room for: what is longer is not what its seal says.
    let most = expected.log.stored;
    let got = store.inbox.get(&BlobRef::head(&name), None, most).await;
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
        Err(error) if error.is_too_large() => {
            return Err(Error::Log {
                replica: store.id.clone(),
                log: name,
                why: format!("it has more than the {most} bytes that its seal says"),
            });
        }
        Err(error) => return Err(store.storage("read a log")(error)),
    };
    let replica = store.id.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let opened = open(stored, &expected.log).and_then(|bytes| {
            check_records(&bytes, &expected)?;
            Ok(bytes)
        });
        match opened {
            Ok(bytes) => Ok(Verified {
                disk: expected.disk,
                log: name,
                range: expected.log.range,
                bytes,
            }),
            Err(refused) => Err(refused.of(replica, name)),
        }
    });
    opened.await.map_err(|_| Error::Aborted {
        what: "the verification",
        replica: store.id.clone(),
    })?
}

/// A refusal that does not know its log yet.
enum Refused {
    Why(String),
    Format(hrl::Error),
    Hash { expected: Digest, found: Digest },
}

impl Refused {
    fn of(self, replica: ReplicaId, log: String) -> Error {
        match self {
            Refused::Why(why) => Error::Log { replica, log, why },
            Refused::Format(source) => Error::LogFormat {
                replica,
                log,
                source,
            },
            Refused::Hash { expected, found } => Error::LogHash {
                replica,
                log,
                expected,
                found,
            },
        }
    }
}

/// The log as it was captured.
fn open(stored: Bytes, log: &SealedLog) -> Result<Bytes, Refused> {
    let refused = Refused::Why;
    let length = to_u64(stored.len());
    if length != log.stored {
        return Err(refused(format!(
            "it has {length} bytes, its seal says {}",
            log.stored
        )));
    }
    let bytes = match log.encoding {
        Encoding::Identity => stored,
        Encoding::Zstd => {
            // The capacity bounds what a hostile frame can blow up to.
            let mut bytes = Buffer::with_capacity(to_usize(log.length));
            let unpacked = zstd::bulk::Decompressor::new()
                .and_then(|mut zstd| zstd.decompress_to_buffer(&stored, bytes.bytes()));
            unpacked.map_err(|error| refused(format!("it cannot be decompressed: {error}")))?;
            bytes.freeze()
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
            expected: log.blake3,
            found,
        })
    }
}

/// Whether the log speaks of its disk alone, and there of its range alone.
fn check_records(bytes: &Bytes, expected: &Expected) -> Result<(), Refused> {
    let mut reader = LogReader::open(Cursor::new(bytes.as_ref())).map_err(Refused::Format)?;
    let size = reader.header().disk_size;
    if size != expected.size {
        return Err(Refused::Why(format!(
            "it is of a disk of {size} bytes, its seal says {}",
            expected.size
        )));
    }
    let within = expected.log.range;
    for record in reader.records() {
        let range = record.map_err(Refused::Format)?.range;
        if !within.contains(range) {
            return Err(Refused::Why(format!(
                "it has a record of {range}, its seal says {within}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::hrl::{Identity, LogWriter};
    use crate::units::SECTOR;

    const DISK: u64 = 64 * SECTOR;

    /// A log that zeroes sectors 8 to 16 of a disk, and what its seal says of it.
    fn sealed(size: u64, range: ByteRange) -> (Bytes, Expected) {
        let identity = Identity {
            id: Uuid::nil(),
            previous: None,
            disk_size: DISK,
            created: Timestamp::UNIX_EPOCH,
        };
        let mut log = LogWriter::new(Cursor::new(Vec::new()), identity).unwrap();
        log.zero(ByteRange::new(8 * SECTOR, 16 * SECTOR).unwrap())
            .unwrap();
        let bytes = log.finish(Timestamp::UNIX_EPOCH).unwrap().into_inner();
        let log = SealedLog {
            log: Uuid::nil(),
            range,
            encoding: Encoding::Identity,
            stored: to_u64(bytes.len()),
            length: to_u64(bytes.len()),
            blake3: Digest::of(&bytes),
        };
        let disk = DiskId::from_random(1);
        (bytes.into(), Expected { disk, size, log })
    }

    #[test]
    fn a_log_that_leaves_what_its_seal_says_is_refused_before_it_is_applied() {
        let outcome = |size, (start, end)| {
            let range = ByteRange::new(start * SECTOR, end * SECTOR).unwrap();
            let (bytes, expected) = sealed(size, range);
            check_records(&bytes, &expected).is_ok()
        };
        assert!(outcome(DISK, (8, 16)));
        assert!(outcome(DISK, (0, 64)));
        assert!(!outcome(DISK, (9, 16)), "it begins before its range");
        assert!(!outcome(DISK, (8, 15)), "it ends after its range");
        assert!(!outcome(2 * DISK, (8, 16)), "it is of another disk");
    }

    #[test]
    fn a_log_that_is_none_is_refused_before_it_is_applied() {
        let (_, expected) = sealed(DISK, ByteRange::to(DISK));
        let bytes = Bytes::from_static(&[0; 9000]);
        assert!(matches!(
            check_records(&bytes, &expected),
            Err(Refused::Format(_))
        ));
    }
}
