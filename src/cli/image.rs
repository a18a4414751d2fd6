//! `site-recovery image inspect|cat|compare`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::Serialize;

use crate::cli::output;
use crate::formats::extent::Content;
use crate::formats::info::ImageInfo;
use crate::formats::{self, Image, OpenOptions, Parents};
use crate::units::{ByteRange, Bytes, MIB, to_usize};

/// What `compare` leaves with where it could not compare: as cmp and diff do.
const TROUBLE: u8 = 2;
/// Read and compared at a time.
const PIECE: u64 = 4 * MIB;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what an image says of itself, and of its parents
    Inspect {
        /// The image: VHD or VHDX, also a differencing one (AVHD, AVHDX)
        image: PathBuf,
        #[command(flatten)]
        how: How,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the virtual disk's content to standard output: `image cat disk.vhdx > disk.raw`
    Cat {
        /// The image; of a differencing one the whole disk is written, with what its parents hold
        image: PathBuf,
        #[command(flatten)]
        how: How,
    },
    /// Compare the content of two virtual disks; exits as cmp does: 0 equal, 1 different, 2 could not be compared
    Compare {
        /// An image
        left: PathBuf,
        /// The image that it is compared with; formats may differ
        right: PathBuf,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct How {
    /// Take a file of no known format for a raw disk
    #[arg(long)]
    raw: bool,
    /// Where the parent of a differencing image is (repeat for its parent, and so on)
    #[arg(long, value_name = "IMAGE")]
    parent: Vec<PathBuf>,
}

impl How {
    fn open(&self, path: &Path) -> anyhow::Result<Image> {
        let parents = match self.parent.as_slice() {
            [] => Parents::Recorded,
            at => Parents::At(at.to_vec()),
        };
        let options = OpenOptions {
            format: None,
            allow_raw: self.raw,
            parents,
        };
        Ok(formats::open(path, &options)?)
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Inspect { image, how, json } => inspect(&how.open(&image)?, json),
        Command::Cat { image, how } => cat(&how.open(&image)?),
        Command::Compare { left, right, how } => {
            let compared = || compare(&how.open(&left)?, &how.open(&right)?);
            Ok(compared().unwrap_or_else(|error| {
                output::error(&format!("{error:#}"));
                ExitCode::from(TROUBLE)
            }))
        }
    }
}

/// What `image inspect --json` prints of each file, the disk's own first.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected<'a> {
    path: &'a Path,
    format: String,
    kind: String,
    virtual_size: u64,
    logical_sector_size: u32,
    physical_sector_size: u32,
    block_size: Option<u32>,
    identifier: Option<uuid::Uuid>,
    data_write_guid: Option<uuid::Uuid>,
    parent: Option<InspectedParent<'a>>,
    allocated_bytes: u64,
    log_replayed: bool,
}

#[derive(Serialize)]
struct InspectedParent<'a> {
    linkage: &'a [uuid::Uuid],
    paths: Vec<&'a str>,
}

fn inspected(info: &ImageInfo) -> Inspected<'_> {
    Inspected {
        path: &info.path,
        format: info.format.to_string(),
        kind: info.kind.to_string(),
        virtual_size: info.virtual_size,
        logical_sector_size: info.logical_sector,
        physical_sector_size: info.physical_sector,
        block_size: info.block_size,
        identifier: info.identifier,
        data_write_guid: info.data_write,
        parent: info.parent.as_ref().map(|parent| InspectedParent {
            linkage: &parent.linkage,
            paths: parent.paths.iter().map(|path| path.text.as_str()).collect(),
        }),
        allocated_bytes: info.allocated,
        log_replayed: info.log_replayed,
    }
}

fn inspect(image: &Image, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let layers: Vec<_> = image.layers().map(inspected).collect();
        output::json(&layers)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (depth, info) in image.layers().enumerate() {
        let role = if depth == 0 { "image" } else { "parent" };
        output::line(&format!("{role:<10} {}", info.path.display()))?;
        output::line(&format!("format     {} {}", info.kind, info.format))?;
        output::line(&format!(
            "size       {} ({} bytes)",
            Bytes(info.virtual_size),
            info.virtual_size
        ))?;
        output::line(&format!(
            "sectors    {} logical, {} physical",
            info.logical_sector, info.physical_sector
        ))?;
        if let Some(block) = info.block_size {
            output::line(&format!("blocks     {}", Bytes(block.into())))?;
        }
        output::line(&format!("allocated  {}", Bytes(info.allocated)))?;
        if let Some(id) = info.identifier {
            output::line(&format!("id         {id}"))?;
        }
        if let Some(parent) = &info.parent {
            for path in &parent.paths {
                output::line(&format!("parent at  {}", path.text))?;
            }
        }
        if info.log_replayed {
            output::line("log        interrupted changes were replayed")?;
        }
        output::line("")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Calls `each` with every piece of the disk: its range, and its content unless it is known to be zero.
fn pieces(
    image: &Image,
    mut each: impl FnMut(ByteRange, Option<&[u8]>) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < image.size() {
        let window = ByteRange::new(at, image.size()).context("the disk ends before its middle")?;
        let found = image.map(window)?;
        for extent in &found.extents {
            for piece in extent.range.split_at_multiples(PIECE) {
                let content = match extent.content {
                    Content::Zero => None,
                    Content::Data | Content::Parent => {
                        buffer.resize(to_usize(piece.len()), 0);
                        image.read_at(piece.start(), &mut buffer)?;
                        Some(buffer.as_slice())
                    }
                };
                if !each(piece, content)? {
                    return Ok(());
                }
            }
        }
        if found.covered <= at {
            bail!("the image does not say what is at byte {at}");
        }
        at = found.covered;
    }
    Ok(())
}

fn cat(image: &Image) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let zeroes = vec![0; to_usize(PIECE)];
    let mut closed = false;
    pieces(image, |range, content| {
        let content = content.unwrap_or(&zeroes[..to_usize(range.len())]);
        match out.write_all(content) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => closed = true,
            result => result.context("cannot write to standard output")?,
        }
        Ok(!closed)
    })?;
    output::quiet(out.flush())?;
    Ok(ExitCode::SUCCESS)
}

fn compare(left: &Image, right: &Image) -> anyhow::Result<ExitCode> {
    if left.size() != right.size() {
        output::line(&format!(
            "the sizes differ: {} and {} bytes",
            left.size(),
            right.size()
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    let mut difference = None;
    let (mut other, zeroes) = (Vec::new(), vec![0; to_usize(PIECE)]);
    pieces(left, |range, content| {
        let content = content.unwrap_or(&zeroes[..to_usize(range.len())]);
        other.resize(content.len(), 0);
        right.read_at(range.start(), &mut other)?;
        let differs = content
            .iter()
            .zip(&other)
            .position(|(left, right)| left != right);
        difference = differs.map(|at| range.start() + crate::units::to_u64(at));
        Ok(difference.is_none())
    })?;
    match difference {
        Some(at) => {
            output::line(&format!("the contents differ at byte {at}"))?;
            Ok(ExitCode::FAILURE)
        }
        None => {
            output::line("the contents are equal")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
