//! What must hold after a schedule, once faults have ended and everything is allowed.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use site_recovery::blob::Container;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::Include;
use site_recovery::blob::walk;
use site_recovery::engine::phase::Phase;
use site_recovery::ids::{DiskId, DiskSlot};
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::names::{self, InboxBlob};
use site_recovery::replica::table::overlay::Overlay;
use site_recovery::replica::table::parts;
use site_recovery::replica::table::{Chunk, Run, chunks};
use site_recovery::units::{ByteRange, CHUNK, is_zero, to_usize};

use super::schedule::Play;
use super::weather::Weather;
use super::world::{Hand, Life, Start, World};

/// How often it is looked whether all is well.
const LOOK: Duration = Duration::from_secs(10);
/// How often at most: five hours, which is more than any schedule of retries waits.
const LOOKS: usize = 1800;

/// Ends all faults, and makes sure that the replica comes to what the source is, twice: after whatever was left, and
/// after a comparison of all disks.
pub(crate) async fn converge(play: &mut Play) {
    play.world.late.iter().for_each(|gate| gate.open());
    for worker in &play.workers {
        worker.faults.clear();
        worker.stands.iter().for_each(|gate| gate.open());
    }
    for engine in play.engine.iter().chain(&play.left) {
        engine.faults.clear();
        engine.host.calm();
    }
    play.end_left().await;
    play.let_go().await;
    play.world.excluded.clear();
    play.world.model.turn_on();
    play.world.model.calm();
    // Whoever has met its end already is dead after this.
    tokio::time::sleep(LOOK).await;
    become_equal(play).await;
    judge(&play.world).await;
    // What the chunk tables say has to be true, or a comparison passes over what differs.
    for _ in 0..3 {
        play.write();
    }
    (0..play.disks).for_each(|disk| play.world.model.lose_tracking(disk));
    become_equal(play).await;
    judge(&play.world).await;
}

/// Whether an engine may do everything, for all disks, and does what is commanded now.
fn is_at_work(engine: &Life, world: &World) -> bool {
    let commanded = engine.generation == world.fence.generation && engine.disks == world.disks;
    commanded && engine.allowed && !engine.is_over()
}

/// A last write of the guest and a last barrier; the newest point is then the source.
async fn become_equal(play: &mut Play) {
    if play
        .engine
        .as_ref()
        .is_none_or(|engine| !is_at_work(engine, &play.world))
    {
        play.end_engine().await;
        let start = Start {
            allowed: true,
            ..Start::default()
        };
        play.engine = Some(play.world.start(start));
    }
    if play.workers.is_empty() {
        let hand = play.world.work(&Weather::default());
        play.workers.push(hand);
    }
    play.write();
    let engine = play.engine.as_ref().expect("it was started");
    for look in 0.. {
        let before = engine.observed.borrow().cycles.completed;
        engine.retry.notify_one();
        engine.synchronize.notify_one();
        tokio::time::sleep(LOOK).await;
        if play.workers.iter().any(Hand::is_refused) {
            play.world.retire().await;
        }
        let completed = engine.observed.borrow().cycles.completed > before;
        if completed && is_equal(&play.world).await {
            break;
        }
        assert!(
            look < LOOKS,
            "it never becomes the source: {}",
            state(play).await
        );
    }
    let observed = engine.observed.borrow().clone();
    assert!(observed.trouble.is_none(), "{:?}", observed.trouble);
    assert!(observed.demand.is_none(), "{:?}", observed.demand);
    assert!(
        matches!(observed.phase, Phase::Replicating { .. }),
        "{:?}",
        observed.phase
    );
    settle(play).await;
}

/// One worker alone, which begins anew, has nothing to complain of and leaves nothing behind.
async fn settle(play: &mut Play) {
    // None of these owns the replica for ever: each takes it from the other.
    for worker in std::mem::take(&mut play.workers) {
        worker.end().await;
    }
    let hand = play.world.work(&Weather::default());
    play.workers.push(hand);
    // What is left over is collected once something was applied.
    play.write();
    let engine = play.engine.as_ref().expect("it was started");
    let before = engine.observed.borrow().cycles.completed;
    engine.synchronize.notify_one();
    for look in 0.. {
        tokio::time::sleep(LOOK).await;
        let completed = engine.observed.borrow().cycles.completed > before;
        if completed && is_equal(&play.world).await && is_idle(&play.world).await {
            break;
        }
        assert!(
            look < LOOKS,
            "it never comes to rest: {}",
            state(play).await
        );
    }
    let trouble = |hand: &Hand| {
        hand.troubles
            .lock()
            .unwrap()
            .as_ref()
            .map(|error| format!("{error:?}"))
    };
    assert_eq!(play.workers.iter().find_map(trouble), None);
}

async fn is_idle(world: &World) -> bool {
    let listed = walk::blobs(&world.inbox, "", Include::default(), 10_000).await;
    let items = listed.unwrap().items;
    let seal = |name: &str| matches!(names::inbox_blob(name), InboxBlob::Seal(_));
    !items.iter().any(|blob| seal(&blob.name))
}

async fn is_equal(world: &World) -> bool {
    let manifest = world.manifest().await;
    let Some(point) = manifest.points.last() else {
        return false;
    };
    for (id, slot) in &world.disks {
        if world.chronicle.read(point, id).await.as_ref() != Some(&world.model.content_of(slot)) {
            return false;
        }
    }
    true
}

async fn state(play: &Play) -> String {
    let engine = play
        .engine
        .as_ref()
        .map(|engine| engine.observed.borrow().clone());
    let troubles = play.workers.iter().map(|hand| {
        hand.troubles
            .lock()
            .unwrap()
            .as_ref()
            .map(|error| format!("{error:?}"))
    });
    let troubles: Vec<_> = troubles.collect();
    let manifest = play.world.manifest().await;
    let inbox = walk::blobs(&play.world.inbox, "", Include::default(), 10_000).await;
    let inbox: Vec<_> = inbox
        .unwrap()
        .items
        .into_iter()
        .map(|blob| blob.name)
        .collect();
    format!("engine {engine:#?}, workers {troubles:?}, manifest {manifest:#?}, inbox {inbox:?}")
}

async fn judge(world: &World) {
    let manifest = world.manifest().await;
    every_point_is_what_was_frozen(world, &manifest).await;
    nothing_acknowledged_is_lost(world);
    let regrets = world.model.regrets();
    assert!(!regrets, "a cursor was dropped, and wanted afterwards");
    nothing_is_left_behind(world, &manifest).await;
    for (id, slot) in &world.disks {
        let content = world.model.content_of(slot);
        tables_tell_the_truth(world, &manifest, id, &content).await;
    }
}

async fn every_point_is_what_was_frozen(world: &World, manifest: &Manifest) {
    world.chronicle.look().await;
    let wrong = world.chronicle.told().wrong.clone();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for point in &manifest.points {
        assert_eq!(world.chronicle.differs(point).await, None);
    }
}

/// A barrier that was said to be sealed was a point, or nothing had changed since the one before that was; unless that
/// fell with its chain, as it may.
fn nothing_acknowledged_is_lost(world: &World) {
    let told = world.chronicle.told();
    let stood: BTreeSet<_> = told.published.union(&told.fallen).collect();
    let times = world.witness.times();
    for time in world.acknowledged.lock().unwrap().iter() {
        if stood.contains(time) {
            continue;
        }
        let taken = times.iter().position(|taken| taken == time);
        let before = &times[..taken.expect("it was frozen")];
        // Of a disk that is not in a point for a while, an older one counts.
        let is_same = |slot: &DiskSlot| {
            let has =
                |taken: &&Timestamp| stood.contains(*taken) && world.chronicle.has(**taken, slot);
            let last = before.iter().rev().find(has);
            last.is_some_and(|last| world.witness.at(*last)[slot] == world.witness.at(*time)[slot])
        };
        let mut disks = world.disks.values();
        let same = disks.all(|slot| !world.chronicle.has(*time, slot) || is_same(slot));
        let (points, fallen) = (&told.published, &told.fallen);
        assert!(
            same,
            "the barrier of {time} was sealed and is no point: {points:?}, fallen {fallen:?}"
        );
    }
}

async fn nothing_is_left_behind(world: &World, manifest: &Manifest) {
    let all = Include {
        snapshots: true,
        metadata: false,
    };
    let disks = walk::blobs(&world.replica, "disks/", all, 10_000)
        .await
        .unwrap();
    let named: BTreeSet<_> = manifest
        .points
        .iter()
        .flat_map(|point| point.disks.iter())
        .map(|(id, at)| (names::disk(id), at.snapshot.clone()))
        .collect();
    for blob in disks.items {
        if let Some(snapshot) = blob.snapshot {
            let snapshot = (blob.name, snapshot.as_str().to_owned());
            assert!(named.contains(&snapshot), "{snapshot:?} is of no point");
        }
    }
    let named: BTreeSet<_> = manifest
        .disks
        .values()
        .flat_map(|disk| &disk.tables)
        .map(|table| &table.blob)
        .collect();
    let tables = walk::blobs(&world.replica, "tables/", Include::default(), 10_000).await;
    for blob in tables.unwrap().items {
        assert!(named.contains(&blob.name), "{} is of no disk", blob.name);
    }
    let inbox = walk::blobs(&world.inbox, "", Include::default(), 10_000).await;
    for blob in inbox.unwrap().items {
        let torn = match names::inbox_blob(&blob.name) {
            InboxBlob::Log(sequence, _) => sequence > manifest.last_applied.sequence,
            InboxBlob::Seal(_) | InboxBlob::Foreign => false,
        };
        assert!(torn, "{} was applied and is still there", blob.name);
    }
}

/// What the chunk tables say of a disk is what it holds, or that they do not know.
async fn tables_tell_the_truth(world: &World, manifest: &Manifest, id: &DiskId, content: &[u8]) {
    let disk = &manifest.disks[id];
    let streams = disk.tables.iter().rev().map(|part| {
        let blob = BlobRef::head(&part.blob);
        let fetch = move |range: ByteRange| {
            let (replica, blob) = (world.replica.clone(), blob.clone());
            async move {
                let got = replica.get(&blob, Some(range), range.len()).await;
                Ok::<_, parts::Error>(got.unwrap().bytes)
            }
        };
        parts::runs(part.clone(), disk.size, 64 << 10, fetch).boxed()
    });
    let mut overlay = Overlay::new(streams.collect());
    let mut known: Vec<Run> = Vec::new();
    while let Some(run) = overlay.next().await.unwrap() {
        known.push(run);
    }
    for index in 0..chunks(disk.size) {
        let start = to_usize(index * CHUNK);
        let chunk = &content[start..content.len().min(start + to_usize(CHUNK))];
        let said = known
            .iter()
            .find_map(|run| run.get(index))
            .unwrap_or(Chunk::Zero);
        let holds = match said {
            Chunk::Zero => is_zero(chunk),
            Chunk::Touched => true,
            Chunk::Hash(hash) => *blake3::hash(chunk).as_bytes() == hash,
        };
        assert!(
            holds,
            "the table says {said:?} of chunk {index} of disk {id}, which is not so"
        );
    }
}
