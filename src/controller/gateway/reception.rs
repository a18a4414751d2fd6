//! A connection from its first byte to its last.
//!
//! ```text
//! accepted ── TLS ──► identified ── hello ──► greeted ── room ──► registered ── polls … ──► ended
//!     │ refused          │ no answer,           │ not leader         │ lost, garbage, replaced,
//!     ▼                  ▼ other version        ▼ said so            ▼ not leader any more, stopping
//!   closed             closed                 closed              goodbye, closed
//! ```
//! Whoever has not got as far as *greeted* holds one of a bounded number of places, and a deadline runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::agent_client::http::{HttpAgent, LargeAnswers};
use crate::agent_client::{self, Agent as _};
use crate::controller::gateway::hosts::{Arrival, Ticket};
use crate::controller::gateway::observed::Observed;
use crate::controller::gateway::refusals::Claimant;
use crate::controller::gateway::registry::Registry;
use crate::report::{Code, Fault, chain};
use crate::tls::server::{AcceptError, Accepted, Refusal};
use crate::tls::{PeerIdentity, ServerTls};
use crate::wire::{Hello, HelloReply, OLDEST, VERSION, Versions};

/// How long things may take. The defaults are what production uses.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte to the end of the TLS handshake.
    pub handshake: Duration,
    /// Between the starts of two polls of one host: how often an agent that always has news is asked.
    pub poll_pace: Duration,
    /// Until the next poll, when the agent could not say what it observes.
    pub poll_retry: Duration,
    /// For what is under way when a connection is given up.
    pub goodbye: Duration,
    pub agent: agent_client::http::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            handshake: Duration::from_secs(10),
            poll_pace: Duration::from_millis(500),
            poll_retry: Duration::from_secs(5),
            goodbye: Duration::from_secs(10),
            agent: agent_client::http::Limits::default(),
        }
    }
}

/// What all connections share.
pub(crate) struct Reception {
    pub(crate) tls: ServerTls,
    pub(crate) leader: watch::Receiver<bool>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) limits: Limits,
    pub(crate) large: LargeAnswers,
    pub(crate) shutdown: CancellationToken,
}

/// Who is at the other end, proved by a certificate.
struct Identified {
    identity: PeerIdentity,
    peer: SocketAddr,
    certificate_expires: Option<Timestamp>,
}

/// An agent that has answered the first question as it should.
struct Greeted {
    from: Identified,
    agent: Arc<HttpAgent>,
    reply: HelloReply,
}

/// A connection that speaks for its host; whatever becomes of its task, the host is marked as lost after it.
struct Registered<'a> {
    registry: &'a Registry,
    ticket: Ticket,
    reason: String,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let reason = std::mem::take(&mut self.reason);
        self.registry.lost(&self.ticket, reason);
    }
}

/// Why a registered connection ends.
enum End {
    Gone(String),
    Garbage(Fault),
    Replaced,
    NotLeader,
    Stopping,
}

impl Reception {
    /// Serves a connection until it ends. `place` is given back as soon as the agent is known.
    pub(crate) async fn receive(
        &self,
        io: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
    ) {
        let greeted = tokio::select! {
            greeted = self.greet(io, peer) => greeted,
            () = self.shutdown.cancelled() => None,
        };
        drop(place);
        if let Some(greeted) = greeted {
            self.serve(greeted).await;
        }
    }

    /// Finds out who it is and what it speaks. Nothing, if it goes no further.
    async fn greet(&self, io: TcpStream, peer: SocketAddr) -> Option<Greeted> {
        let accepted = self.shake_hands(io, peer).await?;
        let from = Identified {
            identity: accepted.identity,
            peer,
            certificate_expires: accepted.certificate_expires,
        };
        match self.introduce(&from.identity, accepted.stream).await {
            Ok((agent, Some(reply))) => Some(Greeted {
                from,
                agent: Arc::new(agent),
                reply,
            }),
            Ok((agent, None)) => {
                agent.close(self.limits.goodbye).await;
                None
            }
            Err(fault) => {
                self.refuse(Claimant::Host(from.identity), peer, fault);
                None
            }
        }
    }

    async fn shake_hands(&self, io: TcpStream, peer: SocketAddr) -> Option<Accepted<TcpStream>> {
        let address = Claimant::Address(peer.ip());
        match timeout(self.limits.handshake, self.tls.accept(io)).await {
            Ok(Ok(accepted)) => return Some(accepted),
            Ok(Err(AcceptError::Refused(Refusal { claimed, reason }))) => {
                let who = claimed
                    .as_ref()
                    .map_or_else(|| peer.ip().to_string(), PeerIdentity::to_string);
                let message = format!("{who} was refused: {reason}");
                let fault = Fault::new(Code::Configuration, message);
                self.refuse(claimed.map_or(address, Claimant::Host), peer, fault);
            }
            Ok(Err(AcceptError::Certificates(error))) => {
                tracing::error!(error = chain(&error), "no agent can connect");
            }
            Ok(Err(error @ AcceptError::Ended(_))) => {
                tracing::debug!(%peer, error = chain(&error), "not an agent");
            }
            Err(_) => {
                let limit = self.limits.handshake;
                let message = format!("{} did not finish its handshake in {limit:?}", peer.ip());
                self.refuse(address, peer, Fault::new(Code::AgentUnreachable, message));
            }
        }
        None
    }

    /// Says hello. The reply is kept only if this replica of the controller leads.
    async fn introduce(
        &self,
        identity: &PeerIdentity,
        stream: TlsStream<TcpStream>,
    ) -> Result<(HttpAgent, Option<HelloReply>), Fault> {
        let host = identity.host.clone();
        let agent = HttpAgent::connect(host, stream, self.limits.agent, self.large.clone()).await?;
        let leader = *self.leader.borrow();
        match agent.hello(&hello(leader)).await {
            Ok(reply) => {
                check(identity, &reply)?;
                Ok((agent, leader.then_some(reply)))
            }
            Err(fault) => Err(fault),
        }
    }

    async fn serve(&self, greeted: Greeted) {
        let Greeted { from, agent, reply } = greeted;
        let release = reply.release.clone();
        let arrival = Arrival {
            identity: from.identity.clone(),
            peer: from.peer,
            certificate_expires: from.certificate_expires,
            reply,
            agent: agent.clone(),
        };
        let (ticket, observed) = match self.registry.arrived(arrival) {
            Ok(arrived) => arrived,
            Err(full) => {
                let fault = Fault::of(Code::Configuration, &full);
                self.refuse(Claimant::Host(from.identity), from.peer, fault);
                agent.close(Duration::ZERO).await;
                return;
            }
        };
        let PeerIdentity { site, host } = from.identity;
        tracing::info!(%site, %host, peer = %from.peer, release, "agent connected");
        let mut registered = Registered {
            registry: &self.registry,
            ticket,
            reason: "the gateway gave the connection up".to_owned(),
        };
        let end = self.follow(&registered.ticket, &agent, observed).await;
        registered.reason = end.reason();
        tracing::info!(%site, %host, reason = registered.reason, "agent disconnected");
        let identity = registered.ticket.identity.clone();
        drop(registered);
        match end {
            End::Gone(_) | End::Replaced => agent.close(Duration::ZERO).await,
            End::Garbage(fault) => {
                self.refuse(Claimant::Host(identity), from.peer, fault);
                agent.close(Duration::ZERO).await;
            }
            End::NotLeader | End::Stopping => {
                // Told so, the agent looks for the leader at once instead of backing off.
                let _ = timeout(self.limits.goodbye, agent.hello(&hello(false))).await;
                agent.close(self.limits.goodbye).await;
            }
        }
    }

    /// Publishes what the agent observes, until there is a reason to stop.
    async fn follow(&self, ticket: &Ticket, agent: &HttpAgent, mut observed: Observed) -> End {
        let mut next = Instant::now();
        loop {
            let poll = async {
                sleep_until(next).await;
                let started = Instant::now();
                let answer = agent
                    .observations(observed.session, observed.revision)
                    .await;
                (started, answer)
            };
            let (started, answer) = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return End::Stopping,
                () = self.leadership_lost() => return End::NotLeader,
                () = ticket.over.cancelled() => return End::Replaced,
                answer = poll => answer,
                why = agent.ended() => return End::Gone(why),
            };
            next = started + self.limits.poll_pace;
            match answer {
                Ok(news) => match observed.after(news) {
                    Ok((now, changes)) => {
                        observed = now;
                        self.registry.observed(ticket, observed.clone(), changes);
                    }
                    Err(garbage) => {
                        return End::Garbage(Fault::of(Code::InvalidRequest, &garbage));
                    }
                },
                Err(fault) => match fault.code {
                    Code::AgentUnreachable => return End::Gone(fault.message),
                    Code::InvalidRequest => return End::Garbage(fault),
                    _ => {
                        self.registry.in_trouble(ticket, fault);
                        next = Instant::now() + self.limits.poll_retry;
                    }
                },
            }
        }
    }

    async fn leadership_lost(&self) {
        // If nobody says who leads any more, nobody does.
        let _ = self.leader.clone().wait_for(|leads| !*leads).await;
    }

    fn refuse(&self, claimant: Claimant, peer: SocketAddr, fault: Fault) {
        self.registry.refuse(claimant, peer, fault);
    }
}

impl End {
    fn reason(&self) -> String {
        match self {
            End::Gone(why) => why.clone(),
            End::Garbage(fault) => format!("it was disconnected: {}", fault.message),
            End::Replaced => "a newer connection of the host took its place".to_owned(),
            End::NotLeader => "this replica of the controller does not lead any more".to_owned(),
            End::Stopping => "the controller is stopping".to_owned(),
        }
    }
}

fn hello(leader: bool) -> Hello {
    Hello {
        versions: Versions::OURS,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        leader,
    }
}

/// Whether the agent is who its certificate says, and will speak what this side speaks.
fn check(identity: &PeerIdentity, reply: &HelloReply) -> Result<(), Fault> {
    if reply.host != identity.host {
        let message = format!(
            "{identity} was refused: it calls itself {}, its certificate is for {}",
            reply.host, identity.host
        );
        return Err(Fault::new(Code::Configuration, message));
    }
    if !(OLDEST..=VERSION).contains(&reply.version) {
        let message = format!(
            "{identity} was refused: it wants to speak version {}, the controller speaks {OLDEST} to {VERSION}",
            reply.version
        );
        return Err(Fault::new(Code::AgentIncompatible, message));
    }
    Ok(())
}
