//! A child, its parent, its parent's parent: found, checked and opened.
//!
//! A parent is the file whose id the child recorded (VHDX: DataWriteGuid, VHD: unique id), wherever it lies. A candidate
//! is opened for reading and checked before it is opened for writing, so that a file that merely stands where a parent
//! should be is never changed. Opening a chain writes nothing at all, not even what a child's log has to say: a file whose
//! chain turns out to be broken is as it was. Who writes calls [`Layer::begin_writing`] when the chain is open.

use std::fs;
use std::path::{Path, PathBuf};

use crate::formats::error::{Error, Kind, Result};
use crate::formats::info::{Format, ImageInfo, ParentReference};
use crate::formats::layer::Layer;
use crate::formats::parent;
use crate::formats::source::{Access, Source};
use crate::formats::{OpenOptions, Parents};

/// Files in a chain. Hyper-V allows 50 checkpoints; a chain beyond this is a mistake or an attack.
pub(crate) const CHAIN_MAX: usize = 128;

/// Layers of one disk, the child first; never empty.
pub(crate) struct Chain {
    pub(crate) top: Layer,
    pub(crate) parents: Vec<Layer>,
}

impl Chain {
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.top).chain(&self.parents)
    }

    /// Opens `path` and its parents; the first `writable` of them for writing. Nothing is written yet.
    pub(crate) fn open(path: &Path, options: &OpenOptions, writable: usize) -> Result<Self> {
        let mut seen = vec![Identity::of(path)?];
        let open =
            |source: Source, access| Layer::open(source, access, options.format, options.allow_raw);
        let mut chain = Chain {
            top: open(
                Source::open(path, access(0, writable))?,
                access(0, writable),
            )?,
            parents: Vec::new(),
        };
        if options.parents == Parents::Ignored {
            return Ok(chain);
        }
        loop {
            let child = chain.parents.last().unwrap_or(&chain.top);
            let depth = chain.parents.len() + 1;
            let Some(reference) = &child.info().parent else {
                return Ok(chain);
            };
            if depth == CHAIN_MAX {
                return Err(too_long(&child.info().path));
            }
            let candidates = match &options.parents {
                Parents::At(paths) if depth <= paths.len() => vec![paths[depth - 1].clone()],
                _ => parent::candidates(&child.info().path, reference),
            };
            let (path, identity) = find(child.info(), reference, &candidates, &seen)?;
            let access = access(depth, writable);
            let source = Source::open(&path, access)?;
            let parent = Layer::open(source, access, Some(child.info().format), false)?;
            // Between the check and this the file could have been replaced.
            check_link(child.info(), parent.info())?;
            seen.push(identity);
            chain.parents.push(parent);
        }
    }

    /// Opens files that the caller has, the child first; the first `writable` of them for writing. Nothing is written
    /// yet.
    pub(crate) fn of_sources(
        top: Source,
        parents: Vec<Source>,
        options: &OpenOptions,
        writable: usize,
    ) -> Result<Self> {
        if parents.len() >= CHAIN_MAX {
            return Err(too_long(top.path()));
        }
        let mut chain = Chain {
            top: Layer::open(top, access(0, writable), options.format, options.allow_raw)?,
            parents: Vec::new(),
        };
        for (source, depth) in parents.into_iter().zip(1..) {
            let child = chain.parents.last().unwrap_or(&chain.top).info();
            let access = access(depth, writable);
            let parent = Layer::open(source, access, Some(child.format), false)?;
            check_link(child, parent.info())?;
            chain.parents.push(parent);
        }
        Ok(chain)
    }
}

fn too_long(path: &Path) -> Error {
    let detail = format!("the chain has more than {CHAIN_MAX} files");
    Error::new(Kind::BrokenChain, path, detail)
}

const fn access(depth: usize, writable: usize) -> Access {
    if depth < writable {
        Access::Write
    } else {
        Access::Read
    }
}

/// The first candidate that is the parent. If none is, the error says what each one was.
fn find(
    child: &ImageInfo,
    reference: &ParentReference,
    candidates: &[PathBuf],
    seen: &[Identity],
) -> Result<(PathBuf, Identity)> {
    let mut tried = Vec::new();
    let mut cause = None;
    for candidate in candidates {
        match examine(child, candidate, seen) {
            Ok(identity) if seen.contains(&identity) => {
                let detail = format!("its parent {} is its child", candidate.display());
                return Err(Error::new(Kind::BrokenChain, &child.path, detail));
            }
            Ok(identity) => return Ok((candidate.clone(), identity)),
            Err(error) if error.kind() == Kind::NotFound => {
                tried.push(format!("{} is not there", candidate.display()));
            }
            Err(error) if error.kind() == Kind::BrokenChain => {
                tried.push(error.detail().to_owned());
            }
            Err(error) => {
                tried.push(format!("{} cannot be used", candidate.display()));
                cause.get_or_insert(error);
            }
        }
    }
    Err(missing(child, reference, &tried, cause))
}

/// Opens a candidate to see whether it is the parent; one that is in the chain already is not opened again.
fn examine(child: &ImageInfo, candidate: &Path, seen: &[Identity]) -> Result<Identity> {
    let identity = Identity::of(candidate)?;
    if !seen.contains(&identity) {
        let source = Source::open(candidate, Access::Read)?;
        let layer = Layer::open(source, Access::Read, Some(child.format), false)?;
        check_link(child, layer.info())?;
    }
    Ok(identity)
}

fn missing(
    child: &ImageInfo,
    reference: &ParentReference,
    tried: &[String],
    cause: Option<Error>,
) -> Error {
    let linkage: Vec<_> = reference.linkage.iter().map(ToString::to_string).collect();
    let found = if tried.is_empty() {
        "it names no file".to_owned()
    } else {
        tried.join("; ")
    };
    let detail = format!("its parent {} was not found: {found}", linkage.join(" or "));
    // Waiting helps against a failing disk, not against a damaged parent.
    let kind = match cause.as_ref().map(Error::kind) {
        Some(kind @ (Kind::Io | Kind::Denied)) => kind,
        _ => Kind::BrokenChain,
    };
    let error = Error::new(kind, &child.path, detail);
    match cause {
        Some(cause) => error.caused_by(cause),
        None => error,
    }
}

/// Whether `parent` is what `child` was made from.
fn check_link(child: &ImageInfo, parent: &ImageInfo) -> Result<()> {
    let broken = |detail| Err(Error::new(Kind::BrokenChain, &child.path, detail));
    let name = parent.path.display();
    let Some(reference) = &child.parent else {
        return broken(format!("it has no parent, but {name} was given as one"));
    };
    if parent.format != child.format || parent.format == Format::Raw {
        return broken(format!(
            "{name} is {}, expected {}",
            parent.format, child.format
        ));
    }
    let found = parent.linkage();
    if !found.is_some_and(|found| reference.linkage.contains(&found)) {
        let found = found.map(|found| found.to_string()).unwrap_or_default();
        let what = if child.format == Format::Vhdx {
            "DataWriteGuid"
        } else {
            "unique id"
        };
        let expected: Vec<_> = reference.linkage.iter().map(ToString::to_string).collect();
        let expected = expected.join(" or ");
        return broken(format!(
            "{name} has the {what} {found}, expected {expected}"
        ));
    }
    if parent.logical_sector != child.logical_sector {
        let (found, expected) = (parent.logical_sector, child.logical_sector);
        return broken(format!(
            "{name} has sectors of {found} bytes, expected {expected}"
        ));
    }
    Ok(())
}

/// What makes two paths one file.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// Device and inode.
    #[cfg(unix)]
    Inode(u64, u64),
    #[cfg(not(unix))]
    Path(PathBuf),
}

impl Identity {
    fn of(path: &Path) -> Result<Self> {
        #[cfg(unix)]
        let identity = fs::metadata(path).map(|metadata| {
            use std::os::unix::fs::MetadataExt as _;
            Identity::Inode(metadata.dev(), metadata.ino())
        });
        #[cfg(not(unix))]
        let identity = fs::canonicalize(path).map(Identity::Path);
        identity.map_err(|e| Error::io(path, "open the file", e))
    }
}
