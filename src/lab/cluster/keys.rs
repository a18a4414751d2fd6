//! The keys of a cluster: an authority of its own, the API server's certificate, and the key that signs tokens.
//!
//! They are made once per folder. Private keys are readable by the user alone.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use crate::durable;
use crate::lab::cluster::error::{Error, of_durable};
use crate::lab::file::file_error;

/// By these names clients may call the API server.
const SERVER_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "kubernetes.default.svc"];

const AUTHORITY: &str = "authority.crt";
const CERTIFICATE: &str = "api-server.crt";
const CERTIFICATE_KEY: &str = "api-server.key";
const SERVICE_ACCOUNT: &str = "service-account.key";
const SERVICE_ACCOUNT_PUBLIC: &str = "service-account.pub";

/// Where the keys of one cluster are.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// Those that `folder` holds.
    pub(super) fn within(folder: &Path) -> Self {
        Keys {
            folder: folder.to_owned(),
        }
    }

    /// Makes new ones.
    ///
    /// # Errors
    /// If one cannot be made or written.
    pub(super) fn create(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(file_error("create", folder))?;
        let write = |name: &str, content: String| {
            durable::write(&folder.join(name), content.as_bytes()).map_err(of_durable)
        };
        let authority = authority().map_err(key_error("certificate authority"))?;
        let key = KeyPair::generate().map_err(key_error("serving key"))?;
        let certificate = server()
            .and_then(|parameters| parameters.signed_by(&key, &authority))
            .map_err(key_error("serving certificate"))?;
        let signer = KeyPair::generate().map_err(key_error("ServiceAccount key"))?;
        write(AUTHORITY, authority.pem())?;
        write(CERTIFICATE, certificate.pem())?;
        write(CERTIFICATE_KEY, key.serialize_pem())?;
        write(SERVICE_ACCOUNT, signer.serialize_pem())?;
        write(SERVICE_ACCOUNT_PUBLIC, signer.public_key_pem())?;
        Ok(Keys::within(folder))
    }

    /// The certificate that clients trust.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.join(AUTHORITY)
    }

    /// The API server's certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    pub(super) fn certificate_key(&self) -> PathBuf {
        self.folder.join(CERTIFICATE_KEY)
    }

    /// The key that signs ServiceAccounts' tokens.
    pub(super) fn service_account(&self) -> PathBuf {
        self.folder.join(SERVICE_ACCOUNT)
    }

    /// The key that they are checked with.
    pub(super) fn service_account_public(&self) -> PathBuf {
        self.folder.join(SERVICE_ACCOUNT_PUBLIC)
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
        .distinguished_name
        .push(DnType::CommonName, "site-recovery lab authority");
    CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)
}

fn server() -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(SERVER_NAMES.map(String::from))?;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    Ok(parameters)
}

fn key_error(what: &'static str) -> impl FnOnce(rcgen::Error) -> Error {
    move |source| Error::Key { what, source }
}
