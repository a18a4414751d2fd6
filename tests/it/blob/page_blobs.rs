//! Page blobs: pages, fences, snapshots, and the same bytes through Azure's own client.

use std::process::Command;

use bytes::Bytes;
use site_recovery::blob::answer::{BlobKind, PageKind, PageRange};
use site_recovery::blob::names::{BlobRef, PAGES_MAX, SequenceNumber};
use site_recovery::blob::parameters::{Condition, Metadata};
use site_recovery::blob::{Container, Kind, walk};
use site_recovery::report::Code;
use site_recovery::units::{ByteRange, KIB, MIB, to_usize};

use crate::blob::emulator::{self, noise};

const SIZE: u64 = 16 * MIB;
const DISK: &str = "disks/a.vhd";

fn number(value: u64) -> SequenceNumber {
    SequenceNumber::new(value).unwrap()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

fn written(start: u64, end: u64) -> PageRange {
    PageRange {
        range: range(start, end),
        kind: PageKind::Written,
    }
}

async fn create(container: &dyn Container, fence: SequenceNumber) {
    let none = Metadata::new();
    container
        .create_page_blob(DISK, SIZE, fence, &none, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_page_blob_is_created_empty_and_only_replaced_by_tag() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        let metadata = Metadata::from([("disk".to_owned(), "d1".to_owned())]);
        let create = |size, replaces| {
            let (container, metadata) = (container.clone(), metadata.clone());
            async move {
                let replaces: Option<site_recovery::blob::names::ETag> = replaces;
                container
                    .create_page_blob(DISK, size, number(7), &metadata, replaces.as_ref())
                    .await
            }
        };

        let stored = create(SIZE, None).await.unwrap();
        let properties = container.properties(&BlobRef::head(DISK)).await.unwrap();
        assert_eq!((properties.kind, properties.length), (BlobKind::Page, SIZE));
        assert_eq!(properties.sequence_number, Some(number(7)));
        assert_eq!(properties.metadata, metadata);
        assert!(create(SIZE, None).await.unwrap_err().is_already_exists());
        create(2 * SIZE, Some(stored.etag.clone())).await.unwrap();
        assert!(
            create(SIZE, Some(stored.etag))
                .await
                .unwrap_err()
                .is_changed()
        );
        assert_eq!(
            create(SIZE + 1, None).await.unwrap_err().kind,
            Kind::Refused
        );
    }
}

#[tokio::test]
async fn pages_are_read_back_and_cleared_pages_are_zeroes() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        create(container.as_ref(), number(1)).await;
        let body = noise(1, to_usize(PAGES_MAX));
        container
            .put_pages(DISK, MIB, body.clone(), number(1))
            .await
            .unwrap();
        let hole = range(2 * MIB, 2 * MIB + 64 * KIB);
        container.clear_pages(DISK, hole, number(1)).await.unwrap();

        let head = BlobRef::head(DISK);
        let whole = container.get(&head, None, SIZE).await.unwrap().bytes;
        let mut expected = vec![0; to_usize(SIZE)];
        expected[to_usize(MIB)..to_usize(5 * MIB)].copy_from_slice(&body);
        expected[to_usize(hole.start())..to_usize(hole.end())].fill(0);
        assert!(whole == expected);
        let pages = walk::pages(container.as_ref(), &head, range(0, SIZE), None, 10).await;
        let expected = [written(MIB, hole.start()), written(hole.end(), 5 * MIB)];
        assert_eq!(pages.unwrap(), expected);
        let window = range(4 * MIB, 8 * MIB);
        let pages = container
            .page_ranges(&head, Some(window), None, None)
            .await
            .unwrap();
        assert_eq!(pages.ranges, [written(4 * MIB, 5 * MIB)]);
        assert_eq!(pages.blob_length, SIZE);
        let error = walk::pages(container.as_ref(), &head, range(0, SIZE), None, 1).await;
        assert_eq!(error.unwrap_err().kind, Kind::TooLarge { limit: 1 });
    }
}

#[tokio::test]
async fn a_sequence_number_only_rises() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        create(container.as_ref(), number(5)).await;

        let raised = container
            .set_sequence_number(DISK, number(9))
            .await
            .unwrap();
        let kept = container
            .set_sequence_number(DISK, number(8))
            .await
            .unwrap();
        let again = container
            .set_sequence_number(DISK, number(9))
            .await
            .unwrap();
        assert_eq!([raised, kept, again], [number(9); 3]);
        let absent = container.set_sequence_number("absent", number(1)).await;
        assert!(absent.unwrap_err().is_not_found());
        let most = SequenceNumber::new(i64::MAX.unsigned_abs()).unwrap();
        let far = number(3 << 32 | 17);
        assert_eq!(container.set_sequence_number(DISK, far).await.unwrap(), far);
        assert!(most > far);
    }
}

#[tokio::test]
async fn a_writer_that_was_replaced_changes_nothing() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        create(container.as_ref(), number(1)).await;
        let kept = noise(1, 4096);
        container
            .put_pages(DISK, 0, kept.clone(), number(1))
            .await
            .unwrap();
        container
            .set_sequence_number(DISK, number(2))
            .await
            .unwrap();

        let put = container
            .put_pages(DISK, 0, noise(2, 4096), number(1))
            .await;
        let clear = container.clear_pages(DISK, range(0, 4096), number(1)).await;
        for error in [put.unwrap_err(), clear.unwrap_err()] {
            assert!(error.is_fenced() && !error.outcome_unknown());
            assert_eq!(error.code(), Code::Fenced);
        }
        let read = container
            .get(&BlobRef::head(DISK), Some(range(0, 4096)), 4096)
            .await;
        assert_eq!(read.unwrap().bytes, kept);
        container
            .put_pages(DISK, 0, noise(3, 512), number(2))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_is_no_write_of_whole_pages_is_never_sent() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        create(container.as_ref(), number(1)).await;
        let long = noise(1, to_usize(PAGES_MAX) + 512);
        for (offset, body) in [
            (0, long),
            (0, Bytes::new()),
            (0, noise(1, 511)),
            (1, noise(1, 512)),
            (u64::MAX - 511, noise(1, 512)),
        ] {
            let error = container
                .put_pages(DISK, offset, body, number(1))
                .await
                .unwrap_err();
            assert_eq!(error.kind, Kind::Refused);
            assert!(error.refusal.is_none(), "{error}");
        }
        let beyond = container
            .put_pages(DISK, SIZE, noise(1, 512), number(1))
            .await;
        assert_eq!(beyond.unwrap_err().kind, Kind::Refused);
    }
}

#[tokio::test]
async fn a_snapshot_keeps_its_bytes_and_pages() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        create(container.as_ref(), number(1)).await;
        let before = noise(1, 8192);
        container
            .put_pages(DISK, 0, before.clone(), number(1))
            .await
            .unwrap();
        let metadata = Metadata::from([("point".to_owned(), "p1".to_owned())]);
        let snapshot = container
            .snapshot(DISK, &metadata, &Condition::Always)
            .await
            .unwrap();
        container
            .put_pages(DISK, 4096, noise(2, 8192), number(1))
            .await
            .unwrap();

        let point = BlobRef::at(DISK, snapshot);
        let read = container
            .get(&point, Some(range(0, 8192)), 8192)
            .await
            .unwrap();
        assert_eq!(read.bytes, before);
        let pages = walk::pages(container.as_ref(), &point, range(0, SIZE), None, 10).await;
        assert_eq!(pages.unwrap(), [written(0, 8192)]);
        let properties = container.properties(&point).await.unwrap();
        assert_eq!(properties.metadata, metadata);
    }
}

#[tokio::test]
async fn a_resized_blob_keeps_what_fits() {
    let emulator = emulator::start().await;
    for container in emulator.and_memory().await {
        create(container.as_ref(), number(1)).await;
        let body = noise(1, 4096);
        container
            .put_pages(DISK, 0, body.clone(), number(1))
            .await
            .unwrap();

        let resized = container
            .resize(DISK, 2 * SIZE + 512, &Condition::Always)
            .await
            .unwrap();
        let head = BlobRef::head(DISK);
        let properties = container.properties(&head).await.unwrap();
        assert_eq!(properties.length, 2 * SIZE + 512);
        container
            .put_pages(DISK, 2 * SIZE, noise(2, 512), number(1))
            .await
            .unwrap();
        let read = container
            .get(&head, Some(range(0, 4096)), 4096)
            .await
            .unwrap();
        assert_eq!(read.bytes, body);
        let stale = Condition::Matches(resized.etag);
        assert!(
            container
                .resize(DISK, SIZE, &stale)
                .await
                .unwrap_err()
                .is_changed()
        );
        let odd = container.resize(DISK, 1000, &Condition::Always).await;
        assert_eq!(odd.unwrap_err().kind, Kind::Refused);
    }
}

/// Prints the SHA-256-free digest of nothing but the blob: its bytes go to a file that the test compares.
const READER: &str = "
import sys
from azure.storage.blob import BlobClient
url, account, key, container, blob, target = sys.argv[1:]
client = BlobClient(url, container, blob, credential={'account_name': account, 'account_key': key})
with open(target, 'wb') as file:
    client.download_blob().readinto(file)
properties = client.get_blob_properties()
print(properties.blob_type, properties.size, properties.page_blob_sequence_number)
";

#[tokio::test]
async fn azures_own_client_reads_back_what_we_wrote() {
    let emulator = emulator::start().await;
    let container = emulator.container().await;
    create(container.as_ref(), number(1)).await;
    let mut expected = vec![0; to_usize(SIZE)];
    for (seed, offset, length) in [(1, 0, 512), (2, MIB - 512, 3 * MIB), (3, SIZE - 4096, 4096)] {
        let body = noise(seed, to_usize(length));
        expected[to_usize(offset)..to_usize(offset + length)].copy_from_slice(&body);
        container
            .put_pages(DISK, offset, body, number(1))
            .await
            .unwrap();
    }

    let python = emulator::obtain(|tools| tools.python()).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("blob");
    let endpoint = emulator.endpoint();
    let output = Command::new(python)
        .args(["-c", READER, &endpoint.to_string(), endpoint.account()])
        .args([emulator.key_text(), container.name(), DISK])
        .arg(&target)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    assert!(said.contains(&format!("{SIZE} 1")), "{said}");
    assert!(std::fs::read(target).unwrap() == expected);
}
