//! Follows a replica that somebody else works on: reads what stands in storage, writes nothing.
//!
//! But for one thing: a chain that cannot be gone on with is given up by whoever is told to. Then it takes the replica
//! over, as a [`Worker`] for as long as that takes; storage fences the one before, who finds a new chain.

use crate::datapath::Error;
use crate::datapath::store::{Held, Store};
use crate::datapath::trouble;
use crate::datapath::worker::{Step, Worker};
use crate::ids::ChainId;
use crate::replica::manifest::Manifest;
use crate::retry::Trouble;

/// What is known of one replica by reading.
pub struct Follower {
    store: Store,
    seen: Option<Held>,
    trouble: Option<Trouble>,
    /// A new chain is wanted if the present one is this.
    retired: Option<ChainId>,
}

impl Follower {
    pub fn new(store: Store) -> Self {
        Follower {
            store,
            seen: None,
            trouble: None,
            retired: None,
        }
    }

    /// The manifest as it was last seen; nothing if the replica has none.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.seen.as_ref().map(|held| &held.manifest)
    }

    /// What keeps the one who applies from going on, as it says itself.
    pub const fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Begins a new chain in the next step if the present one is `retired`.
    pub fn retire(&mut self, retired: Option<ChainId>) {
        self.retired = retired;
    }

    /// Whether the next step writes.
    pub fn is_retiring(&self) -> bool {
        let chain = self.manifest().map(|manifest| &manifest.chain);
        chain.is_some() && chain == self.retired.as_ref()
    }

    /// Looks at the replica; [`Step::Applied`] if something is new. What has not changed is not read again.
    ///
    /// # Errors
    /// If storage cannot be asked, or a chain that is to be given up not be.
    pub async fn step(&mut self) -> Result<Step, Error> {
        if self.is_retiring() {
            self.begin_chain().await?;
        }
        let mut step = Step::Idle;
        let known = match &self.seen {
            Some(seen) => self.store.is_current(seen).await?,
            None => false,
        };
        if !known {
            let now = self.store.load().await?;
            if now.as_ref().map(|held| &held.manifest) != self.manifest() {
                step = Step::Applied;
            }
            self.seen = now;
        }
        let trouble = match self.manifest() {
            Some(manifest) => trouble::told(&self.store, manifest.writer.generation).await?,
            None => None,
        };
        if trouble != self.trouble {
            (self.trouble, step) = (trouble, Step::Applied);
        }
        Ok(step)
    }

    async fn begin_chain(&self) -> Result<(), Error> {
        let mut worker = Worker::new(self.store.clone());
        worker.retire(self.retired.clone());
        while worker.step().await? == Step::Applied {
            let chain = worker.manifest().map(|manifest| &manifest.chain);
            if chain != self.retired.as_ref() {
                break;
            }
        }
        Ok(())
    }
}
