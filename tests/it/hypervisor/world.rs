//! A machine with two disks next to a model of what it must hold: live, frozen, and changed since every cursor.

use std::collections::{BTreeMap, BTreeSet};

use site_recovery::host::lab::fault::Place;
use site_recovery::host::lab::spec::DiskContent;
use site_recovery::host::{
    Consistency, FrozenPoint, Hypervisor as _, Kind, PowerState, TrackingCursor,
};
use site_recovery::ids::{DiskSlot, VmId};
use site_recovery::lab::guest::client::Client;
use site_recovery::units::{ByteRange, to_u64, to_usize};

use crate::hypervisor::disk::{Disk, Tags, assert_same, blocks, changed_blocks, sectors};
use crate::hypervisor::judge;
use crate::hypervisor::rig::{Rig, changes, frozen_tags, images_in, live_tags, slot, spec};

pub(crate) const NAME: &str = "web";
const UNIT: u64 = 4096;
const GATE: &str = "gate";

/// A write of a guest: disk, first block of 4 KiB, number of blocks; zeroes where there is no content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) disk: usize,
    pub(crate) at: u64,
    pub(crate) blocks: u64,
    pub(crate) zeroes: bool,
}

/// How a point is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    Commit,
    Abandon,
}

/// A point of ours, and what it must hold.
struct Frozen {
    point: FrozenPoint,
    content: Vec<Tags>,
    /// Blocks that were written since each cursor, when it was frozen.
    written: Vec<Written>,
    /// Blocks that were written since it was frozen.
    since: Written,
    /// As of [`Counted`].
    exact: bool,
}

type Written = Vec<BTreeSet<u64>>;

/// Cursors of a committed point.
struct Counted {
    cursors: BTreeMap<DiskSlot, TrackingCursor>,
    content: Vec<Tags>,
    written: Written,
    /// Whether no kill lets more be reported than was written.
    exact: bool,
}

pub(crate) struct World {
    rig: Rig,
    vm: VmId,
    kinds: Vec<DiskContent>,
    clients: Vec<Client>,
    disks: Vec<Disk>,
    frozen: Option<Frozen>,
    counted: Vec<Counted>,
    last_tag: u64,
}

impl World {
    pub(crate) fn new(kinds: Vec<DiskContent>) -> Self {
        let rig = Rig::start();
        let vm = rig.console().create(&spec(NAME, kinds.clone())).unwrap();
        let slots: Vec<_> = (0..kinds.len()).map(slot).collect();
        rig.host().start_tracking(&vm, &slots).unwrap();
        rig.power_on(&vm);
        let disks = rig.describe(&vm).disks;
        let disks: Vec<_> = disks
            .iter()
            .map(|disk| Disk::new(disk.virtual_size))
            .collect();
        let mut world = World {
            rig,
            vm,
            kinds,
            clients: Vec::new(),
            disks,
            frozen: None,
            counted: Vec::new(),
            last_tag: 0,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        let numbers = 0..self.disks.len();
        self.clients = numbers
            .map(|number| self.rig.connect(NAME, &slot(number)))
            .collect();
    }

    fn slots(&self) -> Vec<DiskSlot> {
        (0..self.disks.len()).map(slot).collect()
    }

    /// Where a write goes, inside its disk.
    fn range(&self, write: Write) -> ByteRange {
        let blocks = to_u64(self.disks[write.disk].live.len()) / 8;
        let start = write.at % blocks;
        let end = (start + write.blocks).min(blocks);
        ByteRange::new(UNIT * start, UNIT * end).unwrap()
    }

    /// Takes down what a guest is about to write; returns the tag.
    fn note(&mut self, write: Write) -> (ByteRange, u64) {
        let range = self.range(write);
        let tag = if write.zeroes {
            0
        } else {
            self.last_tag += 1;
            self.last_tag
        };
        self.disks[write.disk].written(range, tag);
        let counted = self.counted.iter_mut().map(|counted| &mut counted.written);
        let frozen = self.frozen.iter_mut().map(|frozen| &mut frozen.since);
        for written in counted.chain(frozen) {
            written[write.disk].extend(blocks(&[range]));
        }
        (range, tag)
    }

    pub(crate) fn write(&mut self, write: Write) {
        let (range, tag) = self.note(write);
        let done = send(&mut self.clients[write.disk], range, tag);
        done.unwrap();
    }

    pub(crate) fn flush(&mut self, disk: usize) {
        self.clients[disk].flush().unwrap();
        self.disks[disk].flushed();
    }

    /// Kills the hypervisor while guests write: about when the write `at` was answered.
    pub(crate) fn kill_amid(&mut self, writes: &[Write], at: usize) {
        let noted: Vec<_> = writes
            .iter()
            .map(|write| (write.disk, self.note(*write)))
            .collect();
        let (answered, answers) = std::sync::mpsc::channel();
        let mut clients = std::mem::take(&mut self.clients);
        let guest = std::thread::spawn(move || {
            for (disk, (range, tag)) in noted {
                if send(&mut clients[disk], range, tag).is_err() || answered.send(()).is_err() {
                    return;
                }
            }
        });
        // It ends early if the guest is through.
        answers.iter().take(at).for_each(drop);
        self.rig.kill();
        guest.join().unwrap();
        self.after_kill();
    }

    pub(crate) fn kill(&mut self) {
        self.rig.kill();
        self.after_kill();
    }

    fn after_kill(&mut self) {
        self.revive();
        self.check_frozen();
    }

    /// Begins the killed hypervisor again; its disks must hold what they may.
    fn revive(&mut self) {
        self.rig.start_again();
        self.connect();
        for (disk, client) in self.disks.iter_mut().zip(&mut self.clients) {
            disk.after_kill(live_tags(client));
        }
        self.is_inexact();
    }

    /// A kill lets more be reported than was written, since every cursor that is there.
    fn is_inexact(&mut self) {
        let counted = self.counted.iter_mut().map(|counted| &mut counted.exact);
        let frozen = self.frozen.iter_mut().map(|frozen| &mut frozen.exact);
        counted.chain(frozen).for_each(|exact| *exact = false);
    }

    pub(crate) fn restart(&mut self) {
        self.rig.stop_and_start();
        self.disks.iter_mut().for_each(Disk::flushed);
        self.connect();
        self.check_live();
        self.check_frozen();
    }

    pub(crate) fn power_cycle(&mut self) {
        self.rig.turn_off(&self.vm);
        self.disks.iter_mut().for_each(Disk::flushed);
        self.check_frozen();
        self.rig.power_on(&self.vm);
        self.connect();
    }

    pub(crate) fn check_live(&mut self) {
        for (disk, client) in self.disks.iter().zip(&mut self.clients) {
            assert_same(&live_tags(client), &disk.live, "the live disk");
        }
    }

    /// Freezes all disks, if nothing keeps them from it.
    pub(crate) fn freeze(&mut self) {
        if self.frozen.is_some() {
            let refused = self
                .rig
                .host()
                .freeze(&self.vm, &self.slots(), Consistency::Crash);
            assert_eq!(refused.unwrap_err().kind, Kind::Busy);
            return;
        }
        self.rig.wait_merged(&self.vm);
        let frozen = self
            .rig
            .host()
            .freeze(&self.vm, &self.slots(), Consistency::Crash);
        self.is_frozen(frozen.unwrap());
    }

    /// Kills the hypervisor at a place in a freeze.
    pub(crate) fn freeze_killed(&mut self, place: Place) {
        if self.frozen.is_some() {
            return;
        }
        self.rig.wait_merged(&self.vm);
        self.rig.hold(&self.vm, place, GATE);
        let (host, vm, slots) = (self.rig.host(), self.vm.clone(), self.slots());
        let call = std::thread::spawn(move || host.freeze(&vm, &slots, Consistency::Crash));
        assert!(self.rig.console().await_held(GATE).unwrap());
        self.rig.kill();
        assert_eq!(call.join().unwrap().unwrap_err().kind, Kind::Unavailable);
        // A freeze makes all that was answered before it durable, if it comes to that.
        if place != Place::Barrier {
            self.disks.iter_mut().for_each(Disk::flushed);
        }
        self.revive();
        let points = self.rig.host().points(&self.vm).unwrap();
        if place == Place::Frozen {
            self.is_frozen(points.into_iter().next().unwrap());
        } else {
            assert_eq!(points, []);
        }
    }

    fn is_frozen(&mut self, point: FrozenPoint) {
        assert_eq!(point.disks, self.slots());
        self.disks.iter_mut().for_each(Disk::flushed);
        self.frozen = Some(Frozen {
            point,
            content: self.disks.iter().map(|disk| disk.live.clone()).collect(),
            written: self
                .counted
                .iter()
                .map(|counted| counted.written.clone())
                .collect(),
            since: vec![BTreeSet::new(); self.disks.len()],
            exact: true,
        });
        self.check_frozen();
    }

    /// The point holds what the disks held at the barrier, and its changes since every cursor are all there are.
    pub(crate) fn check_frozen(&self) {
        let Some(frozen) = &self.frozen else {
            assert_eq!(self.rig.host().points(&self.vm).unwrap(), []);
            return;
        };
        assert_eq!(
            self.rig.host().points(&self.vm).unwrap(),
            std::slice::from_ref(&frozen.point)
        );
        for (number, content) in frozen.content.iter().enumerate() {
            let disk = self.rig.open(&self.vm, &frozen.point, &slot(number));
            assert_same(&frozen_tags(disk.as_ref()), content, "the frozen disk");
            let allocated = disk.allocated(ByteRange::to(disk.size())).unwrap();
            assert_eq!(allocated.covered, disk.size());
            let zeroes = vec![0; content.len()];
            let missing = &changed_blocks(&zeroes, content) - &blocks(&allocated.ranges);
            assert!(missing.is_empty(), "not allocated: {missing:?}");
            for (counted, written) in self.counted.iter().zip(&frozen.written) {
                let told = changes(disk.as_ref(), &counted.cursors[&slot(number)]).unwrap();
                let told = blocks(&told);
                let missing = &changed_blocks(&counted.content[number], content) - &told;
                assert!(
                    missing.is_empty(),
                    "changes of disk {number} miss {missing:?}"
                );
                if counted.exact {
                    assert_eq!(told, written[number], "changes of disk {number}");
                }
            }
        }
    }

    pub(crate) fn release(&mut self, how: Release) {
        self.check_frozen();
        let Some(frozen) = self.frozen.take() else {
            return;
        };
        match how {
            Release::Commit => self.commit(frozen),
            Release::Abandon => self.rig.host().abandon(&self.vm, &frozen.point.id).unwrap(),
        }
    }

    /// Kills the hypervisor at a place in a release, or in the merge after it. Guests write meanwhile where they can.
    pub(crate) fn release_killed(&mut self, how: Release, place: Place, meanwhile: &[Write]) {
        self.check_frozen();
        let Some(mut frozen) = self.frozen.take() else {
            return;
        };
        self.rig.hold(&self.vm, place, GATE);
        let (host, vm, id) = (self.rig.host(), self.vm.clone(), frozen.point.id.clone());
        let call = std::thread::spawn(move || match how {
            Release::Commit => host.commit(&vm, &id).map(drop),
            Release::Abandon => host.abandon(&vm, &id),
        });
        assert!(self.rig.console().await_held(GATE).unwrap());
        if place == Place::MergeStep {
            meanwhile.iter().for_each(|write| self.write(*write));
        }
        self.rig.kill();
        let outcome = call.join().unwrap();
        if place == Place::Released {
            assert_eq!(outcome.unwrap_err().kind, Kind::Unavailable);
        }
        // Released it is; what was its outcome can be asked for again.
        self.after_kill();
        frozen.exact = false;
        match how {
            Release::Commit => self.commit(frozen),
            Release::Abandon => self.rig.host().abandon(&self.vm, &frozen.point.id).unwrap(),
        }
    }

    fn commit(&mut self, frozen: Frozen) {
        let cursors = self.rig.host().commit(&self.vm, &frozen.point.id).unwrap();
        let again = self.rig.host().commit(&self.vm, &frozen.point.id).unwrap();
        assert_eq!(cursors, again);
        self.counted.push(Counted {
            cursors: cursors.into_iter().collect(),
            content: frozen.content,
            written: frozen.since,
            exact: frozen.exact,
        });
    }

    pub(crate) fn wait_merged(&mut self) {
        self.rig.wait_merged(&self.vm);
        self.check_live();
    }

    /// Forgets all cursors but the youngest.
    pub(crate) fn forget(&mut self) {
        let Some(last) = self.counted.pop() else {
            return;
        };
        let keep: Vec<_> = last.cursors.values().cloned().collect();
        self.rig.host().forget(&self.vm, &keep).unwrap();
        self.counted.clear();
        self.counted.push(last);
        if let Some(frozen) = &mut self.frozen {
            frozen.written.drain(..frozen.written.len() - 1);
        }
    }

    /// All is merged, the machine is off, and tools that are not ours find in its images what they must hold.
    pub(crate) fn end(mut self) {
        self.release(Release::Abandon);
        self.wait_merged();
        self.rig.turn_off(&self.vm);
        let machine = self.rig.describe(&self.vm);
        assert_eq!(machine.power, PowerState::Off);
        let names = images_in(&self.rig.home(NAME));
        assert_eq!(names.len(), self.kinds.len(), "images are left: {names:?}");
        for ((disk, model), kind) in machine.disks.iter().zip(&self.disks).zip(&self.kinds) {
            // qemu knows no other sectors.
            if matches!(
                kind,
                DiskContent::New {
                    logical_sector: 512,
                    ..
                }
            ) {
                judge::qemu_agrees(disk.path.as_ref(), &sectors(&model.live));
            }
        }
    }
}

fn send(
    client: &mut Client,
    range: ByteRange,
    tag: u64,
) -> Result<(), site_recovery::lab::guest::client::Error> {
    if tag == 0 {
        return client.write_zeroes(range);
    }
    let count = to_usize(range.len() / 512);
    client.write(range.start(), &sectors(&vec![tag; count]))
}
