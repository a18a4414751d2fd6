//! A bounded write-back cache over an image's own tables: allocation tables, sector bitmaps, metadata.
//!
//! Tables are read in pages, never whole: the table of a large disk may be larger than memory. Changed pages stay here
//! until the writer has put them into the file in the order that its format needs; they are never evicted and never
//! written by the cache itself. It must never hold guest data: a page that had some would later overwrite newer bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::formats::error::Result;
use crate::formats::source::Source;
use crate::units::{to_u64, to_usize};

/// Bytes of pages that one image file may keep: 4 TiB of disk in the usual 32 MiB blocks, 256 GiB in 2 MiB blocks.
const CACHE_BYTES: usize = 2 << 20;

/// The pages of one file.
pub(crate) struct MetadataCache {
    page_size: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: HashMap<u64, Page>,
    /// Page offsets, the oldest first.
    order: VecDeque<u64>,
    dirty: usize,
}

struct Page {
    bytes: Box<[u8]>,
    dirty: bool,
}

impl MetadataCache {
    /// A cache of pages of `page_size` bytes, each aligned to its size in the file.
    pub(crate) fn new(page_size: usize) -> Self {
        MetadataCache {
            page_size,
            state: Mutex::default(),
        }
    }

    /// Calls `look` with the page that holds `offset`, and where in it that is.
    pub(crate) fn read<R>(
        &self,
        source: &Source,
        offset: u64,
        look: impl FnOnce(&[u8], usize) -> R,
    ) -> Result<R> {
        let (start, within) = self.split(offset);
        let mut state = self.lock();
        let page = self.load(&mut state, source, start)?;
        Ok(look(&page.bytes, within))
    }

    /// Calls `change` with the page that holds `offset`, and where in it that is; the page is dirty afterwards.
    pub(crate) fn modify(
        &self,
        source: &Source,
        offset: u64,
        change: impl FnOnce(&mut [u8], usize),
    ) -> Result<()> {
        let (start, within) = self.split(offset);
        let mut state = self.lock();
        let page = self.load(&mut state, source, start)?;
        let newly = !page.dirty;
        page.dirty = true;
        change(&mut page.bytes, within);
        state.dirty += usize::from(newly);
        Ok(())
    }

    /// Replaces the bytes at `offset`, over as many pages as they need.
    pub(crate) fn write(&self, source: &Source, offset: u64, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let mut taken = 0;
            self.modify(source, offset + to_u64(done), |page, within| {
                taken = rest.len().min(page.len() - within);
                page[within..within + taken].copy_from_slice(&rest[..taken]);
            })?;
            done += taken;
        }
        Ok(())
    }

    /// How many pages wait to be written.
    pub(crate) fn dirty(&self) -> usize {
        self.lock().dirty
    }

    /// The pages that wait to be written, by their place in the file.
    pub(crate) fn dirty_pages(&self) -> Vec<(u64, Box<[u8]>)> {
        let state = self.lock();
        let mut pages: Vec<_> = state
            .pages
            .iter()
            .filter(|(_, page)| page.dirty)
            .map(|(&offset, page)| (offset, page.bytes.clone()))
            .collect();
        pages.sort_unstable_by_key(|&(offset, _)| offset);
        pages
    }

    /// Says that the file holds all pages now.
    pub(crate) fn clean(&self) {
        let mut state = self.lock();
        state.pages.values_mut().for_each(|page| page.dirty = false);
        state.dirty = 0;
    }

    fn split(&self, offset: u64) -> (u64, usize) {
        let within = offset % to_u64(self.page_size);
        (offset - within, to_usize(within))
    }

    fn load<'a>(&self, state: &'a mut State, source: &Source, start: u64) -> Result<&'a mut Page> {
        if !state.pages.contains_key(&start) {
            let mut bytes = vec![0; self.page_size].into_boxed_slice();
            source.read_exact_at(start, &mut bytes)?;
            state.make_room(CACHE_BYTES / self.page_size);
            state.order.push_back(start);
            state.pages.insert(
                start,
                Page {
                    bytes,
                    dirty: false,
                },
            );
        }
        Ok(state
            .pages
            .get_mut(&start)
            .expect("the page was there or has just been inserted"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops the oldest clean pages until one more fits. Writers keep the dirty ones few.
    fn make_room(&mut self, capacity: usize) {
        for _ in 0..self.order.len() {
            if self.pages.len() < capacity {
                return;
            }
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if self.pages.get(&oldest).is_some_and(|page| page.dirty) {
                self.order.push_back(oldest);
            } else {
                self.pages.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::file::Memory;
    use std::sync::Arc;

    fn source(bytes: usize) -> Source {
        let content = (0..bytes)
            .map(|i| u8::try_from(i / 512 % 251).unwrap())
            .collect();
        Source::new("memory", Arc::new(Memory::new(content)))
    }

    #[test]
    fn a_changed_page_is_seen_before_it_is_written_and_survives_every_eviction() {
        let source = source(2 * CACHE_BYTES);
        let cache = MetadataCache::new(512);
        cache.write(&source, 510, &[7; 4]).unwrap();
        for page in 0..2 * CACHE_BYTES / 512 {
            cache.read(&source, to_u64(page) * 512, |_, _| ()).unwrap();
        }
        assert_eq!(cache.read(&source, 513, |page, at| page[at]).unwrap(), 7);
        let offsets: Vec<u64> = cache.dirty_pages().iter().map(|page| page.0).collect();
        assert_eq!((cache.dirty(), offsets), (2, vec![0, 512]));
    }

    #[test]
    fn memory_stays_bounded_over_a_long_scan() {
        let source = source(4 * CACHE_BYTES);
        let cache = MetadataCache::new(512);
        for page in 0..4 * CACHE_BYTES / 512 {
            cache.read(&source, to_u64(page) * 512, |_, _| ()).unwrap();
        }
        let state = cache.lock();
        assert_eq!(state.pages.len() * 512, CACHE_BYTES);
        assert_eq!(state.pages.len(), state.order.len());
    }
}
