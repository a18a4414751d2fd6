//! The replicas that are this worker's, and what is done about them.
//!
//! ```text
//! not ours ── it lives, we are its worker, the site is this cluster's ──► attached
//!     ▲                                                                    │
//!     └── its object goes, another is its worker, another cluster's site ──┤
//!     └── our Lease may have expired (and is attached anew), or has not been renewed and another took it over ──┘
//! ```
//! What is not known takes nothing away: a site that does not answer, an object that cannot be understood, a Lease that
//! cannot be renewed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::api::annotation;
use crate::api::protected_vm::ProtectedVM;
use crate::controller::context::{Objects, name_of};
use crate::controller::vm::policy;
use crate::controller::workers::assignment;
use crate::controller::workers::membership::Members;
use crate::controller::workers::sites::{Account, Site, Sites, Standing};
use crate::datapath::runner::{DataPath, Duties};
use crate::ids::{ObjectName, ReplicaId};
use crate::report::Code;

/// How often the share is computed anew although who lives has not changed.
const LOOK: Duration = Duration::from_secs(1);

/// The share of one worker.
pub struct Share {
    identity: String,
    datapath: Arc<DataPath>,
    sites: Arc<Sites>,
    vms: Objects<ProtectedVM>,
    attached: HashMap<ReplicaId, Attachment>,
    lapses: u64,
}

/// A replica that is worked on.
struct Attachment {
    object: ObjectName,
    credentials: blake3::Hash,
    wish: Wish,
}

/// What makes an error be forgotten when it changes: the spec, and the token that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    generation: Option<i64>,
    retry: Option<String>,
}

impl Wish {
    fn of(vm: &ProtectedVM) -> Self {
        let annotations = vm.metadata.annotations.as_ref();
        Wish {
            generation: vm.metadata.generation,
            retry: annotations.and_then(|all| all.get(annotation::RETRY).cloned()),
        }
    }
}

/// What a worker has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub workers: usize,
    pub replicas: usize,
    pub troubled: usize,
}

impl Share {
    pub fn new(
        identity: String,
        datapath: Arc<DataPath>,
        sites: Arc<Sites>,
        vms: Objects<ProtectedVM>,
    ) -> Self {
        Share {
            identity,
            datapath,
            sites,
            vms,
            attached: HashMap::new(),
            lapses: 0,
        }
    }

    /// Keeps the data path at work on the share, for ever.
    pub async fn keep(mut self, mut members: watch::Receiver<Members>, show: impl Fn(Counts)) {
        loop {
            let now = members.borrow_and_update().clone();
            self.settle(&now);
            show(self.counts(&now));
            // Whether the members changed or a while has passed: the next look is the same.
            let _ = tokio::time::timeout(LOOK, members.changed()).await;
        }
    }

    fn settle(&mut self, members: &Members) {
        if self.lapses != members.lapses {
            self.lapses = members.lapses;
            tracing::warn!("the lease may have expired: begins anew with all replicas");
            self.retain(|_| false);
        }
        let (sites, mut ours) = (self.sites.now(), HashSet::new());
        for vm in self.vms.list() {
            let Some(object) = name_of(vm.as_ref()) else {
                continue;
            };
            let replica = match &vm.0 {
                Ok(vm) => self.settle_one(vm, &object, &sites, members),
                Err(_) => self.attached_for(&object),
            };
            ours.extend(replica);
        }
        if !members.held {
            ours.retain(|replica| !self.is_lost(replica));
        }
        self.retain(|replica| ours.contains(replica));
    }

    /// Attaches the replica of a VM if it is ours: which is to stay attached.
    fn settle_one(
        &mut self,
        vm: &ProtectedVM,
        object: &ObjectName,
        sites: &HashMap<ObjectName, Site>,
        members: &Members,
    ) -> Option<ReplicaId> {
        let replica: ReplicaId = vm.status.as_ref()?.replica_id.as_ref()?.parse().ok()?;
        let known = self.attached.contains_key(&replica);
        let owner = assignment::owner(&replica, &members.live);
        if members.held && owner != Some(&self.identity) {
            return None;
        }
        let site = ObjectName::new(object.namespace(), &vm.spec.site_ref.name).ok()?;
        let (account, policy) = match sites.get(&site).map(|site| (&site.standing, &site.policy)) {
            Some((Standing::Others, _)) => return None,
            Some((Standing::Ours(account), policy)) => (account, policy),
            Some((Standing::Unknown, _)) | None => return known.then_some(replica),
        };
        if !known && !members.held {
            return None;
        }
        let own = vm.spec.replication_policy.as_ref();
        let duties = policy::duties(&policy::effective(policy, own));
        self.attach(&replica, object, account, duties, Wish::of(vm));
        Some(replica)
    }

    fn attach(
        &mut self,
        replica: &ReplicaId,
        object: &ObjectName,
        account: &Account,
        duties: Duties,
        wish: Wish,
    ) {
        let now = Attachment {
            object: object.clone(),
            credentials: account.fingerprint(),
            wish,
        };
        match self.attached.get(replica) {
            Some(before) if before.credentials == now.credentials => {
                if before.wish != now.wish {
                    self.datapath.retry(replica);
                }
            }
            Some(_) => self.datapath.detach(replica),
            None => tracing::info!(vm = %object, %replica, "begins to work on the replica"),
        }
        self.datapath.attach(account.store(replica), duties);
        self.attached.insert(replica.clone(), now);
    }

    fn attached_for(&self, object: &ObjectName) -> Option<ReplicaId> {
        let mut attached = self.attached.iter();
        let (replica, _) = attached.find(|(_, attachment)| attachment.object == *object)?;
        Some(replica.clone())
    }

    /// Whether another has taken a replica over. While our Lease is not renewed it may be its worker now.
    fn is_lost(&self, replica: &ReplicaId) -> bool {
        let observed = self.datapath.observe(replica);
        let trouble = observed.and_then(|observed| observed.trouble);
        trouble.is_some_and(|trouble| trouble.fault.code == Code::Fenced)
    }

    fn retain(&mut self, keeps: impl Fn(&ReplicaId) -> bool) {
        self.attached.retain(|replica, attachment| {
            let kept = keeps(replica);
            if !kept {
                tracing::info!(vm = %attachment.object, %replica, "leaves the replica");
                self.datapath.detach(replica);
            }
            kept
        });
    }

    fn counts(&self, members: &Members) -> Counts {
        let is_troubled = |replica: &&ReplicaId| {
            let observed = self.datapath.observe(replica);
            observed.is_some_and(|observed| observed.trouble.is_some())
        };
        Counts {
            workers: members.live.len(),
            replicas: self.attached.len(),
            troubled: self.attached.keys().filter(is_troubled).count(),
        }
    }
}
