//! The agent's one connection: dials the gateway, serves on it, and dials again.
//!
//! ```text
//! dial (DNS, proxy) ──► TLS ──► serve HTTP/2 ──► ended ──► pause ──► dial …
//!    └────── failed ─────┴──────── failed ─────────┘        │ full jitter, `pause`
//! ```
//! Nothing dials in to a host. Certificates are those that the files hold at each dial. The same failure is said once,
//! not once per attempt. The agent goes on replicating whatever happens here.

pub mod address;
pub mod dial;
pub mod tunnel;

mod heard;
mod pause;
mod serve;

use std::sync::Arc;

use axum::Router;
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::agent::connection::address::{Address, Proxy};
use crate::agent::connection::pause::{Failures, Outcome};
use crate::agent::connection::serve::Ended;
use crate::agent::routes::incompatible;
use crate::report::{Code, Fault};
use crate::tls::ClientTls;
use crate::units::Clock;

pub use serve::Limits;

/// Distinct failures that are remembered as said, until a connection succeeds.
const SAID_MAX: usize = 32;

/// How the gateway is reached.
pub struct Config {
    pub gateway: Address,
    /// The name that the gateway's certificate must have.
    pub server_name: ServerName<'static>,
    pub proxy: Proxy,
    pub tls: ClientTls,
    pub limits: Limits,
    pub clock: Arc<dyn Clock>,
}

/// What is to be seen of the connection from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The leader that is being served, if one is.
    pub connected: Option<Connected>,
    /// Why the last attempt or connection ended; nothing while connected.
    pub last_error: Option<Fault>,
    /// Attempts that failed in a row.
    pub failures: u32,
}

/// A leader that has said hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    pub since: Timestamp,
    /// The controller's release.
    pub release: String,
}

/// Keeps a connection to the gateway, and serves `router` on it, until `shutdown`.
pub async fn run(
    config: Config,
    router: Router,
    state: watch::Sender<State>,
    shutdown: CancellationToken,
) {
    let mut failures = Failures::default();
    let mut said = Said::default();
    while !shutdown.is_cancelled() {
        let mut led_at = None;
        let led = |release: String| {
            led_at = Some(Instant::now());
            said.clear();
            let gateway = config.gateway.authority();
            tracing::info!(gateway, release, "connected to the controller");
            state.send_replace(State {
                connected: Some(Connected {
                    since: config.clock.now(),
                    release,
                }),
                ..State::default()
            });
        };
        let end = attempt(&config, &router, led, &shutdown).await;
        let outcome = outcome(&end, led_at);
        let (count, wait) = failures.pause(outcome, rand::random());
        failures = count;
        let fault = end.fault(&config.gateway);
        // That a replica does not lead is normal, and shown without being said.
        let worth_saying = fault.as_ref().filter(|_| outcome != Outcome::NotLeader);
        if let Some(fault) = worth_saying.filter(|fault| said.is_new(fault)) {
            tracing::warn!(code = %fault.code, "not connected to the controller: {}", fault.message);
        }
        state.send_replace(State {
            connected: None,
            last_error: fault,
            failures: failures.count(),
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// How an attempt ended.
enum End {
    /// Before anything was served.
    Unreached(Fault),
    Served(Ended),
}

async fn attempt(
    config: &Config,
    router: &Router,
    led: impl FnOnce(String),
    shutdown: &CancellationToken,
) -> End {
    let reached = tokio::select! {
        reached = reach(config) => reached,
        () = shutdown.cancelled() => return End::Served(Ended::Stopping),
    };
    match reached {
        Ok(stream) => End::Served(serve::serve(stream, router, config.limits, led, shutdown).await),
        Err(fault) => End::Unreached(fault),
    }
}

type TlsStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

async fn reach(config: &Config) -> Result<TlsStream, Fault> {
    let stream = dial::dial(&config.gateway, &config.proxy)
        .await
        .map_err(|error| Fault::of(error.code(), &error))?;
    let limit = config.limits.handshake;
    let handshake = config.tls.connect(&config.server_name, stream);
    match timeout(limit, handshake).await {
        Ok(connected) => connected.map_err(|error| error.fault()),
        Err(_) => {
            let gateway = config.gateway.authority();
            let message = format!("{gateway} did not finish the TLS handshake in {limit:?}");
            Err(Fault::new(Code::AgentUnreachable, message))
        }
    }
}

fn outcome(end: &End, led_at: Option<Instant>) -> Outcome {
    match (end, led_at) {
        (End::Served(Ended::NotLeader), _) => Outcome::NotLeader,
        (_, Some(since)) => Outcome::Served(since.elapsed()),
        (End::Unreached(_) | End::Served(_), None) => Outcome::Failed,
    }
}

impl End {
    /// What went wrong, where something did.
    fn fault(&self, gateway: &Address) -> Option<Fault> {
        let gateway = gateway.authority();
        let unreachable = |why: String| {
            Some(Fault::new(
                Code::AgentUnreachable,
                format!("{gateway} {why}"),
            ))
        };
        match self {
            End::Unreached(fault) => Some(fault.clone()),
            End::Served(Ended::Stopping) => None,
            End::Served(Ended::NotLeader) => {
                unreachable("does not lead; another replica may".to_owned())
            }
            End::Served(Ended::Incompatible { theirs }) => Some(incompatible(*theirs)),
            End::Served(Ended::Refused(why)) => {
                let message = format!("{gateway} refused this agent: {why}");
                Some(Fault::new(Code::Configuration, message))
            }
            End::Served(Ended::NoHello(limit)) => {
                unreachable(format!("did not say hello in {limit:?}"))
            }
            End::Served(Ended::Dead(limit)) => {
                unreachable(format!("has been silent for {limit:?}"))
            }
            End::Served(Ended::Closed(None)) => unreachable("closed the connection".to_owned()),
            End::Served(Ended::Closed(Some(why))) => unreachable(format!("was lost: {why}")),
        }
    }
}

/// What was said since the last success.
#[derive(Default)]
struct Said(Vec<String>);

impl Said {
    /// Whether the fault was not said before; it counts as said from now on.
    fn is_new(&mut self, fault: &Fault) -> bool {
        if self.0.contains(&fault.message) {
            return false;
        }
        if self.0.len() >= SAID_MAX {
            self.0.remove(0);
        }
        self.0.push(fault.message.clone());
        true
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_until_a_connection_succeeds() {
        let mut said = Said::default();
        let refused = Fault::new(Code::AgentUnreachable, "192.0.2.1 refused");
        let unknown = Fault::new(Code::AgentUnreachable, "the name is unknown");
        let new = [&refused, &unknown, &refused, &unknown].map(|fault| said.is_new(fault));
        assert_eq!(new, [true, true, false, false]);
        said.clear();
        assert!(said.is_new(&refused));
    }

    #[test]
    fn failures_without_end_are_not_remembered_without_end() {
        let mut said = Said::default();
        for number in 0..10 * SAID_MAX {
            said.is_new(&Fault::new(Code::Internal, number.to_string()));
        }
        assert_eq!(said.0.len(), SAID_MAX);
    }
}
