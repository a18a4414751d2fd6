//! The machines of a host as it last told them, found by name and by id: every look at a VM asks every host of its site.

use std::collections::HashMap;
use std::ops::Deref;

use crate::host::Machine;
use crate::wire::observation::HostObservation;

/// What a host said, and where in it each machine is. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    said: HostObservation,
    /// Hyper-V compares names without case.
    names: HashMap<String, Vec<usize>>,
    ids: HashMap<String, Vec<usize>>,
}

impl Inventory {
    pub fn new(said: HostObservation) -> Self {
        let (mut names, mut ids) = (HashMap::new(), HashMap::new());
        for (place, machine) in said.machines.iter().enumerate() {
            let name = machine.name.to_lowercase();
            names.entry(name).or_insert_with(Vec::new).push(place);
            let id = machine.id.as_str().to_owned();
            ids.entry(id).or_insert_with(Vec::new).push(place);
        }
        Inventory { said, names, ids }
    }

    /// The machines of this name, which is in lower case.
    pub fn named(&self, lower_case: &str) -> impl Iterator<Item = &Machine> {
        self.at(self.names.get(lower_case))
    }

    pub fn with_id(&self, id: &str) -> impl Iterator<Item = &Machine> {
        self.at(self.ids.get(id))
    }

    fn at<'a>(&'a self, places: Option<&'a Vec<usize>>) -> impl Iterator<Item = &'a Machine> {
        places
            .into_iter()
            .flatten()
            .map(|at| &self.said.machines[*at])
    }
}

impl Deref for Inventory {
    type Target = HostObservation;

    fn deref(&self) -> &HostObservation {
        &self.said
    }
}
