//! Disaster recovery for Hyper-V virtual machines, as Kubernetes resources.

pub mod agent;
pub mod agent_client;
pub mod api;
pub mod blob;
pub mod cli;
pub mod controller;
pub mod datapath;
pub mod durable;
pub mod engine;
pub mod formats;
pub mod host;
pub mod hrl;
pub mod ids;
#[cfg(unix)]
pub mod lab;
pub mod replica;
pub mod report;
pub mod retry;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod units;
pub mod wire;
