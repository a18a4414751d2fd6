//! Sends one request and sees it through: sign, send, classify, retry, pace.
//!
//! ```text
//! send ── pace ── attempt ── done
//!           ▲        │ failed, and it may be sent again (Repeat), and waiting helps (Error::again)
//!           └─ wait ─┘ at most for the client's patience, until the process stops
//! ```
//! An attempt takes the credentials of its moment, so that a signature that is renewed meanwhile is used. An error
//! remembers whether an attempt before it may have been carried out. Nothing else in `blob` sends.

pub mod account;
pub(crate) mod account_calls;
pub(crate) mod blob_calls;
pub(crate) mod call;
pub mod container;
pub(crate) mod page_calls;
pub(crate) mod read;
mod sending;

use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio_util::sync::CancellationToken;

use crate::blob::VERSION;
use crate::blob::client::call::Call;
use crate::blob::client::sending::Sending;
use crate::blob::credential::Credential;
use crate::blob::endpoint::Endpoint;
use crate::blob::error::{Error, Kind};
use crate::blob::integrity::crc64_of;
use crate::blob::names::Invalid;
use crate::blob::pacer::Pacers;
use crate::blob::xml::Malformed;
use crate::retry::{self, Again};
use crate::transport::http::{Answer, Http};
use crate::units::{Clock, SystemClock};

/// How long a request is sent again, if nothing else is said: long enough for a failover inside Azure, short enough
/// that a schedule above it notices.
const PATIENCE: Duration = Duration::from_secs(90);
const CRC64: HeaderName = HeaderName::from_static("x-ms-content-crc64");

/// What holds for every request of a client.
#[derive(Clone)]
pub struct Options {
    /// How long a failed request is sent again, counted from its first attempt. One that takes longer than that to
    /// fail is not sent again.
    pub patience: Duration,
    /// Ends the waiting between attempts. A request under way is not cut off by it: dropping its future does that, and
    /// leaves its outcome unknown.
    pub stop: CancellationToken,
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            patience: PATIENCE,
            stop: CancellationToken::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// What all containers of one client share.
pub(crate) struct Client {
    http: Http,
    endpoint: Endpoint,
    credential: Credential,
    options: Options,
    pacers: Pacers,
}

/// A call whose URL and headers stand, but for date and signature.
struct Prepared {
    url: String,
    path: String,
    headers: HeaderMap,
    /// The checksum that was sent and that the answer has to repeat.
    checksum: Option<String>,
}

impl Client {
    pub(crate) fn new(
        http: &Http,
        endpoint: Endpoint,
        credential: Credential,
        options: Options,
    ) -> Self {
        Client {
            http: http.clone(),
            endpoint,
            credential,
            options,
            pacers: Pacers::default(),
        }
    }

    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) const fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Sends `call` until it is done or there is no point in going on.
    pub(crate) async fn send(&self, call: Call) -> Result<Reply, Error> {
        let object = self.object(&call);
        let prepared = self
            .prepare(&call)
            .await
            .map_err(|why| Error::invalid(call.operation, &object, why))?;
        let pace = call.paced.then(|| self.pacers.of(&object));
        let sending = Sending::new(self, &call, &object, &prepared, pace.as_deref());
        // The first wait is for a turn among healthy requests and does not use up patience.
        sending.turn().await?;
        let again = |error: &Error| match call.repeat.allows(error) {
            true => error.again(),
            false => Again::Never,
        };
        let (patience, stop) = (self.options.patience, &self.options.stop);
        let answer = retry::with(patience, stop, again, || sending.next()).await?;
        Ok(Reply {
            call,
            object,
            answer,
        })
    }

    /// What errors call the object of the call.
    fn object(&self, call: &Call) -> String {
        let (container, blob) = (call.container.as_deref(), call.blob.as_deref());
        let mut object = self.endpoint.object(container, blob);
        for (name, value) in &call.query {
            if *name == "snapshot" {
                object.push('@');
                object.push_str(value);
            }
        }
        object
    }

    async fn prepare(&self, call: &Call) -> Result<Prepared, Invalid> {
        if let Some(why) = &call.invalid {
            return Err(why.clone());
        }
        let (container, blob) = (call.container.as_deref(), call.blob.as_deref());
        let mut headers = HeaderMap::new();
        for (name, value) in &call.headers {
            let invalid = || Invalid::new(name.as_str(), "its value cannot stand in a header");
            let name = HeaderName::try_from(name).map_err(|_| invalid())?;
            headers.insert(name, HeaderValue::try_from(value).map_err(|_| invalid())?);
        }
        headers.insert("x-ms-version", HeaderValue::from_static(VERSION));
        if matches!(call.method, Method::PUT | Method::POST) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(call.body.len()));
        }
        let mut checksum = None;
        if call.method == Method::PUT && !call.body.is_empty() {
            let sum = crc64_of(&call.body).await;
            headers.insert(
                CRC64,
                HeaderValue::try_from(&sum).expect("base64 is visible ASCII"),
            );
            checksum = Some(sum);
        }
        Ok(Prepared {
            url: self.endpoint.url(container, blob)?,
            path: self.endpoint.path(container, blob)?,
            headers,
            checksum,
        })
    }
}

/// The answer to a call that was done.
pub(crate) struct Reply {
    call: Call,
    object: String,
    pub(crate) answer: Answer,
}

impl Reply {
    /// What the answer says, or an error that says on which object it was not understood.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Answer) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        read(&self.answer).map_err(|why| {
            Error::new(self.call.operation, &self.object, Kind::Malformed).because(why)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::blob::client::page_calls::put_pages;
    use crate::blob::credential::RenewableSas;
    use crate::blob::names::SequenceNumber;
    use crate::secret::SasToken;

    #[tokio::test]
    async fn the_pacer_sees_a_refusal_that_the_retry_hides() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = tokio::spawn(async move {
            for status in ["503 Busy", "201 Created"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = Vec::new();
                while !seen.ends_with(&[7; 512]) {
                    stream.read_buf(&mut seen).await.unwrap();
                }
                let answer = format!(
                    "HTTP/1.1 {status}\r\nx-ms-request-id: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        // Another test of the process may have installed it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = Http::new(&[]).unwrap();
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{port}/acct1")).unwrap();
        let object = endpoint.object(Some("replica"), Some("d"));
        let sas = Credential::Signature(RenewableSas::new(SasToken::new("sig=s")));
        let client = Client::new(&http, endpoint, sas, Options::default());

        let body = bytes::Bytes::from(vec![7; 512]);
        let call = put_pages("replica", "d", 0, body, SequenceNumber::ZERO);
        client.send(call).await.unwrap();
        service.await.unwrap();
        let pace = format!("{:?}", client.pacers.of(&object));
        assert!(pace.contains("throttled_in_tick: true"), "{pace}");
    }
}
