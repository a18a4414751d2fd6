//! A small blocking client of the Network Block Device protocol: fixed newstyle, GO, one request at a time.
//!
//! ```text
//! connect   greeting ── our flags ── GO <export> ──► INFO (size, flags) … ACK      anything else is refused
//! request   header (and data) ──► header (and data), for the same cookie
//! ```
//! The server is hostile: lengths are checked before memory is taken for them, and what is not expected ends the
//! connection with an error. It never waits longer than its patience for a read or write of the socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::nbd::{
    FIXED_NEWSTYLE, MAGIC, NAME_MAX, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_MAX,
    REPLY_HEADER, Request, command, info, option, parse_reply_header, reply,
};
use crate::report::Code;
use crate::units::{ByteRange, to_u64, to_usize};

/// Replies to one option that are read before the server is given up.
const REPLIES_MAX: usize = 64;
/// The longest reply to an option: a reason in words.
const REPLY_MAX: u32 = 64 << 10;

/// Where exports are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A disk that cannot be reached, or a request that was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {address}")]
    Connect { address: Address, source: io::Error },
    #[error("the export `{export}` is refused: {reason}")]
    Refused { export: String, reason: String },
    #[error("cannot {operation}")]
    Io {
        operation: &'static str,
        source: io::Error,
    },
    #[error("the server does not keep to the protocol: {what}")]
    Protocol { what: &'static str },
    #[error("cannot {operation} {range}: the server answers with error {errno}")]
    Failed {
        operation: &'static str,
        range: ByteRange,
        errno: u32,
    },
    #[error("cannot {operation} {length} bytes at {offset}: the disk has {size}")]
    Beyond {
        operation: &'static str,
        offset: u64,
        length: u64,
        size: u64,
    },
    #[error("a record of {length} bytes, expected a multiple of 512 up to 16 MiB")]
    Record { length: u32 },
    #[error("no record fits in {area} of a disk with {size} bytes")]
    NoRoom { area: ByteRange, size: u64 },
    #[error("cannot start a guest's thread")]
    Thread { source: io::Error },
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Connect { .. } | Error::Refused { .. } => Code::HypervisorUnavailable,
            Error::Io { .. } | Error::Failed { .. } => Code::HostIo,
            Error::Protocol { .. } => Code::Internal,
            Error::Beyond { .. } | Error::Record { .. } | Error::NoRoom { .. } => {
                Code::Configuration
            }
            Error::Thread { .. } => Code::HostMemory,
        }
    }
}

/// Both kinds of socket.
trait Transport: Read + Write + Send {}

impl<T: Read + Write + Send> Transport for T {}

/// A connection to one export.
pub struct Client {
    stream: Box<dyn Transport>,
    size: u64,
    cookie: u64,
}

impl Client {
    /// Connects and chooses an export. Each read and write of the connection may take as long as `patience`.
    ///
    /// # Errors
    /// If nobody listens, or the export is refused.
    pub fn connect(address: &Address, export: &str, patience: Duration) -> Result<Self, Error> {
        let stream = open(address, patience).map_err(|source| Error::Connect {
            address: address.clone(),
            source,
        })?;
        Client::negotiate(stream, export)
    }

    fn negotiate(mut stream: Box<dyn Transport>, export: &str) -> Result<Self, Error> {
        let greeting: [u8; 18] = read_array(&mut stream, "read the greeting")?;
        let expected = [MAGIC.to_be_bytes(), OPTION_MAGIC.to_be_bytes()].concat();
        let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
        if greeting[..16] != expected || flags & FIXED_NEWSTYLE == 0 {
            return Err(Error::Protocol {
                what: "it greets as no fixed newstyle server does",
            });
        }
        let ours = u32::from(FIXED_NEWSTYLE | flags & NO_ZEROES);
        let mut message = ours.to_be_bytes().to_vec();
        message.extend(go(export)?);
        send(&mut stream, &message, "choose the export")?;
        let size = chosen(&mut stream, export)?;
        Ok(Client {
            stream,
            size,
            cookie: 0,
        })
    }

    /// Bytes of the export.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// If the range leaves the disk, or the request fails. After any but the first the connection is of no use, unless
    /// it is [`Error::Failed`].
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        const OPERATION: &str = "read";
        self.check(OPERATION, offset, buffer.len())?;
        let mut at = offset;
        for piece in buffer.chunks_mut(to_usize(PAYLOAD_MAX.into())) {
            self.ask(OPERATION, command::READ, at, piece.len(), &[])?;
            let done = self.stream.read_exact(piece);
            done.map_err(|source| Error::Io {
                operation: OPERATION,
                source,
            })?;
            at += to_u64(piece.len());
        }
        Ok(())
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// As for [`Client::read`]; a part may be written then.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        const OPERATION: &str = "write";
        self.check(OPERATION, offset, data.len())?;
        let mut at = offset;
        for piece in data.chunks(to_usize(PAYLOAD_MAX.into())) {
            self.ask(OPERATION, command::WRITE, at, piece.len(), piece)?;
            at += to_u64(piece.len());
        }
        Ok(())
    }

    /// Returns when all that was written before is durable.
    ///
    /// # Errors
    /// If the request fails: what was written since the last flush may be lost.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.ask("flush", command::FLUSH, 0, 0, &[])
    }

    /// Says goodbye. Nobody answers, so that a server that is gone is as good.
    pub fn disconnect(mut self) {
        let request = Request {
            flags: 0,
            command: command::DISCONNECT,
            cookie: self.cookie,
            offset: 0,
            length: 0,
        };
        let _ = self.stream.write_all(&request.encode());
    }

    fn check(&self, operation: &'static str, offset: u64, length: usize) -> Result<(), Error> {
        let length = to_u64(length);
        match ByteRange::at(offset, length) {
            Some(range) if range.end() <= self.size => Ok(()),
            _ => Err(Error::Beyond {
                operation,
                offset,
                length,
                size: self.size,
            }),
        }
    }

    /// Sends a request and reads the head of its reply.
    fn ask(
        &mut self,
        operation: &'static str,
        command: u16,
        offset: u64,
        length: usize,
        data: &[u8],
    ) -> Result<(), Error> {
        self.cookie = self.cookie.wrapping_add(1);
        let request = Request {
            flags: 0,
            command,
            cookie: self.cookie,
            offset,
            length: u32::try_from(length).expect("a request was cut to what the protocol allows"),
        };
        send(&mut self.stream, &request.encode(), operation)?;
        send(&mut self.stream, data, operation)?;
        let head: [u8; REPLY_HEADER] = read_array(&mut self.stream, operation)?;
        match parse_reply_header(&head) {
            Some((cookie, 0)) if cookie == self.cookie => Ok(()),
            Some((cookie, errno)) if cookie == self.cookie => Err(Error::Failed {
                operation,
                range: ByteRange::at(offset, to_u64(length)).unwrap_or(ByteRange::to(0)),
                errno,
            }),
            Some(_) => Err(Error::Protocol {
                what: "it answers a request that was not sent",
            }),
            None => Err(Error::Protocol {
                what: "a reply does not begin as one",
            }),
        }
    }
}

fn open(address: &Address, patience: Duration) -> io::Result<Box<dyn Transport>> {
    Ok(match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, patience)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Box::new(stream)
        }
    })
}

/// The option that chooses an export and ends the handshake.
fn go(export: &str) -> Result<Vec<u8>, Error> {
    let name = export.as_bytes();
    if name.len() > NAME_MAX {
        return Err(Error::Refused {
            export: export.chars().take(100).collect(),
            reason: format!("its name has more than {NAME_MAX} bytes"),
        });
    }
    let length = u32::try_from(name.len()).expect("a name has at most 4 KiB");
    // Its length, the name, and no further information that is asked for.
    let mut wish = length.to_be_bytes().to_vec();
    wish.extend(name);
    wish.extend(0_u16.to_be_bytes());
    let length = u32::try_from(wish.len()).expect("a name has at most 4 KiB");
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option::GO.to_be_bytes());
    message.extend(length.to_be_bytes());
    message.extend(wish);
    Ok(message)
}

/// Reads the replies to GO: the export's size.
fn chosen(stream: &mut Box<dyn Transport>, export: &str) -> Result<u64, Error> {
    const OPERATION: &str = "read the reply to GO";
    let wrong = |what| Err(Error::Protocol { what });
    let mut size = None;
    for _ in 0..REPLIES_MAX {
        let magic: [u8; 8] = read_array(stream, OPERATION)?;
        let to: [u8; 4] = read_array(stream, OPERATION)?;
        let kind = u32::from_be_bytes(read_array(stream, OPERATION)?);
        let length = u32::from_be_bytes(read_array(stream, OPERATION)?);
        if u64::from_be_bytes(magic) != OPTION_REPLY_MAGIC || u32::from_be_bytes(to) != option::GO {
            return wrong("a reply to an option does not begin as one");
        }
        if length > REPLY_MAX {
            return wrong("a reply to an option is too long");
        }
        let mut data = vec![0; to_usize(length.into())];
        let read = stream.read_exact(&mut data);
        read.map_err(|source| Error::Io {
            operation: OPERATION,
            source,
        })?;
        match (kind, size) {
            (reply::ACK, Some(size)) => return Ok(size),
            (reply::ACK, None) => return wrong("it does not say how large the export is"),
            (reply::INFO, _) => size = size_in(&data).or(size),
            (refused, _) if refused >> 31 == 1 => {
                return Err(Error::Refused {
                    export: export.to_owned(),
                    reason: String::from_utf8_lossy(&data).into_owned(),
                });
            }
            _ => return wrong("it answers GO with what is no answer to it"),
        }
    }
    wrong("it does not come to an end with GO")
}

/// The size in a piece of information, if it is the one that has it.
fn size_in(information: &[u8]) -> Option<u64> {
    let (kind, rest) = information.split_first_chunk()?;
    let (size, flags) = rest.split_first_chunk()?;
    let whole = u16::from_be_bytes(*kind) == info::EXPORT && flags.len() == 2;
    whole.then(|| u64::from_be_bytes(*size))
}

fn send(
    stream: &mut Box<dyn Transport>,
    data: &[u8],
    operation: &'static str,
) -> Result<(), Error> {
    let sent = stream.write_all(data);
    sent.map_err(|source| Error::Io { operation, source })
}

fn read_array<const N: usize>(
    stream: &mut Box<dyn Transport>,
    operation: &'static str,
) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let read = stream.read_exact(&mut bytes);
    read.map_err(|source| Error::Io { operation, source })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
