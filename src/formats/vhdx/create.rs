//! Makes new VHDXs in an empty file.
//!
//! ```text
//! 0 header section │ 1 MiB log │ 2 MiB metadata │ 3 MiB block table, whole MiB │ blocks of a fixed disk
//! ```
//! The headers are written last, after a sync: a file without them is no VHDX. And the file is nobody's until it is
//! complete: the caller gives it its name only then.

use uuid::Uuid;

use crate::formats::create::{CreateOptions, NewParent};
use crate::formats::error::{Error, Kind, Result};
use crate::formats::info::DiskKind;
use crate::formats::source::Source;
use crate::formats::vhdx::bat::{Entry, State, Table};
use crate::formats::vhdx::header::{Header, Headers};
use crate::formats::vhdx::locator::ParentLocator;
use crate::formats::vhdx::metadata::Metadata;
use crate::formats::vhdx::region::Regions;
use crate::units::{ByteRange, MIB, to_usize};

/// What Hyper-V uses for a disk of its own, and for a child.
const BLOCK_SIZE: u32 = 32 << 20;
const CHILD_BLOCK_SIZE: u32 = 2 << 20;
const LOG_OFFSET: u64 = MIB;
const LOG_LENGTH: u32 = 1 << 20;
const METADATA: u64 = 2 * MIB;
const TABLE: u64 = 3 * MIB;
/// Entries of a fixed disk's table that are written at once.
const PIECE: u64 = 32 << 10;

/// Writes a new image into `source`, which is empty. With a `parent` it is a differencing one.
pub(crate) fn create(
    source: &Source,
    options: &CreateOptions,
    parent: Option<&NewParent>,
) -> Result<()> {
    let usual = if parent.is_some() {
        CHILD_BLOCK_SIZE
    } else {
        BLOCK_SIZE
    };
    let locator = parent.map(|parent| ParentLocator::new(parent.linkage, &parent.paths));
    let metadata = Metadata {
        block_size: options.block_size.unwrap_or(usual),
        fixed: options.kind(parent) == DiskKind::Fixed,
        size: options.size,
        identifier: options.identifier,
        logical_sector: options.logical_sector,
        physical_sector: options.physical_sector,
        locator,
    };
    metadata.check().map_err(|flaw| {
        let kind = if flaw.kind == Kind::Corrupt {
            Kind::Unsupported
        } else {
            flaw.kind
        };
        Error::new(
            kind,
            source.path(),
            format!("no VHDX can be made: {}", flaw.detail),
        )
    })?;
    let table = Table::new(&metadata, TABLE);
    let regions = Regions {
        bat: table.region(),
        metadata: ByteRange::at(METADATA, MIB).expect("small numbers"),
        others: Vec::new(),
    };
    let blocks = table.region().end();
    source.resize(blocks)?;
    if !metadata.create(source, regions.metadata)? {
        let detail = "the paths of the parent do not fit into the metadata";
        return Err(Error::new(Kind::Unsupported, source.path(), detail));
    }
    regions.create(source)?;
    if metadata.fixed {
        source.resize(blocks + table.blocks() * table.block_size)?;
        fill(source, &table, blocks)?;
    }
    source.sync()?;
    let header = Header {
        sequence: 0,
        file_write: Uuid::new_v4(),
        data_write: Uuid::new_v4(),
        log_guid: Uuid::nil(),
        log_version: 0,
        log_length: LOG_LENGTH,
        log_offset: LOG_OFFSET,
    };
    Headers::create(source, &header)
}

/// Writes the table of a fixed disk, whose blocks lie in their order from `first` on.
fn fill(source: &Source, table: &Table, first: u64) -> Result<()> {
    let mut start = 0;
    while start < table.blocks() {
        let count = PIECE.min(table.blocks() - start);
        let place = table.payload_entry(start);
        let mut bytes = Vec::new();
        for block in start..start + count {
            // Between two chunks stands the entry of a bitmap that is not there.
            let gap = table.payload_entry(block) - place;
            bytes.resize(to_usize(gap), 0);
            let entry = Entry {
                state: State::Full,
                offset: first + block * table.block_size,
            };
            bytes.extend(entry.raw().to_le_bytes());
        }
        source.write_all_at(place, &bytes)?;
        start += count;
    }
    Ok(())
}
