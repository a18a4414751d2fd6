//! Reads what an agent answers: bounded in bytes and time, and bounded over all agents together.
//!
//! Most answers are small and cost nothing to admit. A large one (a first inventory) reserves its declared length before
//! it is read, so that after a restart of the controller a thousand hosts that all tell everything do not meet in
//! memory. Who waits for room is held back by HTTP/2's flow control.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::units::{MIB, to_u64, to_usize};
use crate::wire;

/// Below this an answer is read without reserving room, and parsed where it is.
const SMALL: u64 = MIB / 4;
/// Room for large answers of all agents together, in MiB: four of the largest, or forty of a large host.
const ROOM: u32 = 256;
/// How long an admitted large answer may take: the largest over a line of 10 Mbit/s.
const LARGE_WITHIN: Duration = Duration::from_secs(60);

/// Room in memory for large answers, shared by all agents of a controller.
#[derive(Clone)]
pub struct LargeAnswers(Arc<Semaphore>);

impl Default for LargeAnswers {
    fn default() -> Self {
        LargeAnswers(Arc::new(Semaphore::new(to_usize(u64::from(ROOM)))))
    }
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the answer did not arrive whole in time")]
    Late,
    #[error("the answer broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is not what was asked for")]
    Meaning(#[source] serde_json::Error),
}

/// A body, with the room that it takes.
pub(crate) struct Answer {
    bytes: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl LargeAnswers {
    /// Reads a body of at most `max` bytes; a small one until `deadline`.
    ///
    /// # Errors
    /// If it is longer, late, or breaks off.
    pub(crate) async fn read(
        &self,
        body: Incoming,
        max: usize,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let (declared, max) = bounds(body.size_hint().exact(), max)?;
        let mut deadline = deadline;
        let mut room = None;
        if declared > SMALL {
            room = self.reserve(declared).await;
            deadline = Instant::now() + LARGE_WITHIN;
        }
        let collected = timeout_at(deadline, Limited::new(body, max).collect());
        let bytes = match collected.await {
            Err(_) => return Err(Error::Late),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Error::TooLong(max));
            }
            Ok(Err(error)) => return Err(Error::Broken(error)),
            Ok(Ok(collected)) => collected.to_bytes(),
        };
        Ok(Answer { bytes, room })
    }

    /// Waits for room, first come first served. It is bounded, because those who have room must be done in time.
    async fn reserve(&self, length: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(length.div_ceil(MIB)).map_or(ROOM, |units| units.min(ROOM));
        // The semaphore is never closed.
        self.0.clone().acquire_many_owned(units).await.ok()
    }
}

/// For how much room is made, and how much is read at most. Who does not say how much comes gets no room for much: an
/// agent of ours always says it, and few others could hold all the room while they keep it waiting.
fn bounds(declared: Option<u64>, max: usize) -> Result<(u64, usize), Error> {
    match declared {
        Some(declared) if declared > to_u64(max) => Err(Error::TooLong(max)),
        Some(declared) => Ok((declared, max)),
        None => Ok((0, max.min(to_usize(SMALL)))),
    }
}

impl Answer {
    /// # Errors
    /// If the body is no JSON of a `T`.
    pub(crate) async fn parse<T>(self) -> Result<T, Error>
    where
        T: DeserializeOwned + Send + 'static,
    {
        if to_u64(self.bytes.len()) <= SMALL {
            return serde_json::from_slice(&self.bytes).map_err(Error::Meaning);
        }
        // Tens of megabytes would hold up everything else on this thread.
        let Answer { bytes, room } = self;
        let parsed = tokio::task::spawn_blocking(move || {
            let parsed = serde_json::from_slice(&bytes);
            drop(room);
            parsed
        });
        match parsed.await {
            Ok(parsed) => parsed.map_err(Error::Meaning),
            Err(stopping) => Err(Error::Broken(Box::new(stopping))),
        }
    }

    /// What a failed request's answer says.
    pub(crate) fn fault(&self, status: u16) -> crate::report::Fault {
        wire::fault_of(status, &self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_say_how_much_comes_holds_no_room_and_is_read_as_far_as_what_is_small() {
        let most = to_usize(64 * MIB);
        let (room, read) = bounds(None, most).unwrap();
        assert!(room <= SMALL && to_u64(read) == SMALL);
        assert_eq!(bounds(None, 10).unwrap(), (0, 10));
        assert_eq!(bounds(Some(9 * MIB), most).unwrap(), (9 * MIB, most));
        assert!(matches!(
            bounds(Some(65 * MIB), most),
            Err(Error::TooLong(_))
        ));
    }
}
