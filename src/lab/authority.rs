//! A certificate authority for the lab: issues what agents and the gateway show each other.
//!
//! Its own key lives in memory only and is gone with the process; what it issued stays valid for as long as it says.
//! Outside the lab certificates come from the cluster (cert-manager) or from whoever runs the site's PKI.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::durable;
use crate::report::Code;
use crate::secret::Secret;
use crate::tls::PeerIdentity;

/// Issues certificates for a lab.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    certificate: String,
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// A certificate with its key and its authority, as PEM.
pub struct Issued {
    certificate: String,
    key: Secret,
    authority: String,
}

/// A certificate that could not be issued or stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot issue a certificate for {subject}")]
    Issue {
        subject: String,
        source: rcgen::Error,
    },
    #[error("cannot create the folder {}", path.display())]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot store a certificate")]
    Store(#[from] durable::Error),
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Issue { .. } => Code::Internal,
            Error::Folder { .. } | Error::Store(_) => Code::Configuration,
        }
    }
}

impl Validity {
    /// Some hours around now: `before` it, in case of clocks that go wrong, and `after` it.
    pub fn around(now: Timestamp, before: Duration, after: Duration) -> Self {
        Validity {
            from: now - before,
            until: now + after,
        }
    }
}

impl Authority {
    /// # Errors
    /// If no key can be drawn.
    pub fn new(name: &str, validity: Validity) -> Result<Self, Error> {
        let failed = issue_error(name);
        let mut params = parameters(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(&failed)?;
        let certificate = params.self_signed(&key).map_err(&failed)?.pem();
        Ok(Authority {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// A certificate for the agent of a host.
    ///
    /// # Errors
    /// If no key can be drawn.
    pub fn agent(&self, identity: &PeerIdentity, validity: Validity) -> Result<Issued, Error> {
        self.client(&[&identity.uri()], validity)
    }

    /// A client's certificate for these URIs, whatever they name.
    ///
    /// # Errors
    /// If a URI is not ASCII, or no key can be drawn.
    pub fn client(&self, uris: &[&str], validity: Validity) -> Result<Issued, Error> {
        let subject = uris.first().copied().unwrap_or("nobody");
        let names = uris
            .iter()
            .map(|uri| (*uri).try_into().map(SanType::URI))
            .collect::<Result<_, _>>()
            .map_err(issue_error(subject))?;
        let mut params = parameters("site-recovery agent", validity);
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(subject, &params)
    }

    /// A certificate for a gateway that agents reach by these DNS names and addresses.
    ///
    /// # Errors
    /// If a name is not ASCII, or no key can be drawn.
    pub fn gateway(&self, names: &[&str], validity: Validity) -> Result<Issued, Error> {
        let alternatives = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => Ok(SanType::IpAddress(address)),
                Err(_) => (*name).try_into().map(SanType::DnsName),
            })
            .collect::<Result<_, _>>()
            .map_err(issue_error("the gateway"))?;
        let mut params = parameters("site-recovery gateway", validity);
        params.subject_alt_names = alternatives;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue("the gateway", &params)
    }

    fn issue(&self, subject: &str, params: &CertificateParams) -> Result<Issued, Error> {
        let failed = issue_error(subject);
        let key = KeyPair::generate().map_err(&failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: Secret::new(key.serialize_pem()),
            authority: self.certificate.clone(),
        })
    }
}

impl Issued {
    /// Writes `tls.crt`, `tls.key` and `ca.crt` into `folder`, over what is there. Only the owner can read the files.
    ///
    /// # Errors
    /// If a file cannot be written; those before it are then new, and go with the old ones only by chance.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Folder {
            path: folder.to_owned(),
            source,
        })?;
        // `durable` writes through a temporary file that nobody else can read from its first byte on.
        durable::write(&folder.join("ca.crt"), self.authority.as_bytes())?;
        durable::write(&folder.join("tls.crt"), self.certificate.as_bytes())?;
        durable::write(&folder.join("tls.key"), self.key.expose().as_bytes())?;
        Ok(())
    }
}

fn parameters(name: &str, validity: Validity) -> CertificateParams {
    // The certificate's clock starts in 1970 like ours; what lies before is as good as 1970.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: Timestamp| Duration::from_secs(time.as_second().try_into().unwrap_or(0));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + since(validity.from);
    params.not_after = epoch + since(validity.until);
    params.use_authority_key_identifier_extension = true;
    params
}

fn issue_error(subject: &str) -> impl Fn(rcgen::Error) -> Error + use<> {
    let subject = subject.to_owned();
    move |source| Error::Issue {
        subject: subject.clone(),
        source,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_owner_can_read_what_was_issued() {
        let folder = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let validity = Validity::around(Timestamp::UNIX_EPOCH + hour, hour, hour);
        let authority = Authority::new("lab", validity).unwrap();
        let issued = authority.gateway(&["localhost", "::1"], validity).unwrap();
        issued.write(folder.path()).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            let metadata = std::fs::metadata(folder.path().join(file)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{file}");
        }
    }
}
