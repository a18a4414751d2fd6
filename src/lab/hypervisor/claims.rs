//! Who has which image file open: one writer alone, or any number of readers.
//!
//! Two machines that write one image destroy it, and a parent that is written is no parent any more. A file is known by
//! device and inode, whatever it is called.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::lab::hypervisor::store::lock;

type File = (u64, u64);

/// How a file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Write,
    Read,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{} is in use by {holder}", path.display())]
    InUse { path: PathBuf, holder: String },
    #[error("cannot find {}", path.display())]
    Find { path: PathBuf, source: io::Error },
}

#[derive(Default)]
struct Entry {
    writer: Option<Arc<str>>,
    readers: Vec<Arc<str>>,
}

/// All files in use in one hypervisor.
#[derive(Clone, Default)]
pub(crate) struct Claims {
    files: Arc<Mutex<BTreeMap<File, Entry>>>,
}

/// The files that one disk uses; given back when it is dropped.
pub(crate) struct Claim {
    claims: Claims,
    holder: Arc<str>,
    taken: Vec<(File, Use)>,
}

impl Claims {
    /// Claims nothing yet, for a holder whose name others are told.
    pub(crate) fn claim(&self, holder: &str) -> Claim {
        Claim {
            claims: self.clone(),
            holder: holder.into(),
            taken: Vec::new(),
        }
    }
}

impl Claim {
    /// Claims one more file.
    pub(crate) fn add(&mut self, path: &Path, wanted: Use) -> Result<(), Error> {
        let file = identify(path)?;
        let mut files = lock(&self.claims.files);
        let entry = files.entry(file).or_default();
        let conflict = match wanted {
            Use::Write => entry.writer.as_ref().or(entry.readers.first()),
            Use::Read => entry.writer.as_ref(),
        };
        if let Some(holder) = conflict {
            return Err(Error::InUse {
                path: path.to_owned(),
                holder: holder.to_string(),
            });
        }
        match wanted {
            Use::Write => entry.writer = Some(Arc::clone(&self.holder)),
            Use::Read => entry.readers.push(Arc::clone(&self.holder)),
        }
        self.taken.push((file, wanted));
        Ok(())
    }

    /// Turns a claim for reading into one for writing.
    pub(crate) fn upgrade(&mut self, path: &Path) -> Result<(), Error> {
        let file = identify(path)?;
        if self.taken.contains(&(file, Use::Write)) {
            return Ok(());
        }
        self.give_back(file);
        self.add(path, Use::Write).inspect_err(|_| {
            // It was free to read a moment ago; if somebody writes it now, that is not ours to claim.
            let _ = self.add(path, Use::Read);
        })
    }

    /// Gives a file back that is about to be removed: its inode may soon be another file's.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), Error> {
        let file = identify(path)?;
        self.give_back(file);
        Ok(())
    }

    fn give_back(&mut self, file: File) {
        let mut files = lock(&self.claims.files);
        self.taken.retain(|(taken, how)| {
            if *taken == file {
                release(&mut files, file, *how, &self.holder);
            }
            *taken != file
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut files = lock(&self.claims.files);
        for (file, how) in self.taken.drain(..) {
            release(&mut files, file, how, &self.holder);
        }
    }
}

fn release(files: &mut BTreeMap<File, Entry>, file: File, how: Use, holder: &Arc<str>) {
    let Some(entry) = files.get_mut(&file) else {
        return;
    };
    match how {
        Use::Write => entry.writer = None,
        Use::Read => {
            let ours = entry.readers.iter().position(|reader| reader == holder);
            ours.map(|index| entry.readers.swap_remove(index));
        }
    }
    if entry.writer.is_none() && entry.readers.is_empty() {
        files.remove(&file);
    }
}

fn identify(path: &Path) -> Result<File, Error> {
    let metadata = fs::metadata(path).map_err(|source| Error::Find {
        path: path.to_owned(),
        source,
    })?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_or_many_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhdx");
        fs::write(&path, "x").unwrap();
        let other_name = folder.path().join("b.vhdx");
        fs::hard_link(&path, &other_name).unwrap();
        let claims = Claims::default();
        let (mut a, mut b, mut c) = (claims.claim("a"), claims.claim("b"), claims.claim("c"));
        a.add(&path, Use::Read).unwrap();
        b.add(&other_name, Use::Read).unwrap();
        assert!(c.add(&path, Use::Write).is_err());
        assert!(a.upgrade(&path).is_err(), "b still reads it");
        drop(b);
        a.upgrade(&path).unwrap();
        assert!(
            matches!(c.add(&path, Use::Read), Err(Error::InUse { holder, .. }) if holder == "a")
        );
        drop(a);
        c.add(&path, Use::Write).unwrap();
    }
}
