//! Azurite, Azure's own storage emulator, as a process that tests and the quick start can kill and start again.
//!
//! Azurite keeps its tables in memory and writes them out every five seconds, so a plain SIGKILL takes back up to five
//! seconds of what it has acknowledged, which Azure Storage never does. [`Azurite::crash`] is the death that Azure's
//! promise allows: connections break, answers are lost, what was acknowledged stands after [`Azurite::restart`]. The
//! script beside this file makes it so.
//!
//! Never reachable from outside the machine: it listens on 127.0.0.1, and sends no telemetry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::BASE32_NOPAD;
use rustix::process::Signal;

use crate::lab::process::{self, Process, port};
use crate::lab::tools::{AzuriteCommand, AzuriteVersion};
use crate::report::Code;
use crate::secret::Secret;

/// Ten times what a cold start takes on two idle cores.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it says once it accepts connections.
const READY: &str = "Azurite Blob service successfully listens on";
/// Loaded into Azurite; see there.
const CRASH_SCRIPT: &str = include_str!("azurite/crash.cjs");
const CRASH_SCRIPT_NAME: &str = "crash.cjs";
/// The account that every client of the emulator knows.
const WELL_KNOWN_NAME: &str = "devstoreaccount1";
/// Its key, published in Azure's documentation.
const WELL_KNOWN_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// An Azurite that does not start, or does not die as it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write in {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot run Azurite")]
    Process(#[from] process::Error),
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Folder { .. } => Code::Configuration,
            Error::Process(source) => source.code(),
        }
    }
}

/// A storage account.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    /// 64 bytes, in base64.
    pub key: Secret,
    /// As good as the other, so that each can be replaced while the other is used.
    pub second_key: Secret,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    pub account: Account,
    /// Where to listen; any free port if it does not matter.
    pub port: Option<u16>,
    /// Keeps nothing on disk: faster, grows by everything written, and is empty after a restart.
    pub in_memory: bool,
    /// Serves HTTPS with this certificate and accepts OAuth tokens, which it takes over nothing else.
    pub oauth: Option<Certificate>,
}

/// A server's certificate and private key, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A running Azurite, or one that has crashed. Dropping it ends it; the folder stays.
#[derive(Debug)]
pub struct Azurite {
    command: AzuriteCommand,
    folder: PathBuf,
    options: Options,
    port: u16,
    process: Option<Process>,
}

impl Account {
    /// `devstoreaccount1`.
    pub fn well_known() -> Self {
        Account {
            name: WELL_KNOWN_NAME.to_owned(),
            key: Secret::new(WELL_KNOWN_KEY),
            second_key: random_key(),
        }
    }

    /// One that nobody else has.
    pub fn random() -> Self {
        let suffix = BASE32_NOPAD.encode(&rand::random::<[u8; 10]>());
        Account {
            name: format!("lab{}", suffix.to_ascii_lowercase()),
            key: random_key(),
            second_key: random_key(),
        }
    }
}

fn random_key() -> Secret {
    Secret::new(STANDARD.encode(rand::random::<[u8; 64]>()))
}

impl Default for Options {
    /// The well-known account on disk, over plain HTTP.
    fn default() -> Self {
        Options {
            account: Account::well_known(),
            port: None,
            in_memory: false,
            oauth: None,
        }
    }
}

impl Azurite {
    /// Starts Azurite with what `folder` holds; creates the folder.
    ///
    /// # Errors
    /// If the folder cannot be written, no port is free, or Azurite ends or is not ready in time.
    pub async fn start(
        command: &AzuriteCommand,
        folder: &Path,
        options: Options,
    ) -> Result<Self, Error> {
        let folder = prepare(folder).map_err(|source| Error::Folder {
            path: folder.to_owned(),
            source,
        })?;
        let port = options.port.map_or_else(port::free, Ok)?;
        let mut azurite = Azurite {
            command: command.clone(),
            folder,
            options,
            port,
            process: None,
        };
        azurite.restart().await?;
        Ok(azurite)
    }

    /// `http://127.0.0.1:PORT/ACCOUNT`, without a slash at the end. The same after a restart.
    pub fn endpoint(&self) -> String {
        let scheme = match self.options.oauth {
            Some(_) => "https",
            None => "http",
        };
        format!(
            "{scheme}://127.0.0.1:{}/{}",
            self.port, self.options.account.name
        )
    }

    /// Its process; nothing after a crash.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The one account that it serves.
    pub const fn account(&self) -> &Account {
        &self.options.account
    }

    /// Ends it at once, in the middle of whatever it does. What it has acknowledged is kept, if it is not in memory.
    ///
    /// # Errors
    /// If it does not die in time.
    pub async fn crash(&mut self) -> Result<(), Error> {
        if let Some(process) = &mut self.process {
            process.signal(Signal::USR2)?;
            process.wait_ended(PATIENCE).await?;
        }
        self.process = None;
        Ok(())
    }

    /// Starts it again, after a crash, on the same port and folder. Does nothing while it runs.
    ///
    /// # Errors
    /// If it ends or is not ready in time.
    pub async fn restart(&mut self) -> Result<(), Error> {
        if self.process.is_some() {
            return Ok(());
        }
        let log = self.folder.join("azurite.log");
        let mut process = Process::start("Azurite", &mut self.node(), &log)?;
        let log = process.log().clone();
        process
            .wait_ready(PATIENCE, || std::future::ready(log.text().contains(READY)))
            .await?;
        self.process = Some(process);
        Ok(())
    }

    fn node(&self) -> Command {
        let Account {
            name,
            key,
            second_key,
        } = &self.options.account;
        let keys = format!("{}:{}", key.expose(), second_key.expose());
        let mut command = Command::new(&self.command.node);
        command
            .env("AZURITE_ACCOUNTS", format!("{name}:{keys}"))
            .env_remove("AZURITE_DB")
            .env_remove("NODE_OPTIONS")
            .arg("--require")
            .arg(self.folder.join(CRASH_SCRIPT_NAME))
            .arg(&self.command.script)
            .args(["--blobHost", "127.0.0.1", "--blobPort"])
            .arg(self.port.to_string())
            // Clients that are newer than the emulator are still understood.
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
        if self.command.version == AzuriteVersion::Throughput {
            command.arg("--loose");
        }
        if self.options.in_memory {
            command.arg("--inMemoryPersistence");
        } else {
            command.arg("--location").arg(&self.folder);
        }
        if let Some(Certificate { certificate, key }) = &self.options.oauth {
            command
                .args(["--oauth", "basic", "--cert"])
                .arg(certificate);
            command.arg("--key").arg(key);
        }
        command
    }
}

/// Puts the script into `folder`. The path is absolute then: Node.js takes a relative one for the name of a package.
fn prepare(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(CRASH_SCRIPT_NAME), CRASH_SCRIPT)?;
    Ok(folder)
}
