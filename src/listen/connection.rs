//! From an accepted socket to a connection that is served: limits, handshake, and the protocol.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Timeout, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::heirs::Heirs;
use super::line::{Line, Patience};
use super::socket::{self, AcceptAction};
use super::{http1, http2, proxy_protocol};
use crate::config::listener::{Alpn, Listener, Protocol};
use crate::config::process::Limits;
use crate::net::customer;
use crate::net::proxy_protocol::Said;
use crate::proxy::connection::{Connection, ListenerFacts, TlsFacts};
use crate::proxy::engine::Engine;
use crate::proxy::pressure::{Level, Pressure};
use crate::task::Tasks;
use crate::telemetry::metrics::{HandshakeFault, ListenerMetrics};
use crate::tls::accept::accept as shake_hands;
use crate::tls::transport::{Counted as CountedTcp, Downstream as Transport};
use crate::tls::{CertStore, Handshake, Terms};

/// What every connection of one listener is served with.
#[derive(Debug)]
pub struct Surroundings {
    /// Relays requests.
    pub engine: Arc<Engine>,
    /// Connections in all and by client.
    pub census: Arc<Census>,
    /// Owns the tasks of the listener's connections.
    pub tasks: Tasks,
    /// Fires when connections are to end after what they are doing: the process ends, or a reload
    /// has removed the listener.
    pub drain: CancellationToken,
    /// Fires with `drain`, or before it when another process takes over: connections that can tell
    /// their clients to come again do so, and the others wait for one more request. A client that is
    /// just sending it would see its connection closed instead of an answer.
    pub leave: CancellationToken,
}

impl Surroundings {
    /// The limits in force now.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.engine.shared().current.load().config.limits
    }
}

/// One listener's part in its connections.
#[derive(Debug)]
pub struct Door {
    /// As configured.
    pub listener: Listener,
    /// What requests know of it.
    pub facts: Arc<ListenerFacts>,
    /// For https: how handshakes go, and with which certificates.
    pub tls: Option<(Arc<Terms>, Arc<CertStore>)>,
    /// What its connections are served with.
    pub around: Arc<Surroundings>,
    /// What its connections count with.
    pub metrics: Arc<ListenerMetrics>,
}

/// Accepts connections on `socket` until `close` fires, each through the `door` of that moment. What
/// waits there then goes to `heirs`.
pub async fn accept(
    socket: TcpListener,
    door: Arc<ArcSwap<Door>>,
    heirs: Arc<Heirs>,
    close: CancellationToken,
) {
    accept_until(&socket, &door, &heirs, &close).await;
    if heirs.are_named()
        && let Ok(socket) = socket.into_std()
    {
        heirs.take_waiting(&socket);
    }
}

async fn accept_until(
    socket: &TcpListener,
    door: &ArcSwap<Door>,
    heirs: &Heirs,
    close: &CancellationToken,
) {
    loop {
        let Some(accepted) = close.run_until_cancelled(socket.accept()).await else { return };
        let door = door.load_full();
        match accepted {
            Ok((stream, peer)) if heirs.are_named() => heirs.take(stream, peer),
            Ok((stream, peer)) => admit(stream, peer, &door),
            Err(error) => match socket::accept_error(&error) {
                AcceptAction::Retry => {}
                AcceptAction::Pause(pause) => {
                    door.around.engine.shared().pressure.lack(&error);
                    if close.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                }
                AcceptAction::Fatal => {
                    tracing::error!(listener = %door.facts.name, %error, "stopped accepting");
                    return;
                }
            },
        }
    }
}

/// Starts the task of a new connection, if there is room for it.
pub(super) fn admit(stream: TcpStream, peer: SocketAddr, door: &Arc<Door>) {
    let around = &door.around;
    if !proxy_protocol::may_connect(peer, door) {
        return;
    }
    let limits = around.limits();
    // Where a header says whose connection it is, it is counted when that is known.
    let address = door.listener.proxy_protocol.is_none().then(|| peer.ip());
    let pressure = &around.engine.shared().pressure;
    let Some(counted) = Census::enter(&around.census, address, &limits, pressure) else {
        tracing::debug!(listener = %door.facts.name, client.address = %peer.ip(), "too many connections");
        door.metrics.refuse();
        return;
    };
    let open = door.metrics.accept();
    let (door, surroundings) = (Arc::clone(door), Arc::clone(around));
    around.tasks.spawn_connection(async move {
        let (mut counted, _open) = (counted, open);
        serve(stream, peer, &mut counted, &door, surroundings).await;
    });
}

async fn serve(
    mut stream: TcpStream,
    sender: SocketAddr,
    counted: &mut Counted,
    door: &Door,
    around: Arc<Surroundings>,
) {
    let limits = around.limits();
    if socket::tune(&stream, &door.listener).is_err() {
        // It is gone already.
        return;
    }
    let end = Instant::now() + limits.handshake_timeout;
    let ends = ends(&mut stream, sender, end, counted, door, &around).await;
    let Some((peer, local)) = ends else { return };
    let (mut transport, tls) = match &door.tls {
        None => (Transport::Plain(stream), None),
        Some((terms, store)) => {
            match around.drain.run_until_cancelled(timeout_at(end, is_letter(&stream))).await {
                Some(Ok(false)) => {}
                Some(Ok(true)) => {
                    door.metrics.handshake_failed(HandshakeFault::PlainHttp);
                    let refusal = turn_away_plain(stream, peer, local, door, around);
                    return Box::pin(refusal).await;
                }
                Some(Err(_)) => return door.metrics.handshake_failed(HandshakeFault::Timeout),
                None => return,
            }
            let offer = |name: Option<&str>| {
                let generation = around.engine.shared().current.load();
                let offer = generation.offer(&door.facts, name, local.ip());
                offer.unwrap_or_else(|| terms.default_offer())
            };
            let handshake = shake_hands(stream.into(), Some(local.ip()), offer, store);
            // In boxes, here and below: a task has room for the largest of what it awaits, and most
            // of its life it waits for a request.
            let handshake = Box::pin(secured(timeout_at(end, handshake), door, peer, &around));
            let Some((transport, tls)) = handshake.await else { return };
            (transport, Some(tls))
        }
    };
    let alpn = tls.as_ref().and_then(|tls| tls.session.alpn);
    let facts = Arc::clone(&door.facts);
    let connection = Arc::new(Connection::new(facts, peer, local, tls));
    let (is_h2, read) = match door.listener.protocol {
        Protocol::Http if door.listener.alpn.contains(&Alpn::H2) => {
            match sniff(&mut transport, &limits, &around).await {
                Some(sniffed) => sniffed,
                None => return,
            }
        }
        Protocol::Http | Protocol::Https => (alpn == Some(Alpn::H2), BytesMut::new()),
    };
    if is_h2 {
        Box::pin(http2::serve(transport, read, connection, around)).await;
    } else {
        let line = Line::new(transport, read, connection, patience(&limits));
        Box::pin(http1::serve(line, around)).await;
    }
}

/// The client's end of a connection and ours: as its PROXY header says, where it must begin with one.
/// `None` when the connection goes no further.
async fn ends(
    stream: &mut TcpStream,
    sender: SocketAddr,
    end: Instant,
    counted: &mut Counted,
    door: &Door,
    around: &Surroundings,
) -> Option<(SocketAddr, SocketAddr)> {
    // Fails only on a connection that is gone already.
    let local = stream.local_addr().ok()?;
    if door.listener.proxy_protocol.is_none() {
        return Some((sender, local));
    }
    match proxy_protocol::read(stream, sender, end, door, around).await? {
        Said::Nobody => Some((sender, local)),
        Said::Client { source, destination } => {
            if !counted.count_for(source.ip(), &around.limits()) {
                let client = source.ip();
                tracing::debug!(listener = %door.facts.name, client.address = %client, "too many connections");
                door.metrics.refuse_client();
                return None;
            }
            Some((source, destination))
        }
    }
}

fn patience(limits: &Limits) -> Patience {
    Patience {
        body: limits.request_body_timeout,
        upgrade: limits.upgrade_idle_timeout,
        send: limits.idle_timeout,
        rate: limits.min_rate,
    }
}

/// Whether the first byte is a letter: HTTP begins with a method's name, TLS with 22 (RFC 8446
/// §5.1). The byte stays where it is.
async fn is_letter(stream: &TcpStream) -> bool {
    let mut first = [0];
    // The end of the connection and an error show again to whoever reads next.
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0].is_ascii_alphabetic()
}

/// Tells a client that speaks plain HTTP to a TLS port what is wrong.
async fn turn_away_plain(
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    door: &Door,
    around: Arc<Surroundings>,
) {
    let connection = Arc::new(Connection::new(Arc::clone(&door.facts), peer, local, None));
    let transport = Transport::Plain(stream);
    let line = Line::new(transport, BytesMut::new(), connection, patience(&around.limits()));
    http1::turn_away_plain(line, &around).await;
}

/// The connection after its handshake; `None` when there is none within the time allowed, or it was
/// a certificate authority's.
async fn secured(
    handshake: Timeout<
        impl Future<Output = Result<Handshake<CountedTcp>, crate::tls::AcceptError>>,
    >,
    door: &Door,
    peer: SocketAddr,
    around: &Surroundings,
) -> Option<(Transport, TlsFacts)> {
    let listener = &door.facts.name;
    match around.drain.run_until_cancelled(handshake).await? {
        Ok(Ok(Handshake::Challenge(host))) => {
            let client = peer.ip();
            tracing::info!(%listener, client.address = %client, %host, "answered a challenge");
            None
        }
        Ok(Ok(Handshake::Client(accepted))) => {
            door.metrics.shook_hands(accepted.session.version);
            let facts = TlsFacts::new(accepted.session, accepted.entry, accepted.proof);
            Some((Transport::Tls(Box::new(accepted.stream)), facts))
        }
        Ok(Err(error)) => {
            tracing::debug!(
                %listener,
                client.address = %peer.ip(),
                error = &error as &dyn std::error::Error,
                "failed a handshake"
            );
            door.metrics.handshake_failed(fault(&error));
            None
        }
        Err(_) => {
            tracing::debug!(%listener, client.address = %peer.ip(), "gave up a handshake");
            door.metrics.handshake_failed(HandshakeFault::Timeout);
            None
        }
    }
}

/// The word for why a handshake failed.
fn fault(error: &crate::tls::AcceptError) -> HandshakeFault {
    match error {
        crate::tls::AcceptError::UnrecognizedName { .. } => HandshakeFault::UnrecognizedName,
        crate::tls::AcceptError::Client(_) => HandshakeFault::ClientCertificate,
        crate::tls::AcceptError::Refused(_) => HandshakeFault::Refused,
        crate::tls::AcceptError::Io(_) => HandshakeFault::Closed,
    }
}

/// Whether a plain connection begins with HTTP/2's preface (RFC 9113 §3.4), and what was read to
/// find that out. `None` when nothing came before `limits.idle_timeout`, the drain or a need of room.
async fn sniff(
    transport: &mut Transport,
    limits: &Limits,
    around: &Surroundings,
) -> Option<(bool, BytesMut)> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut seen = BytesMut::new();
    let mut ear = around.engine.shared().pressure.ear();
    let first = async {
        tokio::select! {
            read = timeout(limits.idle_timeout, transport.read_buf(&mut seen)) => read.ok()?.ok(),
            () = poll_fn(|cx| ear.poll(cx)) => None,
        }
    };
    match around.drain.run_until_cancelled(first).await {
        Some(Some(count)) if count > 0 => {}
        _ => return None,
    }
    let rest = async {
        while PREFACE.starts_with(&seen) && seen.len() < PREFACE.len() {
            // The end of the connection and an error show again to whoever reads next.
            if !transport.read_buf(&mut seen).await.is_ok_and(|count| count > 0) {
                break;
            }
        }
    };
    // A beginning without an end is answered by whoever reads next as well.
    let _ = timeout(limits.request_header_timeout, rest).await;
    Some((seen.starts_with(PREFACE), seen))
}

/// How many client connections there are, in all and by address.
#[derive(Debug, Default)]
pub struct Census {
    all: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub struct Counted {
    census: Arc<Census>,
    address: Option<IpAddr>,
}

impl Census {
    /// Client connections now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Counts a connection, for `address` if that is known, unless that would be more than allowed.
    /// Whoever comes alone always may.
    fn enter(
        census: &Arc<Self>,
        address: Option<IpAddr>,
        limits: &Limits,
        pressure: &Pressure,
    ) -> Option<Counted> {
        let before = census.all.fetch_add(1, Ordering::Relaxed);
        let mut counted = Counted { census: Arc::clone(census), address: None };
        if before >= limits.connections || (before > 0 && pressure.level() == Level::Refuse) {
            return None;
        }
        if before >= pressure.room() {
            pressure.lack(&"the connections leave none for servers");
            return None;
        }
        let fits = address.is_none_or(|address| counted.count_for(address, limits));
        fits.then_some(counted)
    }
}

impl Counted {
    /// Counts the connection for `address`'s customer as well, unless that would be more than allowed. Addresses
    /// are counted only while `connections_per_ip` is set.
    fn count_for(&mut self, address: IpAddr, limits: &Limits) -> bool {
        if limits.connections_per_ip == 0 {
            return true;
        }
        let address = customer(address);
        let by_address = self.census.by_address.lock();
        let mut by_address = by_address.unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= limits.connections_per_ip {
            return false;
        }
        *count += 1;
        self.address = Some(address);
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.census.all.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let by_address = self.census.by_address.lock();
        let mut by_address = by_address.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

/// Lets the kernel take data with the first packet of a returning client (RFC 7413). `queue` is
/// the number of such connections that may be pending.
///
/// # Errors
/// What the system says.
#[cfg(target_os = "linux")]
pub fn enable_fast_open(socket: &std::net::TcpListener, queue: u32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let queue = usize::try_from(queue).unwrap_or(usize::MAX);
    pingora_core::protocols::l4::ext::set_tcp_fastopen_backlog(socket.as_raw_fd(), queue)
        .map_err(|error| std::io::Error::other(error.to_string()))
}

/// There is none here; the configuration refuses the key.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub fn enable_fast_open(_: &std::net::TcpListener, _: u32) -> std::io::Result<()> {
    Ok(())
}
