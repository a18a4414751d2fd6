//! A folder of things that are made once: whole or not there, whoever else makes them at the same time.
//!
//! ```text
//! <root>/<key>.lock             held while somebody makes <key>; the second waits and says so
//! <root>/<key>.tmp-<random>/    being made
//! <root>/<key>/                 whole: it came here by one rename
//! ```
//! The key ends in a digest of everything that the thing is made from, so a new version or another lock file is
//! another folder, and two work trees can share a cache. A crash, at whatever moment, leaves at most a `.tmp-` folder,
//! which the next maker of the same key removes. The kernel drops the lock of a process that dies.
//!
//! Never changes a folder that stands and is whole: others may be running programs from it.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::file::file_error;
use crate::lab::tools::error::Error;
use crate::lab::tools::installation::Installation;
use crate::lab::tools::progress::Progress;

/// How often the lock of another process is tried.
const POLL: Duration = Duration::from_millis(100);
/// Enough of a BLAKE3 to keep apart the few versions that one machine sees.
const DIGEST_DIGITS: usize = 12;

/// The cache.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

/// Something that is made once.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// Everything else that decides what comes out: lock files, build flags.
    pub(super) inputs: &'a [&'a str],
    /// Files that a whole one has, none of them empty.
    pub(super) expected: &'a [&'a str],
    /// What making it means, for the person who waits.
    pub(super) work: &'a str,
    /// How long that person will wait, on two cores.
    pub(super) takes: &'a str,
}

/// The right to make one thing, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    root: PathBuf,
    name: String,
    _file: File,
}

impl Cache {
    pub(super) const fn new(root: PathBuf) -> Self {
        Cache { root }
    }

    /// The folder of `item`; `make` fills it if it is not there.
    ///
    /// # Errors
    /// Those of `make`, and files that cannot be written.
    pub(super) fn obtain(
        &self,
        item: &Item<'_>,
        make: impl FnOnce(&mut Installation) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let key = item.key();
        let home = self.root.join(&key);
        if item.missing(&home).is_none() {
            return Ok(home);
        }
        let lock = self.lock(&key, item.work)?;
        if item.missing(&home).is_none() {
            return Ok(home);
        }
        let scratch = lock.scratch()?;
        let mut installation =
            Installation::begin(scratch.path(), item.work, &format!("{}, once", item.takes));
        make(&mut installation)?;
        if let Some(missing) = item.missing(scratch.path()) {
            return Err(Error::Incomplete {
                what: item.work.to_owned(),
                path: missing,
            });
        }
        publish(scratch, &home)?;
        installation.done();
        Ok(home)
    }

    /// Waits for the lock `name`, which whoever does `work` holds; says so when it has to wait.
    ///
    /// # Errors
    /// If the cache's folder or the lock cannot be created.
    pub(super) fn lock(&self, name: &str, work: &str) -> Result<Lock, Error> {
        fs::create_dir_all(&self.root).map_err(file_error("create", &self.root))?;
        let path = self.root.join(format!("{name}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(file_error("open", &path))?;
        let mut progress = None;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Lock {
                        root: self.root.clone(),
                        name: name.to_owned(),
                        _file: file,
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(file_error("lock", &path)(error).into());
                }
                Err(TryLockError::WouldBlock) => {}
            }
            let waiting = || {
                let work = format!("waiting while another is {work}");
                Progress::begin(&work, &format!("it holds {}", path.display()))
            };
            progress.get_or_insert_with(waiting).tick();
            std::thread::sleep(POLL);
        }
    }
}

impl Lock {
    /// An empty folder that is removed when it is dropped. What a holder that was killed left is removed first.
    ///
    /// # Errors
    /// If a folder cannot be removed or created.
    pub(super) fn scratch(&self) -> Result<tempfile::TempDir, Error> {
        let prefix = format!("{}.tmp-", self.name);
        let entries = fs::read_dir(&self.root).map_err(file_error("list", &self.root))?;
        for entry in entries {
            let entry = entry.map_err(file_error("list", &self.root))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                remove(&entry.path())?;
            }
        }
        let made = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(&self.root);
        Ok(made.map_err(file_error("create a folder in", &self.root))?)
    }
}

impl Item<'_> {
    fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let machine = [std::env::consts::OS, std::env::consts::ARCH];
        for input in self.inputs.iter().chain(&machine) {
            // The separator keeps two inputs from reading like two others.
            hasher.update(input.as_bytes()).update(b"\0");
        }
        let digest = hasher.finalize().to_hex();
        format!(
            "{}-{}-{}",
            self.name,
            self.version,
            &digest[..DIGEST_DIGITS]
        )
    }

    /// The first expected file that `folder` lacks.
    fn missing(&self, folder: &Path) -> Option<PathBuf> {
        self.expected
            .iter()
            .map(|name| folder.join(name))
            .find(|path| !fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0))
    }
}

/// Puts a finished folder in its place: first its content reaches the disk, then its name does.
///
/// What stands there has lost expected files (a Python that was removed, a file system that was repaired).
fn publish(scratch: tempfile::TempDir, home: &Path) -> Result<(), Error> {
    rustix::fs::sync();
    remove(home)?;
    let made = scratch.keep();
    Ok(fs::rename(&made, home).map_err(file_error("create", home))?)
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file_error("remove", folder)(error).into()),
    }
}

#[cfg(test)]
mod tests;
