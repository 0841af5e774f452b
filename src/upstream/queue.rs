//! Bytes of a request that its server does not take yet.
//!
//! # Why
//! While the engine waits in a write it relays nothing of the response, and soon it does not listen to
//! the client either. So it does not wait: what the server does not take is kept here, and sent while
//! the engine reads.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::attempt::Attempt;
use super::wire::Transport;

/// Bytes that are kept at most. A client that is not read from meanwhile has less than that under
/// way: the engine's queue.
pub(super) const MOST: usize = 1 << 20;

/// How long a server that has answered may take nothing of the request.
pub(super) const LATE: Duration = Duration::from_secs(2);

/// How long it may take over the rest in all, whoever sent it being gone.
const REST: Duration = Duration::from_mins(1);

/// What the server has yet to take.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: BytesMut,
    /// Since when the server has taken nothing.
    pub(super) stuck_since: Option<Instant>,
    /// The same, not counted from before its answer was complete.
    pub(super) late_since: Option<Instant>,
    /// Whether to flush behind the bytes: with TLS some may be left in its own buffer.
    is_flushing: bool,
    /// Whether the engine has asked for that, behind all that it means to send.
    is_asked: bool,
    /// Nothing more is sent.
    is_cut: bool,
    /// Nor does anybody learn of that: what comes is dropped.
    drops_more: bool,
}

impl Queue {
    /// Whether there is nothing to see to before a write.
    pub(super) fn is_idle(&self) -> bool {
        self.bytes.is_empty() && !self.is_flushing && !self.is_cut
    }

    /// Bytes that are kept.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How much of the response is to be there for one more piece to be kept: as much as is kept,
    /// within reason.
    pub(super) fn worth(&self) -> usize {
        self.len().min(MOST / 2)
    }

    /// Whether nothing more is sent, for good.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether the engine has handed over all that it means to send, and not all has left.
    pub(super) fn is_owed(&self) -> bool {
        self.is_asked && !self.is_cut
    }

    /// Keeps `bytes` behind the others.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.is_asked = false;
        self.bytes.extend_from_slice(bytes);
    }

    /// Notes that more was sent past it, of which TLS has some left if it `is_held`. The engine flushes
    /// at the end of a body alone, but its sender may wait for what it leads to.
    pub(super) fn pass(&mut self, is_held: bool) {
        self.is_asked = false;
        self.is_flushing = is_held;
    }

    /// What there is by now is to leave.
    pub(super) fn flush(&mut self) {
        self.is_flushing = true;
        self.is_asked = true;
    }

    /// Sends nothing more.
    pub(super) fn cut(&mut self) {
        *self = Self { is_cut: true, ..Self::default() };
    }

    /// Drops what comes from here on, which is to be cut.
    pub(super) fn drop_more(&mut self) {
        self.drops_more = true;
    }

    /// Whether what comes is dropped.
    pub(super) fn drops_more(&self) -> bool {
        self.drops_more
    }

    /// Sends what there is. Ready when all has left, or with the reason why no more can. Also returns
    /// whether the server has taken anything: what TLS takes need not have left.
    pub(super) fn poll_send(
        &mut self,
        mut transport: Pin<&mut Transport>,
        cx: &mut Context<'_>,
    ) -> (bool, Poll<io::Result<()>>) {
        let (before, queued) = (transport.written(), self.len());
        let sent = self.poll_all(transport.as_mut(), cx);
        let has_moved = match before {
            Some(_) => transport.written() != before,
            None => self.len() < queued,
        };
        (has_moved || matches!(sent, Poll::Ready(Ok(()))), sent)
    }

    fn poll_all(
        &mut self,
        mut transport: Pin<&mut Transport>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while !self.bytes.is_empty() {
            match ready!(transport.as_mut().poll_write(cx, &self.bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.bytes.advance(count),
            }
        }
        if self.bytes.capacity() > 0 {
            self.bytes = BytesMut::new();
        }
        if self.is_flushing || transport.holds_back() {
            self.is_flushing = true;
            ready!(transport.poll_flush(cx))?;
            self.is_flushing = false;
        }
        self.is_asked = false;
        Poll::Ready(Ok(()))
    }

    /// Sends what is left without anybody waiting for it, and closes the connection. The server counts
    /// as busy with it; where it owes that to too many it is closed at once.
    pub(super) fn send_rest(mut self, mut transport: Transport, attempt: Arc<Attempt>) {
        // Without a runtime the process is ending.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let Some(owing) = attempt.endpoint().owe() else { return };
        runtime.spawn(async move {
            // Nobody is told how it went.
            let _ = timeout(REST, self.send_all(&mut transport)).await;
            drop((transport, owing, attempt));
        });
    }

    /// Sends what is left for as long as the server takes some of it. Returns whether it took it all.
    async fn send_all(&mut self, transport: &mut Transport) -> bool {
        loop {
            let step = poll_fn(|cx| match self.poll_send(Pin::new(&mut *transport), cx) {
                (true, Poll::Pending) => Poll::Ready(None),
                (_, sent) => sent.map(Some),
            });
            match timeout(LATE, step).await {
                Ok(None) => {}
                Ok(Some(Ok(()))) => break,
                Ok(Some(Err(_))) | Err(_) => return false,
            }
        }
        timeout(LATE, transport.shutdown()).await.is_ok_and(|ended| ended.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A queue with more than kernels take, and a connection.
    async fn stage() -> (Queue, Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        let mut queue = Queue::default();
        queue.push(&vec![b'x'; 16 << 20]);
        queue.flush();
        assert!(queue.is_owed());
        (queue, Transport::Plain(ours), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_server_does_not_take_is_given_up_soon() {
        let (mut queue, mut transport, _server) = stage().await;
        let start = tokio::time::Instant::now();
        assert!(!queue.send_all(&mut transport).await);
        assert!(start.elapsed() < 3 * LATE, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn what_a_server_takes_late_arrives_whole() {
        let (mut queue, mut transport, mut server) = stage().await;
        let taking = async {
            let mut count = 0;
            let mut piece = vec![0; 256 << 10];
            loop {
                match server.read(&mut piece).await.unwrap() {
                    0 => return count,
                    some => count += some,
                }
            }
        };
        let (is_sent, count) = tokio::join!(queue.send_all(&mut transport), taking);
        assert!(is_sent && !queue.is_owed());
        assert_eq!(count, 16 << 20);
    }
}
