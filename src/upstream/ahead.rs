//! What a server says while the engine waits in a write.
//!
//! # Why
//! The engine does not read while it writes. A server that sends its response while it still
//! reads the request stops reading when nobody takes what it says, and both sides would wait for
//! each other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use super::wire::Transport;

/// What was read while the engine waited in a write.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: BytesMut,
    /// Since when they wait for the engine.
    since: Option<Instant>,
    /// What follows `bytes`: the end of the stream, or why there is no more.
    end: Option<io::Result<()>>,
}

/// What is read ahead beyond what is worth as much as the bytes that are queued.
const AHEAD_BYTES: usize = 256 << 10;

/// Bytes read ahead at a time.
const AHEAD_STEP: usize = 16 << 10;

impl Ahead {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.end.is_none()
    }

    /// Whether there are as many bytes as that, or the end.
    pub(super) fn has_more_than(&self, bytes: usize) -> bool {
        self.end.is_some() || self.bytes.len() > bytes
    }

    /// Since when there is something.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// From here on it has waited anew.
    pub(super) fn wait_again(&mut self) {
        self.since = self.since.map(|_| Instant::now());
    }

    /// Reads what there is, somewhat more than `enough` at most. Returns whether there was anything;
    /// if not, the task is woken when there is.
    pub(super) fn read(
        &mut self,
        mut transport: Pin<&mut Transport>,
        cx: &mut Context<'_>,
        enough: usize,
    ) -> bool {
        let before = self.bytes.len();
        if self.bytes.is_empty() {
            self.since = None;
        }
        while self.end.is_none() && self.bytes.len() < enough + AHEAD_BYTES {
            let mut step = [std::mem::MaybeUninit::uninit(); AHEAD_STEP];
            let mut step = ReadBuf::uninit(&mut step);
            match transport.as_mut().poll_read(cx, &mut step) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if step.filled().is_empty() => self.end = Some(Ok(())),
                Poll::Ready(Ok(())) => self.bytes.extend_from_slice(step.filled()),
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
            }
        }
        let has_more = self.bytes.len() > before;
        if has_more {
            self.since.get_or_insert_with(Instant::now);
        }
        has_more
    }

    /// Gives back what was read, or how it ended; `None` when that is all.
    pub(super) fn take(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        if self.bytes.is_empty() {
            return match self.end.take()? {
                Ok(()) => {
                    // An end stays one, however often it is asked for.
                    self.end = Some(Ok(()));
                    Some(Ok(()))
                }
                Err(error) => Some(Err(error)),
            };
        }
        let count = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..count]);
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
        Some(Ok(()))
    }
}
