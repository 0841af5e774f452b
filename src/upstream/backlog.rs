//! How much of a request waits for the server, for whoever reads it from the client.
//!
//! The [`Wire`](super::wire::Wire) says how much; an HTTP/1.1 client is not read from meanwhile, so that
//! it does not grow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Bytes of one client's request that its server has yet to take.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicUsize,
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

    /// Says how many.
    pub(super) fn set(&self, bytes: usize) {
        if self.bytes() != bytes {
            self.bytes.store(bytes, Ordering::SeqCst);
            self.reader.wake();
        }
    }
}
