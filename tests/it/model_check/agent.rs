//! An agent of the model: what its engine asks of storage and hypervisor in each phase, one request at a time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use site_recovery::datapath::plan::Found;
use site_recovery::engine::phase::{Cursors, Event, Phase};
use site_recovery::engine::resume::{self, resume};
use site_recovery::host::{Consistency, FrozenPoint};
use site_recovery::ids::{DiskSlot, FrozenPointId};
use site_recovery::replica::Digest;
use site_recovery::replica::manifest::Manifest;
use site_recovery::replica::seal::{
    Barrier, DiskCursor, Encoding, Kind, Seal, SealedDisk, SealedLog, Writer,
};
use site_recovery::units::{ByteRange, Generation, Sequence};
use uuid::Uuid;

use super::state::{
    Careless, Delayed, Keyed, PAGE, SIZE, State, barrier, cursor_of, disk, freeze_of, is_written,
    known, pages,
};

#[derive(Clone, Hash)]
pub(super) struct Agent {
    phase: Keyed<Phase>,
    step: Step,
    /// Outlives a death.
    captured: Option<Captured>,
}

#[derive(Clone, Hash)]
struct Captured {
    after: Keyed<Option<Digest>>,
    point: usize,
    since: usize,
}

/// What of the ledger is known in this phase.
#[derive(Clone, Hash)]
enum Step {
    Begin,
    Listed(Vec<u64>),
    Known(View),
    /// Stored, and to be confirmed.
    Sealed(View, Keyed<Found>),
}

#[derive(Clone, Hash)]
struct View {
    next: u64,
    prev: Keyed<Option<Digest>>,
    cursor: Keyed<Option<DiskCursor>>,
    applied: bool,
    manifest: Keyed<Manifest>,
}

impl Agent {
    pub(super) fn in_phase(phase: Phase) -> Self {
        Agent {
            phase: Keyed::new(phase),
            step: Step::Begin,
            captured: None,
        }
    }
}

fn slot() -> DiskSlot {
    "scsi:0:0".parse().unwrap()
}

fn point_id(freeze: usize) -> FrozenPointId {
    format!("p{freeze}").parse().unwrap()
}

fn freeze_of_point(point: &FrozenPointId) -> usize {
    point.as_str()[1..].parse().unwrap()
}

fn cursors(freeze: usize) -> Cursors {
    [(disk(), cursor_of(freeze))].into()
}

impl State {
    pub(super) fn agent_acts(&self, number: usize) -> Vec<(String, State)> {
        let mut all = Vec::new();
        let who = |what: &str| format!("agent {number} {what}");
        let agent = &self.agents[number];
        if self.left.deaths > 0 && !matches!(*agent.phase.value, Phase::Created | Phase::Resuming) {
            for forgets in [false, true] {
                let mut next = self.clone();
                next.left.deaths -= 1;
                next.fail(number);
                if forgets {
                    next.agents[number].captured = None;
                }
                all.push((who("dies"), next));
            }
        }
        let mut next = self.clone();
        if let Some(what) = next.act(number) {
            if let Step::Sealed(_, found) = &next.agents[number].step
                && !matches!(agent.step, Step::Sealed(..))
                && self.left.delays > 0
            {
                all.push((who("seals, and the reply is lost"), next.given_up(number)));
                let mut late = self.clone();
                late.network.push(Delayed::Seal(found.clone()));
                all.push((who("seals, and the request is late"), late.given_up(number)));
            }
            all.push((who(&what), next));
        }
        all
    }

    /// The engine's request has failed: it resumes.
    fn fail(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        (agent.phase, agent.step) = (Keyed::new(Phase::Resuming), Step::Begin);
    }

    fn given_up(&self, number: usize) -> State {
        let mut next = self.clone();
        next.left.delays -= 1;
        next.fail(number);
        next
    }

    fn on(&mut self, number: usize, event: Event) -> String {
        let said = format!("{event:?}");
        let agent = &mut self.agents[number];
        let next = agent.phase.value.on(event).unwrap();
        (agent.phase, agent.step) = (Keyed::new(next), Step::Begin);
        said
    }

    /// The engine's next request: what it was; nothing if there is none.
    fn act(&mut self, number: usize) -> Option<String> {
        let agent = self.agents[number].clone();
        let home = self.home == number;
        match (agent.phase.value.as_ref(), agent.step) {
            (Phase::Created, _) => home.then(|| self.on(number, Event::Start)),
            (Phase::Replicating { .. }, _) => {
                (home && self.frozen.len() < self.left.freezes).then(|| self.on(number, Event::Due))
            }
            (Phase::ResyncRequired { .. }, _) => Some(self.on(number, Event::Allowed)),
            (Phase::FreezingCopy { .. } | Phase::FreezingDelta { .. }, _) => self.freeze(number),
            (Phase::Releasing { point, .. }, _) => {
                let freeze = freeze_of_point(point);
                let event = if self.commit(number, freeze)? {
                    Event::Released(cursors(freeze))
                } else {
                    Event::PointLost
                };
                Some(self.on(number, event))
            }
            (Phase::Shipping { .. }, Step::Begin) if self.unreleased(number).is_some() => {
                let point = self.unreleased(number)?;
                if self.commit(number, point)? {
                    return Some("releases the captured point".to_owned());
                }
                Some(self.on(number, Event::CaptureLost))
            }
            (_, Step::Begin) => {
                self.agents[number].step = Step::Listed(self.inbox.keys().copied().collect());
                Some("lists the inbox".to_owned())
            }
            (_, Step::Listed(listed)) => Some(self.read(number, &listed)),
            (phase, Step::Known(view)) => self.go_on(number, phase, view),
            (phase, Step::Sealed(view, found)) => Some(self.confirm(number, phase, &view, &found)),
        }
    }

    fn freeze(&mut self, number: usize) -> Option<String> {
        if self.home != number || self.frozen.len() >= self.left.freezes {
            return None;
        }
        self.frozen.push(self.writes);
        let freeze = self.frozen.len() - 1;
        self.here = Some(freeze);
        Some(self.on(number, Event::Frozen(point_id(freeze))))
    }

    /// Whether the point is a cursor now; nothing if this host cannot be asked.
    fn commit(&mut self, number: usize, freeze: usize) -> Option<bool> {
        if self.home != number {
            return None;
        }
        if self.here == Some(freeze) {
            self.here = None;
            self.committed.insert(freeze);
        }
        Some(self.committed.contains(&freeze))
    }

    /// The point of a capture that is no cursor yet.
    fn unreleased(&self, number: usize) -> Option<usize> {
        let captured = self.agents[number].captured.as_ref()?;
        (!self.committed.contains(&captured.point)).then_some(captured.point)
    }

    /// Reads the manifest, and the seals that were listed and are not applied.
    fn read(&mut self, number: usize, listed: &[u64]) -> String {
        let manifest = self.manifest.clone();
        if manifest.value.closed {
            self.fail(number);
            return "finds its chain closed".to_owned();
        }
        let last = &manifest.value.last_applied;
        let (mut prev, mut cursor) = (last.seal, last.cursors.get(&disk()).cloned());
        let (mut next, mut applied) = (last.sequence.next().value(), true);
        for sequence in listed
            .iter()
            .filter(|sequence| **sequence > last.sequence.value())
        {
            let Some(found) = self.inbox.get(sequence) else {
                self.agents[number].step = Step::Begin;
                return "finds a seal applied that it had listed".to_owned();
            };
            let seal = &found.value.seal;
            if seal.chain != manifest.value.chain {
                next = sequence + 1;
                continue;
            }
            if seal.prev != prev {
                self.gap = true;
            }
            (prev, next, applied) = (Some(found.value.id), sequence + 1, false);
            cursor = Some(seal.disks[0].cursor.clone());
        }
        self.agents[number].step = Step::Known(View {
            next,
            prev: Keyed::new(prev),
            cursor: Keyed::new(cursor),
            applied,
            manifest,
        });
        "reads the manifest".to_owned()
    }

    /// What the phase does once it knows what is sealed.
    fn go_on(&mut self, number: usize, phase: &Phase, view: View) -> Option<String> {
        match phase {
            Phase::Resuming => self.resumes(number, &view),
            Phase::Copying { point, .. } => {
                let freeze = freeze_of_point(point);
                if self.home != number {
                    return None;
                }
                if self.here != Some(freeze) {
                    return Some(self.on(number, Event::PointLost));
                }
                if !view.applied {
                    self.agents[number].step = Step::Begin;
                    return Some("waits until all is applied".to_owned());
                }
                let (table, frozen) = (known(&view.manifest.value), pages(self.frozen[freeze]));
                let differ = (0..2).filter(|page| table[*page] != Some(frozen[*page]));
                let logs = differ.map(|page| (page, frozen[page])).collect();
                let cursor = DiskCursor::Copied {
                    point: point.clone(),
                };
                Some(self.seal(number, view, (Kind::Copy, cursor, None), &logs))
            }
            Phase::Capturing { point, since } => {
                let (freeze, since) = (freeze_of_point(point), freeze_of(&since[&disk()]));
                if self.home != number {
                    return None;
                }
                if self.here != Some(freeze) {
                    return Some(self.on(number, Event::PointLost));
                }
                let is_counted = match view.cursor.value.as_ref() {
                    Some(DiskCursor::Tracking { cursor }) => freeze_of(cursor) == since,
                    Some(DiskCursor::Copied { .. }) => true,
                    Some(DiskCursor::Copying { .. }) | None => false,
                };
                if !is_counted && self.left.careless != Some(Careless::Count) {
                    self.fail(number);
                    return Some("finds that its cursor is not the sealed one".to_owned());
                }
                if since < self.lost {
                    return Some(self.on(number, Event::TrackingLost(vec![disk()])));
                }
                self.agents[number].captured = Some(Captured {
                    after: view.prev,
                    point: freeze,
                    since,
                });
                Some(self.on(number, Event::Captured))
            }
            Phase::Shipping { .. } => self.ships(number, view),
            _ => None,
        }
    }

    fn resumes(&mut self, number: usize, view: &View) -> Option<String> {
        if self.home != number {
            return None;
        }
        let captured = self.agents[number].captured.clone();
        let captured =
            captured.filter(|captured| captured.after == view.prev && view.prev.value.is_some());
        self.agents[number].captured = captured.clone();
        let point = |freeze: usize| FrozenPoint {
            id: point_id(freeze),
            taken_at: Timestamp::UNIX_EPOCH,
            consistency: Consistency::Crash,
            fallback: None,
            disks: vec![slot()],
        };
        let points: Vec<FrozenPoint> = self.here.map(point).into_iter().collect();
        let sealed = view.cursor.value.as_ref().clone();
        let phase = resume(&resume::Found {
            disks: &[(disk(), slot())].into(),
            cursors: &sealed.map(|cursor| (disk(), cursor)).into_iter().collect(),
            points: &points,
            capture: captured.map(|captured| cursors(captured.since)),
            demand: None,
            allowed: true,
        });
        Some(self.on(number, Event::Resumed(phase)))
    }

    fn ships(&mut self, number: usize, view: View) -> Option<String> {
        let Some(captured) = self.agents[number].captured.clone() else {
            return Some(self.on(number, Event::CaptureLost));
        };
        let careless = self.left.careless == Some(Careless::Compare);
        if captured.after != view.prev && !careless {
            self.fail(number);
            return Some("finds that another has sealed".to_owned());
        }
        let (since, until) = (self.frozen[captured.since], self.frozen[captured.point]);
        let logs = (0..2)
            .filter(|page| is_written(*page, since, until))
            .map(|page| (page, pages(until)[page]))
            .collect();
        let cursor = DiskCursor::Tracking {
            cursor: cursor_of(captured.point),
        };
        let barrier = Some(barrier(captured.point));
        Some(self.seal(number, view, (Kind::Delta, cursor, barrier), &logs))
    }

    /// Seals the next sequence: what is there already decides.
    fn seal(
        &mut self,
        number: usize,
        view: View,
        what: (Kind, DiskCursor, Option<Barrier>),
        logs: &BTreeMap<usize, u8>,
    ) -> String {
        let (kind, cursor, barrier) = what;
        let log = |(page, value): (&usize, &u8)| SealedLog {
            log: Uuid::from_u128(u128::from(*value)),
            range: ByteRange::at(u64::try_from(*page).unwrap() * PAGE, PAGE).unwrap(),
            encoding: Encoding::Identity,
            // The model's content.
            stored: u64::from(*value),
            length: 1,
            blake3: Digest::of(&[*value]),
        };
        let manifest = &view.manifest.value;
        let seal = Seal {
            replica: manifest.replica.clone(),
            chain: manifest.chain.clone(),
            sequence: Sequence::new(view.next),
            prev: *view.prev.value,
            writer: Writer {
                host: format!("hv{number}").parse().unwrap(),
                generation: Generation::new(1),
            },
            barrier,
            disks: vec![SealedDisk {
                disk: disk(),
                size: SIZE,
                kind,
                logs: logs.iter().map(log).collect(),
                cursor,
            }],
        };
        let (_, id) = seal.encode().unwrap();
        let found = Keyed::new(Found { seal, id });
        let there = self.inbox.entry(view.next).or_insert_with(|| found.clone());
        if *there != found {
            self.fail(number);
            return format!("finds another seal at {}", view.next);
        }
        let said = format!("seals {} with {logs:?}", view.next);
        self.agents[number].step = Step::Sealed(view, found);
        said
    }

    /// Whether the seal is where nobody else's was applied.
    fn confirm(
        &mut self,
        number: usize,
        phase: &Phase,
        view: &View,
        found: &Keyed<Found>,
    ) -> String {
        let id = found.value.id;
        let last = &self.manifest.value.last_applied;
        let careless = self.left.careless == Some(Careless::Confirm);
        if last.sequence.value() >= view.next && last.seal != Some(id) && !careless {
            self.fail(number);
            return "finds that another's seal was applied in its place".to_owned();
        }
        let careless = self.left.careless == Some(Careless::Chain);
        if self.manifest.value.chain != found.value.seal.chain && !careless {
            self.fail(number);
            return "finds that its chain was retired".to_owned();
        }
        let careless = self.left.careless == Some(Careless::Close);
        if self.manifest.value.closed && last.seal != Some(id) && !careless {
            self.fail(number);
            return "finds that its chain was closed before".to_owned();
        }
        self.acknowledged.push((view.next, Keyed::new(id)));
        match phase {
            Phase::Copying { .. } => self.on(number, Event::Copied),
            _ => {
                let captured = self.agents[number].captured.take().expect("it was shipped");
                self.on(number, Event::Shipped(cursors(captured.point)))
            }
        }
    }
}
