//! Merges a child into its parent, offline or while the disk is in use.
//!
//! Both files are open for writing. The child stays what the disk is read from: whatever it has, hides the parent. So
//! the parent may be in any state as long as all sectors that the child does *not* have are untouched:
//!
//! ```text
//! 1. child: the parent may have the id that it has, or the next one     durable before 2; VHDX only
//! 2. parent: takes the next id                                          durable before its first changed sector
//! 3. sectors of the child are copied to the parent, in any order; a guest's write goes to the child, then to the parent
//! 4. parent: flush                                                      from here on it is the whole disk by itself
//! 5. whoever owns the disk makes the parent its file, and removes the child
//! ```
//! Other children of the parent are cut off: there must be none.
//!
//! A crash between any two steps, or inside one, leaves a child and a parent that open as a chain and read as the disk:
//! before 2 by the old id, after it by the new one (`[MS-VHDX]` 2.6.2.6.3, note 12). A merge begun again does it all
//! again. A VHD's id does not change with its content, so that 1 and 2 have nothing to do.

use std::path::Path;

use uuid::Uuid;

use crate::formats::OpenOptions;
use crate::formats::chain::Chain;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::extent::Content;
use crate::formats::image::Image;
use crate::formats::info::ImageInfo;
use crate::formats::layer::Layer;
use crate::formats::payload::Payload;
use crate::formats::source::Source;
use crate::formats::writable::{WritableImage, in_whole_sectors};
use crate::units::{ByteRange, MIB, to_usize};

/// Bytes that are copied at once.
const PIECE: u64 = MIB;
/// Bytes that one call of [`Merge::copy`] copies: a few milliseconds for which a guest may have to wait.
const STEP: u64 = 8 * MIB;

/// A child that is being merged into its parent.
pub struct Merge {
    /// The child over the parent, which is the first of the chain's parents, over the rest.
    image: Image,
}

/// Merges the image at `path` into its parent, which then is the disk by itself. The child is left for the caller to
/// remove.
///
/// # Errors
/// As for [`Merge::open`]; or if a file cannot be read or written, and both then still open as a chain.
pub fn merge(path: &Path, options: &OpenOptions) -> Result<()> {
    let mut merge = Merge::open(path, options)?;
    let mut done = 0;
    while done < merge.image().size() {
        done =
            merge.copy(ByteRange::new(done, merge.image().size()).unwrap_or(ByteRange::to(0)))?;
    }
    merge.finish()?.close()
}

impl Merge {
    /// Opens the child at `path` and its parent for writing, and links them so that either may change.
    ///
    /// # Errors
    /// If the chain does not open, the image has no parent, or child and parent differ in size or sectors.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        Self::begin(Chain::open(path, options, 2)?)
    }

    /// As [`Merge::open`], with files that the caller has: the child, its parent, the parent's parents.
    ///
    /// # Errors
    /// As there.
    pub fn open_sources(
        child: Source,
        parents: Vec<Source>,
        options: &OpenOptions,
    ) -> Result<Self> {
        Self::begin(Chain::of_sources(child, parents, options, 2)?)
    }

    fn begin(mut chain: Chain) -> Result<Self> {
        let (child, parent) = both(&mut chain)?;
        check_mergeable(child.info(), parent.info())?;
        child.begin_writing()?;
        parent.begin_writing()?;
        if let (Layer::Vhdx(child), Layer::Vhdx(parent)) = (child, parent) {
            let next = Uuid::new_v4();
            let now = parent.info().data_write.unwrap_or_default();
            child.link(now, next)?;
            parent.change_data_write(next)?;
        }
        Ok(Merge {
            image: Image::new(chain),
        })
    }

    /// The disk, as the guest sees it all the while.
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// A guest's write: into the child, and into the parent, so that what [`Merge::copy`] has passed stays right.
    ///
    /// # Errors
    /// As for [`WritableImage::write_at`].
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.write(offset, Payload::Bytes(data))
    }

    /// A guest's zeroes, as [`Merge::write_at`].
    ///
    /// # Errors
    /// As there.
    pub fn write_zeroes(&mut self, range: ByteRange) -> Result<()> {
        self.write(range.start(), Payload::Zeroes(range.len()))
    }

    fn write(&mut self, offset: u64, payload: Payload<'_>) -> Result<()> {
        in_whole_sectors(
            &mut self.image,
            offset,
            payload,
            |chain, offset, payload| {
                let (child, parent) = both(chain)?;
                child.write(offset, payload)?;
                parent.write(offset, payload)
            },
        )
    }

    /// A guest's flush. The child alone holds all that the guest wrote, so it alone need be durable.
    ///
    /// # Errors
    /// As for [`WritableImage::flush`].
    pub fn flush(&mut self) -> Result<()> {
        self.image.chain_mut().top.flush()
    }

    /// Copies what the child has of `window` to the parent, as far as one call goes. Returns how far that was; the
    /// caller goes on from there, and is done when all of the disk is covered.
    ///
    /// # Errors
    /// If the child cannot be read or the parent not written; the call may be repeated.
    pub fn copy(&mut self, window: ByteRange) -> Result<u64> {
        let sector = u64::from(self.image.info().logical_sector);
        let window = window
            .align_out(sector)
            .intersect(ByteRange::to(self.image.size()));
        let extents = self.image.map_top(window)?;
        let mut left = STEP;
        for extent in extents.extents {
            match extent.content {
                Content::Parent => {}
                Content::Zero => {
                    let (_, parent) = both(self.image.chain_mut())?;
                    parent.write(extent.range.start(), Payload::Zeroes(extent.range.len()))?;
                }
                Content::Data => {
                    let len = extent.range.len().min(left);
                    let range = ByteRange::at(extent.range.start(), len);
                    self.copy_data(range.unwrap_or(extent.range))?;
                    if len < extent.range.len() {
                        return Ok(extent.range.start() + len);
                    }
                    left -= len;
                }
            }
        }
        Ok(extents.covered)
    }

    fn copy_data(&mut self, range: ByteRange) -> Result<()> {
        let mut buffer = vec![0; to_usize(range.len().min(PIECE))];
        for piece in range.split_at_multiples(PIECE) {
            let bytes = &mut buffer[..to_usize(piece.len())];
            self.image.read_at(piece.start(), bytes)?;
            let (_, parent) = both(self.image.chain_mut())?;
            parent.write(piece.start(), Payload::Bytes(bytes))?;
        }
        Ok(())
    }

    /// Ends a merge whose copy is complete: the parent is durable and the whole disk. The child may be removed.
    ///
    /// # Errors
    /// If the parent may not be durable; both files then still open as a chain.
    pub fn finish(mut self) -> Result<WritableImage> {
        let (child, parent) = both(self.image.chain_mut())?;
        // What describes the disk moves with its content (`[MS-VHDX]` 2.6.1.2, IsVirtualDisk).
        if let (Layer::Vhdx(child), Layer::Vhdx(parent)) = (&*child, &mut *parent)
            && let Some(identifier) = child.info().identifier
        {
            parent.change_identifier(identifier)?;
        }
        parent.flush()?;
        child.close()?;
        let mut parents = self.image.into_chain().parents.into_iter();
        let top = parents.next().expect("`both` has found a parent");
        Ok(WritableImage::new(Chain {
            top,
            parents: parents.collect(),
        }))
    }

    /// Gives a merge up: child and parent are durable, and stay a chain.
    ///
    /// # Errors
    /// If one of them may not be durable.
    pub fn close(mut self) -> Result<()> {
        let (child, parent) = both(self.image.chain_mut())?;
        child.close()?;
        parent.close()
    }
}

/// The child and its parent.
fn both(chain: &mut Chain) -> Result<(&mut Layer, &mut Layer)> {
    let path = chain.top.info().path.clone();
    let parent = chain.parents.first_mut();
    let parent = parent.ok_or_else(|| Error::new(Kind::Unsupported, &path, "it has no parent"))?;
    Ok((&mut chain.top, parent))
}

fn check_mergeable(child: &ImageInfo, parent: &ImageInfo) -> Result<()> {
    let shape = |info: &ImageInfo| (info.virtual_size, info.logical_sector, info.physical_sector);
    if shape(child) == shape(parent) {
        return Ok(());
    }
    let detail = format!(
        "a disk of {:?} (size, logical and physical sector) cannot be merged into one of {:?}",
        shape(child),
        shape(parent),
    );
    Err(Error::new(Kind::Unsupported, &child.path, detail))
}
