//! How guests reach their disks: a server of the Network Block Device protocol, fixed newstyle.
//!
//! ```text
//! handshake     which export: `<machine>/<slot>`; a machine that does not run has none
//! session       READ WRITE FLUSH TRIM WRITE_ZEROES FUA DISC, one after another per connection, until it ends
//! ```
//! Several connections to one disk see each other's writes, and a flush on one covers them all. What a peer sends is
//! hostile: lengths are checked before anything is allocated for them, and whoever does not keep to the protocol is cut
//! off. Specification and numbers: [`crate::lab::nbd`].

mod handshake;
mod session;

use std::io::{self, BufReader};
use std::time::Duration;

use crate::lab::hypervisor::listen::Stream;
use crate::lab::hypervisor::traffic::Traffic;
use crate::units::ByteRange;

/// Guests' connections at one time, over all machines.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// How long each read and write of a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is read from a connection at once; a request's data goes straight to where it belongs.
const BUFFER: usize = 64 << 10;

/// Why a request is not done, as a guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Io,
    NoSpace,
    ShutDown,
}

/// A disk as a guest sees it.
pub(crate) trait Export: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// Bytes of a logical sector.
    fn sector(&self) -> u32;
    /// The guests of its machine.
    fn traffic(&self) -> &Traffic;
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Refusal>;
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Refusal>;
    fn write_zeroes(&self, range: ByteRange) -> Result<(), Refusal>;
    fn flush(&self) -> Result<(), Refusal>;
}

/// Why an export is not given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// There is none of this name.
    Unknown,
    /// There is, but not now.
    Refused(String),
}

/// All exports.
pub(crate) trait Exports: Send + Sync {
    type Export: Export;

    /// The names of those that may be asked for now.
    fn names(&self) -> Vec<String>;

    fn find(&self, name: &str) -> Result<Self::Export, Absent>;
}

/// Serves one connection until it ends.
pub(crate) fn serve<E: Exports>(exports: &E, stream: Stream) {
    if let Err(error) = converse(exports, stream) {
        tracing::debug!(%error, "a guest's connection ended");
    }
}

fn converse<E: Exports>(exports: &E, stream: Stream) -> io::Result<()> {
    stream.set_patience(Some(HANDSHAKE))?;
    let mut out = stream.try_clone()?;
    let to_cut = stream.try_clone()?;
    let mut input = BufReader::with_capacity(BUFFER, stream);
    let Some(export) = handshake::negotiate(&mut input, &mut out, exports)? else {
        return Ok(());
    };
    // A guest may be silent for as long as it likes.
    to_cut.set_patience(None)?;
    let Some(_admitted) = export.traffic().admit(to_cut) else {
        return Ok(());
    };
    session::serve(&mut input, &mut out, &export)
}
