//! What agents are told of their hosts: once per session and change, many at the same time.
//!
//! One that hangs takes as long as a command may take; it must hold up neither the others nor the site for longer.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use uuid::Uuid;

use crate::agent_client::Agent;
use crate::controller::gateway::host_state::HostState;
use crate::controller::site::bandwidth::Cap;
use crate::ids::{HostName, OperationId, random};
use crate::report::Fault;
use crate::wire::{HostCommand, Settings};

/// Agents that are told at the same time: a site has at most 256 hosts.
const AT_ONCE: usize = 32;

/// The session of each agent that was told the settings, and the settings.
#[derive(Default)]
pub struct Told(HashMap<HostName, (Uuid, Settings)>);

impl Told {
    /// Tells each agent what holds for its host.
    pub async fn tell(&mut self, cap: Cap, hosts: &[(HostName, Option<Arc<HostState>>)]) {
        let settings = Settings {
            bandwidth: cap.bytes,
        };
        let mut tellings = Vec::new();
        for (host, state) in hosts {
            let Some((state, agent)) = state
                .as_ref()
                .and_then(|state| Some((state, state.agent()?)))
            else {
                continue;
            };
            let telling = (state.observed.session, settings.clone());
            if self.0.get(host) != Some(&telling) {
                tellings.push(tell(host.clone(), telling, agent.clone()));
            }
        }
        for (host, told) in at_once(tellings).await {
            match told {
                Ok(telling) => {
                    self.0.insert(host, telling);
                }
                Err(fault) => tracing::warn!(%host, %fault, "cannot tell the host's settings"),
            }
        }
    }
}

async fn tell(
    host: HostName,
    telling: (Uuid, Settings),
    agent: Arc<dyn Agent>,
) -> (HostName, Result<(Uuid, Settings), Fault>) {
    let command = HostCommand {
        operation: OperationId::from_random(random()),
        body: telling.1.clone(),
    };
    let told = agent.settings(&command).await;
    (host, told.map(|_| telling))
}

/// Does all, [`AT_ONCE`] at the same time.
async fn at_once<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    stream::iter(all).buffer_unordered(AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn hosts_are_told_at_the_same_time_and_not_more_than_the_bound() {
        // Each waits for as many others as there may be: one after another, none would ever end.
        let (barrier, under_way) = (Barrier::new(AT_ONCE), Cell::new(0));
        let each = |_| async {
            under_way.set(under_way.get() + 1);
            assert!(under_way.get() <= AT_ONCE);
            barrier.wait().await;
            under_way.set(under_way.get() - 1);
        };
        let told = at_once((0..AT_ONCE * 3).map(each).collect());
        assert_eq!(told.await.len(), AT_ONCE * 3);
    }
}
