//! The two ends of a VHD file, and which of them tells the truth.
//!
//! A disk with a table has a footer at the end and a copy of it at the start. The copy is believed first: a guest cannot
//! write it, while after a crash the last sector of the file may be the guest's. In a fixed disk it is the start that
//! is the guest's. A file that makes both claims is refused.

use crate::formats::error::{Error, Kind, Result};
use crate::formats::source::Source;
use crate::formats::vhd::footer::{COOKIE, DiskType, FOOTER_SIZE, Footer};
use crate::units::to_u64;

/// A footer and the bytes that it was read from, with what its creator put there.
pub(super) type Found = (Footer, Box<[u8; FOOTER_SIZE]>);

/// What the last 512 bytes of a file are.
pub(crate) enum EndMark {
    /// The footer of a fixed VHD with exactly the bytes before it.
    Fixed,
    /// Another footer, or a damaged one.
    Other,
}

/// The footer at the end of a file, if there is one.
pub(crate) fn end_mark(source: &Source) -> Result<Option<EndMark>> {
    let size = source.size()?;
    Ok(read_last(source, size)?.map(|footer| match footer {
        Ok((footer, _)) if is_fixed(&footer, size) => EndMark::Fixed,
        Ok(_) | Err(_) => EndMark::Other,
    }))
}

/// The footer to believe.
pub(super) fn choose(source: &Source) -> Result<Found> {
    let size = source.size()?;
    match (read(source, 0)?, read_last(source, size)?) {
        (Some(Ok(first)), last) if first.0.disk_type != DiskType::Fixed => match last {
            Some(Ok((last, _))) if is_fixed(&last, size) => {
                let detail = "it starts as a VHD with a table and ends as a fixed one";
                Err(Error::new(Kind::Corrupt, source.path(), detail))
            }
            _ => Ok(first),
        },
        (_, Some(last)) => last,
        (Some(Err(error)), None) => Err(error),
        (Some(Ok(_)) | None, None) => {
            let detail = "there is no VHD footer at the end of the file";
            Err(Error::new(Kind::Corrupt, source.path(), detail))
        }
    }
}

fn is_fixed(footer: &Footer, file_size: u64) -> bool {
    footer.disk_type == DiskType::Fixed
        && Some(footer.size) == file_size.checked_sub(to_u64(FOOTER_SIZE))
}

fn read_last(source: &Source, file_size: u64) -> Result<Option<Result<Found>>> {
    match file_size.checked_sub(to_u64(FOOTER_SIZE)) {
        Some(offset) => read(source, offset),
        None => Ok(None),
    }
}

/// The footer at `offset`, if there is one; the inner error says what is wrong with it.
fn read(source: &Source, offset: u64) -> Result<Option<Result<Found>>> {
    let bytes = match source.read_array::<FOOTER_SIZE>(offset) {
        Err(error) if error.kind() == Kind::Truncated => return Ok(None),
        other => Box::new(other?),
    };
    if !bytes.starts_with(&COOKIE) {
        return Ok(None);
    }
    let footer = Footer::parse(&bytes).map_err(|flaw| flaw.within(source.path(), offset));
    Ok(Some(footer.map(|footer| (footer, bytes))))
}
