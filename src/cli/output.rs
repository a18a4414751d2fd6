//! Standard output and standard error: the one place that prints.

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;

/// Prints a line. A reader that went away is no error: `image inspect … | head` is fine.
pub(super) fn line(text: &str) -> io::Result<()> {
    quiet(writeln!(io::stdout(), "{text}"))
}

/// Prints a value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(line(&text)?)
}

/// Prints why the command failed.
pub(super) fn error(text: &str) {
    // If standard error is gone, there is nobody to tell.
    let _ = writeln!(io::stderr(), "error: {text}");
}

/// Tells whoever waits what goes on.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Shows how far something is on a terminal's last line; nothing where standard error is none.
pub(super) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }
}

/// Makes room for what is printed after progress.
pub(super) fn end_progress() {
    progress("");
}

/// Takes a closed pipe for success.
pub(super) fn quiet(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
