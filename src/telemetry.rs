//! What a process says of itself while it works: structured lines on standard error.
//!
//! Text for people, JSON in a cluster. What is said is chosen by `SITE_RECOVERY_LOG`, in the syntax of `RUST_LOG`.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The variable that chooses what is said.
pub const FILTER: &str = "SITE_RECOVERY_LOG";
/// Everything of ours, and what is wrong elsewhere: for what serves.
pub const SERVICE: &str = "warn,site_recovery=info";
/// What is wrong with us: for a command that says itself what it does.
pub const COMMAND: &str = "off,site_recovery=warn";

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Begins to write lines; once per process. `default` is what is said where nobody has chosen.
///
/// # Errors
/// If the filter cannot be understood.
pub fn init(format: Format, default: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = match std::env::var(FILTER) {
        Ok(filter) => EnvFilter::try_new(filter)?,
        Err(_) => EnvFilter::try_new(default)?,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        Format::Text => lines.with_target(false).init(),
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .init(),
    }
    Ok(())
}
