//! A connection to an endpoint while one request uses it: deadlines on silence, and the way back
//! to the endpoint's idle connections.
//!
//! Engine-neutral: [`super::peer`] shows it to pingora as a socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::attempt::{Attempt, Expired};
use super::flight;
use crate::net::Alarm;

/// The bytes to and from an endpoint.
pub use crate::tls::transport::Upstream as Transport;

impl Transport {
    /// Whether the server neither closed it nor sent anything unasked, either of which makes it
    /// unfit for another request.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut buf = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        // Outside tokio's budget: a spent budget says "pending", which would pass for quiet.
        let read = tokio::task::unconstrained(std::future::poll_fn(|cx| {
            Pin::new(&mut *self).poll_read(cx, &mut buf)
        }));
        std::pin::pin!(read).poll(&mut cx).is_pending()
    }
}

/// A connection to an endpoint in the hands of one attempt.
///
/// When the attempt is over and the engine found the exchange complete, [`Wire::release`] marks it
/// and dropping it hands the transport back to the endpoint; dropped otherwise, it closes.
#[derive(Debug)]
pub struct Wire {
    transport: Option<Transport>,
    attempt: Arc<Attempt>,
    alarm: Alarm,
    /// Since when the engine has waited in vain, and for which limit; `None` while bytes move or it
    /// does not wait.
    silent_since: Option<(Instant, Expired)>,
    ahead: Ahead,
    /// Pieces of the response's body that had passed when last looked at, and bytes read since.
    unpassed: (u32, usize),
    /// Completed flushes: the engine's first follows the request's head, its second the end of the
    /// body. No more than that are counted.
    flushes: u8,
    /// Who waits for the second.
    reader: Option<Waker>,
    released: bool,
}

/// What was read while a write waited.
///
/// # Why
/// The engine does not read while it writes. A server that sends its response while it still
/// reads the request stops reading when nobody takes what it says, and both sides would wait for
/// each other.
#[derive(Debug, Default)]
struct Ahead {
    bytes: BytesMut,
    /// What follows `bytes`: the end of the stream, or why there is no more.
    end: Option<io::Result<()>>,
}

/// Most that is read ahead. The kernel lets a writer go on when a third of its send buffer is
/// free, 4 MiB at most as Linux comes.
const AHEAD_BYTES: usize = 2 << 20;

/// Bytes read ahead at a time.
const AHEAD_STEP: usize = 16 << 10;

impl Wire {
    /// Lends `transport` to `attempt`. A new connection has a new `alarm`.
    #[must_use]
    pub fn new(transport: Transport, alarm: Alarm, attempt: Arc<Attempt>) -> Self {
        Self {
            transport: Some(transport),
            attempt,
            alarm,
            silent_since: None,
            ahead: Ahead::default(),
            unpassed: (0, 0),
            flushes: 0,
            reader: None,
            released: false,
        }
    }

    /// Marks that the exchange is complete on both sides, if the line is quiet and nobody's own.
    pub fn release(&mut self) {
        self.released = !self.attempt.is_personal()
            && self.ahead.is_empty()
            && self.transport.as_mut().is_some_and(Transport::is_quiet);
    }

    fn transport(&mut self) -> io::Result<Pin<&mut Transport>> {
        self.transport.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether the response may not be read yet. The engine takes the end of a request's body for
    /// the end of the tunnel when it learns of a 101 first, so it learns of it second.
    fn must_wait(&self) -> bool {
        self.attempt.asks_upgrade() && self.flushes < 2
    }

    /// The moment silence is cut, and by which limit. Silence begins when it is first waited for:
    /// while the engine is busy with a slow client, nobody listens.
    fn deadline(&mut self, is_write: bool) -> Option<(Instant, Expired)> {
        let silence = self.attempt.patience(is_write).map(|(limit, which)| {
            let same = self.silent_since.filter(|(_, before)| *before == which);
            let (since, _) =
                *self.silent_since.insert(same.unwrap_or_else(|| (Instant::now(), which)));
            (since + limit, which)
        });
        if silence.is_none() {
            self.silent_since = None;
        }
        let whole = self.attempt.exchange_deadline.map(|end| (end, Expired::Exchange));
        match (silence, whole) {
            (Some(silence), Some(whole)) => Some(if whole.0 < silence.0 { whole } else { silence }),
            (silence, whole) => silence.or(whole),
        }
    }

    /// Ready with the error when the deadline has passed, now or at an earlier wait; otherwise the
    /// task is woken when it may have.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, is_write: bool) -> Poll<io::Error> {
        if self.attempt.expired().is_none() {
            if !is_write {
                // The phase may change, in a hook of the same task, after this was polled last.
                self.attempt.watch_patience(cx.waker());
            }
            let Some((deadline, which)) = self.deadline(is_write) else { return Poll::Pending };
            ready!(self.alarm.poll(cx, deadline));
            self.attempt.expire(which);
        }
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// What becomes of an attempt to write.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.attempt.hold(outcome.is_pending());
        match outcome {
            Poll::Ready(Ok(done)) => {
                self.silent_since = None;
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => {
                // The server gets no more of the request; it may have answered all the same.
                self.attempt.note_uploaded();
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                self.read_ahead(cx);
                self.poll_deadline(cx, true).map(Err)
            }
        }
    }

    /// Notes that the server has said something. A part of a head is not what `timeouts.response`
    /// waits for, so it does not begin anew.
    fn heard(&mut self) {
        self.attempt.note_heard();
        self.attempt.end_watch();
        self.silent_since = self.silent_since.filter(|(_, which)| *which == Expired::Response);
    }

    /// Whether the engine may read, and how much at most: no more than the client takes. Pending
    /// until that changes, during which no silence of the server counts.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<usize> {
        let mut most = flight::LEAST;
        if let Some(flight) = self.attempt.has_flight() {
            if flight.poll_room(cx).is_pending() {
                self.silent_since = None;
                return Poll::Pending;
            }
            most = flight.room();
        }
        let passed = self.attempt.passed();
        if self.unpassed.0 != passed {
            self.unpassed = (passed, 0);
        }
        if self.unpassed.1 >= most {
            // What was read has yet to pass, if it was no head and no framing: that is done by the
            // same task, once this returns.
            self.unpassed.1 = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready((most - self.unpassed.1).max(flight::LEAST / 2))
    }

    /// Takes what the server says while it does not take what we say.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        let Some(transport) = &mut self.transport else { return };
        if self.ahead.read(Pin::new(transport), cx) {
            self.heard();
        }
    }
}

impl Ahead {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.end.is_none()
    }

    /// Reads what there is. Returns whether there was anything; if not, the task is woken when
    /// there is.
    fn read(&mut self, mut transport: Pin<&mut Transport>, cx: &mut Context<'_>) -> bool {
        let before = self.bytes.len();
        while self.end.is_none() && self.bytes.len() < AHEAD_BYTES {
            let mut step = [std::mem::MaybeUninit::uninit(); AHEAD_STEP];
            let mut step = ReadBuf::uninit(&mut step);
            match transport.as_mut().poll_read(cx, &mut step) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if step.filled().is_empty() => self.end = Some(Ok(())),
                Poll::Ready(Ok(())) => self.bytes.extend_from_slice(step.filled()),
                Poll::Ready(Err(error)) => self.end = Some(Err(error)),
            }
        }
        self.bytes.len() > before
    }

    /// Gives back what was read, or how it ended; `None` when that is all.
    fn take(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
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

/// Reads up to `most` bytes, or twice that where the buffer ends there. Returns how many.
fn read_at_most(
    transport: Pin<&mut Transport>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let before = buf.filled().len();
    if buf.remaining() / 2 < most {
        ready!(transport.poll_read(cx, buf))?;
    } else {
        let mut part = transport.get_mut().take(most as u64);
        ready!(Pin::new(&mut part).poll_read(cx, buf))?;
    }
    Poll::Ready(Ok(buf.filled().len() - before))
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.must_wait() {
            this.reader = Some(cx.waker().clone());
            return this.poll_deadline(cx, false).map(Err);
        }
        if let Some(ahead) = this.ahead.take(buf) {
            return Poll::Ready(ahead);
        }
        let most = if this.attempt.is_tunnel() { usize::MAX } else { ready!(this.poll_room(cx)) };
        match read_at_most(this.transport()?, cx, buf, most) {
            Poll::Ready(Ok(count)) => {
                if count > 0 {
                    this.heard();
                    this.unpassed.1 += count;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_deadline(cx, false).map(Err),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.transport()?.poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(_))) {
            this.attempt.note_sent();
        }
        this.written(cx, written)
    }

    /// With TLS this is where a write waits.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = this.transport()?.poll_flush(cx);
        if flushed.is_ready() {
            this.flushes = this.flushes.saturating_add(1);
            if let Some(reader) = this.reader.take_if(|_| this.flushes > 1) {
                reader.wake();
            }
        }
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().transport()?.poll_shutdown(cx)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.released {
            return;
        }
        if let Some(transport) = self.transport.take() {
            let limit = self.attempt.pool.spec().limits.connections;
            let alarm = std::mem::take(&mut self.alarm);
            let announcement = self.attempt.announcement();
            self.attempt.endpoint().keep(transport, alarm, limit, announcement);
        }
    }
}
