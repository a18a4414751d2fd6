//! Listens on a connection for signs of life, and for the TLS alert that says why the other side hung up.
//!
//! HTTP/2 pings alone do not find a dead peer while the socket's send buffer is full: the server then waits for room
//! first. So what counts here is the last byte that was *read*; both sides ping, so that there always is one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use crate::tls::client::refusal_in;

/// A connection that is listened to.
pub(crate) struct Heard<IO> {
    io: IO,
    ear: Arc<Ear>,
}

/// What was heard.
pub(crate) struct Ear {
    last: Mutex<Instant>,
    refusal: OnceLock<&'static str>,
}

impl<IO> Heard<IO> {
    pub(crate) fn new(io: IO) -> (Self, Arc<Ear>) {
        let ear = Arc::new(Ear {
            last: Mutex::new(Instant::now()),
            refusal: OnceLock::new(),
        });
        let heard = Heard {
            io,
            ear: ear.clone(),
        };
        (heard, ear)
    }
}

impl Ear {
    /// Waits until nothing has been read for `silence`.
    pub(crate) async fn silent_for(&self, silence: Duration) {
        loop {
            let last = *self.last();
            sleep_until(last + silence).await;
            if *self.last() == last {
                return;
            }
        }
    }

    /// What the gateway holds against this agent, if it said so.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.refusal.get().copied()
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        match &result {
            Poll::Ready(Ok(())) if buffer.filled().len() > filled => {
                *self.ear.last() = Instant::now();
            }
            Poll::Ready(Err(error)) => {
                if let Some(refusal) = refusal_in(error) {
                    self.ear.refusal.get_or_init(|| refusal);
                }
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_byte() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut heard, ear) = Heard::new(near);
        let start = Instant::now();
        tokio::time::advance(Duration::from_secs(20)).await;
        far.write_u8(1).await.unwrap();
        heard.read_u8().await.unwrap();
        ear.silent_for(SILENCE).await;
        assert_eq!(start.elapsed().as_secs(), 50);
    }

    #[tokio::test]
    async fn an_alert_is_remembered_with_its_meaning() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let failing = tokio_test_io(io::Error::new(io::ErrorKind::InvalidData, alert));
        let (mut heard, ear) = Heard::new(failing);
        heard.read_u8().await.unwrap_err();
        assert!(ear.refusal().unwrap().contains("authority"));
    }

    /// A reader that fails with `error` once.
    fn tokio_test_io(error: io::Error) -> impl AsyncRead + Unpin {
        struct Failing(Option<io::Error>);
        impl AsyncRead for Failing {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Ready(self.0.take().map_or(Ok(()), Err))
            }
        }
        Failing(Some(error))
    }
}
