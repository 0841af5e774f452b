//! The bytes of an HTTP/2 connection on both sides of the h2 layer: what clients send is watched for
//! floods and faults, what we send is collected.
//!
//! Called by [`super::http2`], which gives the h2 layer an [`H2Transport`] and keeps its [`Outlet`].
//! Changes nothing that passes but the code of a GOAWAY (see [`FrameWatch::send`]).
//!
//! # Why
//! The h2 layer flushes after every DATA frame, so that a small answer would be two writes, with TLS
//! two records, and answers that become ready together as many times that. Here they leave together
//! when the connection's task has nothing more to say for the moment.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::frame_watch::FrameWatch;
use super::parting::Parting;
use crate::net::Pace;
use crate::tls::transport::Downstream as Transport;

/// Bytes collected before they leave in any case: four of the frames that clients take as they come
/// (RFC 9113 §6.5.2).
const OUTBOX_BYTES: usize = 4 * (16 * 1024 + 9);

/// Bytes there is room for at first; most answers are small.
const SMALL_OUTBOX_BYTES: usize = 4 * 1024;

/// Most that a TLS record holds (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// The client's bytes as the engine's h2 layer sees them.
#[derive(Debug)]
pub(super) struct H2Transport(Arc<Mutex<Carrier>>);

/// The other end of an [`H2Transport`]: lets go what it has collected.
#[derive(Debug)]
pub(super) struct Outlet(Arc<Mutex<Carrier>>);

#[derive(Debug)]
struct Carrier {
    transport: Transport,
    /// Comes before what the transport brings.
    read: BytesMut,
    watch: FrameWatch,
    /// Whom to tell that the budget is spent; taken when told. Nothing is read after that.
    flood: Option<Arc<Notify>>,
    /// Collected, and not sent. With TLS no more than is too little for a record.
    outbox: BytesMut,
    /// Whether there is TLS, so that `outbox` becomes records before it is sent.
    can_seal: bool,
    /// Bytes that became records, not all of which have left.
    sealed: usize,
    /// Whether something was collected that may not have left.
    has_more: bool,
    /// Whether those who might add to it have had their turn.
    has_waited: bool,
    /// How the client takes it.
    taking: Pace,
    /// Whether the client is waited for with it.
    is_blocked: bool,
    /// When it last ceased to be.
    rested: Option<Instant>,
    /// Bytes that left without TLS.
    sent: u64,
    /// Bytes that had left when last looked at.
    left: u64,
    /// Whether the h2 layer has read all there was.
    is_reading: bool,
    /// Since when it reads nothing, for want of room to write.
    deaf_since: Option<Instant>,
}

impl H2Transport {
    /// A connection from which `read` has been read already, whose client is `taking` what it gets.
    /// `flood` is rung when it has spent its frame budget.
    #[must_use]
    pub(super) fn new(
        mut transport: Transport,
        read: BytesMut,
        flood: Arc<Notify>,
        taking: Pace,
    ) -> (Self, Outlet) {
        let carrier = Arc::new(Mutex::new(Carrier {
            can_seal: transport.can_seal(),
            left: transport.written().unwrap_or(0),
            transport,
            read,
            watch: FrameWatch::new(Instant::now()),
            flood: Some(flood),
            outbox: BytesMut::new(),
            sealed: 0,
            has_more: false,
            has_waited: false,
            taking,
            is_blocked: false,
            rested: None,
            sent: 0,
            is_reading: false,
            deaf_since: None,
        }));
        (Self(Arc::clone(&carrier)), Outlet(carrier))
    }
}

impl Outlet {
    /// When the head began to arrive that is arriving, if one is and is waited for.
    pub(super) fn head_since(&self) -> Option<Instant> {
        let carrier = lock(&self.0);
        if carrier.deaf_since.is_some() { None } else { carrier.watch.block_since() }
    }

    /// When patience ends with a client that does not take what has not left us.
    pub(super) fn patience(&self) -> Option<Instant> {
        let mut carrier = lock(&self.0);
        carrier.is_blocked.then(|| carrier.taking.wait(Instant::now))
    }

    /// When the client, having been waited for, had taken all.
    pub(super) fn rested(&self) -> Option<Instant> {
        lock(&self.0).rested
    }

    /// The connection is about to end: what the client does not take is forgotten at once where
    /// patience with it is over, and otherwise once it has taken nothing for `patience`.
    pub(super) fn leave(&self, patience: Duration) {
        let is_over = self.patience().is_some_and(|end| end <= Instant::now());
        let carrier = lock(&self.0);
        if is_over {
            carrier.transport.abandon();
        } else {
            carrier.transport.leave(patience);
        }
    }

    /// Ends our direction behind what was said, and waits for the client to take it; for `linger`
    /// more where only the client can tell that it has.
    pub(super) async fn part(&self, linger: Duration) {
        let mut parting = Parting::new(linger, Instant::now());
        let mut has_ended = false;
        std::future::poll_fn(|cx| {
            let mut carrier = lock(&self.0);
            let carrier = &mut *carrier;
            if !has_ended {
                match Pin::new(&mut carrier.transport).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => has_ended = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            let parted = ready!(parting.poll(cx, &mut carrier.transport, &mut carrier.taking));
            carrier.is_blocked = !parted;
            Poll::Ready(())
        })
        .await;
    }

    /// Polls `work`, which drives the h2 layer, and sends what was collected whenever it waits.
    ///
    /// Streams that are ready to answer get their turn first: their tasks stand in the same queue.
    pub(super) async fn sending<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            if polled.is_ready() {
                return polled;
            }
            let mut carrier = lock(&self.0);
            if carrier.has_more && !std::mem::replace(&mut carrier.has_waited, true) {
                cx.waker().wake_by_ref();
            } else {
                // What goes wrong shows again when the h2 layer reads or writes next.
                let was_blocked = carrier.is_blocked;
                let _ = carrier.poll_send(cx);
                if was_blocked && !carrier.is_blocked {
                    // `work` may wait for just that.
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        })
        .await
    }
}

fn lock(carrier: &Mutex<Carrier>) -> MutexGuard<'_, Carrier> {
    carrier.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Carrier {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buf);
        }
        let count = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(count));
        Poll::Ready(Ok(()))
    }

    /// The h2 layer reads: what waited meanwhile was not the client's doing.
    fn hear(&mut self) {
        if let Some(since) = self.deaf_since.take() {
            let now = Instant::now();
            self.watch.excuse(now - since, now);
        }
    }

    fn raise_flood(&mut self) {
        if let Some(flood) = self.flood.take() {
            flood.notify_one();
        }
    }

    /// Collects what `parts` hold. All of each, so that one call's worth more than [`OUTBOX_BYTES`]
    /// may be collected.
    fn collect(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let count = parts.iter().map(|part| part.len()).sum();
        if self.sealed + self.outbox.len() + count > OUTBOX_BYTES
            && self.poll_make_room(cx)?.is_pending()
        {
            if !self.is_reading {
                self.deaf_since.get_or_insert_with(Instant::now);
            }
            return Poll::Pending;
        }
        self.has_more = true;
        for part in parts {
            let is_record = self.can_seal && self.outbox.len() + part.len() >= RECORD_BYTES;
            if is_record && self.watch.pass_payload(part.len()) {
                self.seal(part)?;
            } else {
                self.copy(part)?;
            }
        }
        Poll::Ready(Ok(count))
    }

    /// Collects by copying.
    fn copy(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reserve(bytes.len());
        let start = self.outbox.len();
        self.outbox.extend_from_slice(bytes);
        if !self.watch.send(&mut self.outbox[start..], Instant::now) {
            self.raise_flood();
        }
        if self.can_seal && self.outbox.len() >= RECORD_BYTES { self.seal(&[]) } else { Ok(()) }
    }

    /// Sees to room for `count` bytes in the outbox.
    fn reserve(&mut self, count: usize) {
        let length = self.outbox.len() + count;
        if length > self.outbox.capacity() {
            let most = if self.can_seal { RECORD_BYTES } else { OUTBOX_BYTES };
            let room = if length > SMALL_OUTBOX_BYTES { most } else { SMALL_OUTBOX_BYTES };
            self.outbox.reserve(room.max(length) - self.outbox.len());
        }
    }

    /// Makes full records of what was collected and `bytes`, and keeps the rest.
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = (self.outbox.len() + bytes.len()) / RECORD_BYTES * RECORD_BYTES;
        let (first, rest) = self.outbox.split_at(self.outbox.len().min(whole));
        let (second, behind) = bytes.split_at(whole - first.len());
        self.transport.seal(&[IoSlice::new(first), IoSlice::new(second)])?;
        self.sealed += whole;
        if rest.is_empty() {
            self.outbox.clear();
        } else {
            self.outbox.advance(whole);
        }
        self.reserve(behind.len());
        self.outbox.extend_from_slice(behind);
        Ok(())
    }

    /// Sends what was collected, and gives its memory back.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_more {
            return Poll::Ready(Ok(()));
        }
        if self.can_seal && !self.outbox.is_empty() {
            self.transport.seal(&[IoSlice::new(&self.outbox)])?;
            self.sealed += self.outbox.len();
            self.outbox.clear();
        }
        ready!(self.poll_make_room(cx))?;
        self.outbox = BytesMut::new();
        (self.has_more, self.has_waited) = (false, false);
        Poll::Ready(Ok(()))
    }

    /// Sends what was collected but for a part of a record, which has more to come.
    fn poll_make_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.poll_flow(cx);
        let left = self.transport.written().unwrap_or(self.sent);
        let count = left - std::mem::replace(&mut self.left, left);
        if count > 0 {
            self.taking.moved(count, Instant::now);
        }
        if polled.is_pending() {
            self.taking.wait(Instant::now);
            self.is_blocked = true;
        } else if std::mem::take(&mut self.is_blocked) {
            self.rested = Some(Instant::now());
        }
        polled
    }

    fn poll_flow(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.can_seal && !self.outbox.is_empty() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, &self.outbox))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => {
                    self.outbox.advance(sent);
                    self.sent += sent as u64;
                }
            }
        }
        // With TLS this is where a write waits.
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        self.sealed = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for H2Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut carrier = lock(&self.0);
        if carrier.flood.is_none() {
            // The connection's loop has been told, and ends it.
            return Poll::Pending;
        }
        carrier.hear();
        let before = buf.filled().len();
        let polled = carrier.poll_bytes(cx, buf)?;
        carrier.is_reading = polled.is_pending();
        ready!(polled);
        if !carrier.watch.receive(&buf.filled()[before..], Instant::now) {
            carrier.raise_flood();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).collect(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).collect(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done: the [`Outlet`] sees to it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut carrier = lock(&self.0);
        ready!(carrier.poll_send(cx))?;
        Pin::new(&mut carrier.transport).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for H2Transport {
    async fn shutdown(&mut self) {}
}

impl UniqueID for H2Transport {
    fn id(&self) -> UniqueIDType {
        UniqueIDType::default()
    }
}

impl Ssl for H2Transport {}

impl GetTimingDigest for H2Transport {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for H2Transport {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for H2Transport {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for H2Transport {}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn connected() -> (H2Transport, Outlet, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let transport = Transport::Plain(listener.accept().await.unwrap().0);
        let taking = Pace::new(Duration::from_secs(60), None);
        let (stream, outlet) = H2Transport::new(transport, BytesMut::new(), Arc::default(), taking);
        (stream, outlet, client)
    }

    #[tokio::test]
    async fn what_is_flushed_leaves_together_once_the_connection_waits() {
        let (mut stream, outlet, mut client) = connected().await;
        for part in ["one ", "two "] {
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut seen = [0; 64];
        let early = client.try_read(&mut seen).map_err(|error| error.kind());
        assert_eq!(early, Err(io::ErrorKind::WouldBlock));

        let work = outlet.sending(async {
            stream.write_all(b"three").await.unwrap();
            pending::<()>().await;
        });
        let count = tokio::select! {
            count = client.read(&mut seen) => count.unwrap(),
            () = work => 0,
        };
        assert_eq!(&seen[..count], b"one two three");
    }

    #[tokio::test]
    async fn little_is_collected_for_a_client_that_takes_nothing_and_none_is_lost() {
        const FRAME: usize = 16 * 1024;
        let (mut stream, outlet, mut client) = connected().await;
        let (frame, mut written) = ([7; FRAME], 0);
        let fill = poll_fn(|cx| {
            while Pin::new(&mut stream).poll_write(cx, &frame)?.is_ready() {
                written += FRAME;
            }
            Poll::Ready(io::Result::Ok(()))
        });
        fill.await.unwrap();
        assert!(lock(&outlet.0).outbox.len() <= OUTBOX_BYTES);
        assert!(outlet.patience().is_some() && outlet.rested().is_none());

        let mut read = 0;
        let mut buffer = vec![0; 64 * 1024];
        let drained = async {
            while read < written {
                read += client.read(&mut buffer).await.unwrap();
            }
        };
        tokio::select! {
            () = drained => {}
            () = outlet.sending(pending()) => {}
        }
        assert_eq!(read, written);
        assert!(outlet.patience().is_none() && outlet.rested().is_some());
    }

    #[tokio::test]
    async fn a_head_is_not_late_while_nobody_reads_it_for_want_of_room_to_write() {
        let (mut stream, outlet, mut client) = connected().await;
        // A head of nine bytes, two of which come at first.
        let head =
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 9, 1, 4, 0, 0, 0, 1, 0x82, 0x84]];
        let head = head.concat();
        client.write_all(&head).await.unwrap();
        stream.read_exact(&mut vec![0; head.len()]).await.unwrap();
        let before = outlet.head_since().unwrap();
        let mut written = 0;
        poll_fn(|cx| {
            while Pin::new(&mut stream).poll_write(cx, &[7; 16 * 1024])?.is_ready() {
                written += 16 * 1024;
            }
            Poll::Ready(io::Result::Ok(()))
        })
        .await
        .unwrap();
        assert_eq!(outlet.head_since(), None);

        client.read_exact(&mut vec![0; written - OUTBOX_BYTES]).await.unwrap();
        client.write_all(&[0x86]).await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        assert!(outlet.head_since().unwrap() > before);
        // One that is read and comes no further is, whatever waits to be written.
        let since = outlet.head_since();
        poll_fn(|cx| {
            assert!(Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending());
            while Pin::new(&mut stream).poll_write(cx, &[7; 16 * 1024])?.is_ready() {}
            Poll::Ready(io::Result::Ok(()))
        })
        .await
        .unwrap();
        assert_eq!(outlet.head_since(), since);
    }
}
