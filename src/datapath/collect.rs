//! Removes what a cycle that did not finish left behind: snapshots and chunk tables that no manifest names.
//!
//! It lists a page first and reads the manifest afterwards, so that what is published meanwhile is seen as named, and goes
//! on to the next page: memory is one page, however many points there are. Only what is of this owner or an earlier one,
//! and not newer than what was applied, goes: an owner that was replaced collects nothing, because a folded table of its
//! successor looks like garbage until it is published. A snapshot of a point that is pinned stays, named or not: whoever
//! dropped the point may not have got to see the pin.

use std::collections::BTreeSet;

use crate::blob::answer::Listed;
use crate::blob::names::BlobRef;
use crate::blob::parameters::{Condition, DeleteSnapshots, Include};
use crate::blob::walk::Pages;
use crate::datapath::Error;
use crate::datapath::advance;
use crate::datapath::cycle::{META_GENERATION, META_SEQUENCE};
use crate::datapath::disk::META_REPLICA;
use crate::datapath::store::Store;
use crate::ids::RecoveryPointId;
use crate::replica::manifest::Manifest;
use crate::replica::names;
use crate::units::{Generation, Sequence};

/// Removes what nobody names, for the owner of generation `owner`: how many blobs and snapshots that were.
///
/// # Errors
/// [`Error::Fenced`] if there is another owner by now; else if storage cannot be listed, the manifest not be read, or
/// something not be deleted.
pub async fn collect(store: &Store, owner: Generation) -> Result<usize, Error> {
    let disks = Include {
        snapshots: true,
        metadata: true,
    };
    let snapshots = collect_in(store, owner, "disks/", disks, unnamed_snapshots).await?;
    let tables = collect_in(store, owner, "tables/", Include::default(), unnamed_tables).await?;
    Ok(snapshots + tables)
}

/// Removes what `unnamed` picks out of each page of the blobs at `prefix`.
async fn collect_in(
    store: &Store,
    owner: Generation,
    prefix: &str,
    include: Include,
    unnamed: fn(&Manifest, &[Listed]) -> Vec<BlobRef>,
) -> Result<usize, Error> {
    let mut removed = 0;
    let mut pages = Pages::new(store.replica.as_ref(), prefix, include);
    let list = store.storage("list the replica");
    while let Some(page) = pages.next().await.map_err(&list)? {
        let Some(held) = store.load().await? else {
            return Ok(removed);
        };
        if held.manifest.writer.generation != owner {
            return Err(store.fenced());
        }
        let mut unnamed = unnamed(&held.manifest, &page);
        if !unnamed.is_empty() {
            let pinned = pinned(&page, &held.manifest, &store.fence().await?.0.pinned);
            unnamed.retain(|blob| !pinned.contains(blob));
        }
        for blob in unnamed {
            let deleted = store
                .replica
                .delete(&blob, &Condition::Always, DeleteSnapshots::None)
                .await;
            deleted.map_err(store.storage("delete what no manifest names"))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The snapshots of a page that are of pinned points.
fn pinned(listed: &[Listed], manifest: &Manifest, pins: &[RecoveryPointId]) -> Vec<BlobRef> {
    let is_pinned = |blob: &&Listed| {
        let sequence = blob.metadata.get(META_SEQUENCE);
        let sequence: Option<Sequence> = sequence.and_then(|text| text.parse().ok());
        sequence.is_some_and(|at| pins.contains(&advance::point_id(&manifest.replica, at)))
    };
    let snapshots = listed.iter().filter(is_pinned);
    snapshots
        .filter_map(|blob| Some(BlobRef::at(&blob.name, blob.snapshot.clone()?)))
        .collect()
}

/// Snapshots of ours that no point has.
fn unnamed_snapshots(manifest: &Manifest, listed: &[Listed]) -> Vec<BlobRef> {
    let named: BTreeSet<(String, &str)> = manifest
        .points
        .iter()
        .flat_map(|point| &point.disks)
        .map(|(id, disk)| (names::disk(id), disk.snapshot.as_str()))
        .collect();
    let ours = |blob: &&Listed| {
        let said = |name: &str| blob.metadata.get(name).map(String::as_str);
        let sequence: Option<Sequence> = said(META_SEQUENCE).and_then(|text| text.parse().ok());
        let generation: Option<u64> = said(META_GENERATION).and_then(|text| text.parse().ok());
        said(META_REPLICA) == Some(manifest.replica.as_str())
            && sequence.is_some_and(|sequence| sequence <= manifest.last_applied.sequence)
            && generation.is_some_and(|generation| generation <= manifest.writer.generation.value())
    };
    let snapshots = listed
        .iter()
        .filter(ours)
        .filter_map(|blob| Some((blob, blob.snapshot.clone()?)));
    snapshots
        .filter(|(blob, snapshot)| !named.contains(&(blob.name.clone(), snapshot.as_str())))
        .map(|(blob, snapshot)| BlobRef::at(&blob.name, snapshot))
        .collect()
}

/// Chunk tables of sequences that were applied, which no disk has.
fn unnamed_tables(manifest: &Manifest, listed: &[Listed]) -> Vec<BlobRef> {
    let named: BTreeSet<&str> = manifest
        .disks
        .values()
        .flat_map(|disk| &disk.tables)
        .map(|table| table.blob.as_str())
        .collect();
    let applied = |name: &str| {
        let file = name.rsplit('/').next()?;
        let to: Sequence = file.split('-').nth(1)?.parse().ok()?;
        Some(to <= manifest.last_applied.sequence)
    };
    let unnamed = listed
        .iter()
        .filter(|blob| !named.contains(blob.name.as_str()));
    unnamed
        .filter(|blob| applied(&blob.name) == Some(true))
        .map(|blob| BlobRef::head(&blob.name))
        .collect()
}
