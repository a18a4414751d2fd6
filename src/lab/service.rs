//! Stands for the gateway's Service: one port in front of however many controllers.
//!
//! A connection goes to the next controller in turn that accepts it, as kube-proxy would do, and its bytes are passed on
//! as they are. Whether a controller leads is none of its business: one that does not tells its agent so.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One port in front of several. Dropping it closes the port and cuts what goes through it.
#[derive(Debug)]
pub struct Service {
    port: u16,
    backends: Arc<Mutex<Backends>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Backends {
    ports: Vec<u16>,
    next: usize,
}

impl Service {
    /// Listens on `port` of 127.0.0.1. Until a backend is added, connections are closed at once.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub async fn listen(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let backends = Arc::new(Mutex::new(Backends::default()));
        let accepting = tokio::spawn(accept(listener, backends.clone()));
        Ok(Service {
            port,
            backends,
            accepting,
        })
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Adds a port of this machine that connections may go to.
    pub fn add(&self, port: u16) {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if !backends.ports.contains(&port) {
            backends.ports.push(port);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backends {
    /// All ports, beginning with the one whose turn it is.
    fn in_turn(&mut self) -> Vec<u16> {
        let number = self.ports.len();
        self.next = (self.next + 1) % number.max(1);
        let ports = self.ports.iter().cycle().skip(self.next);
        ports.take(number).copied().collect()
    }
}

async fn accept(listener: TcpListener, backends: Arc<Mutex<Backends>>) {
    // Dropped with the port, and with them what they carry.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let ports = backends
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .in_turn();
                connections.spawn(pass_on(client, ports));
            }
            Err(error) => tracing::warn!(%error, "the service cannot accept a connection"),
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn pass_on(mut client: TcpStream, ports: Vec<u16>) {
    for port in ports {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Ok(mut backend) = TcpStream::connect(address).await {
            // An end that breaks is the other end's news; there is nobody else to tell.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_turn() {
        let mut backends = Backends {
            ports: vec![1, 2, 3],
            next: 0,
        };
        let firsts: Vec<_> = (0..6).map(|_| backends.in_turn()[0]).collect();
        assert_eq!(firsts, [2, 3, 1, 2, 3, 1]);
        assert_eq!(backends.in_turn(), [2, 3, 1]);
    }

    #[test]
    fn without_backends_there_is_no_turn() {
        assert!(Backends::default().in_turn().is_empty());
    }
}
