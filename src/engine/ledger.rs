//! What has been sealed, and the next seal.
//!
//! Read from storage, never from memory: the inbox is listed first and `replica.json` read afterwards, so that a seal
//! which the data path applies and deletes in between is seen in one of the two. A seal is written once; when its reply
//! is lost, what stands there decides. It counts only once the manifest, read afterwards, shows that nobody else's was
//! applied in its place, and that its chain was not closed before.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;

use crate::blob::names::BlobRef;
use crate::blob::once::{self, Creation};
use crate::blob::parameters::{Include, PutOptions};
use crate::blob::{self, Container, walk};
use crate::engine::Error;
use crate::ids::{ChainId, DiskId, ReplicaId};
use crate::replica::Digest;
use crate::replica::document::{self, Document};
use crate::replica::fence::{Fence, Side};
use crate::replica::manifest::Manifest;
use crate::replica::names::{self, InboxBlob};
use crate::replica::seal::{Barrier, DiskCursor, Kind, Seal, SealedDisk, Writer};
use crate::units::{Sequence, to_u64};

/// The most blobs that an inbox may hold.
const BLOBS_MAX: u64 = 1_000_000;

/// Seals that are read at the same time: a backlog has many, and each is small.
const SEAL_READS: usize = 8;

/// How often the ledger is read while the data path takes seals away.
const READS: usize = 8;

/// The two containers of a replica, as the agent may reach them.
#[derive(Clone)]
pub struct Store {
    pub id: ReplicaId,
    /// Create, read, list.
    pub inbox: Arc<dyn Container>,
    /// Read, list.
    pub replica: Arc<dyn Container>,
}

impl Store {
    /// The manifest as it is now.
    ///
    /// # Errors
    /// If it is not there, cannot be read or not be understood.
    pub async fn manifest(&self) -> Result<Manifest, Error> {
        let bytes = match self.read(names::MANIFEST).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => {
                return Err(Error::NoManifest {
                    replica: self.id.clone(),
                });
            }
            Err(error) => return Err(self.storage("read replica.json")(error)),
        };
        let manifest: Manifest =
            document::decode(&bytes).map_err(|source| self.document(source))?;
        self.check_ours(names::MANIFEST, &manifest.replica)?;
        Ok(manifest)
    }

    fn check_ours(&self, blob: &'static str, said: &ReplicaId) -> Result<(), Error> {
        if *said == self.id {
            return Ok(());
        }
        Err(Error::Foreign {
            replica: self.id.clone(),
            blob,
            said: said.clone(),
        })
    }

    /// Makes sure that this agent may act: nobody of a higher generation commands, and the source is the active side.
    ///
    /// # Errors
    /// [`Error::Stale`], [`Error::NotActive`], or that the fence cannot be read.
    pub async fn check_fence(&self, writer: &Writer) -> Result<(), Error> {
        let bytes = self
            .read(names::FENCE)
            .await
            .map_err(self.storage("read fence.json"))?;
        let fence: Fence = document::decode(&bytes).map_err(|source| self.document(source))?;
        self.check_ours(names::FENCE, &fence.replica)?;
        if fence.generation > writer.generation {
            let (fence, ours) = (fence.generation, writer.generation);
            return Err(Error::Stale {
                replica: self.id.clone(),
                fence,
                ours,
            });
        }
        match fence.active_side {
            Side::OnPremises => Ok(()),
            Side::Azure => Err(Error::NotActive {
                replica: self.id.clone(),
            }),
        }
    }

    async fn seal(&self, sequence: Sequence) -> Result<(Seal, Digest), Error> {
        let blob = BlobRef::head(names::seal(sequence));
        let refused = |source| Error::Seal {
            replica: self.id.clone(),
            sequence,
            source,
        };
        let limit = to_u64(Seal::LENGTH_MAX);
        let bytes = match self.inbox.get(&blob, None, limit).await {
            Ok(got) => got.bytes,
            Err(error) if error.is_too_large() => {
                return Err(refused(document::too_long::<Seal>()));
            }
            Err(error) => return Err(self.storage("read a seal")(error)),
        };
        Seal::decode(&bytes, &self.id, sequence).map_err(refused)
    }

    pub fn storage(&self, action: &'static str) -> impl Fn(blob::Error) -> Error + use<> {
        let replica = self.id.clone();
        move |error| Error::Storage {
            action,
            replica: replica.clone(),
            source: Box::new(error),
        }
    }

    async fn read(&self, blob: &str) -> blob::Result<Bytes> {
        let limit = to_u64(document::LENGTH_MAX);
        Ok(self
            .replica
            .get(&BlobRef::head(blob), None, limit)
            .await?
            .bytes)
    }

    fn document(&self, source: crate::replica::Error) -> Error {
        Error::Document {
            replica: self.id.clone(),
            source,
        }
    }
}

/// The end of the chain, and who writes on.
pub struct Ledger {
    store: Store,
    writer: Writer,
    chain: ChainId,
    next: Sequence,
    prev: Option<Digest>,
    /// The last sealed cursor of each disk.
    cursors: BTreeMap<DiskId, DiskCursor>,
    /// When the last sealed barrier was taken, by the host's clock.
    barrier: Option<Timestamp>,
    /// Whether the data path had applied everything when the ledger was read.
    applied: bool,
    /// Whether what was not applied ends with a part of a delta, whose barrier is not sealed.
    unfinished: bool,
    manifest: Manifest,
}

impl Ledger {
    /// Reads what has been sealed.
    ///
    /// # Errors
    /// If it cannot be read, [`Error::Gap`] if the chain is broken, or [`Error::Closed`] as long as it is being retired.
    pub async fn read(store: Store, writer: Writer) -> Result<Self, Error> {
        for _ in 1..READS {
            match Ledger::read_once(store.clone(), writer.clone()).await {
                // The data path applied and deleted a seal while it was looked for.
                Err(Error::Storage { source, .. }) if source.is_not_found() => {}
                result => return result,
            }
        }
        Ledger::read_once(store, writer).await
    }

    async fn read_once(store: Store, writer: Writer) -> Result<Self, Error> {
        let listed = walk::blobs(store.inbox.as_ref(), "", Include::default(), BLOBS_MAX).await;
        let listed = listed.map_err(store.storage("list the inbox"))?;
        let sealed = listed
            .items
            .iter()
            .filter_map(|blob| match names::inbox_blob(&blob.name) {
                InboxBlob::Seal(sequence) => Some(sequence),
                InboxBlob::Log(..) | InboxBlob::Foreign => None,
            });
        let sealed: Vec<Sequence> = sealed.collect();
        let manifest = store.manifest().await?;
        if manifest.closed {
            return Err(Error::Closed { replica: store.id });
        }
        let mut ledger = Ledger {
            writer,
            chain: manifest.chain.clone(),
            next: manifest.last_applied.sequence.next(),
            prev: manifest.last_applied.seal,
            cursors: manifest.last_applied.cursors.clone(),
            barrier: manifest.points.last().map(|point| point.barrier.time),
            applied: true,
            unfinished: false,
            manifest,
            store,
        };
        let last = ledger.manifest.last_applied.sequence;
        let unapplied = sealed.into_iter().filter(|sequence| *sequence > last);
        let store = ledger.store.clone();
        let mut seals = futures::stream::iter(unapplied)
            .map(|sequence| store.seal(sequence))
            .buffered(SEAL_READS);
        while let Some(seal) = seals.next().await {
            let (seal, id) = seal?;
            ledger.follow(seal, id)?;
        }
        Ok(ledger)
    }

    /// Takes in a seal that was not applied when the manifest was read.
    fn follow(&mut self, seal: Seal, id: Digest) -> Result<(), Error> {
        let sequence = seal.sequence;
        self.next = self.next.max(sequence.next());
        if seal.chain != self.chain {
            return Ok(());
        }
        if seal.prev != self.prev {
            return Err(Error::Gap {
                replica: self.store.id.clone(),
                sequence,
            });
        }
        self.prev = Some(id);
        self.applied = false;
        let delta = seal.disks.iter().any(|disk| disk.kind == Kind::Delta);
        self.unfinished = delta && seal.barrier.is_none();
        self.barrier = seal.barrier.map(|barrier| barrier.time).or(self.barrier);
        self.cursors
            .extend(seal.disks.into_iter().map(|disk| (disk.disk, disk.cursor)));
        Ok(())
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The manifest that was read with the ledger.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn cursors(&self) -> &BTreeMap<DiskId, DiskCursor> {
        &self.cursors
    }

    /// When the last sealed barrier was taken, by the host's clock.
    pub fn barrier(&self) -> Option<Timestamp> {
        self.barrier
    }

    /// The seal that the next one will name.
    pub fn last_seal(&self) -> Option<Digest> {
        self.prev
    }

    /// The sequence of the next seal.
    pub fn next(&self) -> Sequence {
        self.next
    }

    /// Whether everything that was sealed had been applied when the ledger was read.
    pub fn is_applied(&self) -> bool {
        self.applied
    }

    /// Whether the data path may be waiting for the barrier of a delta of which only parts had been sealed when the ledger
    /// was read.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// Seals the next sequence. Nothing of it is lost any more.
    ///
    /// # Errors
    /// [`Error::Superseded`] if somebody else writes to this chain, [`Error::Closed`] if it was closed meanwhile.
    pub async fn seal(
        &mut self,
        disks: Vec<SealedDisk>,
        barrier: Option<Barrier>,
    ) -> Result<(), Error> {
        let seal = Seal {
            replica: self.store.id.clone(),
            chain: self.chain.clone(),
            sequence: self.next,
            prev: self.prev,
            writer: self.writer.clone(),
            barrier,
            disks,
        };
        let (bytes, id) = seal
            .encode()
            .map_err(|source| self.store.document(source))?;
        self.store_seal(Bytes::from(bytes), id).await?;
        self.next = self.next.next();
        self.prev = Some(id);
        self.cursors
            .extend(seal.disks.into_iter().map(|disk| (disk.disk, disk.cursor)));
        Ok(())
    }

    /// That another writes to this chain, at the place of the next seal or before it.
    pub fn superseded(&self) -> Error {
        Error::Superseded {
            replica: self.store.id.clone(),
            sequence: self.next,
        }
    }

    async fn store_seal(&self, bytes: Bytes, id: Digest) -> Result<(), Error> {
        let name = names::seal(self.next);
        let options = PutOptions::create().json();
        match once::create(self.store.inbox.as_ref(), &name, bytes, &options).await {
            // Its place was empty. It is ours only if it was so because nobody had sealed there: what another had
            // sealed may have been applied, and be gone.
            Ok(Creation::Created(_) | Creation::AlreadyThere(_)) => {
                let now = self.store.manifest().await?;
                let taken = now.last_applied.sequence >= self.next;
                let ours = now.last_applied.seal == Some(id);
                if now.chain == self.chain && ours {
                    Ok(())
                } else if now.chain == self.chain && now.closed {
                    let replica = self.store.id.clone();
                    Err(Error::Closed { replica })
                } else if now.chain == self.chain && !taken {
                    Ok(())
                } else {
                    Err(self.superseded())
                }
            }
            Ok(Creation::Different) => Err(self.superseded()),
            // It was there and is gone: applied, if it was ours.
            Err(error) if error.is_not_found() => {
                let applied = self.store.manifest().await?.last_applied;
                if applied.seal == Some(id) {
                    Ok(())
                } else {
                    Err(self.superseded())
                }
            }
            Err(error) => Err(self.store.storage("write a seal")(error)),
        }
    }
}
