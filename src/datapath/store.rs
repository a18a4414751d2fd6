//! Where one replica stands, and its manifest: read, replaced by ETag, never overwritten blindly.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::blob::names::{BlobRef, ETag};
use crate::blob::once::{self, Creation};
use crate::blob::parameters::{Include, PutOptions};
use crate::blob::walk::Pages;
use crate::blob::{self, Container};
use crate::datapath::Error;
use crate::ids::{ChainId, ReplicaId};
use crate::replica::fence::{Fence, MachineDescription};
use crate::replica::manifest::Manifest;
use crate::replica::{document, names};
use crate::units::to_u64;

/// The two containers of a replica.
#[derive(Clone)]
pub struct Store {
    pub id: ReplicaId,
    pub inbox: Arc<dyn Container>,
    pub replica: Arc<dyn Container>,
}

/// A manifest as it was when it was last read or written.
#[derive(Clone, Debug)]
pub struct Held {
    pub manifest: Manifest,
    etag: ETag,
}

impl Store {
    /// The manifest; nothing if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is not ours.
    pub async fn load(&self) -> Result<Option<Held>, Error> {
        let limit = to_u64(document::LENGTH_MAX);
        let got = match self
            .replica
            .get(&BlobRef::head(names::MANIFEST), None, limit)
            .await
        {
            Ok(got) => got,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(self.storage("read replica.json")(error)),
        };
        let manifest: Manifest =
            document::decode(&got.bytes).map_err(|source| self.document(source))?;
        self.check_ours(names::MANIFEST, &manifest.replica)?;
        Ok(Some(Held {
            manifest,
            etag: got.etag,
        }))
    }

    /// Whether `held` is still what stands there: nobody has written it since.
    ///
    /// # Errors
    /// If storage cannot be asked.
    pub async fn is_current(&self, held: &Held) -> Result<bool, Error> {
        let manifest = BlobRef::head(names::MANIFEST);
        match self.replica.properties(&manifest).await {
            Ok(now) => Ok(now.etag == held.etag),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(self.storage("look at replica.json")(error)),
        }
    }

    /// What the fence says of the replica's machine.
    ///
    /// # Errors
    /// If there is no fence, or it cannot be read.
    pub async fn machine(&self) -> Result<MachineDescription, Error> {
        Ok(self.fence().await?.0.machine)
    }

    /// The fence, and storage's time when it was read.
    ///
    /// # Errors
    /// If there is no fence, it cannot be read, or is another replica's: whose pins and disks say nothing of this one.
    pub async fn fence(&self) -> Result<(Fence, Timestamp), Error> {
        let limit = to_u64(document::LENGTH_MAX);
        let name = BlobRef::head(names::FENCE);
        let got = self.replica.get(&name, None, limit).await;
        let got = got.map_err(self.storage("read fence.json"))?;
        let fence: Fence = document::decode(&got.bytes).map_err(|source| self.document(source))?;
        self.check_ours(names::FENCE, &fence.replica)?;
        Ok((fence, got.date))
    }

    /// Makes the manifest of a replica that has none; what is there stays.
    ///
    /// # Errors
    /// If it cannot be written, what is there is not ours, or [`Error::Lost`] if it has gone from among its disks: a
    /// new one would take what they hold for zeroes.
    pub async fn create(&self, chain: ChainId) -> Result<Held, Error> {
        if let Some(held) = self.load().await? {
            return Ok(held);
        }
        if self.has_disks().await? {
            return Err(self.lost(names::MANIFEST, "disks of the replica are there"));
        }
        let manifest = Manifest::new(self.id.clone(), chain);
        let body =
            Bytes::from(document::encode(&manifest).map_err(|source| self.document(source))?);
        let options = PutOptions::create().json();
        let created = once::create(self.replica.as_ref(), names::MANIFEST, body, &options).await;
        match created.map_err(self.storage("write replica.json"))? {
            Creation::Created(stored) | Creation::AlreadyThere(stored) => Ok(Held {
                manifest,
                etag: stored.etag,
            }),
            // Somebody else created it in between.
            Creation::Different => self.load().await?.ok_or_else(|| self.fenced()),
        }
    }

    async fn has_disks(&self) -> Result<bool, Error> {
        let mut pages = Pages::new(self.replica.as_ref(), names::DISKS, Include::default());
        while let Some(page) = pages.next().await.map_err(self.storage("list the disks"))? {
            if !page.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Replaces the manifest that `held` is of.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it is another by now.
    pub async fn save(&self, held: &Held, manifest: Manifest) -> Result<Held, Error> {
        let body =
            Bytes::from(document::encode(&manifest).map_err(|source| self.document(source))?);
        let options = PutOptions::replace(held.etag.clone()).json();
        match self.replica.put(names::MANIFEST, body, &options).await {
            Ok(stored) => Ok(Held {
                manifest,
                etag: stored.etag,
            }),
            // An earlier attempt of this very write may have been carried out, its reply lost.
            Err(error) if error.is_changed() => match self.load().await? {
                Some(now) if now.manifest == manifest => Ok(now),
                Some(_) | None => Err(self.fenced()),
            },
            Err(error) => Err(self.storage("write replica.json")(error)),
        }
    }

    fn check_ours(&self, blob: &str, said: &ReplicaId) -> Result<(), Error> {
        if *said == self.id {
            return Ok(());
        }
        Err(Error::Foreign {
            replica: self.id.clone(),
            blob: blob.to_owned(),
            why: format!("it is of replica {said}"),
        })
    }

    pub fn storage(&self, action: &'static str) -> impl Fn(blob::Error) -> Error + use<> {
        let replica = self.id.clone();
        move |error| match error.is_fenced() {
            true => Error::Fenced {
                replica: replica.clone(),
            },
            false => Error::Storage {
                action,
                replica: replica.clone(),
                source: Box::new(error),
            },
        }
    }

    pub fn fenced(&self) -> Error {
        Error::Fenced {
            replica: self.id.clone(),
        }
    }

    pub fn lost(&self, blob: &str, why: &'static str) -> Error {
        Error::Lost {
            replica: self.id.clone(),
            blob: blob.to_owned(),
            why,
        }
    }

    fn document(&self, source: crate::replica::Error) -> Error {
        Error::Document {
            replica: self.id.clone(),
            source,
        }
    }
}
