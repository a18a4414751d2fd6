//! A schedule: what a seed does to a VM, its hosts, its agents, its workers and its storage account.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use site_recovery::blob::Container as _;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::{Condition, DeleteSnapshots, Include, PutOptions};
use site_recovery::blob::walk;
use site_recovery::replica::manifest::Point;
use site_recovery::replica::names::{self, InboxBlob};
use site_recovery::replica::retention::{Retention, Tier};
use site_recovery::units::Sequence;

use super::host::Fate;
use super::verdict;
use super::weather::Weather;
use super::world::{Hand, Life, Start, World};
use crate::replication::model::slot;

const KIB: usize = 1 << 10;
const CHUNK: usize = 64 * KIB;
/// A disk that has so many bytes grows no more.
const LARGE: usize = 2048 * KIB;
/// Longer than any schedule.
const AGES: Duration = Duration::from_secs(100_000 * 86_400);
/// Steps of one schedule.
const STEPS: std::ops::Range<usize> = 8..28;
/// Logs that an engine has under way at most.
const LOGS_UNDER_WAY: usize = 5;
/// One request or call in so many fails where some do.
const FAILS: std::ops::Range<u64> = 8..80;
/// A life ends at a request or call up to this one. A whole first copy has some forty.
const LAST: u64 = 70;

/// Runs the schedule of `seed` on this thread.
pub(crate) fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let sizes = sizes(&mut random);
    perform_with(readers(sizes.len()), async {
        let mut play = Play::new(&sizes, random).await;
        for _ in 0..play.random.random_range(STEPS) {
            play.step().await;
        }
        verdict::converge(&mut play).await;
    });
}

/// Disks of so many bytes. A delta of more than four is sealed in parts.
fn sizes(random: &mut StdRng) -> Vec<usize> {
    let (disks, most) = match random.random_range(0..4) {
        0 => (random.random_range(5..=10), 6),
        _ => (random.random_range(1..=5), 24),
    };
    let size = |_| random.random_range(4..=most) * 16 * KIB;
    (0..disks).map(size).collect()
}

/// Threads that block. With one, what it does is done in the order in which it was asked for. But a reader whose logs are
/// all under way waits on its thread until another has packed one; there may be two readers.
fn readers(disks: usize) -> usize {
    match disks {
        0..=LOGS_UNDER_WAY => 1,
        _ => 3,
    }
}

pub(crate) fn perform(play: impl Future<Output = ()>) {
    perform_with(1, play);
}

/// Performs a play on this thread, by a time that stands still unless everybody waits.
fn perform_with(threads: usize, play: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(threads)
        .build()
        .unwrap();
    runtime.block_on(play);
    // A thread that still reads for a life that is over is not waited for.
    runtime.shutdown_background();
}

/// A schedule under way.
pub(crate) struct Play {
    pub(crate) random: StdRng,
    pub(crate) world: World,
    pub(crate) engine: Option<Life>,
    /// Engines on hosts that the VM has left.
    pub(crate) left: Vec<Life>,
    /// The newest is the last.
    pub(crate) workers: Vec<Hand>,
    pub(crate) disks: usize,
    /// The point that a run has pinned and found.
    held: Option<Point>,
}

/// Prints what a schedule does where only it is run.
pub(crate) fn tell(what: impl FnOnce() -> String) {
    if std::env::var_os("CAMPAIGN_SEED").is_some() {
        super::say(&what());
    }
}

impl Play {
    async fn new(sizes: &[usize], random: StdRng) -> Self {
        tell(|| format!("disks of {sizes:?}"));
        let mut play = Play::quiet(sizes, random).await;
        play.keep();
        play.write();
        play.begin_engine();
        play.begin_worker();
        play
    }

    /// A VM with disks of these sizes, for which nobody works yet.
    pub(crate) async fn quiet(sizes: &[usize], mut random: StdRng) -> Self {
        let world = World::new(sizes, &mut random).await;
        Play {
            random,
            world,
            engine: None,
            left: Vec::new(),
            workers: Vec::new(),
            disks: sizes.len(),
            held: None,
        }
    }

    fn seconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_secs(self.random.random_range(range))
    }

    fn one_in(&mut self, number: u32) -> bool {
        self.random.random_ratio(1, number)
    }

    pub(crate) async fn step(&mut self) {
        if self.engine.as_ref().is_some_and(Life::is_over) {
            tell(|| "the engine is dead".to_owned());
            self.end_engine().await;
        }
        let step = self.random.random_range(0..125);
        tell(|| format!("step {step}"));
        match step {
            0..=19 => self.write(),
            20..=34 => self.synchronize(),
            35..=49 => self.begin_engine(),
            50..=54 => self.end_engine().await,
            55..=63 => self.begin_worker(),
            64..=66 => self.end_worker().await,
            67..=71 => self.go_on(),
            72..=76 => self.deliver(),
            77..=79 => self.lose_state().await,
            80..=83 => self
                .world
                .model
                .lose_tracking(self.random.random_range(0..self.disks)),
            84..=86 => self.world.model.lose_points(),
            87..=90 => self.move_vm().await,
            91..=92 => self.world.model.turn_off(),
            93..=94 => self.world.model.turn_on(),
            95 => self.world.jump(self.random.random_range(-100_000..100_000)),
            96 => self
                .world
                .model
                .turn_clock(self.random.random_range(-300..300)),
            97..=99 => self.end_left().await,
            100..=103 => self.write_everywhere(),
            104..=106 => self.grow(),
            107..=108 => self.world.retire().await,
            109..=111 => self.damage().await,
            112..=113 => self.raise().await,
            114..=116 => self.exclude_or_include().await,
            117..=119 => self.pin().await,
            120 => self.let_go().await,
            121 => self.keep(),
            122 => self.world.model.disturb(),
            _ => self.world.model.calm(),
        }
        let seconds = match self.random.random_range(0..4) {
            0 => 0,
            1 => self.random.random_range(0..10),
            2 => self.random.random_range(0..100),
            _ => self.random.random_range(0..2000),
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// The guest writes some ranges: new content, zeroes, or what stood there before.
    pub(crate) fn write(&mut self) {
        for _ in 0..self.random.random_range(1..6) {
            let disk = self.random.random_range(0..self.disks);
            self.write_to(disk);
        }
    }

    fn write_everywhere(&mut self) {
        (0..self.disks).for_each(|disk| self.write_to(disk));
    }

    fn write_to(&mut self, disk: usize) {
        if self.world.model.is_off() {
            return;
        }
        let size = self.world.model.content(disk).len();
        let whole_chunks = self.random.random_bool(0.5);
        let unit = if whole_chunks { CHUNK } else { 512 };
        let start = self.random.random_range(0..size) / unit * unit;
        let most = if whole_chunks { 4 * CHUNK } else { 40 * KIB };
        let length = self.random.random_range(512..=most).next_multiple_of(unit);
        let end = (start + length).min(size);
        let data = self.content(disk, start, end);
        self.world.model.write(disk, start, &data);
    }

    /// Somebody enlarges a disk, beyond the padding of its blob or not.
    fn grow(&mut self) {
        let disk = self.random.random_range(0..self.disks);
        let by = match self.one_in(2) {
            true => self.random.random_range(1..=8) * 16 * KIB,
            false => self.random.random_range(1..=2200) * 512,
        };
        if self.world.model.content(disk).len() < LARGE {
            self.world.model.grow(disk, by);
        }
    }

    fn content(&mut self, disk: usize, start: usize, end: usize) -> Vec<u8> {
        let mut data = vec![0; end - start];
        let times = self.world.witness.times();
        match (
            self.random.random_range(0..6),
            times.choose(&mut self.random),
        ) {
            (0, _) => {}
            (1..=2, Some(before)) => {
                let before = self.world.witness.at(*before);
                // Where the disk ended then, there are zeroes.
                if let Some(stood) = before[&slot(disk)].get(start..end) {
                    data.copy_from_slice(stood);
                }
            }
            (3, _) => data.fill(self.random.random_range(1..4)),
            _ => self.random.fill(data.as_mut_slice()),
        }
        data
    }

    fn synchronize(&self) {
        if let Some(engine) = &self.engine {
            engine.synchronize.notify_one();
            engine.retry.notify_one();
        }
    }

    fn weather(&mut self) -> Weather {
        let fails = self.one_in(3).then(|| self.random.random_range(FAILS));
        let late = self.one_in(3).then(|| self.random.random_range(FAILS));
        let stands = self.one_in(2).then(|| {
            let at = self.random.random_range(1..LAST);
            (at, self.random.random_bool(0.5))
        });
        let waits = self.one_in(3).then(|| self.random.random_range(1..12));
        Weather {
            fails_one_in: fails,
            late_one_in: late,
            stands_at: stands,
            waits_at: waits,
            seed: self.random.random(),
        }
    }

    fn fate(&mut self) -> Fate {
        let dies = self.one_in(3).then(|| {
            let at = self.random.random_range(1..LAST);
            (at, self.random.random_bool(0.5))
        });
        let fails = self.one_in(5).then(|| self.random.random_range(FAILS));
        Fate {
            dies_at: dies,
            fails_one_in: fails,
            seed: self.random.random(),
        }
    }

    /// Starts an engine if none runs.
    fn begin_engine(&mut self) {
        if self.engine.is_some() {
            return;
        }
        let start = Start {
            allowed: self.random.random_bool(0.6),
            application_every: self.one_in(2).then(|| self.seconds(60..5000)),
            weather: self.weather(),
            fate: self.fate(),
        };
        tell(|| format!("an engine begins: {start:?}"));
        self.engine = Some(self.world.start(start));
    }

    pub(crate) async fn end_engine(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.end().await;
        }
    }

    /// Starts a worker, whether one runs or not: it takes over.
    fn begin_worker(&mut self) {
        if self.workers.len() >= 3 {
            return;
        }
        let weather = self.weather();
        tell(|| format!("a worker begins: {weather:?}"));
        let hand = self.world.work(&weather);
        self.workers.push(hand);
    }

    async fn end_worker(&mut self) {
        if !self.workers.is_empty() {
            let which = self.random.random_range(0..self.workers.len());
            self.workers.remove(which).end().await;
        }
    }

    /// A worker that stands still goes on.
    fn go_on(&mut self) {
        if let Some(worker) = self.workers.choose(&mut self.random)
            && let Some(gate) = &worker.stands
        {
            gate.open();
        }
    }

    /// The network delivers what it held back.
    fn deliver(&mut self) {
        if !self.world.late.is_empty() {
            let which = self.random.random_range(0..self.world.late.len());
            self.world.late[which].open();
        }
    }

    /// Somebody says which points are to be kept: for a day at most, or one for ever.
    fn keep(&mut self) {
        let tier = |play: &mut Play| Tier {
            every: play.seconds(30..8000),
            keep: match play.one_in(3) {
                true => AGES,
                false => play.seconds(300..80_000),
            },
        };
        let count = self.random.random_range(0..=2);
        let tiers = (0..count).map(|_| tier(self)).collect();
        tell(|| format!("keeps {tiers:?}"));
        self.world.orders.lock().unwrap().retention = Retention { tiers };
    }

    /// A log that is sealed and may not be applied yet is lost, or is another; or its seal is lost.
    async fn damage(&mut self) {
        let applied = self.world.manifest().await.last_applied.sequence;
        let listed = walk::blobs(&self.world.inbox, "", Include::default(), 10_000).await;
        let blobs = listed.unwrap().items.into_iter().map(|blob| blob.name);
        let blobs: Vec<(String, InboxBlob)> = blobs
            .map(|name| (name.clone(), names::inbox_blob(&name)))
            .collect();
        let is_sealed = |sequence: Sequence| {
            let mut seals = blobs.iter();
            sequence > applied && seals.any(|(_, blob)| *blob == InboxBlob::Seal(sequence))
        };
        let sealed = blobs.iter().filter_map(|(name, blob)| match blob {
            InboxBlob::Log(sequence, _) | InboxBlob::Seal(sequence) if is_sealed(*sequence) => {
                Some((name, *sequence))
            }
            InboxBlob::Log(..) | InboxBlob::Seal(_) | InboxBlob::Foreign => None,
        });
        let sealed: Vec<(&String, Sequence)> = sealed.collect();
        let Some((name, sequence)) = sealed.choose(&mut self.random) else {
            return;
        };
        tell(|| format!("{name} is damaged"));
        self.world.chronicle.damage(*sequence).await;
        self.world.model.excuse();
        let (inbox, blob) = (&self.world.inbox, BlobRef::head(*name));
        let is_seal = matches!(names::inbox_blob(name), InboxBlob::Seal(_));
        match is_seal || self.random.random_bool(0.5) {
            true => {
                let deleted = inbox.delete(&blob, &Condition::Always, DeleteSnapshots::None);
                assert!(deleted.await.unwrap());
            }
            false => {
                let got = inbox.get(&blob, None, u64::MAX).await.unwrap();
                let mut bytes = got.bytes.to_vec();
                let at = self.random.random_range(0..bytes.len());
                bytes[at] ^= 1;
                let options = PutOptions::default();
                inbox.put(name, bytes.into(), &options).await.unwrap();
            }
        }
    }

    /// Whoever commands has changed: what was commanded before is not to be begun any more.
    async fn raise(&mut self) {
        self.world
            .command(|fence| fence.generation = fence.generation.next())
            .await;
        if self.one_in(2) {
            self.end_engine().await;
            self.begin_engine();
        }
    }

    /// A disk is left out from now on, or is replicated again; an agent is told by being started anew.
    async fn exclude_or_include(&mut self) {
        let disk = self.random.random_range(0..self.disks);
        let slot = slot(disk);
        let mut disks = self.world.disks.iter();
        let (id, _) = disks.find(|(_, other)| **other == slot).unwrap();
        let id = id.clone();
        if !self.world.excluded.remove(&id) && self.world.included().len() > 1 {
            tell(|| format!("disk {slot} is excluded"));
            self.world.model.excuse();
            self.world.excluded.insert(id);
            if self.one_in(2) {
                self.world.model.lose_tracking(disk);
            }
        }
        self.end_engine().await;
        self.begin_engine();
    }

    /// A run chooses a point, pins it, and looks whether it is still there.
    async fn pin(&mut self) {
        let points = self.world.manifest().await.points;
        let Some(point) = points.choose(&mut self.random).cloned() else {
            return;
        };
        self.let_go().await;
        tokio::time::sleep(self.seconds(0..20)).await;
        let id = point.id.clone();
        self.world.command(|fence| fence.pinned = vec![id]).await;
        let mut points = self.world.manifest().await.points.into_iter();
        self.held = points.find(|other| other.id == point.id);
        tell(|| format!("pinned {}: {}", point.sequence, self.held.is_some()));
        if self.held.is_none() {
            self.let_go().await;
        }
    }

    /// A run ends. What it has pinned is there until then, whatever became of the manifest.
    pub(crate) async fn let_go(&mut self) {
        if let Some(point) = self.held.take() {
            assert_eq!(self.world.chronicle.differs(&point).await, None);
        }
        self.world.command(|fence| fence.pinned.clear()).await;
    }

    async fn lose_state(&mut self) {
        self.end_engine().await;
        self.world.lose_state();
        self.begin_engine();
    }

    /// The VM moves, and an engine begins where it is now; the one that was may not know it yet.
    async fn move_vm(&mut self) {
        let home = 1 - self.world.home.load(Ordering::SeqCst);
        // Nothing of the host that it moves to runs any more.
        self.end_left().await;
        self.world.home.store(home, Ordering::SeqCst);
        if let Some(engine) = self.engine.take() {
            self.left.push(engine);
        }
        if self.one_in(2) {
            self.world.model.lose_points();
        }
        if self.one_in(2) {
            (0..self.disks).for_each(|disk| self.world.model.lose_tracking(disk));
        }
        tell(|| format!("the VM is on host {home}"));
        self.begin_engine();
    }

    pub(crate) async fn end_left(&mut self) {
        for engine in std::mem::take(&mut self.left) {
            engine.end().await;
        }
    }
}
