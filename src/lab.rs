//! What the lab is made of. It is shipped: a demonstration, the tests and the benchmarks run the same parts.
//!
//! Real: `cluster` (kube-apiserver and etcd), `azurite` (storage), `installed` (the chart, by Helm), obtained by
//! `tools`. Stand-ins for what cannot run here, which refuse what the real one refuses: `hypervisor` and the `guest` in
//! its machines, `arm` (Azure's control plane).

pub mod arm;
pub mod authority;
pub mod azurite;
pub mod cluster;
pub mod demo;
pub mod examples;
pub mod file;
pub mod guest;
pub mod hypervisor;
pub mod installed;
mod nbd;
pub mod process;
pub mod service;
pub mod stage;
pub mod tools;
pub mod verdict;
