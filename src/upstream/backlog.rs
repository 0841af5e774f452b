//! How much of a request waits for the server, for whoever reads it from the client.
//!
//! The [`Wire`](super::wire::Wire) says how much; an HTTP/1.1 client is not read from meanwhile, so that
//! it does not grow.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Bytes of one client's request that its server has yet to take.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicUsize,
    /// Bytes that a tunnel's client has sent in all, once it has ended its direction.
    end: OnceLock<u64>,
    /// Who waits to read from the client.
    reader: AtomicWaker,
}

impl Backlog {
    /// How many.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ready when there are none; otherwise the task is woken when their number changes.
    pub fn poll_none(&self, cx: &Context<'_>) -> Poll<()> {
        if self.bytes() == 0 {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        // Whoever took the last of them before the waker was there woke nobody.
        if self.bytes.load(Ordering::SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Says that a tunnel's client ends its direction behind so many bytes. Returns whether that is
    /// news.
    pub fn end(&self, bytes: u64) -> bool {
        self.end.set(bytes).is_ok()
    }

    /// Whether a tunnel's client has ended its direction, and `bytes` are all that it sent.
    pub(super) fn ends_at(&self, bytes: u64) -> bool {
        self.end.get().is_some_and(|end| *end <= bytes)
    }

    /// Says how many.
    pub(super) fn set(&self, bytes: usize) {
        if self.bytes() != bytes {
            self.bytes.store(bytes, Ordering::SeqCst);
            self.reader.wake();
        }
    }
}
