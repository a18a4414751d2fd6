//! A site that can be used: its storage, and the records of its VMs.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use crate::blob::parameters::Include;
use crate::blob::{Account, Container, walk};
use crate::controller::documents::{self, Held};
use crate::datapath::store::Store;
use crate::ids::{ObjectName, ReplicaId, VmId};
use crate::replica::names::{self, Prefix};
use crate::replica::record::Record;
use crate::report::Fault;

/// The most records of one site that are read: ten times the largest fleet.
const RECORDS_MAX: u64 = 100_000;
/// Records that are read at the same time.
const READS: usize = 16;

/// How a site was found.
#[derive(Clone)]
pub enum SiteView {
    /// It says itself why.
    NotReady(String),
    /// Another cluster acts for it.
    NotOurs(String),
    Ready(Arc<SiteHandle>),
}

/// A site that this cluster acts for.
pub struct SiteHandle {
    pub name: ObjectName,
    pub account: Arc<dyn Account>,
    /// The site's own container.
    pub container: Arc<dyn Container>,
    pub prefix: Prefix,
    /// What the account was opened with; it changes when credentials do.
    pub fingerprint: blake3::Hash,
    /// Whether another cluster acted before, whose commands may still be under way.
    pub took_over: bool,
    records: Mutex<HashMap<ObjectName, Held<Record>>>,
    /// Replicas whose fence was raised after the take-over.
    raised: Mutex<HashSet<ReplicaId>>,
}

impl SiteHandle {
    pub fn new(
        name: ObjectName,
        account: Arc<dyn Account>,
        prefix: Prefix,
        fingerprint: blake3::Hash,
        took_over: bool,
        records: HashMap<ObjectName, Held<Record>>,
    ) -> Self {
        let container = account.container(&prefix.site(&name));
        SiteHandle {
            name,
            account,
            container,
            prefix,
            fingerprint,
            took_over,
            records: Mutex::new(records),
            raised: Mutex::default(),
        }
    }

    /// The same site with other credentials.
    #[must_use]
    pub fn reopened(&self, account: Arc<dyn Account>, fingerprint: blake3::Hash) -> Self {
        let records = self
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (name, prefix) = (self.name.clone(), self.prefix.clone());
        let reopened = SiteHandle::new(name, account, prefix, fingerprint, self.took_over, records);
        let raised = self
            .raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        SiteHandle {
            raised: Mutex::new(raised),
            ..reopened
        }
    }

    /// Whether a replica's fence was raised after the take-over.
    pub fn is_raised(&self, replica: &ReplicaId) -> bool {
        self.raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(replica)
    }

    /// Remembers that a replica's fence was raised.
    pub fn raise(&self, replica: &ReplicaId) {
        self.raised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(replica.clone());
    }

    /// The containers of a replica.
    pub fn store(&self, replica: &ReplicaId) -> Store {
        Store {
            id: replica.clone(),
            inbox: self.account.container(&self.prefix.inbox(replica)),
            replica: self.account.container(&self.prefix.replica(replica)),
        }
    }

    /// The record of an object.
    pub fn record(&self, object: &ObjectName) -> Option<Held<Record>> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(object)
            .cloned()
    }

    /// Another object whose replica is of this VM, and is kept up.
    pub fn taken_by(&self, object: &ObjectName, vm: &VmId) -> Option<ObjectName> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let others = records
            .values()
            .map(|held| &held.value)
            .filter(|record| record.object != *object);
        let mut taken = others.filter(|record| record.vm == *vm && !record.retained);
        taken.next().map(|record| record.object.clone())
    }

    /// The record of a replica.
    pub fn record_of(&self, replica: &ReplicaId) -> Option<Record> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_replica = records
            .values()
            .map(|held| &held.value)
            .filter(|record| record.replica == *replica);
        of_replica.next().cloned()
    }

    /// Writes a record: creates it, or replaces the one that is known.
    ///
    /// # Errors
    /// If storage does not take it, or somebody else wrote it.
    pub async fn keep_record(&self, record: Record) -> Result<(), Fault> {
        let object = record.object.clone();
        let blob = names::record(&object);
        let held = match self.record(&object) {
            Some(held) => documents::replace(self.container.as_ref(), &blob, &held, record).await?,
            None => documents::create(self.container.as_ref(), &blob, record).await?,
        };
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(object, held);
        Ok(())
    }
}

/// Reads the records of all VMs of a site.
///
/// # Errors
/// If one cannot be read: without it a VM might be protected twice.
pub async fn read_records(
    container: &dyn Container,
) -> Result<HashMap<ObjectName, Held<Record>>, Fault> {
    let listed = walk::blobs(container, "vms/", Include::default(), RECORDS_MAX).await;
    let listed = listed.map_err(|error| error.fault())?.items;
    let reads = listed
        .into_iter()
        .map(|blob| async move { documents::load::<Record>(container, &blob.name).await });
    let records = futures::stream::iter(reads).buffer_unordered(READS);
    let records: Vec<Option<Held<Record>>> = records.try_collect().await?;
    Ok(records
        .into_iter()
        .flatten()
        .map(|held| (held.value.object.clone(), held))
        .collect())
}
