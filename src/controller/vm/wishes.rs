//! What people and the replica's state ask for, from everything that is known: a pause, a comparison, the removal.

use jiff::Timestamp;

use crate::api::hyperv_site::{HyperVSite, Resynchronization};
use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ProtectedVMStatus;
use crate::controller::context::Context;
use crate::controller::site::deletions::Deletions;
use crate::controller::site::handle::SiteHandle;
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::pause::{self, Pause};
use crate::controller::vm::removal::{self, Breaker, Removal};
use crate::controller::vm::resync::{self, Resync};
use crate::controller::vm::step::{self, Observed};
use crate::controller::vm::tokens::Tokens;
use crate::datapath::runner;
use crate::ids::DiskId;
use crate::replica::fence::Fence;
use crate::replica::record::Record;
use crate::report::{Code, Fault};
use crate::wire::ReplicationObservation;
use crate::wire::observation::Phase;

/// What is known.
#[derive(Clone, Copy)]
pub struct Basis<'a> {
    pub vm: &'a ProtectedVM,
    pub site: Option<&'a HyperVSite>,
    pub handle: Option<&'a SiteHandle>,
    pub record: Option<&'a Record>,
    pub fence: Option<&'a Fence>,
    pub replication: Option<&'a ReplicationObservation>,
    pub datapath: Option<&'a runner::Observation>,
    pub memory: &'a VmMemory,
    pub last: &'a ProtectedVMStatus,
    pub tokens: &'a Tokens,
    pub now: Timestamp,
}

impl Basis<'_> {
    /// Who has paused replication of the VM, which is on `host` or was there last.
    pub fn pause(&self, host: Option<&str>) -> Option<Pause> {
        let site = self.site.map(|site| &site.spec);
        let host = host.or(self.last.host.as_deref());
        pause::pause(self.vm.spec.suspend, site, host)
    }

    /// What has to be compared, and whether it may be.
    pub fn resync(&self, point: bool) -> Resync {
        let default = Resynchronization::default();
        let slots = self.slots();
        let rebound = self.rebound();
        Resync::decide(&resync::Seen {
            agent: self.compares(&slots),
            broken: rebound.as_ref().or(self.broken()),
            rebound: rebound.is_some(),
            renewed: self.is_renewed(),
            point,
            adopting: self.is_adopting(),
            asked: self.tokens.asked.resynchronize.as_deref(),
            before: self.last.resynchronization.as_ref(),
            rules: self
                .site
                .map_or(&default, |site| &site.spec.resynchronization),
            now: self.now,
        })
    }

    /// Whether the newest recovery point is older than the object, or than the word that the replica goes on with another
    /// VM: who says so wants it taken up now.
    fn is_adopting(&self) -> bool {
        let manifest = self.datapath.and_then(|seen| seen.manifest.as_ref());
        let newest = manifest.and_then(|manifest| manifest.points.last());
        let created = self.vm.metadata.creation_timestamp.as_ref();
        let rebound = self.record.and_then(|record| record.rebound.as_ref());
        let begun = created.map(|created| created.0);
        let begun = begun.max(rebound.map(|rebound| rebound.at));
        newest
            .zip(begun)
            .is_some_and(|(newest, begun)| newest.published < begun)
    }

    /// That the present chain is of the VM of before.
    fn rebound(&self) -> Option<Fault> {
        let record = self.record?;
        let rebound = record.rebound.as_ref()?;
        let manifest = self.datapath?.manifest.as_ref()?;
        (manifest.chain == rebound.chain).then(|| {
            let message = format!("the VM was imported anew, as {}", record.vm);
            Fault::new(Code::ResyncRequested, message)
        })
    }

    fn compares<'a>(&'a self, slots: &'a [String]) -> resync::Agent<'a> {
        let Some(replication) = self.replication else {
            return resync::Agent::Unknown;
        };
        match (&replication.resync, replication.phase) {
            (Some(resync), _) => resync::Agent::Compares {
                reason: &resync.reason,
                disks: slots,
                running: resync.running,
            },
            (None, Phase::Created | Phase::Resuming | Phase::Suspended | Phase::Unknown) => {
                resync::Agent::Unknown
            }
            (None, _) => resync::Agent::Nothing,
        }
    }

    /// The places of the disks that the agent has to compare.
    fn slots(&self) -> Vec<String> {
        let resync = self.replication.and_then(|seen| seen.resync.as_ref());
        let disks = resync.map(|resync| resync.disks.as_slice());
        let place = |id: &DiskId| {
            let mut disks = self.fence?.machine.disks.iter();
            Some(disks.find(|disk| disk.id == *id)?.slot.to_string())
        };
        disks.unwrap_or_default().iter().filter_map(place).collect()
    }

    /// Why the present chain of seals cannot be gone on with, as the agent or the data path says.
    fn broken(&self) -> Option<&Fault> {
        let agents = self.replication.and_then(|seen| seen.trouble.as_ref());
        let datapaths = self.datapath.and_then(|seen| seen.trouble.as_ref());
        let all = [datapaths, agents].into_iter().flatten();
        all.map(|trouble| &trouble.fault)
            .find(|fault| breaks_chain(fault))
    }

    /// Whether the data path has begun a new chain as it was told, and the agent does not know.
    fn is_renewed(&self) -> bool {
        let manifest = self.datapath.and_then(|seen| seen.manifest.as_ref());
        let retired = self.memory.retired.as_ref();
        manifest
            .zip(retired)
            .is_some_and(|(manifest, retired)| manifest.chain != *retired)
    }

    /// What becomes of the replica, if the object is deleted or its replica was condemned before.
    pub fn removal(&self, seen: &Observed, context: &Context) -> Option<Removal> {
        let condemned = self.record.and_then(|record| record.condemned.as_ref());
        let deleted = self.vm.metadata.deletion_timestamp.as_ref();
        if condemned.is_none() && deleted.is_none() {
            return None;
        }
        Some(Removal::decide(&removal::Seen {
            policy: self.vm.spec.deletion_policy,
            recorded: self.record.is_some(),
            condemned,
            site: &seen.site,
            replica: seen.replica,
            term: seen.fence,
            fence: self.fence,
            breaker: self.breaker(context),
            agent: seen.agent,
            machine: &seen.machine,
            ended: self.memory.ended,
            deleted: deleted.map(|time| time.0),
            now: self.now,
        }))
    }

    fn breaker(&self, context: &Context) -> Breaker {
        let (Some(site), Some(handle)) = (self.site, self.handle) else {
            return Breaker::Armed;
        };
        let status = site.status.as_ref();
        let breaker = status.and_then(|status| status.deletion_breaker.as_ref());
        if breaker.is_some_and(|breaker| breaker.tripped.is_some()) {
            Breaker::Tripped
        } else if Deletions::of(&handle.name, handle, context, breaker).are_many() {
            Breaker::Trips
        } else {
            Breaker::Armed
        }
    }
}

/// Whether a failure means that nothing can be added to the present chain.
pub const fn breaks_chain(fault: &Fault) -> bool {
    matches!(fault.code, Code::SequenceGap | Code::SealInvalid)
}

/// Whether the replica must not be worked on, because it goes.
pub fn is_condemned(record: &Record) -> bool {
    record.condemned.is_some()
}

/// Whether what is desired of a step is over for good, so that the object may go.
pub const fn is_last(step: step::Step) -> bool {
    matches!(step, step::Step::Retain | step::Step::Erase)
}
