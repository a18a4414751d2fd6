//! Blobs written whole or in blocks, their conditions, snapshots, leases and copies.

use std::time::Duration;

use bytes::Bytes;
use site_recovery::blob::answer::{BlobKind, CopyStatus, LeaseState};
use site_recovery::blob::names::{BlobRef, BlockId, PUT_MAX, SnapshotId};
use site_recovery::blob::once::{self, Creation};
use site_recovery::blob::parameters::{
    Condition, CopySource, DeleteSnapshots, Include, LeaseAction, Metadata, PutOptions,
};
use site_recovery::blob::{Container, Kind};
use site_recovery::report::Code;
use site_recovery::units::{ByteRange, to_usize};
use uuid::Uuid;

use crate::blob::emulator::{self, noise};

fn metadata(name: &str, value: &str) -> Metadata {
    Metadata::from([(name.to_owned(), value.to_owned())])
}

#[tokio::test]
async fn a_blob_is_read_back_whole_and_in_ranges() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let body = noise(1, 100_000);
        let options = PutOptions::create()
            .metadata(metadata("point", "p1"))
            .json();
        let stored = container
            .put("a/b.json", body.clone(), &options)
            .await
            .unwrap();
        let blob = BlobRef::head("a/b.json");

        let whole = container.get(&blob, None, 100_000).await.unwrap();
        assert_eq!((&whole.bytes, whole.total_length), (&body, 100_000));
        assert_eq!(whole.etag, stored.etag);
        let range = ByteRange::new(1000, 5000).unwrap();
        let part = container.get(&blob, Some(range), 4000).await.unwrap();
        assert_eq!(
            (&part.bytes[..], part.total_length),
            (&body[1000..5000], 100_000)
        );
        let range = ByteRange::new(99_000, 200_000).unwrap();
        let tail = container.get(&blob, Some(range), 200_000).await.unwrap();
        assert_eq!(&tail.bytes[..], &body[99_000..]);

        let properties = container.properties(&blob).await.unwrap();
        assert_eq!(
            (properties.length, properties.kind),
            (100_000, BlobKind::Block)
        );
        assert_eq!(properties.metadata, metadata("point", "p1"));
        assert_eq!(properties.sequence_number, None);
        assert_eq!(properties.etag, stored.etag);
    }
}

#[tokio::test]
async fn more_than_the_limit_and_what_lies_beyond_the_end_are_refused() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        container
            .put("a", noise(2, 1000), &PutOptions::create())
            .await
            .unwrap();
        let blob = BlobRef::head("a");

        let error = container.get(&blob, None, 999).await.unwrap_err();
        assert_eq!(error.kind, Kind::TooLarge { limit: 999 });
        assert_eq!(error.code(), Code::ForeignBlob);
        let beyond = ByteRange::new(1000, 2000);
        let error = container.get(&blob, beyond, 1000).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        let empty = ByteRange::new(10, 10);
        let error = container.get(&blob, empty, 1000).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        let error = container
            .get(&BlobRef::head("b"), None, 1)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::StorageNotFound);
    }
}

#[tokio::test]
async fn conditions_decide_who_may_write() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let body = |text: &'static str| Bytes::from_static(text.as_bytes());
        let first = container
            .put("a", body("1"), &PutOptions::create())
            .await
            .unwrap();

        let again = container.put("a", body("2"), &PutOptions::create()).await;
        let error = again.unwrap_err();
        assert!(error.is_already_exists() && !error.repeated && !error.outcome_unknown());
        let options = PutOptions::replace(first.etag.clone());
        container.put("a", body("3"), &options).await.unwrap();
        let stale = container.put("a", body("4"), &options).await.unwrap_err();
        assert!(stale.is_changed());
        assert_eq!(stale.code(), Code::StorageChanged);
        let read = container.get(&BlobRef::head("a"), None, 10).await.unwrap();
        assert_eq!(read.bytes, body("3"));
        let gone = PutOptions::replace(first.etag);
        let error = container.put("never", body("5"), &gone).await.unwrap_err();
        assert!(error.is_changed() || error.is_not_found(), "{error}");
    }
}

#[tokio::test]
async fn creating_once_tells_the_same_bytes_from_others() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let seal = Bytes::from_static(b"seal");
        let options = PutOptions::default();
        let create = |body: Bytes| once::create(container.as_ref(), "s", body, &options);

        assert!(matches!(
            create(seal.clone()).await.unwrap(),
            Creation::Created(_)
        ));
        assert!(matches!(
            create(seal).await.unwrap(),
            Creation::AlreadyThere(_)
        ));
        for other in ["seel", "sea", "sealed"] {
            let other = Bytes::from_static(other.as_bytes());
            assert_eq!(create(other).await.unwrap(), Creation::Different);
        }
    }
}

#[tokio::test]
async fn names_of_every_kind_survive_urls_signatures_and_listings() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let mut names = vec![
            "a b/ä?c#d%41+e",
            "x&y<z>'\"",
            "-._~!$()*,;:@=",
            "\u{1f4be}/[1]",
        ];
        for name in &names {
            let body = Bytes::from((*name).to_owned());
            container
                .put(name, body, &PutOptions::create())
                .await
                .unwrap();
        }

        let listed = container.list("", Include::default(), None).await.unwrap();
        let mut found: Vec<&str> = listed.items.iter().map(|blob| blob.name.as_str()).collect();
        found.sort_unstable();
        names.sort_unstable();
        assert_eq!(found, names);
        for name in names {
            let read = container
                .get(&BlobRef::head(name), None, 100)
                .await
                .unwrap();
            assert_eq!(read.bytes, name.as_bytes());
        }
        let escape = container
            .get(&BlobRef::head("../x"), None, 1)
            .await
            .unwrap_err();
        assert_eq!(escape.kind, Kind::Refused);
    }
}

#[tokio::test]
async fn blocks_become_a_blob_only_when_a_list_names_them() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let blocks: Vec<BlockId> = (0..3).map(|n| BlockId::at(n).unwrap()).collect();
        for (seed, block) in (0..).zip(&blocks) {
            container
                .put_block("a", *block, noise(seed, 70_000))
                .await
                .unwrap();
        }

        let before = container.properties(&BlobRef::head("a")).await;
        assert!(before.unwrap_err().is_not_found());
        let order = [blocks[2], blocks[0]];
        container
            .put_block_list("a", &order, &PutOptions::create())
            .await
            .unwrap();
        let read = container
            .get(&BlobRef::head("a"), None, 200_000)
            .await
            .unwrap();
        assert_eq!(read.bytes, [noise(2, 70_000), noise(0, 70_000)].concat());
        let again = container
            .put_block_list("a", &order, &PutOptions::create())
            .await;
        assert!(again.unwrap_err().is_already_exists());
        let unknown = [BlockId::at(9).unwrap()];
        let error = container
            .put_block_list("b", &unknown, &PutOptions::create())
            .await;
        assert_eq!(error.unwrap_err().kind, Kind::Refused);
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_never_sent() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let body = Bytes::from(vec![0; to_usize(PUT_MAX) + 1]);
        let error = container
            .put("a", body, &PutOptions::create())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::StorageRefused);
        assert!(error.refusal.is_none());
    }
}

/// A blob `a` of 20 bytes with snapshots: one of 10 bytes, which says `point: p1`, and one of 20.
async fn with_snapshots(container: &dyn Container) -> (SnapshotId, SnapshotId) {
    let always = Condition::Always;
    let (first, second) = (noise(1, 10), noise(2, 20));
    let point = metadata("point", "p1");
    container
        .put("a", first, &PutOptions::create())
        .await
        .unwrap();
    let older = container.snapshot("a", &point, &always).await.unwrap();
    container
        .put("a", second, &PutOptions::default())
        .await
        .unwrap();
    let newer = container
        .snapshot("a", &Metadata::new(), &always)
        .await
        .unwrap();
    (older, newer)
}

#[tokio::test]
async fn snapshots_are_listed_in_order_with_their_metadata() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let (older, newer) = with_snapshots(container.as_ref()).await;
        assert!(older < newer);

        let include = Include {
            snapshots: true,
            metadata: true,
        };
        let listed = container.list("a", include, None).await.unwrap().items;
        let mut found: Vec<_> = listed
            .iter()
            .map(|blob| (blob.snapshot.clone(), blob.length, blob.metadata.clone()))
            .collect();
        found.sort();
        let expected = [
            (None, 20, Metadata::new()),
            (Some(older), 10, metadata("point", "p1")),
            (Some(newer), 20, Metadata::new()),
        ];
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_blob_with_snapshots_is_deleted_only_with_them() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let (older, newer) = with_snapshots(container.as_ref()).await;
        let (head, older, newer) = (
            BlobRef::head("a"),
            BlobRef::at("a", older),
            BlobRef::at("a", newer),
        );
        let delete = |blob: &BlobRef, snapshots| {
            let (container, blob) = (container.clone(), blob.clone());
            async move { container.delete(&blob, &Condition::Always, snapshots).await }
        };

        assert!(
            delete(&head, DeleteSnapshots::None)
                .await
                .unwrap_err()
                .is_conflict()
        );
        assert_eq!(
            container.get(&older, None, 10).await.unwrap().bytes,
            noise(1, 10)
        );
        assert!(delete(&older, DeleteSnapshots::None).await.unwrap());
        assert!(!delete(&older, DeleteSnapshots::None).await.unwrap());
        assert!(delete(&head, DeleteSnapshots::Only).await.unwrap());
        assert!(
            container
                .get(&newer, None, 99)
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(container.get(&head, None, 20).await.is_ok());
        assert!(delete(&head, DeleteSnapshots::Include).await.unwrap());
        assert!(!delete(&head, DeleteSnapshots::Include).await.unwrap());
    }
}

#[tokio::test]
async fn a_delete_by_tag_spares_what_was_written_since() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let seen = container
            .put("a", noise(1, 10), &PutOptions::create())
            .await
            .unwrap();
        container
            .put("a", noise(2, 10), &PutOptions::default())
            .await
            .unwrap();

        let stale = Condition::Matches(seen.etag);
        let head = BlobRef::head("a");
        let error = container.delete(&head, &stale, DeleteSnapshots::None).await;
        assert!(error.unwrap_err().is_changed());
        assert!(container.properties(&head).await.is_ok());
    }
}

#[tokio::test]
async fn a_leased_blob_is_written_by_nobody_without_the_lease() {
    let emulator = emulator::start().await;
    let container = emulator.container().await;
    container
        .put("a", noise(1, 10), &PutOptions::create())
        .await
        .unwrap();
    let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let acquire = |id| LeaseAction::Acquire {
        id,
        lasting: Some(Duration::from_secs(60)),
    };

    let leased = container.lease("a", acquire(id)).await.unwrap();
    assert_eq!(leased.id, Some(id));
    container.lease("a", acquire(id)).await.unwrap();
    assert!(
        container
            .lease("a", acquire(other))
            .await
            .unwrap_err()
            .is_conflict()
    );
    let write = container
        .put("a", noise(2, 10), &PutOptions::default())
        .await;
    assert!(write.unwrap_err().is_conflict());
    let properties = container.properties(&BlobRef::head("a")).await.unwrap();
    assert_eq!(properties.lease, LeaseState::Leased);
    container
        .lease("a", LeaseAction::Renew { id })
        .await
        .unwrap();
    container
        .lease("a", LeaseAction::Release { id })
        .await
        .unwrap();
    assert!(
        container
            .lease("a", LeaseAction::Release { id })
            .await
            .unwrap_err()
            .is_conflict()
    );

    let forever = LeaseAction::Acquire {
        id: other,
        lasting: None,
    };
    container.lease("a", forever).await.unwrap();
    container.lease("a", LeaseAction::Break).await.unwrap();
    container
        .put("a", noise(3, 10), &PutOptions::default())
        .await
        .unwrap();
    let odd = LeaseAction::Acquire {
        id,
        lasting: Some(Duration::from_secs(5)),
    };
    assert_eq!(
        container.lease("a", odd).await.unwrap_err().kind,
        Kind::Refused
    );
}

#[tokio::test]
async fn a_snapshot_is_copied_into_another_container() {
    let emulator = emulator::start().await;
    let (from, to) = (emulator.container().await, emulator.container().await);
    from.put("d/a b.vhd", noise(1, 1000), &PutOptions::create())
        .await
        .unwrap();
    let snapshot = from
        .snapshot("d/a b.vhd", &Metadata::new(), &Condition::Always)
        .await
        .unwrap();
    from.put("d/a b.vhd", noise(2, 1000), &PutOptions::default())
        .await
        .unwrap();
    let source = CopySource {
        container: from.name().to_owned(),
        blob: BlobRef::at("d/a b.vhd", snapshot),
    };

    let started = to
        .copy_from("copy.vhd", &source, &Condition::Absent)
        .await
        .unwrap();
    let properties = to.properties(&BlobRef::head("copy.vhd")).await.unwrap();
    let copy = properties.copy.unwrap();
    assert_eq!((copy.id, copy.status), (started.id, CopyStatus::Success));
    let read = to
        .get(&BlobRef::head("copy.vhd"), None, 1000)
        .await
        .unwrap();
    assert_eq!(read.bytes, noise(1, 1000));
    let again = to.copy_from("copy.vhd", &source, &Condition::Absent).await;
    assert!(again.unwrap_err().is_already_exists());
    let absent = CopySource {
        blob: BlobRef::head("absent"),
        ..source
    };
    let error = to.copy_from("other.vhd", &absent, &Condition::Absent).await;
    assert!(error.unwrap_err().is_not_found());
}
