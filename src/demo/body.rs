//! The bodies that the demo backend answers with, none of them larger in memory than a chunk.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Interval, MissedTickBehavior};

/// Bytes handed over at a time, a multiple of [`PATTERN`]'s length.
const CHUNK: usize = 64 * 1024;
const PATTERN: &[u8; 16] = b"0123456789abcdef";
/// [`PATTERN`] again and again.
static DIGITS: [u8; CHUNK] = {
    let mut digits = [0; CHUNK];
    let mut at = 0;
    while at < CHUNK {
        digits[at] = PATTERN[at % PATTERN.len()];
        at += 1;
    }
    digits
};

/// An answer's body.
#[derive(Debug)]
pub(super) enum Answer {
    /// All of it at once.
    Whole(Bytes),
    /// So many bytes of [`DIGITS`].
    Digits(u64),
    /// One piece at each tick.
    Ticks(Ticks),
    /// What the client sends, after what was read of it already.
    Mirror(Option<Frame<Bytes>>, Incoming),
}

impl Answer {
    /// A piece of text, or what serializes to one.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::Whole(text.into())
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) => std::mem::take(bytes),
            Self::Digits(left) => {
                let size = usize::try_from(*left).map_or(CHUNK, |left| left.min(CHUNK));
                *left -= size as u64;
                Bytes::from_static(&DIGITS[..size])
            }
            Self::Ticks(ticks) => ready!(ticks.poll_next(context)),
            Self::Mirror(first, rest) => {
                return match first.take() {
                    Some(frame) => Poll::Ready(Some(Ok(frame))),
                    None => Pin::new(rest).poll_frame(context),
                };
            }
        };
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Digits(left) => *left == 0,
            Self::Ticks(ticks) => ticks.next > ticks.count,
            Self::Mirror(first, rest) => first.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Digits(left) => SizeHint::with_exact(*left),
            Self::Ticks(_) | Self::Mirror(Some(_), _) => SizeHint::default(),
            Self::Mirror(None, rest) => rest.size_hint(),
        }
    }
}

/// A body that grows with time; the first piece is there at once.
#[derive(Debug)]
pub(super) struct Ticks {
    next: u64,
    count: u64,
    is_event: bool,
    clock: Interval,
}

impl Ticks {
    /// `count` pieces, one every `every` and at most one a millisecond: server-sent events or lines.
    pub(super) fn new(count: u64, every: Duration, is_event: bool) -> Self {
        let mut clock = tokio::time::interval(every.max(Duration::from_millis(1)));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { next: 1, count, is_event, clock }
    }

    /// The next piece; empty at the end.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        let (next, count) = (self.next, self.count);
        if next > count {
            return Poll::Ready(Bytes::new());
        }
        ready!(self.clock.poll_tick(context));
        self.next += 1;
        let piece = if self.is_event {
            format!("id: {next}\ndata: tick {next} of {count}\n\n")
        } else {
            format!("tick {next} of {count}\n")
        };
        Poll::Ready(piece.into())
    }
}
