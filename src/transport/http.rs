//! One exchange with the service over HTTP: bounded in time and size, without retries, redirects or cookies.
//!
//! A process makes one [`Http`] and shares it, so that connections are reused over accounts, containers and subscriptions.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use reqwest::{Client, Request, Response};

use crate::buffers::Buffer;
use crate::report::Code;
use crate::units::{MIB, to_u64, to_usize};

/// A host that does not take a connection in this time is unreachable.
const CONNECT: Duration = Duration::from_secs(15);
/// What a request without a body may take at most until its answer begins. The service itself gives up after 30 seconds
/// to some minutes, depending on the operation.
const FLOOR: Duration = Duration::from_secs(60);
/// What each MiB sent or expected adds: 35 KB/s, the slowest link on which replication is of any use.
const PER_MIB: Duration = Duration::from_secs(30);
/// An answer that has begun and then brings nothing for this long is given up.
const STALLED: Duration = Duration::from_secs(60);
/// What was sent and is not acknowledged for this long means that the peer, or the way to it, is dead. Without it a
/// long upload into a dead connection would last until its total time is up.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// Idle connections are probed this often, so that firewalls keep them and dead ones are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Idle connections are dropped before the service and the load balancers in front of it do (four minutes).
const IDLE: Duration = Duration::from_secs(90);
/// Memory taken at once on the strength of an announced length; beyond it, as bytes arrive.
const RESERVED_MAX: u64 = 256 * MIB;
/// Of an error's body no more is read: it is one message.
const ERROR_BODY_MAX: u64 = 64 << 10;

/// A transport that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("no TLS implementation is installed in this process")]
    NoTls,
    #[error("a root certificate cannot be read")]
    Certificate(#[source] reqwest::Error),
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

impl SetupError {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

/// The process's connections to Azure. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    routed: Client,
    direct: Client,
}

impl Http {
    /// A transport that trusts the machine's certificate authorities and those in `roots` (PEM), and takes the
    /// machine's proxy except to this machine itself.
    ///
    /// # Errors
    /// If no TLS provider is installed, or a certificate cannot be read.
    pub fn new(roots: &[&str]) -> Result<Self, SetupError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(SetupError::NoTls);
        }
        let mut certificates = Vec::new();
        for pem in roots {
            let read = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
            certificates.extend(read.map_err(SetupError::Certificate)?);
        }
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("site-recovery/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .http1_only()
                .connect_timeout(CONNECT)
                .pool_idle_timeout(IDLE)
                .tcp_keepalive(KEEP_ALIVE)
                .tls_certs_merge(certificates.clone());
            // Windows ends such connections by its own count of retransmissions, within half a minute.
            #[cfg(target_os = "linux")]
            let builder = builder.tcp_user_timeout(UNACKNOWLEDGED);
            builder
        };
        Ok(Http {
            routed: builder().build().map_err(SetupError::Client)?,
            direct: builder().no_proxy().build().map_err(SetupError::Client)?,
        })
    }

    /// Through the machine's proxy, if it has one.
    pub(crate) const fn routed(&self) -> &Client {
        &self.routed
    }

    /// Never through a proxy.
    pub(crate) const fn direct(&self) -> &Client {
        &self.direct
    }
}

/// A complete answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// For an error, as much of it as is of use.
    pub(crate) body: Bytes,
}

/// An exchange without a complete answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Nothing was sent.
    NotConnected(reqwest::Error),
    /// What was sent may have arrived.
    Lost(reqwest::Error),
    /// Nothing came for too long, before the answer or in its midst.
    Stalled,
    /// The answer is longer than `limit`.
    TooLarge { limit: u64 },
}

/// Sends `request` with `sent` bytes of body and reads its answer, of which at most `limit` bytes are taken.
pub(crate) async fn exchange(
    client: &Client,
    mut request: Request,
    sent: u64,
    limit: u64,
) -> Result<Answer, Broken> {
    let bodyless = request.method() == Method::HEAD;
    *request.timeout_mut() = Some(allowed(sent, limit));
    let mut response = tokio::time::timeout(allowed(sent, 0), client.execute(request))
        .await
        .map_err(|_| Broken::Stalled)?
        .map_err(broken)?;
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let body = if bodyless {
        Bytes::new()
    } else if status.is_success() {
        read(response, &headers, limit).await?
    } else {
        read_beginning(response).await
    };
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// How long an exchange of so many bytes may take in all.
fn allowed(sent: u64, expected: u64) -> Duration {
    let mib = sent.saturating_add(expected).div_ceil(MIB);
    FLOOR.saturating_add(PER_MIB.saturating_mul(u32::try_from(mib).unwrap_or(u32::MAX)))
}

/// The whole body, into one buffer.
async fn read(mut response: Response, headers: &HeaderMap, limit: u64) -> Result<Bytes, Broken> {
    let announced = content_length(headers);
    if announced.is_some_and(|length| length > limit) {
        return Err(Broken::TooLarge { limit });
    }
    let mut body = Buffer::with_capacity(to_usize(announced.unwrap_or(0).min(RESERVED_MAX)));
    while let Some(chunk) = next_chunk(&mut response).await? {
        if to_u64(body.bytes().len() + chunk.len()) > limit {
            return Err(Broken::TooLarge { limit });
        }
        body.bytes().extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The beginning of an error's body, or as much of it as came: that it is cut is no reason to forget the status.
async fn read_beginning(mut response: Response) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = next_chunk(&mut response).await {
        let room = to_usize(ERROR_BODY_MAX) - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if to_u64(body.len()) == ERROR_BODY_MAX {
            break;
        }
    }
    body.freeze()
}

async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, Broken> {
    match tokio::time::timeout(STALLED, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(Broken::Lost(error.without_url())),
        Err(_) => Err(Broken::Stalled),
    }
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?;
    text.parse().ok()
}

/// `host` as a URL has it: a name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost",
    }
}

/// The URL is dropped from the error, because its query may hold a signature.
fn broken(error: reqwest::Error) -> Broken {
    if error.is_connect() || error.is_builder() {
        Broken::NotConnected(error.without_url())
    } else {
        Broken::Lost(error.without_url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_allowed_grows_with_the_bytes_and_never_overflows() {
        assert_eq!(allowed(0, 0), FLOOR);
        assert_eq!(allowed(1, 0), FLOOR + PER_MIB);
        assert_eq!(allowed(256 * MIB, 0), FLOOR + 256 * PER_MIB);
        assert!(allowed(u64::MAX, u64::MAX) > allowed(1 << 40, 0));
    }
}
