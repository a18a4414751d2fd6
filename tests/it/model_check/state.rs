//! The world of the model: what there is, what may happen, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use site_recovery::datapath::plan::Found;
use site_recovery::engine::phase::Phase;
use site_recovery::host::TrackingCursor;
use site_recovery::ids::{ChainId, DiskId, ReplicaId};
use site_recovery::replica::Digest;
use site_recovery::replica::manifest::{Head, Manifest, Point, PointDisk, ReplicaDisk, TableRef};
use site_recovery::replica::seal::{Barrier, Consistency, DiskCursor};
use site_recovery::units::Sequence;

use super::agent::Agent;
use super::prune::{Run, Snapshot};
use super::worker::Hand;

pub(super) const PAGE: u64 = 4096;
pub(super) const SIZE: u64 = 2 * PAGE;

/// A value that is told from others by all that it says of itself.
#[derive(Debug)]
pub(super) struct Keyed<T> {
    pub(super) value: Arc<T>,
    key: u64,
}

impl<T> Clone for Keyed<T> {
    fn clone(&self) -> Self {
        Keyed {
            value: self.value.clone(),
            key: self.key,
        }
    }
}

impl<T: std::fmt::Debug> Keyed<T> {
    pub(super) fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        format!("{value:?}").hash(&mut hasher);
        Keyed {
            value: Arc::new(value),
            key: hasher.finish(),
        }
    }
}

impl<T> Hash for Keyed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl<T> PartialEq for Keyed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// A step that is left out, to see that the search misses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Careless {
    /// A seal that was stored is believed.
    Confirm,
    /// A capture is shipped behind whatever was sealed.
    Compare,
    /// Pages are written whatever the blob's number is.
    Fence,
    /// What was dropped is deleted, whoever has pinned it meanwhile.
    Look,
    /// What no manifest names is deleted, whoever has pinned it.
    Collect,
    /// A seal counts, whatever became of its chain.
    Chain,
    /// A seal counts, whether its chain was closed before or not.
    Close,
    /// Changes are counted from where the agent stands, whatever is sealed.
    Count,
    /// A new chain believes what the chunk table says.
    Touch,
}

/// How often what may happen, and who there is.
#[derive(Clone, Copy, Default, Hash)]
pub(super) struct Budget {
    pub(super) writes: u8,
    pub(super) freezes: usize,
    pub(super) deaths: u8,
    /// Requests that are given up: lost replies, and those that arrive later.
    pub(super) delays: u8,
    pub(super) moves: u8,
    /// Tracking or points that are lost.
    pub(super) losses: u8,
    pub(super) engines: usize,
    pub(super) workers: usize,
    /// How often a worker prunes or collects.
    pub(super) cleans: u8,
    pub(super) runs: u8,
    /// How often somebody asks for a new chain.
    pub(super) chains: u8,
    /// Sealed logs that are damaged.
    pub(super) tears: u8,
    pub(super) careless: Option<Careless>,
}

/// A request that its sender has given up.
#[derive(Clone, Hash)]
pub(super) enum Delayed {
    Page { page: usize, value: u8, fence: u64 },
    Seal(Keyed<Found>),
}

#[derive(Clone, Hash)]
pub(super) struct State {
    /// How often the guest has written.
    pub(super) writes: u8,
    /// What the guest had written at each freeze.
    pub(super) frozen: Vec<u8>,
    /// The frozen point that exists.
    pub(super) here: Option<usize>,
    pub(super) committed: BTreeSet<usize>,
    /// Cursors of freezes before this one are not known any more.
    pub(super) lost: usize,
    pub(super) home: usize,
    pub(super) manifest: Keyed<Manifest>,
    pub(super) blob: [u8; 2],
    pub(super) number: u64,
    pub(super) snapshots: BTreeSet<Snapshot>,
    /// The point that the fence names as pinned.
    pub(super) pinned: Option<u64>,
    pub(super) run: Run,
    pub(super) inbox: BTreeMap<u64, Keyed<Found>>,
    pub(super) network: Vec<Delayed>,
    pub(super) agents: Vec<Agent>,
    pub(super) workers: Vec<Hand>,
    /// Every seal that was published as applied.
    pub(super) applied: Vec<Keyed<Digest>>,
    /// Every seal that an agent goes on behind, and its sequence.
    pub(super) acknowledged: Vec<(u64, Keyed<Digest>)>,
    /// The chain was broken.
    pub(super) gap: bool,
    /// The chain that a new one is to follow.
    pub(super) retired: Option<Keyed<ChainId>>,
    /// A sealed log of this sequence is damaged, and whether a worker has seen it.
    pub(super) torn: Option<u64>,
    pub(super) refused: bool,
    /// Seals that fell with their chain, as they may.
    pub(super) fallen: BTreeSet<u64>,
    pub(super) left: Budget,
}

pub(super) fn disk() -> DiskId {
    DiskId::from_random(1)
}

pub(super) fn cursor_of(freeze: usize) -> TrackingCursor {
    TrackingCursor::new(freeze.to_string())
}

pub(super) fn freeze_of(cursor: &TrackingCursor) -> usize {
    cursor.as_str().parse().unwrap()
}

/// A barrier whose time is the number of its freeze.
pub(super) fn barrier(freeze: usize) -> Barrier {
    let second = i64::try_from(freeze).unwrap();
    Barrier {
        time: Timestamp::from_second(second).unwrap(),
        consistency: Consistency::Crash,
    }
}

/// The page that the n-th write goes to, and what is there then: the second takes back the first.
const WRITES: [(usize, u8); 3] = [(1, 1), (1, 0), (0, 3)];

fn writes(from: u8, to: u8) -> &'static [(usize, u8)] {
    &WRITES[usize::from(from)..usize::from(to)]
}

/// What the pages hold after so many writes.
pub(super) fn pages(count: u8) -> [u8; 2] {
    let mut pages = [0; 2];
    for (page, value) in writes(0, count) {
        pages[*page] = *value;
    }
    pages
}

/// Whether a page was written after so many writes, and up to so many.
pub(super) fn is_written(page: usize, from: u8, to: u8) -> bool {
    writes(from, to).iter().any(|(at, _)| *at == page)
}

/// A part of a chunk table says in its name what the pages hold.
pub(super) fn table(values: &BTreeMap<usize, u8>, sequence: u64) -> TableRef {
    let said: Vec<String> = values
        .iter()
        .map(|(page, value)| format!("{page}={value}"))
        .collect();
    TableRef {
        blob: said.join(";"),
        from: Sequence::new(sequence),
        to: Sequence::new(sequence),
        length: 1,
        blake3: Digest::of(b""),
    }
}

/// A part of a chunk table that says of these pages that it does not know.
pub(super) fn touched(pages: &BTreeSet<usize>, sequence: u64) -> TableRef {
    let said: Vec<String> = pages.iter().map(|page| format!("{page}=?")).collect();
    TableRef {
        blob: said.join(";"),
        ..table(&BTreeMap::new(), sequence)
    }
}

/// What the table says that the pages hold, as far as it knows.
pub(super) fn known(manifest: &Manifest) -> [Option<u8>; 2] {
    let mut known = [Some(0); 2];
    for part in manifest.disks.values().flat_map(|disk| &disk.tables) {
        for said in part.blob.split(';').filter(|said| !said.is_empty()) {
            let (page, value) = said.split_once('=').unwrap();
            known[page.parse::<usize>().unwrap()] = value.parse().ok();
        }
    }
    known
}

/// A snapshot says in its name what it holds, and which generation cut it.
pub(super) fn snapshot(blob: [u8; 2], generation: u64) -> PointDisk {
    PointDisk {
        snapshot: format!("{},{}@{generation}", blob[0], blob[1]),
        size: SIZE,
    }
}

fn content(point: &Point) -> [u8; 2] {
    let (held, _) = point.disks[&disk()].snapshot.split_once('@').unwrap();
    let (a, b) = held.split_once(',').unwrap();
    [a.parse().unwrap(), b.parse().unwrap()]
}

impl State {
    /// A VM whose first barrier is a point, and an engine on host 0 that replicates.
    pub(super) fn protected(budget: Budget) -> Self {
        let mut manifest = Manifest::new(ReplicaId::from_random(1), ChainId::from_random(1));
        let sequence = Sequence::new(1);
        let seal = Digest::of(b"first");
        manifest.last_applied.sequence = sequence;
        manifest.last_applied.seal = Some(seal);
        let cursor = DiskCursor::Tracking {
            cursor: cursor_of(0),
        };
        manifest.last_applied.cursors.insert(disk(), cursor);
        let head = Head::Consistent { sequence };
        let replicated = ReplicaDisk {
            size: SIZE,
            head,
            tables: vec![table(&BTreeMap::new(), 1)],
            grown_from: None,
        };
        manifest.disks.insert(disk(), replicated);
        manifest.points.push(Point {
            id: site_recovery::datapath::advance::point_id(&manifest.replica, sequence),
            sequence,
            barrier: barrier(0),
            published: Timestamp::UNIX_EPOCH,
            disks: [(disk(), snapshot([0, 0], 0))].into(),
        });
        let since = [(disk(), cursor_of(0))].into();
        let mut agents = vec![Agent::in_phase(Phase::Replicating { since })];
        agents.resize(budget.engines, Agent::in_phase(Phase::Created));
        State {
            writes: 0,
            frozen: vec![0],
            here: None,
            committed: [0].into(),
            lost: 0,
            home: 0,
            manifest: Keyed::new(manifest),
            blob: [0; 2],
            number: 0,
            snapshots: [(1, 0)].into(),
            pinned: None,
            run: Run::None,
            inbox: BTreeMap::new(),
            network: Vec::new(),
            agents,
            workers: vec![Hand::Idle; budget.workers],
            applied: vec![Keyed::new(seal)],
            acknowledged: Vec::new(),
            gap: false,
            retired: None,
            torn: None,
            refused: false,
            fallen: BTreeSet::new(),
            left: budget,
        }
    }

    /// All that may happen now.
    pub(super) fn next(&self) -> Vec<(String, State)> {
        let mut all = Vec::new();
        if self.left.writes > 0 {
            let mut next = self.clone();
            next.left.writes -= 1;
            next.writes += 1;
            all.push((format!("the guest writes {}", next.writes), next));
        }
        if self.left.losses > 0 {
            let mut next = self.clone();
            next.left.losses -= 1;
            (next.lost, next.here) = (next.frozen.len(), None);
            all.push(("tracking and points are lost".to_owned(), next));
        }
        if self.left.moves > 0 {
            let mut next = self.clone();
            next.left.moves -= 1;
            (next.home, next.here) = (1 - next.home, None);
            all.push((format!("the VM moves to host {}", next.home), next));
        }
        for number in 0..self.network.len() {
            let mut next = self.clone();
            let delayed = next.network.remove(number);
            all.push((format!("delivered late: {}", next.deliver(delayed)), next));
        }
        all.extend(self.run_acts());
        all.extend(self.chain_acts());
        for number in 0..self.agents.len() {
            all.extend(self.agent_acts(number));
        }
        for number in 0..self.workers.len() {
            all.extend(self.worker_acts(number));
        }
        all
    }

    fn deliver(&mut self, delayed: Delayed) -> String {
        match delayed {
            Delayed::Page { page, value, fence } => {
                if self.number == fence || self.left.careless == Some(Careless::Fence) {
                    self.blob[page] = value;
                }
                format!("{value} for page {page} under {fence:x}")
            }
            Delayed::Seal(found) => {
                let sequence = found.value.seal.sequence.value();
                self.inbox.entry(sequence).or_insert(found);
                format!("seal {sequence}")
            }
        }
    }

    /// What does not hold.
    pub(super) fn wrong(&self) -> Option<String> {
        let manifest = &self.manifest.value;
        if self.gap {
            return Some("the chain has a gap".to_owned());
        }
        for point in &manifest.points {
            let freeze = usize::try_from(point.barrier.time.as_second()).unwrap();
            let (found, frozen) = (content(point), pages(self.frozen[freeze]));
            if found != frozen {
                let sequence = point.sequence;
                return Some(format!(
                    "the point of {sequence} holds {found:?}, frozen was {frozen:?}"
                ));
            }
        }
        if let Head::Consistent { sequence } = &manifest.disks[&disk()].head {
            let point = manifest
                .points
                .iter()
                .find(|point| point.sequence == *sequence);
            let point = content(point.expect("a consistent head has its point"));
            let known = known(manifest);
            let vouches = (0..2).all(|page| known[page].is_none_or(|value| value == point[page]));
            if self.blob != point || !vouches {
                return Some(format!(
                    "the head holds {:?}, its point {point:?}, its table says {known:?}",
                    self.blob
                ));
            }
        }
        if let Some(missing) = self.missing_snapshot() {
            return Some(missing);
        }
        let waits = |id: &Keyed<Digest>| {
            let mut behind = self
                .inbox
                .range(manifest.last_applied.sequence.value() + 1..);
            behind.any(|(_, found)| {
                found.value.id == *id.value && found.value.seal.chain == manifest.chain
            })
        };
        let lost = self.acknowledged.iter().any(|(sequence, id)| {
            !(self.applied.contains(id) || waits(id) || self.fallen.contains(sequence))
        });
        lost.then(|| "what an agent takes for sealed is not there".to_owned())
    }
}
