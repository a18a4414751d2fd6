//! One Azurite for all tests that run at the same time, and clients of it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use site_recovery::blob::client::Options;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::client::container::ContainerClient;
use site_recovery::blob::credential::{AccountKey, RenewableSas};
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::memory::MemoryContainer;
use site_recovery::blob::{Account, Container};
use site_recovery::lab::azurite::{self, Azurite};
use site_recovery::lab::tools::{AzuriteCommand, AzuriteVersion, Tools};
use site_recovery::secret::SasToken;
use site_recovery::transport::http::Http;
use site_recovery::units::SystemClock;
use tempfile::TempDir;
use tokio::sync::Mutex;

/// The one that runs now. It ends with the last test that uses it.
static RUNNING: Mutex<Weak<Emulator>> = Mutex::const_new(Weak::new());

/// An Azurite with an account of its own.
pub(crate) struct Emulator {
    azurite: Azurite,
    _folder: TempDir,
}

/// The emulator that checks checksums, started if it does not run.
pub(crate) async fn start() -> Arc<Emulator> {
    let mut running = RUNNING.lock().await;
    if let Some(emulator) = running.upgrade() {
        return emulator;
    }
    let folder = tempfile::tempdir().unwrap();
    let options = azurite::Options {
        account: azurite::Account::random(),
        in_memory: true,
        ..azurite::Options::default()
    };
    let command = command().await;
    let azurite = Azurite::start(&command, folder.path(), options).await;
    let emulator = Arc::new(Emulator {
        azurite: azurite.unwrap(),
        _folder: folder,
    });
    *running = Arc::downgrade(&emulator);
    emulator
}

/// Azurite as npm delivers it; the first time this takes a minute.
pub(crate) async fn command() -> AzuriteCommand {
    obtain(|tools| tools.azurite(AzuriteVersion::Conformance)).await
}

/// Obtains something that may take minutes the first time, off the runtime's threads.
pub(crate) async fn obtain<T: Send + 'static>(
    what: impl FnOnce(&Tools) -> Result<T, site_recovery::lab::tools::Error> + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(move || what(&Tools::locate().unwrap()).unwrap())
        .await
        .unwrap()
}

/// A transport that trusts `roots` too.
pub(crate) fn http(roots: &[&str]) -> Http {
    // Another test of the same process may have installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    Http::new(roots).unwrap()
}

/// Does not send anything twice.
pub(crate) fn impatient() -> Options {
    Options {
        patience: Duration::ZERO,
        ..Options::default()
    }
}

/// Sends again for as long as a slow machine may need.
pub(crate) fn patient() -> Options {
    Options {
        patience: Duration::from_secs(30),
        ..Options::default()
    }
}

impl Emulator {
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.azurite.endpoint()).unwrap()
    }

    pub(crate) fn key(&self) -> AccountKey {
        AccountKey::new(&self.azurite.account().key).unwrap()
    }

    /// The account's key as it is, for clients that are not ours.
    pub(crate) fn key_text(&self) -> &str {
        self.azurite.account().key.expose()
    }

    pub(crate) fn account(&self) -> AccountClient {
        AccountClient::with_key(&http(&[]), self.endpoint(), self.key(), patient())
    }

    /// A new container that nobody else knows.
    pub(crate) async fn container(&self) -> Arc<dyn Container> {
        let name = unique("it");
        let account = self.account();
        assert!(account.create_container(&name).await.unwrap());
        account.container(&name)
    }

    /// A new container of the emulator, and one in memory: what holds for one holds for the other.
    pub(crate) async fn and_memory(&self) -> [Arc<dyn Container>; 2] {
        let memory = MemoryContainer::new(&unique("it"), Arc::new(SystemClock));
        [self.container().await, Arc::new(memory)]
    }

    /// A container by signature, with a client that sends again.
    pub(crate) fn by_signature_patiently(
        &self,
        container: &str,
        sas: RenewableSas,
    ) -> ContainerClient {
        ContainerClient::with_sas(&http(&[]), self.endpoint(), container, sas, patient())
    }

    /// A container by signature, as an agent reaches it.
    pub(crate) fn by_signature(&self, container: &str, sas: SasToken) -> ContainerClient {
        let sas = RenewableSas::new(sas);
        ContainerClient::with_sas(&http(&[]), self.endpoint(), container, sas, impatient())
    }
}

/// A name that no other test draws.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// `length` bytes that are neither equal nor regular, the same for the same `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    bytes.resize(length, 0);
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}
