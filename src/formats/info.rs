//! What an image file says about itself.

use std::fmt;
use std::path::PathBuf;

use uuid::Uuid;

/// The format of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// Virtual Hard Disk, version 1.
    Vhd,
    /// Virtual Hard Disk, version 2 (`[MS-VHDX]`).
    Vhdx,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Vhd => "VHD",
            Format::Vhdx => "VHDX",
        })
    }
}

/// How an image file takes space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// All of it from the start.
    Fixed,
    /// Block by block, as the disk is written.
    Dynamic,
    /// As dynamic, and what was not written is the parent's.
    Differencing,
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskKind::Fixed => "fixed",
            DiskKind::Dynamic => "dynamic",
            DiskKind::Differencing => "differencing",
        })
    }
}

/// One image file, as it was when it was opened; `allocated` follows the writes of the image that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    pub path: PathBuf,
    pub format: Format,
    pub kind: DiskKind,
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// Bytes in a sector as the guest addresses it. A raw file and a VHD have 512.
    pub logical_sector: u32,
    /// Bytes in a sector as the guest is told that the medium has it.
    pub physical_sector: u32,
    /// Bytes that are allocated at once; nothing where there is no table of blocks.
    pub block_size: Option<u32>,
    /// VHDX: VirtualDiskId. VHD: the footer's unique id.
    pub identifier: Option<Uuid>,
    /// VHDX: DataWriteGuid, which changes with the content.
    pub data_write: Option<Uuid>,
    /// Where a differencing image says that its parent is, and which one it is.
    pub parent: Option<ParentReference>,
    /// Bytes of the blocks that are present in this file; for fixed images without a table, and raw, the virtual size.
    pub allocated: u64,
    /// Whether a log of interrupted changes was replayed when the file was opened.
    pub log_replayed: bool,
}

impl ImageInfo {
    /// The id by which a child knows this image: a VHDX's DataWriteGuid, a VHD's unique id.
    pub const fn linkage(&self) -> Option<Uuid> {
        match self.format {
            Format::Raw => None,
            Format::Vhd => self.identifier,
            Format::Vhdx => self.data_write,
        }
    }
}

/// Where and who the parent of a differencing image is, as the image records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReference {
    /// The ids that the parent may have. A VHDX has a second one while it is being merged.
    pub linkage: Vec<Uuid>,
    /// In the order in which they are to be tried.
    pub paths: Vec<RecordedPath>,
}

/// A path as an image records it: Windows' separators, not yet mapped to this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedPath {
    pub kind: PathKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// From the folder of the child.
    Relative,
    /// With the volume's GUID in place of a drive letter.
    Volume,
    Absolute,
}
