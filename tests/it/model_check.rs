//! Every order in which a small world can go through the protocol, searched breadth first.
//!
//! ```text
//! guest ── write ─► disk of two pages          budget: writes, freezes, deaths, lost replies and delays, moves, losses
//! agent  (two, one per host)   list ─► manifest ─► phase: freeze | capture | copy | commit │ seal ─► confirm
//! worker (two)                 load ─► raise ─► fence ─► plan ─► mark ─► fence ─► page, page ─► cut ─► publish ─► delete
//!                              pins ─► drop ─► pins ─► restore, delete │ list ─► manifest ─► pins ─► collect
//!                              nothing to apply ─► close ─► nothing to apply ─► list ─► new chain
//! run                          choose a point ─► pin ─► look whether it is there ─► hold ─► end
//! network                      pages and seals that were given up, delivered at any later time, once or never
//! ```
//! An arrow is one request; between any two of them everybody else may act. What is decided is decided by the product:
//! `Manifest::judge` and `plan`, `advance::{marked, finished}`, `retention::expired`, `chain::{unfinished, renewed}`,
//! `resume`, `Phase::on`; who performs it is the model.
//!
//! In every state: a point is what was frozen at its barrier; a head that says so is exactly its point (one writer,
//! nothing applied twice or early); the chunk table is true of it; what an agent takes for sealed is applied or will be;
//! the chain has no gap; no snapshot goes that a point or a run counts on. A path to a state that breaks this is printed.
//! With a retired chain may fall what stands behind a damaged log, and nothing else.

mod agent;
mod prune;
mod retire;
mod state;
mod worker;

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use state::{Budget, Careless, State};

/// More states than any of the searches has: one that has more is not small any more.
const MOST: usize = 1_000_000;

/// Searches all states: how many there are, or the path to a wrong one.
fn search(start: State) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut paths: Vec<(usize, String)> = vec![(0, "start".to_owned())];
    let mut ahead = VecDeque::from([(0, start)]);
    while let Some((index, state)) = ahead.pop_front() {
        if let Some(wrong) = state.wrong() {
            return Err(format!("{wrong}\n{}", path(&paths, index)));
        }
        for (what, next) in state.next() {
            if seen.insert(fingerprint(&next)) {
                paths.push((index, what));
                ahead.push_back((paths.len() - 1, next));
            }
        }
        assert!(paths.len() < MOST, "the world is too large");
    }
    Ok(paths.len())
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

fn path(paths: &[(usize, String)], mut index: usize) -> String {
    let mut steps = Vec::new();
    while index > 0 {
        steps.push(paths[index].1.clone());
        index = paths[index].0;
    }
    steps.reverse();
    steps.join("\n")
}

fn holds(budget: Budget) {
    match search(State::protected(budget)) {
        Ok(states) => assert!(states > 1000, "only {states} states"),
        Err(wrong) => panic!("{wrong}"),
    }
}

/// One agent, one worker, and nothing that happens to them.
const NOTHING: Budget = Budget {
    writes: 0,
    freezes: 2,
    deaths: 0,
    delays: 0,
    moves: 0,
    losses: 0,
    engines: 1,
    workers: 1,
    cleans: 0,
    runs: 0,
    chains: 0,
    tears: 0,
    careless: None,
};

/// A VM that may move between two agents.
const MOVES: Budget = Budget {
    writes: 2,
    freezes: 3,
    moves: 1,
    engines: 2,
    ..NOTHING
};

/// Workers that take over from each other, and requests that come late.
const TAKE_OVERS: Budget = Budget {
    writes: 1,
    delays: 1,
    workers: 2,
    ..NOTHING
};

/// A page that is written three times, and requests that come late.
const DELAYS: Budget = Budget {
    writes: 3,
    freezes: 3,
    delays: 1,
    ..NOTHING
};

/// Whoever dies, whatever is lost.
const DEATHS: Budget = Budget {
    writes: 1,
    freezes: 3,
    deaths: 1,
    delays: 1,
    losses: 1,
    ..NOTHING
};

/// Points that go while a run takes one, and workers that take over from each other in between.
const PRUNES: Budget = Budget {
    workers: 2,
    cleans: 2,
    runs: 1,
    ..NOTHING
};

/// A chain that is retired, and seals that come late.
const CHAINS: Budget = Budget {
    writes: 1,
    freezes: 3,
    delays: 1,
    chains: 1,
    ..NOTHING
};

/// A log that is damaged while a worker dies over it, and a page that is what it was then: a new chain.
const TEARS: Budget = Budget {
    writes: 2,
    freezes: 4,
    chains: 1,
    tears: 1,
    ..NOTHING
};

#[test]
fn nothing_is_lost_early_or_twice_when_a_vm_moves_between_two_agents() {
    holds(MOVES);
}

#[test]
fn nothing_is_lost_early_or_twice_when_workers_take_over_from_each_other() {
    holds(TAKE_OVERS);
}

#[test]
fn nothing_is_lost_early_or_twice_when_requests_come_late() {
    holds(DELAYS);
}

#[test]
fn nothing_is_lost_early_or_twice_when_all_die_and_tracking_is_lost() {
    holds(DEATHS);
}

#[test]
fn no_snapshot_goes_that_a_point_or_a_run_counts_on() {
    holds(PRUNES);
}

#[test]
fn nothing_is_lost_early_or_twice_when_a_chain_is_retired() {
    holds(CHAINS);
}

#[test]
fn nothing_is_lost_early_or_twice_when_a_chain_is_retired_for_a_damaged_log() {
    holds(TEARS);
}

#[test]
fn a_protocol_that_leaves_out_a_step_is_found_wrong() {
    for (careless, budget) in [
        (Careless::Confirm, MOVES),
        (Careless::Compare, MOVES),
        (Careless::Fence, DELAYS),
        (Careless::Look, PRUNES),
        (Careless::Collect, PRUNES),
        (Careless::Chain, CHAINS),
        (Careless::Close, CHAINS),
        (Careless::Count, TEARS),
        (Careless::Touch, TEARS),
    ] {
        let found = search(State::protected(Budget {
            careless: Some(careless),
            ..budget
        }));
        assert!(found.is_err(), "without {careless:?}: {found:?}");
    }
}
