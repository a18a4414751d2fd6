//! Whether every head and every snapshot that the manifest names is there, with the right size and metadata.

use std::collections::BTreeMap;

use crate::blob::answer::{BlobKind, Listed};
use crate::blob::names::BlobRef;
use crate::blob::parameters::Include;
use crate::blob::walk;
use crate::datapath::cycle::META_SEQUENCE;
use crate::datapath::disk::{META_DISK, META_REPLICA, padded};
use crate::datapath::inspect::{self, Error};
use crate::datapath::verify::report::Findings;
use crate::datapath::verify::{Verifier, head};
use crate::ids::{DiskId, ReplicaId};
use crate::replica::manifest::{Head, Manifest};
use crate::replica::names;
use crate::report::Code;
use crate::units::{SECTOR, Sequence};

/// The most blobs and snapshots of one replica: 260 disks with all points.
const LISTED_MAX: u64 = 10_000_000;

/// What was found in its place.
pub(super) struct Counted {
    pub(super) snapshots: u64,
}

/// A blob or snapshot as it should be.
struct Expected<'a> {
    blob: BlobRef,
    disk: &'a DiskId,
    /// Bytes that the guest sees.
    size: u64,
    /// Of a snapshot.
    sequence: Option<Sequence>,
}

impl Verifier<'_> {
    /// `before` was read before: what it names and a manifest after the listing names, too, was there all the time.
    pub(super) async fn inventory(
        &self,
        before: &Manifest,
        findings: &mut Findings,
    ) -> Result<Counted, Error> {
        let include = Include {
            snapshots: true,
            metadata: true,
        };
        let listed = walk::blobs(self.store.replica.as_ref(), "disks/", include, LISTED_MAX).await;
        let listed = listed.map_err(Error::storage("list the replica"))?.items;
        let after = inspect::manifest(self.store).await?;
        let listed: BTreeMap<BlobRef, Listed> = listed
            .into_iter()
            .map(|item| (reference(&item), item))
            .collect();
        let still: BTreeMap<BlobRef, Expected<'_>> = expectations(&after)
            .map(|expected| (expected.blob.clone(), expected))
            .collect();
        let mut counted = Counted { snapshots: 0 };
        for expected in expectations(before) {
            let object = expected.blob.to_string();
            if !still.contains_key(&expected.blob) {
                findings.gone(&object, "its recovery point was pruned meanwhile");
                continue;
            }
            match listed.get(&expected.blob) {
                None => {
                    let what = "replica.json names it, and it is not there";
                    findings.damage(Code::ReplicaDamaged, &object, what);
                }
                Some(found) => match wrong(&self.store.id, &expected, found) {
                    Some(what) => findings.damage(Code::ReplicaDamaged, &object, what),
                    None if expected.sequence.is_some() => counted.snapshots += 1,
                    None => {}
                },
            }
        }
        Ok(counted)
    }
}

fn reference(item: &Listed) -> BlobRef {
    BlobRef {
        name: item.name.clone(),
        snapshot: item.snapshot.clone(),
    }
}

/// All heads that must exist, and the snapshots of all points. An id of a snapshot that cannot be one is found where the
/// content is read; in a list it would match nothing.
fn expectations(manifest: &Manifest) -> impl Iterator<Item = Expected<'_>> {
    let heads = manifest.disks.iter().filter_map(|(disk, replica)| {
        // Before the first cycle has ended the blob may not have been created yet.
        let begun = !replica.tables.is_empty() || !matches!(replica.head, Head::Copying { .. });
        begun.then(|| Expected {
            blob: head(disk),
            disk,
            size: replica.size,
            sequence: None,
        })
    });
    let snapshots = manifest.points.iter().flat_map(|point| {
        point.disks.iter().filter_map(|(disk, cut)| {
            Some(Expected {
                blob: BlobRef::at(names::disk(disk), cut.snapshot.parse().ok()?),
                disk,
                size: cut.size,
                sequence: Some(point.sequence),
            })
        })
    });
    heads.chain(snapshots)
}

/// What is wrong with a blob that is there.
fn wrong(replica: &ReplicaId, expected: &Expected<'_>, found: &Listed) -> Option<String> {
    let length = padded(expected.size) + SECTOR;
    if found.kind != BlobKind::Page {
        return Some("it is no page blob".to_owned());
    }
    if found.length != length {
        return Some(format!("it has {} bytes instead of {length}", found.length));
    }
    let said = |name: &str| found.metadata.get(name).map(String::as_str);
    let mut names = vec![
        (META_REPLICA, replica.to_string()),
        (META_DISK, expected.disk.to_string()),
    ];
    names.extend(expected.sequence.map(|at| (META_SEQUENCE, at.to_string())));
    let other = names
        .into_iter()
        .find(|(name, value)| said(name) != Some(value));
    other.map(|(name, value)| {
        let found = said(name).unwrap_or("nothing");
        format!("its metadata says {name} {found} instead of {value}")
    })
}
