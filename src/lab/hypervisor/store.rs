//! A machine's record: in memory for readers, on disk before anybody acts on it.
//!
//! A replacement that fails has an unknown outcome: the new file may have its name already, not yet durably. So the old
//! one is written again; if that fails too, the store is *unsure* and refuses every further change, until the next start
//! reads what the disk has.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::durable;
use crate::host::{Error, Kind};
use crate::lab::hypervisor::record::Record;
use crate::report;

pub(crate) struct Store {
    path: PathBuf,
    /// Held while the file is replaced.
    writing: Mutex<()>,
    current: Mutex<Arc<Record>>,
    unsure: AtomicBool,
}

impl Store {
    pub(crate) fn new(path: PathBuf, record: Record) -> Self {
        Store {
            path,
            writing: Mutex::new(()),
            current: Mutex::new(Arc::new(record)),
            unsure: AtomicBool::new(false),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The record as it was last written.
    pub(crate) fn get(&self) -> Arc<Record> {
        Arc::clone(&lock(&self.current))
    }

    /// Whether what is in memory is what the disk has.
    pub(crate) fn is_sure(&self) -> bool {
        !self.unsure.load(Ordering::Acquire)
    }

    /// Changes the record, durably; if that fails, it is as it was.
    pub(crate) fn update<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Result<T, Error> {
        let _writing = lock(&self.writing);
        if !self.is_sure() {
            let detail = format!(
                "{} could not be written before, and may be either of two",
                self.path.display()
            );
            return Err(Error::new(Kind::Io, operation, detail));
        }
        let old = self.get();
        let mut next = Record::clone(&old);
        let result = change(&mut next);
        if next == *old {
            return Ok(result);
        }
        if let Err(error) = durable::write_record(&self.path, &next) {
            if let Err(again) = durable::write_record(&self.path, old.as_ref()) {
                self.unsure.store(true, Ordering::Release);
                let error = report::chain(&again);
                tracing::error!(record = %self.path.display(), error, "a record is lost track of");
            }
            return Err(of_durable(operation, &error));
        }
        *lock(&self.current) = Arc::new(next);
        Ok(result)
    }
}

/// The error of an operation that could not be made durable.
pub(crate) fn of_durable(operation: &'static str, error: &durable::Error) -> Error {
    let kind = match error {
        durable::Error::Io { source, .. } => of_io(source),
        durable::Error::Damaged { .. } | durable::Error::Content { .. } => Kind::Internal,
    };
    Error::new(kind, operation, report::chain(error))
}

/// The kind of an operating system's error.
pub(crate) fn of_io(error: &std::io::Error) -> Kind {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::DiskFull,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            Kind::Unauthorized
        }
        std::io::ErrorKind::OutOfMemory => Kind::OutOfMemory,
        _ => Kind::Io,
    }
}

/// Takes a lock. What it guards is replaced as a whole, so that a panic elsewhere leaves it right.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
