//! The cloud side of replication: turns sealed logs into page blobs and recovery points.
pub mod digest;
pub mod fold;
pub mod plan;
