//! Which hosts are connected, what they were observed to be, and who was refused: what the controller reads.
//!
//! Readers get shared snapshots; nobody waits for anything under the lock, and every change is announced after it can be
//! read. The registry decides nothing about hosts of sites that do not exist: they are connected, and nobody's.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::controller::gateway::changes::{BEHIND_MAX, Changes, Event};
use crate::controller::gateway::host_state::HostState;
use crate::controller::gateway::hosts::{Arrival, Arrived, Bounds, Full, Hosts, Ticket};
use crate::controller::gateway::observed::{self, Observed};
use crate::controller::gateway::refusals::{Claimant, Refusals, Refused};
use crate::ids::{HostName, ObjectName, ReplicaId};
use crate::report::Fault;
use crate::tls::PeerIdentity;
use crate::units::Clock;
use crate::wire::ReplicationObservation;

/// Claimants whose refusals are kept.
const REFUSED_MAX: usize = 1000;

/// The hosts that a controller knows.
pub struct Registry {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

struct State {
    since: Timestamp,
    hosts: Hosts,
    refusals: Refusals,
}

impl Registry {
    pub fn new(clock: Arc<dyn Clock>, bounds: Bounds) -> Self {
        let state = State {
            since: clock.now(),
            hosts: Hosts::new(bounds),
            refusals: Refusals::new(REFUSED_MAX),
        };
        let (events, _) = broadcast::channel(BEHIND_MAX);
        Registry {
            clock,
            state: Mutex::new(state),
            events,
        }
    }

    /// Since when hosts could have connected: the silence of one that was never heard counts from here.
    pub fn since(&self) -> Timestamp {
        self.lock().since
    }

    /// A host, if it was ever connected.
    pub fn host(&self, site: &ObjectName, host: &HostName) -> Option<Arc<HostState>> {
        self.lock().hosts.get(site, host)
    }

    /// The hosts of a site that were ever connected, by name.
    pub fn hosts(&self, site: &ObjectName) -> Vec<Arc<HostState>> {
        self.lock().hosts.of_site(site)
    }

    /// The hosts of a site that observe this replica: more than one while a VM moves, or after it has moved away from a
    /// host that was lost.
    pub fn replication(
        &self,
        site: &ObjectName,
        replica: &ReplicaId,
    ) -> Vec<(Arc<HostState>, Arc<ReplicationObservation>)> {
        let found = |host: Arc<HostState>| {
            let replication = host.observed.replications.get(replica)?.clone();
            Some((host, replication))
        };
        self.hosts(site).into_iter().filter_map(found).collect()
    }

    /// Everybody who was refused and has not been let in since.
    pub fn refused(&self) -> Vec<Refused> {
        self.lock().refusals.iter().cloned().collect()
    }

    /// What changes from now on.
    pub fn changes(&self) -> Changes {
        Changes::new(&self.events)
    }

    /// Says which sites exist. Hosts of others are kept to a few, and forgotten when they are lost.
    pub fn know_sites(&self, sites: HashSet<ObjectName>) {
        self.lock().hosts.know_sites(sites);
    }

    /// Begins to count: from now on hosts find a leader here.
    pub(crate) fn begin(&self) {
        self.lock().since = self.clock.now();
        self.announce(Event::Everything);
    }

    /// Forgets all hosts and ends their connections: from now on they are elsewhere.
    pub(crate) fn forget(&self) {
        self.lock().hosts.clear();
        self.announce(Event::Everything);
    }

    /// Admits a connection; an older one of the same host ends.
    ///
    /// # Errors
    /// If there are too many.
    pub(crate) fn arrived(&self, arrival: Arrival) -> Result<(Ticket, Observed), Full> {
        let now = self.clock.now();
        let (arrived, was_refused) = {
            let mut state = self.lock();
            let arrived = state.hosts.arrive(arrival, now)?;
            let was_refused = state.refusals.admitted(&arrived.ticket.identity);
            (arrived, was_refused)
        };
        let Arrived {
            ticket,
            observed,
            before,
        } = arrived;
        let identity = &ticket.identity;
        if let Some(before) = before.filter(|b| b.observed.session != observed.session) {
            for replica in before.observed.replications.keys() {
                self.announce(replication_changed(identity, replica.clone()));
            }
        }
        self.announce(host_changed(identity));
        if was_refused {
            self.announce(Event::Refused(Claimant::Host(identity.clone())));
        }
        Ok((ticket, observed))
    }

    /// Publishes what a connection has observed, unless it does not speak for its host any more.
    pub(crate) fn observed(&self, ticket: &Ticket, observed: Observed, changes: observed::Changes) {
        let now = self.clock.now();
        let update = |host: &mut HostState| {
            host.heard_at = now;
            host.observed = observed;
            host.trouble.take().is_some()
        };
        let Some(recovered) = self.lock().hosts.update(ticket, update) else {
            return;
        };
        if changes.machines || recovered {
            self.announce(host_changed(&ticket.identity));
        }
        for replica in changes.replications {
            self.announce(replication_changed(&ticket.identity, replica));
        }
    }

    /// Publishes that a connected host cannot say what it observes.
    pub(crate) fn in_trouble(&self, ticket: &Ticket, fault: Fault) {
        let now = self.clock.now();
        let update = |host: &mut HostState| {
            let news = host.trouble.as_ref() != Some(&fault);
            host.heard_at = now;
            host.trouble = Some(fault);
            news
        };
        if self.lock().hosts.update(ticket, update) == Some(true) {
            self.announce(host_changed(&ticket.identity));
        }
    }

    /// Publishes that a connection has ended, unless a newer one of its host stands.
    pub(crate) fn lost(&self, ticket: &Ticket, reason: String) {
        let now = self.clock.now();
        if self.lock().hosts.lose(ticket, now, reason) {
            self.announce(host_changed(&ticket.identity));
        }
    }

    /// Counts a refusal; says it where it is new.
    pub(crate) fn refuse(&self, claimant: Claimant, peer: SocketAddr, fault: Fault) {
        let now = self.clock.now();
        let (code, message) = (fault.code, fault.message.clone());
        let news = self
            .lock()
            .refusals
            .note(claimant.clone(), peer, fault, now);
        if !news {
            return;
        }
        tracing::warn!(%peer, %code, "{message}");
        self.announce(Event::Refused(claimant));
    }

    fn announce(&self, event: Event) {
        // Without a listener nobody needs to know.
        let _ = self.events.send(event);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn host_changed(identity: &PeerIdentity) -> Event {
    Event::HostChanged {
        site: identity.site.clone(),
        host: identity.host.clone(),
    }
}

fn replication_changed(identity: &PeerIdentity, replica: ReplicaId) -> Event {
    Event::ReplicationChanged {
        site: identity.site.clone(),
        host: identity.host.clone(),
        replica,
    }
}
