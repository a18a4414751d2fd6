//! The guests of one machine: their connections, and the requests that are being served.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::lab::hypervisor::listen::Stream;
use crate::lab::hypervisor::store::lock;

#[derive(Default)]
pub(crate) struct Traffic {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether the machine runs.
    open: bool,
    requests: usize,
    next: u64,
    connections: BTreeMap<u64, Stream>,
}

/// A connection of a guest, until it is dropped.
pub(crate) struct Admitted<'a> {
    traffic: &'a Traffic,
    number: u64,
}

/// A request that is being served, until it is dropped.
pub(crate) struct Request<'a>(&'a Traffic);

impl Traffic {
    /// The machine runs.
    pub(crate) fn open(&self) {
        lock(&self.state).open = true;
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).open
    }

    /// Takes a connection in, unless the machine does not run.
    pub(crate) fn admit(&self, stream: Stream) -> Option<Admitted<'_>> {
        let mut state = lock(&self.state);
        if !state.open {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, stream);
        Some(Admitted {
            traffic: self,
            number,
        })
    }

    /// Begins a request, unless the machine does not run.
    pub(crate) fn begin(&self) -> Option<Request<'_>> {
        let mut state = lock(&self.state);
        state.open.then(|| {
            state.requests += 1;
            Request(self)
        })
    }

    /// Lets no request begin and waits until none is left: whether that came true. If not, requests begin again.
    pub(crate) fn drain(&self, patience: Duration) -> bool {
        let mut state = lock(&self.state);
        state.open = false;
        let busy = |state: &mut State| state.requests > 0;
        let waited = self.changed.wait_timeout_while(state, patience, busy);
        let mut state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        state.open = state.requests > 0;
        !state.open
    }

    /// Lets no request begin, and ends all connections.
    pub(crate) fn cut(&self) {
        let mut state = lock(&self.state);
        state.open = false;
        state.connections.values().for_each(Stream::shut_down);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        lock(&self.traffic.state).connections.remove(&self.number);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).requests -= 1;
        self.0.changed.notify_all();
    }
}
