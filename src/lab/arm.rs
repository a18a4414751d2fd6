//! Azure Resource Manager on this machine: a stand-in with a life of its own, which refuses what Azure refuses.
//!
//! ```text
//!   our client ─┐   REST     ┌ serve ── admission (token, faults, throttle) ── route ─┬ compute: disks, snapshots, machines
//!   Azure SDK  ─┴──────────► │                                                        ├ network: networks, adapters, addresses
//!                            └ export: the URL of a disk's bytes, page ranges, diffs  └ jobs: what takes its time
//!                                                                     cloud: all state, on disk before it is answered
//!   a storage account ◄── import reads the page blob, footer and all ──┘
//! ```
//! Real: the requests and answers, long-running operations with both kinds of headers, the bytes of disks (a sparse file
//! each), their snapshots and what differs between two. A machine that "runs" writes to its disks when it is told to
//! ([`Arm::write`]). Not real: guests, networks, money. State survives a kill; an import that was cut off begins anew.
//!
//! It listens on 127.0.0.1 alone, over TLS if it has a certificate; it issues the one token that it believes, as Entra ID
//! does, to whoever has the client secret.

mod admission;
mod catalog;
mod cloud;
mod content;
mod creation;
mod disks;
mod export;
mod faults;
mod import;
mod jobs;
mod listen;
mod lists;
mod machines;
mod network;
mod refusal;
mod route;
mod serve;
mod shape;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::blob::Account;
use crate::lab::arm::cloud::Cloud;
use crate::report::Code;
use crate::secret::Secret;
use crate::units::ByteRange;

pub use catalog::{Quota, SizeOffer};
pub use faults::{Effect, Fault};

/// A storage account that disks can be imported from.
#[derive(Clone)]
pub struct Storage {
    /// Its resource id, as an import names it.
    pub id: String,
    pub location: String,
    /// How its bytes are read: with its key, as Azure itself does.
    pub account: Arc<dyn Account>,
}

/// A server's certificate and private key, as PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub certificate: String,
    pub key: Secret,
}

/// What to start.
#[derive(Clone)]
pub struct Options {
    /// Where everything is kept; made if it is not there.
    pub folder: PathBuf,
    /// Where to listen; any free port if it does not matter.
    pub port: Option<u16>,
    /// Serves TLS with this; plain HTTP if absent.
    pub tls: Option<Certificate>,
    /// Only this token is believed; any if absent.
    pub token: Option<Secret>,
    /// Whoever has it is given the token; whoever says anything, if absent.
    pub client_secret: Option<Secret>,
    pub storage: Vec<Storage>,
    /// How long each operation takes.
    pub takes: Duration,
    /// `Retry-After`, in seconds, of what is under way.
    pub retry_after: u64,
    /// Requests of one class at once, and how many more each second; nothing is throttled if absent.
    pub throttle: Option<(u32, u32)>,
    /// Ranges in one page of a page list.
    pub page_ranges_max: usize,
    pub sizes: Vec<SizeOffer>,
    pub quotas: Vec<Quota>,
}

impl Options {
    /// A cloud of which everything is at once, in `folder`.
    pub fn quick(folder: PathBuf) -> Self {
        Options {
            folder,
            port: None,
            tls: None,
            token: None,
            client_secret: None,
            storage: Vec::new(),
            takes: Duration::ZERO,
            retry_after: 0,
            throttle: None,
            page_ranges_max: 10_000,
            sizes: SizeOffer::usual(),
            quotas: Quota::usual(),
        }
    }
}

/// A cloud that cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the lab cloud's folder {}", path.display())]
    Folder {
        path: PathBuf,
        source: crate::durable::Error,
    },
    #[error("the lab cloud cannot listen on port {port}")]
    Port { port: u16, source: std::io::Error },
    #[error("the lab cloud's certificate cannot be used: {0}")]
    Certificate(String),
    #[error("{0}")]
    Console(String),
}

impl Error {
    pub const fn code(&self) -> Code {
        Code::Configuration
    }
}

/// A running cloud. Dropping it is as good as killing it: what was answered stands.
pub struct Arm {
    port: u16,
    cloud: Arc<Cloud>,
    serving: JoinHandle<()>,
}

impl Arm {
    /// Begins to answer, from what the folder holds.
    ///
    /// # Errors
    /// If the folder cannot be used, or the port not be had.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let wanted = options.port.unwrap_or(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, wanted));
        let port = |source| Error::Port {
            port: wanted,
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(port)?;
        let own = listener.local_addr().map_err(port)?.port();
        let tls = options.tls.as_ref().map(listen::acceptor).transpose()?;
        let cloud = Arc::new(Cloud::open(options, own)?);
        cloud.resume();
        let serving = tokio::spawn(listen::listen(listener, Arc::clone(&cloud), tls));
        Ok(Arm {
            port: own,
            cloud,
            serving,
        })
    }

    /// Ends it in the midst of whatever it does; its port is free then.
    pub async fn kill(mut self) {
        self.cloud.end();
        self.serving.abort();
        // That it was cut off is what was asked for.
        let _cut_off = (&mut self.serving).await;
    }

    /// `http://127.0.0.1:PORT`, or with `https`. It is also the authority that tokens are had from.
    pub fn url(&self) -> String {
        self.cloud.url()
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Lets something go wrong.
    pub fn fault(&self, fault: Fault) {
        self.cloud.faults.set(fault);
    }

    /// Nothing goes wrong any more, but for what has.
    pub fn clear_faults(&self) {
        self.cloud.faults.clear();
    }

    /// Operations that begin from now on take so long.
    pub fn take(&self, time: Duration) {
        self.cloud.set_takes(time);
    }

    /// What changes are asked for, in order: method, path, and status of the answer.
    pub fn journal(&self) -> Vec<(String, String, u16)> {
        self.cloud.journal()
    }

    /// Method, path with query, and body of each request that was answered with success: what a schema can judge.
    pub fn bodies(&self) -> Vec<(String, String, Value)> {
        self.cloud.bodies()
    }

    /// The ids of all resources, as they were first written.
    pub fn resources(&self) -> Vec<String> {
        self.cloud.ids()
    }

    /// Puts a resource there as if by another hand: a network, a group, a disk of somebody else's.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn place(&self, id: &str, body: Value) -> Result<(), Error> {
        self.cloud.place(id, body)
    }

    /// The guest of a running machine writes to the disk at `lun`, or to the one that it starts from.
    ///
    /// # Errors
    /// If the machine does not run, or has no such disk.
    pub fn write(
        &self,
        machine: &str,
        lun: Option<u64>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let disk = self
            .cloud
            .disk_of_running(machine, lun)
            .map_err(Error::Console)?;
        self.cloud
            .write_disk(&disk, offset, bytes)
            .map_err(Error::Console)
    }

    /// What a disk or a snapshot holds.
    ///
    /// # Errors
    /// If it is not there, or is shorter.
    pub fn read(&self, id: &str, range: ByteRange) -> Result<Vec<u8>, Error> {
        self.cloud.read_disk(id, range).map_err(Error::Console)
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        self.serving.abort();
        self.cloud.end();
    }
}
