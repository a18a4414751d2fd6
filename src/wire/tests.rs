//! The wire is frozen: these texts are what older peers send and expect. Fields may be added, never changed.

use super::observation::*;
use super::*;
use crate::ids::DiskSlot;
use crate::retry::Trouble;
use crate::units::Sequence;

fn time() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn relationship() -> Command<Relationship> {
    let access = |name: &str| ContainerAccess {
        container: name.to_owned(),
        sas: SasToken::new("sv=2023-11-03&sig=x"),
    };
    let replica = ReplicaId::from_random(1);
    Command {
        generation: Generation::new(3),
        operation: OperationId::from_random(2),
        run: None,
        body: Relationship {
            replica,
            object: ObjectName::new("dr", "web").unwrap(),
            vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            disks: vec![RelatedDisk {
                id: DiskId::from_random(4),
                slot: "scsi:0:0".parse::<DiskSlot>().unwrap(),
            }],
            policy: Policy {
                copy_interval: 300,
                application_consistent_hours: 0,
                compress: true,
            },
            suspended: true,
            resynchronize: true,
            storage: StorageAccess {
                account: "account".into(),
                endpoint: "https://account.blob.core.windows.net".into(),
                inbox: access("i"),
                replica: access("r"),
                expires: time(),
            },
        },
    }
}

fn observations() -> Observations {
    Observations {
        session: Uuid::from_u128(5),
        revision: 7,
        host: None,
        replications: vec![ReplicationObservation {
            replica: ReplicaId::from_random(1),
            vm: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
            generation: Generation::new(3),
            phase: Phase::Copying,
            disks: vec![DiskObservation {
                disk: DiskId::from_random(4),
                total: 100,
                done: 40,
                sent: 20,
                rate: 10,
                pending: 8,
                changed: 4096,
                limited_by: Some(Limit::Cap),
            }],
            sealed: Sequence::new(9),
            credentials_expire: time(),
            synchronized: Some(time()),
            cycles: Cycles {
                completed: 5,
                missed: 1,
                changed: 4096,
                latency: 1500,
            },
            resync: Some(Resync {
                disks: vec![DiskId::from_random(4)],
                reason: Fault::new(Code::TrackingLost, "crash"),
                running: true,
            }),
            quiesce: Some(Fault::new(Code::GuestQuiesceFailed, "VSS")),
            trouble: Some(Trouble {
                fault: Fault::new(Code::StorageBusy, "503"),
                attempts: 2,
                since: time(),
                next_attempt: None,
            }),
        }],
        existing: vec![ReplicaId::from_random(1)],
    }
}

/// `value` is said as `golden`, and `golden` means `value`.
fn frozen<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    value: &T,
    golden: &str,
) {
    assert_eq!(
        serde_json::to_string_pretty(value).unwrap().trim(),
        golden.trim()
    );
    assert_eq!(&serde_json::from_str::<T>(golden).unwrap(), value);
}

#[test]
fn what_the_first_version_says_stays_as_it_is() {
    let hello = Hello {
        versions: Versions {
            oldest: 1,
            newest: 1,
        },
        release: "0.1.0".into(),
        leader: true,
    };
    frozen(&hello, include_str!("golden/hello.json"));
    let reply = HelloReply {
        version: 1,
        release: "0.1.0".into(),
        host: "hv1".parse().unwrap(),
        session: Uuid::from_u128(5),
    };
    frozen(&reply, include_str!("golden/hello-reply.json"));
    frozen(&relationship(), include_str!("golden/relationship.json"));
    frozen(&observations(), include_str!("golden/observations.json"));
}

#[test]
fn what_a_newer_peer_adds_is_passed_over() {
    let mut value: serde_json::Value =
        serde_json::from_str(include_str!("golden/observations.json")).unwrap();
    value["fromTheFuture"] = true.into();
    value["replications"][0]["phase"] = "Teleporting".into();
    value["replications"][0]["disks"][0]["limitedBy"] = "Gravity".into();
    let read: Observations = serde_json::from_value(value).unwrap();
    assert_eq!(read.replications[0].phase, Phase::Unknown);
    assert_eq!(
        read.replications[0].disks[0].limited_by,
        Some(Limit::Unknown)
    );
}

#[test]
fn versions_meet_at_the_newest_that_both_speak() {
    let versions = |oldest, newest| Versions { oldest, newest };
    assert_eq!(versions(1, 2).common(versions(2, 3)), Some(2));
    assert_eq!(versions(2, 3).common(versions(1, 2)), Some(2));
    assert_eq!(versions(1, 1).common(versions(2, 3)), None);
}

#[test]
fn an_answer_that_is_no_fault_becomes_one() {
    assert_eq!(
        fault_of(502, b"<html>proxy</html>").code,
        Code::InvalidRequest
    );
    let fault = Fault::new(Code::HostBusy, "merging");
    assert_eq!(fault_of(503, &serde_json::to_vec(&fault).unwrap()), fault);
}

#[test]
fn every_code_has_an_error_status() {
    for code in Code::ALL {
        assert!((400..600).contains(&status_of(*code)), "{code}");
    }
}
