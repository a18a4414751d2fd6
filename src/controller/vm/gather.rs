//! Gathers what is known of a VM: from the API server's caches, the agents' observations, storage and the data path.

pub mod place;
pub mod slots;
mod storage;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::hyperv_site::HyperVSite;
use crate::api::policy::ReplicationPolicy;
use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ProtectedVMStatus;
use crate::controller::context::Context;
use crate::controller::hours::Hours;
use crate::controller::site::handle::{SiteHandle, SiteView};
use crate::controller::vm::describe;
use crate::controller::vm::find::{self, Found, Host};
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::policy;
use crate::controller::vm::queue::{self, Slot};
use crate::controller::vm::rebind;
use crate::controller::vm::resync::Resync;
use crate::controller::vm::retries;
use crate::controller::vm::rules::{self, Selection};
use crate::controller::vm::step::{self, Agent, Observed};
use crate::controller::vm::tokens::Tokens;
use crate::controller::vm::wishes::{self, Basis};
use crate::datapath::runner;
use crate::ids::ObjectName;
use crate::replica::fence::Fence;
use crate::replica::record::Record;
use crate::units::Generation;
use crate::wire::observation::Phase;
use crate::wire::{Relationship, ReplicationObservation};

/// How long access lives that an agent is given.
pub const ACCESS: Duration = Duration::from_secs(24 * 3600);

/// What is known, and what the next step needs of it.
pub struct Gathered {
    pub observed: Observed,
    pub site: Option<Arc<SiteHandle>>,
    pub found: Option<Found>,
    pub record: Option<Record>,
    pub fence: Option<Fence>,
    /// The generation that commands carry.
    pub generation: Generation,
    pub replication: Option<Arc<ReplicationObservation>>,
    pub datapath: Option<runner::Observation>,
    /// What the agent should do, without access.
    pub desired: Option<Relationship>,
    /// How long the VM's agent has been silent.
    pub silent: Option<Duration>,
    /// Disks that are not replicated.
    pub excluded: Vec<String>,
    /// What annotations ask for.
    pub tokens: Tokens,
    /// When disks are compared at this site.
    pub window: Option<Hours>,
    /// How many first copies there may be at the same time on one host.
    pub copies: usize,
}

impl Gathered {
    /// How long it is until the site's window changes what may be done with a VM that has to be compared.
    pub fn until_resync(&self, now: Timestamp) -> Option<Duration> {
        self.observed.resync.need.as_ref()?;
        let left = self
            .window
            .as_ref()?
            .at(&[], now)
            .changes()?
            .duration_since(now);
        Some(
            Duration::try_from(left)
                .unwrap_or_default()
                .max(Duration::from_secs(1)),
        )
    }
}

/// Whether enough is known to say anything.
pub enum Knowledge {
    /// Something that will be known in a moment is not known yet: nothing is said, nothing is done.
    NotYet,
    Enough(Box<Gathered>),
}

/// Gathers what is known of `vm`. What cannot be read is unknown; why not is in `memory` and in the data path's trouble.
pub async fn gather(
    (vm, last): (&ProtectedVM, &ProtectedVMStatus),
    name: &ObjectName,
    context: &Context,
    memory: &mut VmMemory,
    tokens: &Tokens,
) -> Knowledge {
    // A name that no object can have is that of a site which does not exist.
    let site_name = ObjectName::new(name.namespace(), &vm.spec.site_ref.name).ok();
    let site = site_name.as_ref().and_then(|name| context.sites.get(name));
    let site = site.as_ref().and_then(|site| site.0.as_ref().ok());
    let view = site_name.as_ref().and_then(|name| context.view(name));
    let (view, handle) = match (site, view) {
        (None, _) => (step::Site::Missing, None),
        (Some(_), None) => return Knowledge::NotYet,
        (Some(_), Some(SiteView::NotReady(why))) => (step::Site::NotReady(why), None),
        (Some(_), Some(SiteView::NotOurs(why))) => (step::Site::NotOurs(why), None),
        (Some(_), Some(SiteView::Ready(handle))) => (step::Site::Ready, Some(handle)),
    };
    if matches!(view, step::Site::NotOurs(_)) {
        storage::let_go(context, memory);
    }
    if retries::see_site(memory, handle.as_ref().map(|handle| handle.fingerprint))
        && let Some((replica, _)) = &memory.attached
    {
        context.datapath.retry(replica);
    }
    if let Some(handle) = &handle {
        let record = handle.record(name).map(|held| held.value);
        memory.record = record.filter(|record| !record.is_erased());
    }
    let record = memory.record.clone();
    let policy = site.map(|site| {
        let own = vm.spec.replication_policy.as_ref();
        policy::effective(&site.spec.replication_policy, own)
    });
    let datapath = match (&handle, &record) {
        (Some(_), Some(record)) if wishes::is_condemned(record) => None,
        (Some(handle), Some(record)) => {
            let duties = policy.as_ref().map(policy::duties).unwrap_or_default();
            Some(storage::attach(
                context,
                name,
                memory,
                (handle, record),
                duties,
            ))
        }
        _ => record
            .as_ref()
            .and_then(|record| context.datapath.observe(&record.replica)),
    };
    if datapath
        .as_ref()
        .is_some_and(|observed| !observed.looked && observed.trouble.is_none())
    {
        return Knowledge::NotYet;
    }
    if let (Some(handle), Some(record)) = (&handle, &record) {
        storage::look_for_fence(handle, record, memory, context.clock.now()).await;
    }
    let parts = Parts {
        vm,
        last,
        tokens,
        policy,
        name,
        site,
        site_name: site_name.as_ref(),
        view,
        handle,
        record,
        datapath,
    };
    let located = parts.locate(context, memory);
    Knowledge::Enough(Box::new(parts.put_together(context, memory, located)))
}

/// What is said of the machine, and where it is.
type Located = (step::Machine, Option<Found>);

struct Parts<'a> {
    vm: &'a ProtectedVM,
    last: &'a ProtectedVMStatus,
    tokens: &'a Tokens,
    /// What holds for the VM, if its site is there.
    policy: Option<ReplicationPolicy>,
    name: &'a ObjectName,
    site: Option<&'a HyperVSite>,
    site_name: Option<&'a ObjectName>,
    view: step::Site,
    handle: Option<Arc<SiteHandle>>,
    record: Option<Record>,
    datapath: Option<runner::Observation>,
}

impl Parts<'_> {
    fn locate(&self, context: &Context, memory: &mut VmMemory) -> Located {
        let (mut hosts, now) = (self.hosts(context), context.clock.now());
        let (mut machine, mut found) = self.find(&hosts, memory);
        let host = found.as_ref().map(|found| &found.host);
        if let Some(left) = place::left_behind(host, find::silent(&hosts), memory, now) {
            hosts.retain(|host| host.name == left);
            (machine, found) = self.find(&hosts, memory);
        }
        let host = found.as_ref().map(|found| &found.host);
        context.places.set(self.name, host);
        let known = (self.record.is_some(), memory);
        let machine = place::believed(machine, found.is_some(), known, now);
        (machine, found)
    }

    fn put_together(
        self,
        context: &Context,
        memory: &VmMemory,
        (machine, found): Located,
    ) -> Gathered {
        let record = self.record.as_ref();
        let fence = known_fence(memory).cloned();
        let replica = self.replica();
        let point = self.has_point(replica);
        let replication = self.replication(found.as_ref());
        let generation = fence.as_ref().map(|fence| fence.generation);
        let generation = generation.unwrap_or(Generation::new(1));
        let described = self.is_described(fence.as_ref(), found.as_ref());
        let basis = self.basis(context, memory, replication.as_deref());
        let pause = basis.pause(found.as_ref().map(|found| found.host.as_str()));
        let resync = basis.resync(point);
        let desired = self.desired(fence.as_ref(), found.as_ref(), (pause.is_some(), &resync));
        let related = self.related(
            context,
            memory,
            found.as_ref(),
            replication.as_deref(),
            (generation, desired.as_ref()),
        );
        // Whether the first copy was made is not known of a replica that cannot be read.
        let copied = point || replica == step::Replica::Unknown;
        let failures = self.failures(found.as_ref(), replication.as_deref(), copied);
        let taken_by = self.taken_by(found.as_ref());
        let mut observed = Observed {
            removal: None,
            pause,
            site: self.view.clone(),
            machine,
            taken_by,
            replaced: record
                .zip(found.as_ref())
                .and_then(|(record, found)| rebind::replaced(self.vm, record, &found.machine.id)),
            failures,
            record: record.is_some_and(|record| !record.retained),
            replica,
            fence: place::fence(memory, record, self.handle.as_deref(), found.as_ref()),
            described,
            agent: agent(found.as_ref(), replication.as_deref()),
            related,
            slot: self.slot(context, found.as_ref(), replication.as_deref(), point),
            window_closed: self.window_closed(context.clock.now()),
            point,
            resync,
            synchronize: self.tokens.asked.sync_now.is_some(),
        };
        observed.removal = basis.removal(&observed, context);
        let excluded = self.excluded().to_vec();
        let tokens = self.tokens.clone();
        let (window, copies) = (self.window(), self.copies());
        Gathered {
            observed,
            silent: place::silent(context, found.as_ref(), memory),
            site: self.handle,
            found,
            record: self.record,
            fence,
            generation,
            replication,
            datapath: self.datapath,
            desired,
            excluded,
            tokens,
            window,
            copies,
        }
    }

    fn basis<'b>(
        &'b self,
        context: &Context,
        memory: &'b VmMemory,
        replication: Option<&'b ReplicationObservation>,
    ) -> Basis<'b> {
        Basis {
            vm: self.vm,
            site: self.site,
            handle: self.handle.as_deref(),
            record: self.record.as_ref(),
            fence: known_fence(memory),
            replication,
            datapath: self.datapath.as_ref(),
            memory,
            last: self.last,
            tokens: self.tokens,
            now: context.clock.now(),
        }
    }

    /// When disks are compared at this site.
    fn window(&self) -> Option<Hours> {
        Hours::parse(&self.site?.spec.resynchronization.window).ok()
    }

    fn failures(
        &self,
        found: Option<&Found>,
        replication: Option<&ReplicationObservation>,
        copied: bool,
    ) -> Vec<rules::Failure> {
        let begun = replication.is_some_and(|replication| replication.phase != Phase::Created);
        let selection = Selection {
            excluded: self.excluded(),
            before_copy: !copied && !begun,
        };
        found
            .map(|found| rules::failures(&found.machine, selection))
            .unwrap_or_default()
    }

    fn taken_by(&self, found: Option<&Found>) -> Option<ObjectName> {
        self.handle
            .as_ref()?
            .taken_by(self.name, &found?.machine.id)
    }

    fn is_described(&self, fence: Option<&Fence>, found: Option<&Found>) -> bool {
        fence.is_some_and(|fence| {
            let now =
                found.map(|found| describe::machine(&found.machine, self.excluded(), Some(fence)));
            now.is_none_or(|now| now == fence.machine && fence.host.is_some())
        })
    }

    /// Looks for the machine.
    fn find(&self, hosts: &[Host], memory: &VmMemory) -> Located {
        let known = self.record.as_ref().map(|record| &record.vm);
        let commanded = known_fence(memory).and_then(|fence| fence.host.as_ref());
        find::find(&self.vm.spec.vm, known, commanded, hosts)
    }

    fn hosts(&self, context: &Context) -> Vec<Host> {
        let hosts = self.site.into_iter().flat_map(|site| &site.spec.hosts);
        let hosts = hosts.filter_map(|host| host.name.parse().ok());
        hosts
            .map(|name| Host {
                state: self
                    .site_name
                    .and_then(|site| context.registry.host(site, &name)),
                name,
            })
            .collect()
    }

    fn excluded(&self) -> &[String] {
        &self.vm.spec.disks.exclude
    }

    fn replication(&self, found: Option<&Found>) -> Option<Arc<ReplicationObservation>> {
        let replica = &self.record.as_ref()?.replica;
        found?.state.observed.replications.get(replica).cloned()
    }

    /// What is known of the replica. Without the site's records nothing is.
    fn replica(&self) -> step::Replica {
        match (&self.datapath, &self.handle) {
            (Some(observed), _) if observed.manifest.is_some() => step::Replica::Present,
            (Some(observed), _) if observed.looked => step::Replica::Absent,
            (None, Some(_)) => step::Replica::Absent,
            (Some(_), _) | (None, None) => step::Replica::Unknown,
        }
    }

    /// Whether there is a recovery point; of a replica that cannot be read, what was said last.
    fn has_point(&self, replica: step::Replica) -> bool {
        let observed = self.datapath.as_ref();
        match observed.and_then(|observed| observed.manifest.as_ref()) {
            Some(manifest) => !manifest.points.is_empty(),
            None if replica == step::Replica::Unknown => {
                let status = self.vm.status.as_ref();
                status.is_some_and(|status| status.recovery_points.is_some())
            }
            None => false,
        }
    }

    fn desired(
        &self,
        fence: Option<&Fence>,
        found: Option<&Found>,
        (suspended, resync): (bool, &Resync),
    ) -> Option<Relationship> {
        let (handle, record) = (self.handle.as_ref()?, self.record.as_ref()?);
        let policy = self.policy.as_ref()?;
        let relationship = describe::relationship(handle, record, fence?, found?, policy);
        Some(Relationship {
            suspended,
            resynchronize: resync.is_allowed(),
            ..relationship
        })
    }

    /// Whether the agent was told what is desired, in its present session, with access that lasts.
    fn related(
        &self,
        context: &Context,
        memory: &VmMemory,
        found: Option<&Found>,
        replication: Option<&ReplicationObservation>,
        (generation, desired): (Generation, Option<&Relationship>),
    ) -> bool {
        let (Some(found), Some(replication), Some(desired)) = (found, replication, desired) else {
            return false;
        };
        let left = replication
            .credentials_expire
            .duration_since(context.clock.now());
        let lasts = Duration::try_from(left).is_ok_and(|left| left > ACCESS / 2);
        let told = memory.told.as_ref().is_some_and(|told| {
            told.host == found.host
                && told.session == found.state.observed.session
                && told.generation == generation
                && describe::is_same_work(&told.relationship, desired)
        });
        lasts && told
    }

    /// Whether the VM's first copy may start. Of one that does not wait for it nobody asks.
    fn slot(
        &self,
        context: &Context,
        found: Option<&Found>,
        replication: Option<&ReplicationObservation>,
        point: bool,
    ) -> Slot {
        let waits = replication.is_some_and(|of| of.phase == Phase::Created) && !point;
        let (Some(site), Some(found), true) = (&self.handle, found, waits) else {
            return Slot::Free;
        };
        let entries = slots::entries(context, site, found);
        queue::slot(self.name, &entries, self.copies())
    }

    /// How many first copies there may be at the same time on one host.
    fn copies(&self) -> usize {
        let policy = self.site.map(|site| &site.spec.replication_policy);
        let most = policy.map_or(1, |policy| {
            policy.initial_replication.max_concurrent_per_host
        });
        usize::try_from(most).unwrap_or(1).max(1)
    }

    /// Whether first copies of the site start at an hour that has not come since the object was created.
    fn window_closed(&self, now: Timestamp) -> bool {
        let start = self.site.and_then(|site| {
            site.spec
                .replication_policy
                .initial_replication
                .start
                .as_deref()
        });
        let created = self
            .vm
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        match (start, created) {
            (Some(start), Some(created)) => !queue::has_come(start, created, now),
            _ => false,
        }
    }
}

fn known_fence(memory: &VmMemory) -> Option<&Fence> {
    let (_, held) = memory.fence.as_ref()?;
    held.as_ref().map(|held| &held.value)
}

fn agent(found: Option<&Found>, replication: Option<&ReplicationObservation>) -> Agent {
    match (found, replication) {
        (Some(found), Some(replication)) if found.state.is_connected() => {
            Agent::Replicating(replication.phase)
        }
        (Some(found), None)
            if found.state.is_connected() && found.state.observed.machines.is_some() =>
        {
            Agent::Absent
        }
        _ => Agent::Unknown,
    }
}
