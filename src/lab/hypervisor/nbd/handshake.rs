//! The handshake: flags, then options of the client until one of them begins the transmission.

use std::io::{self, Read, Write};

use crate::lab::hypervisor::nbd::{Absent, Export, Exports};
use crate::lab::nbd::{
    FIXED_NEWSTYLE, MAGIC, NAME_MAX, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC, PAYLOAD_MAX,
    TRANSMISSION_FLAGS, info, option, reply,
};
use crate::units::{to_u64, to_usize};

/// Options that a client may try before it is cut off.
const OPTIONS_MAX: usize = 64;
/// The longest data of an option that is answered: a name, and what is asked of the export.
const OPTION_DATA_MAX: u32 = 8 << 10;
/// The longest data of an option that is read and thrown away.
const OPTION_SKIPPED_MAX: u32 = 64 << 10;
/// What file systems like to write at least.
const PREFERRED: u32 = 4096;
/// Zeroes behind an export's size for clients that have not declined them.
const ZEROES: [u8; 124] = [0; 124];

/// Negotiates with a client: the export that it has chosen, or nothing if it goes away or is to be cut off.
pub(super) fn negotiate<E: Exports>(
    input: &mut impl Read,
    out: &mut impl Write,
    exports: &E,
) -> io::Result<Option<E::Export>> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(MAGIC.to_be_bytes());
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    out.write_all(&greeting)?;
    let client = u32::from_be_bytes(read_array(input)?);
    let (fixed, no_zeroes) = (u32::from(FIXED_NEWSTYLE), u32::from(NO_ZEROES));
    if client & !(fixed | no_zeroes) != 0 || client & fixed == 0 {
        return Ok(None);
    }
    for _ in 0..OPTIONS_MAX {
        if u64::from_be_bytes(read_array(input)?) != OPTION_MAGIC {
            return Ok(None);
        }
        let kind = u32::from_be_bytes(read_array(input)?);
        let length = u32::from_be_bytes(read_array(input)?);
        if length > OPTION_DATA_MAX {
            if kind == option::EXPORT_NAME || length > OPTION_SKIPPED_MAX {
                return Ok(None);
            }
            io::copy(&mut input.by_ref().take(length.into()), &mut io::sink())?;
            say(out, kind, reply::TOO_BIG, &[])?;
            continue;
        }
        let mut data = vec![0; to_usize(length.into())];
        input.read_exact(&mut data)?;
        match kind {
            option::EXPORT_NAME => return by_name(out, exports, &data, client & no_zeroes != 0),
            option::ABORT => {
                say(out, kind, reply::ACK, &[])?;
                return Ok(None);
            }
            option::LIST => list(out, exports, &data)?,
            option::INFO | option::GO => {
                let found = describe(out, exports, kind, &data)?;
                if kind == option::GO && found.is_some() {
                    return Ok(found);
                }
            }
            _ => say(out, kind, reply::UNSUPPORTED, b"not served here")?,
        }
    }
    Ok(None)
}

/// The oldest way to choose an export: it cannot be refused but by going away.
fn by_name<E: Exports>(
    out: &mut impl Write,
    exports: &E,
    name: &[u8],
    no_zeroes: bool,
) -> io::Result<Option<E::Export>> {
    let name = std::str::from_utf8(name).unwrap_or_default();
    let Ok(export) = exports.find(name) else {
        return Ok(None);
    };
    let mut answer = export.size().to_be_bytes().to_vec();
    answer.extend(TRANSMISSION_FLAGS.to_be_bytes());
    if !no_zeroes {
        answer.extend(ZEROES);
    }
    out.write_all(&answer)?;
    Ok(Some(export))
}

fn list<E: Exports>(out: &mut impl Write, exports: &E, data: &[u8]) -> io::Result<()> {
    if !data.is_empty() {
        return say(out, option::LIST, reply::INVALID, b"LIST has no data");
    }
    for name in exports.names() {
        let mut entry = length_of(name.as_bytes()).to_be_bytes().to_vec();
        entry.extend(name.as_bytes());
        say(out, option::LIST, reply::SERVER, &entry)?;
    }
    say(out, option::LIST, reply::ACK, &[])
}

/// Answers INFO and GO: the export, if it is there.
fn describe<E: Exports>(
    out: &mut impl Write,
    exports: &E,
    kind: u32,
    data: &[u8],
) -> io::Result<Option<E::Export>> {
    let Some((name, wanted)) = parse_wish(data) else {
        say(out, kind, reply::INVALID, b"the lengths do not fit")?;
        return Ok(None);
    };
    let export = match exports.find(name) {
        Ok(export) => export,
        Err(Absent::Unknown) => {
            say(out, kind, reply::UNKNOWN, b"there is no such export")?;
            return Ok(None);
        }
        Err(Absent::Refused(why)) => {
            say(out, kind, reply::POLICY, why.as_bytes())?;
            return Ok(None);
        }
    };
    let mut answer = info::EXPORT.to_be_bytes().to_vec();
    answer.extend(export.size().to_be_bytes());
    answer.extend(TRANSMISSION_FLAGS.to_be_bytes());
    say(out, kind, reply::INFO, &answer)?;
    let mut answer = info::BLOCK_SIZE.to_be_bytes().to_vec();
    for size in [export.sector(), PREFERRED, PAYLOAD_MAX] {
        answer.extend(size.to_be_bytes());
    }
    say(out, kind, reply::INFO, &answer)?;
    if wanted.contains(&info::NAME) {
        let mut answer = info::NAME.to_be_bytes().to_vec();
        answer.extend(name.as_bytes());
        say(out, kind, reply::INFO, &answer)?;
    }
    say(out, kind, reply::ACK, &[])?;
    Ok(Some(export))
}

/// The name of an export, and the kinds of information that are wanted about it.
fn parse_wish(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let (length, rest) = data.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (name, rest) = rest.split_at_checked(length)?;
    let (count, wanted) = rest.split_first_chunk()?;
    let whole = wanted.len() == 2 * usize::from(u16::from_be_bytes(*count));
    let wanted = wanted.as_chunks().0.iter().copied().map(u16::from_be_bytes);
    let name = std::str::from_utf8(name).ok()?;
    (whole && length <= NAME_MAX).then(|| (name, wanted.collect()))
}

/// Answers an option.
fn say(out: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut answer = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    answer.extend(option.to_be_bytes());
    answer.extend(kind.to_be_bytes());
    answer.extend(length_of(data).to_be_bytes());
    answer.extend(data);
    out.write_all(&answer)
}

fn length_of(data: &[u8]) -> u32 {
    u32::try_from(to_u64(data.len())).expect("names and reasons are short")
}

fn read_array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}
