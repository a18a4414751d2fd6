//! Where agents arrive: accepts their connections, proves who they are, and follows what they observe.
//!
//! An agent dials in and serves; the gateway is the client on the connection that it accepted. Every replica of the
//! controller accepts; one that does not lead says so and closes, and the agent tries again. Nothing here dials a host,
//! and nothing here decides what is done with one.
//!
//! | who | may have |
//! |---|---|
//! | anybody who reaches the port | one of `PLACES`, until a deadline |
//! | a host that has proved who it is | one connection, and what [`Bounds`] say of all of them |

pub mod changes;
pub mod host_state;
pub mod inventory;
pub mod observed;
pub mod refusals;
pub mod registry;

mod hosts;
mod reception;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent_client::http::LargeAnswers;
use crate::controller::gateway::reception::Reception;
use crate::shutdown;
use crate::tls::ServerTls;

pub use hosts::Bounds;
pub use reception::Limits;
pub use registry::Registry;

/// Connections that have not been greeted yet. The next ones wait in the listener's queue.
const PLACES: usize = 256;
/// After a failure to accept: a process without file handles gets them back as connections end.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// The gateway of one replica of the controller.
pub struct Gateway {
    pub tls: ServerTls,
    /// Whether this replica leads.
    pub leader: watch::Receiver<bool>,
    pub registry: Arc<Registry>,
    pub limits: Limits,
}

impl Gateway {
    /// Accepts agents until `shutdown`, then says goodbye to all of them, at most for [`shutdown::DRAIN`].
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let kill = CancellationToken::new();
        let tasks = TaskTracker::new();
        let leader = self.leader.clone();
        let reception = Arc::new(Reception {
            tls: self.tls,
            leader: self.leader,
            registry: self.registry.clone(),
            limits: self.limits,
            large: LargeAnswers::default(),
            shutdown: shutdown.clone(),
        });
        let accepting = accept(&listener, &reception, &tasks, &kill);
        tokio::select! {
            () = accepting => {}
            () = follow_leadership(leader, &self.registry) => {}
            () = shutdown.cancelled() => {}
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(shutdown::DRAIN, tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(connections = tasks.len(), "connections did not end in time");
            kill.cancel();
            tasks.wait().await;
        }
    }
}

/// Accepts for ever.
async fn accept(
    listener: &TcpListener,
    reception: &Arc<Reception>,
    tasks: &TaskTracker,
    kill: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((io, peer)) => {
                if let Err(error) = io.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "small messages may be delayed");
                }
                let reception = reception.clone();
                let task = async move { reception.receive(io, peer, place).await };
                tasks.spawn(kill.clone().run_until_cancelled_owned(task));
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Without leadership nothing is known of hosts: they are elsewhere. Ends never.
async fn follow_leadership(mut leader: watch::Receiver<bool>, registry: &Registry) {
    leader.mark_unchanged();
    while leader.changed().await.is_ok() {
        if *leader.borrow_and_update() {
            registry.begin();
        } else {
            registry.forget();
        }
    }
    std::future::pending::<()>().await;
}
