//! The control-plane edge: what failover asks of Azure Resource Manager, and a thin client of its REST interface.
//!
//! [`Arm`] makes, changes and removes; [`Checks`] asks beforehand what would refuse it. Implementation: [`client`].
//!
//! | here | what it is |
//! |---|---|
//! | [`id`], [`names`], [`body`], [`seen`], [`compare`] | what resources are called, what is sent of them, what is read, whether it is the same |
//! | [`operation`] | a long-running operation as a value that can be stored and gone on with by another process |
//! | [`check`] | sizes, usages, rights: what is read before a failover |
//! | [`error`] | what went wrong, whether to ask again, whether it may have happened all the same |
//! | [`cloud`] | which Azure |
//! | [`client`], [`pace`] | requests, seen through; within what Azure admits |
//!
//! ```text
//! create ── absent ─────────── PUT ── answered ──► Begun::Done, Begun::Going(operation) ── poll … ──► Progress::Done
//!   │                           └─── reply lost ── GET ── ours, of this content ──► Begun
//!   ├─ there, ours ──────────────────────────────────────────────────────────────► Begun   └─ absent ► error, outcome
//!   └─ there, somebody else's, or of other content ► error                                             unknown
//! ```
//! What no part of it ever does: print a token or an access signature; send a token to a host that is not the cloud's;
//! send a change again whose outcome is not known; call something done that Azure has not said is done.

pub mod body;
pub mod check;
pub mod client;
pub mod cloud;
pub mod compare;
pub mod error;
pub mod id;
pub mod names;
pub mod operation;
pub mod pace;
pub mod seen;

use std::net::IpAddr;

use async_trait::async_trait;

use crate::azure::body::Body;
use crate::azure::check::{AddressCheck, Permission, Provider, Size, Usage};
use crate::azure::id::{GroupId, ResourceId};
use crate::azure::names::Owner;
use crate::azure::operation::{Action, Begun, Operation, Progress};
use crate::azure::seen::Seen;

pub use error::{Error, Kind};

pub type Result<T> = std::result::Result<T, Error>;

/// What a failover makes, changes and removes in Azure.
///
/// Changes are *begun*; what they are then is an [`Operation`], which the caller stores before it polls. After an error
/// [`Error::outcome_unknown`] says whether the change may have been made all the same; dropping a method's future leaves
/// the same uncertainty. To call again is then right: each method looks before it acts.
#[async_trait]
pub trait Arm: Send + Sync {
    /// Creates a resource unless it is there. One that is there is gone on with if it carries the tags of `owner` and
    /// nothing of it contradicts `body`.
    ///
    /// # Errors
    /// [`Kind::Taken`] if a resource of this name is there that is not this owner's, or is another than `body` says.
    async fn create(&self, resource: &ResourceId, owner: &Owner, body: &Body) -> Result<Begun>;

    /// Changes a resource of this owner to what `body` says; a repeat changes nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not there, [`Kind::Taken`] if it is not this owner's.
    async fn update(&self, resource: &ResourceId, owner: &Owner, body: &Body) -> Result<Begun>;

    /// What Azure knows of a resource, a machine's power included; nothing if it is not there.
    ///
    /// # Errors
    /// If Azure cannot be asked.
    async fn get(&self, resource: &ResourceId) -> Result<Option<Seen>>;

    /// Deletes a resource; one that is not there is deleted.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it is in use: a disk or an adapter that is attached.
    async fn delete(&self, resource: &ResourceId) -> Result<Begun>;

    /// Starts or stops a machine, grants or revokes access to a disk or a snapshot. A repeat finds it done or does the
    /// same again; access that is granted again is another signature to the same bytes.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the resource is not there.
    async fn act(&self, resource: &ResourceId, action: &Action) -> Result<Begun>;

    /// Asks once how an operation goes on. Not before its own wait is over; one that is older than Azure remembers is
    /// settled by a look at its resource, or is [`Progress::Unknown`].
    ///
    /// # Errors
    /// If Azure cannot be asked: nothing is known then, and the operation stands.
    async fn poll(&self, operation: &Operation) -> Result<Progress>;

    /// The resource group, or nothing.
    ///
    /// # Errors
    /// If Azure cannot be asked.
    async fn group(&self, group: &GroupId) -> Result<Option<Seen>>;

    /// Creates a resource group, unless it is there, whoever made it.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] if the identity may not.
    async fn create_group(&self, group: &GroupId, body: &body::Group) -> Result<Seen>;

    /// Everything in a group that carries the tag of this run: what a clean-up has to look at. Azure's list lags behind
    /// by some minutes, so that it is never the only record.
    ///
    /// # Errors
    /// If Azure cannot be asked.
    async fn list_of_run(&self, group: &GroupId, run: &str) -> Result<Vec<ResourceId>>;
}

/// What is asked before a failover, so that it does not fail in its midst. All of it only reads.
#[async_trait]
pub trait Checks: Send + Sync {
    /// Whether a private address of a virtual network is free.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such network; [`Kind::Refused`] if the address is in none of its subnets.
    async fn address(&self, network: &ResourceId, address: IpAddr) -> Result<AddressCheck>;

    /// Machine sizes that a region offers to the subscription, with what forbids each.
    ///
    /// # Errors
    /// If Azure cannot be asked.
    async fn sizes(&self, subscription: &str, location: &str) -> Result<Vec<Size>>;

    /// What is used of the quotas of a region.
    ///
    /// # Errors
    /// If Azure cannot be asked.
    async fn usages(
        &self,
        subscription: &str,
        provider: Provider,
        location: &str,
    ) -> Result<Vec<Usage>>;

    /// What the identity may do in a resource group; [`check::allows`] reads it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such group.
    async fn permissions(&self, group: &GroupId) -> Result<Vec<Permission>>;
}
