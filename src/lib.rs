//! Disaster recovery for Hyper-V virtual machines, as Kubernetes resources.

pub mod api;
pub mod blob;
pub mod datapath;
pub mod durable;
pub mod engine;
pub mod formats;
pub mod host;
pub mod hrl;
pub mod ids;
pub mod replica;
pub mod report;
pub mod retry;
pub mod secret;
pub mod shutdown;
pub mod units;
pub mod wire;
