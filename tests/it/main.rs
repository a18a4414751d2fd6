//! The integration tests: one binary, so that they link once.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod architecture;
mod arm;
mod blob;
mod campaign;
mod chart;
mod commands;
mod connection;
mod corpus;
mod crds;
mod formats;
mod hypervisor;
mod lab_tools;
mod leader;
mod model_check;
mod outside;
mod protection;
mod replica;
mod replication;
mod shared_cluster;
