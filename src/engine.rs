//! The host side of replication: freezes, copies, captures and ships the disks of one VM.
//!
//! ```text
//! hypervisor ──frozen point──► copy ──────┐                       ┌─► <sequence>/<log>.hrl   a few at a time
//!                              (compare)  ├─ pieces ─► ship ──────┤
//! hypervisor ──changes───► capture ─► .hrl┘            (pack,     └─► <sequence>/sealed.json in order, last
//!                          beside the disk              throttle)      ▲ ledger
//! ```
//! [`phase`] says what comes next, [`resume`] where to go on after a restart, both without I/O; [`run`] performs a phase
//! and reports. What must hold whenever it dies: a log exists only once a seal names it; a cursor is given up only after
//! the seal that replaces it is stored; what an engine remembers is a cache, storage and hypervisor decide.

pub mod answers;
pub mod capture;
pub mod copy;
pub mod cycles;
pub mod demand;
pub mod error;
pub mod filling;
pub mod ledger;
pub mod pack;
pub mod phase;
pub mod progress;
pub mod resume;
pub mod run;
pub mod ship;
pub mod source;
pub mod throttle;

mod capturing;
mod copying;
mod freezing;

pub use error::Error;
pub use run::{Engine, Observation, Options};
