//! Each kind of damage is found and named, and nothing else is called damage.

use bytes::Bytes;
use site_recovery::blob::Container;
use site_recovery::blob::names::{BlobRef, SequenceNumber};
use site_recovery::blob::parameters::{Condition, DeleteSnapshots, Include, PutOptions};
use site_recovery::datapath::verify::report::{Finding, Report};
use site_recovery::replica::manifest::{Head, Manifest};
use site_recovery::replica::names;
use site_recovery::report::Code;

use super::world::{MIB, contents, names_in, published, replica, sealed, verified};
use crate::replication::world::World;

const LIMIT: u64 = 1 << 30;

/// Changes the last byte of a block blob.
async fn flip(container: &dyn Container, blob: &str) {
    let got = container
        .get(&BlobRef::head(blob), None, LIMIT)
        .await
        .unwrap();
    let mut bytes = got.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let options = PutOptions::replace(got.etag);
    container.put(blob, bytes.into(), &options).await.unwrap();
}

async fn delete(container: &dyn Container, blob: &BlobRef) {
    let deleted = container
        .delete(blob, &Condition::Always, DeleteSnapshots::None)
        .await;
    assert!(deleted.unwrap());
}

/// Changes the manifest as its owner would.
async fn amend(world: &World, change: impl FnOnce(&mut Manifest)) {
    let held = world.cloud.load().await.unwrap().unwrap();
    let mut manifest = held.manifest.clone();
    change(&mut manifest);
    world.cloud.save(&held, manifest).await.unwrap();
}

/// Writes pages of a disk's head, as a data path does.
async fn write_head(world: &World, blob: &str, offset: u64, data: &[u8]) {
    let fence = world.manifest().await.writer.fence();
    let fence = SequenceNumber::new(fence).unwrap();
    let body = Bytes::copy_from_slice(data);
    let put = world
        .cloud
        .replica
        .put_pages(blob, offset, body, fence)
        .await;
    put.unwrap();
}

fn only(report: &Report) -> &Finding {
    let findings = &report.findings;
    assert_eq!(findings.damage.len(), 1, "{findings:?}");
    assert_eq!(findings.gone_count, 0, "{findings:?}");
    &findings.damage[0]
}

/// Puts something else into the snapshot of the first disk: what it is called.
async fn corrupt_content(world: &World) -> String {
    let id = world.disks.keys().next().unwrap();
    let blob = names::disk(id);
    let listed = world
        .cloud
        .replica
        .list(
            &blob,
            Include {
                snapshots: true,
                metadata: true,
            },
            None,
        )
        .await
        .unwrap();
    let snapshot = listed.items.iter().find(|item| item.snapshot.is_some());
    let metadata = snapshot.unwrap().metadata.clone();
    // A chunk with a hash, and one that is zero; 512 bytes each.
    write_head(world, &blob, 3 * MIB as u64, &[0xee; 512]).await;
    write_head(world, &blob, 2 * MIB as u64 + 65_536, &[0xee; 512]).await;
    let taken = world
        .cloud
        .replica
        .snapshot(&blob, &metadata, &Condition::Always)
        .await
        .unwrap();
    amend(world, |manifest| {
        let disk = manifest.points[0].disks.get_mut(id).unwrap();
        disk.snapshot = taken.as_str().to_owned();
    })
    .await;
    blob
}

#[tokio::test]
async fn a_sound_replica_has_no_findings_and_is_as_it_was() {
    // Given a replica of which some chunks were written in part
    let world = published().await;
    let before = contents(&world).await;
    // When it is verified
    let report = verified(&world).await.unwrap();
    // Then all of it was compared but for those chunks, and nothing was changed.
    assert!(report.findings.is_sound(), "{:?}", report.findings);
    assert_eq!((report.points, report.snapshots), (1, 2));
    assert!(report.tables >= 2);
    for disk in &report.disks {
        let compared = disk.compared.as_ref().unwrap();
        assert_eq!(compared.total(), disk.size.div_ceil(65_536));
        assert_eq!(compared.differing, 0);
        assert!(compared.hashed > 0 && compared.zero > 0, "{compared:?}");
        assert!((1..=4).contains(&compared.touched), "{compared:?}");
    }
    assert_eq!(contents(&world).await, before);
}

#[tokio::test]
async fn content_other_than_its_table_is_found_by_chunk_and_restored_on_request_alone() {
    let world = published().await;
    let blob = corrupt_content(&world).await;
    // When it is verified, then both chunks are named
    let report = verified(&world).await.unwrap();
    let finding = only(&report);
    assert_eq!(finding.code, Some(Code::ReplicaDamaged));
    assert!(finding.object.starts_with(&blob), "{finding:?}");
    let wrong = report.disks.iter().find_map(|disk| {
        let compared = disk.compared.as_ref()?;
        (compared.differing > 0).then_some(&compared.differing_at)
    });
    assert_eq!(wrong.unwrap(), &[2 * MIB as u64 + 65_536, 3 * MIB as u64]);
    // And the command leaves with its own code.
    let id = world.cloud.id.as_str();
    let done = replica(&world, &["verify", id]);
    assert_eq!(done.code, Some(3), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("DAMAGED"), "{}", done.stdout);
    // When that disk is restored, then there is no file, unless nobody minds.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.vhd");
    let disk = world.disks.keys().next().unwrap().as_str();
    let args = [
        "restore",
        id,
        "--disk",
        disk,
        "--output",
        file.to_str().unwrap(),
    ];
    let done = replica(&world, &args);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("ReplicaDamaged"), "{}", done.stderr);
    assert!(names_in(folder.path()).is_empty());
    let done = replica(&world, &[&args[..], &["--unverified"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(names_in(folder.path()), ["disk.vhd"]);
}

#[tokio::test]
async fn a_chunk_table_part_that_was_changed_or_is_missing_is_found() {
    // Given a changed part of one disk
    let world = published().await;
    let manifest = world.manifest().await;
    let mut disks = manifest.disks.values();
    let part = disks.next().unwrap().tables[0].blob.clone();
    flip(world.cloud.replica.as_ref(), &part).await;
    // Then it is named, and that disk is not compared while the other is.
    let report = verified(&world).await.unwrap();
    let of_part = |finding: &&Finding| finding.object == part;
    assert_eq!(report.findings.damage.iter().filter(of_part).count(), 1);
    let compared = report.disks.iter().filter(|disk| disk.compared.is_some());
    assert_eq!(compared.count(), 1);
    // Given one of the other disk that is not there
    let missing = disks.next().unwrap().tables[0].blob.clone();
    delete(world.cloud.replica.as_ref(), &BlobRef::head(&missing)).await;
    let report = verified(&world).await.unwrap();
    let finding = report
        .findings
        .damage
        .iter()
        .find(|at| at.object == missing);
    assert!(finding.unwrap().what.contains("not there"));
    assert_eq!(report.findings.gone_count, 0);
}

#[tokio::test]
async fn a_snapshot_that_is_missing_or_not_ours_is_found() {
    let world = published().await;
    let manifest = world.manifest().await;
    let mut disks = manifest.points[0].disks.iter();
    // Given one snapshot that was deleted, and one without our metadata
    let (id, cut) = disks.next().unwrap();
    let gone = BlobRef::at(names::disk(id), cut.snapshot.parse().unwrap());
    delete(world.cloud.replica.as_ref(), &gone).await;
    let (other, _) = disks.next().unwrap();
    let foreign = [("replica".to_owned(), "another".to_owned())].into();
    let taken = world
        .cloud
        .replica
        .snapshot(&names::disk(other), &foreign, &Condition::Always)
        .await
        .unwrap();
    amend(&world, |manifest| {
        let disk = manifest.points[0].disks.get_mut(other).unwrap();
        disk.snapshot = taken.as_str().to_owned();
    })
    .await;
    // Then both are named
    let report = verified(&world).await.unwrap();
    assert_eq!(report.snapshots, 0);
    let said = |object: &str, what: &str| {
        let mut damage = report.findings.damage.iter();
        damage.any(|finding| finding.object == object && finding.what.contains(what))
    };
    assert!(
        said(&gone.to_string(), "not there"),
        "{:?}",
        report.findings
    );
    let foreign = BlobRef::at(names::disk(other), taken);
    assert!(
        said(&foreign.to_string(), "metadata"),
        "{:?}",
        report.findings
    );
}

#[tokio::test]
async fn seals_that_wait_are_verified_and_a_bad_log_and_a_gap_are_found() {
    // Given an inbox with everything, nothing applied
    let (world, _engine) = sealed().await;
    let report = verified(&world).await.unwrap();
    assert!(report.findings.is_sound(), "{:?}", report.findings);
    let waiting = report.inbox.waiting.unwrap();
    assert!(report.inbox.seals > 2, "{}", report.inbox.seals);
    assert_eq!(
        (waiting.sealed, waiting.logs),
        (report.inbox.seals, report.inbox.logs)
    );
    assert_eq!((report.point, waiting.applied), (None, 0));
    // Given a log that was changed
    let listed = world.cloud.inbox.list("", Include::default(), None).await;
    let items = listed.unwrap().items;
    let log = items.iter().find(|item| item.name.ends_with(".hrl"));
    flip(world.cloud.inbox.as_ref(), &log.unwrap().name).await;
    let report = verified(&world).await.unwrap();
    assert_eq!(only(&report).code, Some(Code::SealInvalid));
    // And a seal that is missing
    let seals: Vec<_> = items
        .iter()
        .filter(|item| item.name.ends_with("sealed.json"))
        .collect();
    delete(world.cloud.inbox.as_ref(), &BlobRef::head(&seals[1].name)).await;
    let report = verified(&world).await.unwrap();
    let gap = |finding: &&Finding| finding.code == Some(Code::SequenceGap);
    let found = report.findings.damage.iter().find(gap);
    assert_eq!(found.unwrap().object, seals[2].name);
}

#[tokio::test]
async fn a_point_survives_a_data_path_that_died_in_the_middle_of_the_next() {
    // Given heads that something was written to after the point
    let world = published().await;
    let manifest = world.manifest().await;
    let target = manifest.last_applied.sequence.next();
    amend(&world, |manifest| {
        for disk in manifest.disks.values_mut() {
            disk.head = Head::Applying { target };
        }
    })
    .await;
    for id in world.disks.keys() {
        write_head(&world, &names::disk(id), 0, &[0xdd; 4096]).await;
    }
    // Then the list says so,
    let id = world.cloud.id.as_str();
    let listed = replica(&world, &["list", id]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let applying = format!("Applying up to {target}");
    assert!(listed.stdout.contains(&applying), "{}", listed.stdout);
    assert!(listed.stdout.contains("died there"), "{}", listed.stdout);
    // and the point is sound.
    let report = verified(&world).await.unwrap();
    assert!(report.findings.is_sound(), "{:?}", report.findings);
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_manifest_that_is_newer_torn_or_missing_is_refused_with_its_name() {
    let world = published().await;
    let store = &world.cloud.replica;
    let replace = async |text: &str| {
        let now = store.properties(&BlobRef::head(names::MANIFEST)).await;
        let options = PutOptions::replace(now.unwrap().etag);
        let body = Bytes::copy_from_slice(text.as_bytes());
        store.put(names::MANIFEST, body, &options).await.unwrap();
    };
    let id = world.cloud.id.as_str();
    for (text, code) in [
        ("{\"format\": 99}", "FormatTooNew"),
        ("{\"format\": 1, \"repl", "ReplicaDamaged"),
    ] {
        replace(text).await;
        for args in [
            vec!["list", id],
            vec!["verify", id],
            vec!["restore", id, "-o", "x"],
        ] {
            let done = replica(&world, &args);
            assert_eq!(done.code, Some(1), "{}", done.stdout);
            assert!(done.stderr.contains(code), "{}", done.stderr);
            assert!(done.stderr.contains(names::MANIFEST), "{}", done.stderr);
        }
    }
    delete(store.as_ref(), &BlobRef::head(names::MANIFEST)).await;
    let done = replica(&world, &["verify", id]);
    assert!(done.stderr.contains("StorageNotFound"), "{}", done.stderr);
    assert!(done.stderr.contains(names::MANIFEST), "{}", done.stderr);
}
