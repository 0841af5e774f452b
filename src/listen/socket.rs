//! The sockets of a listener.
//!
//! Answers "can every address of this listener be had, and what is to be done when accepting
//! fails?". Called by `app` before anything runs, and by the accept loops. Never accepts or reads.
//!
//! TCP Fast Open is set in `connection`, with the one safe setter there is: the engine's.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use crate::config::listener::{BindAddress, Listener};
use crate::proxy::pressure::is_shortage;

/// A socket that listens, and its address.
#[derive(Debug)]
pub struct Bound {
    /// Non-blocking, ready for `tokio::net::TcpListener::from_std`.
    pub socket: TcpListener,
    /// Where it listens; the port is the real one where 0 was asked for.
    pub local: SocketAddr,
    /// Whether a service manager has it open as well.
    pub is_held: bool,
}

/// Why an address of a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener} cannot use {address}: {cause}")]
pub struct BindError {
    /// The listener's name.
    pub listener: String,
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What an operator can do something about.
    pub cause: BindCause,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// What stands in the way of binding an address; its text says what to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindCause {
    /// Another socket has it.
    InUse,
    /// A socket of ours has the port, for more or for other addresses.
    Ours,
    /// So has one of the gateway in whose place this process is started.
    Before,
    /// So has one that a service manager has open as well.
    Held,
    /// The process may not take a port below 1024. Unix only.
    PrivilegedPort,
    /// Not allowed; on Windows that is a port which is reserved or held by another program.
    Denied,
    /// The address belongs to no interface of this machine.
    NotHere,
    /// The machine does not speak the address's family.
    NoFamily,
    /// Something else; the source says what.
    Other,
}

/// What an accept loop does after an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AcceptAction {
    /// The connection is gone before we had it, or the call was interrupted: accept the next.
    Retry,
    /// The process or the system is short of something. The connections wait in the backlog;
    /// accepting at once would only spin.
    Pause(Duration),
    /// The listening socket is of no use any more.
    Fatal,
}

/// How long accepting rests when descriptors or memory are short: long enough not to burn the
/// processor, short enough that a client hardly notices.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Binds and listens on every address of `listener`, or on none.
///
/// [`BindAddress::Any`] is one socket for IPv6 and IPv4 together, or IPv4 alone on a system without
/// IPv6. An explicit IPv6 address never takes IPv4 connections.
///
/// # Errors
/// [`BindError`] for the first address that cannot be had; those before it are released.
pub fn bind(listener: &Listener) -> Result<Vec<Bound>, BindError> {
    listener.bind.iter().map(|&address| bind_address(listener, address)).collect()
}

/// Sets what every accepted connection gets: `TCP_NODELAY`, and keep-alive as the listener says.
///
/// # Errors
/// What the system says, usually that the peer has already gone.
pub fn tune(stream: &TcpStream, listener: &Listener) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match listener.keepalive {
        Some(idle) => SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle)),
        None => Ok(()),
    }
}

/// What to do after `accept` returned `error`.
///
/// The numbers are the system's own: many of them have no [`io::ErrorKind`]. Linux also returns
/// what is wrong with the *new* connection (accept(2), "Error handling"), so the network's errors
/// are no reason to stop.
#[must_use]
pub fn accept_error(error: &io::Error) -> AcceptAction {
    match error.raw_os_error() {
        _ if is_shortage(error) => return AcceptAction::Pause(SHORTAGE_PAUSE),
        Some(code) if unusable::CODES.contains(&code) => return AcceptAction::Fatal,
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::InvalidInput => AcceptAction::Fatal,
        _ => AcceptAction::Retry,
    }
}

/// The listening socket itself is wrong.
mod unusable {
    /// EBADF, EFAULT, EINVAL, ENOTSOCK, EOPNOTSUPP on Linux.
    #[cfg(not(windows))]
    pub(super) const CODES: [i32; 5] = [9, 14, 22, 88, 95];
    /// WSAENOTSOCK, WSAEOPNOTSUPP, WSAEINVAL, WSANOTINITIALISED.
    #[cfg(windows)]
    pub(super) const CODES: [i32; 4] = [10038, 10045, 10022, 10093];
}

/// Binds and listens on `address`, one of `listener`'s, as [`bind`] does on all of them.
///
/// # Errors
/// [`BindError`] when it cannot be had.
pub fn bind_address(listener: &Listener, address: BindAddress) -> Result<Bound, BindError> {
    bind_with(listener, address, false)
}

/// The same where sockets of `ours` listen on the port already, for more addresses or for fewer. It does
/// not listen before [`listen_beside`]: from then on it has the clients of its address.
///
/// # Errors
/// [`BindError`] when it cannot be had, with [`BindCause::Ours`] where the system lets none of the
/// process's own sockets stand beside another.
pub fn bind_beside(
    listener: &Listener,
    address: BindAddress,
    ours: &[&TcpListener],
) -> Result<Bound, BindError> {
    let bound = sharing(ours, || bind_with(listener, address, true));
    bound.map_err(|error| match error.cause {
        BindCause::InUse => BindError { cause: BindCause::Ours, ..error },
        _ => error,
    })
}

/// Has `socket`, which [`bind_beside`] has bound, listen beside `ours`. They go on listening, so that
/// nobody is refused in between; it is the caller's to close them.
///
/// # Errors
/// What the system says.
pub fn listen_beside(
    listener: &Listener,
    socket: &TcpListener,
    ours: &[&TcpListener],
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    sharing(ours, || socket.listen(backlog(listener)))?;
    share_port(&socket, false)
}

/// Does `action` while sockets of this user may be bound to the port of `ours`.
fn sharing<T>(ours: &[&TcpListener], action: impl FnOnce() -> T) -> T {
    let share = |is_shared| {
        for socket in ours {
            // Without it the action fails, which tells.
            let _ = share_port(&SockRef::from(*socket), is_shared);
        }
    };
    share(true);
    let outcome = action();
    share(false);
    outcome
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.backlog).unwrap_or(i32::MAX)
}

fn bind_with(
    listener: &Listener,
    address: BindAddress,
    is_shared: bool,
) -> Result<Bound, BindError> {
    match address {
        BindAddress::Addr(address) => listen(listener, address, (true, is_shared)),
        BindAddress::Any { port } => {
            let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            match listen(listener, every, (false, is_shared)) {
                Err(error) if error.cause.is_no_ipv6() => {
                    let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                    listen(listener, every, (true, is_shared))
                }
                outcome => outcome,
            }
        }
    }
}

/// Lets sockets of the same user that are shared as well be bound to the same port, or no more. Linux
/// asks when they are bound, and when they begin to listen (socket(7), `SO_REUSEPORT`).
#[cfg(target_os = "linux")]
fn share_port(socket: &Socket, is_shared: bool) -> io::Result<()> {
    socket.set_reuse_port(is_shared)
}

#[cfg(not(target_os = "linux"))]
fn share_port(_socket: &Socket, _is_shared: bool) -> io::Result<()> {
    Ok(())
}

/// Keeps other processes from binding the same port beside us: without this, one that sets
/// `SO_REUSEADDR` could take our clients (Microsoft, "Using SO_REUSEADDR and
/// SO_EXCLUSIVEADDRUSE").
#[cfg(windows)]
#[expect(unsafe_code, reason = "neither std nor socket2 has a setter for this option")]
fn take_exclusively(socket: &Socket) -> io::Result<()> {
    use std::os::windows::io::AsRawSocket;
    use windows_sys::Win32::Networking::WinSock::{SO_EXCLUSIVEADDRUSE, SOL_SOCKET, setsockopt};

    let on: i32 = 1;
    // SAFETY: the socket stays open during the call, and pointer and length describe `on`.
    let outcome = unsafe {
        setsockopt(
            socket.as_raw_socket() as usize,
            SOL_SOCKET,
            SO_EXCLUSIVEADDRUSE,
            (&raw const on).cast(),
            size_of::<i32>() as i32,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `how` says whether an IPv6 address is that alone, and whether its port is shared with sockets of ours,
/// beside which it does not listen yet.
fn listen(listener: &Listener, address: SocketAddr, how: (bool, bool)) -> Result<Bound, BindError> {
    open(listener, address, how).map_err(|source| BindError {
        listener: listener.name.clone(),
        address,
        cause: BindCause::of(&source, address),
        source,
    })
}

fn open(
    listener: &Listener,
    address: SocketAddr,
    (is_only_v6, is_shared): (bool, bool),
) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(is_only_v6)?;
    }
    // On Unix this only lets us bind while old connections are in TIME_WAIT; on Windows it would
    // let two processes share a live port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    #[cfg(windows)]
    take_exclusively(&socket)?;
    socket.set_nonblocking(true)?;
    if is_shared {
        share_port(&socket, true)?;
    }
    socket.bind(&address.into())?;
    if !is_shared {
        socket.listen(backlog(listener))?;
    }
    let socket = TcpListener::from(socket);
    let local = socket.local_addr()?;
    Ok(Bound { socket, local, is_held: false })
}

impl BindCause {
    fn of(error: &io::Error, address: SocketAddr) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse,
            io::ErrorKind::PermissionDenied if is_privileged(address.port()) => {
                Self::PrivilegedPort
            }
            io::ErrorKind::PermissionDenied => Self::Denied,
            io::ErrorKind::AddrNotAvailable => Self::NotHere,
            _ if error.raw_os_error().is_some_and(|code| NO_FAMILY.contains(&code)) => {
                Self::NoFamily
            }
            _ => Self::Other,
        }
    }

    /// Whether `[::]` fails because there is no IPv6: the family is missing, or it is there and
    /// switched off, so that no interface has an address.
    fn is_no_ipv6(self) -> bool {
        matches!(self, Self::NoFamily | Self::NotHere)
    }
}

/// Windows has no such ports.
fn is_privileged(port: u16) -> bool {
    cfg!(unix) && (1..1024).contains(&port)
}

/// EAFNOSUPPORT, EPROTONOSUPPORT and ENOPROTOOPT.
#[cfg(not(windows))]
const NO_FAMILY: [i32; 3] = [97, 93, 92];
/// WSAEAFNOSUPPORT, WSAEPROTONOSUPPORT and WSAENOPROTOOPT.
#[cfg(windows)]
const NO_FAMILY: [i32; 3] = [10047, 10043, 10042];

impl fmt::Display for BindCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "the address is in use; stop the other program or choose another port",
            Self::Ours => {
                "the gateway itself listens on this port, for other addresses than the configuration \
                 asks for now; that takes a restart to change"
            }
            Self::Before => {
                "the gateway before listens on this port, for other addresses than the configuration \
                 asks for now; reload that one first, then upgrade"
            }
            Self::Held => {
                "the service manager holds this port, for other addresses than the configuration asks \
                 for; change ListenStream= of its .socket unit to the address of `bind:`, then restart \
                 that unit and the gateway"
            }
            Self::PrivilegedPort => {
                "ports below 1024 need a privilege; grant it with \
                 `setcap cap_net_bind_service=+ep`, use authbind, or choose a higher port"
            }
            Self::Denied if cfg!(windows) => {
                "another program holds the port, or it is reserved (see `netsh interface ipv4 show \
                 excludedportrange protocol=tcp`)"
            }
            Self::Denied => "not permitted",
            Self::NotHere => "no interface of this machine has the address",
            Self::NoFamily => "this machine does not speak the address's family",
            Self::Other => "the system refused it",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpStream as StdStream};

    use super::*;
    use crate::config::listener::{Alpn, Protocol, TlsVersion};

    fn listener(bind: Vec<BindAddress>) -> Listener {
        Listener {
            name: "web".to_owned(),
            bind,
            protocol: Protocol::Http,
            alpn: vec![Alpn::Http1],
            min_tls_version: TlsVersion::V1_2,
            client_auth: None,
            backlog: 16,
            tcp_fast_open: None,
            keepalive: Some(Duration::from_secs(60)),
            proxy_protocol: None,
        }
    }

    fn addr(text: &str) -> BindAddress {
        BindAddress::Addr(text.parse().unwrap())
    }

    fn has_ipv6() -> bool {
        TcpListener::bind("[::1]:0").is_ok()
    }

    #[test]
    fn every_address_of_a_listener_is_bound_and_known() {
        let bound = bind(&listener(vec![addr("127.0.0.1:0"), addr("127.0.0.1:0")])).unwrap();
        assert_eq!(bound.len(), 2);
        assert_ne!(bound[0].local.port(), bound[1].local.port());
        for Bound { socket, local, .. } in &bound {
            assert_ne!(local.port(), 0);
            let none = socket.accept().unwrap_err();
            assert_eq!(none.kind(), io::ErrorKind::WouldBlock, "non-blocking");
            StdStream::connect(local).unwrap();
        }
    }

    #[test]
    fn any_is_one_socket_for_both_families() {
        let bound = bind(&listener(vec![BindAddress::Any { port: 0 }])).unwrap();
        let [Bound { local, .. }] = bound.as_slice() else { panic!("{bound:?}") };
        StdStream::connect((IpAddr::from(Ipv4Addr::LOCALHOST), local.port())).unwrap();
        if has_ipv6() {
            assert!(local.is_ipv6());
            StdStream::connect((IpAddr::from(Ipv6Addr::LOCALHOST), local.port())).unwrap();
        }
    }

    #[test]
    fn an_explicit_ipv6_address_takes_no_ipv4() {
        if !has_ipv6() {
            return;
        }
        let bound = bind(&listener(vec![addr("[::]:0")])).unwrap();
        let port = bound[0].local.port();
        StdStream::connect((IpAddr::from(Ipv6Addr::LOCALHOST), port)).unwrap();
        assert!(SockRef::from(&bound[0].socket).only_v6().unwrap());
        let beside = listener(vec![BindAddress::Addr((Ipv4Addr::UNSPECIFIED, port).into())]);
        bind(&beside).expect("the port's IPv4 half is free");
    }

    #[test]
    fn an_address_in_use_is_named_with_its_listener() {
        let first = bind(&listener(vec![addr("127.0.0.1:0")])).unwrap();
        let taken = listener(vec![addr("127.0.0.1:0"), BindAddress::Addr(first[0].local)]);
        let error = bind(&taken).unwrap_err();
        assert_eq!((error.cause, error.address), (BindCause::InUse, first[0].local));
        let text = error.to_string();
        let start = format!("listener web cannot use {}: the address is in use", first[0].local);
        assert!(text.starts_with(&start), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_called_so() {
        let error = bind(&listener(vec![addr("192.0.2.1:0")])).unwrap_err();
        assert_eq!(error.cause, BindCause::NotHere, "192.0.2.0/24 is for documentation");
    }

    #[test]
    fn the_cause_of_a_refused_port_depends_on_the_port() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let low = BindCause::of(&denied, "127.0.0.1:443".parse().unwrap());
        let high = BindCause::of(&denied, "127.0.0.1:8443".parse().unwrap());
        assert_eq!(high, BindCause::Denied);
        if cfg!(unix) {
            assert_eq!(low, BindCause::PrivilegedPort);
            assert!(low.to_string().contains("setcap"), "{low}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_system_without_ipv6_is_recognised() {
        let address = "[::]:0".parse().unwrap();
        for code in [97, 99] {
            let error = io::Error::from_raw_os_error(code);
            assert!(BindCause::of(&error, address).is_no_ipv6(), "{error}");
        }
        let taken = io::Error::from_raw_os_error(98);
        assert!(!BindCause::of(&taken, address).is_no_ipv6(), "{taken}");
    }

    #[tokio::test]
    async fn accepted_connections_have_nodelay_and_keepalive() {
        for keepalive in [Some(Duration::from_secs(42)), None] {
            let listener = Listener { keepalive, ..listener(vec![addr("127.0.0.1:0")]) };
            let Bound { socket, local, .. } = bind(&listener).unwrap().remove(0);
            let accepting = tokio::net::TcpListener::from_std(socket).unwrap();
            let _client = StdStream::connect(local).unwrap();
            let (stream, _) = accepting.accept().await.unwrap();
            tune(&stream, &listener).unwrap();
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(&stream);
            assert_eq!(socket.keepalive().unwrap(), keepalive.is_some());
            #[cfg(unix)]
            if let Some(idle) = keepalive {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), idle);
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn accept_errors_pause_on_shortage_and_end_on_a_dead_socket() {
        let pause = AcceptAction::Pause(SHORTAGE_PAUSE);
        let cases = [
            (23, pause),                // ENFILE
            (24, pause),                // EMFILE
            (12, pause),                // ENOMEM
            (105, pause),               // ENOBUFS
            (103, AcceptAction::Retry), // ECONNABORTED
            (104, AcceptAction::Retry), // ECONNRESET
            (4, AcceptAction::Retry),   // EINTR
            (71, AcceptAction::Retry),  // EPROTO
            (1, AcceptAction::Retry),   // EPERM: a firewall rule
            (113, AcceptAction::Retry), // EHOSTUNREACH
            (9, AcceptAction::Fatal),   // EBADF
            (22, AcceptAction::Fatal),  // EINVAL
            (88, AcceptAction::Fatal),  // ENOTSOCK
        ];
        for (code, action) in cases {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(accept_error(&error), action, "{error}");
        }
    }

    #[cfg(windows)]
    #[test]
    fn accept_errors_pause_on_shortage_and_end_on_a_dead_socket() {
        let pause = AcceptAction::Pause(SHORTAGE_PAUSE);
        let cases = [
            (10024, pause),               // WSAEMFILE
            (10055, pause),               // WSAENOBUFS
            (10054, AcceptAction::Retry), // WSAECONNRESET
            (10038, AcceptAction::Fatal), // WSAENOTSOCK
        ];
        for (code, action) in cases {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(accept_error(&error), action, "{error}");
        }
    }
}
