//! What people ask of a VM with kubectl, and what they see of it afterwards.

use std::cell::RefCell;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use site_recovery::api::time::Time;
use site_recovery::api::vm_status::ProtectedVMStatus;
use site_recovery::blob::names::{BlobRef, SnapshotId};
use site_recovery::ids::DiskId;
use site_recovery::lab::guest::client::{Address, Client};
use site_recovery::lab::stage::Replica;
use site_recovery::lab::stage::host::Host;
use site_recovery::replica::manifest::{Manifest, Point};
use site_recovery::replica::names;
use site_recovery::units::{ByteRange, MIB, to_usize};

use super::world::{NAMESPACE, World, blocking, until, until_seen};

impl World {
    pub(crate) async fn annotate(&self, kind: &str, name: &str, annotation: &str) {
        let arguments = ["annotate", "--overwrite", kind, name, annotation];
        self.stage.kubectl(&arguments, b"").await.unwrap();
    }

    pub(crate) async fn patch(&self, kind: &str, name: &str, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        let arguments = ["patch", kind, name, "--type=merge", "--patch", &patch];
        self.stage.kubectl(&arguments, b"").await.unwrap();
    }

    /// Warnings of the namespace: the kind and name that each regards, and its reason.
    pub(crate) async fn warnings(&self) -> Vec<(String, String, String)> {
        let api: Api<Event> = Api::namespaced(self.stage.client(), NAMESPACE);
        let events = api.list(&ListParams::default()).await.unwrap();
        let warnings = events
            .into_iter()
            .filter(|event| event.type_.as_deref() == Some("Warning"));
        let said = warnings.map(|event| {
            let regarding = event.regarding.unwrap_or_default();
            (
                regarding.kind.unwrap_or_default(),
                regarding.name.unwrap_or_default(),
                event.reason.unwrap_or_default(),
            )
        });
        said.collect()
    }

    /// The namespace's events of a reason.
    pub(crate) async fn events(&self, reason: &str) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.stage.client(), NAMESPACE);
        let mut events = api.list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| event.reason.as_deref() == Some(reason));
        events
    }

    /// Waits until there is a warning of a VM with this reason, and returns how many there are.
    pub(crate) async fn until_warned(&self, vm: &str, reason: &str) -> usize {
        until(&format!("a warning {reason} of {vm}"), async || {
            let warnings = self.warnings().await;
            let of_it = warnings
                .iter()
                .filter(|(_, name, said)| name == vm && said == reason);
            Some(of_it.count()).filter(|count| *count > 0)
        })
        .await
    }

    /// Waits until the newest recovery point of a VM is, on all its disks, what its guest has: the manifest with it.
    pub(crate) async fn until_newest_point_is_source(&self, host: &Host, vm: &str) -> Manifest {
        let status = self.status(vm).await;
        let places: Vec<&str> = status.disks.iter().map(|disk| disk.id.as_str()).collect();
        self.until_point_is(vm, (host, vm), &places).await
    }

    /// Waits until the newest recovery point of `vm` is what the guest of `machine` has in these places, and has no others.
    pub(crate) async fn until_point_is(
        &self,
        vm: &str,
        (host, machine): (&Host, &str),
        places: &[&str],
    ) -> Manifest {
        let (mut looked, seen) = (None, RefCell::default());
        let what = || format!("a point of {vm} that is its source: {}", seen.borrow());
        until_seen(what, async || {
            let status = self.status(vm).await;
            let replica = status.replica_id.as_ref()?;
            let manifest = self.manifest(replica).await?;
            let newest = manifest.points.last()?;
            *seen.borrow_mut() = format!(
                "{looked:?} is not, {} is the newest; {:?} {:?}",
                newest.id, status.state, status.resynchronization
            );
            // What is written after a point brings another.
            if newest.disks.len() != places.len() || looked.as_ref() == Some(&newest.id) {
                return None;
            }
            for place in places {
                let disk = status.disks.iter().find(|disk| disk.id == *place)?;
                let id = disk.replica_disk_id.parse().unwrap();
                let size = newest.disks.get(&id)?.size;
                let found = self.read_point(replica, newest, &id).await?;
                if found != read_guest(host, format!("{machine}/{place}"), size).await {
                    looked = Some(newest.id.clone());
                    return None;
                }
            }
            Some(manifest)
        })
        .await
    }

    /// What a disk holds at a point; nothing if the point is gone meanwhile.
    async fn read_point(&self, replica: &str, point: &Point, disk: &DiskId) -> Option<Vec<u8>> {
        let container = self.account().container(&format!("sr-r-{replica}"));
        let cut = &point.disks[disk];
        let snapshot: SnapshotId = cut.snapshot.parse().unwrap();
        let blob = BlobRef::at(names::disk(disk), snapshot);
        let got = container.get(&blob, Some(ByteRange::to(cut.size)), cut.size);
        got.await.ok().map(|got| got.bytes.to_vec())
    }
}

async fn read_guest(host: &Host, export: String, size: u64) -> Vec<u8> {
    let address = Address::Tcp(host.nbd());
    blocking(move || {
        let mut client = Client::connect(&address, &export, Duration::from_secs(60)).unwrap();
        let mut content = vec![0; to_usize(size)];
        for (piece, offset) in content.chunks_mut(to_usize(MIB)).zip(0..) {
            client.read(offset * MIB, piece).unwrap();
        }
        content
    })
    .await
}

/// A condition of a VM: its status and its reason.
pub(crate) fn condition(status: &ProtectedVMStatus, type_: &str) -> Option<(String, String)> {
    let mut all = status.conditions.iter();
    let found = all.find(|condition| condition.type_ == type_)?;
    Some((found.status.clone(), found.reason.clone()))
}

pub(crate) fn is(status: &ProtectedVMStatus, type_: &str, wanted: (&str, &str)) -> bool {
    condition(status, type_)
        .is_some_and(|(status, reason)| (status.as_str(), reason.as_str()) == wanted)
}

/// Waits until what begins now shows a later time than `time`: a status shows whole seconds.
pub(crate) async fn until_later(time: Option<Time>) {
    let time = Timestamp::from(time.unwrap());
    until("the next second", async || {
        (Timestamp::now().as_second() > time.as_second()).then_some(())
    })
    .await;
}

/// Hours of the day, in UTC, from so many minutes after now to so many.
pub(crate) fn hours_from_now(from: i64, to: i64) -> Value {
    let at = |minutes: i64| {
        let time = Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
        time.strftime("%H:%M").to_string()
    };
    json!({ "start": at(from), "end": at(to), "timeZone": "UTC" })
}

/// Waits until the metrics have a line that begins so.
pub(crate) async fn until_metric(controller: &Replica, wanted: &str) -> String {
    until(wanted, async || {
        let text = controller.metrics().await?;
        let line = text.lines().find(|line| line.starts_with(wanted))?;
        Some(line.to_owned())
    })
    .await
}

/// How often VMs were looked at.
pub(crate) async fn looks(controller: &Replica) -> u64 {
    let wanted = r#"site_recovery_reconciliations_total{kind="ProtectedVM"}"#;
    let line = until_metric(controller, wanted).await;
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}
