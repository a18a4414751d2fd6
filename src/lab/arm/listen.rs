//! Connections: HTTP/1.1, in plain text or over TLS.

use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::lab::arm::cloud::Cloud;
use crate::lab::arm::serve::handle;
use crate::lab::arm::{Certificate, Error};

/// What TLS is spoken with.
///
/// # Errors
/// If the certificate and the key are none, or do not go together.
pub(crate) fn acceptor(certificate: &Certificate) -> Result<TlsAcceptor, Error> {
    let wrong = |why: String| Error::Certificate(why);
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(certificate.certificate.as_bytes()).collect();
    let chain = chain.map_err(|why| wrong(why.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose().as_bytes());
    let key = key.map_err(|why| wrong(why.to_string()))?;
    let provider = CryptoProvider::get_default()
        .ok_or_else(|| wrong("no TLS implementation is installed".to_owned()))?;
    let config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|why| wrong(why.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(crate) async fn listen(listener: TcpListener, cloud: Arc<Cloud>, tls: Option<TlsAcceptor>) {
    // Dropped with the listener, and with them what they carry.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (cloud, tls) = (Arc::clone(&cloud), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => connection(stream, cloud).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => connection(stream, cloud).await,
                            Err(error) => {
                                tracing::debug!(%error, "a handshake with the lab cloud failed");
                            }
                        },
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "the lab cloud cannot accept a connection"),
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    cloud: Arc<Cloud>,
) {
    let service = service_fn(|request| {
        let cloud = Arc::clone(&cloud);
        async move { handle(&cloud, request).await }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // A client that went away, or a fault: the other end's news.
    let _ended = served.await;
}
