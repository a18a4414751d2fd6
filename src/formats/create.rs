//! Makes new images, and children of images that are there.
//!
//! ```text
//! <path>.tmp-<random>  written and synced ── renamed to <path>, which must not be there ── folder synced
//! ```
//! A crash before the rename leaves a temporary file and no image; after it, a complete one. Files belong to their
//! owner alone: an image holds all that its guest knows.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::formats::chain::Chain;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::info::{DiskKind, Format, ImageInfo, RecordedPath};
use crate::formats::source::Source;
use crate::formats::writable::WritableImage;
use crate::formats::{OpenOptions, Parents, parent, vhd, vhdx};

/// How a new image takes space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    Fixed,
    Dynamic,
}

/// What a new image shall be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub format: Format,
    /// A raw image is as the file system makes it.
    pub allocation: Allocation,
    /// Bytes of disk, whole sectors.
    pub size: u64,
    /// 512 or 4096; what is not VHDX has 512.
    pub logical_sector: u32,
    /// 512 or 4096; what is not VHDX has 512.
    pub physical_sector: u32,
    /// A power of two: 1 to 256 MiB in a VHDX, 512 KiB to 256 MiB in a VHD. Without one, what Hyper-V uses.
    pub block_size: Option<u32>,
    /// VHDX: VirtualDiskId. VHD: unique id.
    pub identifier: Uuid,
    /// When a VHD says that it was made.
    pub created: Timestamp,
}

/// What a new child shall be; all else is its parent's.
#[derive(Clone, Debug)]
pub struct ChildOptions {
    /// As in [`CreateOptions`].
    pub block_size: Option<u32>,
    /// The unique id of a VHD. A VHDX is the same disk as its parent and keeps its VirtualDiskId.
    pub identifier: Uuid,
    /// When a VHD says that it was made.
    pub created: Timestamp,
}

/// The parent that a child is made for.
#[derive(Clone, Debug)]
pub struct NewParent {
    /// [`ImageInfo::linkage`] of the parent.
    pub linkage: Uuid,
    /// When the parent's file was last modified: Hyper-V compares it for a VHD.
    pub modified: Timestamp,
    /// Where the child finds it; at least one.
    pub paths: Vec<RecordedPath>,
}

impl CreateOptions {
    /// A VHDX or VHD as Hyper-V would make it.
    pub const fn new(
        format: Format,
        allocation: Allocation,
        size: u64,
        identifier: Uuid,
        created: Timestamp,
    ) -> Self {
        CreateOptions {
            format,
            allocation,
            size,
            logical_sector: 512,
            physical_sector: 4096,
            block_size: None,
            identifier,
            created,
        }
    }

    /// The options by which `child` is made of `parent`.
    fn of_child(child: &ChildOptions, parent: &ImageInfo) -> Self {
        CreateOptions {
            format: parent.format,
            allocation: Allocation::Dynamic,
            size: parent.virtual_size,
            logical_sector: parent.logical_sector,
            physical_sector: parent.physical_sector,
            block_size: child.block_size,
            identifier: match (parent.format, parent.identifier) {
                (Format::Vhdx, Some(identifier)) => identifier,
                _ => child.identifier,
            },
            created: child.created,
        }
    }

    pub(crate) const fn kind(&self, parent: Option<&NewParent>) -> DiskKind {
        match (parent, self.allocation) {
            (Some(_), _) => DiskKind::Differencing,
            (None, Allocation::Fixed) => DiskKind::Fixed,
            (None, Allocation::Dynamic) => DiskKind::Dynamic,
        }
    }
}

/// Makes a new image at `path` and opens it.
///
/// # Errors
/// If there is a file already, the options ask for what the format has not, or the volume is full.
pub fn create(path: &Path, options: &CreateOptions) -> Result<WritableImage> {
    write_new(path, |source| create_on(source, options))?;
    let open = OpenOptions {
        format: Some(options.format),
        ..OpenOptions::default()
    };
    WritableImage::open(path, &open)
}

/// Makes a new differencing image at `path` whose parent is `parent`, of the parent's format, and opens it.
///
/// From now on the parent must not be written: a VHDX that was is no parent any more.
///
/// # Errors
/// If the parent cannot be opened with all of its own parents, is raw, or its path cannot be said in Windows' words; else
/// as for [`create`].
pub fn create_child(path: &Path, parent: &Path, options: &ChildOptions) -> Result<WritableImage> {
    let chain = Chain::open(parent, &OpenOptions::default(), 0)?;
    let info = chain.top.info();
    let linkage = info.linkage().ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            parent,
            format!("a {} image has no children", info.format),
        )
    })?;
    let new_parent = describe(path, parent, linkage)?;
    write_new(path, |source| {
        create_child_on(source, info, &new_parent, options)
    })?;
    let open = OpenOptions {
        format: Some(info.format),
        allow_raw: false,
        parents: Parents::At(vec![parent.to_owned()]),
    };
    WritableImage::open(path, &open)
}

/// Writes a new image into an empty file that the caller has, and syncs it.
///
/// # Errors
/// As for [`create`].
pub fn create_on(source: &Source, options: &CreateOptions) -> Result<()> {
    create_in(source, options, None)
}

/// Writes a new child of the image `parent` into an empty file that the caller has, and syncs it.
///
/// # Errors
/// As for [`create_child`].
pub fn create_child_on(
    source: &Source,
    parent: &ImageInfo,
    new_parent: &NewParent,
    options: &ChildOptions,
) -> Result<()> {
    let options = CreateOptions::of_child(options, parent);
    create_in(source, &options, Some(new_parent))
}

fn create_in(source: &Source, options: &CreateOptions, parent: Option<&NewParent>) -> Result<()> {
    match options.format {
        Format::Raw => {
            source.resize(options.size)?;
            source.sync()
        }
        Format::Vhd => vhd::create(source, options, parent),
        Format::Vhdx => vhdx::create(source, options, parent),
    }
}

/// What a child at `path` has to say about its parent.
fn describe(path: &Path, parent: &Path, linkage: Uuid) -> Result<NewParent> {
    let resolved =
        |path: &Path| fs::canonicalize(path).map_err(|e| Error::io(path, "resolve the path", e));
    let unsayable = || {
        let detail = "its path is no text that a child could record";
        Error::new(Kind::Unsupported, parent, detail)
    };
    let (folder, target) = (resolved(&folder_of(path))?, resolved(parent)?);
    let paths = parent::record(&folder, &target).ok_or_else(unsayable)?;
    let modified = fs::metadata(&target)
        .and_then(|metadata| metadata.modified())
        .map_err(|e| Error::io(parent, "find when the file was modified", e))?;
    Ok(NewParent {
        linkage,
        modified: Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH),
        paths,
    })
}

/// Lets `write` fill a temporary file, and gives it its name when it is complete and durable.
fn write_new(path: &Path, write: impl FnOnce(&Source) -> Result<()>) -> Result<()> {
    let failed = |action, error| Error::io(path, action, error);
    let folder = folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = tempfile::Builder::new()
        .prefix(&format!("{name}.tmp-"))
        .tempfile_in(&folder)
        .map_err(|e| failed("create a temporary file beside it", e))?;
    let file = temporary
        .as_file()
        .try_clone()
        .map_err(|e| failed("create the file", e))?;
    write(&Source::new(path, Arc::new(file)))?;
    temporary
        .persist_noclobber(path)
        .map_err(|e| failed("give the new file its name", e.error))?;
    // Windows has no handle to a folder's entries; NTFS journals them.
    if cfg!(unix) {
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.map_err(|e| failed("sync the folder", e))?;
    }
    Ok(())
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}
