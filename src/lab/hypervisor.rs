//! A hypervisor for the lab: it stands for Hyper-V's management service and worker processes, and ends with neither an
//! agent nor its guests.
//!
//! ```text
//! agents, console ──socket──► api ── service ── machine ──┬─ power · freeze · point · merge · checkpoint · create
//!                                                         └─ disk ── tracking, image (formats)
//! guests ─────────NBD───────► nbd ── exports ───────────────┘ guest
//! ```
//! Where to start: `disk` (who may touch an image when), `freeze` (the barrier), `tracking` (what changed), `merge`.
//! What holds, whenever the process is killed:
//! - What a guest flushed is there. A frozen point is exactly what its disks were at one instant.
//! - A change that a guest was told is done is among the changes since every cursor before it, or tracking is known to
//!   be lost. More may be told, never less.
//! - A machine's record says what is so; files that it does not name belong to nobody, and only those that it names for
//!   it are removed.
//!
//! Blocking code on threads of its own, each kind bounded. It refuses what Hyper-V refuses.

mod api;
mod checkpoint;
mod claims;
mod create;
mod describe;
mod disk;
mod exports;
mod faults;
mod freeze;
mod home;
mod hook;
mod image;
mod image_state;
mod listen;
mod machine;
mod merge;
mod moves;
mod nbd;
mod point;
mod power;
mod record;
mod service;
mod store;
mod tracking;
mod traffic;
mod witness;
mod work;

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::host;
use crate::host::lab::protocol::About;
use crate::lab::hypervisor::claims::Claims;
use crate::lab::hypervisor::faults::Faults;
use crate::lab::hypervisor::home::{Context, Revisions};
use crate::lab::hypervisor::listen::{Listener, Server};
use crate::lab::hypervisor::service::Service;
use crate::report::Code;
use crate::units::{Clock as _, SystemClock};

/// Where a hypervisor keeps its machines, and where it listens.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of its machines; made if it is not there.
    pub folder: PathBuf,
    /// The Unix socket for agents and console.
    pub socket: PathBuf,
    /// Where guests reach their disks over TCP; a loopback address. Port 0: any that is free.
    pub listen: Option<SocketAddr>,
    /// Where guests reach their disks over a Unix socket.
    pub nbd_socket: Option<PathBuf>,
}

/// A hypervisor that does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("another hypervisor uses the folder {}", path.display())]
    InUse { path: PathBuf },
    #[error("cannot listen on {place}")]
    Listen { place: String, source: io::Error },
    #[error("{address} is not a loopback address: guests are not authenticated")]
    NotLoopback { address: SocketAddr },
    #[error("another process listens on {}", path.display())]
    SocketInUse { path: PathBuf },
    #[error("cannot load the machines")]
    Load { source: Box<host::Error> },
    #[error("the hypervisor's own work ended in the middle")]
    Broken,
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Folder { .. } => Code::HostIo,
            Error::InUse { .. }
            | Error::Listen { .. }
            | Error::NotLoopback { .. }
            | Error::SocketInUse { .. } => Code::Configuration,
            Error::Load { source } => source.code(),
            Error::Broken => Code::Internal,
        }
    }
}

/// Runs a hypervisor until `shutdown`, and then puts everything on disk.
///
/// # Errors
/// If it does not start: the folder or a socket cannot be had.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let started = tokio::task::spawn_blocking(move || Hypervisor::start(&options));
    let hypervisor = started.await.map_err(|_| Error::Broken)??;
    shutdown.cancelled().await;
    let ended = tokio::task::spawn_blocking(move || hypervisor.end());
    ended.await.map_err(|_| Error::Broken)
}

/// A hypervisor at work. Dropping it without [`Hypervisor::end`] is like a kill, but for its threads.
pub struct Hypervisor {
    service: Arc<Service>,
    about: About,
    /// Clients first, guests last.
    servers: Vec<Server>,
    sockets: Vec<PathBuf>,
    /// Locked for as long as the process lives.
    _lock: File,
}

impl Hypervisor {
    /// Loads the machines, lets those go on that ran, and listens. Blocks.
    ///
    /// # Errors
    /// As for [`run`].
    pub fn start(options: &Options) -> Result<Self, Error> {
        let folder = prepare(&options.folder)?;
        let lock = lock(&folder)?;
        let guests = listen_for_guests(options)?;
        let api = listen_on_socket(&options.socket)?;
        let clock = SystemClock;
        // Revisions of two processes differ, so that nobody waits for a change that it has missed.
        let first = clock.now().as_millisecond().unsigned_abs() << 16;
        let context = Context {
            faults: Faults::default(),
            claims: Claims::default(),
            revisions: Revisions::from(first),
            clock: Arc::new(clock),
        };
        let service = Service::load(&folder, Arc::new(context)).map_err(|source| Error::Load {
            source: Box::new(source),
        })?;
        let service = Arc::new(service);
        let about = About {
            process: std::process::id(),
            nbd: guests.address,
            nbd_socket: options.nbd_socket.clone(),
        };
        let mut servers = Vec::new();
        let (for_api, for_api_about) = (Arc::clone(&service), about.clone());
        servers.push(serve(api, api::CLIENTS_MAX, "api", move |stream| {
            api::serve(&for_api, &for_api_about, stream);
        })?);
        for listener in guests.listeners {
            let service = Arc::clone(&service);
            servers.push(serve(
                listener,
                nbd::CONNECTIONS_MAX,
                "nbd",
                move |stream| {
                    nbd::serve(service.as_ref(), stream);
                },
            )?);
        }
        tracing::info!(folder = %folder.display(), socket = %options.socket.display(), nbd = ?about.nbd, "the lab hypervisor runs");
        Ok(Hypervisor {
            service,
            about,
            servers,
            sockets: [Some(options.socket.clone()), options.nbd_socket.clone()]
                .into_iter()
                .flatten()
                .collect(),
            _lock: lock,
        })
    }

    /// What runs here.
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// Cuts guests and clients off, and puts everything on disk. Blocks.
    pub fn end(self) {
        self.service.let_go();
        for server in self.servers {
            server.end();
        }
        self.service.end();
        for socket in self.sockets {
            if let Err(error) = fs::remove_file(&socket) {
                tracing::warn!(socket = %socket.display(), %error, "a socket is left");
            }
        }
        tracing::info!("the lab hypervisor has ended");
    }
}

fn prepare(folder: &Path) -> Result<PathBuf, Error> {
    let made = fs::create_dir_all(folder).and_then(|()| fs::canonicalize(folder));
    made.map_err(|source| Error::Folder {
        path: folder.to_owned(),
        source,
    })
}

/// One hypervisor per folder: the system lets the lock go when the process ends, however it does.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let opened = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(TryLockError::Error);
    let locked = opened.and_then(|file| file.try_lock().map(|()| file));
    locked.map_err(|error| match error {
        TryLockError::WouldBlock => Error::InUse {
            path: folder.to_owned(),
        },
        TryLockError::Error(source) => Error::Folder { path, source },
    })
}

struct Guests {
    listeners: Vec<Listener>,
    address: Option<SocketAddr>,
}

fn listen_for_guests(options: &Options) -> Result<Guests, Error> {
    let mut guests = Guests {
        listeners: Vec::new(),
        address: None,
    };
    if let Some(address) = options.listen {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        let failed = |source| Error::Listen {
            place: address.to_string(),
            source,
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        guests.address = Some(listener.local_addr().map_err(failed)?);
        guests.listeners.push(Listener::Tcp(listener));
    }
    if let Some(path) = &options.nbd_socket {
        guests.listeners.push(listen_on_socket(path)?);
    }
    Ok(guests)
}

/// Listens on a Unix socket that nobody but the owner may use. One that a killed process has left is replaced.
fn listen_on_socket(path: &Path) -> Result<Listener, Error> {
    let failed = |source| Error::Listen {
        place: path.display().to_string(),
        source,
    };
    if UnixStream::connect(path).is_ok() {
        return Err(Error::SocketInUse {
            path: path.to_owned(),
        });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

fn serve(
    listener: Listener,
    limit: usize,
    name: &'static str,
    serve: impl Fn(listen::Stream) + Send + Sync + 'static,
) -> Result<Server, Error> {
    Server::start(listener, limit, name, serve).map_err(|source| Error::Listen {
        place: name.to_owned(),
        source,
    })
}
