//! The cases that a careless protocol gets wrong, one by one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng};
use site_recovery::blob::Container as _;
use site_recovery::blob::error::Operation;
use site_recovery::blob::faulty::Faults;
use site_recovery::blob::faulty::gate::Gate;
use site_recovery::blob::faulty::rule::{Calls, Effect, Failure, Rule};
use site_recovery::blob::names::BlobRef;
use site_recovery::engine::phase::Phase;
use site_recovery::replica::names;
use site_recovery::report::Code;

use super::schedule::{Play, perform};
use super::verdict;
use super::weather::Weather;
use super::world::Start;

const KIB: usize = 1 << 10;
const CHUNK: usize = 64 * KIB;
const SEAL: &str = "*/sealed.json";
/// By the play's time, which costs nothing.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);

/// A VM with disks of these sizes that hold something, none of which was replicated yet.
async fn quiet(sizes: &[usize]) -> Play {
    let play = Play::quiet(sizes, StdRng::seed_from_u64(1)).await;
    for (disk, size) in sizes.iter().enumerate() {
        play.world.model.write(disk, 0, &vec![b'A'; *size]);
    }
    play
}

/// The same with a worker, an engine, and a recovery point.
pub(super) async fn protected(sizes: &[usize]) -> Play {
    let mut play = quiet(sizes).await;
    begin_worker(&mut play);
    begin_engine(&mut play);
    until_points(&play, 1).await;
    play
}

pub(super) fn begin_engine(play: &mut Play) {
    let start = Start {
        allowed: true,
        ..Start::default()
    };
    play.engine = Some(play.world.start(start));
}

pub(super) fn begin_worker(play: &mut Play) {
    let hand = play.world.work(&Weather::default());
    play.workers.push(hand);
}

pub(super) async fn end_worker(play: &mut Play) {
    for worker in std::mem::take(&mut play.workers) {
        worker.end().await;
    }
}

pub(super) fn synchronize(play: &Play) {
    play.engine.as_ref().unwrap().synchronize.notify_one();
}

pub(super) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, waits).await;
    in_time.unwrap_or_else(|_| panic!("{what}: never"));
}

pub(super) async fn points(play: &Play) -> usize {
    play.world.manifest().await.points.len()
}

pub(super) async fn until_points(play: &Play, count: usize) {
    until("so many points", async || points(play).await >= count).await;
}

pub(super) async fn until_phase(play: &Play, what: impl Fn(&Phase) -> bool) {
    let mut observed = play.engine.as_ref().unwrap().observed.clone();
    let reached = observed.wait_for(|seen| what(&seen.phase));
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.expect("the phase is reached").unwrap();
}

pub(super) async fn until_trouble(play: &Play) -> Code {
    let mut observed = play.engine.as_ref().unwrap().observed.clone();
    let failed = observed.wait_for(|seen| seen.trouble.is_some());
    let failed = tokio::time::timeout(PATIENCE, failed).await;
    let seen = failed.expect("the engine fails").unwrap();
    seen.trouble.as_ref().unwrap().fault.code
}

pub(super) fn meets(
    faults: &Faults,
    operation: Operation,
    object: &str,
    calls: Calls,
    effect: Effect,
) {
    faults.add(Rule {
        operations: vec![operation],
        object: object.to_owned(),
        calls,
        effect,
    });
}

/// Adds a rule to what the engine meets.
fn engine_meets(play: &Play, operation: Operation, object: &str, calls: Calls, effect: Effect) {
    let faults = &play.engine.as_ref().unwrap().faults;
    meets(faults, operation, object, calls, effect);
}

#[test]
fn a_disk_that_ends_in_a_short_chunk_is_compared_to_its_end() {
    perform(async {
        let mut play = protected(&[2 * CHUNK + 512, 512]).await;
        play.world.model.lose_tracking(0);
        play.world.model.lose_tracking(1);
        play.world.model.write(0, 2 * CHUNK, &[b'B'; 512]);
        synchronize(&play);
        until_points(&play, 2).await;
        verdict::converge(&mut play).await;
    });
}

#[test]
fn a_seal_whose_reply_was_lost_before_a_restart_is_sealed_once() {
    for applied_before in [false, true] {
        perform(async {
            let mut play = protected(&[4 * CHUNK, 4 * CHUNK]).await;
            // Given a delta whose seal is stored, while the agent is told that the connection broke
            if !applied_before {
                end_worker(&mut play).await;
            }
            play.world.model.write(0, 0, &[b'B'; CHUNK]);
            let lost = Effect::FailAfter(Failure::Interrupted);
            engine_meets(&play, Operation::PutBlob, SEAL, Calls::Nth(1), lost);
            synchronize(&play);
            assert_eq!(until_trouble(&play).await, Code::StorageUnreachable);
            if applied_before {
                until_points(&play, 2).await;
            }
            // When the agent is started anew
            play.end_engine().await;
            play.world.model.write(0, 0, &[b'C'; 512]);
            begin_engine(&mut play);
            begin_worker(&mut play);
            until_points(&play, 3).await;
            // Then there is one point of each barrier, and nothing had to be compared.
            until_phase(&play, |phase| matches!(phase, Phase::Replicating { .. })).await;
            assert_eq!((points(&play).await, play.world.model.freezes()), (3, 4));
            verdict::converge(&mut play).await;
        });
    }
}

#[test]
fn what_a_guest_wrote_and_took_back_around_a_crash_is_in_the_replica_as_it_is() {
    for stands in [Operation::PutPages, Operation::Snapshot] {
        perform(async {
            let mut play = protected(&[4 * CHUNK, 4 * CHUNK]).await;
            // Given a worker that dies when B is in the pages, and the chunk table still says A
            let gate = Gate::closed();
            let held = Effect::HoldReply(gate.clone());
            meets(&play.workers[0].faults, stands, "*", Calls::Nth(1), held);
            play.world.model.write(0, CHUNK, &[b'B'; CHUNK]);
            synchronize(&play);
            gate.arrived(1).await;
            end_worker(&mut play).await;
            // And an agent that loses its state and its tracking, while the guest writes A again
            play.end_engine().await;
            play.world.lose_state();
            play.world.model.lose_tracking(0);
            play.world.model.write(0, CHUNK, &[b'A'; CHUNK]);
            // When all go on, then the replica does not hold B.
            begin_engine(&mut play);
            begin_worker(&mut play);
            until_points(&play, 3).await;
            verdict::converge(&mut play).await;
        });
    }
}

#[test]
fn an_agent_that_lost_its_state_goes_on_from_the_last_seal() {
    perform(async {
        let mut play = protected(&[4 * CHUNK, 4 * CHUNK]).await;
        // Given a delta that is captured, and cannot be shipped
        let fails = Effect::Fail(Failure::Unreachable);
        engine_meets(&play, Operation::PutBlob, "*.hrl", Calls::All, fails);
        play.world.model.write(0, 0, &[b'B'; CHUNK]);
        synchronize(&play);
        until_trouble(&play).await;
        let freezes = play.world.model.freezes();
        // When the agent is started without what it kept
        play.end_engine().await;
        play.world.lose_state();
        play.world.model.write(1, 0, &[b'C'; 512]);
        begin_engine(&mut play);
        until_points(&play, 2).await;
        // Then one barrier brings both changes: nothing is copied, which would have taken two.
        assert_eq!(play.world.model.freezes(), freezes + 1);
        verdict::converge(&mut play).await;
    });
}

#[test]
fn an_agent_that_lost_its_state_in_a_first_copy_does_not_begin_it_again() {
    perform(async {
        let mut play = quiet(&[4 * CHUNK, 4 * CHUNK]).await;
        begin_worker(&mut play);
        begin_engine(&mut play);
        let fails = Effect::Fail(Failure::Unreachable);
        engine_meets(&play, Operation::PutBlob, SEAL, Calls::From(2), fails);
        until_trouble(&play).await;
        play.end_engine().await;
        play.world.lose_state();
        begin_engine(&mut play);
        until_points(&play, 1).await;
        assert_eq!(play.world.model.freezes(), 2, "one to copy, one barrier");
        verdict::converge(&mut play).await;
    });
}

#[test]
fn a_vm_that_moved_in_mid_transfer_goes_on_from_storage_and_the_old_host_changes_nothing() {
    // The first part of the delta is sealed, or held up too.
    for held in [1, 2] {
        perform(async {
            let mut play = protected(&[CHUNK; 5]).await;
            let gate = Gate::closed();
            let stands = Effect::Hold(gate.clone());
            engine_meets(&play, Operation::PutBlob, SEAL, Calls::Nth(held), stands);
            for disk in 0..5 {
                play.world.model.write(disk, 0, &[b'B'; 4 * KIB]);
            }
            synchronize(&play);
            gate.arrived(1).await;
            // When the VM moves, and another agent goes on
            play.world.home.store(1, Ordering::SeqCst);
            let old = play.engine.take().unwrap();
            play.world.model.write(0, 0, &[b'C'; 512]);
            begin_engine(&mut play);
            until_points(&play, 2).await;
            // Then what the old host still sends is refused, and it says why.
            gate.open();
            let mut observed = old.observed.clone();
            let failed = observed.wait_for(|seen| seen.trouble.is_some()).await;
            let trouble = failed.unwrap().trouble.clone().unwrap();
            assert_eq!(trouble.fault.code, Code::Fenced);
            old.end().await;
            verdict::converge(&mut play).await;
        });
    }
}

#[test]
fn a_seal_in_a_place_that_another_had_sealed_and_that_was_applied_is_not_believed() {
    perform(async {
        let mut play = protected(&[4 * CHUNK]).await;
        // Given an old host that is about to seal B
        let gates = [Gate::closed(), Gate::closed()];
        let stands = |gate: &Gate| Effect::Hold(gate.clone());
        engine_meets(
            &play,
            Operation::PutBlob,
            SEAL,
            Calls::Nth(1),
            stands(&gates[0]),
        );
        play.world.model.write(0, 0, &[b'B'; CHUNK]);
        synchronize(&play);
        gates[0].arrived(1).await;
        // And a new one that is about to seal B and C in the same place
        play.world.home.store(1, Ordering::SeqCst);
        let old = play.engine.take().unwrap();
        play.world.model.write(0, CHUNK, &[b'C'; CHUNK]);
        begin_engine(&mut play);
        engine_meets(
            &play,
            Operation::PutBlob,
            SEAL,
            Calls::Nth(1),
            stands(&gates[1]),
        );
        gates[1].arrived(1).await;
        // When the seal of the old one is applied and deleted before the new one seals
        gates[0].open();
        until_points(&play, 2).await;
        let seal = BlobRef::head(names::seal(
            play.world.manifest().await.last_applied.sequence,
        ));
        until("deleted", async || {
            play.world.inbox.properties(&seal).await.is_err()
        })
        .await;
        gates[1].open();
        // Then the new one does not go on as if C were sealed.
        assert_eq!(until_trouble(&play).await, Code::Fenced);
        old.end().await;
        until_points(&play, 3).await;
        verdict::converge(&mut play).await;
    });
}

#[test]
fn what_an_old_host_captured_is_not_sealed_after_what_a_newer_one_sealed() {
    perform(async {
        let mut play = protected(&[4 * CHUNK]).await;
        // Given an old host that has captured B, and asks what is sealed before it ships
        let gate = Gate::closed();
        let stands = Effect::Hold(gate.clone());
        engine_meets(&play, Operation::ListBlobs, "*", Calls::Nth(2), stands);
        play.world.model.write(0, 0, &[b'B'; CHUNK]);
        synchronize(&play);
        gate.arrived(1).await;
        // When the VM moves, and what it wrote since is sealed and applied meanwhile
        play.world.home.store(1, Ordering::SeqCst);
        let old = play.engine.take().unwrap();
        play.world.model.write(0, CHUNK, &[b'C'; CHUNK]);
        begin_engine(&mut play);
        until_points(&play, 2).await;
        gate.open();
        // Then B, which is older, is not laid over it.
        let mut observed = old.observed.clone();
        let failed = observed.wait_for(|seen| seen.trouble.is_some()).await;
        let trouble = failed.unwrap().trouble.clone().unwrap();
        assert_eq!(trouble.fault.code, Code::Fenced);
        old.end().await;
        verdict::converge(&mut play).await;
    });
}

#[test]
fn a_clock_that_jumps_changes_neither_the_order_of_points_nor_ends_retries() {
    for days in [-400, 400] {
        perform(async {
            let mut play = protected(&[4 * CHUNK]).await;
            play.world.model.turn_clock(days);
            play.world.model.write(0, 0, &[b'B'; CHUNK]);
            synchronize(&play);
            until_points(&play, 2).await;
            // Given a failure whose next attempt waits while the clock jumps
            let fails = Effect::Fail(Failure::Unreachable);
            engine_meets(&play, Operation::PutBlob, "*", Calls::All, fails);
            play.world.model.write(0, CHUNK, &[b'C'; CHUNK]);
            synchronize(&play);
            until_trouble(&play).await;
            play.world.jump(days * 86_400);
            play.engine.as_ref().unwrap().faults.clear();
            until_points(&play, 3).await;
            // When it is turned back, then the newest point is the one that was frozen last.
            play.world.model.turn_clock(-days);
            play.world.jump(-days * 86_400);
            play.world.model.write(0, CHUNK, &[b'D'; CHUNK]);
            synchronize(&play);
            until_points(&play, 4).await;
            let points = play.world.manifest().await.points;
            let times: Vec<_> = points.iter().map(|point| point.barrier.time).collect();
            assert_eq!(times, play.world.witness.times()[1..]);
            verdict::converge(&mut play).await;
        });
    }
}
