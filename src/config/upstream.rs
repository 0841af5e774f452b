//! `upstreams:`: pools of servers and how they are spoken to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Span, quoted};
use super::grammar::UPSTREAM;
use super::grammar_upstream::{HOST, POOL_LIMITS, SERVER, TIMEOUTS, UPSTREAM_TLS};
use super::health::{Health, Retry};
use super::reading::{Reading, shown};
use super::tree::{Entry, Map, Node, Scalar};
use super::{url, value};
use crate::net::proxy_protocol::Version;
use crate::net::{Host, HostName};

/// One entry of `upstreams:`, or a URL written where a pool's name may stand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// The key under `upstreams:`, or the URL as written.
    pub name: String,
    /// At least one.
    pub servers: Vec<Server>,
    /// Default least requests.
    pub balance: Balance,
    /// What the `Host` header carries to the server. Default preserve.
    pub host: HostHeader,
    /// Deadlines towards the servers.
    pub timeouts: Timeouts,
    /// Bounds on the pool.
    pub limits: PoolLimits,
    /// For servers with an `https` URL.
    pub tls: UpstreamTls,
    /// Default http/1.1.
    pub protocol: UpstreamProtocol,
    /// What every connection begins with; `None`: nothing.
    pub proxy_protocol: Option<Version>,
    /// Active checks; `None`: servers count as healthy.
    pub health: Option<Health>,
    /// When a request is tried again.
    pub retry: Retry,
}

/// One server of a pool.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Server {
    /// The URL as written.
    pub url: String,
    /// Whether TLS is spoken (`https`).
    pub https: bool,
    /// Name or address.
    pub host: Host,
    /// Default 80 or 443 by scheme.
    pub port: u16,
    /// Share of requests relative to its siblings, 1–1000. Default 1.
    pub weight: u32,
    /// Whether it is used only while no other server is available. Default false.
    pub backup: bool,
}

/// How a pool picks among its servers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The less busy, by weight, of two chosen at random.
    LeastRequests,
    /// At random, by weight.
    Random,
}

/// What the `Host` header carries to the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The server's own name and port.
    Upstream,
    /// This one.
    Name(String),
}

/// `timeouts:` of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// TCP and TLS together; also the wait for a place in the pool, and for the first look-up.
    /// Default 5 s.
    pub connect: Duration,
    /// From the request's end to the response's head. Default 60 s.
    pub response: Duration,
    /// Longest gap in the response's body. Default 60 s.
    pub read: Duration,
    /// How long an unused connection is kept. Default 60 s.
    pub pool_idle: Duration,
}

/// `limits:` of a pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PoolLimits {
    /// Requests in flight to all servers of the pool together. Default 512.
    pub connections: usize,
    /// Requests that wait for one of those places, up to `timeouts.connect`; more are answered 503
    /// at once. Default 1024.
    pub pending: usize,
}

/// `tls:` of a pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamTls {
    /// PEM file of the CAs to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Whether the server's certificate is checked. Default true.
    pub verify: bool,
    /// Name sent as SNI and checked; default the URL's host.
    pub server_name: Option<HostName>,
    /// Chain and key we present.
    pub client: Option<ClientCertificate>,
}

/// The certificate we present to a server that asks for one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCertificate {
    /// PEM file of the chain, leaf first.
    pub chain: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
}

/// What is spoken to the servers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 with prior knowledge over plain TCP.
    H2c,
    /// By ALPN over TLS; HTTP/1.1 over plain TCP.
    Auto,
}

/// Reads `upstreams:`.
pub(super) fn read_all(node: &Node, reading: &mut Reading) -> Option<Vec<Upstream>> {
    value::map(node, reading, |map, reading| {
        let read = |entry: &Entry| {
            if entry.key.text.contains("://") {
                let message = "a pool's name cannot be a URL";
                reading.error_hint(entry.key.span, message, "list the URL under its `servers:`");
            }
            value::map_with(&entry.value, "servers", reading, |map, reading| {
                Upstream::read(&entry.key, map, reading)
            })
        };
        Some(map.entries.iter().filter_map(read).collect())
    })
}

/// The pool that a name or a URL stands for, as an index into
/// [`Config::upstreams`](super::Config::upstreams). A URL makes a pool of its own, once.
pub(super) fn read_target(node: &Node, reading: &mut Reading) -> Option<usize> {
    if let Node::List(_) | Node::Map(_) = node {
        let message = format!("a pool's name or a URL is wanted here, not {}", node.kind());
        let hint = "several servers make a pool: give it a name under `upstreams:`";
        reading.error_hint(node.span(), message, hint);
        return None;
    }
    let scalar = value::scalar(node, reading)?;
    if !scalar.text.contains("://") {
        let is_known = reading.upstreams.contains(&scalar.text);
        if let (false, false, Ok((_, Some(_)))) =
            (is_known, scalar.is_secret, Host::parse_authority(&scalar.text))
        {
            let message = format!("no upstream is called {}", quoted(&scalar.text));
            let hint = format!("a URL is meant? write \"http://{}\"", scalar.text);
            reading.wrong(scalar, message, hint);
            return None;
        }
        return reading.upstreams.resolve(scalar, &mut reading.faults);
    }
    let named = reading.upstreams.len();
    // A pool's name is shown in logs and metrics, so what a reference hides is not it.
    let name = match scalar.is_secret {
        true => format!("url at line {}, column {}", scalar.span.line, scalar.span.column).into(),
        false => Arc::clone(&scalar.text),
    };
    if let Some(index) = reading.url_index.get(&name) {
        return Some(named + index);
    }
    let key = Scalar { text: "servers".into(), ..scalar.clone() };
    let entry = Entry { key, value: Node::Scalar(scalar.clone()) };
    let map = Map { entries: vec![entry], span: scalar.span };
    let pool =
        Upstream::read(&Scalar { text: Arc::clone(&name), ..scalar.clone() }, &map, reading)?;
    reading.url_index.insert(name, reading.url_pools.len());
    reading.url_pools.push(pool);
    Some(named + reading.url_pools.len() - 1)
}

impl Upstream {
    fn read(name: &Scalar, map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&UPSTREAM, reading);
        let mut seen = HashMap::new();
        let servers = keys.list("servers", |node, reading| {
            let server = Server::read(node, reading)?;
            server.claim(node.span(), &mut seen, reading);
            Some(server)
        });
        let balance = keys.choice("balance", &Balance::WORDS);
        let host = keys.read("host", HostHeader::read);
        let timeouts = keys.section("timeouts", Timeouts::read);
        let limits = keys.section("limits", PoolLimits::read);
        let tls = keys.section("tls", UpstreamTls::read);
        let protocol = keys.choice("protocol", &UpstreamProtocol::WORDS);
        let proxy_protocol =
            keys.choice("proxy_protocol", &[("v1", Version::V1), ("v2", Version::V2)]);
        let health = keys
            .read("health", |node, reading| value::map_with(node, "path", reading, Health::read));
        let retry = keys
            .read("retry", |node, reading| value::map_with(node, "attempts", reading, Retry::read));
        if let Some(span) = keys.span_of("servers")
            && !servers.is_empty()
            && servers.iter().all(|server| server.backup)
        {
            let message = "every server of this pool is a backup";
            let hint = "a backup waits until no other server is available: leave one without";
            keys.reading.error_hint(span, message, hint);
        }
        if let (Some(protocol), Some(span)) = (protocol, keys.span_of("protocol")) {
            check_protocol(protocol, proxy_protocol.is_some(), &servers, span, keys.reading);
        }
        if let Some(span) = keys.span_of("tls")
            && !servers.is_empty()
            && servers.iter().all(|server| !server.https)
        {
            let message = "\"tls\" has no meaning without a server with an https URL";
            keys.reading.error_hint(
                span,
                message,
                "write https:// in a server's URL, or remove it",
            );
        }
        keys.finish();
        Some(Self {
            name: name.text.to_string(),
            servers,
            balance: balance?,
            host: host?,
            timeouts: timeouts?,
            limits: limits?,
            tls: tls?,
            protocol: protocol?,
            proxy_protocol,
            health,
            retry: retry?,
        })
    }
}

impl Balance {
    const WORDS: [(&'static str, Self); 3] = [
        ("least_requests", Self::LeastRequests),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
    ];
}

impl UpstreamProtocol {
    const WORDS: [(&'static str, Self); 4] =
        [("http/1.1", Self::Http1), ("h2", Self::H2), ("h2c", Self::H2c), ("auto", Self::Auto)];
}

fn check_protocol(
    protocol: UpstreamProtocol,
    announces: bool,
    servers: &[Server],
    span: Span,
    reading: &mut Reading,
) {
    let (wanted, word) = match protocol {
        UpstreamProtocol::H2 => (true, "h2"),
        UpstreamProtocol::H2c => (false, "h2c"),
        UpstreamProtocol::Auto if announces => {
            // What was learnt of a server would be kept for each client anew, and for good.
            let message = "\"auto\" has no place beside \"proxy_protocol\"";
            let hint = "write what the servers speak: \"http/1.1\", \"h2\" or \"h2c\"";
            return reading.error_hint(span, message, hint);
        }
        UpstreamProtocol::Http1 | UpstreamProtocol::Auto => return,
    };
    if let Some(server) = servers.iter().find(|server| server.https != wanted) {
        let (scheme, other) = if wanted { ("https", "h2c") } else { ("http", "h2") };
        let message = format!("{word} needs {scheme} URLs, unlike {}", quoted(&server.to_string()));
        reading.error_hint(span, message, format!("use {scheme}:// there, or \"{other}\" here"));
    }
}

impl Server {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let Node::Map(map) = node else {
            return url::read(value::scalar(node, reading)?, reading);
        };
        let mut keys = map.keys(&SERVER, reading);
        let server =
            keys.read("url", |node, reading| url::read(value::scalar(node, reading)?, reading));
        let weight = keys.count("weight");
        let backup = keys.read("backup", value::boolean);
        keys.finish();
        Some(Self { weight: weight?, backup: backup?, ..server? })
    }

    /// `host` or `host:port` as a client of the server would ask for it.
    #[must_use]
    pub fn authority(&self) -> String {
        let default_port = if self.https { 443 } else { 80 };
        if self.port == default_port {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Reports a server that its pool has already.
    fn claim(&self, span: Span, seen: &mut HashMap<Address, u32>, reading: &mut Reading) {
        let identity = (self.https, self.host.clone(), self.port);
        if let Some(line) = seen.insert(identity, span.line) {
            let message = format!("{} is in this pool twice", quoted(&self.to_string()));
            let hint = format!("also at line {line}; a larger share is written as weight");
            reading.error_hint(span, message, hint);
        }
    }
}

/// What makes a server the same as another one in its pool.
type Address = (bool, Host, u16);

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl HostHeader {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        if let Node::Scalar(scalar) = node {
            return match &*scalar.text {
                "preserve" => Some(Self::Preserve),
                "upstream" => Some(Self::Upstream),
                _ => {
                    let message = format!(
                        "{} is not one of \"preserve\", \"upstream\"",
                        quoted(shown(scalar))
                    );
                    let hint = "a fixed host is written as { name: … }";
                    reading.wrong(scalar, message, hint);
                    None
                }
            };
        }
        value::map(node, reading, |map, reading| {
            let mut keys = map.keys(&HOST, reading);
            let name = keys.read("name", |node, reading| {
                let scalar = value::scalar(node, reading)?;
                if let Err(error) = Host::parse_authority(&scalar.text) {
                    let message = format!("{} is not a host", quoted(shown(scalar)));
                    reading.wrong(scalar, message, error.to_string());
                    return None;
                }
                Some(scalar.text.to_string())
            });
            keys.finish();
            Some(Self::Name(name?))
        })
    }
}

impl Timeouts {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&TIMEOUTS, reading);
        let connect = keys.read("connect", value::duration);
        let response = keys.read("response", value::duration);
        let read = keys.read("read", value::duration);
        let pool_idle = keys.read("pool_idle", value::duration);
        keys.finish();
        Some(Self { connect: connect?, response: response?, read: read?, pool_idle: pool_idle? })
    }
}

impl PoolLimits {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&POOL_LIMITS, reading);
        let connections = keys.count("connections");
        let pending = keys.count("pending");
        keys.finish();
        Some(Self { connections: connections?, pending: pending? })
    }
}

impl UpstreamTls {
    fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&UPSTREAM_TLS, reading);
        let ca = keys.read("ca", value::path);
        let verify = keys.read("verify", |node, reading| {
            let verify = value::boolean(node, reading)?;
            if !verify {
                let message = "the servers' certificates are not checked";
                let hint =
                    "anybody between here and there can read along; `ca:` trusts a CA of your own";
                reading.warning(node.span(), message, hint);
            }
            Some(verify)
        });
        let server_name = keys.read("server_name", read_server_name);
        let chain = keys.read("cert", value::path);
        let key = keys.read("key", value::path);
        match (keys.span_of("cert"), keys.span_of("key")) {
            (Some(span), None) => {
                keys.reading.error(span, "\"cert\" is written without its \"key\"");
            }
            (None, Some(span)) => {
                keys.reading.error(span, "\"key\" is written without its \"cert\"");
            }
            _ => {}
        }
        if let (Some(span), Some(false)) = (keys.span_of("ca"), verify) {
            keys.reading.warning(span, "\"ca\" has no effect with \"verify: false\"", "");
        }
        keys.finish();
        let client = chain.zip(key).map(|(chain, key)| ClientCertificate { chain, key });
        Some(Self { ca, verify: verify?, server_name, client })
    }
}

fn read_server_name(node: &Node, reading: &mut Reading) -> Option<HostName> {
    let scalar = value::scalar(node, reading)?;
    match HostName::parse(&scalar.text) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{} is not a host name", quoted(shown(scalar)));
            reading.wrong(scalar, message, error.to_string());
            None
        }
    }
}
