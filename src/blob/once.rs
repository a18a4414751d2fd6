//! Creating a blob that must exist once, when the reply to its creation may be lost.
//!
//! ```text
//! put (If-None-Match: *) ── stored ─────────────────────────────► Created
//!        │ exists, or refused as if it existed
//!        └─ get ── the same bytes ─────────────────────────────► AlreadyThere   this call or an earlier one made it
//!             ├─ other bytes ──────────────────────────────────► Different      somebody else did
//!             └─ nothing: the first answer stands (an expired signature also refuses)
//! ```
//! Right for seals, runs and whatever else is small and its own proof; a log is told apart by its name instead.

use bytes::Bytes;

use crate::blob::answer::Stored;
use crate::blob::names::BlobRef;
use crate::blob::parameters::{Condition, PutOptions};
use crate::blob::{Container, Kind, Result};
use crate::units::to_u64;

/// What stands under the name now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// This call made it.
    Created(Stored),
    /// It was there with the same bytes: as good as created.
    AlreadyThere(Stored),
    /// Other bytes are there.
    Different,
}

/// Creates `blob` with `body`, or finds out what is there instead. `options.condition` is taken to be
/// [`Condition::Absent`]. May be called again with the same bytes after any error.
///
/// # Errors
/// Those of [`Container::put`] but [`Kind::AlreadyExists`], and those of [`Container::get`]. `NotFound` of the reading
/// after `AlreadyExists` means that the blob was there and has been deleted since.
pub async fn create(
    container: &dyn Container,
    blob: &str,
    body: Bytes,
    options: &PutOptions,
) -> Result<Creation> {
    let options = PutOptions {
        condition: Condition::Absent,
        ..options.clone()
    };
    let refused = match container.put(blob, body.clone(), &options).await {
        Ok(stored) => return Ok(Creation::Created(stored)),
        Err(error) => error,
    };
    // A signature that may create and not overwrite is refused with 403 where the blob exists.
    if !matches!(refused.kind, Kind::AlreadyExists | Kind::SignatureRefused) {
        return Err(refused);
    }
    let there = container
        .get(&BlobRef::head(blob), None, to_u64(body.len()))
        .await;
    match there {
        Ok(there) if there.bytes == body => Ok(Creation::AlreadyThere(Stored {
            etag: there.etag,
            last_modified: there.last_modified,
            date: there.date,
        })),
        Ok(_) => Ok(Creation::Different),
        Err(error) if matches!(error.kind, Kind::TooLarge { .. }) => Ok(Creation::Different),
        Err(error)
            if refused.kind == Kind::SignatureRefused
                && matches!(error.kind, Kind::SignatureRefused | Kind::NotFound) =>
        {
            Err(refused)
        }
        Err(error) => Err(error),
    }
}
