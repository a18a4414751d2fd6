//! Disks from page blobs: the bytes are those of the blob, and what Azure refuses is refused.

use std::time::Duration;

use site_recovery::azure::body::Body;
use site_recovery::azure::id::ResourceKind;
use site_recovery::azure::operation::{Begun, Outcome};
use site_recovery::azure::{Arm as _, Kind};
use site_recovery::blob::parameters::{Condition, Metadata, PutOptions};
use site_recovery::report::Code;
use site_recovery::retry::{Class, class};
use site_recovery::units::{ByteRange, MIB, to_u64};

use crate::arm::world::{World, imported, kind, resource, run, upload, vhd};
use crate::blob::emulator::noise;

/// A disk of `mib` MiB, most of it empty.
fn content(mib: usize) -> Vec<u8> {
    let mut content = vec![0; mib << 20];
    content[4096..4096 + 100_000].copy_from_slice(&noise(1, 100_000));
    let end = content.len() - 512;
    content[end..].copy_from_slice(&noise(2, 512));
    content
}

#[tokio::test]
async fn an_imported_disk_holds_the_bytes_of_its_blob() {
    let world = World::with_storage().await;
    let content = content(8);
    let id = world.disk("d1", &content, true).await;

    let whole = ByteRange::to(to_u64(content.len()));
    let read = world.arm().read(&id.to_string(), whole).unwrap();
    assert!(read == content, "other bytes");
    let seen = world.client.get(&id).await.unwrap().unwrap();
    let disk = seen.disk();
    assert_eq!(disk.disk_size_bytes, Some(8 * MIB));
    assert_eq!(disk.disk_state.as_deref(), Some("Unattached"));
}

#[tokio::test]
async fn an_import_outlives_its_blob_and_a_kill_of_the_cloud() {
    let mut world = World::with_storage().await;
    let content = content(4);
    let id = world.disk("d1", &content, false).await;
    world.restart().await;
    let whole = ByteRange::to(to_u64(content.len()));
    assert!(world.arm().read(&id.to_string(), whole).unwrap() == content);
}

#[tokio::test]
async fn an_import_that_a_kill_cut_off_is_gone_on_with_by_the_value_that_was_stored() {
    let mut world = World::with_storage().await;
    let (container, base) = world.container().await;
    let content = content(4);
    let url = upload(container.as_ref(), &base, &vhd(&content)).await;
    world.arm().take(Duration::from_secs(1));
    let id = resource(ResourceKind::Disk, "d1");
    let body = Body::Disk(imported(&url, true));
    let begun = world.client.create(&id, &run(), &body).await.unwrap();
    let Begun::Going(operation) = begun else {
        panic!("it takes a second");
    };
    // What a controller writes down before it polls.
    let stored = serde_json::to_string(&operation).unwrap();

    world.restart().await;
    let operation = serde_json::from_str(&stored).unwrap();
    let outcome = world.finish(Begun::Going(operation)).await;
    assert!(matches!(outcome, Outcome::Resource(_)));
    let whole = ByteRange::to(to_u64(content.len()));
    assert!(world.arm().read(&id.to_string(), whole).unwrap() == content);
}

/// What an import of such a blob ends with.
async fn refused(world: &World, name: &str, bytes: &[u8]) -> (Kind, String) {
    let (container, base) = world.container().await;
    let url = upload(container.as_ref(), &base, bytes).await;
    import_error(world, name, &url).await
}

async fn import_error(world: &World, name: &str, url: &str) -> (Kind, String) {
    let id = resource(ResourceKind::Disk, name);
    let body = Body::Disk(imported(url, true));
    let error = match world.client.create(&id, &run(), &body).await {
        Err(error) => error,
        Ok(begun) => world.end(begun).await.unwrap_err(),
    };
    (error.kind, error.to_string())
}

#[tokio::test]
async fn a_blob_that_is_no_disk_is_refused_and_said_why() {
    let world = World::with_storage().await;
    let good = vhd(&content(2));

    let (kind, said) = refused(&world, "no-footer", &vec![1; 2 << 20]).await;
    assert_eq!(kind, Kind::DiskRefused, "{said}");
    assert!(
        said.contains("no-footer") && said.contains("whole MiB"),
        "{said}"
    );

    let mut damaged = good.clone();
    let cookie = damaged.len() - 512;
    damaged[cookie] ^= 1;
    let (kind, said) = refused(&world, "bad-cookie", &damaged).await;
    assert_eq!(kind, Kind::DiskRefused, "{said}");
    assert!(said.contains("conectix"), "{said}");

    let odd = vhd(&vec![0; (1 << 20) + 512]);
    let (kind, said) = refused(&world, "odd-size", &odd).await;
    assert_eq!(kind, Kind::DiskRefused, "{said}");

    assert_eq!(class(Code::AzureDiskRefused), Class::NonRecoverable);
}

#[tokio::test]
async fn what_is_no_page_blob_of_the_account_is_refused() {
    let world = World::with_storage().await;
    let (container, base) = world.container().await;
    let good = vhd(&content(2));

    let (kind, said) = import_error(&world, "gone", &format!("{base}/gone.vhd")).await;
    assert_eq!(kind, Kind::DiskRefused, "{said}");

    let options = PutOptions::default();
    let put = container.put("block.vhd", good.clone().into(), &options);
    put.await.unwrap();
    let (kind, said) = import_error(&world, "block", &format!("{base}/block.vhd")).await;
    assert_eq!(kind, Kind::DiskRefused, "{said}");
    assert!(said.contains("no page blob"), "{said}");

    let url = upload(container.as_ref(), &base, &good).await;
    let name = url.rsplit('/').next().unwrap();
    let point = container
        .snapshot(name, &Metadata::new(), &Condition::Always)
        .await
        .unwrap();
    let of_snapshot = format!("{url}?snapshot={}", point.as_str());
    let (kind, said) = import_error(&world, "point", &of_snapshot).await;
    assert_eq!(kind, Kind::Refused, "{said}");
    assert!(said.contains("snapshot"), "{said}");

    let elsewhere = "https://other.blob.core.windows.net/c/d.vhd";
    let (kind, said) = import_error(&world, "other", elsewhere).await;
    assert_eq!(kind, Kind::Refused, "{said}");
}

#[tokio::test]
async fn an_account_in_another_region_is_refused() {
    let emulator = crate::blob::emulator::start().await;
    let change = |options: &mut site_recovery::lab::arm::Options| {
        options.storage[0].location = "northeurope".into();
    };
    let world = World::with(change, Some(emulator)).await;
    let (kind, said) = refused(&world, "far", &vhd(&content(2))).await;
    assert_eq!(kind, Kind::Refused, "{said}");
    assert!(said.contains("northeurope"), "{said}");
}

#[tokio::test]
async fn an_attached_disk_is_not_deleted_and_not_attached_elsewhere() {
    let world = World::with_storage().await;
    let os = world.disk("os", &content(2), true).await;
    let other = world.disk("other", &content(2), true).await;
    world.machine("vm1", &os, &[]).await;

    let error = world.client.delete(&os).await.unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(error.to_string().contains("vm1"), "{error}");

    let adapter = world.adapter("second").await;
    let id = resource(ResourceKind::VirtualMachine, "vm2");
    let body = crate::arm::world::machine(&other, &[&os], &[&adapter]);
    let body = Body::VirtualMachine(Box::new(body));
    let error = kind(world.client.create(&id, &run(), &body).await);
    assert_eq!(error, Kind::Conflict);
}
