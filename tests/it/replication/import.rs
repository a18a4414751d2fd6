//! A disk of a recovery point becomes a page blob of its own, which ARM can import: whole, and the point's.

use site_recovery::blob::Container;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::PutOptions;
use site_recovery::datapath::import::{Copied, Import};
use site_recovery::ids::{DiskId, ObjectName};
use site_recovery::replica::manifest::Point;
use site_recovery::replica::seal::Kind;
use site_recovery::report::Code;

use super::hand::{Hand, SIZE};
use super::refused::rule;
use super::world::World;

/// Two points, whose first pages hold 1 and 2; what was applied since holds 3.
async fn two_points() -> (World, Vec<Point>) {
    let world = World::new(&[usize::try_from(SIZE).unwrap()]).await;
    let container = site_of(&world);
    assert!(world.account.create_container(&container).await.unwrap());
    let mut hand = Hand::new(&world).await;
    for (byte, barrier) in [(1, true), (2, true), (3, false)] {
        let page = (0, vec![byte; 4096]);
        hand.write(Kind::Delta, barrier, &[page]).await;
    }
    world.apply_all(&mut world.worker()).await;
    let points = world.manifest().await.points;
    assert_eq!(points.len(), 2);
    (world, points)
}

/// The container of a site of its own: the emulator is that of other tests, too.
fn site_of(world: &World) -> String {
    let site = ObjectName::new("dr", world.cloud.id.as_str()).unwrap();
    world.prefix.site(&site)
}

fn run(name: &str) -> ObjectName {
    ObjectName::new("dr", name).unwrap()
}

fn disk(world: &World) -> &DiskId {
    world.disks.keys().next().unwrap()
}

fn import<'a>(
    world: &'a World,
    site: &'a dyn Container,
    run: &'a ObjectName,
    point: &'a Point,
) -> Import<'a> {
    Import {
        store: &world.cloud,
        site,
        run,
        point,
        disk: disk(world),
    }
}

async fn copy(import: &Import<'_>) {
    while import.advance().await.unwrap() != Copied::Whole {}
}

/// The copy is a fixed VHD of the disk, whose first page holds `byte`.
async fn assert_is(site: &dyn Container, import: &Import<'_>, byte: u8) {
    let blob = BlobRef::head(import.name());
    let found = site.get(&blob, None, 2 * SIZE).await.unwrap().bytes;
    let (content, footer) = found.split_at(usize::try_from(SIZE).unwrap());
    assert!(content[..4096] == [byte; 4096] && content[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(footer.len(), 512);
    assert_eq!(&footer[..8], b"conectix");
}

#[tokio::test]
async fn the_copy_holds_the_point_and_not_what_was_applied_since() {
    let (world, points) = two_points().await;
    let (site, run) = (world.account.container(&site_of(&world)), run("drill"));
    let import = import(&world, site.as_ref(), &run, &points[0]);
    assert_eq!(import.advance().await.unwrap(), Copied::Pending(None));
    copy(&import).await;
    assert_is(site.as_ref(), &import, 1).await;
    assert!(import.remove().await.unwrap());
    assert!(!import.remove().await.unwrap());
}

#[tokio::test]
async fn a_lost_reply_costs_no_second_copy_and_no_other_point_takes_its_place() {
    let (world, points) = two_points().await;
    let lost = Effect::FailAfter(Failure::Interrupted);
    let faults = Faults::new(1);
    faults.add(rule(Operation::CopyBlob, "*", Calls::Nth(1), lost));
    let site = FaultyContainer::new(world.account.container(&site_of(&world)), faults.clone());
    let run = run("failover");
    let second = import(&world, &site, &run, &points[1]);
    second.advance().await.unwrap_err();
    copy(&second).await;
    assert_is(&site, &second, 2).await;

    let first = import(&world, &site, &run, &points[0]);
    let refused = first.advance().await.unwrap_err();
    assert_eq!(refused.code(), Code::ForeignBlob);
    assert_is(&site, &second, 2).await;
}

#[tokio::test]
async fn somebody_elses_blob_is_neither_imported_nor_removed() {
    let (world, points) = two_points().await;
    let (site, run) = (world.account.container(&site_of(&world)), run("drill"));
    let import = import(&world, site.as_ref(), &run, &points[0]);
    let (name, create) = (import.name(), PutOptions::create());
    site.put(&name, "theirs".into(), &create).await.unwrap();
    let refused = [
        import.advance().await.unwrap_err(),
        import.remove().await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.code(), Code::ForeignBlob);
    }
    let left = site.get(&BlobRef::head(&name), None, 100).await.unwrap();
    assert_eq!(left.bytes, "theirs");
}

#[tokio::test]
async fn a_point_whose_snapshot_is_gone_is_said_to_be_damaged() {
    let (world, mut points) = two_points().await;
    let (site, run) = (world.account.container(&site_of(&world)), run("drill"));
    let held = points[0].disks.values_mut().next().unwrap();
    held.snapshot = "2001-01-01T00:00:00.0000000Z".to_owned();
    let import = import(&world, site.as_ref(), &run, &points[0]);
    let error = import.advance().await.unwrap_err();
    assert_eq!(error.code(), Code::ReplicaDamaged);
}
