//! Lets recovery points go that retention does not keep.
//!
//! ```text
//! fence.json: pins, storage's time ► drop   replica.json without the points   ── nobody finds them any more
//!                                  ► look   fence.json again                  ── pinned meanwhile: back into replica.json
//!                                  ► delete their snapshots                   ── or collected as garbage later
//! ```
//! A run pins its point first and reads `replica.json` again afterwards. Here the point is dropped first and the fence
//! read again afterwards. So one of the two sees the other: the run finds its point gone and takes another, or the pin is
//! found here and the point stays. Both may be; then a point stays that nobody needs.
//!
//! Whoever dies after the drop leaves snapshots that no manifest names. They are collected with what cycles left behind,
//! but not while their point is pinned. Whoever dies in the middle of deleting leaves some of a point that is in no
//! manifest, as its run knows.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::blob::names::{BlobRef, SnapshotId};
use crate::blob::parameters::{Condition, DeleteSnapshots};
use crate::datapath::Error;
use crate::datapath::store::{Held, Store};
use crate::replica::manifest::{Manifest, Point};
use crate::replica::names;
use crate::replica::retention::{self, Retention};

/// Points that go at a time: others wait for their turn.
pub const BATCH: usize = 16;
/// Snapshots that are deleted at the same time.
const DELETES: usize = 8;

/// How many points may go, as far as can be said without asking storage for pins and its time: `now` is by our clock.
pub fn due(manifest: &Manifest, retention: &Retention, now: Timestamp) -> usize {
    let resyncing = manifest.is_resyncing();
    // Where our clock is behind, storage's is known to be as late as this at least.
    let newest = manifest.points.last().map_or(now, |point| point.published);
    retention::expired(&manifest.points, retention, &[], resyncing, now.max(newest)).len()
}

/// Lets the oldest points go that `retention` does not keep, a batch at most: the manifest without them, if there were
/// any.
///
/// # Errors
/// The first thing that failed. Nothing goes unless manifest and fence could be read.
pub async fn prune(
    store: &Store,
    held: &Held,
    retention: &Retention,
) -> Result<Option<Held>, Error> {
    let (fence, now) = store.fence().await?;
    let manifest = &held.manifest;
    let resyncing = manifest.is_resyncing();
    let expired = retention::expired(&manifest.points, retention, &fence.pinned, resyncing, now);
    let batch: BTreeSet<usize> = expired.into_iter().take(BATCH).collect();
    if batch.is_empty() {
        return Ok(None);
    }
    let (next, dropped) = without(manifest, &batch);
    let held = store.save(held, next).await?;
    let (fence, _) = store.fence().await?;
    let (pinned, dropped): (Vec<Point>, Vec<Point>) = dropped
        .into_iter()
        .partition(|point| fence.pinned.contains(&point.id));
    let held = match pinned.is_empty() {
        true => held,
        false => store.save(&held, with(&held.manifest, pinned)).await?,
    };
    delete(store, &dropped).await?;
    tracing::info!(replica = %store.id, points = dropped.len(), "let recovery points go");
    Ok(Some(held))
}

/// The manifest without the points at these places, and those points.
fn without(manifest: &Manifest, places: &BTreeSet<usize>) -> (Manifest, Vec<Point>) {
    let mut next = manifest.clone();
    let points = std::mem::take(&mut next.points).into_iter().enumerate();
    let (gone, kept): (Vec<_>, Vec<_>) = points.partition(|(place, _)| places.contains(place));
    let plain = |points: Vec<(usize, Point)>| points.into_iter().map(|(_, point)| point).collect();
    next.points = plain(kept);
    (next, plain(gone))
}

/// The manifest with these points again.
fn with(manifest: &Manifest, points: Vec<Point>) -> Manifest {
    let mut next = manifest.clone();
    next.points.extend(points);
    next.points.sort_by_key(|point| point.sequence);
    next
}

async fn delete(store: &Store, points: &[Point]) -> Result<(), Error> {
    let mut snapshots: Vec<BlobRef> = Vec::new();
    for (id, disk) in points.iter().flat_map(|point| &point.disks) {
        let blob = names::disk(id);
        let snapshot: SnapshotId = disk.snapshot.parse().map_err(|_| Error::Foreign {
            replica: store.id.clone(),
            blob: names::MANIFEST.to_owned(),
            why: format!("it names a snapshot `{}` of {blob}", disk.snapshot),
        })?;
        snapshots.push(BlobRef::at(blob, snapshot));
    }
    let deletes = snapshots.into_iter().map(|snapshot| async move {
        let deleted = store
            .replica
            .delete(&snapshot, &Condition::Always, DeleteSnapshots::None)
            .await;
        deleted
            .map(drop)
            .map_err(store.storage("delete the snapshot of a recovery point"))
    });
    futures::stream::iter(deletes)
        .buffer_unordered(DELETES)
        .try_collect()
        .await
}
