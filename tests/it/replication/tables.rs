//! Chunk tables that lie, are damaged, gone, or folded away while somebody compares with them.

use std::sync::Arc;

use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::container::FaultyContainer;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Rule};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Condition, DeleteSnapshots, PutOptions};
use site_recovery::datapath::content::Progress;
use site_recovery::datapath::tables;
use site_recovery::datapath::verify::{self, verify};
use site_recovery::engine::demand;
use site_recovery::engine::ledger::Store;
use site_recovery::host::Hypervisor as _;
use site_recovery::replica::names;
use site_recovery::report::{Code, Fault};

use super::hand::names_in_the_inbox;
use super::model::{Witnessed, vm};
use super::world::World;
use crate::blob::emulator::noise;

const CHUNK: usize = 64 << 10;
/// It ends in the middle of a chunk.
const SIZE: usize = (4 << 20) - 512;

/// A replica with a recovery point, and a source whose first chunk has changed since. All of it has to be compared.
async fn demanded() -> World {
    let world = World::new(&[SIZE]).await;
    world.model.write(0, 0, &noise(1, SIZE));
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    drop(engine);
    world.model.write(0, 0, &noise(2, CHUNK));
    let all: Vec<_> = world.disks.keys().cloned().collect();
    let demanding = world.start_as(|options| {
        let lost = Fault::new(Code::TrackingLost, "a crash");
        demand::add(&options.folder, all, lost).unwrap();
    });
    drop(demanding.await);
    world
}

/// The one part of the disk's table, and its bytes.
async fn table(world: &World) -> (String, Vec<u8>) {
    let manifest = world.manifest().await;
    let parts = &manifest.disks.values().next().unwrap().tables;
    assert_eq!(parts.len(), 1);
    let blob = parts[0].blob.clone();
    let head = BlobRef::head(&blob);
    let got = world.cloud.replica.get(&head, None, 1 << 20).await;
    let bytes = got.unwrap().bytes.to_vec();
    (blob, bytes)
}

async fn overwrite(world: &World, name: &str, bytes: Vec<u8>) {
    let options = PutOptions::default();
    let put = world.cloud.replica.put(name, bytes.into(), &options);
    put.await.unwrap();
}

/// The containers, of which reads of blobs like `object` wait from the given one on.
async fn held(world: &World, object: &str, from: u64) -> (Store, Gate) {
    let (faults, gate) = (Faults::new(0), Gate::closed());
    faults.add(Rule {
        operations: vec![Operation::GetBlob],
        object: object.to_owned(),
        calls: Calls::From(from),
        effect: Effect::Hold(gate.clone()),
    });
    let store = world.by_signature().await;
    let held = Store {
        replica: Arc::new(FaultyContainer::new(store.replica, faults)),
        ..store
    };
    (held, gate)
}

#[tokio::test]
async fn a_table_that_lies_makes_no_copy_pass_over_what_differs() {
    // Given a table that says of the first chunk what the source holds now, and not what the replica holds
    let world = demanded().await;
    let (part, good) = table(&world).await;
    let hash = |content: &[u8]| *blake3::hash(content).as_bytes();
    let (was, is) = (hash(&noise(1, SIZE)[..CHUNK]), hash(&noise(2, CHUNK)));
    let at = good.windows(32).position(|bytes| bytes == was).unwrap();
    let mut bad = good.clone();
    bad[at..at + 32].copy_from_slice(&is);
    overwrite(&world, &part, bad).await;
    // When the disk is compared, then the part is named, and nothing is sealed
    let mut engine = world.start_with_leave(world.by_signature().await);
    engine.wait_for_trouble().await;
    let fault = engine.observed.borrow().trouble.clone().unwrap().fault;
    assert_eq!(fault.code, Code::ReplicaDamaged);
    assert!(fault.message.contains(&part), "{}", fault.message);
    assert_eq!(names_in_the_inbox(&world).await, [""; 0]);
    // And when it is restored, the replica becomes the source.
    overwrite(&world, &part, good).await;
    engine.retry.notify_one();
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn a_new_chain_believes_nothing_of_a_table_that_is_damaged_or_gone() {
    for gone in [false, true] {
        let world = demanded().await;
        let (part, mut bytes) = table(&world).await;
        if gone {
            let blob = BlobRef::head(&part);
            let replica = &world.cloud.replica;
            let deleted = replica.delete(&blob, &Condition::Always, DeleteSnapshots::None);
            assert!(deleted.await.unwrap());
        } else {
            bytes[16] ^= 1;
            overwrite(&world, &part, bytes).await;
        }
        // When a new chain is begun
        let mut worker = world.worker();
        worker.retire(Some(world.manifest().await.chain));
        world.apply_all(&mut worker).await;
        assert!(!world.manifest().await.names_part(&part));
        // Then the host sends what nobody knows, and replica and table are sound.
        let mut engine = world.start_with_leave(world.by_signature().await);
        engine.wait_until_replicating().await;
        world.apply_all(&mut worker).await;
        world.assert_all_points_are_what_was_frozen().await;
        world.assert_point_is_what_was_frozen().await;
        let (options, progress) = (verify::Options::default(), Progress::default());
        let report = verify(&world.cloud, &options, &progress).await.unwrap();
        assert!(report.findings.is_sound(), "{:?}", report.findings);
    }
}

#[tokio::test]
async fn a_table_that_is_folded_while_it_is_compared_with_does_not_end_the_copy() {
    // Given an engine that is about to read a table
    let world = demanded().await;
    let (store, gate) = held(&world, "*tables*", 1).await;
    let mut engine = world.start_with_leave(store);
    gate.arrived(1).await;
    // When its parts are folded into another
    let held = world.cloud.load().await.unwrap().unwrap();
    let mut manifest = held.manifest.clone();
    for (id, disk) in &mut manifest.disks {
        let folded = tables::fold(&world.cloud, id, disk.size, &disk.tables, 77).await;
        let old = std::mem::replace(&mut disk.tables, vec![folded.unwrap()]);
        for part in old {
            tables::remove(&world.cloud, &part).await.unwrap();
        }
    }
    world.cloud.save(&held, manifest).await.unwrap();
    gate.open();
    // Then it goes on with that.
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world.assert_point_is_what_was_frozen().await;
}

#[tokio::test]
async fn no_point_is_held_while_a_copy_waits_for_the_data_path() {
    // Given a delta that is sealed and not applied when all has to be compared
    let world = World::new(&[SIZE]).await;
    let mut engine = world.start().await;
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world.model.write(0, 0, &noise(1, CHUNK));
    engine.synchronize().await;
    drop(engine);
    let all: Vec<_> = world.disks.keys().cloned().collect();
    let demanding = world.start_as(|options| {
        let lost = Fault::new(Code::TrackingLost, "a crash");
        demand::add(&options.folder, all, lost).unwrap();
    });
    drop(demanding.await);
    // When the engine has resumed, has seen that something is not applied, and asks whether it is by now
    let (store, gate) = held(&world, &format!("*{}", names::MANIFEST), 3).await;
    let mut engine = world.start_with_leave(store);
    gate.arrived(1).await;
    // Then the machine is not frozen, until it is.
    let hypervisor = Witnessed {
        model: world.model.clone(),
        witness: world.witness.clone(),
    };
    assert_eq!(hypervisor.points(&vm()).unwrap(), []);
    world.apply_all(&mut world.worker()).await;
    gate.open();
    engine.wait_until_replicating().await;
    world.apply_all(&mut world.worker()).await;
    world.assert_point_is_what_was_frozen().await;
}
