//! A connection to an endpoint while one request uses it: deadlines on silence, and the way back
//! to the endpoint's idle connections.
//!
//! Engine-neutral: [`super::peer`] shows it to pingora as a socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::ahead::Ahead;
use super::attempt::{Attempt, Expired};
use super::flight;
use super::queue::{LATE, MOST, Queue};
use crate::net::Alarm;

/// The bytes to and from an endpoint.
pub use crate::tls::transport::Upstream as Transport;

/// A connection to an endpoint in the hands of one attempt.
///
/// When the attempt is over and the engine found the exchange complete, [`Wire::release`] marks it
/// and dropping it hands the transport back to the endpoint; dropped otherwise, it closes.
#[derive(Debug)]
pub struct Wire {
    transport: Option<Transport>,
    attempt: Arc<Attempt>,
    alarm: Alarm,
    /// Since when the engine has waited for the server to say something, and for which limit; `None`
    /// while bytes move or it does not wait.
    silent_since: Option<(Instant, Expired)>,
    queue: Queue,
    ahead: Ahead,
    unpassed: Unpassed,
    /// Since when the engine may have something of the response that it has yet to relay, and for how
    /// many pieces of the request: it picks at random what it does next.
    given: Option<(Instant, u8)>,
    /// Completed flushes: the engine's first follows the request's head, its second the end of the
    /// body. No more than that are counted.
    flushes: u8,
    /// Who waits for the second.
    reader: Option<Waker>,
    /// Bytes that the engine has written into a tunnel, and whether their end has been passed on.
    tunnelled: u64,
    is_shut: bool,
    released: bool,
}

/// What was read and has not left the engine's queue, as far as can be known.
#[derive(Debug, Default)]
struct Unpassed {
    /// Pieces of the response's body that had passed when last looked at.
    passed: u32,
    /// Bytes read since.
    bytes: usize,
    /// How often they were given a turn to pass since, in vain.
    turns: u8,
}

/// Turns after which what has not passed will not do so before more is read: a part of a head or of
/// a chunk's framing. The halves of the engine's work take theirs in alternating order.
const TURNS: u8 = 3;

/// How much of a request is queued at once whoever sends it.
const EASY: usize = 64 << 10;

/// How much longer a piece of the response waits for each byte of the request that is queued, if its
/// client cannot be kept from sending: with a full queue two seconds.
const DELAY: Duration = Duration::from_micros(2);

impl Wire {
    /// Lends `transport` to `attempt`. A new connection has a new `alarm`.
    #[must_use]
    pub fn new(transport: Transport, alarm: Alarm, attempt: Arc<Attempt>) -> Self {
        Self {
            transport: Some(transport),
            attempt,
            alarm,
            silent_since: None,
            queue: Queue::default(),
            ahead: Ahead::default(),
            unpassed: Unpassed::default(),
            given: None,
            flushes: 0,
            reader: None,
            tunnelled: 0,
            is_shut: false,
            released: false,
        }
    }

    /// Marks that the exchange is complete on both sides, if the line is quiet and nobody's own.
    pub fn release(&mut self) {
        self.released = !self.attempt.is_personal()
            && self.ahead.is_empty()
            && self.queue.is_idle()
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
    fn deadline(&mut self) -> Option<(Instant, Expired)> {
        let silence = self.attempt.patience(false).map(|(limit, which)| {
            let same = self.silent_since.filter(|(_, before)| *before == which);
            let (since, _) =
                *self.silent_since.insert(same.unwrap_or_else(|| (Instant::now(), which)));
            (since + limit, which)
        });
        if silence.is_none() {
            self.silent_since = None;
        }
        self.first(silence)
    }

    /// What comes first: the end of `patience`, or that of the whole exchange.
    fn first(&self, patience: Option<(Instant, Expired)>) -> Option<(Instant, Expired)> {
        let whole = self.attempt.exchange_deadline.map(|end| (end, Expired::Exchange));
        [patience, whole].into_iter().flatten().min_by_key(|(end, _)| *end)
    }

    /// Ready with the error when the deadline has passed, now or at an earlier wait; otherwise the
    /// task is woken when it may have.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.attempt.expired().is_none() {
            // The phase may change, in a hook of the same task, after this was polled last.
            self.attempt.watch_patience(cx.waker());
            let Some((deadline, which)) = self.deadline() else { return Poll::Pending };
            ready!(self.alarm.poll(cx, deadline));
            self.attempt.expire(which);
        }
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// The server does not take what it is sent: ready with the error when it has had its time. Only
    /// what it takes counts, not what it says. A response that has begun goes on without the rest of
    /// the request, which its client may send on; in a tunnel it is the client's side that waits for
    /// so long.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.attempt.expired().is_none() {
            let mut since = *self.queue.stuck_since.get_or_insert_with(Instant::now);
            let mut most = Duration::MAX;
            if self.attempt.is_answered() {
                since = since.max(*self.queue.late_since.get_or_insert_with(Instant::now));
                most = LATE;
            }
            let patience = self.attempt.patience(true);
            let patience = patience.map(|(limit, which)| (since + limit.min(most), which));
            let Some((deadline, which)) = self.first(patience) else { return Poll::Pending };
            ready!(self.alarm.poll(cx, deadline));
            self.cut();
            if which == Expired::Read {
                self.queue.drop_more();
            } else {
                self.attempt.expire(which);
            }
        }
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// Whether what there is to write goes nowhere. With an error the engine would listen to the client
    /// no more, though it has still to relay to it. Once it has done so there is nothing to wait for.
    fn drops_more(&self) -> bool {
        self.queue.drops_more() && !self.attempt.is_answered()
    }

    /// The server gets no more of the request; it may have answered all the same.
    fn cut(&mut self) {
        self.queue.cut();
        self.attempt.hold(false);
        self.attempt.note_uploaded();
        self.tell();
    }

    /// Tells the client's side how much it waits for.
    fn tell(&self) {
        if let Some(backlog) = self.attempt.backlog()
            && !self.attempt.is_answered()
        {
            backlog.set(self.queue.len());
        }
    }

    /// Notes that the server has taken something.
    fn moved(&mut self) {
        self.silent_since = None;
        self.queue.stuck_since = None;
    }

    /// Sends what is queued. Ready when nothing is any more, or nothing more can be sent.
    fn poll_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let transport = self.transport.as_mut().map(Pin::new);
        let Some(transport) = transport else { return Poll::Ready(Ok(())) };
        let (has_moved, sent) = self.queue.poll_send(transport, cx);
        if has_moved {
            self.attempt.note_sent();
            self.moved();
        }
        match &sent {
            Poll::Ready(Ok(())) => self.attempt.hold(false),
            Poll::Ready(Err(_)) => self.cut(),
            Poll::Pending => {}
        }
        self.tell();
        sent
    }

    /// The same beside a read, which goes on whether or not the server takes what it is sent.
    fn send_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.queue.is_cut()
            && self.poll_queue(cx).is_pending()
            && let Poll::Ready(error) = self.poll_stuck(cx)
            && self.attempt.expired().is_some()
        {
            return Err(error);
        }
        Ok(())
    }

    /// Ends our direction of a tunnel where the client has ended its own, which the engine is not told.
    fn end_half(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let has_ended = self.attempt.backlog().is_some_and(|it| it.ends_at(self.tunnelled));
        if has_ended && !self.is_shut && self.queue.is_idle() {
            let Poll::Ready(ended) = self.transport()?.poll_shutdown(cx) else { return Ok(()) };
            self.is_shut = true;
            ended?;
        }
        Ok(())
    }

    /// Writes past the queue, which is empty.
    fn poll_pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut transport = self.transport()?;
        let before = transport.written();
        let written = transport.as_mut().poll_write(cx, bytes);
        let is_held = transport.holds_back();
        let has_moved = transport.written() != before;
        if has_moved || (written.is_ready() && !is_held) {
            self.moved();
        }
        match &written {
            Poll::Ready(Ok(count)) => {
                self.queue.pass(is_held);
                self.attempt.note_sent();
                self.attempt.hold(is_held);
                self.tunnelled += if self.attempt.is_tunnel() { *count as u64 } else { 0 };
            }
            Poll::Ready(Err(_)) => self.cut(),
            Poll::Pending => {}
        }
        written
    }

    /// Takes bytes that the server does not, so that the engine goes on to relay what the server
    /// says.
    fn poll_take(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.attempt.hold(true);
        if let Poll::Ready(error) = self.poll_stuck(cx) {
            return Poll::Ready(if self.drops_more() { Ok(bytes.len()) } else { Err(error) });
        }
        let count = bytes.len().min(MOST.saturating_sub(self.queue.len()));
        if count == 0 || self.attempt.is_answered() || !self.may_take(cx) {
            self.read_ahead(cx);
            return Poll::Pending;
        }
        self.queue.push(&bytes[..count]);
        self.tunnelled += if self.attempt.is_tunnel() { count as u64 } else { 0 };
        self.tell();
        Poll::Ready(Ok(count))
    }

    /// Whether more is to be queued. A client that can be kept from sending has little under way.
    /// Otherwise each piece that is queued must have something to relay in return: what it is
    /// [worth](Queue::worth), or what has waited for long enough.
    fn may_take(&mut self, cx: &mut Context<'_>) -> bool {
        let queued = self.queue.len();
        if self.attempt.backlog().is_some() || queued < EASY {
            return true;
        }
        self.read_ahead(cx);
        if !self.ahead.has_more_than(self.queue.worth()) {
            let delay = DELAY * u32::try_from(queued).unwrap_or(u32::MAX);
            let given = self.given.map(|(since, _)| since + delay / 8);
            let since = self.ahead.since().map(|since| since + delay);
            let Some(end) = since.or(given) else { return false };
            if self.alarm.poll(cx, end).is_pending() {
                return false;
            }
        }
        self.ahead.wait_again();
        self.given = self.given.and_then(|(_, left)| Some((Instant::now(), left.checked_sub(1)?)));
        true
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
        let passed = self.attempt.passed();
        if self.unpassed.passed != passed {
            self.unpassed = Unpassed { passed, ..Unpassed::default() };
        }
        if let Some(flight) = self.attempt.has_flight()
            && flight.poll_room(cx, self.unpassed.bytes).is_pending()
        {
            self.silent_since = None;
            self.queue.stuck_since = None;
            return Poll::Pending;
        }
        let Unpassed { bytes, turns, .. } = &mut self.unpassed;
        let most = match *turns {
            // Or a piece too small to be counted is not taken by the client.
            TURNS if *bytes < flight::SMALL => flight::SMALL,
            TURNS => 0,
            _ => self.attempt.room(*bytes),
        };
        if most > 0 {
            return Poll::Ready(most);
        }
        if *turns < TURNS {
            *turns += 1;
        } else {
            *bytes = 0;
        }
        // It passes by the work of this same task.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what the server says while it does not take what we say.
    fn read_ahead(&mut self, cx: &mut Context<'_>) {
        let Some(transport) = &mut self.transport else { return };
        if self.ahead.read(Pin::new(transport), cx, self.queue.worth()) {
            self.heard();
        }
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
        if !this.queue.is_idle() {
            this.send_on(cx)?;
        }
        if this.must_wait() {
            this.reader = Some(cx.waker().clone());
            return this.poll_deadline(cx).map(Err);
        }
        if let Some(ahead) = this.ahead.take(buf) {
            this.given = Some((Instant::now(), 8));
            return Poll::Ready(ahead);
        }
        let is_tunnel = this.attempt.is_tunnel();
        if is_tunnel {
            this.end_half(cx)?;
        }
        let most = if is_tunnel { usize::MAX } else { ready!(this.poll_room(cx)) };
        match read_at_most(this.transport()?, cx, buf, most) {
            Poll::Ready(Ok(count)) => {
                if count > 0 {
                    this.heard();
                    if this.queue.len() >= EASY {
                        this.given = Some((Instant::now(), 8));
                    }
                    this.unpassed.bytes += count;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_deadline(cx).map(Err),
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
        if this.drops_more() {
            return Poll::Ready(Ok(buf.len()));
        }
        if !this.queue.is_idle()
            && let Poll::Ready(Err(error)) = this.poll_queue(cx)
        {
            return Poll::Ready(Err(error));
        }
        if this.queue.len() == 0
            && let Poll::Ready(written) = this.poll_pass(cx, buf)
        {
            return Poll::Ready(written);
        }
        this.poll_take(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.drops_more() {
            return Poll::Ready(Ok(()));
        }
        this.queue.flush();
        match this.poll_queue(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                this.attempt.hold(true);
                if let Poll::Ready(error) = this.poll_stuck(cx) {
                    return Poll::Ready(if this.drops_more() { Ok(()) } else { Err(error) });
                }
                if this.attempt.is_answered() {
                    // Nothing is to be relayed meanwhile.
                    this.read_ahead(cx);
                    return Poll::Pending;
                }
            }
        }
        this.flushes = this.flushes.saturating_add(1);
        if let Some(reader) = this.reader.take_if(|_| this.flushes > 1) {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.queue.is_owed() {
            // The engine has done its part. What is left to send is sent behind its back.
            return Poll::Ready(Ok(()));
        }
        this.transport()?.poll_shutdown(cx)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(backlog) = self.attempt.backlog() {
            backlog.set(0);
        }
        let Some(transport) = self.transport.take() else { return };
        let has_ended = self.attempt.is_answered() || self.attempt.is_tunnel();
        if self.queue.is_owed() && has_ended {
            // Whoever sent it has its answer, or is gone, as if the kernel had taken it.
            std::mem::take(&mut self.queue).send_rest(transport, Arc::clone(&self.attempt));
        } else if self.released {
            let limit = self.attempt.pool.spec().limits.connections;
            let alarm = std::mem::take(&mut self.alarm);
            let announcement = self.attempt.announcement();
            self.attempt.endpoint().keep(transport, alarm, limit, announcement);
        }
    }
}
