//! A guest for the demonstration: a workload that writes to a disk of a lab machine over NBD, as an operating system
//! would, and goes on when the hypervisor or its machine was gone for a while.
//!
//! ```text
//! Guest ── thread: record due? ── WRITE ─┬─ every so often FLUSH
//!                 ▲                      └─ failed: connection dropped ── pause ── connected anew
//!                 └── told to end: FLUSH, DISC
//! ```
//! It keeps nothing that it could not write: after an outage it goes on with the next record. What a server says is
//! never trusted ([`client`]).

pub mod client;
mod content;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::host::lab::protocol::About;
use crate::lab::guest::client::{Address, Client, Error};
use crate::lab::guest::content::Content;
use crate::report;
use crate::units::{ByteRange, MIB, to_u64, to_usize};

/// How long a request may take before the connection is given up: longer than any freeze.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause before connecting anew, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How far a workload may fall behind before it stops to catch up: what an outage has cost is not written in one burst.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// What [`fill`] writes at once.
const PIECE: u64 = MIB;
/// The longest record: it is held in memory.
const RECORD_MAX: u32 = 16 << 20;

/// What a guest does.
#[derive(Clone, Debug)]
pub struct Workload {
    pub address: Address,
    /// `<machine>/<slot>`.
    pub export: String,
    /// The part of the disk that is written; all if it is longer than the disk.
    pub area: ByteRange,
    /// Bytes of one record, which is written at a multiple of its length from the area's start; a multiple of 512.
    pub record: u32,
    /// How fast, on average.
    pub bytes_per_second: u64,
    /// A flush follows every so many records.
    pub records_per_flush: u32,
    /// Decides offsets and contents.
    pub seed: u64,
}

/// What a guest has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that the server has taken.
    pub written: u64,
    /// Of those, bytes that a flush has made durable.
    pub flushed: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// A workload at work. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    counters: Counters,
    ending: bool,
}

impl Guest {
    /// Starts a workload. The server need not be there yet.
    ///
    /// # Errors
    /// If a record's length is not a multiple of 512 up to 16 MiB, or no thread is to be had.
    pub fn start(workload: Workload) -> Result<Self, Error> {
        if workload.record == 0
            || !workload.record.is_multiple_of(512)
            || workload.record > RECORD_MAX
        {
            return Err(Error::Record {
                length: workload.record,
            });
        }
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("guest".into())
            .spawn(move || run(&for_thread, &workload))
            .map_err(|source| Error::Thread { source })?;
        Ok(Guest {
            shared,
            thread: Some(thread),
        })
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }

    /// Waits until the counters are as wanted, at most for `patience`: whether they are.
    pub fn wait_until(&self, patience: Duration, wanted: impl Fn(&Counters) -> bool) -> bool {
        let waits = |state: &mut State| !wanted(&state.counters);
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), patience, waits);
        wanted(&waited.unwrap_or_else(PoisonError::into_inner).0.counters)
    }

    /// Ends the workload, with a last flush if the server is there. Waits for the request that is going on.
    pub fn end(mut self) -> Counters {
        self.stop();
        self.counters()
    }

    fn stop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a guest's thread has panicked");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Address {
    /// Where a hypervisor has its exports: its Unix socket if it has one, which is the same after a restart.
    pub fn of(about: &About) -> Option<Self> {
        let socket = about.nbd_socket.clone().map(Address::Unix);
        socket.or(about.nbd.map(Address::Tcp))
    }
}

impl Shared {
    /// Counters are whole at any time, so that a panic elsewhere leaves them right.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.lock().counters);
        self.changed.notify_all();
    }

    /// Waits for some time: whether to go on.
    fn rest(&self, time: Duration) -> bool {
        let going = |state: &mut State| !state.ending;
        let waited = self.changed.wait_timeout_while(self.lock(), time, going);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ending
    }
}

/// Fills a part of an export with compressible content as fast as it takes it, and flushes. Returns the bytes written:
/// fewer than asked for if the export ends before.
///
/// # Errors
/// If the server is not there, refuses, or does not keep to the protocol.
pub fn fill(address: &Address, export: &str, area: ByteRange, seed: u64) -> Result<u64, Error> {
    let mut client = Client::connect(address, export, PATIENCE)?;
    let area = ByteRange::to(client.size()).intersect(area);
    let mut content = Content::new(seed);
    let mut buffer = vec![0; to_usize(PIECE.min(area.len()))];
    for piece in area.split_at_multiples(PIECE) {
        let data = &mut buffer[..to_usize(piece.len())];
        content.fill(data);
        client.write(piece.start(), data)?;
    }
    client.flush()?;
    client.disconnect();
    Ok(area.len())
}

fn run(shared: &Shared, workload: &Workload) {
    let mut content = Content::new(workload.seed);
    let mut pause = PAUSES.0;
    loop {
        match Client::connect(&workload.address, &workload.export, PATIENCE) {
            Ok(mut client) => {
                shared.count(|counters| counters.connections += 1);
                pause = PAUSES.0;
                match work(shared, workload, &mut client, &mut content) {
                    Ok(()) => return client.disconnect(),
                    Err(error) => {
                        tracing::info!(
                            export = workload.export,
                            error = report::chain(&error),
                            "a guest's disk has failed"
                        );
                    }
                }
            }
            Err(error) => {
                tracing::debug!(
                    export = workload.export,
                    error = report::chain(&error),
                    "a guest waits for its disk"
                );
            }
        }
        if !shared.rest(pause) {
            return;
        }
        pause = (2 * pause).min(PAUSES.1);
    }
}

/// Writes records until told to end.
fn work(
    shared: &Shared,
    workload: &Workload,
    client: &mut Client,
    content: &mut Content,
) -> Result<(), Error> {
    let record = u64::from(workload.record);
    let area = ByteRange::to(client.size()).intersect(workload.area);
    let places = area.len() / record;
    if places == 0 {
        return Err(Error::NoRoom {
            area: workload.area,
            size: client.size(),
        });
    }
    let interval = interval(record, workload.bytes_per_second);
    let mut data = vec![0; to_usize(record)];
    let mut unflushed = 0;
    let mut due = Instant::now();
    while shared.rest(due.saturating_duration_since(Instant::now())) {
        content.fill(&mut data);
        client.write(area.start() + record * content.below(places), &data)?;
        shared.count(|counters| counters.written += record);
        unflushed += to_u64(data.len());
        if unflushed >= record * u64::from(workload.records_per_flush) {
            flush(shared, client, &mut unflushed)?;
        }
        let earliest = Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due);
        due = (due + interval).max(earliest);
    }
    flush(shared, client, &mut unflushed)
}

fn flush(shared: &Shared, client: &mut Client, unflushed: &mut u64) -> Result<(), Error> {
    client.flush()?;
    shared.count(|counters| counters.flushed += *unflushed);
    *unflushed = 0;
    Ok(())
}

/// The time from one record to the next.
fn interval(record: u64, bytes_per_second: u64) -> Duration {
    let nanoseconds = u128::from(record) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        .min(Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_at_the_rate_that_was_asked_for() {
        assert_eq!(interval(4096, 4096 * 100), Duration::from_millis(10));
        assert_eq!(interval(4096, 0), Duration::from_secs(3600));
        assert_eq!(interval(4096, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_record_that_no_disk_takes_is_refused() {
        let workload = |record| Workload {
            address: Address::Unix("/nonexistent".into()),
            export: "vm/scsi:0:0".into(),
            area: ByteRange::to(MIB),
            record,
            bytes_per_second: 1,
            records_per_flush: 1,
            seed: 1,
        };
        for record in [0, 100, RECORD_MAX + 512] {
            assert!(matches!(
                Guest::start(workload(record)),
                Err(Error::Record { .. })
            ));
        }
        let counters = Guest::start(workload(512)).unwrap().end();
        assert_eq!(counters, Counters::default());
    }
}
