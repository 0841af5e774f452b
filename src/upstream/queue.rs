//! Bytes of a request that its server does not take yet.
//!
//! # Why
//! While the engine waits in a write it relays nothing of the response, and soon it does not listen to
//! the client either. So it does not wait: what the server does not take is kept here, and sent while
//! the engine reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::wire::Transport;

/// Bytes that are kept at most. A client that is not read from meanwhile has less than that under
/// way: the engine's queue.
pub(super) const MOST: usize = 1 << 20;

/// What the server has yet to take.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: BytesMut,
    /// Since when the server has taken nothing.
    pub(super) stuck_since: Option<Instant>,
    /// The same, not counted from before its answer was complete.
    pub(super) late_since: Option<Instant>,
    /// Whether to flush behind the bytes: with TLS some may be left in its own buffer.
    is_flushing: bool,
    /// Nothing more is sent.
    is_cut: bool,
}

impl Queue {
    /// Whether there is nothing to see to before a write.
    pub(super) fn is_idle(&self) -> bool {
        self.bytes.is_empty() && !self.is_flushing && !self.is_cut
    }

    /// Bytes that are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing more is sent, for good.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether the engine has handed over all that it means to send, and not all has left.
    pub(super) fn is_owed(&self) -> bool {
        self.is_flushing && !self.is_cut
    }

    /// Keeps `bytes` behind the others.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.is_flushing = false;
        self.bytes.extend_from_slice(bytes);
    }

    /// What there is by now is to leave.
    pub(super) fn flush(&mut self) {
        self.is_flushing = true;
    }

    /// Sends nothing more.
    pub(super) fn cut(&mut self) {
        *self = Self { is_cut: true, ..Self::default() };
    }

    /// Sends what there is. Ready when all has left, or with the reason why no more can.
    pub(super) fn poll_send(
        &mut self,
        mut transport: Pin<&mut Transport>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while !self.bytes.is_empty() {
            match ready!(transport.as_mut().poll_write(cx, &self.bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.bytes.advance(count),
            }
        }
        if self.bytes.capacity() > 0 {
            self.bytes = BytesMut::new();
        }
        if self.is_flushing {
            ready!(transport.poll_flush(cx))?;
            self.is_flushing = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is left without anybody waiting for it, and closes the connection. The server may
    /// be silent for `limit`.
    pub(super) fn send_rest(mut self, mut transport: Transport, limit: Duration) {
        // Without a runtime the process is ending.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            while !self.bytes.is_empty() {
                match tokio::time::timeout(limit, transport.write(&self.bytes)).await {
                    Ok(Ok(count)) if count > 0 => self.bytes.advance(count),
                    _ => return,
                }
            }
            // Nobody is told how it went.
            let _ = tokio::time::timeout(limit, transport.shutdown()).await;
        });
    }
}
