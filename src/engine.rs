//! The host side of replication: freezes, copies, captures and ships the disks of one VM.
pub mod copy;
pub mod phase;
pub mod progress;
pub mod resume;
pub mod throttle;
