//! The memory that the logs of one cycle may take, whatever their seals say.
//!
//! A share is taken before a log is read and given back when its last page is written. Shares are given in the order in
//! which they were asked for, all of a seal's that is kept at once: those that came before need nothing more to be
//! written and to make room, so that nobody waits for ever.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::units::{KIB, MIB, to_usize};

/// Two seals of a copy: one is written while the next is read.
const BYTES: u64 = 40 * MIB;
/// What shares are counted in.
const UNIT: u64 = KIB;

/// Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Room(Arc::new(Semaphore::new(to_usize(BYTES / UNIT))))
    }
}

impl Room {
    /// Room for `bytes`, once it is there. Who asks for more than there is at all gets all of it.
    pub async fn take(&self, bytes: u64) -> Share {
        let units = u32::try_from(bytes.min(BYTES).div_ceil(UNIT)).expect("it is bounded");
        let permit = self.0.clone().acquire_many_owned(units).await;
        Share(permit.expect("the semaphore is never closed"))
    }
}

/// Room that was taken; dropping it gives it back.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl Share {
    /// Room for `bytes` of it, or what is left.
    pub fn part(&mut self, bytes: u64) -> Share {
        let units = to_usize(bytes.div_ceil(UNIT)).min(self.0.num_permits());
        Share(self.0.split(units).expect("it was bounded by what is left"))
    }

    /// The same bytes, which give the share back with the last of them.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held {
            bytes,
            _share: self,
        })
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn room_is_given_back_with_the_last_slice_of_what_took_it() {
        let room = Room::default();
        let mut share = room.take(BYTES).now_or_never().unwrap();
        let log = share.part(30 * MIB).hold(Bytes::from_static(b"log"));
        drop(share);
        assert!(room.take(11 * MIB).now_or_never().is_none());
        let page = log.slice(1..);
        drop(log);
        assert!(room.take(11 * MIB).now_or_never().is_none());
        assert_eq!(page, b"og"[..]);
        drop(page);
        assert!(room.take(BYTES).now_or_never().is_some());
    }

    #[test]
    fn what_is_larger_than_the_room_gets_all_of_it_and_never_waits_for_more() {
        let room = Room::default();
        let mut share = room.take(u64::MAX).now_or_never().unwrap();
        let (_first, _second) = (share.part(BYTES), share.part(BYTES));
        assert!(room.take(1).now_or_never().is_none());
    }
}
