//! JSON documents with a format number: how they are read, and what makes one unreadable.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::report::Code;

/// The longest document of any kind that is read: a manifest with thousands of points stays far below.
pub const LENGTH_MAX: usize = 8 << 20;

/// A document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} has format {found}, this version knows up to {known}")]
    TooNew {
        what: &'static str,
        found: u64,
        known: u32,
    },
    #[error("{what} is not what it should be")]
    Malformed {
        what: &'static str,
        source: serde_json::Error,
    },
    #[error("{what} is not what it should be: {why}")]
    Inconsistent { what: &'static str, why: String },
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::TooNew { .. } => Code::FormatTooNew,
            Error::Malformed { .. } | Error::Inconsistent { .. } => Code::ReplicaDamaged,
        }
    }
}

/// A kind of document.
pub trait Document: Serialize + DeserializeOwned {
    /// Its name in messages, such as `replica.json`.
    const WHAT: &'static str;
    /// The format that this version writes, and the newest that it reads.
    const FORMAT: u32;
    /// Bytes that one may have, where they are written as where they are read; at most [`LENGTH_MAX`].
    const LENGTH_MAX: usize = LENGTH_MAX;

    /// What must hold beyond the shape of the JSON; `Err` says what does not.
    ///
    /// # Errors
    /// The first rule that is broken.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    format: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// The bytes of a document; equal documents have equal bytes.
///
/// # Errors
/// If a field cannot be said in JSON, or the document would be too long to be read again.
pub fn encode<T: Document>(document: &T) -> Result<Vec<u8>, Error> {
    let versioned = Versioned {
        format: T::FORMAT,
        content: document,
    };
    let bytes = serde_json::to_vec_pretty(&versioned).map_err(|source| Error::Malformed {
        what: T::WHAT,
        source,
    })?;
    check_length::<T>(&bytes)?;
    Ok(bytes)
}

fn check_length<T: Document>(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() <= T::LENGTH_MAX {
        return Ok(());
    }
    Err(too_long::<T>())
}

/// What is said of a document that is longer than any of its kind, whoever finds that out.
pub fn too_long<T: Document>() -> Error {
    Error::Inconsistent {
        what: T::WHAT,
        why: format!("it is longer than {} bytes", T::LENGTH_MAX),
    }
}

/// The document that these bytes are.
///
/// # Errors
/// If they are too long, of a newer format, not JSON of this shape, or break a rule of the document.
pub fn decode<T: Document>(bytes: &[u8]) -> Result<T, Error> {
    let malformed = |source| Error::Malformed {
        what: T::WHAT,
        source,
    };
    let inconsistent = |why| Error::Inconsistent { what: T::WHAT, why };
    check_length::<T>(bytes)?;
    let Format { format } = serde_json::from_slice(bytes).map_err(malformed)?;
    if format > u64::from(T::FORMAT) {
        return Err(Error::TooNew {
            what: T::WHAT,
            found: format,
            known: T::FORMAT,
        });
    }
    let document: T = serde_json::from_slice(bytes).map_err(malformed)?;
    document.check().map_err(inconsistent)?;
    Ok(document)
}
