//! Runs the commands that stand for a guest's integration services.
//!
//! A command that does not end in time is killed, with its process group: a hook never outlives its machine's patience.

use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::host::lab::spec::Hook;

/// How often a command is asked whether it has ended.
const LOOK: Duration = Duration::from_millis(5);
/// What is kept of what a command says on its standard error.
const SAID_MAX: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the hook names no command")]
    Empty,
    #[error("cannot run {command}")]
    Run {
        command: String,
        source: std::io::Error,
    },
    #[error("{command} did not end within {} ms", patience.as_millis())]
    Late { command: String, patience: Duration },
    #[error("{command} ended with {status}: {said}")]
    Failed {
        command: String,
        status: ExitStatus,
        said: String,
    },
}

/// Runs a hook to its end, at most for its own time and `patience`.
pub(crate) fn run(hook: &Hook, patience: Duration) -> Result<(), Error> {
    let (program, arguments) = hook.command.split_first().ok_or(Error::Empty)?;
    let patience = Duration::from_millis(hook.timeout_ms).min(patience);
    let cannot = |source| Error::Run {
        command: program.clone(),
        source,
    };
    // A file and no pipe: whatever a command leaves running may keep it, and nobody waits for its end.
    let mut errors = tempfile::tempfile().map_err(cannot)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone().map_err(cannot)?)
        .process_group(0)
        .spawn()
        .map_err(cannot)?;
    let Some(status) = wait(&mut child, patience).map_err(cannot)? else {
        end_group(&child);
        let _ = child.wait();
        return Err(Error::Late {
            command: program.clone(),
            patience,
        });
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    errors.rewind().map_err(cannot)?;
    let read = errors.take(SAID_MAX).read_to_end(&mut said);
    read.map_err(cannot)?;
    Err(Error::Failed {
        command: program.clone(),
        status,
        said: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= patience {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// Kills the process group of a command that was not waited for yet, so that its number is still its own.
fn end_group(child: &Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        tracing::warn!(%error, "a late hook was not killed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout_ms: u64) -> Result<(), Error> {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let hook = Hook {
            command,
            timeout_ms,
        };
        run(&hook, Duration::from_secs(60))
    }

    #[test]
    fn a_hook_succeeds_fails_with_its_words_or_is_late() {
        assert!(shell("true", 60_000).is_ok());
        let failed = shell("echo no writers >&2; exit 3", 60_000);
        assert!(matches!(failed, Err(Error::Failed { said, .. }) if said == "no writers"));
        assert!(matches!(shell("sleep 600", 20), Err(Error::Late { .. })));
    }
}
