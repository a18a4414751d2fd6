//! One call of the lab hypervisor: connect, send a line, read a line. Nothing is kept between calls.
//!
//! A call that ends without a reply has an unknown outcome; the error says so, and the caller asks.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::host::Kind;
use crate::host::lab::failure::Failure;
use crate::host::lab::protocol::{Call, REPLY_MAX, Reply};
use crate::units::{to_u64, to_usize};

/// How long a call may take, unless it is one that waits.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What is given on top of the time that the hypervisor itself may take.
pub const SLACK: Duration = Duration::from_secs(15);

/// Where the hypervisor listens.
#[derive(Clone, Debug)]
pub struct Connection {
    socket: PathBuf,
    patience: Duration,
}

impl Connection {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Connection {
            socket: socket.into(),
            patience: PATIENCE,
        }
    }

    /// The same with another patience for calls that do not wait.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a call and returns what it is answered with.
    ///
    /// # Errors
    /// The hypervisor's own failure; [`Kind::Unavailable`] if it is not there or goes away, [`Kind::Timeout`] if it does
    /// not answer in time.
    pub fn call<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Failure> {
        self.call_within(call, self.patience)
    }

    /// As [`Connection::call`], with its own patience.
    ///
    /// # Errors
    /// As there.
    pub fn call_within<T: DeserializeOwned>(
        &self,
        call: &Call,
        patience: Duration,
    ) -> Result<T, Failure> {
        let mut request =
            serde_json::to_vec(call).map_err(|error| misunderstood(&error.to_string()))?;
        request.push(b'\n');
        let line = self
            .exchange(&request, patience)
            .map_err(|error| self.failed(&error, patience))?;
        match serde_json::from_slice(&line) {
            Ok(Reply::Done(value)) => {
                serde_json::from_value(value).map_err(|error| misunderstood(&error.to_string()))
            }
            Ok(Reply::Failed(failure)) => Err(failure),
            Err(error) => Err(misunderstood(&error.to_string())),
        }
    }

    fn exchange(&self, request: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
        let started = Instant::now();
        let left = || left(started, patience);
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_write_timeout(Some(left()?))?;
        stream.write_all(request)?;
        let mut line = Vec::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            stream.set_read_timeout(Some(left()?))?;
            let count = match stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.extend_from_slice(&piece[..count]);
            if line.last() == Some(&b'\n') {
                return Ok(line);
            }
            if line.len() > to_usize(REPLY_MAX) {
                let length = to_u64(line.len());
                return Err(io::Error::other(format!(
                    "a reply of more than {length} bytes"
                )));
            }
        }
    }

    fn failed(&self, error: &io::Error, patience: Duration) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::new(
                Kind::Timeout,
                format!(
                    "the lab hypervisor at {socket} did not answer within {} s",
                    patience.as_secs()
                ),
            ),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Failure::new(
                Kind::Unavailable,
                format!("the lab hypervisor at {socket} went away before it answered"),
            ),
            _ => Failure::new(
                Kind::Unavailable,
                format!("the lab hypervisor at {socket} cannot be reached: {error}"),
            ),
        }
    }
}

/// What is left of `patience`; a timeout if there is nothing.
fn left(started: Instant, patience: Duration) -> io::Result<Duration> {
    let left = patience.saturating_sub(started.elapsed());
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

fn misunderstood(why: &str) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("the lab hypervisor and its client do not understand each other: {why}"),
    )
}
