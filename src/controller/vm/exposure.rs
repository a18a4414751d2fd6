//! How much would be lost now, and how that came about: RPO, pending bytes, churn, missed cycles. Samples in memory, pure.
//!
//! ```text
//! agent's counters ──difference to the last look──► buckets of ten minutes, the last twelve hours of them
//!                                             └───► bytes per second of time that was sealed (not of time that passed:
//!                                                   while nothing is sealed, nothing is counted either)
//! ```
//! An agent's counters fall to zero when its engine starts anew; what they say then is all new. The first look after a
//! start of the controller adds nothing, for nobody knows over which time it was counted.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use crate::ids::DiskId;
use crate::replica::manifest::Manifest;
use crate::wire::ReplicationObservation;
use crate::wire::observation::Cycles;

/// The monitoring interval: Hyper-V Replica's default.
pub const MONITORED: Duration = Duration::from_secs(12 * 3600);
/// One bucket of it: 72 of them are 2 KiB per VM.
const BUCKET: i64 = 600;
const BUCKETS: usize = 72;
/// Churn is that of so much sealed time at least, the last and the one before it.
const RATED: Duration = Duration::from_secs(1800);
/// Nothing is said of churn before so much time was sealed.
const RATED_LEAST: Duration = Duration::from_secs(60);

/// What was counted over the monitoring interval.
#[derive(Debug, Default)]
pub struct History {
    last: Option<Last>,
    buckets: VecDeque<Bucket>,
    churn: Rate,
    disks: BTreeMap<DiskId, Rate>,
}

/// The counters at the last look.
#[derive(Debug)]
struct Last {
    cycles: Cycles,
    synchronized: Option<Timestamp>,
    disks: BTreeMap<DiskId, u64>,
}

#[derive(Debug)]
struct Bucket {
    number: i64,
    counted: Counted,
}

/// What barriers came to over the monitoring interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub completed: u64,
    pub missed: u64,
    /// Milliseconds.
    latency: u64,
}

impl Counted {
    /// The mean time from a barrier to its seal.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
            .checked_div(self.completed)
            .map(Duration::from_millis)
    }

    /// How many of a hundred cycles were missed.
    pub fn missed_percent(&self) -> Option<u64> {
        let due = self.completed.saturating_add(self.missed);
        self.missed.saturating_mul(100).checked_div(due)
    }

    fn add(&mut self, other: Counted) {
        self.completed = self.completed.saturating_add(other.completed);
        self.missed = self.missed.saturating_add(other.missed);
        self.latency = self.latency.saturating_add(other.latency);
    }
}

impl History {
    /// Adds what an agent says at `now`.
    pub fn saw(&mut self, seen: &ReplicationObservation, now: Timestamp) {
        let disks = seen.disks.iter();
        let next = Last {
            cycles: seen.cycles,
            synchronized: seen.synchronized,
            disks: disks
                .map(|disk| (disk.disk.clone(), disk.changed))
                .collect(),
        };
        let Some(before) = self.last.replace(next) else {
            return;
        };
        let new = difference(&before.cycles, &seen.cycles);
        self.bucket(now).counted.add(Counted {
            completed: new.completed,
            missed: new.missed,
            latency: new.latency,
        });
        // Bytes between two barriers belong to the time between them.
        let (Some(from), Some(to)) = (before.synchronized, seen.synchronized) else {
            return;
        };
        let Ok(sealed) = Duration::try_from(to.duration_since(from)) else {
            return;
        };
        self.churn.add(new.changed, sealed);
        self.disks.retain(|id, _| before.disks.contains_key(id));
        for disk in &seen.disks {
            let Some(held) = before.disks.get(&disk.disk) else {
                continue;
            };
            let changed = disk.changed.checked_sub(*held).unwrap_or(disk.changed);
            let rate = self.disks.entry(disk.disk.clone()).or_default();
            rate.add(changed, sealed);
        }
    }

    /// What was counted in the monitoring interval before `now`.
    pub fn counted(&self, now: Timestamp) -> Counted {
        let oldest = oldest(number(now));
        let mut sum = Counted::default();
        let recent = self.buckets.iter().filter(|held| held.number >= oldest);
        recent.for_each(|held| sum.add(held.counted));
        sum
    }

    /// Bytes per second that change; nothing before enough was sealed.
    pub fn churn(&self) -> Option<u64> {
        self.churn.per_second()
    }

    /// The same of one disk.
    pub fn churn_of(&self, disk: &DiskId) -> Option<u64> {
        self.disks.get(disk)?.per_second()
    }

    /// The bucket of `now`. A clock that was set back goes on in the newest one.
    fn bucket(&mut self, now: Timestamp) -> &mut Bucket {
        let wanted = number(now);
        if self.buckets.back().is_none_or(|held| held.number < wanted) {
            self.buckets.push_back(Bucket {
                number: wanted,
                counted: Counted::default(),
            });
        }
        let newest = self.buckets.back().map_or(wanted, |held| held.number);
        self.buckets.retain(|held| held.number >= oldest(newest));
        let last = self.buckets.len() - 1;
        &mut self.buckets[last]
    }
}

fn number(at: Timestamp) -> i64 {
    at.as_second().div_euclid(BUCKET)
}

fn oldest(newest: i64) -> i64 {
    newest.saturating_sub(i64::try_from(BUCKETS).unwrap_or(i64::MAX) - 1)
}

/// What was counted between two looks; all, if the counters have begun anew.
fn difference(before: &Cycles, now: &Cycles) -> Cycles {
    let fell = now.completed < before.completed
        || now.missed < before.missed
        || now.changed < before.changed
        || now.latency < before.latency;
    if fell {
        return *now;
    }
    Cycles {
        completed: now.completed - before.completed,
        missed: now.missed - before.missed,
        changed: now.changed - before.changed,
        latency: now.latency - before.latency,
    }
}

/// Bytes over sealed time: of the stretch that is being measured, and of the one before it.
#[derive(Debug, Default)]
struct Rate {
    current: (u64, Duration),
    before: (u64, Duration),
}

impl Rate {
    fn add(&mut self, bytes: u64, time: Duration) {
        self.current.0 = self.current.0.saturating_add(bytes);
        self.current.1 = self.current.1.saturating_add(time);
        if self.current.1 >= RATED {
            self.before = std::mem::take(&mut self.current);
        }
    }

    fn per_second(&self) -> Option<u64> {
        let time = self.current.1.saturating_add(self.before.1);
        if time < RATED_LEAST {
            return None;
        }
        let bytes = self.current.0.saturating_add(self.before.0);
        bytes.checked_div(time.as_secs())
    }
}

/// Up to which instants a VM is safe, by the host's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Everything before is in the storage account.
    pub uploaded: Option<Timestamp>,
    /// Everything before is in a recovery point.
    pub processed: Option<Timestamp>,
}

impl Reached {
    /// What agent and data path say. Where every seal is in a point, the newest point is as good as a new one: nothing
    /// changed since.
    pub fn of(seen: Option<&ReplicationObservation>, manifest: Option<&Manifest>) -> Self {
        let uploaded = seen.and_then(|seen| seen.synchronized);
        let point = manifest.and_then(|manifest| manifest.points.last());
        let processed = point.map(|point| {
            let all = seen.filter(|seen| point.sequence >= seen.sealed);
            let quiet = all.and_then(|seen| seen.synchronized);
            quiet.map_or(point.barrier.time, |quiet| quiet.max(point.barrier.time))
        });
        Reached {
            // What is in a point was uploaded, whatever the agent does not say yet.
            uploaded: uploaded.max(processed.filter(|_| uploaded.is_some())),
            processed,
        }
    }
}

/// The time from `reached` to `now`: none, if a clock that goes ahead said so.
pub fn age(reached: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(reached)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
