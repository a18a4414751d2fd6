//! A child process that cannot outlive us, however we end.
//!
//! ```text
//! we ──pipe──► guard   a shell; leads a process group of its own
//!              child   joins that group, and with it whatever the child starts
//!
//! we are done:  SIGKILL to the group; child and guard are reaped
//! we die:       the kernel closes our end of the pipe; the guard reads its end and kills its group
//! ```
//! Dying is Ctrl-C, a panic that aborts, SIGKILL: nothing of ours has to run for it. (Linux's parent-death signal would
//! not do: it fires when the *thread* that started the child ends, and grandchildren do not inherit it.) The group is
//! not the terminal's, so that a Ctrl-C reaches us alone, and we decide in which order things end.
//!
//! Never starts a child before its guard stands, and never signals a process that was already reaped: its number may
//! be somebody else's by then.

pub mod log;
pub mod port;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::lab::process::log::Log;
use crate::report::Code;

/// Reads until its end of input, which is our death; then ends its process group, itself included.
const GUARD: &str = "read -r _; kill -s KILL 0";
/// How often a process is asked whether it is ready. Only start-up waits for it.
const POLL: Duration = Duration::from_millis(25);
/// How long one question may take; a process that accepts a connection and says nothing must not hide its own death.
const PROBE: Duration = Duration::from_secs(2);

/// A process that does not start, does not get ready or cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start {name} ({program})")]
    Start {
        name: String,
        program: String,
        source: io::Error,
    },
    #[error("cannot start the guard of {name} (a POSIX shell, `sh`)")]
    Guard { name: String, source: io::Error },
    #[error("cannot {action} the log {}", path.display())]
    Log {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot ask whether {name} still runs")]
    Ask { name: String, source: io::Error },
    #[error("cannot send {signal:?} to {name}")]
    Signal {
        name: String,
        signal: Signal,
        source: io::Error,
    },
    #[error("{name} ended with {status} before it was ready; the end of {}: {tail}", log.display())]
    Ended {
        name: String,
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
    #[error("{name} was not ready after {} s; the end of {}: {tail}", patience.as_secs(), log.display())]
    NotReady {
        name: String,
        patience: Duration,
        log: PathBuf,
        tail: String,
    },
    #[error("{name} still runs {} s after it was told to end", patience.as_secs())]
    StillRuns { name: String, patience: Duration },
    #[error(
        "no free loopback port found between {} and {}",
        port::FIRST,
        port::LAST
    )]
    NoPort,
}

impl Error {
    pub const fn code(&self) -> Code {
        match self {
            Error::Start { .. }
            | Error::Guard { .. }
            | Error::Log { .. }
            | Error::Ended { .. }
            | Error::NotReady { .. }
            | Error::NoPort => Code::Configuration,
            Error::Ask { .. } | Error::Signal { .. } | Error::StillRuns { .. } => Code::Internal,
        }
    }
}

/// A running child with its guard. Dropping it kills the whole group and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Child,
    log: Log,
    killed: bool,
}

impl Process {
    /// Starts `command` with no input and its output appended to the file `log`. `name` is for messages.
    ///
    /// # Errors
    /// If the log cannot be opened, or the guard or the program not be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self, Error> {
        let log = Log::open(log)?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Error::Guard {
                name: name.to_owned(),
                source,
            })?;
        let child = command
            .process_group(Pid::from_child(&guard).as_raw_nonzero().get())
            .stdin(Stdio::null())
            .stdout(log.writer()?)
            .stderr(log.writer()?)
            .spawn();
        match child {
            Ok(child) => Ok(Process {
                name: name.to_owned(),
                child,
                guard,
                log,
                killed: false,
            }),
            Err(source) => {
                end_group(&mut guard);
                Err(Error::Start {
                    name: name.to_owned(),
                    program: command.get_program().to_string_lossy().into_owned(),
                    source,
                })
            }
        }
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the child has written since this start.
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// How the child ended; nothing while it runs.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(|source| Error::Ask {
            name: self.name.clone(),
            source,
        })
    }

    /// Waits until `probe` says yes; asks it again and again, each time for at most a few seconds.
    ///
    /// # Errors
    /// At once when the child ends, and when `patience` is used up; both show the end of its log.
    pub async fn wait_ready<P, A>(&mut self, patience: Duration, mut probe: P) -> Result<(), Error>
    where
        P: FnMut() -> A + Send,
        A: Future<Output = bool> + Send,
    {
        let begun = Instant::now();
        loop {
            let ready = tokio::time::timeout(PROBE, probe()).await.unwrap_or(false);
            // Asked after the probe: what answered may be a stranger on the child's port.
            if let Some(status) = self.ended()? {
                return Err(Error::Ended {
                    name: self.name.clone(),
                    status,
                    log: self.log.path().to_owned(),
                    tail: self.log.tail(),
                });
            }
            if ready {
                return Ok(());
            }
            if begun.elapsed() > patience {
                return Err(Error::NotReady {
                    name: self.name.clone(),
                    patience,
                    log: self.log.path().to_owned(),
                    tail: self.log.tail(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the child has ended by itself or by a signal.
    ///
    /// # Errors
    /// If it still runs after `patience`.
    pub async fn wait_ended(&mut self, patience: Duration) -> Result<ExitStatus, Error> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begun.elapsed() > patience {
                return Err(Error::StillRuns {
                    name: self.name.clone(),
                    patience,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends `signal` to the child alone; nothing happens if it has ended.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal).map_err(|source| Error::Signal {
            name: self.name.clone(),
            signal,
            source: source.into(),
        })
    }

    /// Ends the child, and whatever it started, with SIGKILL; when this returns they are gone. Repeating is harmless.
    pub fn kill(&mut self) {
        if self.killed {
            return;
        }
        self.killed = true;
        end_group(&mut self.guard);
        // The group's SIGKILL cannot be caught; an error here says only that the child was reaped before.
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the group that `guard` leads and reaps the guard.
///
/// The guard is reaped nowhere else, so the group's number is still ours even where the guard has died.
fn end_group(guard: &mut Child) {
    // Both can fail only if there is nothing left to end.
    let _ = kill_process_group(Pid::from_child(guard), Signal::KILL);
    let _ = guard.wait();
}

#[cfg(test)]
mod tests;
