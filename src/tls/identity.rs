//! Who an agent is: the one URI in its certificate.
//!
//! ```text
//! spiffe://siterecovery.dev/<namespace>/<site>/<host>
//! ```
//! As in an X.509-SVID (SPIFFE, "X.509-SVID" §2) the certificate has exactly one URI. Names are those of `ids`, which
//! need no percent-encoding, so that an identity has exactly one spelling. Reading an identity verifies nothing.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ids::{HostName, Invalid, ObjectName};

const PREFIX: &str = "spiffe://siterecovery.dev/";

/// An agent: a host of a site.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIdentity {
    pub site: ObjectName,
    pub host: HostName,
}

/// Why a certificate names no agent.
#[derive(Debug, thiserror::Error)]
pub enum NoIdentity {
    #[error("the certificate cannot be parsed")]
    Unreadable,
    #[error("the certificate has {0} URI names instead of one")]
    Uris(usize),
    #[error("the certificate names `{0}`, not spiffe://siterecovery.dev/<namespace>/<site>/<host>")]
    Foreign(String),
    #[error("the certificate names `{uri}`")]
    Name { uri: String, source: Invalid },
}

/// How much of a foreign name is repeated in a message.
const SHOWN: usize = 200;

impl PeerIdentity {
    /// The URI that stands for this identity in a certificate.
    pub fn uri(&self) -> String {
        format!(
            "{PREFIX}{}/{}/{}",
            self.site.namespace(),
            self.site.name(),
            self.host
        )
    }

    /// # Errors
    /// If `uri` is not of the shape above.
    pub fn from_uri(uri: &str) -> Result<Self, NoIdentity> {
        let shown = || uri.chars().take(SHOWN).collect::<String>();
        let mut parts = uri
            .strip_prefix(PREFIX)
            .ok_or_else(|| NoIdentity::Foreign(shown()))?
            .split('/');
        let (Some(namespace), Some(site), Some(host), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoIdentity::Foreign(shown()));
        };
        let name = |source| NoIdentity::Name {
            uri: shown(),
            source,
        };
        Ok(PeerIdentity {
            site: ObjectName::new(namespace, site).map_err(name)?,
            host: host.parse().map_err(name)?,
        })
    }

    /// Whom `certificate` names. Whether that is true is for the caller to know.
    ///
    /// # Errors
    /// If it names nobody, or somebody who is no agent.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, NoIdentity> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| NoIdentity::Unreadable)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| NoIdentity::Unreadable)?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        match uris.as_slice() {
            [uri] => PeerIdentity::from_uri(uri),
            uris => Err(NoIdentity::Uris(uris.len())),
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} of site {}", self.host, self.site)
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_spelling() {
        let identity = PeerIdentity {
            site: ObjectName::new("dr", "factory").unwrap(),
            host: "hv1.corp.example".parse().unwrap(),
        };
        let uri = identity.uri();
        assert_eq!(uri, "spiffe://siterecovery.dev/dr/factory/hv1.corp.example");
        assert_eq!(PeerIdentity::from_uri(&uri).unwrap(), identity);
    }

    #[test]
    fn names_that_are_no_agents_are_refused() {
        for uri in [
            "",
            "spiffe://siterecovery.dev",
            "spiffe://siterecovery.dev/",
            "spiffe://siterecovery.dev/dr/factory",
            "spiffe://siterecovery.dev/dr/factory/hv1/more",
            "spiffe://siterecovery.dev/dr//hv1",
            "spiffe://siterecovery.dev/dr/factory/",
            "spiffe://siterecovery.dev/dr/factory/HV1",
            "spiffe://siterecovery.dev/dr/factory/hv%31",
            "spiffe://siterecovery.dev/dr/factory/hv1?x",
            "spiffe://siterecovery.dev:443/dr/factory/hv1",
            "spiffe://siterecovery.dev.evil.example/dr/factory/hv1",
            "spiffe://other.example/dr/factory/hv1",
            "https://siterecovery.dev/dr/factory/hv1",
        ] {
            assert!(PeerIdentity::from_uri(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_foreign_name_is_not_repeated_without_bound() {
        let refused = PeerIdentity::from_uri(&"x".repeat(100_000)).unwrap_err();
        assert!(refused.to_string().len() < 400);
    }

    #[test]
    fn bytes_that_are_no_certificate_name_nobody() {
        let garbage = CertificateDer::from(vec![0x30, 0x82, 0xff, 0xff, 0x00]);
        assert!(PeerIdentity::of_certificate(&garbage).is_err());
    }
}
