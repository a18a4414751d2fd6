//! The cloud side of replication: turns the sealed logs of one VM into page blobs and recovery points.
//!
//! ```text
//!            ┌── one apply cycle ───────────────────────────────────────────────────────────────────┐
//! inbox ───► │ plan ► mark (replica.json) ► fence blobs ► per seal: verify all, then write pages    │
//!            │      ► chunk tables ► at a barrier: snapshot every disk ► publish (replica.json)     │
//!            └──────────────────────────────────────────────► drop what was applied ► fold tables ──┘
//! ```
//! What must hold whenever it dies: a point that is published is whole; what a seal brought is in the inbox until the
//! manifest says that it is in the disks; only the newest owner of a replica changes a page. Every step can be done
//! again by the same owner or the next.
//!
//! [`store`] is where one replica stands, [`worker`] works on one, [`runner`] on many; [`room`] bounds what a cycle holds;
//! what a cycle brings and does is decided in [`plan`], [`digest`], [`advance`] and [`fold`], which do no I/O. Between
//! cycles [`chain`] gives up what cannot be applied and begins anew, and [`prune`] lets recovery points go. Where the work
//! is done by processes of their own, [`follower`] sees from storage how far they are, and [`trouble`] what they say.
//!
//! What a failover imports is copied from a point by [`import`].
//!
//! Beside it, and beside a running one, stands what only reads: [`inspect`] finds replicas and says how they are,
//! [`content`] reads a disk of a point and compares it with the chunk table, on which [`verify`] and [`restore`] build.

pub mod advance;
pub mod chain;
pub mod collect;
pub mod content;
pub mod cycle;
pub mod digest;
pub mod disk;
pub mod error;
pub mod fold;
pub mod follower;
pub mod import;
pub mod inbox;
pub mod inspect;
pub mod logs;
pub mod plan;
pub mod prune;
pub mod restore;
pub mod room;
pub mod runner;
pub mod store;
pub mod tables;
pub mod trouble;
pub mod verify;
pub mod worker;

pub use error::Error;
