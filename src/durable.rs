//! Files that are either as they were or as they shall be, whenever the machine stops.
//!
//! ```text
//! write  <path>.tmp-<random> ── sync file ── rename onto <path> ── sync folder
//!        crash before the rename: the old file stands, a leftover is swept at the next start
//!        crash after the rename:  the new file stands; the folder's sync makes the rename itself durable
//! ```
//! A record (`write_record`, `read_record`) carries its own BLAKE3, so that a file which a failing disk or a careless
//! hand has changed is refused instead of believed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Larger records are refused before they are read: nothing of ours comes near.
const RECORD_MAX: u64 = 16 << 20;
const TEMPORARY: &str = ".tmp-";

/// A record that cannot be written or believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("{} does not hold what its name says", path.display())]
    Content {
        path: PathBuf,
        source: serde_json::Error,
    },
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Replaces `path` with `content`, durably.
///
/// # Errors
/// Any failed step; the old file then still stands.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let folder = parent(path);
    let mut file = tempfile::Builder::new()
        .prefix(&format!("{}{TEMPORARY}", file_name(path)))
        .tempfile_in(folder)
        .map_err(io_error("create a temporary file beside", path))?;
    file.write_all(content).map_err(io_error("write", path))?;
    file.as_file().sync_all().map_err(io_error("sync", path))?;
    file.persist(path)
        .map_err(|e| io_error("replace", path)(e.error))?;
    sync_folder(folder)
}

/// Makes creations, renames and removals in `folder` durable.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    // Windows has no handle to a folder's entries; NTFS journals them.
    if cfg!(windows) {
        return Ok(());
    }
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(io_error("sync folder", folder))
}

/// Removes `path` durably; its absence is success.
///
/// # Errors
/// If it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("remove", path)(error)),
    }
}

/// Removes the temporary files that a crash left in `folder`.
///
/// # Errors
/// If the folder cannot be read or a leftover not removed.
pub fn sweep(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(io_error("read folder", folder))? {
        let entry = entry.map_err(io_error("read folder", folder))?;
        if entry.file_name().to_string_lossy().contains(TEMPORARY) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Replaces `path` with a record of `value`: a line with the BLAKE3 of what follows, then JSON.
///
/// # Errors
/// Any failed step; the old record then still stands.
pub fn write_record<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let json = serde_json::to_vec_pretty(value).map_err(|source| Error::Content {
        path: path.to_owned(),
        source,
    })?;
    let mut content = format!("{}\n", blake3::hash(&json).to_hex()).into_bytes();
    content.extend_from_slice(&json);
    write(path, &content)
}

/// Reads a record; `None` if there is no such file.
///
/// # Errors
/// If it cannot be read, its checksum is wrong, or it holds something else.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let damaged = |what| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    if size > RECORD_MAX {
        return Err(damaged("it is larger than any record of ours"));
    }
    let content = fs::read(path).map_err(io_error("read", path))?;
    let newline = content
        .iter()
        .position(|&b| b == b'\n')
        .ok_or(damaged("it has no checksum"))?;
    let (sum, json) = (&content[..newline], &content[newline + 1..]);
    if sum != blake3::hash(json).to_hex().as_bytes() {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_slice(json)
        .map(Some)
        .map_err(|source| Error::Content {
            path: path.to_owned(),
            source,
        })
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert!(read_record::<Vec<u32>>(&path).unwrap().is_none());
        write_record(&path, &vec![1, 2, 3]).unwrap();
        write_record(&path, &vec![4]).unwrap();
        assert_eq!(read_record::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
    }

    #[test]
    fn a_changed_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        write_record(&path, &vec![1, 2, 3]).unwrap();
        let mut content = fs::read(&path).unwrap();
        *content.last_mut().unwrap() = b'}';
        fs::write(&path, content).unwrap();
        assert!(matches!(
            read_record::<Vec<u32>>(&path),
            Err(Error::Damaged { .. })
        ));
    }

    #[test]
    fn leftovers_of_a_crash_are_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state.json.tmp-Ab12"), "half").unwrap();
        fs::write(folder.path().join("state.json"), "whole").unwrap();
        sweep(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["state.json"]);
    }
}
