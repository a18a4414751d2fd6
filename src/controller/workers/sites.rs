//! The sites whose replicas may be worked on: their accounts, opened as the controller opens them, and whether this
//! cluster acts for them. Storage says so, in `owner.json`; it is read here, and never written.
//!
//! ```text
//! Unknown ── the account says whose it is ──► Ours ⇄ Others
//! ```
//! What cannot be asked stays as it was last known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use tokio::time::Instant;

use crate::api::hyperv_site::HyperVSite;
use crate::api::policy::ReplicationPolicy;
use crate::controller::accounts::{Opened, Opener};
use crate::controller::context::{Guarded, Objects, name_of};
use crate::controller::documents;
use crate::controller::site::handle;
use crate::datapath::store::Store;
use crate::ids::{ObjectName, ReplicaId};
use crate::replica::names::{self, Prefix};
use crate::replica::owner::Owner;
use crate::report::{Code, Fault};

/// How often a site is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// How soon one is that was never understood, or whose spec changed.
const SOON: Duration = Duration::from_secs(1);
/// Sites that are looked at at the same time.
const LOOKS: usize = 16;

/// All sites, as they were last known.
pub struct Sites {
    opener: Opener,
    /// The UID of this cluster.
    cluster: String,
    objects: Objects<HyperVSite>,
    known: Mutex<HashMap<ObjectName, Known>>,
}

struct Known {
    uid: Option<String>,
    generation: Option<i64>,
    looked: Instant,
    opened: Option<Opened>,
    standing: Standing,
}

/// A site, as its replicas need to know it.
pub struct Site {
    pub standing: Standing,
    /// What holds for its VMs, unless they say otherwise.
    pub policy: ReplicationPolicy,
}

/// What may be done with a site's replicas.
#[derive(Clone)]
pub enum Standing {
    /// Nothing new.
    Unknown,
    /// Nothing: another cluster acts.
    Others,
    Ours(Account),
}

/// The account of a site that this cluster acts for.
#[derive(Clone)]
pub struct Account {
    opened: Opened,
    prefix: Prefix,
}

impl Account {
    /// The containers of a replica.
    pub fn store(&self, replica: &ReplicaId) -> Store {
        handle::store(self.opened.patient.as_ref(), &self.prefix, replica)
    }

    /// Equal if it was opened with the same credentials.
    pub const fn fingerprint(&self) -> blake3::Hash {
        self.opened.fingerprint
    }
}

impl Sites {
    pub fn new(opener: Opener, cluster: String, objects: Objects<HyperVSite>) -> Self {
        Sites {
            opener,
            cluster,
            objects,
            known: Mutex::default(),
        }
    }

    /// What is known now of all sites that there are.
    pub fn now(&self) -> HashMap<ObjectName, Site> {
        let sites = self.present().into_iter();
        let known = self.known();
        let site = |(name, site): (ObjectName, HyperVSite)| {
            let standing = known.get(&name).map(|known| known.standing.clone());
            let site = Site {
                standing: standing.unwrap_or(Standing::Unknown),
                policy: site.spec.replication_policy,
            };
            (name, site)
        };
        sites.map(site).collect()
    }

    /// Looks at all sites, each when it is due, for ever.
    pub async fn look_again_and_again(&self) {
        loop {
            let sites: Vec<(ObjectName, HyperVSite)> = self.present();
            self.known()
                .retain(|name, _| sites.iter().any(|(present, _)| present == name));
            let due = sites
                .into_iter()
                .filter(|(name, site)| self.is_due(name, site));
            let looks = futures::stream::iter(due);
            looks
                .for_each_concurrent(LOOKS, async |(name, site)| self.look(&name, &site).await)
                .await;
            tokio::time::sleep(SOON).await;
        }
    }

    fn present(&self) -> Vec<(ObjectName, HyperVSite)> {
        let sites = self.objects.list().into_iter();
        let understood = |site: Arc<Guarded<HyperVSite>>| {
            let site = site.0.as_ref().ok()?;
            Some((name_of(site)?, site.clone()))
        };
        sites.filter_map(understood).collect()
    }

    fn is_due(&self, name: &ObjectName, site: &HyperVSite) -> bool {
        let known = self.known();
        known.get(name).is_none_or(|known| {
            let changed = known.uid != site.uid() || known.generation != site.metadata.generation;
            let wait = match known.standing {
                Standing::Unknown => SOON * 5,
                Standing::Others | Standing::Ours(_) => LOOK,
            };
            changed || known.looked.elapsed() >= wait
        })
    }

    async fn look(&self, name: &ObjectName, site: &HyperVSite) {
        let before = self.known().remove(name);
        let before = before.filter(|before| before.uid == site.uid());
        let (mut opened, mut standing) = match before {
            Some(before) => (before.opened, before.standing),
            None => (None, Standing::Unknown),
        };
        match self.ask(name, site, &mut opened).await {
            Ok(now) => standing = now,
            Err(fault) => tracing::warn!(site = %name, %fault, "cannot look at the site"),
        }
        self.known().insert(
            name.clone(),
            Known {
                uid: site.uid(),
                generation: site.metadata.generation,
                looked: Instant::now(),
                opened,
                standing,
            },
        );
    }

    async fn ask(
        &self,
        name: &ObjectName,
        site: &HyperVSite,
        opened: &mut Option<Opened>,
    ) -> Result<Standing, Fault> {
        let azure = &site.spec.azure;
        let opening = self.opener.open(name.namespace(), azure, opened.as_ref());
        let now = opening.await?;
        *opened = Some(now.clone());
        let prefix = azure.storage.container_prefix.parse();
        let prefix: Prefix =
            prefix.map_err(|error| Fault::of(Code::Configuration, &error as &names::NotAPrefix))?;
        let container = now.account.container(&prefix.site(name));
        let owner = documents::load::<Owner>(container.as_ref(), names::OWNER).await;
        let owner = match owner {
            Ok(Some(held)) => held.value,
            // The controller has not been there yet.
            Ok(None) => return Ok(Standing::Unknown),
            Err(fault) if fault.code == Code::StorageNotFound => return Ok(Standing::Unknown),
            Err(fault) => return Err(fault),
        };
        if owner.cluster != self.cluster || owner.site != *name {
            return Ok(Standing::Others);
        }
        Ok(Standing::Ours(Account {
            opened: now,
            prefix,
        }))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ObjectName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
