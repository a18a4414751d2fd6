//! What survives a restart of the agent: which VMs it replicates, and the answers of what it has done.
//!
//! ```text
//! settings.json                           what holds for the host
//! replications/<replica>/relationship.json  the relationship, its generation, whether it was started, answers
//! replications/<replica>/capture.json       the engine's own
//! ```
//! Every file is a record of `durable`: whole or absent. One that cannot be read is set aside; the controller says again
//! what is to be replicated, and storage says where to go on.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::ids::{OperationId, ReplicaId};
use crate::report::{Code, Fault};
use crate::units::Generation;
use crate::wire::{Relationship, Settings};

/// Answers that are remembered for each VM; a controller repeats only its last few commands.
const ANSWERS: usize = 32;

/// The state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the state folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot keep the state of a replication")]
    Record(#[from] durable::Error),
}

impl Error {
    pub fn fault(&self) -> Fault {
        Fault::of(Code::AgentStateDamaged, self)
    }
}

/// A VM that is replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    pub relationship: Relationship,
    /// Commands of a lower generation are refused.
    pub generation: Generation,
    pub started: bool,
    /// Operations that were done, the newest last.
    pub answered: VecDeque<OperationId>,
}

impl Replication {
    pub fn new(relationship: Relationship, generation: Generation) -> Self {
        Replication {
            relationship,
            generation,
            started: false,
            answered: VecDeque::new(),
        }
    }

    /// Whether this operation has been done.
    pub fn has_done(&self, operation: &OperationId) -> bool {
        self.answered.contains(operation)
    }

    /// Remembers an operation as done.
    pub fn done(&mut self, operation: OperationId) {
        if self.answered.len() == ANSWERS {
            self.answered.pop_front();
        }
        self.answered.push_back(operation);
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// Makes the folder if it is not there, and removes what a crash left.
    ///
    /// # Errors
    /// If it cannot be made or read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = StateFolder {
            path: path.to_owned(),
        };
        make_private(&folder.replications())?;
        durable::sweep(path)?;
        Ok(folder)
    }

    /// The host's settings; none were given if they cannot be read.
    pub fn settings(&self) -> Settings {
        match durable::read_record(&self.path.join("settings.json")) {
            Ok(settings) => settings.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(
                    error = crate::report::chain(&error),
                    "settings are forgotten"
                );
                Settings::default()
            }
        }
    }

    /// # Errors
    /// If they cannot be kept.
    pub fn keep_settings(&self, settings: &Settings) -> Result<(), Error> {
        Ok(durable::write_record(
            &self.path.join("settings.json"),
            settings,
        )?)
    }

    /// All replications that can be read; one that cannot is said and passed over.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn load(&self) -> Result<Vec<Replication>, Error> {
        let path = self.replications();
        let io = |source| Error::Folder {
            path: path.clone(),
            source,
        };
        let mut loaded = Vec::new();
        for entry in fs::read_dir(&path).map_err(io)? {
            let record = entry.map_err(io)?.path().join("relationship.json");
            match durable::read_record(&record) {
                Ok(Some(replication)) => loaded.push(replication),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        error = crate::report::chain(&error),
                        "a replication is forgotten until it is commanded again"
                    );
                }
            }
        }
        Ok(loaded)
    }

    /// The folder of one replication; it is there after [`StateFolder::keep`].
    pub fn of(&self, replica: &ReplicaId) -> PathBuf {
        self.replications().join(replica.as_str())
    }

    /// # Errors
    /// If it cannot be kept.
    pub fn keep(&self, replication: &Replication) -> Result<(), Error> {
        let folder = self.of(&replication.relationship.replica);
        make_private(&folder)?;
        Ok(durable::write_record(
            &folder.join("relationship.json"),
            replication,
        )?)
    }

    /// # Errors
    /// If something of it is left.
    pub fn forget(&self, replica: &ReplicaId) -> Result<(), Error> {
        let folder = self.of(replica);
        // The record first: without it the rest means nothing.
        durable::remove(&folder.join("relationship.json"))?;
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Folder {
                path: folder,
                source,
            }),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl StateFolder {
    fn replications(&self) -> PathBuf {
        self.path.join("replications")
    }
}

/// Makes a folder that only its owner may read: it holds access signatures.
fn make_private(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).map_err(|source| Error::Folder {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replication() -> Replication {
        let command: crate::wire::Command<Relationship> =
            serde_json::from_str(include_str!("../wire/golden/relationship.json")).unwrap();
        Replication::new(command.body, command.generation)
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_what_is_forgotten_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut kept = replication();
        kept.done(OperationId::from_random(9));
        StateFolder::open(folder.path())
            .unwrap()
            .keep(&kept)
            .unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        assert_eq!(state.load().unwrap(), [kept.clone()]);
        state.forget(&kept.relationship.replica).unwrap();
        assert_eq!(state.load().unwrap(), []);
    }

    #[test]
    fn a_damaged_record_does_not_keep_the_others_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open(folder.path()).unwrap();
        state.keep(&replication()).unwrap();
        let mut other = replication();
        other.relationship.replica = ReplicaId::from_random(77);
        state.keep(&other).unwrap();
        fs::write(
            state
                .of(&other.relationship.replica)
                .join("relationship.json"),
            "damaged",
        )
        .unwrap();
        assert_eq!(state.load().unwrap(), [replication()]);
    }

    #[test]
    fn the_oldest_answers_are_forgotten_first() {
        let mut replication = replication();
        for number in 0..100 {
            replication.done(OperationId::from_random(number));
        }
        assert!(!replication.has_done(&OperationId::from_random(67)));
        assert!(replication.has_done(&OperationId::from_random(68)));
    }
}
