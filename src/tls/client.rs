//! The agent's side of a handshake.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::report::{Code, Fault};
use crate::tls::material::Material;
use crate::tls::reload::Reloading;
use crate::tls::verifier::reason_of;
use crate::tls::{ALPN, Error, PROTOCOLS, provider};

/// An agent's certificates, and the authorities that the gateway's certificate comes from.
pub struct ClientTls {
    files: Arc<Reloading<Arc<ClientConfig>>>,
}

/// Why a handshake with the gateway led to no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the agent's own certificates cannot be used")]
    Certificates(#[from] Error),
    #[error("the gateway as `{name}` is not to be trusted: {reason}")]
    Gateway { name: String, reason: String },
    #[error("the gateway refused this agent: {0}")]
    Refused(&'static str),
    #[error("the TLS handshake with the gateway failed")]
    Io(#[source] io::Error),
}

impl ConnectError {
    pub const fn code(&self) -> Code {
        match self {
            ConnectError::Certificates(_)
            | ConnectError::Gateway { .. }
            | ConnectError::Refused(_) => Code::Configuration,
            ConnectError::Io(_) => Code::AgentUnreachable,
        }
    }

    pub fn fault(&self) -> Fault {
        Fault::of(self.code(), self)
    }
}

impl ClientTls {
    /// Certificates from `folder`; nothing is read before the first connection.
    pub fn new(folder: PathBuf) -> Self {
        ClientTls {
            files: Arc::new(Reloading::new(folder, client_config)),
        }
    }

    /// Whether the files can be used as they are now, so that a start without them fails with their names.
    ///
    /// # Errors
    /// If one is not there, not readable, or not what it should be.
    pub fn check(&self) -> Result<(), Error> {
        self.files.current().map(drop)
    }

    /// Shakes hands with the gateway, which must have a certificate for `name`. The caller sets the deadline.
    ///
    /// Success does not mean that the gateway has accepted this side: in TLS 1.3 its refusal is the first thing that
    /// is read afterwards. [`refusal_in`] recognizes it.
    ///
    /// # Errors
    /// If the gateway is not who it should be, refuses this side, or the connection ends.
    pub async fn connect<IO>(
        &self,
        name: &ServerName<'static>,
        io: IO,
    ) -> Result<TlsStream<IO>, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let files = self.files.clone();
        let config = spawn_blocking(move || files.current())
            .await
            .map_err(|stopping| ConnectError::Io(stopping.into()))??;
        let connector = TlsConnector::from(config.as_ref().clone());
        let untrusted = |reason| ConnectError::Gateway {
            name: name.to_str().into_owned(),
            reason,
        };
        let stream = connector.connect(name.clone(), io).await.map_err(|error| {
            match (refusal_in(&error), tls_error(&error)) {
                (Some(refusal), _) => ConnectError::Refused(refusal),
                (None, Some(reason)) => untrusted(reason_of(reason)),
                (None, None) => ConnectError::Io(error),
            }
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(untrusted("it does not speak HTTP/2".to_owned()));
        }
        Ok(stream)
    }
}

/// What the gateway holds against this agent, if `error` carries it.
pub fn refusal_in(error: &io::Error) -> Option<&'static str> {
    match tls_error(error)? {
        rustls::Error::AlertReceived(alert) => Some(match alert {
            AlertDescription::CertificateExpired => {
                "its certificate has expired or is not valid yet"
            }
            AlertDescription::UnknownCA => {
                "its certificate was issued by an authority that the gateway does not know"
            }
            AlertDescription::CertificateRequired => "it presented no certificate",
            AlertDescription::AccessDenied => "its certificate does not name a host of a site",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError => "its certificate cannot be used",
            AlertDescription::CertificateRevoked => "its certificate was revoked",
            AlertDescription::ProtocolVersion => "it speaks no version of TLS that both know",
            AlertDescription::NoApplicationProtocol => "the gateway does not speak HTTP/2",
            _ => "it ended the TLS session",
        }),
        _ => None,
    }
}

fn client_config(material: &Material) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(PROTOCOLS)
        .map_err(|source| Error::Unusable {
            folder: material.folder.clone(),
            source,
        })?
        .with_root_certificates(material.authorities.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(material.certified.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The TLS error inside an I/O error; the network's own errors hold none.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
