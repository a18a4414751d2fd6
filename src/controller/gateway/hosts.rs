//! The book of hosts: who is connected by which connection, and who was. Pure; the time is an argument.
//!
//! ```text
//! arrive ──► connected ──── update ────► connected
//!               │  a newer arrival of the same host: the older ticket speaks for nobody any more
//!               └──────── lose ────► lost(since) ──── arrive ────► connected
//! ```

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::agent_client::Agent;
use crate::controller::gateway::host_state::{HostState, Link};
use crate::controller::gateway::observed::Observed;
use crate::ids::{HostName, ObjectName};
use crate::tls::PeerIdentity;
use crate::wire::HelloReply;

/// How many hosts are kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connected hosts: four times the fleet that a controller is made for.
    pub connected: usize,
    /// Among them, hosts of sites that do not exist: certificates outlive deleted sites.
    pub strangers: usize,
    /// Hosts that were connected once.
    pub lost: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connected: 4096,
            strangers: 256,
            lost: 4096,
        }
    }
}

/// How much of an agent's release is kept.
const RELEASE_MAX: usize = 64;

pub(crate) struct Hosts {
    bounds: Bounds,
    /// The sites that exist; unknown until somebody has said so.
    sites: Option<HashSet<ObjectName>>,
    by_site: BTreeMap<ObjectName, BTreeMap<HostName, Entry>>,
    /// The number of the next connection.
    next: u64,
}

struct Entry {
    state: Arc<HostState>,
    /// Number and end of the connection that speaks for the host.
    connection: Option<(u64, CancellationToken)>,
}

/// What a new connection brings.
pub(crate) struct Arrival {
    pub(crate) identity: PeerIdentity,
    pub(crate) peer: SocketAddr,
    pub(crate) certificate_expires: Option<Timestamp>,
    pub(crate) reply: HelloReply,
    pub(crate) agent: Arc<dyn Agent>,
}

/// The right of a connection to speak for its host, until a newer one has it.
pub(crate) struct Ticket {
    pub(crate) identity: PeerIdentity,
    number: u64,
    /// Cancelled when the connection shall end.
    pub(crate) over: CancellationToken,
}

/// A connection that was admitted.
pub(crate) struct Arrived {
    pub(crate) ticket: Ticket,
    /// What is known already of the agent's session.
    pub(crate) observed: Observed,
    /// The host as it was before.
    pub(crate) before: Option<Arc<HostState>>,
}

/// No more connections are admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Full {
    #[error("the gateway serves {0} hosts already")]
    Hosts(usize),
    #[error("no HyperVSite {site} exists, and {max} hosts without one are connected already")]
    Strangers { site: ObjectName, max: usize },
}

impl Hosts {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Hosts {
            bounds,
            sites: None,
            by_site: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn get(&self, site: &ObjectName, host: &HostName) -> Option<Arc<HostState>> {
        Some(self.by_site.get(site)?.get(host)?.state.clone())
    }

    /// The hosts of a site, by name.
    pub(crate) fn of_site(&self, site: &ObjectName) -> Vec<Arc<HostState>> {
        let hosts = self.by_site.get(site).into_iter().flatten();
        hosts.map(|(_, entry)| entry.state.clone()).collect()
    }

    /// Says which sites exist. Lost hosts of others are forgotten.
    pub(crate) fn know_sites(&mut self, sites: HashSet<ObjectName>) {
        self.sites = Some(sites);
        self.forget_lost();
    }

    /// Forgets every host, and ends its connection.
    pub(crate) fn clear(&mut self) {
        for entry in std::mem::take(&mut self.by_site)
            .into_values()
            .flat_map(BTreeMap::into_values)
        {
            entry.end();
        }
    }

    /// Admits a connection, and ends an older one of the same host.
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn arrive(&mut self, arrival: Arrival, now: Timestamp) -> Result<Arrived, Full> {
        self.check_room(&arrival.identity)?;
        let number = self.next;
        self.next += 1;
        let over = CancellationToken::new();
        let PeerIdentity { site, host } = arrival.identity.clone();
        let hosts = self.by_site.entry(site.clone()).or_default();
        let before = hosts.remove(&host).map(Entry::end);
        let observed = before
            .as_ref()
            .map(|before| &before.observed)
            .filter(|observed| observed.session == arrival.reply.session)
            .map_or_else(|| Observed::nothing_of(arrival.reply.session), Clone::clone);
        let state = HostState {
            site,
            host: host.clone(),
            release: arrival.reply.release.chars().take(RELEASE_MAX).collect(),
            link: Link::Connected {
                since: now,
                peer: arrival.peer,
                certificate_expires: arrival.certificate_expires,
                agent: arrival.agent,
            },
            heard_at: now,
            observed: observed.clone(),
            trouble: None,
        };
        let entry = Entry {
            state: Arc::new(state),
            connection: Some((number, over.clone())),
        };
        hosts.insert(host, entry);
        Ok(Arrived {
            ticket: Ticket {
                identity: arrival.identity,
                number,
                over,
            },
            observed,
            before,
        })
    }

    /// Changes a host, if the ticket still speaks for it.
    pub(crate) fn update<T>(
        &mut self,
        ticket: &Ticket,
        change: impl FnOnce(&mut HostState) -> T,
    ) -> Option<T> {
        let entry = self.entry(ticket)?;
        Some(change(Arc::make_mut(&mut entry.state)))
    }

    /// Marks a host as lost, if the ticket still speaks for it. True if it did.
    pub(crate) fn lose(&mut self, ticket: &Ticket, now: Timestamp, reason: String) -> bool {
        let Some(entry) = self.entry(ticket) else {
            return false;
        };
        entry.connection = None;
        Arc::make_mut(&mut entry.state).link = Link::Lost { since: now, reason };
        self.forget_lost();
        true
    }

    fn entry(&mut self, ticket: &Ticket) -> Option<&mut Entry> {
        let PeerIdentity { site, host } = &ticket.identity;
        let entry = self.by_site.get_mut(site)?.get_mut(host)?;
        let number = entry.connection.as_ref().map(|(number, _)| *number);
        (number == Some(ticket.number)).then_some(entry)
    }

    fn check_room(&self, identity: &PeerIdentity) -> Result<(), Full> {
        let present = |hosts: &BTreeMap<HostName, Entry>| {
            hosts.values().filter(|entry| entry.is_connected()).count()
        };
        let hosts = self.by_site.get(&identity.site);
        let known = hosts.and_then(|hosts| hosts.get(&identity.host));
        if known.is_some_and(Entry::is_connected) {
            return Ok(());
        }
        let Bounds {
            connected,
            strangers,
            ..
        } = self.bounds;
        if self.by_site.values().map(present).sum::<usize>() >= connected {
            return Err(Full::Hosts(connected));
        }
        if !self.is_strange(&identity.site) {
            return Ok(());
        }
        let strange = self
            .by_site
            .iter()
            .filter(|(site, _)| self.is_strange(site));
        if strange.map(|(_, hosts)| present(hosts)).sum::<usize>() >= strangers {
            return Err(Full::Strangers {
                site: identity.site.clone(),
                max: strangers,
            });
        }
        Ok(())
    }

    /// Whether a site is known not to exist.
    fn is_strange(&self, site: &ObjectName) -> bool {
        let sites = self.sites.as_ref();
        sites.is_some_and(|sites| !sites.contains(site))
    }

    /// Forgets lost hosts of sites that do not exist, and of the others those beyond the bound, oldest first.
    fn forget_lost(&mut self) {
        let mut lost = Vec::new();
        let mut strange = Vec::new();
        for (site, hosts) in &self.by_site {
            let is_strange = self.is_strange(site);
            for entry in hosts.values() {
                match &entry.state.link {
                    Link::Connected { .. } => {}
                    Link::Lost { .. } if is_strange => strange.push(entry.state.clone()),
                    Link::Lost { since, .. } => lost.push((*since, entry.state.clone())),
                }
            }
        }
        lost.sort_by_key(|(since, _)| *since);
        lost.truncate(lost.len().saturating_sub(self.bounds.lost));
        for host in strange.iter().chain(lost.iter().map(|(_, host)| host)) {
            if let Some(hosts) = self.by_site.get_mut(&host.site) {
                hosts.remove(&host.host);
            }
        }
        self.by_site.retain(|_, hosts| !hosts.is_empty());
    }
}

impl Entry {
    const fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Ends the connection, if there is one; what is left is the host as it was.
    fn end(self) -> Arc<HostState> {
        if let Some((_, over)) = self.connection {
            over.cancel();
        }
        self.state
    }
}

#[cfg(test)]
mod tests;
