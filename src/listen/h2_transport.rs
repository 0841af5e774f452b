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
use std::time::Instant;

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
use crate::tls::transport::Downstream as Transport;

/// Bytes collected before they leave in any case: four of the frames that clients take as they come
/// (RFC 9113 §6.5.2), and a TLS record's worth each.
const OUTBOX_BYTES: usize = 4 * (16 * 1024 + 9);

/// Bytes there is room for at first; most answers are small.
const SMALL_OUTBOX_BYTES: usize = 4 * 1024;

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
    outbox: BytesMut,
    /// Whether something was collected that may not have left.
    has_more: bool,
    /// Whether those who might add to it have had their turn.
    has_waited: bool,
}

impl H2Transport {
    /// A connection from which `read` has been read already. `flood` is rung when the client has
    /// spent its frame budget.
    #[must_use]
    pub(super) fn new(transport: Transport, read: BytesMut, flood: Arc<Notify>) -> (Self, Outlet) {
        let carrier = Arc::new(Mutex::new(Carrier {
            transport,
            read,
            watch: FrameWatch::new(Instant::now()),
            flood: Some(flood),
            outbox: BytesMut::new(),
            has_more: false,
            has_waited: false,
        }));
        (Self(Arc::clone(&carrier)), Outlet(carrier))
    }
}

impl Outlet {
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
                let _ = carrier.poll_send(cx);
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

    fn raise_flood(&mut self) {
        if let Some(flood) = self.flood.take() {
            flood.notify_one();
        }
    }

    /// Collects bytes. All of them, so that `outbox` may exceed its measure by one call's.
    fn collect(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        if self.outbox.len() + bytes.len() > OUTBOX_BYTES {
            ready!(self.poll_send(cx))?;
        }
        let length = self.outbox.len() + bytes.len();
        if length > self.outbox.capacity() {
            let room = if length > SMALL_OUTBOX_BYTES { OUTBOX_BYTES } else { SMALL_OUTBOX_BYTES };
            self.outbox.reserve(room.max(length) - self.outbox.len());
        }
        let start = self.outbox.len();
        self.outbox.extend_from_slice(bytes);
        self.has_more = true;
        if !self.watch.send(&mut self.outbox[start..], Instant::now) {
            self.raise_flood();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what was collected, and gives its memory back.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_more {
            return Poll::Ready(Ok(()));
        }
        while !self.outbox.is_empty() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, &self.outbox))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outbox.advance(sent),
            }
        }
        self.outbox = BytesMut::new();
        // With TLS this is where a write waits.
        ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
        (self.has_more, self.has_waited) = (false, false);
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
        let before = buf.filled().len();
        ready!(carrier.poll_bytes(cx, buf))?;
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
        ready!(lock(&self.0).collect(cx, buf))?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut carrier = lock(&self.0);
        let mut taken = 0;
        for buf in bufs {
            match carrier.collect(cx, buf) {
                Poll::Ready(Ok(())) => taken += buf.len(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if taken > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(taken))
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
        let (stream, outlet) = H2Transport::new(transport, BytesMut::new(), Arc::default());
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
    }
}
