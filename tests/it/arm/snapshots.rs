//! Disk snapshots: what differs between two is what the machine wrote between them, and nothing else.

use std::time::Duration;

use site_recovery::azure::id::{ResourceId, ResourceKind};
use site_recovery::azure::operation::{Action, Outcome};
use site_recovery::azure::{Arm as _, Kind as ArmKind};
use site_recovery::blob::answer::{PageKind, PageRange};
use site_recovery::blob::client::Options;
use site_recovery::blob::exported::Exported;
use site_recovery::blob::{Kind, Result};
use site_recovery::units::{ByteRange, MIB, to_u64};

use crate::arm::world::{World, resource, snapshot};
use crate::blob::emulator::{http, noise};

async fn take(world: &World, name: &str, disk: &ResourceId) -> ResourceId {
    let id = resource(ResourceKind::Snapshot, name);
    world.create(&id, snapshot(disk)).await;
    id
}

async fn access(world: &World, id: &ResourceId) -> Exported {
    let action = Action::GrantAccess {
        duration: Duration::from_secs(3600),
    };
    let begun = world.client.act(id, &action).await.unwrap();
    let Outcome::Access(url) = world.finish(begun).await else {
        panic!("no access");
    };
    Exported::new(&http(&[]), &url, Options::default()).unwrap()
}

async fn list(
    of: &Exported,
    window: Option<ByteRange>,
    previous: Option<&Exported>,
) -> Result<Vec<PageRange>> {
    let mut all = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let page = of.page_ranges(window, previous, marker.as_deref()).await?;
        all.extend(page.ranges);
        marker = page.next;
        if marker.is_none() {
            return Ok(all);
        }
    }
}

fn range(start: u64, length: u64) -> ByteRange {
    ByteRange::new(start, start + length).unwrap()
}

/// A machine with a data disk of 8 MiB of noise, and a snapshot of that from before its first write.
async fn failed_over(world: &World) -> (ResourceId, ResourceId, ResourceId) {
    let os = world.disk("os", &[0; 1 << 20], true).await;
    let data = world.disk("data", &noise(3, 8 << 20), false).await;
    let baseline = take(world, "s0", &data).await;
    let vm = world.machine("vm1", &os, &[&data]).await;
    (vm, data, baseline)
}

#[tokio::test]
async fn what_differs_between_two_snapshots_is_what_the_machine_wrote() {
    let world = World::with_storage().await;
    let (vm, data, baseline) = failed_over(&world).await;
    let write = |offset: u64, bytes: &[u8]| {
        let written = world.arm().write(&vm.to_string(), Some(0), offset, bytes);
        written.unwrap();
    };
    write(64 * 1024, &noise(4, 8192));
    write(3 * MIB, &[0; 4096]);
    write(8 * MIB - 512, &noise(5, 512));
    let after = take(&world, "s1", &data).await;
    // What is written later is no part of it.
    write(5 * MIB, &noise(6, 4096));

    let (before, now) = (
        access(&world, &baseline).await,
        access(&world, &after).await,
    );
    let found = list(&now, None, Some(&before)).await.unwrap();
    let expected = [
        (range(64 * 1024, 8192), PageKind::Written),
        (range(3 * MIB, 4096), PageKind::Cleared),
        (range(8 * MIB - 4096, 4096), PageKind::Written),
    ];
    let found: Vec<_> = found.iter().map(|one| (one.range, one.kind)).collect();
    assert_eq!(found, expected);

    // A copy of the older with these ranges is the newer.
    let mut copy = noise(3, 8 << 20).to_vec();
    for (range, kind) in found {
        let place = usize::try_from(range.start()).unwrap()..usize::try_from(range.end()).unwrap();
        match kind {
            PageKind::Written => copy[place].copy_from_slice(&now.get(range).await.unwrap().bytes),
            PageKind::Cleared => copy[place].fill(0),
        }
    }
    let whole = ByteRange::to(to_u64(copy.len()));
    assert!(copy == world.arm().read(&after.to_string(), whole).unwrap());
}

#[tokio::test]
async fn a_list_is_the_same_in_pages_and_by_windows() {
    let emulator = crate::blob::emulator::start().await;
    let paged = |options: &mut site_recovery::lab::arm::Options| options.page_ranges_max = 2;
    let world = World::with(paged, Some(emulator)).await;
    let (vm, data, baseline) = failed_over(&world).await;
    for place in 0..7 {
        let bytes = if place % 2 == 0 {
            noise(place, 4096)
        } else {
            vec![0; 4096].into()
        };
        world
            .arm()
            .write(&vm.to_string(), Some(0), place * MIB, &bytes)
            .unwrap();
    }
    let after = take(&world, "s1", &data).await;
    let (before, now) = (
        access(&world, &baseline).await,
        access(&world, &after).await,
    );
    let whole = list(&now, None, Some(&before)).await.unwrap();
    assert_eq!(whole.len(), 7);
    let mut windows = Vec::new();
    for start in [0, 2 * MIB, 4 * MIB, 6 * MIB] {
        windows.extend(
            list(&now, Some(range(start, 2 * MIB)), Some(&before))
                .await
                .unwrap(),
        );
    }
    assert_eq!(windows, whole);
}

#[tokio::test]
async fn without_an_older_snapshot_everything_is_listed_and_read_footer_and_all() {
    let world = World::with_storage().await;
    let mut content = vec![0; 4 << 20];
    content[1 << 20..(1 << 20) + 4096].copy_from_slice(&noise(7, 4096));
    let data = world.disk("data", &content, false).await;
    let only = take(&world, "s0", &data).await;
    let exported = access(&world, &only).await;
    let found = list(&exported, None, None).await.unwrap();
    let found: Vec<_> = found.iter().map(|one| one.range).collect();
    assert_eq!(found, [range(MIB, 4096), range(4 * MIB, 512)]);
    let footer = exported.get(range(4 * MIB, 512)).await.unwrap();
    assert_eq!(
        (&footer.bytes[..8], footer.total_length),
        (&b"conectix"[..], 4 * MIB + 512)
    );
}

#[tokio::test]
async fn access_ends_when_it_is_revoked_and_the_snapshot_can_be_deleted_then() {
    let world = World::with_storage().await;
    let data = world.disk("data", &[0; 1 << 20], false).await;
    let id = take(&world, "s0", &data).await;
    let exported = access(&world, &id).await;
    let error = world.client.delete(&id).await.unwrap_err();
    assert_eq!(error.kind, ArmKind::Conflict);
    let begun = world.client.act(&id, &Action::RevokeAccess).await.unwrap();
    world.finish(begun).await;
    let error = exported.get(range(0, 512)).await.unwrap_err();
    assert_eq!(error.kind, Kind::SignatureRefused);
    let begun = world.client.delete(&id).await.unwrap();
    assert_eq!(world.finish(begun).await, Outcome::Nothing);
}

#[tokio::test]
async fn snapshots_of_two_disks_are_not_compared() {
    let world = World::with_storage().await;
    let mut exported = Vec::new();
    for name in ["a", "b"] {
        let disk = world.disk(name, &[0; 1 << 20], false).await;
        let id = take(&world, &format!("s-{name}"), &disk).await;
        exported.push(access(&world, &id).await);
    }
    let error = list(&exported[0], None, Some(&exported[1]))
        .await
        .unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
}
