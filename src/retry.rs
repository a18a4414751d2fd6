//! Whether waiting helps, and how long to wait.
//!
//! Three answers to an error, decided in one place ([`class`]): recoverable errors are retried on the [`Schedule`] of
//! the seed, non-recoverable ones wait for a human, and some mean that the replica must be compared with its source.
//! Below a minute there is one more loop, [`with`], for requests that a network or a busy service failed.

use std::time::Duration;

use backoff::backoff::Backoff;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::report::{Code, Fault};

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself: try again on the schedule.
    Recoverable,
    /// It stays until a human acts: `Critical`, the step is not repeated.
    NonRecoverable,
    /// What the replica lacks is not known any more: compare and copy.
    ResyncRequired,
}

/// The one place that decides.
pub const fn class(code: Code) -> Class {
    match code {
        Code::HostDiskFull
        | Code::HostMemory
        | Code::HostBusy
        | Code::HostTimeout
        | Code::GuestQuiesceFailed
        | Code::HypervisorUnavailable
        | Code::HostIo
        | Code::StorageUnreachable
        | Code::StorageBusy
        | Code::StorageServerError
        | Code::WaitingForCredentials
        | Code::StorageConflict
        | Code::StorageChanged
        | Code::StorageIntegrity
        | Code::Fenced
        | Code::AzureUnreachable
        | Code::AzureBusy
        | Code::AzureServerError
        | Code::AzureConflict
        | Code::AzureNoCapacity
        | Code::AgentUnreachable
        | Code::AgentStateDamaged
        | Code::GenerationStale
        | Code::NotReplicating => Class::Recoverable,
        Code::VmNotFound
        | Code::BrokenDiskChain
        | Code::InvalidVmState
        | Code::HostAuthorization
        | Code::Unsupported
        | Code::DiskFormat
        | Code::StorageUnauthorized
        | Code::StorageNotFound
        | Code::StorageRefused
        | Code::AccountUnsuitable
        | Code::FormatTooNew
        | Code::ReplicaDamaged
        | Code::ForeignBlob
        | Code::ManagedByAnotherCluster
        | Code::AzureUnauthorized
        | Code::AzureForbidden
        | Code::AzurePolicy
        | Code::AzureNotFound
        | Code::AzureNameTaken
        | Code::AzureQuotaExceeded
        | Code::AzureSizeUnavailable
        | Code::AzureAddressUnusable
        | Code::AzureDiskRefused
        | Code::AzureRefused
        | Code::AgentIncompatible
        | Code::InvalidRequest
        | Code::Configuration
        | Code::Internal => Class::NonRecoverable,
        Code::TrackingLost
        | Code::DiskChangedOffline
        | Code::DiskSetChanged
        | Code::TooManyChanges
        | Code::ResyncRequested
        | Code::SealInvalid
        | Code::SequenceGap => Class::ResyncRequired,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// The seed's back-off: 1, 2, 4, 8 and 10 minutes, then every 30, each counted from the start of the attempt before.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    attempts: u32,
}

impl Schedule {
    /// The schedule after `attempts` that failed.
    pub const fn after(attempts: u32) -> Self {
        Schedule { attempts }
    }
}

impl Backoff for Schedule {
    fn reset(&mut self) {
        self.attempts = 0;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let minutes = match self.attempts {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 8,
            4 => 10,
            _ => 30,
        };
        self.attempts = self.attempts.saturating_add(1);
        Some(MINUTE * minutes)
    }
}

/// How often the cause of an error that waiting does not help is looked at again.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1800);

/// A failure that is being tried again, or waits for somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    pub fault: Fault,
    /// Attempts that failed in a row.
    pub attempts: u32,
    /// When the first of them began.
    pub since: Timestamp,
    /// Absent where waiting does not help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
}

impl Trouble {
    /// Whether nothing happens any more before somebody has acted.
    pub fn needs_human(&self) -> bool {
        class(self.fault.code) != Class::Recoverable && self.next_attempt.is_none()
    }
}

/// Attempts at one thing, and how they went.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    schedule: Schedule,
    failed: u32,
    since: Option<Timestamp>,
}

impl Attempts {
    /// Attempts of which `failed` failed in a row before a restart, the first at `since`.
    pub const fn resumed(failed: u32, since: Timestamp) -> Self {
        Attempts {
            schedule: Schedule::after(failed),
            failed,
            since: Some(since),
        }
    }

    /// An attempt that began at `started` has failed: the trouble to report, and how long after `started` to wait.
    pub fn failed(&mut self, fault: Fault, started: Timestamp) -> (Trouble, Duration) {
        self.failed = self.failed.saturating_add(1);
        let wait = match class(fault.code) {
            Class::Recoverable => self.schedule.next_backoff(),
            Class::NonRecoverable | Class::ResyncRequired => None,
        };
        let trouble = Trouble {
            fault,
            attempts: self.failed,
            since: *self.since.get_or_insert(started),
            next_attempt: wait.and_then(|wait| started.checked_add(wait).ok()),
        };
        (trouble, wait.unwrap_or(LOOK_AGAIN))
    }

    /// An attempt that began at `started` broke by a fault of ours, told as such at once. What led to it may pass all the
    /// same: it is repeated on the schedule.
    pub fn broke(&mut self, fault: Fault, started: Timestamp) -> (Trouble, Duration) {
        let (mut trouble, wait) = self.failed(fault, started);
        let wait = match trouble.next_attempt {
            Some(_) => wait,
            None => self.schedule.next_backoff().unwrap_or(LOOK_AGAIN),
        };
        trouble.next_attempt = started.checked_add(wait).ok();
        (trouble, wait)
    }

    /// Something went well, or somebody asked to begin anew.
    pub fn reset(&mut self) {
        *self = Attempts::default();
    }
}

/// Whether a failed request is worth sending again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// After the usual back-off.
    Soon,
    /// Not before this has passed: the service said so.
    After(Duration),
    /// No: the answer would be the same.
    Never,
}

/// Sends a request until it succeeds, its error says [`Again::Never`], `patience` is used up, or `stop` is cancelled.
///
/// This is the only loop of its kind: nothing below it retries, and nothing above it does within a minute.
///
/// # Errors
/// The last error of `attempt`.
pub async fn with<T, E, Attempt>(
    patience: Duration,
    stop: &CancellationToken,
    again: impl Fn(&E) -> Again,
    // Not an `AsyncFnMut`: there is no way yet to say that its futures can move between threads.
    mut attempt: impl FnMut() -> Attempt,
) -> Result<T, E>
where
    Attempt: Future<Output = Result<T, E>>,
{
    let mut pause = backoff::ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_millis(200))
        .with_max_interval(Duration::from_secs(15))
        .with_max_elapsed_time(None)
        .build();
    let end = tokio::time::Instant::now() + patience;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let wait = match (again(&error), pause.next_backoff()) {
            (Again::Never, _) | (_, None) => return Err(error),
            (Again::Soon, Some(wait)) => wait,
            (Again::After(least), Some(wait)) => wait.max(least),
        };
        if tokio::time::Instant::now() + wait > end {
            return Err(error);
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_the_seeds() {
        let mut schedule = Schedule::default();
        let minutes: Vec<u64> = (0..8)
            .map(|_| schedule.next_backoff().unwrap().as_secs() / 60)
            .collect();
        assert_eq!(minutes, [1, 2, 4, 8, 10, 30, 30, 30]);
    }

    #[test]
    fn a_schedule_goes_on_where_a_restart_left_it() {
        assert_eq!(Schedule::after(4).next_backoff().unwrap(), 10 * MINUTE);
    }

    #[test]
    fn attempts_go_on_counting_after_a_restart() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut attempts = Attempts::resumed(4, at(0));
        let (trouble, wait) = attempts.failed(Fault::new(Code::StorageBusy, "503"), at(1500));
        assert_eq!((trouble.attempts, trouble.since), (5, at(0)));
        assert_eq!(wait, 10 * MINUTE);
    }

    #[test]
    fn trouble_counts_its_attempts_from_the_first_and_says_when_the_next_is() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut attempts = Attempts::default();
        let busy = || Fault::new(Code::StorageBusy, "503");
        attempts.failed(busy(), at(0));
        let (trouble, wait) = attempts.failed(busy(), at(60));
        assert_eq!(
            (trouble.attempts, trouble.since, wait),
            (2, at(0), 2 * MINUTE)
        );
        assert_eq!(trouble.next_attempt, Some(at(180)));
        let (trouble, wait) = attempts.failed(Fault::new(Code::BrokenDiskChain, "x"), at(180));
        assert_eq!((trouble.next_attempt, wait), (None, LOOK_AGAIN));
    }

    #[test]
    fn what_broke_is_tried_again_on_the_schedule_although_its_code_is_not_recoverable() {
        let at = Timestamp::UNIX_EPOCH;
        let mut attempts = Attempts::default();
        let broke = |attempts: &mut Attempts| attempts.broke(Fault::new(Code::Internal, "x"), at);
        assert_eq!(broke(&mut attempts).1, MINUTE);
        let (trouble, wait) = broke(&mut attempts);
        assert_eq!((trouble.attempts, wait), (2, 2 * MINUTE));
        assert_eq!(trouble.next_attempt, Some(at + 2 * MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_cannot_succeed_is_sent_once() {
        let mut sent = 0;
        let result: Result<(), &str> = with(
            MINUTE,
            &CancellationToken::new(),
            |_| Again::Never,
            || {
                sent += 1;
                async { Err("no") }
            },
        )
        .await;
        assert_eq!((result, sent), (Err("no"), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_a_request_that_keeps_failing() {
        let result: Result<(), &str> = with(
            MINUTE,
            &CancellationToken::new(),
            |_| Again::Soon,
            async || Err("busy"),
        )
        .await;
        assert_eq!(result, Err("busy"));
    }
}
