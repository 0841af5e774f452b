//! An HTTP/1.1 client connection between and during its requests.
//!
//! Answers "which bytes belong to the request being served, and how long may silence last?". The
//! connection task owns the [`Line`]: it reads a head through it, lends it to the proxy engine for
//! one exchange ([`super::loan`]), and gets it back. The engine is given the head that passed the
//! gate and exactly the bytes of that request's body; what a pipelining client sent after it stays
//! here.

mod pause;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{BodyTracker, FramingError};
use super::head_gate::{BodyFraming, Span};
use super::parting::Parting;
use crate::net::{Alarm, Pace};
use crate::proxy::connection::{ClientFault, Connection};
use crate::tls::transport::Downstream as Transport;

/// Bytes read at a time while a head or a pipelined request arrives, and the most that is kept of
/// requests behind the one being served.
const INBOX_BYTES: usize = 4 * 1024;

/// Bytes of a response collected before they are sent, so that head and body leave in one packet;
/// a TLS record holds no more (RFC 8446 §5.1).
const OUTBOX_BYTES: usize = 16 * 1024;

/// Longest silences a [`Line`] bears; see [`Limits`](crate::config::process::Limits).
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two reads of a request's body.
    pub body: Duration,
    /// On an upgraded connection, in both directions together.
    pub upgrade: Duration,
    /// While the client takes nothing of a response.
    pub send: Duration,
    /// Bytes a second that bodies and responses need on average, while they are waited for.
    pub rate: Option<u64>,
}

/// An HTTP/1.1 client connection.
#[derive(Debug)]
pub struct Line {
    transport: Transport,
    connection: Arc<Connection>,
    patience: Patience,
    /// Read from the client and not yet handed on.
    inbox: BytesMut,
    /// How much of `inbox` may be handed on: the head, then what the tracker has approved.
    cleared: usize,
    body: BodyTracker,
    outbox: BytesMut,
    /// Bytes that had left through TLS when last looked at.
    left: u64,
    /// Bytes of the response taken from the engine in this exchange.
    taken: u64,
    at_end: bool,
    /// Whether the client's end means nothing in the present exchange: it pipelined, and may end its
    /// direction behind its last request.
    may_end: bool,
    read_alarm: Alarm,
    write_alarm: Alarm,
    /// How the client sends the body of the present exchange.
    sending: Pace,
    /// How it takes the response.
    taking: Pace,
    /// Last moment at which a byte of a tunnel moved in either direction.
    progress: Instant,
    /// Bytes of a tunnel that waited for the server when last looked at.
    waiting: usize,
    /// Bytes of a tunnel that the client has sent.
    tunnelled: u64,
}

impl Line {
    /// A connection before its first request; `inbox` has been read from it already.
    #[must_use]
    pub fn new(
        transport: Transport,
        inbox: BytesMut,
        connection: Arc<Connection>,
        patience: Patience,
    ) -> Self {
        Self {
            transport,
            connection,
            patience,
            inbox,
            cleared: 0,
            body: BodyTracker::new(BodyFraming::None),
            outbox: BytesMut::new(),
            left: 0,
            taken: 0,
            at_end: false,
            may_end: false,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
            sending: Pace::new(patience.body, patience.rate),
            taking: Pace::new(patience.send, patience.rate),
            progress: Instant::now(),
            waiting: 0,
            tunnelled: 0,
        }
    }

    /// The connection's facts and signals.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Bytes that have arrived and belong to no request yet.
    #[must_use]
    pub fn inbox(&self) -> &[u8] {
        &self.inbox
    }

    /// Reads more into the inbox. 0 is the client's end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.at_end {
            return Poll::Ready(Ok(0));
        }
        let mut chunk = [std::mem::MaybeUninit::uninit(); INBOX_BYTES];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.transport).poll_read(cx, &mut chunk))?;
        let read = chunk.filled();
        self.inbox.extend_from_slice(read);
        self.at_end = read.is_empty();
        Poll::Ready(Ok(read.len()))
    }

    /// Ready when `deadline` has passed.
    pub fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.read_alarm.poll(cx, deadline)
    }

    /// Begins an exchange: the first `leading` bytes are dropped, those up to `head_end` are the
    /// head, and the body follows as `framing` says.
    pub fn begin(&mut self, leading: usize, head_end: usize, framing: BodyFraming) {
        self.inbox.advance(leading);
        self.cleared = head_end - leading;
        self.body = BodyTracker::new(framing);
        self.taken = 0;
        self.connection.note_full(false);
        self.sending = Pace::new(self.patience.body, self.patience.rate);
        self.taking = Pace::new(self.patience.send, self.patience.rate);
    }

    /// Writes other bytes over a stretch of the inbox, which may be longer.
    pub fn replace(&mut self, span: Span, bytes: &[u8]) {
        let mut inbox = BytesMut::with_capacity(self.inbox.len() + bytes.len());
        inbox.extend_from_slice(&self.inbox[..span.start]);
        inbox.extend_from_slice(bytes);
        inbox.extend_from_slice(&self.inbox[span.end..]);
        self.inbox = inbox;
    }

    /// Ends an exchange; what has arrived already is the next one's.
    pub fn end(&mut self) {
        // Whether the end was seen by now is chance: the engine stops reading when the answer comes.
        self.may_end = self.at_end || !self.inbox.is_empty();
    }

    /// Whether head and body have been handed on completely, so that the next byte begins the
    /// next request.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        self.cleared == 0 && self.body.is_done()
    }

    /// Whether the engine has written anything in this exchange.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.taken > 0
    }

    /// Whether the client sent something that no request has taken.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.inbox.is_empty() || !self.body.is_done()
    }

    /// Appends to what is sent next.
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    /// Gives the buffers' memory back while the connection idles.
    pub fn shrink(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        if self.outbox.is_empty() {
            self.outbox = BytesMut::new();
        }
    }

    /// Sends what the outbox holds.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            match Pin::new(&mut self.transport).poll_write(cx, &self.outbox) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => {
                    self.outbox.advance(sent);
                    self.took(sent);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_send_patience(cx),
            }
        }
        // With TLS this is where a write waits.
        match Pin::new(&mut self.transport).poll_flush(cx) {
            Poll::Pending => self.poll_send_patience(cx),
            Poll::Ready(flushed) => {
                self.connection.note_full(false);
                self.took(0);
                Poll::Ready(flushed)
            }
        }
    }

    /// Sends what is left, says goodbye and, where the client may still be sending, reads on for a
    /// moment: closing at once would make the kernel reset the connection and take the answer with
    /// it (RFC 9112 §9.6).
    pub async fn close(mut self, linger: Duration) {
        let has_unread = self.has_unread();
        // What comes before the last words may be megabytes. Who is too slow is forgotten already.
        if std::future::poll_fn(|cx| self.poll_drain(cx)).await.is_err() {
            return;
        }
        let end = std::future::poll_fn(|cx| Pin::new(&mut self.transport).poll_shutdown(cx));
        // A client that is gone, or does not leave in time, is dropped like any other.
        if matches!(tokio::time::timeout(linger, end).await, Ok(Ok(())))
            && has_unread
            && !self.at_end
        {
            let mut parting = Parting::new(linger, Instant::now());
            let (transport, taking) = (&mut self.transport, &mut self.taking);
            if !std::future::poll_fn(|cx| parting.poll(cx, transport, taking)).await {
                return self.transport.abandon();
            }
        }
        self.transport.leave(self.patience.send);
    }

    /// What the engine reads: head, body, then the client's end or an upgraded connection's bytes.
    pub fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever reads is about to wait: what was written so far should leave first.
        if !self.outbox.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        if self.cleared > 0 {
            let count = self.cleared.min(buf.remaining());
            buf.put_slice(&self.inbox[..count]);
            self.inbox.advance(count);
            self.cleared -= count;
            return Poll::Ready(Ok(()));
        }
        if self.connection.is_tunnel() {
            return self.poll_tunnel(cx, buf);
        }
        match self.body.is_done() {
            true => self.poll_next_request(cx),
            false if self.connection.keeps_body() => self.poll_end(cx),
            false => self.poll_body(cx, buf),
        }
    }

    /// Nobody takes the body yet: it waits here as far as there is room, and what can happen is that
    /// the client goes away.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.inbox.len() < INBOX_BYTES {
            match self.poll_fill(cx) {
                // As behind a body that has been taken.
                Poll::Ready(Ok(0)) if self.may_end || self.has_more_than_body() => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => self.progress = Instant::now(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// Whether a next request, or something that is no body, has arrived behind this one's body.
    fn has_more_than_body(&self) -> bool {
        self.body.clone().advance(&self.inbox).map_or(true, |taken| taken < self.inbox.len())
    }

    /// The request is complete: all that can still happen is that the client goes away, or that
    /// it sends the next one, which waits here.
    fn poll_next_request(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.take_interrupt() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        while self.inbox.len() < INBOX_BYTES {
            match self.poll_fill(cx) {
                // A client that pipelined and then half-closed still wants its answers, the last
                // one too. Whether it is gone altogether shows when the next one is written.
                Poll::Ready(Ok(0)) if self.may_end || !self.inbox.is_empty() => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        let Some(deadline) = self.connection.deadline() else { return Poll::Pending };
        ready!(self.read_alarm.poll(cx, deadline));
        self.connection.fault(ClientFault::Deadline);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            // "Read nothing" would pass for the client's end.
            return Poll::Ready(Ok(()));
        }
        if self.connection.backlog().poll_none(cx).is_pending() {
            return self.poll_pause(cx);
        }
        if !self.inbox.is_empty() {
            let window = self.inbox.len().min(buf.remaining());
            let count = self.track(window, 0, buf)?;
            buf.put_slice(&self.inbox[..count]);
            self.inbox.advance(count);
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        match Pin::new(&mut self.transport).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return self.poll_body_patience(cx),
        }
        let read = buf.filled().len() - start;
        self.sending.moved(read as u64, Instant::now);
        if read == 0 {
            self.at_end = true;
            self.connection.fault(ClientFault::Gone);
            return Poll::Ready(Ok(()));
        }
        let count = self.track(0, start, buf)?;
        self.inbox.extend_from_slice(&buf.filled()[start + count..]);
        buf.set_filled(start + count);
        Poll::Ready(Ok(()))
    }

    /// How many of the next bytes belong to the body: of the inbox's first `window`, or, where
    /// that is 0, of what `buf` holds from `start`.
    fn track(&mut self, window: usize, start: usize, buf: &ReadBuf<'_>) -> io::Result<usize> {
        let bytes = if window > 0 { &self.inbox[..window] } else { &buf.filled()[start..] };
        self.body.advance(bytes).map_err(|error: FramingError| {
            self.connection.fault(ClientFault::Framing(error.status(), error.reason()));
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }

    fn poll_tunnel(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.connection.backlog().poll_none(cx).is_pending() {
            return self.poll_pause(cx);
        }
        if !self.inbox.is_empty() {
            let count = self.inbox.len().min(buf.remaining());
            buf.put_slice(&self.inbox[..count]);
            self.inbox.advance(count);
            self.tunnelled += count as u64;
            return Poll::Ready(Ok(()));
        }
        if self.at_end {
            return self.poll_half(cx);
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.transport).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() == before => {
                self.at_end = true;
                self.progress = Instant::now();
                self.poll_half(cx)
            }
            Poll::Ready(result) => {
                self.progress = Instant::now();
                self.tunnelled += (buf.filled().len() - before) as u64;
                Poll::Ready(result)
            }
            Poll::Pending => {
                let deadline = self.progress + self.patience.upgrade;
                ready!(self.read_alarm.poll(cx, deadline));
                self.connection.fault(ClientFault::Idle);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    fn poll_body_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gap = self.sending.wait(Instant::now);
        let (end, fault) = match self.connection.deadline() {
            Some(deadline) if deadline < gap => (deadline, ClientFault::Deadline),
            _ => (gap, ClientFault::SlowBody),
        };
        ready!(self.read_alarm.poll(cx, end));
        self.connection.fault(fault);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_send_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.connection.is_tunnel() {
            self.taking.ignore_rate();
        }
        self.connection.note_full(true);
        self.took(0);
        let end = self.taking.wait(Instant::now);
        ready!(self.write_alarm.poll(cx, end));
        self.connection.fault(ClientFault::SlowReader);
        self.transport.abandon();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes bytes of the response from the engine.
    pub fn poll_response(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.outbox.len() + bytes.len() > OUTBOX_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        let count = if bytes.len() < OUTBOX_BYTES {
            self.outbox.extend_from_slice(bytes);
            bytes.len()
        } else {
            match Pin::new(&mut self.transport).poll_write(cx, bytes) {
                Poll::Ready(count) => {
                    let count = count?;
                    self.connection.note_full(false);
                    self.took(count);
                    count
                }
                Poll::Pending => {
                    ready!(self.poll_send_patience(cx))?;
                    0
                }
            }
        };
        self.taken += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Notes that so many bytes of a response left. Those that TLS took have not yet: there it is
    /// what came out below that counts.
    fn took(&mut self, bytes: usize) {
        let bytes = match self.transport.written() {
            Some(written) => written - std::mem::replace(&mut self.left, written),
            None => bytes as u64,
        };
        if bytes == 0 {
            return;
        }
        self.taking.moved(bytes, Instant::now);
        if self.connection.is_tunnel() {
            self.progress = Instant::now();
        }
    }
}
