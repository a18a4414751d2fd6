//! From a name to a TCP connection that ends at the gateway: resolve, connect, pass a proxy. Every time anew, because
//! names move.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::agent::connection::address::{Address, Invalid, Proxy};
use crate::agent::connection::tunnel;
use crate::report::Code;

/// For each of: resolving the name, connecting to one address, the proxy's answer.
pub(crate) const STEP: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why the gateway was not reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the way to {gateway} is not clear")]
    Way { gateway: String, source: Invalid },
    #[error("{host} cannot be resolved")]
    Resolve { host: String, source: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("{host} cannot be reached at {address}")]
    Connect {
        host: String,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{gateway} cannot be reached through the proxy {proxy}")]
    Tunnel {
        gateway: String,
        proxy: String,
        source: tunnel::Error,
    },
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Way { .. } => Code::Configuration,
            Error::Resolve { .. }
            | Error::NoAddress(_)
            | Error::Connect { .. }
            | Error::Tunnel { .. } => Code::AgentUnreachable,
        }
    }
}

/// Connects to the gateway.
///
/// # Errors
/// The last obstacle, after all addresses have been tried.
pub(crate) async fn dial(gateway: &Address, proxy: &Proxy) -> Result<TcpStream, Error> {
    let hop = proxy.hop(gateway).map_err(|source| Error::Way {
        gateway: gateway.authority(),
        source,
    })?;
    let Some(hop) = hop else {
        return connect(gateway).await;
    };
    let mut stream = connect(&hop.address).await?;
    let opened = tunnel::open(&mut stream, gateway, hop.authorization.as_ref());
    timeout(STEP, opened)
        .await
        .unwrap_or_else(|_| Err(late().into()))
        .map_err(|source| Error::Tunnel {
            gateway: gateway.authority(),
            proxy: hop.address.authority(),
            source,
        })?;
    Ok(stream)
}

async fn connect(to: &Address) -> Result<TcpStream, Error> {
    let host = to.authority();
    let resolved = timeout(STEP, lookup_host((to.host(), to.port()))).await;
    let resolved = resolved.unwrap_or_else(|_| Err(late()));
    let mut addresses: Vec<SocketAddr> = match resolved {
        Ok(addresses) => addresses.take(ADDRESSES_MAX).collect(),
        Err(source) => return Err(Error::Resolve { host, source }),
    };
    if !addresses.is_empty() {
        // The replicas of a controller share a name; the leader must not be the last that is found every time.
        let first = rand::random_range(0..addresses.len());
        addresses.rotate_left(first);
    }
    let mut last = Error::NoAddress(host.clone());
    for address in addresses {
        let connected = timeout(STEP, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(late())) {
            Ok(stream) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "small messages may be delayed");
                }
                return Ok(stream);
            }
            Err(source) => {
                last = Error::Connect {
                    host: host.clone(),
                    address,
                    source,
                };
            }
        }
    }
    Err(last)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {STEP:?}"))
}
