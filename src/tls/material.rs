//! The three files of a folder, read and checked as far as one side alone can.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::secret::Secret;
use crate::tls::{Error, provider};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";
/// A Secret of Kubernetes holds at most 1 MiB.
const FILE_MAX: u64 = 1 << 20;

/// What the three files held when they were read.
pub(crate) struct Files {
    certificate: Vec<u8>,
    key: Secret,
    authorities: Vec<u8>,
}

impl Files {
    /// # Errors
    /// If one of the files is not there or not readable.
    pub(crate) fn read(folder: &Path) -> Result<Self, Error> {
        Ok(Files {
            certificate: read(folder.join(CERTIFICATE))?,
            key: read_key(folder.join(KEY))?,
            authorities: read(folder.join(AUTHORITIES))?,
        })
    }

    /// What tells this content from any other.
    pub(crate) fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let key = self.key.expose().as_bytes();
        for file in [self.certificate.as_slice(), key, &self.authorities] {
            hasher.update(blake3::hash(file).as_bytes());
        }
        hasher.finalize()
    }
}

/// A certificate with its key, and the authorities that may vouch for the other side.
pub(crate) struct Material {
    pub(crate) folder: PathBuf,
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) authorities: Arc<RootCertStore>,
}

impl Material {
    /// # Errors
    /// If the files hold something else, or do not go together.
    pub(crate) fn parse(folder: &Path, files: &Files) -> Result<Self, Error> {
        let chain = certificates(&folder.join(CERTIFICATE), &files.certificate)?;
        let key = private_key(folder.join(KEY), &files.key)?;
        let path = folder.join(AUTHORITIES);
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&path, &files.authorities)? {
            authorities
                .add(authority)
                .map_err(|source| Error::Authority {
                    path: path.clone(),
                    source,
                })?;
        }
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|source| Error::Key {
                folder: folder.to_owned(),
                source,
            })?;
        Ok(Material {
            folder: folder.to_owned(),
            certified: Arc::new(certified),
            authorities: Arc::new(authorities),
        })
    }
}

/// When `certificate` ends, if it can be parsed.
pub(crate) fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Pem(path.to_owned()))?;
    if found.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

/// The parser's own error is dropped: it repeats what it stumbled over, which may be a piece of the key.
fn private_key(path: PathBuf, pem: &Secret) -> Result<PrivateKeyDer<'static>, Error> {
    match PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(Error::Empty {
            path,
            what: "private key",
        }),
        Err(_) => Err(Error::Pem(path)),
    }
}

fn read_key(path: PathBuf) -> Result<Secret, Error> {
    match String::from_utf8(read(path.clone())?) {
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(Error::Pem(path)),
    }
}

fn read(path: PathBuf) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut content));
    match read.map(u64::try_from) {
        Ok(Ok(length)) if length <= FILE_MAX => Ok(content),
        Ok(Ok(_) | Err(_)) => Err(Error::TooLarge {
            path,
            max: FILE_MAX,
        }),
        Err(source) => Err(Error::Read { path, source }),
    }
}
