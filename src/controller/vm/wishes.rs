//! What people and the replica's state ask for, from everything that is known: a pause, a comparison, the removal.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::hyperv_site::{HyperVSite, Resynchronization};
use crate::api::protected_vm::{DeletionPolicy, ProtectedVM};
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
            ending: self.is_ending(),
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
            // It may have said so before it was told.
            (None, _) if self.is_demanded_of(replication) => resync::Agent::Unknown,
            (None, _) => resync::Agent::Nothing,
        }
    }

    /// Whether the agent was told lately to compare, and has said nothing since.
    fn is_demanded_of(&self, replication: &ReplicationObservation) -> bool {
        let demanded = self.memory.demanded.as_ref();
        demanded.is_some_and(|demanded| {
            let age = Duration::try_from(self.now.duration_since(demanded.at));
            *demanded.said == *replication && age.is_ok_and(|age| age < resync::SHOWS)
        })
    }

    /// The places of the disks that the agent has to compare, in the order of the machine.
    fn slots(&self) -> Vec<String> {
        let resync = self.replication.and_then(|seen| seen.resync.as_ref());
        let named = resync.map(|resync| resync.disks.as_slice());
        let named = named.unwrap_or_default();
        let disks = self.fence.iter().flat_map(|fence| &fence.machine.disks);
        let disks = disks.filter(|disk| named.contains(&disk.id));
        disks.map(|disk| disk.slot.to_string()).collect()
    }

    /// Why the present chain of seals cannot be gone on with, as the agent or the data path says.
    fn broken(&self) -> Option<&Fault> {
        let agents = self.replication.and_then(|seen| seen.trouble.as_ref());
        // What a chain was retired for already is said until the agent tries again: it is not of the new one.
        let retired_for = self.memory.retired_for;
        let agents = agents.filter(|trouble| retired_for != Some(trouble.since));
        let datapaths = self.datapath.and_then(|seen| seen.trouble.as_ref());
        // What a replica does not follow stands in the chain for good: it is given up by whoever asks for a comparison,
        // who has mended the machine.
        let asked = self.tokens.asked.resynchronize.is_some();
        let refused = datapaths.filter(|seen| asked && seen.fault.code == Code::Unsupported);
        let all = || [datapaths, agents].into_iter().flatten();
        // So is what a damaged chunk table knows, whoever has read it.
        let damaged = all().find(|seen| asked && seen.fault.code == Code::ReplicaDamaged);
        let damaged = damaged.filter(|_| self.datapath.is_some_and(|seen| seen.manifest.is_some()));
        let broken = all().filter(|trouble| breaks_chain(&trouble.fault));
        let broken = broken.chain(refused).chain(damaged);
        broken.map(|trouble| &trouble.fault).next()
    }

    /// Whether the data path is to retire the present chain, or has begun to.
    fn is_ending(&self) -> bool {
        let manifest = self.datapath.and_then(|seen| seen.manifest.as_ref());
        let retired = self.memory.retired.as_ref();
        manifest.is_some_and(|manifest| manifest.closed || retired == Some(&manifest.chain))
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

    /// Of what is kept anyway nobody asks: to count the deletions is to look at all VMs of the site.
    fn breaker(&self, context: &Context) -> Breaker {
        let (Some(site), Some(handle), DeletionPolicy::DeleteReplica) =
            (self.site, self.handle, self.vm.spec.deletion_policy)
        else {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::controller::vm::memory::Demanded;
    use crate::replica::manifest::Manifest;
    use crate::retry::Trouble;

    const SINCE: &str = "2026-11-23T12:00:00Z";

    fn trouble(fault: Fault, since: &str) -> Trouble {
        Trouble {
            fault,
            attempts: 1,
            since: since.parse().unwrap(),
            next_attempt: None,
        }
    }

    /// An agent that found a seal missing at `since`.
    fn agent(since: &str) -> ReplicationObservation {
        let trouble = trouble(Fault::new(Code::SequenceGap, "5 is missing"), since);
        serde_json::from_value(serde_json::json!({
            "replica": crate::ids::ReplicaId::from_random(1), "vm": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "generation": 1, "phase": "Resuming", "disks": [], "sealed": crate::units::Sequence::ZERO,
            "credentialsExpire": SINCE, "trouble": trouble
        }))
        .unwrap()
    }

    type Said<'a> = (
        Option<&'a ReplicationObservation>,
        Option<&'a runner::Observation>,
    );

    /// What is believed broken by somebody who asks for a comparison, or does not.
    fn broken(memory: &VmMemory, said: Said<'_>, asked: Option<&str>) -> Option<Code> {
        with_basis(memory, said, (asked, SINCE), |basis| {
            basis.broken().map(|fault| fault.code)
        })
    }

    fn with_basis<T>(
        memory: &VmMemory,
        (agent, datapath): Said<'_>,
        (asked, now): (Option<&str>, &str),
        look: impl FnOnce(&Basis<'_>) -> T,
    ) -> T {
        let spec = serde_json::json!({ "siteRef": { "name": "site" }, "vm": { "name": "web" } });
        let vm = ProtectedVM::new("web", serde_json::from_value(spec).unwrap());
        let mut tokens = Tokens::default();
        tokens.asked.resynchronize = asked.map(str::to_owned);
        let basis = Basis {
            vm: &vm,
            site: None,
            handle: None,
            record: None,
            fence: None,
            replication: agent,
            datapath,
            memory,
            last: &ProtectedVMStatus::default(),
            tokens: &tokens,
            now: now.parse().unwrap(),
        };
        look(&basis)
    }

    #[test]
    fn what_an_agent_said_before_it_was_told_to_compare_does_not_count_for_a_while() {
        let mut said = agent(SINCE);
        said.phase = Phase::Replicating;
        let memory = VmMemory {
            demanded: Some(Demanded {
                said: Arc::new(said.clone()),
                at: SINCE.parse().unwrap(),
            }),
            ..VmMemory::default()
        };
        let is_unknown = |said: &ReplicationObservation, now| {
            with_basis(&memory, (Some(said), None), (None, now), |basis| {
                matches!(basis.compares(&[]), resync::Agent::Unknown)
            })
        };
        assert!(is_unknown(&said, "2026-11-23T12:04:59Z"));
        assert!(!is_unknown(&said, "2026-11-23T12:05:00Z"));
        // It has said something since.
        said.sealed = said.sealed.next();
        assert!(!is_unknown(&said, SINCE));
    }

    #[test]
    fn what_a_chain_was_retired_for_does_not_break_the_next() {
        let is_broken = |memory: &VmMemory, since| {
            let agent = agent(since);
            broken(memory, (Some(&agent), None), None).is_some()
        };
        // Given an agent that cannot go on, and says so until it tries again
        let mut memory = VmMemory::default();
        assert!(is_broken(&memory, SINCE));
        // When its chain is retired
        memory.retired_for = Some(SINCE.parse().unwrap());
        // Then it is not retired again for that, and is for what comes later.
        assert!(!is_broken(&memory, SINCE));
        assert!(is_broken(&memory, "2026-11-23T12:31:00Z"));
    }

    #[test]
    fn a_damaged_table_is_done_without_by_a_word() {
        let damaged = Fault::new(Code::ReplicaDamaged, "chunk table x is damaged");
        let mut datapath = runner::Observation {
            looked: true,
            manifest: None,
            trouble: Some(trouble(damaged, SINCE)),
        };
        let memory = VmMemory::default();
        assert_eq!(broken(&memory, (None, Some(&datapath)), Some("a")), None);
        let replica = crate::ids::ReplicaId::from_random(1);
        let chain = crate::ids::ChainId::from_random(1);
        datapath.manifest = Some(std::sync::Arc::new(Manifest::new(replica, chain)));
        let said = |asked| broken(&memory, (None, Some(&datapath)), asked);
        assert_eq!(said(None), None);
        assert_eq!(said(Some("a")), Some(Code::ReplicaDamaged));
    }

    #[test]
    fn what_a_replica_does_not_follow_is_given_up_by_a_word() {
        let shrunk = Fault::new(Code::Unsupported, "the disk shrank");
        let datapath = runner::Observation {
            looked: true,
            manifest: None,
            trouble: Some(trouble(shrunk, SINCE)),
        };
        let memory = VmMemory::default();
        let said = |asked| broken(&memory, (None, Some(&datapath)), asked);
        assert_eq!(said(None), None);
        assert_eq!(said(Some("a")), Some(Code::Unsupported));
    }
}
