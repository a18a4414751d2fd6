//! Engine and data path, killed at every step of the protocol, on a storage and a hypervisor that have bad days.
//!
//! ```text
//! seed ─► schedule: guest writes · barriers · deaths · take-overs · lost replies · late requests · moves …
//!            └─► faults end, everything is allowed ─► every point is what was frozen, nothing acknowledged is lost
//! ```
//! A schedule runs on one thread of its own, whose time stands still unless everybody waits: hours of retries cost
//! nothing. A failure prints its seed. `CAMPAIGN_SEED=<seed>` runs that one alone, `SOAK=<number>` that many from a
//! seed of the clock (`make soak`). What is random beyond the seed is only how the one thread that blocks meets the
//! other.

mod chronicle;
mod host;
mod named;
mod overtaken;
mod schedule;
mod verdict;
mod weather;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use site_recovery::units::{Clock as _, SystemClock};

/// Schedules that every run of the tests performs: the same ones.
const FIXED: u64 = 60;
/// No further schedule begins after this time, but for those that were asked for.
const TIME: Duration = Duration::from_secs(50);
/// One schedule takes a second or two; one that takes this long has come to a standstill.
const STANDSTILL: Duration = Duration::from_secs(180);
/// Schedules at the same time.
const THREADS: usize = 2;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Runs one schedule on a thread of its own: what went wrong, if anything did.
fn perform(seed: u64) -> Result<(), String> {
    let (done, waits) = mpsc::channel();
    let run = move || {
        let outcome = std::panic::catch_unwind(|| schedule::run(seed));
        // Nobody waits any more after a standstill.
        let _ = done.send(outcome.is_ok());
    };
    std::thread::Builder::new()
        .name(format!("seed-{seed}"))
        .spawn(run)
        .unwrap();
    match waits.recv_timeout(STANDSTILL) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("CAMPAIGN_SEED={seed} fails, as printed above")),
        Err(_) => Err(format!("CAMPAIGN_SEED={seed} came to a standstill")),
    }
}

/// Runs schedules until `next` has no more: how many, and those that failed.
fn perform_all(next: impl Fn() -> Option<u64> + Sync) -> (u64, Vec<String>) {
    let (ran, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let count = ran.fetch_add(1, Ordering::Relaxed);
                    if count % 100 == 99 {
                        say(&format!("{count} schedules are done"));
                    }
                    if let Err(why) = perform(seed) {
                        say(&why);
                        failed.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    (ran.into_inner(), failed.into_inner().unwrap())
}

fn seed_of_the_clock() -> u64 {
    let since = SystemClock.now().as_second();
    u64::try_from(since).unwrap() << 20
}

#[test]
fn whatever_dies_and_whenever_every_point_is_what_was_frozen_and_nothing_acknowledged_is_lost() {
    let (began, drawn) = (Instant::now(), AtomicU64::new(0));
    let draw = || drawn.fetch_add(1, Ordering::Relaxed);
    let (ran, failed) = if let Some(seed) = number("CAMPAIGN_SEED") {
        perform_all(|| (draw() == 0).then_some(seed))
    } else {
        let first = seed_of_the_clock();
        let soak = number("SOAK");
        say(&format!("seeds of the clock begin at {first}"));
        perform_all(|| {
            let count = draw();
            match soak {
                Some(soak) => (count < soak).then_some(first + count),
                // The seed of the clock is the first.
                None if count == 0 => Some(first),
                None => (count <= FIXED && began.elapsed() < TIME).then_some(count),
            }
        })
    };
    say(&format!("{ran} schedules in {:?}", began.elapsed()));
    assert!(failed.is_empty(), "{} of {ran}: {failed:#?}", failed.len());
    assert!(ran > 0);
}

#[expect(
    clippy::print_stderr,
    reason = "the seed belongs to whoever looks at the test"
)]
fn say(what: &str) {
    eprintln!("campaign: {what}");
}
