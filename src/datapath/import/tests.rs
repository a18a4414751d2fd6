//! What is done about a copy, by what is found of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::blob::answer::{BlobKind, CopyState, LeaseState};
use crate::blob::memory::MemoryContainer;
use crate::ids::{RecoveryPointId, ReplicaId};
use crate::replica::manifest::PointDisk;
use crate::replica::seal::{Barrier, Consistency};
use crate::units::{MIB, Sequence, SystemClock};

const SIZE: u64 = 5 * MIB + 512;

/// What is done about a blob that is found as `change` leaves the whole copy.
fn next(change: impl FnOnce(&mut Properties)) -> Step {
    let container: Arc<dyn Container> = Arc::new(MemoryContainer::new("c", Arc::new(SystemClock)));
    let store = Store {
        id: ReplicaId::from_random(1),
        inbox: container.clone(),
        replica: container.clone(),
    };
    let disk = DiskId::from_random(2);
    let point = Point {
        id: RecoveryPointId::from_random(3),
        sequence: Sequence::new(9),
        barrier: Barrier {
            time: Timestamp::UNIX_EPOCH,
            consistency: Consistency::Crash,
        },
        published: Timestamp::UNIX_EPOCH,
        disks: BTreeMap::from([(
            disk.clone(),
            PointDisk {
                snapshot: "s".to_owned(),
                size: SIZE,
            },
        )]),
    };
    let import = Import {
        store: &store,
        site: container.as_ref(),
        run: &ObjectName::new("dr", "drill").unwrap(),
        point: &point,
        disk: &disk,
    };
    let mut metadata = disk::metadata_of(&store, &disk);
    metadata.insert(META_SEQUENCE.to_owned(), point.sequence.to_string());
    let mut found = Properties {
        etag: "\"1\"".parse().unwrap(),
        length: 6 * MIB + 512,
        kind: BlobKind::Page,
        sequence_number: None,
        metadata,
        lease: LeaseState::Available,
        copy: None,
        last_modified: Timestamp::UNIX_EPOCH,
        date: Timestamp::UNIX_EPOCH,
    };
    set(&mut found, CopyStatus::Success);
    change(&mut found);
    import.next(Some(&found))
}

fn set(found: &mut Properties, status: CopyStatus) {
    let id = "copy".to_owned();
    found.copy = Some(CopyState { id, status });
}

#[test]
fn a_whole_copy_of_the_point_is_ready() {
    assert_eq!(next(|_| {}), Step::Ready);
}

#[test]
fn a_copy_that_goes_on_is_waited_for_whoever_began_it() {
    let copied = Some((1, 2));
    let found = next(|found| {
        found.metadata.clear();
        set(found, CopyStatus::Pending { copied });
    });
    assert_eq!(found, Step::Wait(copied));
}

#[test]
fn what_the_service_gave_up_is_removed_as_it_was_seen() {
    let failed = CopyStatus::Failed {
        description: "500 InternalError".to_owned(),
    };
    for status in [failed, CopyStatus::Aborted] {
        let step = next(|found| set(found, status));
        assert!(matches!(step, Step::Remove(_, version) if version == "\"1\"".parse().unwrap()));
    }
}

#[test]
fn what_is_of_another_point_or_replica_or_was_written_to_stays_as_it_is() {
    let other = |name: &'static str| {
        move |found: &mut Properties| {
            found.metadata.insert(name.to_owned(), "other".to_owned());
        }
    };
    for name in [META_SEQUENCE, disk::META_DISK, disk::META_REPLICA] {
        assert!(matches!(next(other(name)), Step::Leave(_)), "{name}");
    }
    assert!(matches!(next(|found| found.copy = None), Step::Leave(_)));
    assert!(matches!(next(|found| found.length = 512), Step::Leave(_)));
}
