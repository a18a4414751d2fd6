//! A host's face: keeps a connection to the gateway, and replicates the VMs that it is told to.
//!
//! ```text
//! connection ── routes ──► supervisor ── one engine per VM ──► storage
//!                              │  ▲                              ▲
//!        what survives: state ─┘  └── observations ◄── inventory ┴── hypervisor
//! ```
//! It replicates whether a controller is there or not. What it keeps on disk is a cache: with an empty folder it learns
//! from the next command what to replicate, and from storage where to go on.

pub mod connection;
pub mod inventory;
pub mod observations;
pub mod observer;
pub mod routes;
pub mod state;
pub mod supervisor;

mod translate;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::inventory::Inventory;
use crate::agent::state::StateFolder;
use crate::agent::supervisor::{Edges, Supervisor};
use crate::host::Hypervisor;
use crate::ids::HostName;
use crate::report::Fault;
use crate::transport::http::Http;
use crate::units::Clock;

/// What an agent is made of.
pub struct Config {
    pub host: HostName,
    /// What survives a restart is kept here.
    pub state: PathBuf,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub http: Http,
    pub clock: Arc<dyn Clock>,
    pub connection: connection::Config,
    pub connection_state: watch::Sender<connection::State>,
}

/// Runs until `shutdown`.
///
/// # Errors
/// If the state folder cannot be used.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Fault> {
    let state = StateFolder::open(&config.state).map_err(|error| error.fault())?;
    let inventory = Inventory::watch(config.hypervisor.clone(), shutdown.child_token());
    let edges = Edges {
        hypervisor: config.hypervisor,
        http: config.http,
        clock: config.clock,
    };
    let supervisor =
        Supervisor::start(config.host, state, edges, inventory, shutdown.child_token());
    let router = routes::router(supervisor.clone());
    connection::run(config.connection, router, config.connection_state, shutdown).await;
    supervisor.stop().await;
    Ok(())
}
