//! The bytes of a connection: plain TCP, or TLS over it.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{ClientStream, ServerStream, connect};
use crate::config::listener::Alpn;

/// TCP under TLS, with what it has taken counted.
///
/// # Why
/// The TLS layer takes bytes while the socket takes none. How the peer gets on shows below it alone.
#[derive(Debug)]
pub struct Counted {
    io: TcpStream,
    written: u64,
}

impl From<TcpStream> for Counted {
    fn from(io: TcpStream) -> Self {
        Self { io, written: 0 }
    }
}

/// The bytes of a connection; `S` is a [`ServerStream`] or a [`ClientStream`].
#[derive(Debug)]
pub enum Transport<S> {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<S>),
}

/// The bytes to and from a client.
pub type Downstream = Transport<ServerStream<Counted>>;

/// The bytes to and from a server.
pub type Upstream = Transport<ClientStream<Counted>>;

impl Downstream {
    /// Bytes that left through TLS; `None` without it.
    #[must_use]
    pub fn written(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0.written),
        }
    }

    /// Whether bytes can be [sealed](Self::seal), from here on as many as are given.
    pub fn can_seal(&mut self) -> bool {
        let Self::Tls(stream) = self else { return false };
        stream.get_mut().1.set_buffer_limit(None);
        true
    }

    /// Makes TLS records of `parts`, which leave with the next flush. They are put together there
    /// alone: joining them before would be another copy of every byte.
    ///
    /// # Errors
    /// Without TLS, and when the session is over.
    pub fn seal(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let Self::Tls(stream) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let count: usize = parts.iter().map(|part| part.len()).sum();
        let taken = stream.get_mut().1.writer().write_vectored(parts)?;
        if taken == count { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Whether the connection is no more, whatever there is still to read.
    ///
    /// # Why
    /// The socket's own error is not asked: on Linux that may be the network's word that it did not
    /// find the way just now, which ends nothing.
    #[must_use]
    pub fn is_broken(&self, cx: &mut Context<'_>) -> bool {
        is_broken(self.tcp(), cx)
    }

    /// Bytes that the system has for the client, and the client has not; our end of the connection,
    /// once said, counts as one. `None` where the system does not tell.
    #[must_use]
    pub fn unsent(&self) -> Option<u64> {
        unsent(self.tcp())
    }

    /// Makes its end a reset that forgets what has not left: for a client that takes nothing. The
    /// system would keep megabytes for it for minutes, which no limit of ours counts.
    pub fn abandon(&self) {
        // A socket that cannot be set is gone already.
        let _ = self.tcp().set_zero_linger();
    }

    /// Has the system forget what is left once the client has taken none of it for so long. For a
    /// connection about to end: one that lives could lose it to a keep-alive that goes astray. Linux
    /// only; others have limits of their own.
    pub fn leave(&self, patience: Duration) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(self.tcp()).set_tcp_user_timeout(Some(patience));
        #[cfg(not(target_os = "linux"))]
        let _ = patience;
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.get_ref().0.io,
        }
    }
}

#[cfg(not(windows))]
fn is_broken(tcp: &TcpStream, cx: &mut Context<'_>) -> bool {
    match std::pin::pin!(tcp.ready(tokio::io::Interest::ERROR)).poll(cx) {
        Poll::Ready(Ok(ready)) => ready.is_error(),
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

/// Windows has a reset for the end of both directions, and no error.
#[cfg(windows)]
fn is_broken(tcp: &TcpStream, _: &mut Context<'_>) -> bool {
    !matches!(tcp.take_error(), Ok(None))
}

/// As the generic table of the kernel has it; a few processors have numbers of their own.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[expect(unsafe_code, reason = "the request has no safe interface")]
fn unsent(tcp: &TcpStream) -> Option<u64> {
    use rustix::ioctl::{Getter, Opcode, ioctl};

    const SIOCOUTQ: Opcode = 0x5411;
    // SAFETY: the request writes one C int, and reads nothing.
    let count = unsafe { ioctl(tcp, Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    u64::try_from(count.ok()?).ok()
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn unsent(_tcp: &TcpStream) -> Option<u64> {
    None
}

impl Upstream {
    /// Whether TLS has agreed on h2.
    #[must_use]
    pub fn speaks_h2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => connect::alpn(stream) == Some(Alpn::H2),
        }
    }

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

    /// Bytes that left through TLS; `None` without it.
    #[must_use]
    pub fn written(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0.written),
        }
    }

    /// Whether TLS has taken bytes that the socket has not: they leave with a flush.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.counted(|io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.counted(|io| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl Counted {
    fn counted(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let outcome = write(Pin::new(&mut self.io));
        if let Poll::Ready(Ok(count)) = outcome {
            self.written += count as u64;
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Transport<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Transport<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::listener::TlsVersion;
    use crate::tls::accept::{Handshake, accept};
    use crate::tls::fixture::{Ca, entry, listener, store};
    use crate::tls::server_config::{Offer, build};
    use crate::tls::{ServerName, Tickets};

    /// What a record has beside its content: head, type and tag (RFC 8446 §5.2).
    const RECORD_OVERHEAD: u64 = 5 + 1 + 16;

    #[tokio::test]
    async fn what_is_sealed_leaves_with_the_flush_in_full_records() {
        let ca = Ca::new("test");
        let store = store([entry(&ca, &["a.test"])]);
        let tickets = Tickets::new().unwrap();
        let config =
            build(&listener(TlsVersion::V1_3), std::sync::Arc::clone(&store), &tickets, None);
        let offer = Offer { config: config.unwrap(), policy: None };
        let sockets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = sockets.local_addr().unwrap();
        let parts = [vec![b'a'; 9], vec![b'b'; 100_000], vec![b'c'; 7]];

        let serving = async {
            let io = Counted::from(sockets.accept().await.unwrap().0);
            let Ok(Handshake::Client(accepted)) = accept(io, None, |_| offer, &store).await else {
                panic!("no handshake");
            };
            let mut stream = Downstream::Tls(Box::new(accepted.stream));
            assert!(stream.can_seal());
            stream.flush().await.unwrap();
            let before = stream.written().unwrap();
            stream.seal(&parts.each_ref().map(|part| IoSlice::new(part))).unwrap();
            assert_eq!(stream.written(), Some(before));
            stream.flush().await.unwrap();
            let sent = stream.written().unwrap() - before;
            assert_eq!(sent, 100_016 + 100_016_u64.div_ceil(16 << 10) * RECORD_OVERHEAD);
            stream.shutdown().await.unwrap();
        };
        let taking = async {
            let io = TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(ca.client()));
            let name = ServerName::try_from("a.test").unwrap();
            let mut got = Vec::new();
            connector.connect(name, io).await.unwrap().read_to_end(&mut got).await.unwrap();
            assert!(got == parts.concat());
        };
        tokio::join!(serving, taking);
    }

    /// Two ends of a connection.
    #[cfg(not(windows))]
    async fn ends() -> (Downstream, TcpStream) {
        let sockets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(sockets.local_addr().unwrap()).await.unwrap();
        (Downstream::Plain(sockets.accept().await.unwrap().0), client)
    }

    /// Windows shows neither before what has arrived was read.
    #[cfg(not(windows))]
    #[tokio::test]
    async fn a_connection_is_broken_by_a_reset_and_not_by_an_end() {
        let is_broken =
            |stream: &Downstream| stream.is_broken(&mut Context::from_waker(Waker::noop()));
        let (stream, mut client) = ends().await;
        client.write_all(b"text").await.unwrap();
        client.shutdown().await.unwrap();
        let Transport::Plain(tcp) = &stream else { unreachable!() };
        while !tcp.ready(tokio::io::Interest::READABLE).await.unwrap().is_read_closed() {
            tokio::task::yield_now().await;
        }
        assert!(!is_broken(&stream));

        let (stream, mut client) = ends().await;
        client.write_all(b"text").await.unwrap();
        assert!(!is_broken(&stream));
        client.set_zero_linger().unwrap();
        drop(client);
        let broken = async {
            while !is_broken(&stream) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), broken).await.unwrap();
    }

    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    #[tokio::test]
    async fn what_has_not_arrived_is_counted() {
        let (mut stream, mut client) = ends().await;
        assert_eq!(stream.unsent(), Some(0));
        let bytes = vec![7; 32 << 20];
        let mut sent = 0;
        while let Ok(count) =
            tokio::time::timeout(Duration::from_millis(100), stream.write(&bytes)).await
        {
            sent += count.unwrap();
        }
        let unsent = stream.unsent().unwrap();
        assert!(unsent > 0 && unsent < sent as u64, "{unsent} of {sent}");
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), sent);
        let done = async {
            while stream.unsent() != Some(0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_sealed_without_tls() {
        let sockets = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream =
            Downstream::Plain(TcpStream::connect(sockets.local_addr().unwrap()).await.unwrap());
        assert!(!stream.can_seal());
        assert!(stream.seal(&[IoSlice::new(b"text")]).is_err());
    }
}
