//! Certificates that follow their files, without a restart.
//!
//! ```text
//! files as used ──────────────────────────────► what is in use
//! files changed, good ── in use from now on ──► the new
//! files changed, bad  ── said once per change ► what was in use; if nothing was, the error
//! ```
//! The content decides, not times: whoever replaces three files one by one is met half-way, and with files of equal
//! length inside one tick of the file system's clock. Three small files per handshake cost less than the handshake.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::report::chain;
use crate::tls::Error;
use crate::tls::material::{Files, Material};

/// What is made of the certificates in a folder.
pub(crate) struct Reloading<T> {
    folder: PathBuf,
    build: fn(&Material) -> Result<T, Error>,
    held: Mutex<Held<T>>,
}

struct Held<T> {
    used: Option<Used<T>>,
    rejected: Option<Rejected>,
}

struct Used<T> {
    fingerprint: blake3::Hash,
    value: Arc<T>,
}

/// A change that was not taken over: what it was, and what was said about it.
#[derive(PartialEq, Eq)]
struct Rejected {
    fingerprint: Option<blake3::Hash>,
    why: String,
}

impl<T> Reloading<T> {
    pub(crate) fn new(folder: PathBuf, build: fn(&Material) -> Result<T, Error>) -> Self {
        Reloading {
            folder,
            build,
            held: Mutex::new(Held {
                used: None,
                rejected: None,
            }),
        }
    }

    /// What holds now. Blocks for the time of reading three small files.
    ///
    /// # Errors
    /// If the files cannot be used and never could.
    pub(crate) fn current(&self) -> Result<Arc<T>, Error> {
        let files = Files::read(&self.folder);
        // Nothing awaits under the lock, and what it guards is replaced whole.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = files.as_ref().ok().map(Files::fingerprint);
        if let (Some(used), Some(now)) = (&held.used, fingerprint) {
            if used.fingerprint == now {
                let value = used.value.clone();
                held.rejected = None;
                return Ok(value);
            }
            if held.rejected.as_ref().and_then(|r| r.fingerprint) == Some(now) {
                return Ok(used.value.clone());
            }
        }
        match files.and_then(|files| self.build(&files)) {
            Ok(value) => {
                tracing::info!(folder = %self.folder.display(), "certificates loaded");
                let value = Arc::new(value);
                held.used = fingerprint.map(|fingerprint| Used {
                    fingerprint,
                    value: value.clone(),
                });
                held.rejected = None;
                Ok(value)
            }
            Err(error) => held.reject(&self.folder, fingerprint, error),
        }
    }

    fn build(&self, files: &Files) -> Result<T, Error> {
        (self.build)(&Material::parse(&self.folder, files)?)
    }
}

impl<T> Held<T> {
    fn reject(
        &mut self,
        folder: &Path,
        fingerprint: Option<blake3::Hash>,
        error: Error,
    ) -> Result<Arc<T>, Error> {
        let Some(used) = &self.used else {
            return Err(error);
        };
        let rejected = Rejected {
            fingerprint,
            why: chain(&error),
        };
        if self.rejected.as_ref() != Some(&rejected) {
            tracing::warn!(
                folder = %folder.display(),
                error = rejected.why,
                "the changed certificates cannot be used; those of before stay in use"
            );
            self.rejected = Some(rejected);
        }
        Ok(used.value.clone())
    }
}
