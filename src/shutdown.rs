//! From a signal to an orderly end: first everything is told to stop, then it has a bounded time to do so.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long the parts of a process may take to finish what they are in the middle of.
pub const DRAIN: Duration = Duration::from_secs(20);

/// A token that is cancelled by the first SIGTERM or SIGINT (on Windows: Ctrl-C).
///
/// # Errors
/// If the process may not listen for signals.
pub fn on_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    let signal = first_signal()?;
    tokio::spawn(async move {
        let name = signal.await;
        tracing::info!(signal = name, "stopping");
        cancelled.cancel();
    });
    Ok(token)
}

#[cfg(unix)]
fn first_signal() -> io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(not(unix))]
fn first_signal() -> io::Result<impl Future<Output = &'static str>> {
    Ok(async {
        // Without a console there is no Ctrl-C to wait for; the process then ends with its service.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    })
}
