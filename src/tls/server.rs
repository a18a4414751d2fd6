//! The gateway's side of a handshake.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::report::{Code, Fault};
use crate::tls::identity::PeerIdentity;
use crate::tls::material::{Material, expiry};
use crate::tls::reload::Reloading;
use crate::tls::verifier::{Listening, reason_of};
use crate::tls::{ALPN, Error, PROTOCOLS, provider};

/// How long a refused peer may take to read why, before the socket is closed under it.
const LINGER: Duration = Duration::from_secs(1);
/// How much of what a refused peer still sends is read meanwhile.
const LINGER_BYTES: u64 = 64 << 10;

/// The gateway's certificates, and the authorities that agents' certificates come from.
pub struct ServerTls {
    files: Arc<Reloading<Accepting>>,
}

struct Accepting {
    certified: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// A connection whose other end has proved who it is.
pub struct Accepted<IO> {
    pub stream: TlsStream<IO>,
    pub identity: PeerIdentity,
    /// When the agent's certificate ends; unknown where its date is beyond reason.
    pub certificate_expires: Option<Timestamp>,
}

/// A peer that was refused. `claimed` is what its certificate says, which nobody has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub claimed: Option<PeerIdentity>,
    /// Completes a sentence whose subject is the peer: `its certificate expired on …`.
    pub reason: String,
}

/// Why a handshake led to no connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("the gateway's own certificates cannot be used")]
    Certificates(#[from] Error),
    #[error("the peer was refused: {}", .0.reason)]
    Refused(Refusal),
    /// The peer went away, as health checks of load balancers do.
    #[error("the connection ended during the handshake")]
    Ended(#[source] io::Error),
}

impl AcceptError {
    pub const fn code(&self) -> Code {
        match self {
            AcceptError::Certificates(error) => error.code(),
            AcceptError::Refused(_) => Code::Configuration,
            AcceptError::Ended(_) => Code::AgentUnreachable,
        }
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }
}

impl ServerTls {
    /// Certificates from `folder`; nothing is read before the first handshake.
    pub fn new(folder: PathBuf) -> Self {
        ServerTls {
            files: Arc::new(Reloading::new(folder, Accepting::new)),
        }
    }

    /// Whether the files can be used, for a start that shall fail early. Blocks while it reads them.
    ///
    /// # Errors
    /// If they cannot.
    pub fn check(&self) -> Result<(), Error> {
        self.files.current().map(drop)
    }

    /// Shakes hands with an agent. The caller sets the deadline.
    ///
    /// # Errors
    /// If the peer did not prove to be an agent, or our own files cannot be used.
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let files = self.files.clone();
        let accepting = spawn_blocking(move || files.current())
            .await
            .map_err(|stopping| AcceptError::Ended(stopping.into()))??;
        let refusal = Arc::new(OnceLock::new());
        let config = accepting.config(refusal.clone());
        match TlsAcceptor::from(config).accept(io).into_fallible().await {
            Ok(stream) => admit(stream).await,
            Err((error, io)) => {
                let reason = tls_error(&error).map(reason_of);
                match (refusal.get().cloned(), reason) {
                    (Some(refusal), _) => {
                        linger(io).await;
                        Err(AcceptError::Refused(refusal))
                    }
                    (None, Some(reason)) => {
                        linger(io).await;
                        let claimed = None;
                        Err(AcceptError::Refused(Refusal { claimed, reason }))
                    }
                    (None, None) => Err(AcceptError::Ended(error)),
                }
            }
        }
    }
}

impl Accepting {
    fn new(material: &Material) -> Result<Self, Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(material.authorities.clone(), provider())
                .build()
                .map_err(|source| Error::Verifier {
                    folder: material.folder.clone(),
                    source,
                })?;
        Ok(Accepting {
            certified: material.certified.clone(),
            verifier,
        })
    }

    /// A configuration for one handshake, because the verifier says to whom it listened.
    fn config(&self, refusal: Arc<OnceLock<Refusal>>) -> Arc<ServerConfig> {
        let verifier = Arc::new(Listening::new(self.verifier.clone(), refusal));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(PROTOCOLS)
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would go on with a certificate that has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }
}

async fn admit<IO>(stream: TlsStream<IO>) -> Result<Accepted<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    let expires = certificate.and_then(expiry);
    let identity = certificate.map(PeerIdentity::of_certificate);
    let http2 = session.alpn_protocol() == Some(ALPN);
    match identity {
        Some(Ok(identity)) if http2 => Ok(Accepted {
            stream,
            identity,
            certificate_expires: expires,
        }),
        identity => {
            // The verifier has seen an identity, so that what is missing is the protocol.
            let claimed = identity.and_then(Result::ok);
            linger(stream).await;
            let reason = "it does not speak HTTP/2".to_owned();
            Err(AcceptError::Refused(Refusal { claimed, reason }))
        }
    }
}

/// Closes so that the peer can still read the alert: unread bytes would turn the close into a reset, which discards it.
async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let read_out = async {
        let _ = io.shutdown().await;
        let mut rest = (&mut io).take(LINGER_BYTES);
        let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
    };
    let _ = tokio::time::timeout(LINGER, read_out).await;
}

/// The TLS error inside an I/O error; the network's own errors hold none.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
