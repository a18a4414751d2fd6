//! A disk of a recovery point becomes an image file.
//!
//! ```text
//! <path>.tmp-<random>  made, filled, synced ── renamed to <path> ── folder synced
//! ```
//! What is written was compared with the chunk table first, unless the caller does without. Whatever goes wrong, and
//! when the future is dropped, the temporary file is removed and `<path>` is as it was. A process that is killed leaves
//! the temporary file.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Serialize;
use tempfile::TempPath;

use crate::datapath::content::compare::{Compared, nonzero_chunks};
use crate::datapath::content::table::ComposedTable;
use crate::datapath::content::{self, Piece, Progress, Subject, Want};
use crate::datapath::disk;
use crate::datapath::inspect::Error;
use crate::datapath::store::Store;
use crate::durable;
use crate::formats::create::{Allocation, CreateOptions};
use crate::formats::info::Format;
use crate::formats::{self, WritableImage};
use crate::units::{ByteRange, to_u64};

/// The image to make.
#[derive(Clone, Debug)]
pub struct Target {
    pub path: PathBuf,
    pub format: Format,
    /// Whether a file that is there may be replaced.
    pub overwrite: bool,
    /// When the disk was as it will be: the point's barrier.
    pub created: Timestamp,
}

/// An image that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Bytes of it that are not zero, in whole chunks.
    pub written: u64,
    /// What its chunks were compared with; nothing if they were not.
    pub compared: Option<Compared>,
}

/// Writes the disk into the image. Without a table nothing is compared.
///
/// # Errors
/// [`Error::Exists`] if the file is there and may not be replaced; [`Error::Differs`] if the recovery point is not what
/// its table says; else if storage cannot be read or the file not be written. There is no image then.
pub async fn restore(
    store: &Store,
    subject: &Subject,
    table: Option<ComposedTable>,
    target: &Target,
    progress: &Progress,
) -> Result<Restored, Error> {
    check_free(target)?;
    let compares = table.is_some();
    let (mut file, temporary) = create(subject, target).await?;
    let mut pieces = std::pin::pin!(content::pieces(store, subject, table, Want::Everything));
    let (mut written, mut compared) = (0, Compared::default());
    while let Some(piece) = pieces.try_next().await? {
        if let Some(offset) = piece.compared.differing_at.first() {
            return Err(Error::Differs {
                blob: format!("{}/{}", store.replica.name(), subject.snapshot),
                offset: *offset,
            });
        }
        let Piece { range, data, .. } = piece;
        compared += piece.compared;
        if let Some(data) = data {
            let (image, bytes) = write(file, range, data).await?;
            file = image;
            written += bytes;
        }
        progress.advance(range.len());
    }
    finish(file, temporary, target.clone()).await?;
    Ok(Restored {
        written,
        compared: compares.then_some(compared),
    })
}

/// Says early what the rename would say late.
///
/// # Errors
/// [`Error::Exists`].
pub fn check_free(target: &Target) -> Result<(), Error> {
    match target.path.symlink_metadata() {
        Ok(found) if !target.overwrite || found.is_dir() => Err(Error::Exists {
            path: target.path.clone(),
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

async fn create(subject: &Subject, target: &Target) -> Result<(WritableImage, TempPath), Error> {
    let allocation = match target.format {
        Format::Vhd | Format::Raw => Allocation::Fixed,
        Format::Vhdx => Allocation::Dynamic,
    };
    let identifier = disk::identity_of(&subject.disk);
    let options = CreateOptions::new(
        target.format,
        allocation,
        subject.size,
        identifier,
        target.created,
    );
    let mut name = target.path.clone().into_os_string();
    name.push(format!(".tmp-{:08x}", rand::random::<u32>()));
    blocking(move || {
        let path = PathBuf::from(name);
        let image = formats::create(&path, &options)?;
        let temporary = TempPath::try_from_path(&path).map_err(|source| Error::File {
            action: "keep a temporary file beside",
            path,
            source,
        })?;
        Ok((image, temporary))
    })
    .await
}

/// Writes what of `data` is not zero: the image, and how many bytes that were.
async fn write(
    mut image: WritableImage,
    range: ByteRange,
    data: Bytes,
) -> Result<(WritableImage, u64), Error> {
    blocking(move || {
        let mut written = 0;
        for (offset, content) in nonzero_chunks(range, &data) {
            image.write_at(offset, content)?;
            written += to_u64(content.len());
        }
        Ok((image, written))
    })
    .await
}

async fn finish(image: WritableImage, temporary: TempPath, target: Target) -> Result<(), Error> {
    blocking(move || {
        image.close()?;
        let path = &target.path;
        let named = match target.overwrite {
            true => temporary.persist(path),
            false => temporary.persist_noclobber(path),
        };
        named.map_err(|failed| match failed.error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
            _ => Error::File {
                action: "give the image its name,",
                path: path.clone(),
                source: failed.error,
            },
        })?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        durable::sync_folder(folder).map_err(|error| Error::File {
            action: "sync the folder of",
            path: path.clone(),
            source: std::io::Error::other(error),
        })
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Aborted {
        what: "writing the image",
    })?
}
