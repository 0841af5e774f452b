//! `listeners:`: the sockets we accept on and what is spoken there.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::client_auth::ClientAuth;
use super::diagnostic::{Span, quoted};
use super::grammar::{LISTENER, LISTENER_TLS};
use super::reading::{Reading, shown};
use super::tree::{Map, Node, Scalar};
use super::value;
use crate::net::{Cidr, CidrSet};

/// One entry of `listeners:`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// The key under `listeners:`.
    pub name: String,
    /// At least one address.
    pub bind: Vec<BindAddress>,
    /// What a client speaks first.
    pub protocol: Protocol,
    /// Offered protocols in order of preference. On an `http` listener `h2` means prior-knowledge
    /// h2c beside HTTP/1.1. Default `[h2, http/1.1]` on https, `[http/1.1]` on http.
    pub alpn: Vec<Alpn>,
    /// Default 1.2. Present on http listeners too, where it has no effect and cannot be written.
    pub min_tls_version: TlsVersion,
    /// Client certificates, where the site does not say otherwise. Default: nobody is asked.
    pub client_auth: Option<ClientAuth>,
    /// Length of the kernel's accept queue. Default 4096.
    pub backlog: u32,
    /// Queue length of TCP Fast Open (RFC 7413); `None` leaves it off. Linux only.
    pub tcp_fast_open: Option<u32>,
    /// Idle time before the kernel probes a silent peer; `None` leaves keep-alive off. Default 60 s.
    pub keepalive: Option<Duration>,
    /// Who must begin a connection with a PROXY header, and may connect at all; `None`: connections
    /// come from clients themselves.
    pub proxy_protocol: Option<CidrSet>,
}

/// Where a listener binds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BindAddress {
    /// `":443"`: the port on every IPv6 and IPv4 address.
    Any {
        /// 0 asks the kernel for a free port.
        port: u16,
    },
    /// `"127.0.0.1:8080"`, `"[::]:443"`: one address, IPv6 ones without IPv4.
    Addr(SocketAddr),
}

impl BindAddress {
    /// Whether the kernel chooses the port.
    #[must_use]
    pub fn is_any_port(self) -> bool {
        match self {
            Self::Any { port } => port == 0,
            Self::Addr(address) => address.port() == 0,
        }
    }
}

/// What a client speaks first on a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Plain HTTP.
    Http,
    /// TLS, then HTTP by ALPN.
    Https,
}

/// An application protocol a listener offers (RFC 7301).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// `h2` (RFC 9113).
    H2,
    /// `http/1.1` (RFC 9112).
    Http1,
}

/// The oldest TLS version a listener or an upstream accepts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), AEAD suites only.
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// Reads `listeners:`; absent, the two that everybody expects.
pub(super) fn read_all(node: &Node, reading: &mut Reading) -> Option<Vec<Listener>> {
    value::map(node, reading, |map, reading| {
        if map.entries.is_empty() {
            reading.error(map.span, "at least one listener is needed");
        }
        let mut taken = Vec::new();
        let read = |entry: &super::tree::Entry| {
            value::map_with(&entry.value, "protocol: http, bind", reading, |map, reading| {
                Listener::read(&entry.key, map, &mut taken, reading)
            })
        };
        Some(map.entries.iter().filter_map(read).collect())
    })
}

impl Listener {
    fn read(
        name: &Scalar,
        map: &Map,
        taken: &mut Vec<(BindAddress, Span)>,
        reading: &mut Reading,
    ) -> Option<Self> {
        let mut keys = map.keys(&LISTENER, reading);
        let bind = keys.list("bind", |node, reading| {
            let address = BindAddress::read(node, reading)?;
            address.claim(node.span(), taken, reading);
            Some(address)
        });
        let words = [("http", Protocol::Http), ("https", Protocol::Https)];
        let protocol = keys.choice("protocol", &words);
        let alpn = keys.choices("alpn", &[("h2", Alpn::H2), ("http/1.1", Alpn::Http1)]);
        let tls = keys.section("tls", Tls::read);
        if let (Some(Protocol::Http), Some(span)) = (protocol, keys.span_of("tls")) {
            keys.reading.error_hint(
                span,
                "\"tls\" has no meaning on an http listener",
                "write \"protocol: https\", or remove it",
            );
        }
        if let Some(span) = keys.span_of("alpn") {
            check_alpn(&alpn, protocol, span, keys.reading);
        }
        let backlog = keys.count("backlog");
        let tcp_fast_open = keys.count("tcp_fast_open");
        if let (Some(span), false) = (keys.span_of("tcp_fast_open"), cfg!(target_os = "linux")) {
            keys.reading.error(span, "\"tcp_fast_open\" works on Linux only");
        }
        let keepalive = keys.read("keepalive", read_keepalive);
        let senders = keys.list("proxy_protocol", read_sender);
        let proxy_protocol = keys.span_of("proxy_protocol").map(|_| senders.into_iter().collect());
        keys.finish();
        Some(Self {
            name: name.text.to_string(),
            bind,
            protocol: protocol?,
            alpn: if alpn.is_empty() { default_alpn(protocol?) } else { alpn },
            min_tls_version: tls.as_ref()?.min_version,
            client_auth: tls?.client_auth,
            backlog: backlog?,
            tcp_fast_open,
            keepalive: keepalive?,
            proxy_protocol,
        })
    }

    /// Whether TLS is spoken on it.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.protocol == Protocol::Https
    }
}

fn default_alpn(protocol: Protocol) -> Vec<Alpn> {
    match protocol {
        Protocol::Http => vec![Alpn::Http1],
        Protocol::Https => vec![Alpn::H2, Alpn::Http1],
    }
}

fn check_alpn(alpn: &[Alpn], protocol: Option<Protocol>, span: Span, reading: &mut Reading) {
    if alpn.len() > 1 && alpn.first() == alpn.last() {
        reading.error(span, "the same protocol stands twice in \"alpn\"");
    }
    if protocol == Some(Protocol::Http) && alpn == [Alpn::H2] {
        let message = "an http listener cannot refuse http/1.1";
        reading.error_hint(span, message, "write [h2, http/1.1]");
    }
}

/// `tls:` of a listener.
struct Tls {
    min_version: TlsVersion,
    client_auth: Option<ClientAuth>,
}

impl Tls {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let faults = reading.faults.error_count();
        let mut keys = map.keys(&LISTENER_TLS, reading);
        let min_version =
            keys.choice("min_version", &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)]);
        let client_auth = keys.read("client_auth", ClientAuth::read);
        keys.finish();
        // A rule that could not be read is not one that is not there.
        (reading.faults.error_count() == faults)
            .then_some(Self { min_version: min_version?, client_auth: client_auth.flatten() })
    }
}

#[expect(clippy::option_option, reason = "outer: whether it could be read; inner: the setting")]
fn read_keepalive(node: &Node, reading: &mut Reading) -> Option<Option<Duration>> {
    if let Node::Scalar(scalar) = node
        && &*scalar.text == "off"
    {
        return Some(None);
    }
    value::duration(node, reading).map(Some)
}

fn read_sender(node: &Node, reading: &mut Reading) -> Option<Cidr> {
    let block = value::block(node, reading)?;
    if block.prefix() == 0 {
        let message = "whoever can connect can say that he is somebody else";
        reading.warning(node.span(), message, "list the addresses of the load balancers alone");
    }
    Some(block)
}

impl BindAddress {
    /// Reads `":443"`, `"127.0.0.1:8080"` or `"[::1]:8443"`.
    pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let scalar = value::scalar(node, reading)?;
        let text = &*scalar.text;
        let port = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { text.parse::<u16>().ok() } else { None }
        };
        if let Some(port) = text.strip_prefix(':').and_then(port) {
            return Some(Self::Any { port });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self::Addr(address));
        }
        let message = format!("{} is not an address to listen on", quoted(shown(scalar)));
        reading.wrong(scalar, message, hint_for(text));
        None
    }

    /// The port; 0 asks the kernel for a free one.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Any { port } => *port,
            Self::Addr(address) => address.port(),
        }
    }

    /// Remembers that `self` is taken, and reports it where something else takes it already.
    pub(super) fn claim(self, span: Span, taken: &mut Vec<(Self, Span)>, reading: &mut Reading) {
        if taken.len() >= MOST_ADDRESSES {
            let message = format!("more than {MOST_ADDRESSES} addresses to listen on");
            return reading.error(span, message);
        }
        if let Some((other, first)) = taken.iter().find(|(other, _)| self.overlaps(*other)) {
            let how = if *other == self { "is listened on twice" } else { "overlaps another one" };
            let message = format!("{} {how}", quoted(&self.to_string()));
            reading.error_hint(span, message, format!("{other} stands at line {}", first.line));
        }
        taken.push((self, span));
    }

    /// Whether both cannot be bound at once.
    pub(super) fn overlaps(self, other: Self) -> bool {
        if self.port() != other.port() || self.port() == 0 {
            return false;
        }
        match (self, other) {
            (Self::Addr(a), Self::Addr(b)) => {
                let same_family = a.is_ipv4() == b.is_ipv4();
                let is_any = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.ip() == b.ip() || (same_family && is_any)
            }
            _ => true,
        }
    }
}

impl std::fmt::Display for BindAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any { port } => write!(f, ":{port}"),
            Self::Addr(address) => address.fmt(f),
        }
    }
}

/// Each takes a socket, and is compared with every other one.
const MOST_ADDRESSES: usize = 1000;

/// What was probably meant by a text that is no address.
fn hint_for(text: &str) -> String {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    if is_port(text) {
        return format!("write \":{text}\"");
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && let (Ok(host), true) = (host.parse::<std::net::Ipv6Addr>(), is_port(port))
    {
        return format!("write \"[{host}]:{port}\"");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return format!("add a port: \"{}\"", SocketAddr::new(address, 443));
    }
    match text.rsplit_once(':') {
        Some(("*" | "", port)) if is_port(port) => format!("write \":{port}\""),
        Some(("localhost", port)) if is_port(port) => format!("write \"127.0.0.1:{port}\""),
        Some((_, port)) if is_port(port) => {
            "write an IP address and a port; a name cannot be listened on".to_owned()
        }
        _ => "such as \":443\", \"127.0.0.1:8080\" or \"[::1]:8443\", port 0 to 65535".to_owned(),
    }
}
