//! What a person sees while something takes minutes: a line when it begins, one every so often, one when it is done.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Often enough to be seen alive, seldom enough for a log.
const EVERY: Duration = Duration::from_secs(15);

/// One piece of work that is being waited for.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Says that `what` begins, and how long it takes where that is long.
    pub(super) fn begin(what: &str, takes: &str) -> Self {
        say(&format!("{what} ({takes})"));
        let now = Instant::now();
        Progress {
            what: what.to_owned(),
            begun: now,
            told: now,
        }
    }

    /// Says how long it has taken so far, if the last line is old enough.
    pub(super) fn tick(&mut self) {
        if self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            say(&format!("{}: {} so far", self.what, self.elapsed()));
        }
    }

    /// Says that it is done.
    pub(super) fn done(&self) {
        say(&format!("{}: done in {}", self.what, self.elapsed()));
    }

    fn elapsed(&self) -> String {
        in_words(self.begun.elapsed())
    }
}

fn in_words(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Writes past the capture of test runners: whoever waits five minutes for a test should know why.
fn say(line: &str) {
    // Nobody reads it any more if this fails.
    let _ = writeln!(std::io::stderr(), "site-recovery: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_said_when_there_are_any() {
        let said = [0, 59, 60, 275].map(|seconds| in_words(Duration::from_secs(seconds)));
        assert_eq!(said, ["0 s", "59 s", "1 min 0 s", "4 min 35 s"]);
    }
}
