//! Disaster recovery for Hyper-V virtual machines, as Kubernetes resources.
//!
//! ```text
//!  a Hyper-V host                              a cluster                            a storage account
//! ┌──────────────────────────┐   TLS, dialled ┌───────────────────────┐            ┌──────────────────────┐
//! │ agent ─ engine ─ host    │   by the agent │ controller            │  documents │ site, records, fence │
//! │   one engine per VM      ├───────────────►│   sites, VMs, gateway ├───────────►│                      │
//! │   └─ logs, sealed ───────┼────────────────┼───────────────────────┼───────────►│ inbox of the replica │
//! └──────────────────────────┘                │ datapath              │◄───────────┤   └─ logs            │
//!                                             │   applies, publishes  ├───────────►│ page blobs, points   │
//!                                             └───────────────────────┘            └──────────────────────┘
//! ```
//!
//! Each layer names those below it and none above; `tests/it/architecture.rs` holds them to it.
//!
//! | layer | modules | what they are |
//! |---|---|---|
//! | outermost | [`cli`] | what was typed becomes a configuration; real edges are put together |
//! | | [`lab`] | a whole site on one machine, for the demonstration and the tests |
//! | processes | [`controller`], [`agent`] | the two that are deployed |
//! | work | [`engine`], [`datapath`] | a VM's replication on its host; what becomes of it in the cloud |
//! | what is said | [`api`], [`agent_client`], [`wire`], [`replica`], [`hrl`] | to Kubernetes, to an agent, in storage; in logs |
//! | edges | [`blob`], [`azure`], [`host`], [`formats`] | storage, Azure's control plane and hypervisor, each behind a trait; disk images |
//! | below the edges | [`transport`] | what both edges of Azure stand on: HTTP, identities, tokens |
//! | words | [`units`], [`ids`], [`report`], [`retry`], [`secret`], [`durable`], [`buffers`], [`shutdown`], [`telemetry`], [`tls`] | what all others speak in |
//!
//! To follow a VM from `kubectl apply` to its first recovery point, read `controller::vm::step`, `engine::phase`,
//! `replica::seal` and `datapath::cycle`, in this order: each opens with a drawing.

pub mod agent;
pub mod agent_client;
pub mod api;
pub mod azure;
pub mod blob;
pub mod buffers;
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
pub mod transport;
pub mod units;
pub mod wire;
