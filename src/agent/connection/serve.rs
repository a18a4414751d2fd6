//! One connection to the gateway, from its first byte as an HTTP/2 server to its last.
//!
//! ```text
//! Silent ── hello of a leader ──► Led ── closed by the gateway, or not a byte for `silence` ──► ended
//!   │ not leader, no common version, no hello in time        │ not leader any more
//!   └───────────────► answered, GOAWAY, ended ◄──────────────┘
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::agent::connection::heard::{Ear, Heard};
use crate::agent::routes::{Conversation, Stage};
use crate::report::chain;
use crate::wire::{REQUEST_MAX, Versions};

/// Requests at once: the controller's commands, its poll, its hello, and room for those that it has given up.
const STREAMS: u32 = 32;
/// Headers of a request; ours have four.
const HEADERS_MAX: u32 = 16 << 10;

/// How long things may take. The defaults are what production uses.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// Until the gateway has said hello.
    pub hello: Duration,
    /// Between pings.
    pub ping: Duration,
    /// Without a byte for so long, the gateway is dead.
    pub silence: Duration,
    /// For what is under way when the connection ends.
    pub goodbye: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            handshake: Duration::from_secs(10),
            hello: Duration::from_secs(20),
            ping: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            goodbye: Duration::from_secs(20),
        }
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    NotLeader,
    Incompatible {
        theirs: Versions,
    },
    /// What the gateway holds against this agent.
    Refused(&'static str),
    NoHello(Duration),
    Dead(Duration),
    /// By the gateway, or by the network.
    Closed(Option<String>),
    Stopping,
}

/// Serves `router` on `io` until one side ends it. `led` is told when a leader has said hello.
pub(crate) async fn serve<IO>(
    io: IO,
    router: &Router,
    limits: Limits,
    led: impl FnOnce(String),
    shutdown: &CancellationToken,
) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let conversation = Arc::new(Conversation::new());
    // Whatever ends this future ends the polls that wait on behalf of its connection.
    let _closing = conversation.closing.clone().drop_guard();
    let (io, ear) = Heard::new(io);
    let router = router.clone().layer(Extension(conversation.clone()));
    let window = u32::try_from(REQUEST_MAX).unwrap_or(u32::MAX);
    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.silence)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS_MAX)
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let reason = tokio::select! {
        result = connection.as_mut() => closed(result, &ear),
        reason = watch(&conversation, &ear, limits, led) => reason,
        () = shutdown.cancelled() => Ended::Stopping,
    };
    if matches!(
        reason,
        Ended::NotLeader | Ended::Incompatible { .. } | Ended::Stopping
    ) {
        conversation.closing.cancel();
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits.goodbye, connection).await;
    }
    reason
}

/// Ends when there is a reason to end the connection from this side.
async fn watch(
    conversation: &Conversation,
    ear: &Ear,
    limits: Limits,
    led: impl FnOnce(String),
) -> Ended {
    let mut stage = conversation.stage();
    let said = timeout(
        limits.hello,
        stage.wait_for(|stage| *stage != Stage::Silent),
    )
    .await;
    let release = match said.map(|stage| stage.map(|stage| stage.clone())) {
        Ok(Ok(Stage::Led { release })) => release,
        Ok(Ok(Stage::NotLeader)) => return Ended::NotLeader,
        Ok(Ok(Stage::Incompatible { theirs })) => return Ended::Incompatible { theirs },
        Ok(Ok(Stage::Silent) | Err(_)) | Err(_) => return Ended::NoHello(limits.hello),
    };
    led(release);
    let turned = stage.wait_for(|stage| !matches!(stage, Stage::Led { .. }));
    tokio::select! {
        turned = turned => match turned.as_deref() {
            Ok(Stage::Incompatible { theirs }) => Ended::Incompatible { theirs: *theirs },
            Ok(_) | Err(_) => Ended::NotLeader,
        },
        () = ear.silent_for(limits.silence) => Ended::Dead(limits.silence),
    }
}

fn closed(result: hyper::Result<()>, ear: &Ear) -> Ended {
    match (ear.refusal(), result) {
        (Some(refusal), _) => Ended::Refused(refusal),
        (None, Ok(())) => Ended::Closed(None),
        (None, Err(error)) => Ended::Closed(Some(chain(&error))),
    }
}
