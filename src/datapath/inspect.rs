//! What stands in a storage account, read by somebody who needs neither cluster nor host.
//!
//! Nothing here takes a replica over or changes anything: it may look while a data path works, and what it says is then
//! true of the moment at which each thing was read. The inbox is listed before the manifest is read, so that a seal
//! which was applied in between is not taken for one that waits.

pub mod catalog;
pub mod error;
pub mod pending;

use jiff::Timestamp;

use crate::blob::Container;
use crate::blob::names::BlobRef;
use crate::datapath::inspect::pending::Listing;
use crate::datapath::store::Store;
use crate::ids::{DiskId, DiskSlot};
use crate::replica::document::{self, Document};
use crate::replica::fence::Fence;
use crate::replica::manifest::{Manifest, Point};
use crate::replica::names;
use crate::report::Fault;
use crate::units::to_u64;

pub use error::Error;

/// A replica as it stands.
#[derive(Clone, Debug)]
pub struct Overview {
    pub manifest: Manifest,
    /// When the manifest was written last.
    pub written: Timestamp,
    /// Storage's clock: ages count to here.
    pub now: Timestamp,
    /// Nothing where there is none; a fault where it cannot be read, which hinders nothing.
    pub fence: Result<Option<Fence>, Fault>,
    /// A fault where it cannot be listed, as by a signature for the replica's container alone.
    pub inbox: Result<Listing, Fault>,
}

/// Looks at a replica.
///
/// # Errors
/// If the manifest is not there, cannot be read, or is of a newer format.
pub async fn overview(store: &Store) -> Result<Overview, Error> {
    let inbox = Listing::list(store).await;
    let properties = store
        .replica
        .properties(&BlobRef::head(names::MANIFEST))
        .await;
    let properties = match properties {
        Ok(properties) => properties,
        Err(error) if error.is_not_found() => return Err(no_manifest(store)),
        Err(error) => return Err(Error::storage("look at replica.json")(error)),
    };
    let manifest = manifest(store).await?;
    let fence = load::<Fence>(store.replica.as_ref(), names::FENCE).await;
    Ok(Overview {
        manifest,
        written: properties.last_modified,
        now: properties.date,
        fence: fence.map_err(|error| error.fault()),
        inbox: inbox.map_err(|error| error.fault()),
    })
}

/// The manifest of a replica that has one.
///
/// # Errors
/// If it is not there, cannot be read, or is of a newer format.
pub async fn manifest(store: &Store) -> Result<Manifest, Error> {
    let held = store.load().await?;
    held.map(|held| held.manifest)
        .ok_or_else(|| no_manifest(store))
}

fn no_manifest(store: &Store) -> Error {
    Error::NoManifest {
        container: store.replica.name().to_owned(),
    }
}

/// A document; nothing if it is not there.
pub(crate) async fn load<T: Document>(
    container: &dyn Container,
    blob: &str,
) -> Result<Option<T>, Error> {
    let limit = to_u64(document::LENGTH_MAX);
    let got = match container.get(&BlobRef::head(blob), None, limit).await {
        Ok(got) => got,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(Error::storage("read a document")(error)),
    };
    let document = document::decode(&got.bytes).map_err(|source| Error::Document {
        object: format!("{}/{blob}", container.name()),
        source,
    })?;
    Ok(Some(document))
}

impl Overview {
    /// Where a disk is in the machine, as far as the fence says.
    pub fn slot(&self, disk: &DiskId) -> Option<&DiskSlot> {
        let fence = self.fence.as_ref().ok()?.as_ref()?;
        let described = fence.machine.disks.iter().find(|known| known.id == *disk)?;
        Some(&described.slot)
    }
}

/// The point that `wanted` begins the id of; the newest if nothing is wanted.
///
/// # Errors
/// If there is none, or more than one.
pub fn find_point<'a>(manifest: &'a Manifest, wanted: Option<&str>) -> Result<&'a Point, Error> {
    let replica = || manifest.replica.clone();
    let Some(wanted) = wanted else {
        let newest = manifest.points.last();
        return newest.ok_or_else(|| Error::NoPoints { replica: replica() });
    };
    let mut found = manifest
        .points
        .iter()
        .filter(|point| !wanted.is_empty() && point.id.as_str().starts_with(wanted));
    match (found.next(), found.next()) {
        (Some(point), None) => Ok(point),
        (None, _) => Err(Error::NoPoint {
            replica: replica(),
            wanted: wanted.to_owned(),
        }),
        (Some(_), Some(_)) => Err(Error::ManyPoints {
            replica: replica(),
            wanted: wanted.to_owned(),
        }),
    }
}
