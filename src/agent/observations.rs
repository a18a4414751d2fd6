//! What the controller is told: items with the revision at which each last changed.
//!
//! A poll gets what is newer than it has seen. Progress is looked at every few seconds and counts as a change only when
//! it moved, so that an idle host's poll waits its full time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::ids::ReplicaId;
use crate::wire::observation::{HostObservation, Observations, ReplicationObservation};

/// The store that polls read.
pub struct Board {
    session: Uuid,
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    host: Option<(u64, HostObservation)>,
    replications: BTreeMap<ReplicaId, (u64, ReplicationObservation)>,
}

impl Board {
    /// A store of a session that was just drawn.
    pub fn new(session: Uuid) -> Self {
        Board {
            session,
            state: Mutex::default(),
            revision: watch::channel(0).0,
        }
    }

    pub fn session(&self) -> Uuid {
        self.session
    }

    /// Shows the host, if it changed.
    pub fn show_host(&self, host: HostObservation) {
        self.change(|state, revision| {
            let changed = state.host.as_ref().is_none_or(|(_, shown)| *shown != host);
            if changed {
                state.host = Some((revision, host));
            }
            changed
        });
    }

    /// Shows a replication, if it changed.
    pub fn show(&self, replication: ReplicationObservation) {
        self.change(|state, revision| {
            let shown = state.replications.get(&replication.replica);
            let changed = shown.is_none_or(|(_, shown)| *shown != replication);
            if changed {
                state
                    .replications
                    .insert(replication.replica.clone(), (revision, replication));
            }
            changed
        });
    }

    /// Takes a replication away.
    pub fn hide(&self, replica: &ReplicaId) {
        self.change(|state, _| state.replications.remove(replica).is_some());
    }

    /// What is newer than `after` of `session`; waits for something until `deadline`.
    pub async fn read(&self, session: Option<Uuid>, after: u64, deadline: Instant) -> Observations {
        let after = if session == Some(self.session) {
            after
        } else {
            0
        };
        let mut revision = self.revision.subscribe();
        let newer = revision.wait_for(|revision| *revision > after);
        // A store that is never written again still answers at the deadline.
        let _ = tokio::time::timeout_at(deadline, newer).await;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |item: &u64| *item > after;
        Observations {
            session: self.session,
            revision: *self.revision.borrow(),
            host: state
                .host
                .as_ref()
                .filter(|(at, _)| newer(at))
                .map(|(_, host)| host.clone()),
            replications: state
                .replications
                .values()
                .filter(|(at, _)| newer(at))
                .map(|(_, replication)| replication.clone())
                .collect(),
            existing: state.replications.keys().cloned().collect(),
        }
    }

    /// Changes the state under the next revision; the revision counts only if something changed.
    fn change(&self, change: impl FnOnce(&mut State, u64) -> bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = *self.revision.borrow() + 1;
        if change(&mut state, next) {
            self.revision.send_replace(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host(fault: bool) -> HostObservation {
        let fault = fault.then(|| crate::report::Fault::new(crate::report::Code::HostBusy, "x"));
        HostObservation {
            machines: Vec::new(),
            fault,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(25)
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_gets_what_is_newer_and_all_if_the_session_is_new() {
        let board = Board::new(Uuid::from_u128(1));
        board.show_host(host(false));
        let first = board.read(None, 0, soon()).await;
        assert!(first.host.is_some());
        let other = board
            .read(Some(Uuid::from_u128(2)), first.revision, soon())
            .await;
        assert!(other.host.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_with_nothing_new_waits_and_what_is_shown_twice_is_not_new() {
        let board = Board::new(Uuid::from_u128(1));
        board.show_host(host(false));
        let seen = board.read(None, 0, soon()).await.revision;
        board.show_host(host(false));
        let started = Instant::now();
        let again = board.read(Some(board.session()), seen, soon()).await;
        assert!(again.host.is_none() && started.elapsed() >= Duration::from_secs(25));
        board.show_host(host(true));
        assert!(
            board
                .read(Some(board.session()), seen, soon())
                .await
                .host
                .is_some()
        );
    }
}
