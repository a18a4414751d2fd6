//! The numbers of the Network Block Device protocol (`doc/proto.md`), big-endian on the wire.

/// `NBDMAGIC`
pub(super) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const REPLY_MAGIC: u32 = 0x6744_6698;

/// Handshake flags, ours and the client's: fixed newstyle, and no zeroes after an export's size.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) mod option {
    pub(in super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super) const ABORT: u32 = 2;
    pub(in super::super) const LIST: u32 = 3;
    pub(in super::super) const INFO: u32 = 6;
    pub(in super::super) const GO: u32 = 7;
}

pub(super) mod reply {
    pub(in super::super) const ACK: u32 = 1;
    pub(in super::super) const SERVER: u32 = 2;
    pub(in super::super) const INFO: u32 = 3;
    pub(in super::super) const UNSUPPORTED: u32 = (1 << 31) + 1;
    pub(in super::super) const POLICY: u32 = (1 << 31) + 2;
    pub(in super::super) const INVALID: u32 = (1 << 31) + 3;
    pub(in super::super) const UNKNOWN: u32 = (1 << 31) + 6;
    pub(in super::super) const TOO_BIG: u32 = (1 << 31) + 9;
}

pub(super) mod info {
    pub(in super::super) const EXPORT: u16 = 0;
    pub(in super::super) const NAME: u16 = 1;
    pub(in super::super) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do: flags, FLUSH, FUA, TRIM, WRITE_ZEROES, and several connections to it.
pub(super) const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

pub(super) mod command {
    pub(in super::super) const READ: u16 = 0;
    pub(in super::super) const WRITE: u16 = 1;
    pub(in super::super) const DISCONNECT: u16 = 2;
    pub(in super::super) const FLUSH: u16 = 3;
    pub(in super::super) const TRIM: u16 = 4;
    pub(in super::super) const WRITE_ZEROES: u16 = 6;
}

/// Command flags: what was written must be durable; zeroes must take space.
pub(super) const FUA: u16 = 1;
pub(super) const NO_HOLE: u16 = 2;

pub(super) mod errno {
    pub(in super::super) const IO: u32 = 5;
    pub(in super::super) const INVALID: u32 = 22;
    pub(in super::super) const NO_SPACE: u32 = 28;
    pub(in super::super) const SHUT_DOWN: u32 = 108;
}

/// The longest READ and WRITE, which is also what clients take for granted where nobody tells them.
pub(super) const PAYLOAD_MAX: u32 = 32 << 20;
/// Bytes of a simple reply before its data.
pub(super) const REPLY_HEADER: usize = 16;
/// Bytes of a request before its data.
pub(super) const REQUEST_HEADER: usize = 28;
/// The longest name of an export.
pub(super) const NAME_MAX: usize = 4096;

/// A request as it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl Request {
    /// The request of these bytes, if they are one.
    pub(super) fn parse(bytes: &[u8; REQUEST_HEADER]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (command, rest) = rest.split_first_chunk()?;
        let (cookie, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let request = Request {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(*rest.first_chunk()?),
        };
        (u32::from_be_bytes(*magic) == REQUEST_MAGIC).then_some(request)
    }
}

/// The first bytes of the reply to a request.
pub(super) fn reply_header(cookie: u64, error: u32) -> [u8; REPLY_HEADER] {
    let mut bytes = [0; REPLY_HEADER];
    bytes[0..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes
}
