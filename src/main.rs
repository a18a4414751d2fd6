//! Hands the command line to [`site_recovery::cli`] and returns its exit code. Nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    site_recovery::cli::run()
}
