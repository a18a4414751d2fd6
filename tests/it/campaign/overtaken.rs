//! Workers that are overtaken while they read, an agent that is while a chain ends, and one that waits in vain.

use jiff::Timestamp;
use site_recovery::blob::Container as _;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect};
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Condition, DeleteSnapshots};
use site_recovery::datapath;
use site_recovery::engine::phase::Phase;
use site_recovery::replica::names;
use site_recovery::report::Code;
use site_recovery::units::Sequence;

use super::named::{
    begin_worker, end_worker, meets, points, protected, synchronize, until, until_phase,
    until_points, until_trouble,
};
use super::schedule::{Play, perform};
use super::verdict;
use super::world::Hand;

const CHUNK: usize = 64 << 10;
const MANIFEST: &str = "*/replica.json";

/// The barriers that the engine has said are sealed.
fn acknowledged(play: &Play) -> usize {
    play.world.acknowledged.lock().unwrap().len()
}

/// Seals a delta of all disks that nobody applies yet.
async fn seal(play: &Play, with: u8) {
    let before = acknowledged(play);
    for disk in 0..play.disks {
        play.world.model.write(disk, 0, &[with; CHUNK]);
    }
    synchronize(play);
    until("sealed", async || acknowledged(play) > before).await;
}

/// A worker that waits at its first request of this kind, and goes on when the gate is opened.
async fn waiting_worker(play: &mut Play, operation: Operation, object: &str) -> Gate {
    begin_worker(play);
    let gate = Gate::closed();
    let held = Effect::Hold(gate.clone());
    let worker = play.workers.last().unwrap();
    meets(&worker.faults, operation, object, Calls::Nth(1), held);
    gate.arrived(1).await;
    gate
}

async fn last_applied(play: &Play) -> Sequence {
    play.world.manifest().await.last_applied.sequence
}

fn trouble(worker: &Hand) -> Option<Code> {
    let trouble = worker.troubles.lock().unwrap();
    trouble.as_ref().map(datapath::Error::code)
}

async fn until_failed(worker: &Hand) -> Code {
    until("a worker fails", async || trouble(worker).is_some()).await;
    trouble(worker).unwrap()
}

fn logs_of(sequence: Sequence) -> String {
    format!("*/{sequence}/*.hrl")
}

#[test]
fn a_log_that_another_worker_has_applied_and_deleted_breaks_no_chain() {
    for retires in [false, true] {
        perform(async {
            // Given two barriers that are sealed, and a worker that is about to read the log of the first
            let mut play = protected(&[4 * CHUNK]).await;
            end_worker(&mut play).await;
            seal(&play, b'B').await;
            seal(&play, b'C').await;
            if retires {
                play.world.retire().await;
            }
            let first = last_applied(&play).await.next();
            let late = waiting_worker(&mut play, Operation::GetBlob, &logs_of(first)).await;
            // When another applies that one and dies, and a new chain is asked for
            play.world.orders.lock().unwrap().retired = None;
            let second = first.next();
            waiting_worker(&mut play, Operation::GetBlob, &logs_of(second)).await;
            play.workers.pop().unwrap().end().await;
            late.open();
            // Then the first finds that it was overtaken, and applies the second.
            assert_eq!(until_failed(&play.workers[0]).await, Code::Fenced);
            until_points(&play, 3).await;
            verdict::converge(&mut play).await;
        });
    }
}

#[test]
fn of_what_another_worker_has_applied_no_part_is_applied_again() {
    perform(async {
        // Given a delta in two parts, and a worker that is about to read the log of the second
        let mut play = protected(&[4 * CHUNK; 5]).await;
        end_worker(&mut play).await;
        seal(&play, b'B').await;
        let first = last_applied(&play).await.next();
        let late = waiting_worker(&mut play, Operation::GetBlob, &logs_of(first.next())).await;
        // When another applies both, and dies when it has deleted the log of the second alone
        waiting_worker(&mut play, Operation::DeleteBlob, &logs_of(first)).await;
        play.workers.pop().unwrap().end().await;
        assert_eq!(points(&play).await, 2);
        late.open();
        // Then the first finds that it was overtaken.
        assert_eq!(until_failed(&play.workers[0]).await, Code::Fenced);
        assert_eq!(last_applied(&play).await, first.next());
        verdict::converge(&mut play).await;
    });
}

#[test]
fn a_copy_does_not_wait_for_a_seal_that_is_lost() {
    perform(async {
        // Given a disk that has to be compared once a delta is applied which is sealed
        let mut play = protected(&[4 * CHUNK]).await;
        end_worker(&mut play).await;
        seal(&play, b'B').await;
        play.world.model.lose_tracking(0);
        synchronize(&play);
        until_phase(&play, |phase| matches!(phase, Phase::FreezingCopy { .. })).await;
        // When its seal is lost
        let lost = BlobRef::head(names::seal(last_applied(&play).await.next()));
        let (inbox, any) = (&play.world.inbox, Condition::Always);
        let deleted = inbox.delete(&lost, &any, DeleteSnapshots::None).await;
        assert!(deleted.unwrap());
        begin_worker(&mut play);
        // Then the comparison brings what it had brought.
        until_points(&play, 2).await;
    });
}

#[test]
fn what_is_sealed_while_a_chain_ends_becomes_a_point_or_is_not_acknowledged() {
    // Before it is closed, and between that and the new chain.
    for save in [1, 2] {
        perform(async {
            let mut play = protected(&[4 * CHUNK]).await;
            let gate = Gate::closed();
            let held = Effect::Hold(gate.clone());
            let faults = &play.workers[0].faults;
            meets(faults, Operation::PutBlob, MANIFEST, Calls::Nth(save), held);
            // Given a worker that has found nothing more in a chain which a new one is to follow
            let chain = play.world.manifest().await.chain;
            play.world.retire().await;
            gate.arrived(1).await;
            // When an agent seals
            play.world.model.write(0, 0, &[b'B'; CHUNK]);
            synchronize(&play);
            let sealed: Timestamp = match save {
                1 => {
                    until("sealed", async || acknowledged(&play) > 1).await;
                    play.world.witness.times()[2]
                }
                _ => {
                    assert_eq!(until_trouble(&play).await, Code::Fenced);
                    assert_eq!(acknowledged(&play), 1);
                    play.world.witness.times()[1]
                }
            };
            gate.open();
            // Then what it was told is sealed is a point.
            until("a new chain", async || {
                play.world.manifest().await.chain != chain
            })
            .await;
            let points = play.world.manifest().await.points;
            assert_eq!(points.last().unwrap().barrier.time, sealed);
            verdict::converge(&mut play).await;
        });
    }
}
