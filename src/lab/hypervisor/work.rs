//! One operation on a machine at a time. Whoever comes second waits for a while, and is then told what it waits for.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::host::{Error, Kind};
use crate::lab::hypervisor::store::lock;

/// Longer than what merely writes a record takes; not as long as a freeze that waits for its guest.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Work {
    doing: Mutex<Option<&'static str>>,
    done: Condvar,
}

/// An operation that has begun, until it is dropped.
pub(crate) struct Doing<'a>(&'a Work);

impl Work {
    /// What is being done.
    pub(crate) fn doing(&self) -> Option<&'static str> {
        *lock(&self.doing)
    }

    /// Begins an operation that people call `name`.
    pub(crate) fn begin(&self, name: &'static str) -> Result<Doing<'_>, Error> {
        let taken = |doing: &mut Option<&'static str>| doing.is_some();
        let mut doing = self
            .done
            .wait_timeout_while(lock(&self.doing), PATIENCE, taken)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if let Some(other) = *doing {
            let detail = format!("the machine is busy: {other}");
            return Err(Error::new(Kind::Busy, name, detail));
        }
        *doing = Some(name);
        Ok(Doing(self))
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        *lock(&self.0.doing) = None;
        self.0.done.notify_one();
    }
}
