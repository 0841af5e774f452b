//! Endpoints as the proxy engine sees them.
//!
//! Two ways lead upstream. HTTP/1.1, the usual one, goes over our own connections ([`Wire`]):
//! dialled, secured, timed and kept by us, and shown to pingora as sockets without a pool of their
//! own. HTTP/2 goes through pingora's connector, which owns stream multiplexing. With `auto` the server
//! is asked once which of the two it speaks ([`dial::learn`]).
//!
//! # Why
//! pingora's pool has no limit per host and no expiry of its own; its TLS connector rebuilds the
//! client configuration for every connection that has its own CA; and one timeout covers response
//! head and body. It cannot pool sockets without a descriptor either, which the first way turns to
//! use: the probe that pingora makes of a connection it is about to pool is the sign that the
//! exchange was complete.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::{ALPN, HttpPeer, HttpUpstreamRequestPolicy};
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora_error::{Error, ErrorType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::attempt::Attempt;
use super::dial::{self, DialFailure};
use super::endpoint::Belief;
use super::wire::Wire;
use crate::config::upstream::{Upstream, UpstreamProtocol};
use crate::tls::{ClientConfigError, ClientMaterial};

/// Streams at once on one HTTP/2 connection to a server, as many as nginx and Envoy's peers
/// usually announce.
const MAX_H2_STREAMS: usize = 100;

/// Bytes a server may send on one stream before a client has taken any. What arrives is kept, so that
/// this is what a client that takes nothing costs, but for the pieces in the engine's queue. A server that
/// is a millisecond away can send 128 MB a second in it.
const STREAM_WINDOW: u32 = 128 << 10;

/// The same for all streams of a connection together: room for each of them, so that none whose client
/// takes nothing keeps the others waiting.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_H2_STREAMS as u32;

/// The same on a connection that only one client's requests, or one request, may use.
///
/// # Why
/// The engine lists a connection that takes more streams, and strikes it off when an exchange ends in
/// order or when somebody asks for its group again. After an exchange that is cut short nobody asks
/// for such a group, and the listed connection would stay open for good. One that takes a single
/// stream is never listed: it closes with its exchange, or is kept for the next one.
const OWN_STREAMS: usize = 1;

/// Between pings on an HTTP/2 connection, which find a dead peer that TCP has not noticed.
const H2_PING: Duration = Duration::from_secs(20);

/// How long the engine keeps an idle connection that only one client's requests may use: it does not
/// notice when the client goes, and has room for a limited number of all pools' connections.
const OWN_IDLE: Duration = Duration::from_secs(10);

/// What the engine's own TLS needs of a pool: certificates to trust and to present.
#[derive(Clone)]
pub struct EngineTls {
    roots: Arc<[WrappedX509]>,
    client: Option<Arc<CertKey>>,
    /// Keeps connections of pools with other TLS settings apart, and those from before the files that
    /// they name have changed: the engine's own key leaves out CAs and ALPN.
    group: u64,
}

impl EngineTls {
    /// Loads what `spec` names; `print` tells its TLS settings from others, by the files' contents as
    /// well. `None` when its servers are not reached through the engine's TLS.
    ///
    /// # Errors
    /// [`ClientConfigError`] names the file that cannot be used.
    pub fn load(spec: &Upstream, print: u64) -> Result<Option<Self>, ClientConfigError> {
        let by_engine = matches!(spec.protocol, UpstreamProtocol::H2 | UpstreamProtocol::Auto);
        if !by_engine || !spec.servers.iter().any(|server| server.https) {
            return Ok(None);
        }
        let material = ClientMaterial::load(&spec.tls, SystemTime::now())?;
        let roots: Vec<_> =
            material.roots.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect();
        let client = material.client.map(|(chain, key)| Arc::new(CertKey::new(chain, key)));
        let mut hasher = DefaultHasher::new();
        (&spec.name, print).hash(&mut hasher);
        Ok(Some(Self { roots: roots.into(), client, group: hasher.finish() }))
    }
}

impl std::fmt::Debug for EngineTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineTls").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// The engine's view of where `attempt` goes.
pub async fn peer(attempt: Arc<Attempt>) -> Box<HttpPeer> {
    match attempt.pool.spec().protocol {
        UpstreamProtocol::H2c => h2_peer(attempt, false).await,
        UpstreamProtocol::H2 => h2_peer(attempt, true).await,
        UpstreamProtocol::Http1 => http1_peer(attempt, None),
        UpstreamProtocol::Auto => match choice(&attempt).await {
            (Belief::H2, _) => h2_peer(attempt, true).await,
            (_, wire) => http1_peer(attempt, wire),
        },
    }
}

/// What a server that has the choice picks for `attempt`, and its connection if it was opened for that.
/// An upgrade is HTTP/1.1's, and so is a login that is the connection's: servers that are asked for one
/// over h2 answer HTTP_1_1_REQUIRED.
async fn choice(attempt: &Arc<Attempt>) -> (Belief, Option<Box<Wire>>) {
    let endpoint = attempt.endpoint();
    if !endpoint.server.https || attempt.asks_upgrade() || attempt.is_personal() {
        return (Belief::Http1, None);
    }
    match endpoint.belief() {
        known @ (Belief::H2 | Belief::Http1) => (known, None),
        // In a box of its own, as below. Whoever asks for the connection is told why there is none.
        belief => Box::pin(dial::learn(attempt, belief)).await.unwrap_or((Belief::Http1, None)),
    }
}

fn http1_peer(attempt: Arc<Attempt>, opened: Option<Box<Wire>>) -> Box<HttpPeer> {
    let address = attempt.endpoint().address;
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    peer.options.custom_l4 = Some(Arc::new(Dialer { attempt, opened: Mutex::new(opened) }));
    Box::new(peer)
}

async fn h2_peer(attempt: Arc<Attempt>, https: bool) -> Box<HttpPeer> {
    attempt.note_engines_own();
    let pool = &attempt.pool;
    let spec = pool.spec();
    let is_shared = attempt.announcement().is_none() && !attempt.is_personal();
    let connect = if is_shared { attempt.await_turn().await } else { spec.timeouts.connect };
    let server = &attempt.endpoint().server;
    let sni = if https { pool.server_name(server) } else { String::new() };
    // By the address that is dialled first the engine knows its connections again.
    let (address, _) = attempt.endpoint().addresses();
    let mut peer = HttpPeer::new(address, https, sni);
    peer.options.custom_l4 = Some(Arc::new(Opener(Arc::clone(&attempt))));
    // Nothing else, where the server has the choice as well: with one it would be HTTP/1.1 for good, once
    // a server has asked for that, and over a connection of the engine's.
    peer.options.alpn = ALPN::H2;
    peer.options.max_h2_streams = MAX_H2_STREAMS;
    peer.options.h2_stream_window_size = Some(STREAM_WINDOW);
    peer.options.h2_connection_window_size = Some(CONNECTION_WINDOW);
    peer.options.h2_ping_interval = Some(H2_PING);
    peer.options.connection_timeout = Some(connect);
    peer.options.total_connection_timeout = Some(connect);
    peer.options.idle_timeout = Some(spec.timeouts.pool_idle);
    let now = Instant::now();
    let silence =
        (!attempt.has_long_body()).then(|| spec.timeouts.response.max(spec.timeouts.read));
    peer.options.read_timeout = engine_patience(&attempt, silence, now);
    peer.options.write_timeout = engine_patience(&attempt, Some(spec.timeouts.response), now);
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    if let Some(tls) = pool.engine_tls() {
        peer.group_key = tls.group;
        peer.client_cert_key.clone_from(&tls.client);
        peer.options.ca = Some(Arc::clone(&tls.roots));
        peer.options.verify_cert = spec.tls.verify;
        peer.options.verify_hostname = spec.tls.verify;
    }
    if let Some(announcement) = attempt.announcement() {
        peer.group_key ^= announcement.group;
        peer.options.max_h2_streams = OWN_STREAMS;
        peer.options.idle_timeout = Some(spec.timeouts.pool_idle.min(OWN_IDLE));
    }
    if attempt.is_personal() {
        // A group of its own, which nobody asks for again.
        peer.group_key = fastrand::u64(..);
        peer.options.max_h2_streams = OWN_STREAMS;
        peer.options.idle_timeout = Some(Duration::ZERO);
    }
    Box::new(peer)
}

/// A silence that the engine's own sessions are allowed, cut to what the route's own deadline leaves.
/// Reading there is one for head and body alike, from the request's head on; what it leaves open is
/// [`Attempt::lapse`]'s.
fn engine_patience(attempt: &Attempt, silence: Option<Duration>, now: Instant) -> Option<Duration> {
    let left = attempt.exchange_deadline.map(|end| end.saturating_duration_since(now));
    let patience = [silence, left].into_iter().flatten().min()?;
    Some(patience.max(Duration::from_millis(1)))
}

/// Opens (or takes from the endpoint) the connection of one attempt when the engine asks for it.
#[derive(Debug)]
struct Dialer {
    attempt: Arc<Attempt>,
    /// The connection that was opened to learn what the server speaks.
    opened: Mutex<Option<Box<Wire>>>,
}

impl Dialer {
    /// A connection that is open already, if there is one.
    fn open_wire(&self) -> Option<Wire> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        opened.map(|wire| *wire).or_else(|| dial::kept_wire(&self.attempt))
    }
}

#[async_trait]
impl L4Connect for Dialer {
    async fn connect(&self, _address: &SocketAddr) -> pingora_error::Result<Stream> {
        if let Some(failure) = self.attempt.dial_failure() {
            // There was none when it was to be learned what the server speaks.
            return Error::e_explain(word(failure), failure.to_string());
        }
        if let Some(wire) = self.open_wire() {
            return Ok(VirtualSocketStream::new(Box::new(EngineSocket(wire))).into());
        }
        // In a box of its own: it takes kilobytes, and most requests get on without.
        match Box::pin(dial::new_wire(&self.attempt)).await {
            Ok(wire) => Ok(VirtualSocketStream::new(Box::new(EngineSocket(wire))).into()),
            Err(text) => {
                let etype = self.attempt.dial_failure().map_or(ErrorType::ConnectError, word);
                Error::e_explain(etype, text.to_string())
            }
        }
    }
}

/// Opens a connection that begins with the attempt's announcement, if it has one. What is spoken over
/// it is the engine's business. How long that may take is as well.
///
/// # Why
/// The engine's own errors do not say whether it is the server's fault that there is no connection, or
/// that this process is short of something.
#[derive(Debug)]
struct Opener(Arc<Attempt>);

#[async_trait]
impl L4Connect for Opener {
    async fn connect(&self, _address: &SocketAddr) -> pingora_error::Result<Stream> {
        match dial::open(self.0.endpoint(), &dial::opening(&self.0)).await {
            Ok(stream) => Ok(stream.into()),
            Err(failure) => {
                let (etype, text) = (word(&failure), failure.to_string());
                self.0.fail_dial(failure);
                Error::e_explain(etype, text)
            }
        }
    }
}

/// The engine's word for why there is no connection.
fn word(failure: &DialFailure) -> ErrorType {
    match failure {
        DialFailure::Refused(_) => ErrorType::ConnectRefused,
        DialFailure::Timeout => ErrorType::ConnectTimedout,
        DialFailure::Tls(_) => ErrorType::TLSHandshakeFailure,
        DialFailure::NoPort(_) => ErrorType::BindError,
        DialFailure::Unreachable(_) | DialFailure::Local(_) => ErrorType::ConnectError,
    }
}

/// A [`Wire`] as the engine's socket.
#[derive(Debug)]
struct EngineSocket(Wire);

impl VirtualSocket for EngineSocket {
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        // Set when the connection was dialled.
        Ok(())
    }
}

impl AsyncRead for EngineSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut self.get_mut().0;
        if buf.remaining() == 1 {
            // Only the probe before pooling reads a single byte. "End of stream" keeps the
            // connection out of the engine's pool and drops it, which returns it to ours.
            wire.release();
            return Poll::Ready(Ok(()));
        }
        Pin::new(wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for EngineSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
