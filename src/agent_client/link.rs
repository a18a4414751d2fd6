//! One HTTP/2 connection as its client drives it: from the handshake to the last byte.
//!
//! ```text
//! open ──► sender handed out ──► close(), or the last sender gone ──► GOAWAY, streams end ──► ended, socket closed
//!                           └──► peer gone, no pong, protocol error ────────────────────────► ended, socket closed
//! ```
//! hyper runs parts of a connection as tasks of their own, which would hold the socket for as long as a stream does.
//! They are spawned here under one token, so that after [`GRACE`] nothing of a connection is left.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::report::chain;

/// For how long a closed connection may take to say goodbye.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes that a peer may send ahead of what is read: 5 MB/s at 100 ms, and half a gigabyte if a thousand peers abuse it.
const WINDOW: u32 = 512 << 10;
/// Headers of an answer; ours have four.
const HEADERS_MAX: u32 = 16 << 10;

pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// When an idle connection counts as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Without a byte for so long, a ping is sent.
    pub interval: Duration,
    /// Without its echo for so long, the connection is closed.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    /// A dead peer is noticed after 25 seconds at the latest.
    fn default() -> Self {
        KeepAlive {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(15),
        }
    }
}

/// The client's end of a connection.
pub(crate) struct Link {
    sender: Mutex<Option<Sender>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Cancelled when nothing can be sent any more.
    ended: CancellationToken,
    /// Cancelled when nothing of the connection may be left.
    kill: CancellationToken,
    why: OnceLock<String>,
}

/// Runs hyper's tasks for as long as the connection may live.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    kill: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.tracker
            .spawn(self.kill.clone().run_until_cancelled_owned(task));
    }
}

impl Link {
    /// Starts HTTP/2 on `io`. What the peer says to it is heard with the first request.
    ///
    /// # Errors
    /// If the preface cannot be sent.
    pub(crate) async fn open<IO>(io: IO, keep_alive: KeepAlive) -> hyper::Result<Self>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let state = Arc::new(State::default());
        let tasks = Tasks {
            tracker: TaskTracker::new(),
            kill: state.kill.clone(),
        };
        let (sender, connection) = Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(keep_alive.interval)
            .keep_alive_timeout(keep_alive.timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_header_list_size(HEADERS_MAX)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(drive(connection, tasks.tracker, state.clone()));
        Ok(Link {
            sender: Mutex::new(Some(sender)),
            state,
        })
    }

    /// What requests are sent with, while the connection stands.
    pub(crate) fn sender(&self) -> Option<Sender> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.clone().filter(|sender| !sender.is_closed())
    }

    /// Waits for the end of the connection, and says why it came.
    pub(crate) async fn ended(&self) -> String {
        self.state.ended.cancelled().await;
        self.why()
    }

    pub(crate) fn why(&self) -> String {
        let why = self.state.why.get();
        why.map_or_else(|| "the connection was closed".to_owned(), Clone::clone)
    }

    /// Sends nothing more, lets requests under way come to an end for [`GRACE`], and closes.
    pub(crate) async fn close(&self) {
        let sender = self
            .sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(sender);
        let _ = tokio::time::timeout(GRACE, self.state.kill.cancelled()).await;
        self.state.kill.cancel();
    }
}

/// Drives the connection until it ends or is killed.
async fn drive<C>(connection: C, tracker: TaskTracker, state: Arc<State>)
where
    C: Future<Output = hyper::Result<()>>,
{
    if let Some(Err(error)) = state.kill.run_until_cancelled(connection).await {
        state.why.get_or_init(|| chain(&error));
    }
    state.ended.cancel();
    tracker.close();
    let _ = tokio::time::timeout(GRACE, tracker.wait()).await;
    state.kill.cancel();
}
