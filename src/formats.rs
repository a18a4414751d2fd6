//! Virtual disk images: VHD, VHDX and raw, single or in chains.
//!
//! ```text
//! open · open_writable · create · merge        what callers use
//!   image · writable      a disk: reads through the chain, maps what is where; writes into the top layer
//!   chain    finds and checks parents (parent: recorded paths)
//!   layer    one file of a chain: finds its format
//!     raw · vhd · vhdx      one folder per format, one file per structure
//!   cache · bitmap · payload · extent · bytes · info · error
//!   source   a named file: whole reads and writes, errors
//!   file     the edge: trait ImageFile over the operating system's files
//! ```
//! What holds everywhere:
//! - An image is hostile bytes. Opening checks every structure and every block's place, in bounded memory; what is
//!   wrong is an error with the file and the byte, never a panic and never other data.
//! - Nothing is written before everything was checked, and nothing of a parent is ever written but by a merge.
//! - Writers are crash-safe at every write: the order stands in `vhd::write`, `vhdx::session` and `merge`.
//! - No tokio, no network, no lock on the file: who may write is the caller's business.

mod bitmap;
mod bytes;
mod cache;
mod chain;
pub mod create;
mod error;
pub mod extent;
pub mod file;
mod image;
pub mod info;
mod layer;
pub mod merge;
mod parent;
mod payload;
mod raw;
pub mod source;
pub mod vhd;
mod vhdx;
mod writable;

use std::path::{Path, PathBuf};

use crate::formats::chain::Chain;
use crate::formats::info::Format;
use crate::formats::source::Source;

pub use create::{create, create_child};
pub use error::{Error, Kind, Result};
pub use image::Image;
pub use merge::{Merge, merge};
pub use writable::WritableImage;

/// How to open an image.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The format, where the caller knows it; else the file's content tells.
    pub format: Option<Format>,
    /// Whether a file that is neither VHDX nor VHD may be taken for a raw disk.
    pub allow_raw: bool,
    pub parents: Parents,
}

/// Where the parents of a differencing image are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parents {
    /// Where the images say. Their paths are only where to look: a parent is known by its id.
    #[default]
    Recorded,
    /// The first is the parent, the second its parent, and so on; where the list ends, where the images say.
    At(Vec<PathBuf>),
    /// Not needed: what is the parent's cannot be read.
    Ignored,
}

/// Opens a disk for reading, with all its parents. Other processes may have the files open.
///
/// # Errors
/// [`Kind::BrokenChain`] if a parent is missing or not the right one; else if a file cannot be read, is no image of a
/// known format, or is damaged.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Image> {
    Chain::open(path, options, 0).map(Image::new)
}

/// Opens a disk for writing; its parents are opened for reading. The file must not be open for writing elsewhere.
///
/// # Errors
/// As for [`open`].
pub fn open_writable(path: &Path, options: &OpenOptions) -> Result<WritableImage> {
    WritableImage::open(path, options)
}

/// As [`open`], with files that the caller has: the disk's, and its parents', the nearest first.
///
/// # Errors
/// As for [`open`].
pub fn open_sources(top: Source, parents: Vec<Source>, options: &OpenOptions) -> Result<Image> {
    Chain::of_sources(top, parents, options, 0).map(Image::new)
}

/// As [`open_writable`], with files that the caller has: the disk's, and its parents', the nearest first.
///
/// # Errors
/// As for [`open`].
pub fn open_sources_writable(
    top: Source,
    parents: Vec<Source>,
    options: &OpenOptions,
) -> Result<WritableImage> {
    WritableImage::of_sources(top, parents, options)
}
