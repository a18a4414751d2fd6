//! What a VHDX that is open for writing owes to those who open it after a crash.
//!
//! Guest data is written in place, or into new blocks that no table names yet; tables change in memory only. A commit
//! puts the changed pages into the file through the log. The order, and what a crash between two steps leaves:
//!
//! ```text
//! 0. before the first change of a session: headers with a new FileWriteGuid; before the first that a guest could see:
//!    with a new DataWriteGuid, so that no child takes the changed disk for its parent
//! 1. sync                  guest data, new blocks and their length are on stable storage; the tables are the old ones
//! 2. the log entry         headers name no log yet, or the other half of the log still has the entry before, whose
//!                          pages are in the file since 1: replaying it changes nothing
//! 3. sync                  the same; from here on the new entry can be replayed
//! 4. headers name the log  (first commit) before: the old tables; after: replay gives the new ones
//! 5. the pages in place    replay gives the new tables, however much of them was written
//!    … until 1 of the next commit, or the end of the session: sync, then headers that name no log
//! ```
//! One entry holds all pages of a commit, so they become true together: a partial block, its bits, its bitmap's place.
//! Entries take turns in the two halves of the log, each its own tail; the newest is never overwritten.
//!
//! `[MS-VHDX]` 2.2.2 wants a new LogGuid in the headers before the log is overwritten. With no log named, nothing that
//! stands there counts; naming a log that has no entry yet would make a crash in between read as damage (2.3.3).

use uuid::Uuid;

use crate::formats::cache::MetadataCache;
use crate::formats::error::{Error, Kind, Result};
use crate::formats::source::Source;
use crate::formats::vhdx::header::Headers;
use crate::formats::vhdx::log::{self, FIRST_DESCRIPTORS, SECTOR};
use crate::formats::vhdx::overlay::Patches;
use crate::formats::vhdx::replay;
use crate::units::{MIB, to_u64};

/// Pages that one change of one block makes at most: its entry's, its bitmap's entry's, and all bits of 256 MiB.
const PAGES_PER_CHANGE: usize = 2 + 16;

pub(super) struct Session {
    headers: Headers,
    /// Where the next block goes: the first MiB behind everything in the file.
    pub(super) end: u64,
    /// Whether there may be bytes behind `end`, or bytes may be missing before it.
    pub(super) soiled: bool,
    /// Whether the headers have this session's FileWriteGuid.
    file_changed: bool,
    /// Whether the headers have this session's DataWriteGuid.
    data_changed: bool,
    log: Log,
}

/// The state of the log: which half is next, and with what number.
struct Log {
    guid: Uuid,
    sequence: u64,
    half: u64,
}

impl Session {
    pub(super) fn new(headers: Headers, end: u64) -> Self {
        Session {
            headers,
            end,
            soiled: true,
            file_changed: false,
            data_changed: false,
            log: Log {
                guid: Uuid::new_v4(),
                sequence: 1,
                half: 0,
            },
        }
    }

    /// Puts the log that an earlier session left into the file, and leaves no log. The file is changed first: it is not
    /// what it was. The log stays named until what it says is on stable storage; a crash in between replays it again.
    pub(super) fn apply_log(&mut self, source: &Source, patches: &Patches) -> Result<()> {
        self.change_file(source)?;
        replay::apply(source, patches)?;
        self.headers
            .update(source, |next| next.log_guid = Uuid::nil())
    }

    /// Step 0 for a change that no guest can see.
    pub(super) fn change_file(&mut self, source: &Source) -> Result<()> {
        if !self.file_changed {
            self.headers
                .update(source, |next| next.file_write = Uuid::new_v4())?;
            self.file_changed = true;
        }
        Ok(())
    }

    /// Step 0 for a change that a guest can see. Returns the DataWriteGuid if it changed.
    pub(super) fn change_data(&mut self, source: &Source) -> Result<Option<Uuid>> {
        if self.data_changed {
            return Ok(None);
        }
        let guid = Uuid::new_v4();
        self.change_data_to(source, guid)?;
        Ok(Some(guid))
    }

    /// Gives the disk the DataWriteGuid that its child expects, for all changes of this session.
    pub(super) fn change_data_to(&mut self, source: &Source, guid: Uuid) -> Result<()> {
        let file_write = (!self.file_changed).then(Uuid::new_v4);
        self.headers.update(source, |next| {
            next.file_write = file_write.unwrap_or(next.file_write);
            next.data_write = guid;
        })?;
        self.file_changed = true;
        self.data_changed = true;
        Ok(())
    }

    /// Whether one more change may be made before the changed pages must be committed.
    pub(super) fn has_room(cache: &MetadataCache) -> bool {
        cache.dirty() + PAGES_PER_CHANGE <= FIRST_DESCRIPTORS
    }

    /// Makes all that was written before durable, and the tables say so: steps 1 to 5.
    pub(super) fn commit(&mut self, source: &Source, cache: &MetadataCache) -> Result<()> {
        source.sync()?;
        let pages = cache.dirty_pages();
        if pages.is_empty() {
            return Ok(());
        }
        if pages.len() > FIRST_DESCRIPTORS {
            let detail = format!(
                "{} changed pages do not fit into one log entry",
                pages.len()
            );
            return Err(Error::new(Kind::TooLarge, source.path(), detail));
        }
        let header = self.headers.current();
        let tail = self.log.half * half_bytes(header.log_length);
        let flushed = source.size()? / MIB * MIB;
        let entry = log::next_header(
            self.log.guid,
            self.log.sequence,
            u32::try_from(tail).expect("half of a 32-bit length"),
            (flushed, self.end.max(flushed)),
        );
        source.write_all_at(header.log_offset + tail, &log::encode(&entry, &pages))?;
        source.sync()?;
        // Whatever fails from here on, this half holds the newest entry.
        self.log.half = 1 - self.log.half;
        self.log.sequence += 1;
        if header.log_guid != self.log.guid {
            let guid = self.log.guid;
            self.headers.update(source, |next| next.log_guid = guid)?;
        }
        for (offset, page) in &pages {
            source.write_all_at(*offset, page)?;
        }
        cache.clean();
        Ok(())
    }

    /// Commits, and leaves a file without a log.
    pub(super) fn close(&mut self, source: &Source, cache: &MetadataCache) -> Result<()> {
        self.commit(source, cache)?;
        if !self.headers.current().log_guid.is_nil() {
            source.sync()?;
            self.headers
                .update(source, |next| next.log_guid = Uuid::nil())?;
        }
        Ok(())
    }
}

/// Half of a log, in whole sectors; a log has at least 1 MiB, so half of it has room for the largest entry.
fn half_bytes(log_length: u32) -> u64 {
    let sector = to_u64(SECTOR);
    u64::from(log_length) / 2 / sector * sector
}
