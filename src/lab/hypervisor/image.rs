//! Opens a machine's images: the live one for writing under a witness, its parents for reading.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::formats::file::ImageFile;
use crate::formats::info::ImageInfo;
use crate::formats::source::Source;
use crate::formats::{self, Error, Merge, OpenOptions, Result, WritableImage};
use crate::lab::hypervisor::witness::{Tell, Witness};

/// The layers of a disk, the live image first; what opening it for reading has found.
pub(crate) struct Layers(Vec<ImageInfo>);

impl Layers {
    /// Examines the whole chain of the image at `path`.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let image = formats::open(path, &OpenOptions::default())?;
        Ok(Layers(image.layers().cloned().collect()))
    }

    /// The live image.
    pub(crate) fn top(&self) -> &ImageInfo {
        &self.0[0]
    }

    /// The disk's id, which checkpoints do not change: every child of a VHD has an id of its own.
    pub(crate) fn identifier(&self) -> Option<Uuid> {
        self.0.last().and_then(|root| root.identifier)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|info| info.path.as_path())
    }

    /// Opens the live image for writing.
    pub(crate) fn open(&self, tell: Tell) -> Result<WritableImage> {
        let top = witnessed(self.top(), tell)?;
        let parents = self.paths().skip(1).map(readable);
        let parents = parents.collect::<Result<_>>()?;
        formats::open_sources_writable(top, parents, &OpenOptions::default())
    }

    /// Opens the live image and its parent for a merge.
    pub(crate) fn open_merge(&self, tell: Tell) -> Result<Merge> {
        let child = witnessed(self.top(), tell)?;
        let mut parents = Vec::new();
        for (path, depth) in self.paths().skip(1).zip(1..) {
            parents.push(if depth == 1 {
                let file: Arc<dyn ImageFile> = Arc::new(writable(path)?);
                Source::new(path, file)
            } else {
                readable(path)?
            });
        }
        Merge::open_sources(child, parents, &OpenOptions::default())
    }

    /// The parent of the live image.
    pub(crate) fn parent(&self) -> Option<PathBuf> {
        self.0.get(1).map(|info| info.path.clone())
    }

    pub(crate) fn data_write(&self) -> Option<Uuid> {
        self.top().data_write
    }
}

fn witnessed(info: &ImageInfo, tell: Tell) -> Result<Source> {
    let witness = Witness::new(writable(&info.path)?, info.data_write, tell);
    Ok(Source::new(&info.path, Arc::new(witness)))
}

fn writable(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).open(path);
    file.map_err(|source| Error::io(path, "open the file for writing", source))
}

fn readable(path: &Path) -> Result<Source> {
    let file = File::open(path);
    let file = file.map_err(|source| Error::io(path, "open the file", source))?;
    Ok(Source::new(path, Arc::new(file)))
}
