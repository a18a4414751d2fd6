//! Memory for long bodies, used over and over.
//!
//! A replication log has some MiB. Allocated anew each time, such a buffer costs a page fault for every page of it; and
//! once freed it stays with the thread that freed it, so that a process keeps several times of what it uses. Here the
//! buffers that were given back are kept for whoever comes next, up to a bound, until [`release`].
//!
//! What a buffer held before is never seen: it is given out empty, and only what was put into it can be read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Shorter ones are left to the allocator, which is good at them.
const LEAST: usize = 1 << 20;
/// Capacities are multiples of this, so that a buffer fits the next body, too. Memory that is never written is not used.
const STEP: usize = 1 << 20;
/// Bytes that are kept while nobody uses them: what one replica has under way.
const KEPT_MAX: usize = 40 << 20;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that is filled, and then shared as [`Bytes`]. Its memory is given back with the last of them.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty buffer with room for `length` bytes at least.
    pub fn with_capacity(length: usize) -> Self {
        if length < LEAST {
            return Buffer(Vec::with_capacity(length));
        }
        let fitting = take(&mut kept(), length);
        Buffer(fitting.unwrap_or_else(|| Vec::with_capacity(length.next_multiple_of(STEP))))
    }

    /// What is in it so far. It grows like any vector.
    pub const fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// What is in it, for those who need a vector of their own. [`Buffer::from`] brings it back.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    pub fn freeze(mut self) -> Bytes {
        if self.0.capacity() < LEAST {
            return Bytes::from(std::mem::take(&mut self.0));
        }
        Bytes::from_owner(self)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Buffer(bytes)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        memory.clear();
        give(&mut kept(), memory);
    }
}

/// Gives back to the system what nobody uses now.
pub fn release() {
    let memory = std::mem::take(&mut *kept());
    drop(memory);
}

fn kept() -> MutexGuard<'static, Vec<Vec<u8>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The smallest of the kept ones that `length` bytes fit into.
fn take(kept: &mut Vec<Vec<u8>>, length: usize) -> Option<Vec<u8>> {
    let fitting = kept.iter().enumerate();
    let fitting = fitting.filter(|(_, memory)| memory.capacity() >= length);
    let (index, _) = fitting.min_by_key(|(_, memory)| memory.capacity())?;
    Some(kept.swap_remove(index))
}

/// Keeps `memory` if there is room for it.
fn give(kept: &mut Vec<Vec<u8>>, memory: Vec<u8>) {
    let held: usize = kept.iter().map(Vec::capacity).sum();
    if memory.capacity() >= LEAST && held + memory.capacity() <= KEPT_MAX {
        kept.push(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_used_again_where_it_fits_best() {
        let mut kept = Vec::new();
        for mib in [8, 5, 6] {
            give(&mut kept, Vec::with_capacity(mib * STEP));
        }
        let capacity = |memory: Option<Vec<u8>>| memory.map(|memory| memory.capacity() / STEP);
        assert_eq!(capacity(take(&mut kept, 5 * STEP + 1)), Some(6));
        assert_eq!(capacity(take(&mut kept, 9 * STEP)), None);
        assert_eq!(capacity(take(&mut kept, 1)), Some(5));
    }

    #[test]
    fn no_more_is_kept_than_its_bound_and_nothing_short() {
        let mut kept = Vec::new();
        give(&mut kept, Vec::with_capacity(LEAST - 1));
        assert!(kept.is_empty());
        for _ in 0..100 {
            give(&mut kept, Vec::with_capacity(7 * STEP));
        }
        assert_eq!(kept.len(), KEPT_MAX / (7 * STEP));
    }

    #[test]
    fn a_buffer_holds_what_was_put_into_it_whoever_had_its_memory_before() {
        for length in [3, LEAST - 1, LEAST + 1, 3 * LEAST] {
            let mut first = Buffer::with_capacity(length);
            first.bytes().resize(length, 7);
            drop(first.freeze());
            let mut second = Buffer::with_capacity(length);
            assert!(second.bytes().is_empty());
            second.bytes().extend_from_slice(b"new");
            let bytes = second.freeze();
            let part = bytes.slice(1..);
            drop(bytes);
            assert_eq!(part, b"ew"[..]);
        }
    }
}
