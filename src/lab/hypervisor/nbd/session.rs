//! The transmission: requests of one connection, one after another.

use std::io::{self, Read, Write};

use crate::lab::hypervisor::nbd::{Export, Refusal};
use crate::lab::nbd::{
    FUA, NO_HOLE, PAYLOAD_MAX, REPLY_HEADER, REQUEST_HEADER, Request, command, errno, reply_header,
};
use crate::units::{ByteRange, MIB, to_usize};

/// The buffer that a connection keeps between requests; a larger one goes after the request that needed it.
const KEPT: usize = 1 << 20;
/// Zeroes are written in pieces of this length, between which others have their turn.
const ZEROES_PIECE: u64 = 8 * MIB;

/// Serves requests until the client disconnects, or does not keep to the protocol.
pub(super) fn serve(
    input: &mut impl Read,
    out: &mut impl Write,
    export: &impl Export,
) -> io::Result<()> {
    // The data of a request, or a reply with its header, so that it goes out with one call.
    let mut buffer = Vec::new();
    loop {
        let mut header = [0; REQUEST_HEADER];
        input.read_exact(&mut header)?;
        let Some(request) = Request::parse(&header) else {
            return Err(io::Error::other("a request does not begin as one"));
        };
        let length = to_usize(request.length.into());
        match request.command {
            command::DISCONNECT => return Ok(()),
            command::READ | command::WRITE if request.length > PAYLOAD_MAX => {
                return Err(io::Error::other(format!("a request of {length} bytes")));
            }
            command::READ => {
                grow(&mut buffer, REPLY_HEADER + length);
                let (head, data) = buffer.split_at_mut(REPLY_HEADER);
                let error = code(read(export, &request, &mut data[..length]));
                head.copy_from_slice(&reply_header(request.cookie, error));
                let sent = if error == 0 { length } else { 0 };
                out.write_all(&buffer[..REPLY_HEADER + sent])?;
            }
            command::WRITE => {
                grow(&mut buffer, length);
                input.read_exact(&mut buffer[..length])?;
                let error = code(write(export, &request, &buffer[..length]));
                out.write_all(&reply_header(request.cookie, error))?;
            }
            _ => {
                let error = code(other(export, &request));
                out.write_all(&reply_header(request.cookie, error))?;
            }
        }
        if buffer.len() > KEPT {
            buffer = Vec::new();
        }
    }
}

fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}

/// The error of a request as the wire has it.
#[derive(Clone, Copy)]
struct Errno(u32);

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Self {
        Errno(match refusal {
            Refusal::Io => errno::IO,
            Refusal::NoSpace => errno::NO_SPACE,
            Refusal::ShutDown => errno::SHUT_DOWN,
        })
    }
}

fn code(done: Result<(), Errno>) -> u32 {
    done.err().map_or(0, |errno| errno.0)
}

/// The range of a request, if it lies inside the disk.
fn range(export: &impl Export, request: &Request, beyond: u32) -> Result<ByteRange, Errno> {
    let range = ByteRange::at(request.offset, request.length.into());
    let inside = range.filter(|range| range.end() <= export.size());
    inside.ok_or(Errno(beyond))
}

fn check_flags(request: &Request, known: u16) -> Result<(), Errno> {
    if request.flags & !known == 0 {
        Ok(())
    } else {
        Err(Errno(errno::INVALID))
    }
}

fn read(export: &impl Export, request: &Request, data: &mut [u8]) -> Result<(), Errno> {
    // FUA means nothing for what is not written; clients may set it.
    check_flags(request, FUA)?;
    range(export, request, errno::INVALID)?;
    let _served = export.traffic().begin().ok_or(Refusal::ShutDown)?;
    Ok(export.read(request.offset, data)?)
}

fn write(export: &impl Export, request: &Request, data: &[u8]) -> Result<(), Errno> {
    check_flags(request, FUA)?;
    range(export, request, errno::NO_SPACE)?;
    let _served = export.traffic().begin().ok_or(Refusal::ShutDown)?;
    export.write(request.offset, data)?;
    Ok(flush_if(export, request.flags & FUA != 0)?)
}

fn other(export: &impl Export, request: &Request) -> Result<(), Errno> {
    match request.command {
        command::FLUSH => {
            check_flags(request, FUA)?;
            let _served = export.traffic().begin().ok_or(Refusal::ShutDown)?;
            Ok(export.flush()?)
        }
        command::TRIM | command::WRITE_ZEROES => {
            check_flags(request, FUA | NO_HOLE)?;
            let range = range(export, request, errno::NO_SPACE)?;
            let _served = export.traffic().begin().ok_or(Refusal::ShutDown)?;
            for piece in range.split_at_multiples(ZEROES_PIECE) {
                export.write_zeroes(piece)?;
            }
            Ok(flush_if(export, request.flags & FUA != 0)?)
        }
        _ => Err(Errno(errno::INVALID)),
    }
}

fn flush_if(export: &impl Export, wanted: bool) -> Result<(), Refusal> {
    if wanted { export.flush() } else { Ok(()) }
}
