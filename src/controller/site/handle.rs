//! A site that can be used: its storage, and the records of its VMs.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::blob::parameters::Include;
use crate::blob::{Account, Container, walk};
use crate::controller::accounts::Opened;
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
    /// For what is over soon.
    pub account: Arc<dyn Account>,
    /// For the data path.
    patient: Arc<dyn Account>,
    /// The site's own container.
    pub container: Arc<dyn Container>,
    pub prefix: Prefix,
    /// What the account was opened with; it changes when credentials do.
    pub fingerprint: blake3::Hash,
    /// The owner's term: in an earlier one another cluster may have acted, whose commands may still be under way.
    pub term: u64,
    records: Mutex<HashMap<ObjectName, Held<Record>>>,
    /// The highest term that a fence was seen to have.
    fences: AtomicU64,
}

impl SiteHandle {
    pub fn new(
        name: ObjectName,
        opened: &Opened,
        prefix: Prefix,
        term: u64,
        records: HashMap<ObjectName, Held<Record>>,
    ) -> Self {
        let container = opened.account.container(&prefix.site(&name));
        SiteHandle {
            name,
            account: opened.account.clone(),
            patient: opened.patient.clone(),
            container,
            prefix,
            fingerprint: opened.fingerprint,
            term,
            records: Mutex::new(records),
            fences: AtomicU64::new(term),
        }
    }

    /// The same site with other credentials, or in another term.
    #[must_use]
    pub fn reopened(&self, opened: &Opened, term: u64) -> Self {
        let records = self
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (name, prefix) = (self.name.clone(), self.prefix.clone());
        SiteHandle::new(name, opened, prefix, term, records)
    }

    /// The highest term that a fence of the site was seen to have.
    pub fn fences(&self) -> u64 {
        self.fences.load(Ordering::Relaxed)
    }

    /// Remembers that a fence has this term.
    pub fn saw_fence(&self, term: u64) {
        self.fences.fetch_max(term, Ordering::Relaxed);
    }

    /// The containers of a replica, as the data path uses them.
    pub fn store(&self, replica: &ReplicaId) -> Store {
        store(self.patient.as_ref(), &self.prefix, replica)
    }

    /// The container with a replica's fence.
    pub fn replica(&self, replica: &ReplicaId) -> Arc<dyn Container> {
        self.account.container(&self.prefix.replica(replica))
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

    /// Objects whose replica was condemned at a time that `counts`.
    pub fn condemned(&self, counts: impl Fn(Timestamp) -> bool) -> BTreeSet<ObjectName> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let all = records.values().map(|held| &held.value);
        let of = all.filter(|record| {
            let condemned = record.condemned.as_ref();
            condemned.is_some_and(|condemned| counts(condemned.at))
        });
        of.map(|record| record.object.clone()).collect()
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

/// The containers of a replica in an account.
pub fn store(account: &dyn Account, prefix: &Prefix, replica: &ReplicaId) -> Store {
    Store {
        id: replica.clone(),
        inbox: account.container(&prefix.inbox(replica)),
        replica: account.container(&prefix.replica(replica)),
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
