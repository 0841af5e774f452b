//! The end of a connection whose client has not got everything yet.
//!
//! Answers "may this socket be closed now?". Called when all has been said. Closing while the client
//! still sends, as one does that makes room for more of a response, has the system answer with a reset and
//! forget what it has for the client (RFC 9112 §9.6): so it is read on from until it has everything.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

use crate::net::{Alarm, Pace};
use crate::tls::transport::Downstream as Transport;

/// Between two looks at what the client has got: nothing tells when it has all.
const STEP: Duration = Duration::from_millis(50);

/// Most that is read from a client and thrown away.
const MOST: usize = 1 << 20;

/// Bytes read at a time.
const CHUNK: usize = 4 * 1024;

/// A client that is read on from.
#[derive(Debug)]
pub(super) struct Parting {
    /// How long it may stay when it has everything.
    linger: Duration,
    unsent: u64,
    read: usize,
    /// When it last took something.
    since: Instant,
    alarm: Alarm,
}

impl Parting {
    /// From `now` on, all having been said.
    #[must_use]
    pub(super) fn new(linger: Duration, now: Instant) -> Self {
        Self { linger, unsent: 0, read: 0, since: now, alarm: Alarm::default() }
    }

    /// Ready when the connection may be closed; `false` when the client is slower than `taking`
    /// bears.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        transport: &mut Transport,
        taking: &mut Pace,
    ) -> Poll<bool> {
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        while self.read < MOST {
            let mut chunk = ReadBuf::uninit(&mut chunk);
            match Pin::new(&mut *transport).poll_read(cx, &mut chunk) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !chunk.filled().is_empty() => {
                    self.read += chunk.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(true),
            }
        }
        let (unsent, now) = (transport.unsent().unwrap_or(0), Instant::now());
        if unsent < self.unsent {
            taking.moved(self.unsent - unsent, || now);
            self.since = now;
        }
        self.unsent = unsent;
        let end = if unsent > 0 { taking.wait(|| now) } else { self.since + self.linger };
        if now >= end || self.read >= MOST {
            return Poll::Ready(unsent == 0 || self.read >= MOST);
        }
        let _ = self.alarm.poll(cx, end.min(now + STEP));
        Poll::Pending
    }
}
