//! The records of a site's VMs, found by object, by replica and by VM: a fleet's are looked at all the time.

use std::collections::{BTreeSet, HashMap};

use crate::controller::documents::Held;
use crate::ids::{ObjectName, ReplicaId, VmId};
use crate::replica::record::Record;

/// The records of one site.
#[derive(Clone, Default)]
pub struct Records {
    by_object: HashMap<ObjectName, Held<Record>>,
    /// An object's replica is always the same one; several may be of one VM.
    by_replica: HashMap<ReplicaId, ObjectName>,
    by_vm: HashMap<VmId, BTreeSet<ObjectName>>,
}

impl Records {
    /// Adds a record, or replaces the one of its object.
    pub fn insert(&mut self, held: Held<Record>) {
        let (object, replica) = (held.value.object.clone(), held.value.replica.clone());
        let vm = held.value.vm.clone();
        if let Some(before) = self.by_object.insert(object.clone(), held) {
            let Record {
                replica: old, vm, ..
            } = before.value;
            if old != replica {
                self.by_replica.remove(&old);
            }
            if let Some(objects) = self.by_vm.get_mut(&vm) {
                objects.remove(&object);
            }
        }
        self.by_replica.insert(replica, object.clone());
        self.by_vm.entry(vm).or_default().insert(object);
    }

    pub fn get(&self, object: &ObjectName) -> Option<&Held<Record>> {
        self.by_object.get(object)
    }

    pub fn of_replica(&self, replica: &ReplicaId) -> Option<&Record> {
        let object = self.by_replica.get(replica)?;
        self.by_object.get(object).map(|held| &held.value)
    }

    /// All of this VM.
    pub fn of_vm(&self, vm: &VmId) -> impl Iterator<Item = &Record> {
        let objects = self.by_vm.get(vm).into_iter().flatten();
        objects.filter_map(|object| self.by_object.get(object).map(|held| &held.value))
    }

    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.by_object.values().map(|held| &held.value)
    }
}

impl FromIterator<Held<Record>> for Records {
    fn from_iter<T: IntoIterator<Item = Held<Record>>>(held: T) -> Self {
        let mut records = Records::default();
        held.into_iter().for_each(|held| records.insert(held));
        records
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blob::memory::MemoryContainer;
    use crate::controller::documents;
    use crate::units::{Clock as _, SystemClock};

    const FIRST: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
    const OTHER: &str = "1f8fad5b-d9cb-469f-a165-70867728950e";

    async fn held(name: &str, replica: u128, vm: &str) -> Held<Record> {
        let record = Record::new(
            ObjectName::new("dr", name).unwrap(),
            ReplicaId::from_random(replica),
            (vm.parse().unwrap(), name.to_owned()),
            SystemClock.now(),
        );
        let container = MemoryContainer::new("site", Arc::new(SystemClock));
        documents::create(&container, "record", record)
            .await
            .unwrap()
    }

    fn of_vm(records: &Records, vm: &str) -> Vec<String> {
        let vm = vm.parse().unwrap();
        let of_vm = records.of_vm(&vm);
        of_vm.map(|of| of.object.name().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_record_is_found_by_all_that_it_names_and_by_nothing_that_it_named_before() {
        let mut records = Records::default();
        records.insert(held("web", 1, FIRST).await);
        records.insert(held("www", 2, FIRST).await);
        assert_eq!(of_vm(&records, FIRST), ["web", "www"]);

        records.insert(held("web", 3, OTHER).await);

        assert_eq!(of_vm(&records, FIRST), ["www"]);
        assert_eq!(of_vm(&records, OTHER), ["web"]);
        assert!(records.of_replica(&ReplicaId::from_random(1)).is_none());
        let found = records.of_replica(&ReplicaId::from_random(3)).unwrap();
        assert_eq!(found.object.name(), "web");
        assert_eq!(records.all().count(), 2);
    }
}
