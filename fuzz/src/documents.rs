//! What must hold for every document of the storage account: seal, manifest, fence, record, owner.
//!
//! - A document that decodes means the same when it is encoded and decoded again, and has one encoding.
//! - What its check promises holds, looked at in another way; and whoever uses it next does not stumble.
//! - A newer format is refused as newer, whatever else is in it.
//! - An error is short: it becomes a condition.

use std::fmt::Debug;

use site_recovery::ids::ReplicaId;
use site_recovery::replica::document::{self, Document};
use site_recovery::replica::fence::Fence;
use site_recovery::replica::manifest::{Manifest, Verdict};
use site_recovery::replica::owner::Owner;
use site_recovery::replica::record::Record;
use site_recovery::replica::seal::{DISK_MAX, LOG_MAX, LOGS_MAX, Seal};
use site_recovery::replica::{Digest, Error};
use site_recovery::report;
use site_recovery::units::{SECTOR, Sequence};

/// The target `documents`.
pub fn run(bytes: &[u8]) {
    again::<Fence>(bytes);
    again::<Record>(bytes);
    again::<Owner>(bytes);
    let seal = again::<Seal>(bytes);
    if let Some(seal) = &seal {
        check_seal(seal, bytes);
    }
    if let Some(manifest) = again::<Manifest>(bytes) {
        check_manifest(&manifest, seal.as_ref());
    }
}

/// The document, if it is one; it must come back from its own encoding.
fn again<T: Document + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let document: T = match document::decode(bytes) {
        Ok(document) => document,
        Err(error) => {
            judge(&error, T::FORMAT);
            return None;
        }
    };
    let encoded = document::encode(&document).expect("what was read can be written");
    let decoded: T = document::decode(&encoded).expect("what we write, we read");
    assert_eq!(decoded, document);
    let twice = document::encode(&decoded).expect("what was read can be written");
    assert_eq!(twice, encoded, "one document, two encodings");
    Some(document)
}

fn judge(error: &Error, known: u32) {
    let said = report::chain(error);
    assert!(said.len() <= 1024, "{} bytes: {said}", said.len());
    if let Error::TooNew { found, .. } = error {
        assert!(*found > u64::from(known));
    }
}

fn check_seal(seal: &Seal, bytes: &[u8]) {
    let (replica, sequence) = (&seal.replica, seal.sequence);
    let (decoded, id) = Seal::decode(bytes, replica, sequence).expect("it stands where it says");
    assert_eq!((&decoded, id), (seal, Digest::of(bytes)));
    let elsewhere = Sequence::new(sequence.value() ^ 1);
    assert!(Seal::decode(bytes, replica, elsewhere).is_err());
    let other = ReplicaId::from_random(1);
    assert_eq!(
        Seal::decode(bytes, &other, sequence).is_ok(),
        other == *replica
    );
    let (encoded, id) = seal.encode().expect("what was read can be written");
    assert_eq!(Digest::of(&encoded), id);
    let logs: Vec<_> = seal.disks.iter().flat_map(|disk| &disk.logs).collect();
    assert!(logs.len() <= LOGS_MAX);
    assert_eq!(
        seal.length(),
        logs.iter().map(|log| log.length).sum::<u64>()
    );
    for (at, log) in logs.iter().enumerate() {
        assert!(log.length <= LOG_MAX && log.stored <= LOG_MAX);
        assert!(logs[..at].iter().all(|other| other.log != log.log));
    }
    for (at, disk) in seal.disks.iter().enumerate() {
        assert!((1..=DISK_MAX).contains(&disk.size) && disk.size.is_multiple_of(SECTOR));
        assert!(seal.disks[..at].iter().all(|other| other.disk != disk.disk));
        for (at, log) in disk.logs.iter().enumerate() {
            assert!(!log.range.is_empty() && log.range.end() <= disk.size);
            let mut before = disk.logs[..at].iter();
            assert!(before.all(|other| other.range.intersect(log.range).is_empty()));
        }
    }
    // Whoever seals next takes the sequence after this one.
    assert!(seal.sequence.next() > seal.sequence);
}

fn check_manifest(manifest: &Manifest, seal: Option<&Seal>) {
    let applied = manifest.last_applied.sequence;
    // The next apply cycle, and the next owner: numbers that page blobs can hold, and rising.
    let (now, next) = (manifest.writer, manifest.writer.next_cycle());
    let fences = [now.fence(), next.fence(), now.taken_over().fence()];
    assert!(fences[0] < fences[1] && fences[1] <= fences[2] && fences[2] < 1 << 63);
    assert!(applied.next() > applied);
    let mut points = manifest.points.iter().map(|point| point.sequence);
    assert!(points.all(|sequence| sequence <= applied));
    assert!(
        manifest
            .points
            .iter()
            .is_sorted_by_key(|point| point.sequence)
    );
    for disk in manifest.disks.values() {
        for (at, table) in disk.tables.iter().enumerate() {
            assert!(table.from <= table.to);
            assert!(disk.tables[..at].iter().all(|older| older.to < table.from));
        }
    }
    if let Some(seal) = seal {
        let verdict = manifest.judge(seal, manifest.last_applied.seal);
        let newer = seal.chain == manifest.chain && seal.sequence > applied;
        assert_eq!(verdict == Verdict::Garbage, !newer);
    }
}
