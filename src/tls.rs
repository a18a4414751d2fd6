//! Mutual TLS between agent and gateway: certificates from files, who a peer is, and why one was refused.
//!
//! ```text
//! folder   tls.crt, tls.key, ca.crt (the names of a kubernetes.io/tls Secret), looked at on every handshake
//! agent    a certificate whose only URI is spiffe://siterecovery.dev/<namespace>/<site>/<host>; TLS client
//! gateway  a certificate for the name or address that agents are configured with; TLS server
//! ```
//! TLS 1.3 and 1.2, `h2` by ALPN. Sessions are never resumed, so that every connection is judged by the certificates of
//! its own time. A certificate that was not verified is read for one purpose only: to say *who claims to be* refused.

pub mod client;
pub mod identity;
pub mod server;

mod material;
mod reload;
mod verifier;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

use crate::report::Code;

pub use client::ClientTls;
pub use identity::PeerIdentity;
pub use server::ServerTls;

/// What both sides speak above TLS.
const ALPN: &[u8] = b"h2";
/// The versions of TLS that both sides accept, the better one first.
const PROTOCOLS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Certificate files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is larger than {max} bytes: it holds something else", path.display())]
    TooLarge { path: PathBuf, max: u64 },
    #[error("{} is not well-formed PEM", .0.display())]
    Pem(PathBuf),
    #[error("{} holds no {what}", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("{} holds a certificate that is no authority", path.display())]
    Authority {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("the key and the certificate in {} do not go together", folder.display())]
    Key {
        folder: PathBuf,
        source: rustls::Error,
    },
    #[error("the certificates in {} cannot be used", folder.display())]
    Unusable {
        folder: PathBuf,
        source: rustls::Error,
    },
    #[error("the authorities in {} cannot verify clients", folder.display())]
    Verifier {
        folder: PathBuf,
        source: rustls::server::VerifierBuilderError,
    },
}

impl Error {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

fn provider() -> Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    RING.clone()
}
