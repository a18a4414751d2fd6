//! A host as the controller knows it: connected or not, and what was observed last.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::agent_client::Agent;
use crate::controller::gateway::observed::Observed;
use crate::ids::{HostName, ObjectName};
use crate::report::Fault;

/// A snapshot: it does not change under its reader. What it says of a lost host is what was true when it was lost.
#[derive(Clone)]
pub struct HostState {
    pub site: ObjectName,
    pub host: HostName,
    /// The agent's release.
    pub release: String,
    pub link: Link,
    /// When the agent last said anything that the gateway asked for.
    pub heard_at: Timestamp,
    pub observed: Observed,
    /// Why observations cannot be had although the host is connected.
    pub trouble: Option<Fault>,
}

/// Whether a host can be asked.
#[derive(Clone)]
pub enum Link {
    Connected {
        since: Timestamp,
        /// Where the connection comes from; behind NAT, not the host's own address.
        peer: SocketAddr,
        /// When the agent's certificate ends.
        certificate_expires: Option<Timestamp>,
        agent: Arc<dyn Agent>,
    },
    Lost {
        since: Timestamp,
        reason: String,
    },
}

impl HostState {
    /// Whom to ask, if the host is connected.
    pub fn agent(&self) -> Option<&Arc<dyn Agent>> {
        match &self.link {
            Link::Connected { agent, .. } => Some(agent),
            Link::Lost { .. } => None,
        }
    }

    pub const fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }
}
