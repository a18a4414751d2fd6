//! Loopback ports for servers that must come back on the same port after they were killed.
//!
//! They are taken from below the range that Linux and macOS draw outgoing connections' ports from (32768 and up), so
//! that no client happens to sit on a server's port while the server is down. Two processes that choose at the same
//! moment can still meet; with twelve thousand ports, drawn at random, that is a matter of theory.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use crate::lab::process::Error;

/// The lowest port that is handed out: above what well-known development servers use.
pub const FIRST: u16 = 20_000;
/// The highest, below the ephemeral range.
pub const LAST: u16 = 32_000;
/// Enough to find a free port even where nine of ten are taken.
const ATTEMPTS: usize = 256;

/// Ports that this process has handed out. They are not handed out again: their servers may not listen yet.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 on which nothing listens, handed out once per process.
///
/// # Errors
/// If none is found.
pub fn free() -> Result<u16, Error> {
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(FIRST..=LAST);
        // A panic elsewhere cannot leave a set of numbers half-changed.
        let new = TAKEN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(port);
        if new && is_free(port) {
            return Ok(port);
        }
    }
    Err(Error::NoPort)
}

/// `port` if nothing listens on it now, else another.
///
/// # Errors
/// If none is found.
pub fn again(port: u16) -> Result<u16, Error> {
    if is_free(port) { Ok(port) } else { free() }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
