//! What reconcilers may touch, and what they remember between runs.
//!
//! What is remembered is a cache or a courtesy (what was written last, who was told what); after a restart it is learned
//! again from the API server, from storage and from the agents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::FutureExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource};
use tokio::sync::mpsc;

use crate::api::hyperv_site::{HyperVSite, HyperVSiteStatus};
use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::ProtectedVMStatus;
use crate::controller::accounts::Opener;
use crate::controller::events::Events;
use crate::controller::gateway::Registry;
use crate::controller::gateway::inventory::Inventory;
use crate::controller::later::Later;
use crate::controller::metrics::Metrics;
use crate::controller::site::SiteMemory;
use crate::controller::site::handle::SiteView;
use crate::controller::status::{Pace, StatusWriter};
use crate::controller::vm::find;
use crate::controller::vm::memory::VmMemory;
use crate::datapath::runner::DataPath;
use crate::ids::{HostName, ObjectName, ReplicaId};
use crate::units::Clock;

/// An object as it was read; one that cannot be understood does not stop the watch.
pub type Guarded<K> = DeserializeGuard<K>;

/// Everything that a reconcile may use.
pub struct Context {
    pub client: Client,
    pub clock: Arc<dyn Clock>,
    pub opener: Opener,
    /// The UID of this cluster.
    pub cluster: String,
    pub registry: Arc<Registry>,
    pub datapath: Arc<DataPath>,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub pace: Pace,
    pub site_status: StatusWriter<HyperVSiteStatus>,
    pub vm_status: StatusWriter<ProtectedVMStatus>,
    pub sites: Objects<HyperVSite>,
    pub vms: Objects<ProtectedVM>,
    /// How each site was found when it was last looked at.
    pub views: RwLock<HashMap<ObjectName, SiteView>>,
    pub site_memory: Memory<SiteMemory>,
    pub vm_memory: Memory<VmMemory>,
    /// Which object has a replica.
    pub owners: Mutex<HashMap<ReplicaId, ObjectName>>,
    /// Where each VM was found.
    pub places: Places,
    /// Sites that show what their VMs have come to.
    pub site_looks: Later,
}

/// On which host each VM was found when it was last looked at.
#[derive(Default)]
pub struct Places(Mutex<HashMap<ObjectName, HostName>>);

impl Places {
    /// Notes where a VM is; nothing if it was not found.
    pub fn set(&self, vm: &ObjectName, host: Option<&HostName>) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match host {
            Some(host) if places.get(vm) == Some(host) => {}
            Some(host) => {
                places.insert(vm.clone(), host.clone());
            }
            None => {
                places.remove(vm);
            }
        }
    }

    pub fn of(&self, vm: &ObjectName) -> Option<HostName> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(vm).cloned()
    }
}

impl Context {
    /// How a site was found; nothing before it was looked at.
    pub fn view(&self, site: &ObjectName) -> Option<SiteView> {
        self.views
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(site)
            .cloned()
    }

    /// Forgets how a site was found and what was written of it: another may come under its name.
    pub fn forget_site(&self, site: &ObjectName) {
        self.site_status.forget(site);
        let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
        views.remove(site);
    }

    /// Which object has `replica`.
    pub fn owner(&self, replica: &ReplicaId) -> Option<ObjectName> {
        self.owners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(replica)
            .cloned()
    }

    /// Notes which object has `replica`.
    pub fn own(&self, replica: &ReplicaId, object: &ObjectName) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.insert(replica.clone(), object.clone());
    }

    /// Ends the data path's work on `replica`, which is no object's any more.
    pub fn detach(&self, replica: &ReplicaId) {
        self.datapath.detach(replica);
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.remove(replica);
    }

    /// Has all VMs of a site looked at again.
    pub fn touch_vms(&self, site: &ObjectName) {
        for vm in self.vms_of(site) {
            if let Some(name) = name_of(vm.as_ref()) {
                self.vms.touch(&name);
            }
        }
    }

    /// Has those VMs looked at again that something of this host may matter to: that were found on it or nowhere, and that
    /// it has a machine of. The others of the site are a whole fleet.
    pub fn touch_vms_at(&self, site: &ObjectName, host: &HostName) {
        let machines = self
            .registry
            .host(site, host)
            .and_then(|state| state.observed.machines.clone());
        for vm in self.vms_of(site) {
            let Ok(object) = &vm.0 else { continue };
            let Some(name) = name_of(object) else {
                continue;
            };
            let place = self.places.of(&name);
            let is_here = |machines: &Inventory| find::has(machines, &object.spec.vm);
            if place.is_none_or(|place| place == *host) || machines.as_deref().is_some_and(is_here)
            {
                self.vms.touch(&name);
            }
        }
    }

    /// Whether a host has sealed what the data path has not applied, as far as both have told.
    pub fn has_news(&self, site: &ObjectName, host: &HostName, replica: &ReplicaId) -> bool {
        let Some(state) = self.registry.host(site, host) else {
            return false;
        };
        let Some(seen) = state.observed.replications.get(replica) else {
            return false;
        };
        let known = self.datapath.observe(replica);
        let manifest = known.and_then(|observed| observed.manifest);
        manifest.is_none_or(|manifest| seen.sealed > manifest.last_applied.sequence)
    }

    /// The VMs of a site, as they were last seen.
    pub fn vms_of(&self, site: &ObjectName) -> Vec<Arc<Guarded<ProtectedVM>>> {
        let of_site = |vm: &Arc<Guarded<ProtectedVM>>| match &vm.0 {
            Ok(vm) => {
                vm.metadata.namespace.as_deref() == Some(site.namespace())
                    && vm.spec.site_ref.name == site.name()
            }
            Err(_) => false,
        };
        self.vms.list().into_iter().filter(of_site).collect()
    }
}

/// The name of an object that has one.
pub fn name_of<K: Resource>(object: &K) -> Option<ObjectName> {
    let meta = object.meta();
    ObjectName::new(meta.namespace.as_deref()?, meta.name.as_deref()?).ok()
}

/// All objects of a kind, one store per watched namespace, and the way to have one looked at again.
pub struct Objects<K: Resource<DynamicType = ()> + Clone + 'static> {
    pub stores: Vec<Watched<K>>,
}

/// What is watched of a kind.
pub struct Watched<K: Resource<DynamicType = ()> + Clone + 'static> {
    /// Nothing: all namespaces.
    pub namespace: Option<String>,
    pub store: Store<Guarded<K>>,
    pub touch: mpsc::UnboundedSender<ObjectRef<Guarded<K>>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Objects<K> {
    /// An object, as it was last seen.
    pub fn get(&self, name: &ObjectName) -> Option<Arc<Guarded<K>>> {
        let reference = ObjectRef::new(name.name()).within(name.namespace());
        self.watched(name)?.store.get(&reference)
    }

    /// Whether all objects of a namespace have been seen once: before, one that is not here may be there all the same.
    pub fn are_known(&self, beside: &ObjectName) -> bool {
        self.watched(beside)
            .is_some_and(|watched| watched.store.wait_until_ready().now_or_never().is_some())
    }

    /// All objects, as they were last seen.
    pub fn list(&self) -> Vec<Arc<Guarded<K>>> {
        self.stores
            .iter()
            .flat_map(|watched| watched.store.state())
            .collect()
    }

    /// Has an object looked at again.
    pub fn touch(&self, name: &ObjectName) {
        if let Some(watched) = self.watched(name) {
            // Nobody listens any more when the process ends.
            let _ = watched
                .touch
                .send(ObjectRef::new(name.name()).within(name.namespace()));
        }
    }

    fn watched(&self, name: &ObjectName) -> Option<&Watched<K>> {
        let matches = |watched: &&Watched<K>| match &watched.namespace {
            Some(namespace) => namespace == name.namespace(),
            None => true,
        };
        self.stores.iter().find(matches)
    }
}

/// What is remembered of each object. One object is never reconciled twice at the same time, so the memory of one is
/// used by one task at a time; it is taken out while it is used.
pub struct Memory<M>(Mutex<HashMap<ObjectName, M>>);

impl<M> Default for Memory<M> {
    fn default() -> Self {
        Memory(Mutex::default())
    }
}

impl<M: Default> Memory<M> {
    /// Takes the memory of an object out, or a new one.
    pub fn take(&self, object: &ObjectName) -> M {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(object)
            .unwrap_or_default()
    }

    /// Puts it back.
    pub fn put(&self, object: &ObjectName, memory: M) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(object.clone(), memory);
    }

    /// Drops the memory of an object that is gone.
    pub fn forget(&self, object: &ObjectName) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(object);
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};

    use super::*;

    #[test]
    fn what_is_not_there_is_known_only_once_all_have_been_seen() {
        let (store, mut writer) = reflector::store::<Guarded<HyperVSite>>();
        let (touch, _touched) = mpsc::unbounded_channel();
        let watched = Watched {
            namespace: Some("dr".to_owned()),
            store,
            touch,
        };
        let sites = Objects {
            stores: vec![watched],
        };
        let vm = ObjectName::new("dr", "web").unwrap();
        writer.apply_watcher_event(&watcher::Event::Init);
        assert!(!sites.are_known(&vm));
        writer.apply_watcher_event(&watcher::Event::InitDone);
        assert!(sites.are_known(&vm));
        // A namespace that nobody watches tells nothing.
        assert!(!sites.are_known(&ObjectName::new("other", "web").unwrap()));
    }
}
