//! Bytes of one response on their way from the server's connection to the client's.
//!
//! Answers "how much has the client still to take, and may more be read?". The hooks have every piece
//! of a body carried; the [`Wire`](super::wire::Wire) asks before it reads.
//!
//! # Why
//! The engine reads on while the client takes nothing: up to nine pieces of 64 KiB wait in its
//! channels, and no setting of it changes that. A hundred stalled streams are cheap for a client to
//! make. So a response begins with little under way, and gets more as the client takes it ([`GROWING`]).
//!
//! On HTTP/1.1 the kernel takes megabytes before it shows that the client takes nothing, so there it is
//! always [`EVEN`]. It is one piece: of several the engine makes one more copy, which is in nobody's
//! count.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// How much of a response may be under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// Before the client has taken any of it.
    pub least: usize,
    /// In any case.
    pub most: usize,
}

impl Window {
    /// Whether several pieces may be under way at once.
    pub(super) fn grows(self) -> bool {
        self.least < self.most
    }
}

/// So little that several pieces of it may be under way in any case: a TLS record's worth.
pub(super) const SMALL: usize = 16 << 10;

/// For a client that says how much it takes, as on HTTP/2: little at first, since the engine holds it
/// twice, in the end two of the engine's reads, so that one is sent while the next is read.
pub const GROWING: Window = Window { least: 8 << 10, most: 128 << 10 };

/// For one that does not: one piece, and the next when it is taken.
pub const EVEN: Window = Window { least: 64 << 10, most: 64 << 10 };

/// Bytes of one response that were handed towards the client.
#[derive(Debug)]
pub struct Flight {
    window: Window,
    /// Handed on, and not taken yet.
    owed: AtomicUsize,
    /// Taken since the start.
    taken: AtomicU64,
    /// When the first piece was handed on, if the time matters.
    started: OnceLock<Instant>,
    /// When nothing was owed any more: nanoseconds after `started`.
    cleared: AtomicU64,
    /// Who waits for room.
    reader: AtomicWaker,
}

impl Flight {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self {
            window,
            owed: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            started: OnceLock::new(),
            cleared: AtomicU64::new(0),
            reader: AtomicWaker::new(),
        }
    }

    /// Counts `bytes` as owed until the last reference to them is dropped: the client's connection
    /// has taken them then, or the exchange is over.
    #[must_use]
    pub fn carry(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.owed.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Carried { bytes, flight: Arc::clone(self) })
    }

    /// Bytes that the client has still to take.
    #[must_use]
    pub fn owed(&self) -> usize {
        self.owed.load(Ordering::Relaxed)
    }

    /// Bytes that it has taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// From here on it is noted when nothing is owed any more. Whoever asks for that is told late: it
    /// has nothing to do at that moment, and may have nothing to do for long.
    pub fn time(&self) {
        self.started.get_or_init(Instant::now);
    }

    /// When nothing was owed any more, if that is so and was [timed](Self::time).
    #[must_use]
    pub fn cleared(&self) -> Option<Instant> {
        // In this order: the moment is there before the last byte is gone.
        let is_clear = self.owed.load(Ordering::SeqCst) == 0;
        let start = self.started.get().filter(|_| is_clear)?;
        Some(*start + Duration::from_nanos(self.cleared.load(Ordering::Relaxed)))
    }

    fn note_cleared(&self) {
        if let Some(start) = self.started.get() {
            let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.cleared.store(nanos, Ordering::Relaxed);
        }
    }

    /// How much may be under way by now. Each wait for the client costs as much as a read, so that a
    /// response of 64 KiB is to wait for it once.
    fn window(&self) -> usize {
        let Window { least, most } = self.window;
        let taken = usize::try_from(self.taken()).unwrap_or(most).min(most);
        (least + 4 * taken).min(most)
    }

    /// How much may be read now.
    pub(super) fn room(&self) -> usize {
        self.window().saturating_sub(self.owed())
    }

    /// Ready when more may be read beside the `unpassed` bytes that were read and not handed on yet;
    /// otherwise the task is woken when that may have changed. Ready in any case when nothing is owed:
    /// what has not passed then waits for nobody.
    pub(super) fn poll_room(&self, cx: &Context<'_>, unpassed: usize) -> Poll<()> {
        let has_room = || {
            let owed = self.owed.load(Ordering::SeqCst);
            let is_worth_a_read = || owed.saturating_add(unpassed) <= self.window() / 2;
            owed == 0 || (self.window.grows() && is_worth_a_read())
        };
        if has_room() {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        // Whoever took the last of them before the waker was there woke nobody.
        if has_room() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A piece of a body that is owed as long as it lives.
struct Carried {
    bytes: Bytes,
    flight: Arc<Flight>,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let count = self.bytes.len();
        self.flight.taken.fetch_add(count as u64, Ordering::Relaxed);
        if self.flight.owed() == count {
            self.flight.note_cleared();
        }
        self.flight.owed.fetch_sub(count, Ordering::SeqCst);
        self.flight.reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_client_that_takes_gets_more_under_way() {
        let Window { least, most } = GROWING;
        let flight = Arc::new(Flight::new(GROWING));
        let cx = Context::from_waker(Waker::noop());
        let first = flight.carry(Bytes::from(vec![0; least]));
        assert!(flight.poll_room(&cx, 0).is_pending(), "nothing was taken");
        let (head, tail) = (first.slice(..9), first.slice(9..));
        drop((first, head));
        assert_eq!((flight.owed(), flight.taken()), (least, 0), "part of it is there still");
        drop(tail);
        assert_eq!((flight.owed(), flight.taken()), (0, least as u64));
        assert_eq!(flight.room(), 5 * least, "four times what it took, and what it began with");
        for _ in 0..20 {
            drop(flight.carry(Bytes::from(vec![0; least])));
        }
        let _more = flight.carry(Bytes::from(vec![0; most / 2]));
        assert!(flight.poll_room(&cx, 0).is_ready());
        assert!(flight.poll_room(&cx, 1).is_pending(), "what has not passed counts, too");
        let _last = flight.carry(Bytes::from_static(b"x"));
        assert!(flight.poll_room(&cx, 0).is_pending());
    }
}
