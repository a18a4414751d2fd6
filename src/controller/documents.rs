//! Documents of the controller in storage: created once, replaced by ETag, never overwritten blindly.

use bytes::Bytes;
use jiff::Timestamp;

use crate::blob::names::{BlobRef, ETag};
use crate::blob::once::{self, Creation};
use crate::blob::parameters::PutOptions;
use crate::blob::{Container, answer::Stored};
use crate::replica::document::{self, Document};
use crate::report::{Code, Fault};
use crate::units::to_u64;

/// A document as it was when it was last read or written.
#[derive(Clone, Debug)]
pub struct Held<T> {
    pub value: T,
    etag: ETag,
    pub last_modified: Timestamp,
    /// Storage's clock at that moment.
    pub date: Timestamp,
}

impl<T> Held<T> {
    fn of(value: T, stored: Stored) -> Self {
        Held {
            value,
            etag: stored.etag,
            last_modified: stored.last_modified,
            date: stored.date,
        }
    }
}

/// The document; nothing if it is not there.
///
/// # Errors
/// If it cannot be read or not be understood.
pub async fn load<T: Document>(
    container: &dyn Container,
    blob: &str,
) -> Result<Option<Held<T>>, Fault> {
    let got = match container
        .get(&BlobRef::head(blob), None, to_u64(document::LENGTH_MAX))
        .await
    {
        Ok(got) => got,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.fault()),
    };
    let value =
        document::decode(&got.bytes).map_err(|error| unreadable(container, blob, &error))?;
    Ok(Some(Held {
        value,
        etag: got.etag,
        last_modified: got.last_modified,
        date: got.date,
    }))
}

/// Creates the document. If the same one is there already, that is success.
///
/// # Errors
/// `StorageChanged` if another one is there.
pub async fn create<T: Document>(
    container: &dyn Container,
    blob: &str,
    value: T,
) -> Result<Held<T>, Fault> {
    let body = body(container, blob, &value)?;
    match once::create(container, blob, body, &PutOptions::create().json()).await {
        Ok(Creation::Created(stored) | Creation::AlreadyThere(stored)) => {
            Ok(Held::of(value, stored))
        }
        Ok(Creation::Different) => Err(changed(container, blob)),
        Err(error) => Err(error.fault()),
    }
}

/// Replaces the document that `held` is of.
///
/// # Errors
/// `StorageChanged` if it is another by now.
pub async fn replace<T: Document + PartialEq>(
    container: &dyn Container,
    blob: &str,
    held: &Held<T>,
    value: T,
) -> Result<Held<T>, Fault> {
    let body = body(container, blob, &value)?;
    let options = PutOptions::replace(held.etag.clone()).json();
    match container.put(blob, body, &options).await {
        Ok(stored) => Ok(Held::of(value, stored)),
        // An earlier attempt of this very write may have been carried out, its reply lost.
        Err(error) if error.is_changed() => match load::<T>(container, blob).await? {
            Some(now) if now.value == value => Ok(now),
            Some(_) | None => Err(changed(container, blob)),
        },
        Err(error) => Err(error.fault()),
    }
}

fn body<T: Document>(container: &dyn Container, blob: &str, value: &T) -> Result<Bytes, Fault> {
    let encoded = document::encode(value).map_err(|error| unreadable(container, blob, &error))?;
    Ok(Bytes::from(encoded))
}

fn unreadable(container: &dyn Container, blob: &str, error: &document::Error) -> Fault {
    let said = Fault::of(error.code(), error);
    Fault::new(
        said.code,
        format!("{blob} in container {}: {}", container.name(), said.message),
    )
}

fn changed(container: &dyn Container, blob: &str) -> Fault {
    let message = format!(
        "{blob} in container {} was changed by somebody else",
        container.name()
    );
    Fault::new(Code::StorageChanged, message)
}
