//! The numbers and headers of the Network Block Device protocol, big-endian on the wire: what server and guest share.
//!
//! Specification: NetworkBlockDevice/nbd, `doc/proto.md`. Nothing here reads or writes a connection.

/// `NBDMAGIC`
pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const REPLY_MAGIC: u32 = 0x6744_6698;

/// Handshake flags, ours and the client's: fixed newstyle, and no zeroes after an export's size.
pub(crate) const FIXED_NEWSTYLE: u16 = 1;
pub(crate) const NO_ZEROES: u16 = 2;

pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
}

pub(crate) mod reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const UNSUPPORTED: u32 = (1 << 31) + 1;
    pub(crate) const POLICY: u32 = (1 << 31) + 2;
    pub(crate) const INVALID: u32 = (1 << 31) + 3;
    pub(crate) const UNKNOWN: u32 = (1 << 31) + 6;
    pub(crate) const TOO_BIG: u32 = (1 << 31) + 9;
}

pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do: flags, FLUSH, FUA, TRIM, WRITE_ZEROES, and several connections to it.
pub(crate) const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8;

pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
}

/// Command flags: what was written must be durable; zeroes must take space.
pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;

pub(crate) mod errno {
    pub(crate) const IO: u32 = 5;
    pub(crate) const INVALID: u32 = 22;
    pub(crate) const NO_SPACE: u32 = 28;
    pub(crate) const SHUT_DOWN: u32 = 108;
}

/// The longest READ and WRITE, which is also what clients take for granted where nobody tells them.
pub(crate) const PAYLOAD_MAX: u32 = 32 << 20;
/// Bytes of a simple reply before its data.
pub(crate) const REPLY_HEADER: usize = 16;
/// Bytes of a request before its data.
pub(crate) const REQUEST_HEADER: usize = 28;
/// The longest name of an export.
pub(crate) const NAME_MAX: usize = 4096;

/// A request as it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Request {
    /// The bytes of the request, before its data.
    pub(crate) fn encode(&self) -> [u8; REQUEST_HEADER] {
        let mut bytes = [0; REQUEST_HEADER];
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// The request of these bytes, if they are one.
    pub(crate) fn parse(bytes: &[u8; REQUEST_HEADER]) -> Option<Self> {
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
pub(crate) fn reply_header(cookie: u64, error: u32) -> [u8; REPLY_HEADER] {
    let mut bytes = [0; REPLY_HEADER];
    bytes[0..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// The cookie and the error of a reply, if these bytes begin one.
pub(crate) fn parse_reply_header(bytes: &[u8; REPLY_HEADER]) -> Option<(u64, u32)> {
    let (magic, rest) = bytes.split_first_chunk()?;
    let (error, cookie) = rest.split_first_chunk()?;
    let cookie = u64::from_be_bytes(*cookie.first_chunk()?);
    (u32::from_be_bytes(*magic) == REPLY_MAGIC).then_some((cookie, u32::from_be_bytes(*error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written_and_others_are_not() {
        let request = Request {
            flags: FUA,
            command: command::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: 1 << 40,
            length: 4096,
        };
        let mut bytes = request.encode();
        assert_eq!(Request::parse(&bytes), Some(request));
        bytes[0] ^= 1;
        assert_eq!(Request::parse(&bytes), None);
        let mut reply = reply_header(7, errno::IO);
        assert_eq!(parse_reply_header(&reply), Some((7, errno::IO)));
        reply[3] ^= 1;
        assert_eq!(parse_reply_header(&reply), None);
    }
}
