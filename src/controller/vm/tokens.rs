//! Annotations that ask for something once: which tokens are new, and which were acted upon. No I/O.
//!
//! A token on an object without a status is old: it was written for another life of the object. It is recorded and
//! nothing is done.

use crate::api::annotation;
use crate::api::protected_vm::ProtectedVM;
use crate::api::vm_status::{LastHandled, ProtectedVMStatus};
use crate::ids::{OperationId, ReplicaId};

/// The tokens of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Those that were acted upon.
    pub handled: LastHandled,
    /// Those that were not.
    pub asked: LastHandled,
}

/// What a token asks of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Synchronize,
    Resynchronize,
}

impl Tokens {
    /// The tokens of an object whose status was last written as `last`.
    pub fn of(vm: &ProtectedVM, last: &ProtectedVMStatus) -> Self {
        let said = last.last_handled.clone().unwrap_or_default();
        let is_new_object = last.observed_generation < 0 || last.state.is_none();
        let annotations = vm.metadata.annotations.as_ref();
        let divide = |annotation: &str, handled: Option<String>| {
            let token = annotations.and_then(|all| all.get(annotation)).cloned();
            match token {
                Some(token) if is_new_object => (Some(token), None),
                Some(token) if Some(&token) != handled.as_ref() => (handled, Some(token)),
                Some(_) | None => (handled, None),
            }
        };
        let retry = divide(annotation::RETRY, said.retry);
        let sync_now = divide(annotation::SYNC_NOW, said.sync_now);
        let resynchronize = divide(annotation::RESYNCHRONIZE, said.resynchronize);
        Tokens {
            handled: LastHandled {
                retry: retry.0,
                sync_now: sync_now.0,
                resynchronize: resynchronize.0,
            },
            asked: LastHandled {
                retry: retry.1,
                sync_now: sync_now.1,
                resynchronize: resynchronize.1,
            },
        }
    }

    /// Notes that a barrier was taken as asked.
    pub fn synchronized(&mut self) {
        self.handled.sync_now = self.asked.sync_now.take().or(self.handled.sync_now.take());
    }

    /// Notes that a comparison is done or has leave as asked.
    pub fn resynchronizes(&mut self) {
        let asked = self.asked.resynchronize.take();
        self.handled.resynchronize = asked.or(self.handled.resynchronize.take());
    }

    /// Notes that failures are forgotten as asked.
    pub fn retried(&mut self) {
        self.handled.retry = self.asked.retry.take().or(self.handled.retry.take());
    }

    /// What to write.
    pub fn status(&self) -> Option<LastHandled> {
        (self.handled != LastHandled::default()).then(|| self.handled.clone())
    }

    /// The operation by which a token is acted upon: the same whoever commands it, however often, so that the agent
    /// does it once. That a token comes again after another makes it another operation.
    pub fn operation(&self, ask: Ask, replica: &ReplicaId) -> OperationId {
        let (name, asked, handled) = match ask {
            Ask::Synchronize => (
                annotation::SYNC_NOW,
                &self.asked.sync_now,
                &self.handled.sync_now,
            ),
            Ask::Resynchronize => (
                annotation::RESYNCHRONIZE,
                &self.asked.resynchronize,
                &self.handled.resynchronize,
            ),
        };
        let mut hasher = blake3::Hasher::new();
        for part in [
            Some(replica.as_str()),
            Some(name),
            asked.as_deref(),
            handled.as_deref(),
        ] {
            let part = part.unwrap_or_default();
            hasher.update(&crate::units::to_u64(part.len()).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let mut bits = [0; 16];
        bits.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        OperationId::from_random(u128::from_be_bytes(bits))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::vm_status::ReplicationState;

    fn vm(token: &str) -> ProtectedVM {
        serde_json::from_value(json!({
            "apiVersion": "siterecovery.dev/v1alpha1",
            "kind": "ProtectedVM",
            "metadata": { "name": "a", "annotations": { annotation::SYNC_NOW: token } },
            "spec": { "siteRef": { "name": "s" }, "vm": { "name": "a" } },
        }))
        .unwrap()
    }

    fn seen(handled: Option<&str>) -> ProtectedVMStatus {
        ProtectedVMStatus {
            observed_generation: 1,
            state: Some(ReplicationState::Protected),
            last_handled: handled.map(|token| LastHandled {
                sync_now: Some(token.to_owned()),
                ..LastHandled::default()
            }),
            ..ProtectedVMStatus::default()
        }
    }

    #[test]
    fn a_token_is_acted_upon_once() {
        let mut tokens = Tokens::of(&vm("1"), &seen(None));
        assert_eq!(tokens.asked.sync_now.as_deref(), Some("1"));
        tokens.synchronized();
        let written = tokens.status().unwrap();
        assert_eq!(written.sync_now.as_deref(), Some("1"));
        let after = Tokens::of(&vm("1"), &seen(Some("1")));
        assert_eq!(after.asked, LastHandled::default());
    }

    #[test]
    fn a_token_of_another_life_of_the_object_is_recorded_and_not_acted_upon() {
        let new = ProtectedVMStatus {
            observed_generation: -1,
            ..ProtectedVMStatus::default()
        };
        let tokens = Tokens::of(&vm("1"), &new);
        assert_eq!(tokens.asked, LastHandled::default());
        assert_eq!(tokens.status().unwrap().sync_now.as_deref(), Some("1"));
    }

    #[test]
    fn a_token_is_the_same_operation_for_everybody_and_another_when_it_comes_again() {
        let replica = ReplicaId::from_random(7);
        let operation = |token, handled| {
            Tokens::of(&vm(token), &seen(handled)).operation(Ask::Synchronize, &replica)
        };
        assert_eq!(operation("1", None), operation("1", None));
        assert_ne!(operation("1", None), operation("1", Some("2")));
        assert_ne!(operation("1", None), operation("2", None));
    }
}
