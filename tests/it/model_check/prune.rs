//! Pruning and collecting, as a worker of the model does them, and a run that pins a point meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use site_recovery::datapath::advance;
use site_recovery::replica::manifest::{Manifest, Point};
use site_recovery::replica::retention::{self, Retention, Tier};
use site_recovery::units::Sequence;

use super::state::{Careless, Keyed, State, disk};
use super::worker::Hand;

/// A snapshot: the sequence that it is of, and the generation of the worker that cut it.
pub(super) type Snapshot = (u64, u64);

/// Where a worker stands that cleans up.
#[derive(Clone, Hash)]
pub(super) enum Broom {
    /// Has read the pins: these points are dropped next.
    Drops(Vec<u64>),
    /// They are in no manifest any more; the pins are read again next.
    Looks(Keyed<Vec<Point>>),
    /// The first were pinned meanwhile; the others are deleted after them.
    Restores(Keyed<Vec<Point>>, Keyed<Vec<Point>>),
    Deletes(Keyed<Vec<Point>>),
    /// Has listed the snapshots; reads the manifest next.
    Listed(BTreeSet<Snapshot>),
    /// No manifest names these; reads the pins next.
    Unnamed(BTreeSet<Snapshot>),
    Collects(BTreeSet<Snapshot>),
}

/// A run, from the manifest that it chose its point from to its end.
#[derive(Clone, Default, Hash)]
pub(super) enum Run {
    #[default]
    None,
    Chose(u64),
    Pinned(u64),
    /// Found its point after it had pinned it: it stays until the pin goes.
    Holds(Snapshot),
}

/// What was cut for a point.
pub(super) fn snapshot_of(point: &Point) -> Snapshot {
    let (_, generation) = point.disks[&disk()].snapshot.split_once('@').unwrap();
    (point.sequence.value(), generation.parse().unwrap())
}

/// The points that go when none is kept for its age.
fn expired(manifest: &Manifest, pinned: Option<u64>) -> Vec<u64> {
    let tier = Tier {
        every: Duration::from_secs(1),
        keep: Duration::ZERO,
    };
    let retention = Retention { tiers: vec![tier] };
    let id = |sequence| advance::point_id(&manifest.replica, Sequence::new(sequence));
    let pins: Vec<_> = pinned.map(id).into_iter().collect();
    let now = Timestamp::UNIX_EPOCH + Duration::from_secs(3600);
    let gone = retention::expired(&manifest.points, &retention, &pins, false, now);
    gone.into_iter()
        .map(|place| manifest.points[place].sequence.value())
        .collect()
}

impl State {
    /// A worker that owns the replica begins to clean up.
    pub(super) fn cleaning(&self, number: usize, held: &Keyed<Manifest>) -> Vec<(String, State)> {
        if self.left.cleans == 0 {
            return Vec::new();
        }
        let gone = expired(&held.value, self.pinned);
        let begins = |what: &str, broom: Broom| {
            let mut next = self.clone();
            next.left.cleans -= 1;
            next.workers[number] = Hand::Cleans(held.clone(), broom);
            (format!("worker {number} {what}"), next)
        };
        let mut all = vec![begins(
            "lists snapshots",
            Broom::Listed(self.snapshots.clone()),
        )];
        if !gone.is_empty() {
            all.push(begins("reads the pins", Broom::Drops(gone)));
        }
        all
    }

    /// The next request of a worker that cleans up.
    pub(super) fn clean(&mut self, held: Keyed<Manifest>, broom: Broom) -> (Hand, &'static str) {
        match broom {
            Broom::Drops(gone) => self.drop_points(&held, &gone),
            Broom::Looks(dropped) => {
                let is_pinned = |point: &Point| {
                    self.pinned == Some(point.sequence.value())
                        && self.left.careless != Some(Careless::Look)
                };
                let points = dropped.value.as_ref().clone();
                let (pinned, dropped): (Vec<Point>, Vec<Point>) =
                    points.into_iter().partition(is_pinned);
                let dropped = Keyed::new(dropped);
                let broom = match pinned.is_empty() {
                    true => Broom::Deletes(dropped),
                    false => Broom::Restores(Keyed::new(pinned), dropped),
                };
                (Hand::Cleans(held, broom), "reads the pins again")
            }
            Broom::Restores(pinned, dropped) => {
                let mut next = Manifest::clone(&held.value);
                next.points.extend(pinned.value.iter().cloned());
                next.points.sort_by_key(|point| point.sequence);
                let deletes = |held| Hand::Cleans(held, Broom::Deletes(dropped));
                (self.save(&held, next, deletes), "restores a pinned point")
            }
            Broom::Deletes(dropped) => {
                for point in dropped.value.iter() {
                    self.snapshots.remove(&snapshot_of(point));
                }
                (Hand::Owns(held), "deletes what it dropped")
            }
            Broom::Listed(mut listed) => {
                let now = &self.manifest.value;
                if now.writer.generation != held.value.writer.generation {
                    return (Hand::Idle, "is not the owner any more");
                }
                let named: BTreeSet<_> = now.points.iter().map(snapshot_of).collect();
                let (applied, owner) = (&now.last_applied, now.writer.generation.value());
                listed.retain(|snapshot| {
                    let (sequence, generation) = *snapshot;
                    !named.contains(snapshot)
                        && sequence <= applied.sequence.value()
                        && generation <= owner
                });
                (
                    Hand::Cleans(held, Broom::Unnamed(listed)),
                    "reads the manifest",
                )
            }
            Broom::Unnamed(mut unnamed) => {
                if self.left.careless != Some(Careless::Collect) {
                    unnamed.retain(|(sequence, _)| self.pinned != Some(*sequence));
                }
                (
                    Hand::Cleans(held, Broom::Collects(unnamed)),
                    "reads the pins",
                )
            }
            Broom::Collects(unnamed) => {
                for snapshot in unnamed {
                    self.snapshots.remove(&snapshot);
                }
                (Hand::Owns(held), "deletes what no manifest names")
            }
        }
    }

    fn drop_points(&mut self, held: &Keyed<Manifest>, gone: &[u64]) -> (Hand, &'static str) {
        let mut next = Manifest::clone(&held.value);
        let points = std::mem::take(&mut next.points);
        let is_gone = |point: &Point| gone.contains(&point.sequence.value());
        let (dropped, kept): (Vec<Point>, Vec<Point>) = points.into_iter().partition(is_gone);
        next.points = kept;
        let looks = |held| Hand::Cleans(held, Broom::Looks(Keyed::new(dropped)));
        (self.save(held, next, looks), "drops points")
    }

    /// What the run may do next.
    pub(super) fn run_acts(&self) -> Option<(String, State)> {
        let mut next = self.clone();
        let oldest = self.manifest.value.points.first()?;
        let (run, what) = match self.run {
            Run::None if self.left.runs == 0 => return None,
            Run::None => {
                next.left.runs -= 1;
                (Run::Chose(oldest.sequence.value()), "chooses a point")
            }
            Run::Chose(sequence) => {
                next.pinned = Some(sequence);
                (Run::Pinned(sequence), "pins it")
            }
            Run::Pinned(sequence) => {
                let mut points = self.manifest.value.points.iter();
                match points.find(|point| point.sequence.value() == sequence) {
                    Some(point) => (Run::Holds(snapshot_of(point)), "finds it there"),
                    None => {
                        next.pinned = None;
                        (Run::None, "finds it gone, and gives it up")
                    }
                }
            }
            Run::Holds(_) => {
                next.pinned = None;
                (Run::None, "ends")
            }
        };
        next.run = run;
        Some((format!("the run {what}"), next))
    }

    /// A snapshot that somebody counts on and that is not there.
    pub(super) fn missing_snapshot(&self) -> Option<String> {
        let points = self.manifest.value.points.iter().map(snapshot_of);
        let held = match self.run {
            Run::Holds(snapshot) => Some(snapshot),
            Run::None | Run::Chose(_) | Run::Pinned(_) => None,
        };
        let mut counted_on = points.chain(held);
        let missing = counted_on.find(|snapshot| !self.snapshots.contains(snapshot))?;
        Some(format!(
            "the snapshot {missing:?} is not there; there are {:?}",
            self.snapshots
        ))
    }
}
