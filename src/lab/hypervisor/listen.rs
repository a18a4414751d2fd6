//! Accepts connections, a bounded number at a time, each on a thread of its own, and ends them all when told.
//!
//! A connection beyond the bound is closed at once: whoever comes later must not push out those that are served.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::hypervisor::store::lock;

/// How long connections may take to end after they were shut down.
const END: Duration = Duration::from_secs(10);
/// After an accept that failed (no descriptors left, mostly) before the next.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection over TCP or a Unix socket.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    /// Ends both directions, for all clones. One that has ended already is fine.
    pub(crate) fn shut_down(&self) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// How long one read or write may take; without a time, for ever.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(data),
            Stream::Unix(stream) => stream.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where connections come in.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener, _) => Ok(Stream::Unix(listener.accept()?.0)),
        }
    }

    fn address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Listener::Unix(_, path) => Ok(Address::Unix(path.clone())),
        }
    }
}

enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A listener at work.
pub(crate) struct Server {
    address: Address,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    ending: AtomicBool,
    connections: Mutex<BTreeMap<u64, Stream>>,
    ended: Condvar,
}

impl Server {
    /// Serves at most `limit` connections at a time with `serve`, which must end when its stream is shut down.
    pub(crate) fn start(
        listener: Listener,
        limit: usize,
        name: &'static str,
        serve: impl Fn(Stream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.address()?;
        let shared = Arc::new(Shared {
            ending: AtomicBool::new(false),
            connections: Mutex::default(),
            ended: Condvar::new(),
        });
        let (for_thread, serve) = (Arc::clone(&shared), Arc::new(serve));
        let accepting = thread::Builder::new()
            .name(name.into())
            .spawn(move || for_thread.accept(&listener, limit, name, &serve))?;
        Ok(Server {
            address,
            shared,
            accepting,
        })
    }

    /// Ends all connections, and waits for them.
    pub(crate) fn end(self) {
        self.shared.ending.store(true, Ordering::Release);
        // An accept cannot be interrupted; one more connection ends it.
        let woken = match &self.address {
            Address::Tcp(address) => TcpStream::connect(address).map(drop),
            Address::Unix(path) => UnixStream::connect(path).map(drop),
        };
        if woken.is_ok() && self.accepting.join().is_err() {
            tracing::error!("the thread that accepts connections has panicked");
        }
        let connections = lock(&self.shared.connections);
        connections.values().for_each(Stream::shut_down);
        let still = |open: &mut BTreeMap<u64, Stream>| !open.is_empty();
        drop(
            self.shared
                .ended
                .wait_timeout_while(connections, END, still),
        );
    }
}

impl Shared {
    fn accept<S: Fn(Stream) + Send + Sync + 'static>(
        self: &Arc<Self>,
        listener: &Listener,
        limit: usize,
        name: &'static str,
        serve: &Arc<S>,
    ) {
        let mut next = 0;
        loop {
            let accepted = listener.accept();
            if self.ending.load(Ordering::Acquire) {
                return;
            }
            let begun = accepted.and_then(|stream| {
                next += 1;
                self.begin(stream, next, limit, name, serve)
            });
            if let Err(error) = begun {
                tracing::warn!(name, %error, "a connection was not accepted");
                thread::sleep(PAUSE);
            }
        }
    }

    fn begin<S: Fn(Stream) + Send + Sync + 'static>(
        self: &Arc<Self>,
        stream: Stream,
        number: u64,
        limit: usize,
        name: &'static str,
        serve: &Arc<S>,
    ) -> io::Result<()> {
        let mut connections = lock(&self.connections);
        if connections.len() >= limit {
            return Err(io::Error::other(format!("{limit} connections are open")));
        }
        connections.insert(number, stream.try_clone()?);
        drop(connections);
        let listed = Listed {
            shared: Arc::clone(self),
            number,
        };
        let serve = Arc::clone(serve);
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let _listed = listed;
                serve(stream);
            })
            .map(drop)
    }
}

/// A connection in the list; taken out of it when its thread ends, however it ends.
struct Listed {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.shared.connections).remove(&self.number);
        self.shared.ended.notify_all();
    }
}
