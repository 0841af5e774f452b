//! Opening a connection to an endpoint: TCP, a PROXY header where the pool asks for it, then TLS where
//! the server's URL says so.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::attempt::{Attempt, Expired};
use super::endpoint::{Belief, Endpoint};
use super::pool::Pool;
use super::wire::{Transport, Wire};
use crate::net::Alarm;
use crate::tls;

/// Why no connection to an endpoint came about.
#[derive(Debug, thiserror::Error)]
pub enum DialFailure {
    /// Nobody listens there, so nothing was sent and any request may go elsewhere.
    #[error("connection refused")]
    Refused(#[source] io::Error),
    /// No route, network down, or a firewall of this machine forbids it.
    #[error("unreachable")]
    Unreachable(#[source] io::Error),
    /// `timeouts.connect` passed.
    #[error("no connection within the time allowed")]
    Timeout,
    /// TCP came about, TLS did not.
    #[error("TLS handshake failed")]
    Tls(#[source] tls::ConnectError),
    /// Every local port towards the server is taken, or this machine has no address to reach it from.
    #[error("no local port is left towards the server")]
    NoPort(#[source] io::Error),
    /// This process is out of descriptors or memory.
    #[error("cannot open a socket")]
    Local(#[source] io::Error),
}

impl DialFailure {
    /// Whether another server may be tried whatever the method: no byte of the request was sent. Ports
    /// are counted for each server, descriptors are not.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Local(_))
    }

    /// Whether it says nothing of the server: it was not even asked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Local(_) | Self::NoPort(_))
    }

    fn from_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                Self::Refused(error)
            }
            io::ErrorKind::TimedOut => Self::Timeout,
            // The second is what Windows says.
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Self::NoPort(error),
            io::ErrorKind::OutOfMemory => Self::Local(error),
            _ if error.raw_os_error().is_some_and(|code| SHORTAGE.contains(&code)) => {
                Self::Local(error)
            }
            _ => Self::Unreachable(error),
        }
    }
}

/// EMFILE and ENFILE, which have no [`io::ErrorKind`].
#[cfg(not(windows))]
const SHORTAGE: [i32; 2] = [24, 23];

/// WSAEMFILE and WSAENOBUFS, which have no [`io::ErrorKind`]; the second says that ports are out,
/// too.
#[cfg(windows)]
const SHORTAGE: [i32; 2] = [10024, 10055];

/// A connection for `attempt` that was kept, if there is one.
#[must_use]
pub fn kept_wire(attempt: &Arc<Attempt>) -> Option<Wire> {
    let max_idle = attempt.pool.spec().timeouts.pool_idle;
    let announcement = attempt.announcement();
    let (transport, alarm) =
        attempt.endpoint().take_idle(Instant::now(), max_idle, announcement)?;
    attempt.connected(true, std::time::Duration::ZERO);
    Some(Wire::new(transport, alarm, Arc::clone(attempt)))
}

/// A new connection for `attempt` within `timeouts.connect` and what is left of the exchange's own
/// time.
///
/// # Errors
/// [`DialFailure`], which is also recorded in the attempt.
pub async fn new_wire(attempt: &Arc<Attempt>) -> Result<Wire, Arc<str>> {
    let opening = opening(attempt);
    let transport = in_time(attempt, dial(&attempt.pool, attempt.endpoint(), &opening)).await?;
    Ok(Wire::new(transport, Alarm::default(), Arc::clone(attempt)))
}

/// Finds out what the server of `attempt` picks between h2 and HTTP/1.1, where that is its choice and
/// `belief` says that it is to be asked. The connection is the attempt's if it is HTTP/1.1; h2 is the
/// engine's to open. One request asks: those that come meanwhile wait for it.
///
/// # Errors
/// When there is no connection; why is recorded in the attempt.
pub async fn learn(
    attempt: &Arc<Attempt>,
    belief: Belief,
) -> Result<(Belief, Option<Box<Wire>>), Arc<str>> {
    let (pool, endpoint) = (&attempt.pool, attempt.endpoint());
    let Some(tls) = pool.choosing_tls(endpoint.server_index) else {
        return Ok((Belief::Http1, None));
    };
    let opening = opening(attempt);
    let asking = async {
        let is_first = belief == Belief::Nothing;
        let turn = if is_first { endpoint.turn_to_ask().await } else { None };
        if is_first && let known @ (Belief::H2 | Belief::Http1) = endpoint.belief() {
            return Ok((known, None));
        }
        let transport = dial_with(Some(tls), endpoint, &opening).await?;
        let is_h2 = transport.speaks_h2();
        endpoint.note_spoken(is_h2);
        drop(turn);
        Ok(if is_h2 { (Belief::H2, None) } else { (Belief::Http1, Some(transport)) })
    };
    let (belief, transport) = in_time(attempt, asking).await?;
    let wire = |transport| Box::new(Wire::new(transport, Alarm::default(), Arc::clone(attempt)));
    Ok((belief, transport.map(wire)))
}

/// How TLS is spoken, if it is, and under which name.
type Tls<'a> = Option<(&'a Arc<tls::ClientConfig>, tls::ServerName<'static>)>;

/// What a connection for `attempt` begins with.
pub(super) fn opening(attempt: &Attempt) -> Vec<u8> {
    attempt.announcement().map(|it| it.header()).unwrap_or_default()
}

/// What comes of `dialling` for `attempt` in time.
async fn in_time<T>(
    attempt: &Attempt,
    dialling: impl Future<Output = Result<T, DialFailure>>,
) -> Result<T, Arc<str>> {
    let started = Instant::now();
    let limit = started + attempt.pool.spec().timeouts.connect;
    let whole = attempt.exchange_deadline.filter(|end| *end < limit);
    let end = tokio::time::Instant::from_std(whole.unwrap_or(limit));
    let outcome = match tokio::time::timeout_at(end, dialling).await {
        Ok(outcome) => outcome,
        Err(_) => {
            if whole.is_some() {
                attempt.expire(Expired::Exchange);
            }
            Err(DialFailure::Timeout)
        }
    };
    match outcome {
        Ok(found) => {
            attempt.connected(false, started.elapsed());
            Ok(found)
        }
        Err(failure) => {
            let text = failure.to_string().into();
            attempt.connected(false, started.elapsed());
            attempt.fail_dial(failure);
            Err(text)
        }
    }
}

/// A new connection to `endpoint` of `pool` that begins with `opening`. It sets no deadline: the
/// caller bounds the future.
///
/// # Errors
/// [`DialFailure`].
pub(super) async fn dial(
    pool: &Pool,
    endpoint: &Endpoint,
    opening: &[u8],
) -> Result<Transport, DialFailure> {
    dial_with(pool.client_tls(endpoint.server_index), endpoint, opening).await
}

async fn dial_with(
    tls: Tls<'_>,
    endpoint: &Endpoint,
    opening: &[u8],
) -> Result<Transport, DialFailure> {
    let stream = open(endpoint, opening).await?;
    match tls {
        Some((config, name)) => {
            let stream =
                tls::connect(config, name, stream.into()).await.map_err(DialFailure::Tls)?;
            Ok(Transport::Tls(Box::new(stream)))
        }
        None => Ok(Transport::Plain(stream)),
    }
}

/// A TCP connection to `endpoint` that begins with `opening`.
///
/// # Errors
/// [`DialFailure`].
pub(super) async fn open(endpoint: &Endpoint, opening: &[u8]) -> Result<TcpStream, DialFailure> {
    let (address, other) = endpoint.addresses();
    let mut stream = match (connect(address).await, other) {
        // Without IPv6 there is no address for its loopback.
        (Err(first @ (DialFailure::Refused(_) | DialFailure::NoPort(_))), Some(other)) => {
            let stream = connect(other)
                .await
                .map_err(|second| graver(first, second, || has_address(address.ip())))?;
            endpoint.found_at(other);
            stream
        }
        (outcome, _) => outcome?,
    };
    if !opening.is_empty() {
        stream.write_all(opening).await.map_err(DialFailure::from_connect)?;
    }
    Ok(stream)
}

/// What is told of the failures at two addresses. That nobody listens at the `second` says nothing of
/// the `first` where ports are out.
fn graver(
    first: DialFailure,
    second: DialFailure,
    has_first: impl FnOnce() -> bool,
) -> DialFailure {
    match (&first, &second) {
        (DialFailure::NoPort(_), DialFailure::Refused(_)) if has_first() => first,
        _ => second,
    }
}

/// Whether this machine has `address`: ports of UDP are not those that connections take.
fn has_address(address: IpAddr) -> bool {
    let bound = UdpSocket::bind((address, 0));
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialFailure> {
    let stream = TcpStream::connect(address).await.map_err(DialFailure::from_connect)?;
    stream.set_nodelay(true).map_err(DialFailure::from_connect)?;
    Ok(stream)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_at_the_other_loopback_does_not_hide_that_ports_are_out() {
        let refused = || DialFailure::Refused(io::ErrorKind::ConnectionRefused.into());
        let no_port = || DialFailure::NoPort(io::ErrorKind::AddrNotAvailable.into());
        for (first, second, has_first, is_ours) in [
            (no_port(), refused(), true, true),
            (no_port(), refused(), false, false),
            (refused(), no_port(), true, true),
            (refused(), refused(), true, false),
            (no_port(), DialFailure::Timeout, true, false),
        ] {
            let told = format!("{first}, {second}, {has_first}");
            assert_eq!(graver(first, second, || has_first).is_ours(), is_ours, "{told}");
        }
        assert!(has_address([127, 0, 0, 1].into()));
        assert!(!has_address([192, 0, 2, 1].into()), "is nobody's (RFC 5737)");
    }

    #[test]
    fn only_what_this_process_lacks_is_its_own_fault() {
        // By Linux's numbers where they are the same on every Unix, else by kind.
        let raw = io::Error::from_raw_os_error;
        for (error, expected) in [
            (raw(24), "cannot open a socket"), // EMFILE
            (raw(23), "cannot open a socket"), // ENFILE
            (raw(12), "cannot open a socket"), // ENOMEM
            (io::ErrorKind::AddrNotAvailable.into(), "no local port is left towards the server"),
            (io::ErrorKind::AddrInUse.into(), "no local port is left towards the server"),
            (raw(1), "unreachable"),  // EPERM: a firewall of this machine
            (raw(13), "unreachable"), // EACCES: likewise
            (raw(22), "unreachable"), // EINVAL
            (io::ErrorKind::HostUnreachable.into(), "unreachable"),
            (io::ErrorKind::NetworkUnreachable.into(), "unreachable"),
            (io::ErrorKind::ConnectionAborted.into(), "unreachable"),
            (io::ErrorKind::ConnectionRefused.into(), "connection refused"),
            (io::ErrorKind::ConnectionReset.into(), "connection refused"),
            (io::ErrorKind::TimedOut.into(), "no connection within the time allowed"),
        ] {
            let text = error.to_string();
            let failure = DialFailure::from_connect(error);
            assert_eq!(failure.to_string(), expected, "{text}");
            assert_eq!(failure.is_retryable(), expected != "cannot open a socket", "{text}");
            let is_ours = !failure.is_retryable() || expected.starts_with("no local port");
            assert_eq!(failure.is_ours(), is_ours, "{text}");
        }
    }
}
