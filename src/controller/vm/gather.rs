//! Gathers what is known of a VM: from the API server's caches, the agents' observations, storage and the data path.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::hyperv_site::HyperVSite;
use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ReplicationState;
use crate::controller::context::{Context, name_of};
use crate::controller::documents;
use crate::controller::site::handle::{SiteHandle, SiteView};
use crate::controller::vm::describe;
use crate::controller::vm::find::{self, Found, Host};
use crate::controller::vm::memory::VmMemory;
use crate::controller::vm::queue::{self, Entry, Slot};
use crate::controller::vm::rules::{self, Selection};
use crate::controller::vm::step::{self, Agent, Observed};
use crate::datapath::runner;
use crate::ids::ObjectName;
use crate::replica::fence::Fence;
use crate::replica::names;
use crate::replica::record::Record;
use crate::report::Fault;
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
    /// The generation that the fence must have at least.
    pub generation: Generation,
    pub replication: Option<Arc<ReplicationObservation>>,
    pub datapath: Option<runner::Observation>,
    /// What the agent should do, without access.
    pub desired: Option<Relationship>,
    /// How long the VM's agent has been silent.
    pub silent: Option<Duration>,
    /// Disks that are not replicated.
    pub excluded: Vec<String>,
}

/// Whether enough is known to say anything.
pub enum Knowledge {
    /// Something that will be known in a moment is not known yet: nothing is said, nothing is done.
    NotYet,
    Enough(Box<Gathered>),
}

/// Gathers what is known of `vm`.
///
/// # Errors
/// If storage cannot be asked.
pub async fn gather(
    vm: &ProtectedVM,
    name: &ObjectName,
    context: &Context,
    memory: &mut VmMemory,
) -> Result<Knowledge, Fault> {
    let site_name = ObjectName::new(name.namespace(), &vm.spec.site_ref.name);
    let site_name =
        site_name.map_err(|error| Fault::of(crate::report::Code::Configuration, &error))?;
    let site = context.sites.get(&site_name);
    let site = site.as_ref().and_then(|site| site.0.as_ref().ok());
    let (view, handle) = match (site, context.view(&site_name)) {
        (None, _) => (step::Site::Missing, None),
        (Some(_), None) => return Ok(Knowledge::NotYet),
        (Some(_), Some(SiteView::NotReady(why))) => (step::Site::NotReady(why), None),
        (Some(_), Some(SiteView::NotOurs(why))) => (step::Site::NotOurs(why), None),
        (Some(_), Some(SiteView::Ready(handle))) => (step::Site::Ready, Some(handle)),
    };
    if matches!(view, step::Site::NotOurs(_))
        && let Some((replica, _)) = memory.attached.take()
    {
        context.datapath.detach(&replica);
    }
    let record = handle
        .as_ref()
        .and_then(|handle| handle.record(name))
        .map(|held| held.value);
    let datapath = match (&handle, &record) {
        (Some(handle), Some(record)) => Some(attach(context, name, memory, handle, record)),
        _ => record
            .as_ref()
            .and_then(|record| context.datapath.observe(&record.replica)),
    };
    if datapath
        .as_ref()
        .is_some_and(|observed| !observed.looked && observed.trouble.is_none())
    {
        return Ok(Knowledge::NotYet);
    }
    if let (Some(handle), Some(record)) = (&handle, &record) {
        look_for_fence(handle, record, memory).await?;
    }
    let parts = Parts {
        vm,
        name,
        site,
        site_name: &site_name,
        view,
        handle,
        record,
        datapath,
    };
    Ok(Knowledge::Enough(Box::new(
        parts.put_together(context, memory),
    )))
}

/// Has the data path work on the VM's replica, with the credentials of now.
fn attach(
    context: &Context,
    name: &ObjectName,
    memory: &mut VmMemory,
    handle: &SiteHandle,
    record: &Record,
) -> runner::Observation {
    let attached = (record.replica.clone(), handle.fingerprint);
    if memory.attached.as_ref() != Some(&attached) {
        if let Some((before, _)) = memory.attached.replace(attached) {
            context.datapath.detach(&before);
        }
        let mut owners = context
            .owners
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        owners.insert(record.replica.clone(), name.clone());
        context.datapath.attach(handle.store(&record.replica));
    }
    context
        .datapath
        .observe(&record.replica)
        .unwrap_or_default()
}

async fn look_for_fence(
    handle: &SiteHandle,
    record: &Record,
    memory: &mut VmMemory,
) -> Result<(), Fault> {
    let known = memory
        .fence
        .as_ref()
        .is_some_and(|(replica, held)| *replica == record.replica && held.is_some());
    if !known {
        let store = handle.store(&record.replica);
        let held = match documents::load::<Fence>(store.replica.as_ref(), names::FENCE).await {
            Ok(held) => held,
            // Without its container there is no fence either.
            Err(fault) if fault.code == crate::report::Code::StorageNotFound => None,
            Err(fault) => return Err(fault),
        };
        memory.fence = Some((record.replica.clone(), held));
    }
    Ok(())
}

struct Parts<'a> {
    vm: &'a ProtectedVM,
    name: &'a ObjectName,
    site: Option<&'a HyperVSite>,
    site_name: &'a ObjectName,
    view: step::Site,
    handle: Option<Arc<SiteHandle>>,
    record: Option<Record>,
    datapath: Option<runner::Observation>,
}

impl Parts<'_> {
    fn put_together(self, context: &Context, memory: &VmMemory) -> Gathered {
        let hosts = self.hosts(context);
        let record = self.record.as_ref();
        let (machine, found) = find::find(
            &self.vm.spec.vm,
            record.map(|r| &r.vm),
            record.map(|r| &r.replica),
            &hosts,
        );
        let fence = memory
            .fence
            .as_ref()
            .and_then(|(_, held)| held.as_ref())
            .map(|held| held.value.clone());
        let manifest = self
            .datapath
            .as_ref()
            .and_then(|observed| observed.manifest.as_ref());
        let point = manifest.is_some_and(|manifest| !manifest.points.is_empty());
        let replication = self.replication(found.as_ref());
        let generation = self.generation(fence.as_ref());
        let described = self.is_described(fence.as_ref(), found.as_ref());
        let desired = self.desired(fence.as_ref(), found.as_ref());
        let related = self.related(
            context,
            memory,
            found.as_ref(),
            replication.as_deref(),
            desired.as_ref(),
        );
        let failures = self.failures(found.as_ref(), replication.as_deref(), point);
        let taken_by = self.taken_by(found.as_ref());
        let observed = Observed {
            deleting: self.vm.metadata.deletion_timestamp.is_some(),
            suspended: self.vm.spec.suspend,
            site: self.view.clone(),
            machine,
            taken_by,
            replaced: record
                .zip(found.as_ref())
                .is_some_and(|(record, found)| record.vm != found.machine.id),
            failures,
            record: record.is_some_and(|record| !record.retained),
            replica: manifest.is_some(),
            fence: fence.is_some(),
            described,
            agent: agent(found.as_ref(), replication.as_deref()),
            related,
            slot: self.slot(context, found.as_ref()),
            window_closed: self.window_closed(context.clock.now()),
            point,
        };
        let silent = self.silent(context, found.as_ref());
        let excluded = self.excluded().to_vec();
        Gathered {
            observed,
            site: self.handle,
            found,
            record: self.record,
            fence,
            generation,
            replication,
            datapath: self.datapath,
            desired,
            silent,
            excluded,
        }
    }

    fn failures(
        &self,
        found: Option<&Found>,
        replication: Option<&ReplicationObservation>,
        point: bool,
    ) -> Vec<rules::Failure> {
        let begun = replication.is_some_and(|replication| replication.phase != Phase::Created);
        let selection = Selection {
            excluded: self.excluded(),
            before_copy: !point && !begun,
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
            fence.generation >= self.generation(Some(fence))
                && now.is_none_or(|now| now == fence.machine)
        })
    }

    fn hosts(&self, context: &Context) -> Vec<Host> {
        let hosts = self.site.into_iter().flat_map(|site| &site.spec.hosts);
        let hosts = hosts.filter_map(|host| host.name.parse().ok());
        hosts
            .map(|name| Host {
                state: context.registry.host(self.site_name, &name),
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

    /// After a take-over the fence is raised once, so that late commands of the other cluster are refused.
    fn generation(&self, fence: Option<&Fence>) -> Generation {
        let first = Generation::new(1);
        let Some(fence) = fence else { return first };
        let took_over = self.handle.as_ref().is_some_and(|handle| handle.took_over);
        let raised = self
            .handle
            .as_ref()
            .is_some_and(|handle| handle.is_raised(&fence.replica));
        if took_over && !raised {
            fence.generation.next()
        } else {
            fence.generation
        }
    }

    fn desired(&self, fence: Option<&Fence>, found: Option<&Found>) -> Option<Relationship> {
        let (handle, record) = (self.handle.as_ref()?, self.record.as_ref()?);
        let policy = &self.site?.spec.replication_policy;
        Some(describe::relationship(
            handle, record, fence?, found?, policy,
        ))
    }

    /// Whether the agent was told what is desired, in its present session, with access that lasts.
    fn related(
        &self,
        context: &Context,
        memory: &VmMemory,
        found: Option<&Found>,
        replication: Option<&ReplicationObservation>,
        desired: Option<&Relationship>,
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
                && describe::is_same_work(&told.relationship, desired)
        });
        lasts && told
    }

    fn slot(&self, context: &Context, found: Option<&Found>) -> Slot {
        let (Some(site), Some(found)) = (self.site, found) else {
            return Slot::Free;
        };
        let most = site
            .spec
            .replication_policy
            .initial_replication
            .max_concurrent_per_host;
        let most = usize::try_from(most).unwrap_or(1).max(1);
        let entries: Vec<Entry> = context
            .vms_of(self.site_name)
            .iter()
            .filter_map(|vm| entry(context, vm.0.as_ref().ok()?, found))
            .collect();
        queue::slot(self.name, &entries, most)
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
            (Some(start), Some(created)) => !has_come(start, created, now),
            _ => false,
        }
    }

    fn silent(&self, context: &Context, found: Option<&Found>) -> Option<Duration> {
        let since = match found {
            Some(found) if found.state.is_connected() => return None,
            Some(found) => found.state.heard_at,
            None => context.registry.since(),
        };
        // Before this controller led, nobody could be heard.
        let since = since.max(context.registry.since());
        Some(Duration::try_from(context.clock.now().duration_since(since)).unwrap_or_default())
    }
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

/// A VM whose first copy is not done, as its host says.
fn entry(context: &Context, vm: &ProtectedVM, on: &Found) -> Option<Entry> {
    let object = name_of(vm)?;
    let status = vm.status.as_ref()?;
    let replica = status.replica_id.as_ref()?.parse().ok()?;
    let replication = on.state.observed.replications.get(&replica)?;
    let begun = replication.phase != Phase::Created;
    let goes_nowhere = vm.spec.suspend
        || vm.metadata.deletion_timestamp.is_some()
        || status.state == Some(ReplicationState::EnablingFailed);
    if !begun && goes_nowhere {
        return None;
    }
    let manifest = context
        .datapath
        .observe(&replica)
        .and_then(|observed| observed.manifest);
    // Until the data path has answered, what runs may be a first copy.
    let copied = match manifest {
        Some(manifest) => !manifest.points.is_empty(),
        None => !begun || replication.phase == Phase::Replicating,
    };
    (!copied).then(|| Entry {
        object,
        created: vm
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MAX, |time| time.0),
        running: begun,
    })
}

/// Whether `time` (`HH:MM`, UTC) has come between `created` and `now`.
fn has_come(time: &str, created: Timestamp, now: Timestamp) -> bool {
    let Some((hour, minute)) = time.split_once(':') else {
        return true;
    };
    let (Ok(hour), Ok(minute)) = (hour.parse::<i64>(), minute.parse::<i64>()) else {
        return true;
    };
    let at = (hour * 60 + minute) * 60;
    let day = 86_400;
    // The first occurrence at or after the creation.
    let since = created.as_second() - at;
    let first = at + since.div_euclid(day) * day + if since.rem_euclid(day) == 0 { 0 } else { day };
    now.as_second() >= first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn first_copies_start_at_the_next_occurrence_of_their_hour() {
        let created = at("2026-11-23T14:00:00Z");
        assert!(!has_come("22:00", created, at("2026-11-23T21:59:59Z")));
        assert!(has_come("22:00", created, at("2026-11-23T22:00:00Z")));
        assert!(has_come("22:00", created, at("2026-11-24T09:00:00Z")));
        assert!(!has_come("13:00", created, at("2026-11-24T12:59:59Z")));
        assert!(has_come("14:00", created, created));
    }
}
