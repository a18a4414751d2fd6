//! Copies of a recovery point's disks that become managed disks: ARM imports a page blob, but no blob snapshot.
//!
//! ```text
//! nothing ──copy begun──► pending ──the service copies──► whole ──imported, by ARM──► removed
//!    ▲                       │
//!    └────── removed ◄── failed or aborted
//! ```
//! A copy is named by its run and its disk, in the site's container. Copy Blob carries the snapshot's metadata over, so
//! that a copy says by itself what it is of: one that another attempt has begun is gone on with, one of another point is
//! not touched. Whoever calls has pinned the point before: pruning would take the source away.

use crate::blob::Container;
use crate::blob::answer::{CopyStatus, Properties};
use crate::blob::names::{BlobRef, ETag, SnapshotId};
use crate::blob::parameters::{Condition, CopySource, DeleteSnapshots, Metadata};
use crate::datapath::Error;
use crate::datapath::cycle::META_SEQUENCE;
use crate::datapath::disk;
use crate::datapath::store::Store;
use crate::ids::{DiskId, ObjectName};
use crate::replica::manifest::Point;
use crate::replica::names;
use crate::units::SECTOR;

/// A disk of a recovery point, as a run is to import it.
pub struct Import<'a> {
    pub store: &'a Store,
    /// The container of the replica's site.
    pub site: &'a dyn Container,
    pub run: &'a ObjectName,
    pub point: &'a Point,
    pub disk: &'a DiskId,
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Bytes copied and to copy in all, where the service says so.
    Pending(Option<(u64, u64)>),
    Whole,
}

/// What is to be done about a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Wait(Option<(u64, u64)>),
    /// It did not come to an end: why, and which version of the blob is to go.
    Remove(String, ETag),
    /// Something else stands there.
    Leave(String),
    Ready,
}

impl Import<'_> {
    /// Begins the copy, or looks how far it is; harmless to repeat, by whomever.
    ///
    /// # Errors
    /// [`Error::Foreign`] if something else stands where the copy should; [`Error::NotCopied`] if the service gave up, in
    /// which case the next call begins again; else if storage cannot be asked.
    pub async fn advance(&self) -> Result<Copied, Error> {
        let found = self.look().await?;
        match self.next(found.as_ref()) {
            Step::Ready => Ok(Copied::Whole),
            Step::Wait(copied) => Ok(Copied::Pending(copied)),
            Step::Begin => self.begin().await,
            Step::Leave(why) => Err(self.foreign(why)),
            Step::Remove(why, version) => {
                self.remove_version(Condition::Matches(version)).await?;
                Err(Error::NotCopied {
                    replica: self.store.id.clone(),
                    blob: self.name(),
                    why,
                })
            }
        }
    }

    /// Removes the copy, whole or not; `false` if there is none.
    ///
    /// # Errors
    /// [`Error::Foreign`] if what stands there is no copy; else if storage cannot be asked, or refuses as long as it
    /// copies.
    pub async fn remove(&self) -> Result<bool, Error> {
        match self.look().await? {
            None => Ok(false),
            Some(found) if found.copy.is_none() && !self.is_of_disk(&found.metadata) => {
                Err(self.foreign("nothing was copied into it".to_owned()))
            }
            Some(found) => self.remove_version(Condition::Matches(found.etag)).await,
        }
    }

    /// The copy's name in the site's container.
    pub fn name(&self) -> String {
        names::import(self.run, self.disk)
    }

    fn next(&self, found: Option<&Properties>) -> Step {
        let Some(found) = found else {
            return Step::Begin;
        };
        let version = || found.etag.clone();
        match found.copy.as_ref().map(|copy| &copy.status) {
            None => Step::Leave("it was written to, or nothing was copied into it".to_owned()),
            // Whether metadata are there before the end, the service does not promise.
            Some(CopyStatus::Pending { copied }) => Step::Wait(*copied),
            Some(CopyStatus::Aborted) => Step::Remove("somebody aborted it".to_owned(), version()),
            Some(CopyStatus::Failed { description }) => {
                Step::Remove(description.clone(), version())
            }
            Some(CopyStatus::Success) if !self.is_of_point(&found.metadata) => {
                Step::Leave("it does not say that it is this disk at this point".to_owned())
            }
            Some(CopyStatus::Success) if Some(found.length) != self.length() => Step::Leave(
                format!("it has {} bytes, other than the point's disk", found.length),
            ),
            Some(CopyStatus::Success) => Step::Ready,
        }
    }

    async fn look(&self) -> Result<Option<Properties>, Error> {
        match self.site.properties(&BlobRef::head(self.name())).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(self.store.storage("look at a copy")(error)),
        }
    }

    async fn begin(&self) -> Result<Copied, Error> {
        let source = self.source()?;
        let absent = Condition::Absent;
        match self.site.copy_from(&self.name(), &source, &absent).await {
            // What it has come to is seen when it is looked at, and whether it is ours.
            Ok(_) => Ok(Copied::Pending(None)),
            Err(error) if error.is_already_exists() => Ok(Copied::Pending(None)),
            Err(error) if error.is_not_found() => Err(self.store.lost(
                &names::disk(self.disk),
                "a recovery point needs its snapshot",
            )),
            Err(error) => Err(self.store.storage("copy a disk")(error)),
        }
    }

    fn source(&self) -> Result<CopySource, Error> {
        let blob = names::disk(self.disk);
        let held = self.point.disks.get(self.disk);
        let snapshot = held.and_then(|held| held.snapshot.parse::<SnapshotId>().ok());
        let snapshot = snapshot.ok_or_else(|| {
            self.store
                .lost(&blob, "a recovery point needs its snapshot")
        })?;
        Ok(CopySource {
            container: self.store.replica.name().to_owned(),
            blob: BlobRef::at(blob, snapshot),
        })
    }

    async fn remove_version(&self, version: Condition) -> Result<bool, Error> {
        let (blob, alone) = (BlobRef::head(self.name()), DeleteSnapshots::None);
        let removed = self.site.delete(&blob, &version, alone).await;
        removed.map_err(self.store.storage("remove a copy"))
    }

    /// Bytes of the point's disk as a fixed VHD.
    fn length(&self) -> Option<u64> {
        let held = self.point.disks.get(self.disk)?;
        Some(disk::padded(held.size) + SECTOR)
    }

    fn is_of_point(&self, metadata: &Metadata) -> bool {
        let sequence = self.point.sequence.to_string();
        self.is_of_disk(metadata) && metadata.get(META_SEQUENCE) == Some(&sequence)
    }

    fn is_of_disk(&self, metadata: &Metadata) -> bool {
        disk::is_ours(metadata, self.store, self.disk)
    }

    fn foreign(&self, why: String) -> Error {
        Error::Foreign {
            replica: self.store.id.clone(),
            blob: self.name(),
            why,
        }
    }
}

#[cfg(test)]
mod tests;
