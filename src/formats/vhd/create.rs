//! Makes new VHDs in an empty file.
//!
//! The file is nobody's until it is complete: the caller gives it its name only after the sync at the end.

use crate::formats::bytes::Utf16;
use crate::formats::create::{CreateOptions, NewParent};
use crate::formats::error::{Error, Kind, Result};
use crate::formats::info::DiskKind;
use crate::formats::parent;
use crate::formats::source::Source;
use crate::formats::vhd::footer::{DiskType, FOOTER_SIZE, Footer, seconds_since_2000};
use crate::formats::vhd::header::{DynamicHeader, Locator, ParentFields, is_block_size};
use crate::formats::vhd::table::Table;
use crate::formats::vhd::{FIXED_DISK_MAX, TABLE_DISK_MAX};
use crate::units::{MIB, to_u64, to_usize};

/// What Hyper-V and everybody else uses.
const BLOCK_SIZE: u64 = 2 * MIB;
const HEADER_OFFSET: u64 = 512;
const TABLE_OFFSET: u64 = 1536;
/// Bytes kept for each path of the parent, so that Windows can write a longer one in its place.
const PATH_SPACE: u32 = 64 << 10;
/// Bytes of the table that are written at once; absent entries are all ones.
static ABSENT_ENTRIES: [u8; 64 << 10] = [0xff; 64 << 10];

/// Writes a new image into `source`, which is empty. With a `parent` it is a differencing one.
pub(crate) fn create(
    source: &Source,
    options: &CreateOptions,
    parent: Option<&NewParent>,
) -> Result<()> {
    let (kind, size) = (options.kind(parent), options.size);
    let refuse = |kind, detail| Err(Error::new(kind, source.path(), detail));
    let max = if kind == DiskKind::Fixed {
        FIXED_DISK_MAX
    } else {
        TABLE_DISK_MAX
    };
    if size > max {
        return refuse(
            Kind::TooLarge,
            format!("a {kind} VHD has at most {max} bytes, not {size}"),
        );
    }
    if size == 0 || !size.is_multiple_of(512) {
        return refuse(
            Kind::Unsupported,
            format!("a VHD has whole sectors, not {size} bytes"),
        );
    }
    let block_size = options.block_size.map_or(BLOCK_SIZE, u64::from);
    if !is_block_size(block_size) {
        let detail = format!("block size {block_size} is no power of two of 512 KiB to 256 MiB");
        return refuse(Kind::Unsupported, detail);
    }
    let block_size = u32::try_from(block_size).expect("at most 256 MiB");
    let disk_type = match kind {
        DiskKind::Fixed => DiskType::Fixed,
        DiskKind::Dynamic => DiskType::Dynamic,
        DiskKind::Differencing => DiskType::Differencing,
    };
    let footer = Footer::new(disk_type, size, options.identifier, options.created).encode();
    if kind == DiskKind::Fixed {
        source.resize(size)?;
        source.write_all_at(size, &footer)?;
    } else {
        write_blocks(
            source,
            &footer,
            &Table::new(TABLE_OFFSET, size, block_size),
            parent,
        )?;
    }
    source.sync()
}

fn write_blocks(
    source: &Source,
    footer: &[u8; FOOTER_SIZE],
    table: &Table,
    parent: Option<&NewParent>,
) -> Result<()> {
    let mut end = table.offset + table.bytes();
    let (mut paths, mut name) = (Vec::new(), "");
    for path in parent.iter().flat_map(|parent| &parent.paths) {
        name = plain(&path.text);
        let text = Utf16::Little.encode(name);
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        if len > PATH_SPACE {
            let detail = format!("the parent's path has {len} bytes, more than {PATH_SPACE}");
            return Err(Error::new(Kind::Unsupported, source.path(), detail));
        }
        paths.push(Locator {
            kind: path.kind,
            offset: end,
            len,
            space: PATH_SPACE,
        });
        source.write_all_at(end, &text)?;
        end += u64::from(PATH_SPACE);
    }
    let header = DynamicHeader {
        table_offset: table.offset,
        table_entries: u32::try_from(table.blocks).expect("2040 GiB have few blocks"),
        block_size: u32::try_from(table.block_size).expect("at most 256 MiB"),
        parent: parent.map(|parent| ParentFields {
            identifier: parent.linkage,
            timestamp: seconds_since_2000(parent.modified),
            name: name.to_owned(),
            locators: paths,
        }),
    };
    let mut done = 0;
    while done < table.bytes() {
        let piece = to_usize((table.bytes() - done).min(to_u64(ABSENT_ENTRIES.len())));
        source.write_all_at(table.offset + done, &ABSENT_ENTRIES[..piece])?;
        done += to_u64(piece);
    }
    source.write_all_at(0, footer)?;
    source.write_all_at(HEADER_OFFSET, &header.encode())?;
    source.write_all_at(end, footer)
}

/// The path as a VHD has it: without the prefix of Windows' long paths.
fn plain(path: &str) -> &str {
    path.strip_prefix(parent::VERBATIM).unwrap_or(path)
}
