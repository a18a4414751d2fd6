//! The agent of a host, as the controller sees it: the requests of `wire`, and nothing else.
//!
//! This is the only code that calls an agent. Nothing here retries: a controller's work queue does. After
//! [`Code::AgentUnreachable`] the outcome is *unknown*: the agent may have done what was asked. The same command with
//! the same operation id settles it, because an agent answers an operation that it has done from its record.
//!
//! [`Code::AgentUnreachable`]: crate::report::Code::AgentUnreachable

pub mod breaker;
pub mod faulty;
pub mod http;

mod answer;
mod link;

use async_trait::async_trait;
use uuid::Uuid;

use crate::ids::ReplicaId;
use crate::report::Fault;
use crate::wire::{
    Answer, Command, Hello, HelloReply, HostCommand, Observations, Relationship, Remove,
    Resynchronize, Settings, Start, Synchronize,
};

pub use http::HttpAgent;

/// What a controller may ask of a host. Every request may be repeated.
///
/// Faults: `AgentUnreachable` if no answer came (it may or may not have been done), `InvalidRequest` if the answer
/// could not be understood, otherwise what the agent said.
#[async_trait]
pub trait Agent: Send + Sync {
    /// The first request of a connection.
    ///
    /// # Errors
    /// `AgentIncompatible` if no version is common to both.
    async fn hello(&self, hello: &Hello) -> Result<HelloReply, Fault>;

    /// What is newer than revision `after` of `session`, or everything if the agent's session is another one. Waits up
    /// to [`POLL`](crate::wire::POLL) for something new.
    ///
    /// # Errors
    /// As said at the trait.
    async fn observations(&self, session: Uuid, after: u64) -> Result<Observations, Fault>;

    /// # Errors
    /// As said at the trait.
    async fn settings(&self, command: &HostCommand<Settings>) -> Result<Answer, Fault>;

    /// Creates or changes a relationship; which one, its body says.
    ///
    /// # Errors
    /// As said at the trait; `GenerationStale` if somebody newer has commanded.
    async fn create_relationship(&self, command: &Command<Relationship>) -> Result<Answer, Fault>;

    /// # Errors
    /// As said at the trait; `NotReplicating` if there is no such relationship.
    async fn start(&self, replica: &ReplicaId, command: &Command<Start>) -> Result<Answer, Fault>;

    /// # Errors
    /// As said at the trait; `NotReplicating` if nothing is replicated.
    async fn synchronize(
        &self,
        replica: &ReplicaId,
        command: &Command<Synchronize>,
    ) -> Result<Answer, Fault>;

    /// # Errors
    /// As said at the trait; `NotReplicating` if there is no such relationship.
    async fn resynchronize(
        &self,
        replica: &ReplicaId,
        command: &Command<Resynchronize>,
    ) -> Result<Answer, Fault>;

    /// # Errors
    /// As said at the trait; a relationship that is not there any more is success.
    async fn remove(&self, replica: &ReplicaId, command: &Command<Remove>)
    -> Result<Answer, Fault>;
}
