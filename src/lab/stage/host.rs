//! A Hyper-V host of the lab: a hypervisor that holds the machines, and an agent beside it.
//!
//! ```text
//! <folder>/machines/         the hypervisor's
//!          hypervisor.sock   for agent and console
//!          certificates/  state/   the agent's
//!          hypervisor.log  agent.log
//! ```
//! Guests outlive an agent that is killed, as they do on Hyper-V.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::host::lab::LabHypervisor;
use crate::host::lab::console::Console;
use crate::ids::HostName;
use crate::lab::file::file_error;
use crate::lab::process::{Process, port};
use crate::lab::stage::error::Error;

/// Ten times what a start takes on two idle cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a host is started from.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) name: HostName,
    pub(super) certificates: PathBuf,
    /// The port that the agent connects to.
    pub(super) gateway: u16,
    pub(super) binary: PathBuf,
}

/// A host. Dropping it ends agent and hypervisor.
#[derive(Debug)]
pub struct Host {
    place: Place,
    /// Where guests reach their disks.
    nbd: u16,
    agent: Option<Process>,
    hypervisor: Option<Process>,
}

impl Host {
    pub(super) async fn start(place: Place) -> Result<Self, Error> {
        let mut host = Host {
            place,
            nbd: port::free()?,
            agent: None,
            hypervisor: None,
        };
        host.start_hypervisor().await?;
        Ok(host)
    }

    pub const fn name(&self) -> &HostName {
        &self.place.name
    }

    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// Where guests reach their disks over NBD.
    pub fn nbd(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.nbd))
    }

    /// Where the hypervisor listens for agent and console.
    pub fn socket(&self) -> PathBuf {
        self.place.folder.join("hypervisor.sock")
    }

    /// For what an administrator of the host does: machines, power, faults. Its calls block.
    pub fn console(&self) -> Console {
        Console::new(self.socket())
    }

    /// The hypervisor as the agent sees it. Its calls block.
    pub fn hypervisor(&self) -> LabHypervisor {
        LabHypervisor::new(self.socket())
    }

    /// Where the agent keeps what survives a restart.
    pub fn agent_state(&self) -> PathBuf {
        self.place.folder.join("state")
    }

    /// The agent, if it was started.
    pub const fn agent(&mut self) -> Option<&mut Process> {
        self.agent.as_mut()
    }

    /// Starts the hypervisor, with the machines of its folder; nothing happens if it runs.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_hypervisor(&mut self) -> Result<(), Error> {
        if self.hypervisor.is_some() {
            return Ok(());
        }
        let folder = &self.place.folder;
        std::fs::create_dir_all(folder).map_err(file_error("create", folder))?;
        let mut command = Command::new(&self.place.binary);
        command
            .args(["lab", "hypervisor", "--folder"])
            .arg(folder)
            .arg("--socket")
            .arg(self.socket())
            .args(["--listen", &self.nbd().to_string()]);
        let log = folder.join("hypervisor.log");
        let mut process = Process::start("the lab hypervisor", &mut command, &log)?;
        let console = self.console();
        process
            .wait_ready(PATIENCE, || {
                let console = console.clone();
                async move {
                    let asked = tokio::task::spawn_blocking(move || console.about().is_ok());
                    asked.await.unwrap_or(false)
                }
            })
            .await?;
        self.hypervisor = Some(process);
        Ok(())
    }

    /// Ends the hypervisor as a reboot of its host does: guests are cut off, and all that they wrote is on disk.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop_hypervisor(&mut self) -> Result<(), Error> {
        if let Some(mut process) = self.hypervisor.take() {
            process.signal(Signal::TERM)?;
            process.wait_ended(PATIENCE).await?;
        }
        Ok(())
    }

    /// Ends the hypervisor with SIGKILL, and its guests' disks with it.
    pub fn kill_hypervisor(&mut self) {
        self.hypervisor = None;
    }

    /// Starts the agent; nothing happens if it runs.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_agent(&mut self) -> Result<(), Error> {
        if self.agent.is_some() {
            return Ok(());
        }
        let folder = &self.place.folder;
        let mut command = Command::new(&self.place.binary);
        command
            .args(["agent", "--host", &self.place.name.to_string()])
            .args(["--gateway", &format!("127.0.0.1:{}", self.place.gateway)])
            .arg("--certificates")
            .arg(&self.place.certificates)
            .arg("--state")
            .arg(self.agent_state())
            .arg("--hypervisor")
            .arg(format!("lab:{}", self.socket().display()))
            .args(["--proxy", "none"]);
        self.agent = Some(Process::start(
            "the agent",
            &mut command,
            &folder.join("agent.log"),
        )?);
        Ok(())
    }

    /// Ends the agent with SIGKILL.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }
}
