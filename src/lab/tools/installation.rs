//! The making of one cached folder: files written into it, commands run with a limit, versions asked for.
//!
//! Commands run under a guard (`lab::process`), so that a build that is given up leaves no compiler behind. What they
//! say goes to a log in the folder; an error shows its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::file::file_error;
use crate::lab::process::{self, Process};
use crate::lab::tools::error::Error;
use crate::lab::tools::progress::Progress;

/// Twelve times what the longest step takes on two cores; past it something hangs.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// How often a running command is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);
/// What our commands said, beside what they made.
const LOG: &str = "installation.log";

/// A program that the machine must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prerequisite {
    pub(super) command: &'static str,
    /// What to do when it is missing or too old.
    pub(super) remedy: &'static str,
}

/// A folder that is being filled, and the person who waits for it.
#[derive(Debug)]
pub(super) struct Installation {
    folder: PathBuf,
    progress: Progress,
}

impl Installation {
    /// Says that `work` begins and how long it takes.
    pub(super) fn begin(folder: &Path, work: &str, takes: &str) -> Self {
        Installation {
            folder: folder.to_owned(),
            progress: Progress::begin(work, takes),
        }
    }

    /// Says that it is done.
    pub(super) fn done(&self) {
        self.progress.done();
    }

    /// Where things are put for now; they must not remember this path.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file at a path relative to the folder, which exists then.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(file_error("create", parent))?;
        }
        Ok(fs::write(&path, content).map_err(file_error("write", &path))?)
    }

    /// Asks a program of the machine something that only one that is new enough answers well.
    ///
    /// # Errors
    /// If it is missing, or fails.
    pub(super) fn require(
        &mut self,
        prerequisite: Prerequisite,
        arguments: &[&str],
        within: &Path,
    ) -> Result<(), Error> {
        let mut command = Command::new(prerequisite.command);
        command.args(arguments).current_dir(within);
        match self.run(&mut command) {
            Ok(_) => Ok(()),
            Err(Error::Missing { command, .. }) => Err(Error::Missing {
                command,
                remedy: prerequisite.remedy,
            }),
            Err(Error::Failed { tail, .. }) => Err(Error::TooOld {
                command: prerequisite.command,
                said: tail,
                remedy: prerequisite.remedy,
            }),
            Err(other) => Err(other),
        }
    }

    /// Runs a command to its end and returns the end of what it said.
    ///
    /// # Errors
    /// If it cannot be started, fails, or takes longer than an hour.
    pub(super) fn run(&mut self, command: &mut Command) -> Result<String, Error> {
        let said = spelled(command);
        let mut process = Process::start(&said, command, &self.folder.join(LOG))
            .map_err(|source| cannot_run(&said, source))?;
        let begun = Instant::now();
        loop {
            let ended = process.ended();
            if let Some(status) = ended.map_err(|source| cannot_run(&said, source))? {
                return if status.success() {
                    Ok(process.log().text())
                } else {
                    Err(Error::Failed {
                        command: said,
                        status,
                        tail: process.log().tail(),
                    })
                };
            }
            if begun.elapsed() > LIMIT {
                return Err(Error::TooLong {
                    command: said,
                    limit: LIMIT,
                    tail: process.log().tail(),
                });
            }
            self.progress.tick();
            std::thread::sleep(POLL);
        }
    }

    /// Runs what was installed and looks for its version.
    ///
    /// # Errors
    /// If it does not run, or is another version.
    pub(super) fn check_version(
        &mut self,
        command: &mut Command,
        expected: &'static str,
    ) -> Result<(), Error> {
        let said = self.run(command)?;
        if names_version(&said, expected) {
            return Ok(());
        }
        Err(Error::WrongVersion {
            command: spelled(command),
            expected,
            said: said.trim().to_owned(),
        })
    }
}

/// Whether `text` has `version` as a number of its own, not as a part of a longer one.
fn names_version(text: &str, version: &str) -> bool {
    let part_of_a_number = |c: char| c.is_ascii_digit() || c == '.';
    text.match_indices(version).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + version.len()..]);
        !before.ends_with(part_of_a_number) && !after.starts_with(part_of_a_number)
    })
}

fn cannot_run(command: &str, source: process::Error) -> Error {
    match source {
        process::Error::Start {
            program, source, ..
        } if source.kind() == io::ErrorKind::NotFound => Error::Missing {
            command: program,
            remedy: "install it",
        },
        source => Error::Run {
            command: command.to_owned(),
            source,
        },
    }
}

/// The command as a person would type it.
fn spelled(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let mut line = program.into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(folder: &tempfile::TempDir) -> Installation {
        Installation::begin(folder.path(), "testing an installation", "no time")
    }

    #[test]
    fn a_failed_command_is_shown_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no network; exit 7"]);
        let error = installation(&folder).run(&mut command).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo no network; exit 7` failed with exit status: 7, its last lines: no network"
        );
    }

    #[test]
    fn a_missing_prerequisite_is_an_error_that_says_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let prerequisite = Prerequisite {
            command: "no-such-program-of-ours",
            remedy: "install Go 1.26 or later",
        };
        let error = installation(&folder)
            .require(prerequisite, &["version"], folder.path())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`no-such-program-of-ours` is not on PATH: install Go 1.26 or later"
        );
    }

    #[test]
    fn a_prerequisite_that_fails_is_too_old_and_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let prerequisite = Prerequisite {
            command: "sh",
            remedy: "install a newer one",
        };
        let error = installation(&folder)
            .require(
                prerequisite,
                &["-c", "echo I am 1.19; exit 1"],
                folder.path(),
            )
            .unwrap_err();
        assert!(matches!(error, Error::TooOld { .. }));
        assert!(error.to_string().contains("I am 1.19"));
    }

    #[test]
    fn a_version_is_not_found_within_a_longer_one() {
        assert!(names_version("Kubernetes v1.37.2\n", "1.37.2"));
        assert!(names_version("v4.3.1+g1234", "4.3.1"));
        assert!(!names_version("Kubernetes v1.37.21", "1.37.2"));
        assert!(!names_version("v14.3.1", "4.3.1"));
        assert!(!names_version("", "4.3.1"));
    }
}
