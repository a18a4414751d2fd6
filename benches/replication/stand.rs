//! What both sides stand on: the tools, and an emulator of their own for each run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use site_recovery::blob::Account as _;
use site_recovery::blob::Container;
use site_recovery::blob::client::Options;
use site_recovery::blob::client::account::AccountClient;
use site_recovery::blob::credential::AccountKey;
use site_recovery::blob::endpoint::Endpoint;
use site_recovery::blob::names::BlobRef;
use site_recovery::blob::parameters::Permissions;
use site_recovery::lab::azurite::{self, Azurite};
use site_recovery::lab::tools::{AzuriteCommand, AzuriteVersion, Tools, debian};
use site_recovery::secret::SasToken;
use site_recovery::transport::http::Http;

/// The programs that are measured, and the one that they are measured against.
pub(crate) struct Stand {
    pub(crate) azurite: AzuriteCommand,
    pub(crate) azcopy: PathBuf,
}

/// A fresh storage account.
pub(crate) struct Storage {
    azurite: Azurite,
    pub(crate) account: AccountClient,
}

/// What a run has made of the disk.
pub(crate) struct Copy {
    pub(crate) container: Arc<dyn Container>,
    pub(crate) blob: BlobRef,
}

impl Stand {
    /// Obtains what is missing; the first time that takes minutes. Blocks.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let tools = Tools::locate()?;
        tools.ensure_packages(&[debian::QEMU_UTILS, debian::RSYNC])?;
        Ok(Stand {
            azurite: tools.azurite(AzuriteVersion::Throughput)?,
            azcopy: tools.azcopy()?,
        })
    }

    pub(crate) async fn storage(&self, folder: &Path) -> anyhow::Result<Storage> {
        let options = azurite::Options {
            account: azurite::Account::random(),
            ..azurite::Options::default()
        };
        let azurite = Azurite::start(&self.azurite, folder, options).await?;
        let key = AccountKey::new(&azurite.account().key)?;
        let endpoint = Endpoint::parse(&azurite.endpoint())?;
        let account = AccountClient::with_key(&Http::new(&[])?, endpoint, key, Options::default());
        Ok(Storage { azurite, account })
    }
}

impl Storage {
    pub(crate) fn endpoint(&self) -> String {
        self.azurite.endpoint()
    }

    pub(crate) fn key(&self) -> &str {
        self.azurite.account().key.expose()
    }

    pub(crate) fn process(&self) -> anyhow::Result<u32> {
        self.azurite.process_id().context("the emulator has ended")
    }

    pub(crate) async fn create(&self, container: &str) -> anyhow::Result<()> {
        let created = self.account.create_container(container).await?;
        anyhow::ensure!(created, "the container {container} was there");
        Ok(())
    }

    pub(crate) async fn signature(
        &self,
        container: &str,
        permissions: Permissions,
    ) -> anyhow::Result<SasToken> {
        let now = Timestamp::now();
        let (start, expiry) = (
            now - SignedDuration::from_mins(10),
            now + SignedDuration::from_hours(2),
        );
        let signed = self.account.sas(container, permissions, start, expiry);
        Ok(signed.await?)
    }
}
