//! A site that can be used: its storage, and the records of its VMs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::blob::parameters::Include;
use crate::blob::{Account, Container, walk};
use crate::controller::accounts::Opened;
use crate::controller::documents::{self, Held};
use crate::controller::site::records::Records;
use crate::datapath::store::Store;
use crate::ids::{ObjectName, ReplicaId, VmId};
use crate::replica::names::{self, Prefix};
use crate::replica::record::Record;
use crate::report::{Code, Fault};

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
    records: Mutex<Records>,
    /// The highest term that a fence was seen to have.
    fences: AtomicU64,
}

impl SiteHandle {
    pub fn new(
        name: ObjectName,
        opened: &Opened,
        prefix: Prefix,
        term: u64,
        records: Records,
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

    /// The same site with other credentials.
    #[must_use]
    pub fn reopened(&self, opened: &Opened) -> Self {
        let records = self.records().clone();
        let (name, prefix) = (self.name.clone(), self.prefix.clone());
        SiteHandle::new(name, opened, prefix, self.term, records)
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
        self.records().get(object).cloned()
    }

    /// Another object whose replica is of this VM, and is kept up.
    pub fn taken_by(&self, object: &ObjectName, vm: &VmId) -> Option<ObjectName> {
        let records = self.records();
        let mut taken = records
            .of_vm(vm)
            .filter(|record| record.object != *object && !record.retained);
        taken.next().map(|record| record.object.clone())
    }

    /// Objects whose replica was condemned at a time that `counts`.
    pub fn condemned(&self, counts: impl Fn(Timestamp) -> bool) -> BTreeSet<ObjectName> {
        let records = self.records();
        let of = records.all().filter(|record| {
            let condemned = record.condemned.as_ref();
            condemned.is_some_and(|condemned| counts(condemned.at))
        });
        of.map(|record| record.object.clone()).collect()
    }

    /// The record of a replica.
    pub fn record_of(&self, replica: &ReplicaId) -> Option<Record> {
        self.records().of_replica(replica).cloned()
    }

    /// The object that has a replica.
    pub fn object_of(&self, replica: &ReplicaId) -> Option<ObjectName> {
        let records = self.records();
        Some(records.of_replica(replica)?.object.clone())
    }

    /// Writes a record: creates it, or replaces the one that is known.
    ///
    /// # Errors
    /// If storage does not take it, or another one stands there: which is known then.
    pub async fn keep_record(&self, record: Record) -> Result<(), Fault> {
        keep_record(self.container.as_ref(), &self.records, record).await
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.records)
    }
}

fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a record. The reply to an earlier write may have been lost: what stands there instead of what was known is
/// read, so that whoever tries again goes on from it.
async fn keep_record(
    container: &dyn Container,
    records: &Mutex<Records>,
    record: Record,
) -> Result<(), Fault> {
    let blob = names::record(&record.object);
    let known = lock(records).get(&record.object).cloned();
    let kept = match known {
        Some(held) => documents::replace(container, &blob, &held, record).await,
        None => documents::create(container, &blob, record).await,
    };
    match kept {
        Ok(held) => {
            lock(records).insert(held);
            Ok(())
        }
        Err(fault) => {
            if fault.code == Code::StorageChanged
                && let Some(held) = documents::load(container, &blob).await?
            {
                lock(records).insert(held);
            }
            Err(fault)
        }
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
pub async fn read_records(container: &dyn Container) -> Result<Records, Fault> {
    let listed = walk::blobs(container, "vms/", Include::default(), RECORDS_MAX).await;
    let listed = listed.map_err(|error| error.fault())?.items;
    let reads = listed
        .into_iter()
        .map(|blob| async move { documents::load::<Record>(container, &blob.name).await });
    let records = futures::stream::iter(reads).buffer_unordered(READS);
    let records: Vec<Option<Held<Record>>> = records.try_collect().await?;
    Ok(records.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::error::Operation;
    use crate::blob::faulty::Faults;
    use crate::blob::faulty::container::FaultyContainer;
    use crate::blob::faulty::rule::{Calls, Effect, Failure, Rule};
    use crate::blob::memory::MemoryContainer;
    use crate::replica::record::Condemned;
    use crate::units::{Generation, SystemClock};

    fn record(replica: u128) -> Record {
        Record::new(
            ObjectName::new("dr", "web").unwrap(),
            ReplicaId::from_random(replica),
            (
                "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
                "web".to_owned(),
            ),
            Timestamp::UNIX_EPOCH,
        )
    }

    /// The record as a step writes it: another one at each attempt.
    fn condemned(of: Record, second: i64) -> Record {
        Record {
            retained: true,
            condemned: Some(Condemned {
                at: Timestamp::from_second(second).unwrap(),
                generation: Generation::new(1),
                erased: false,
            }),
            ..of
        }
    }

    #[tokio::test]
    async fn a_record_whose_reply_was_lost_is_gone_on_from_by_the_next_attempt() {
        let memory = Arc::new(MemoryContainer::new("site", Arc::new(SystemClock)));
        let faults = Faults::new(1);
        let container = FaultyContainer::new(memory, faults.clone());
        let records = Mutex::new(Records::default());
        let object = record(1).object;
        let known = || lock(&records).get(&object).map(|held| held.value.clone());
        let lost = || {
            faults.clear();
            faults.add(Rule {
                operations: vec![Operation::PutBlob],
                object: "*".to_owned(),
                calls: Calls::First(1),
                effect: Effect::FailAfter(Failure::Interrupted),
            });
        };

        // Given a record that was created, and nobody heard of it
        lost();
        let kept = keep_record(&container, &records, record(1)).await;
        assert!(kept.is_err() && known().is_none());
        // When it is created again, as another replica
        let kept = keep_record(&container, &records, record(2)).await;
        assert_eq!(kept.unwrap_err().code, Code::StorageChanged);
        // Then it is the one that stands there.
        assert_eq!(known(), Some(record(1)));

        // And so with one that was changed.
        lost();
        let kept = keep_record(&container, &records, condemned(record(1), 1)).await;
        assert!(kept.is_err());
        let kept = keep_record(&container, &records, condemned(record(1), 2)).await;
        assert_eq!(kept.unwrap_err().code, Code::StorageChanged);
        assert_eq!(known(), Some(condemned(record(1), 1)));
        let kept = keep_record(&container, &records, condemned(record(1), 3)).await;
        kept.unwrap();
        assert_eq!(known(), Some(condemned(record(1), 3)));
    }
}
