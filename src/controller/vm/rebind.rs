//! A VM that was imported anew has a new id: whether the replica of before is given to it. No I/O.
//!
//! Nobody but a human knows whether the VM that has the name now is the machine that was copied. The annotation names
//! both ids, the one that the replica is of and the new one: whatever Git says again later, it says of these two and of
//! no other VM, and once they are bound it says nothing any more.

use jiff::Timestamp;

use crate::api::annotation;
use crate::api::protected_vm::ProtectedVM;
use crate::ids::{ChainId, VmId};
use crate::replica::record::{Rebound, Record};

/// Former ids that are remembered.
const FORMER_MAX: usize = 16;

/// That the record's VM is not the one that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// What a human says who wants the replica to go on with the VM that was found.
    pub token: String,
    /// Whether somebody has said it.
    pub asked: bool,
}

/// Whether the VM that was found, which has the id `id`, is another than the record's.
pub fn replaced(vm: &ProtectedVM, record: &Record, id: &VmId) -> Option<Replaced> {
    (record.vm != *id).then(|| {
        let token = format!("{}.{id}", record.vm);
        let annotations = vm.metadata.annotations.as_ref();
        let said = annotations.and_then(|all| all.get(annotation::REBIND));
        let asked = said == Some(&token);
        Replaced { token, asked }
    })
}

impl Replaced {
    /// What is so, and what to do.
    pub fn said(&self) -> String {
        format!(
            "the replica is of another VM than the one that is found now. If it is the same machine, imported anew, \
             annotate this ProtectedVM with {}={}: its disks are compared with the replica, and only what differs is \
             sent. If it is another machine, protect it under another name",
            annotation::REBIND,
            self.token
        )
    }
}

/// The record of a replica that goes on with the VM of this id and name. `chain` is the present one, if there is a
/// replica.
pub fn rebound(
    record: &Record,
    (id, name): (&VmId, &str),
    chain: Option<ChainId>,
    now: Timestamp,
) -> Record {
    let mut former = record.former_vms.clone();
    former.retain(|vm| *vm != record.vm);
    former.push(record.vm.clone());
    let beyond = former.len().saturating_sub(FORMER_MAX);
    former.drain(..beyond);
    Record {
        vm: id.clone(),
        vm_name: name.to_owned(),
        former_vms: former,
        rebound: chain.map(|chain| Rebound { at: now, chain }),
        ..record.clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ids::{ObjectName, ReplicaId};

    const NAMES: [&str; 3] = [
        "0f8fad5b-d9cb-469f-a165-70867728950a",
        "0f8fad5b-d9cb-469f-a165-70867728950b",
        "0f8fad5b-d9cb-469f-a165-70867728950c",
    ];

    fn id(number: usize) -> VmId {
        NAMES[number].parse().unwrap()
    }

    fn record(vm: usize) -> Record {
        Record::new(
            ObjectName::new("n", "web").unwrap(),
            ReplicaId::from_random(1),
            (id(vm), "web".to_owned()),
            Timestamp::UNIX_EPOCH,
        )
    }

    fn annotated(value: &str) -> ProtectedVM {
        serde_json::from_value(json!({
            "apiVersion": "siterecovery.dev/v1alpha1",
            "kind": "ProtectedVM",
            "metadata": { "name": "web", "annotations": { annotation::REBIND: value } },
            "spec": { "siteRef": { "name": "s" }, "vm": { "name": "web" } },
        }))
        .unwrap()
    }

    fn asked(annotation: &str, recorded: usize, found: usize) -> Option<bool> {
        let replaced = replaced(&annotated(annotation), &record(recorded), &id(found));
        replaced.map(|replaced| replaced.asked)
    }

    #[test]
    fn an_annotation_that_stays_in_git_binds_these_two_vms_once_and_no_others() {
        let said = format!("{}.{}", NAMES[0], NAMES[1]);
        assert_eq!(asked(&said, 0, 1), Some(true));
        assert_eq!(asked(&said, 1, 1), None);
        assert_eq!(asked(&said, 1, 2), Some(false));
        assert_eq!(asked(&said, 0, 2), Some(false));
        // The machine of before comes back: who wants it says so anew.
        assert_eq!(asked(&said, 1, 0), Some(false));
        assert_eq!(asked(NAMES[1], 0, 1), Some(false));
    }

    #[test]
    fn former_ids_are_kept_and_not_without_end() {
        let at = Timestamp::UNIX_EPOCH;
        let mut bound = record(0);
        for turn in 0..40 {
            bound = rebound(&bound, (&id(turn % 3), "web"), None, at);
        }
        assert_eq!(bound.vm, id(0));
        assert!(bound.former_vms.len() <= FORMER_MAX);
        assert_eq!(bound.former_vms.last(), Some(&id(2)));
        let chain = ChainId::from_random(5);
        let bound = rebound(&bound, (&id(1), "shop"), Some(chain.clone()), at);
        assert_eq!(
            (bound.vm_name.as_str(), bound.rebound),
            ("shop", Some(Rebound { at, chain }))
        );
    }
}
