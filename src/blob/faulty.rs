//! A storage account on a bad day: wraps another one and fails as its rules say.
//!
//! Requests fail before they are sent, after they were carried out, wait, or arrive long after their caller gave up:
//! what a network does, in the order that a test or a lab scenario wants it. Rules are data, chance comes from a seed.
//! It stands above the client's retries, so that what it injects reaches the caller as the final answer; and it holds
//! callers to the limits that an emulator does not know.

pub mod account;
pub mod container;
pub mod gate;
pub mod rule;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::blob::Result;
use crate::blob::error::Operation;
use crate::blob::faulty::rule::{Failure, Rule, Rules};

/// The rules of one bad day, shared by all that is wrapped with them. They may be changed while requests are under way.
#[derive(Debug)]
pub struct Faults(Mutex<Rules>);

impl Faults {
    /// No rules yet; `seed` is for those that leave it to chance.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Faults(Mutex::new(Rules::new(seed))))
    }

    pub fn add(&self, rule: Rule) {
        self.rules().add(rule);
    }

    /// Ends all trouble, but for requests that wait at a gate.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// How often this was asked for, whether it failed or not.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.rules().calls(operation)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out `act` with the trouble that it meets.
    pub(crate) async fn run<T, Act>(
        &self,
        operation: Operation,
        object: String,
        act: Act,
    ) -> Result<T>
    where
        T: Send + 'static,
        Act: Future<Output = Result<T>> + Send + 'static,
    {
        let trouble = self.rules().meet(operation, &object);
        if let Some(gate) = &trouble.hold {
            gate.pass().await;
        }
        if let Some(failure) = trouble.fail {
            return Err(failure.error(operation, &object));
        }
        if let Some(gate) = trouble.late {
            tokio::spawn(async move {
                gate.pass().await;
                if let Err(error) = act.await {
                    tracing::debug!(error = crate::report::chain(&error), "late request failed");
                }
                gate.finish();
            });
            return Err(Failure::Interrupted.error(operation, &object));
        }
        let result = act.await;
        for gate in [&trouble.hold, &trouble.hold_reply].into_iter().flatten() {
            gate.finish();
        }
        if let Some(gate) = &trouble.hold_reply {
            gate.pass().await;
        }
        match trouble.fail_after {
            Some(failure) if result.is_ok() => Err(failure.error(operation, &object)),
            Some(_) | None => result,
        }
    }
}
