//! Who sends the request, and by which scheme.
//!
//! Answers "which address do filters, logs and backends see?". Called once per request, before
//! routing. Never looks at anything but the connection and the forwarding fields, and believes
//! those from `trusted_proxies` only. A believed `X-Forwarded-Host` is passed on to the backend
//! and does not decide the route: the proxy in front sends the `Host` it wants routed.
//!
//! # Which field counts
//! `X-Forwarded-For`, `-Proto`, `-Host` and `-Port` where any of them is there, else `Forwarded`
//! (RFC 7239). Proxies that write the former pass a client's `Forwarded` on untouched far more
//! often than the other way round, so a `Forwarded` beside them is nobody's word.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::net::CidrSet;

/// Field with the addresses a request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Field with the scheme the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Field with the host the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Field with the port the client connected to.
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Hops that are followed back at most; no sane path is longer, and a hostile one costs no more.
const MAX_HOPS: usize = 32;
/// Longest `X-Forwarded-For` entry that can be an address: a bracketed IPv6 one with its port.
const MAX_ENTRY_BYTES: usize = 64;
/// Longest `Forwarded` field that is read.
const MAX_FORWARDED_BYTES: usize = 8 * 1024;
/// Longest host with a port: RFC 1035 §2.3.4 and six more.
const MAX_HOST_BYTES: usize = 259;

/// Scheme of a request as its client sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let is = |name: &[u8]| text.eq_ignore_ascii_case(name);
        if is(b"https") || is(b"wss") {
            Some(Self::Https)
        } else if is(b"http") || is(b"ws") {
            Some(Self::Http)
        } else {
            None
        }
    }
}

/// The client of a request.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whom the request comes from: the peer, or the first address beyond the trusted proxies.
    /// Never an IPv4-mapped IPv6 address.
    pub address: IpAddr,
    /// What the client speaks, to us or to the trusted proxy nearest to it.
    pub scheme: Scheme,
    /// The host the client asked a trusted proxy for; `host` or `host:port`.
    pub host: Option<HeaderValue>,
    /// The port at which a trusted proxy was asked.
    pub port: Option<u16>,
    /// From the client to the peer. Empty when the peer is nobody we trust, which is then the
    /// client itself.
    hops: Vec<IpAddr>,
}

impl Client {
    /// Identifies the client of one request.
    ///
    /// `peer` is the connection's other end (or what a PROXY header says), `is_tls` whether the
    /// connection is encrypted. When `trusted` holds the peer, the addresses that it reports are
    /// followed from the right past further trusted ones, 32 at most; an entry that is no address
    /// (RFC 7239's `unknown` and `_hidden` included) ends the walk where it stands. What lies to
    /// the left of the client is the client's own claim and is forgotten.
    #[must_use]
    pub fn identify(peer: IpAddr, is_tls: bool, headers: &HeaderMap, trusted: &CidrSet) -> Self {
        Self::identify_by(peer, is_tls, headers, |address| trusted.contains(address))
    }

    /// Whether the peer is a trusted proxy, so that its forwarding fields are continued.
    #[must_use]
    pub fn is_believed(&self) -> bool {
        !self.hops.is_empty()
    }

    /// Every address from the client to our peer, both included; at least one.
    #[must_use]
    pub fn chain(&self) -> &[IpAddr] {
        if self.hops.is_empty() { std::slice::from_ref(&self.address) } else { &self.hops }
    }

    fn identify_by(
        peer: IpAddr,
        is_tls: bool,
        headers: &HeaderMap,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let peer = peer.to_canonical();
        let scheme = if is_tls { Scheme::Https } else { Scheme::Http };
        let mut client = Self { address: peer, scheme, host: None, port: None, hops: Vec::new() };
        if trusts(peer) {
            if FORWARDING.iter().any(|name| headers.contains_key(name)) {
                client.believe_x_forwarded(headers, trusts);
            } else {
                client.believe_forwarded(headers, trusts);
            }
        }
        client
    }

    fn believe_x_forwarded(&mut self, headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) {
        let entries = list_from_the_right(headers, X_FORWARDED_FOR).map(parse_address);
        let hops = self.follow(entries, trusts);
        // The entry at the same place as the client's address was written by the same proxy. Most
        // proxies replace these two fields; then there is only one.
        let entry = |name| list_from_the_right(headers, name).take(hops.max(1)).last();
        if let Some(scheme) = entry(X_FORWARDED_PROTO).and_then(Scheme::parse) {
            self.scheme = scheme;
        }
        self.host = entry(X_FORWARDED_HOST).and_then(parse_host);
        self.port = entry(X_FORWARDED_PORT).and_then(parse_port);
    }

    fn believe_forwarded(&mut self, headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) {
        let elements = forwarded_elements(headers);
        let hops = self.follow(elements.iter().rev().map(|element| element.address), trusts);
        let nearest = elements.iter().rev().take(hops.max(1)).last();
        if let Some(element) = nearest {
            self.scheme = element.scheme.unwrap_or(self.scheme);
            self.host.clone_from(&element.host);
        }
    }

    /// Walks from the peer towards the client and returns how many entries were followed.
    fn follow(
        &mut self,
        entries: impl Iterator<Item = Option<IpAddr>>,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> usize {
        self.hops.push(self.address);
        for entry in entries.take(MAX_HOPS) {
            let Some(address) = entry else { break };
            self.hops.push(address);
            self.address = address;
            if !trusts(address) {
                break;
            }
        }
        self.hops.reverse();
        self.hops.len() - 1
    }
}

const FORWARDING: [HeaderName; 4] =
    [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PORT];

/// The entries of a list field from the last to the first, over all its lines, without empty ones
/// (RFC 9110 §5.6.1).
fn list_from_the_right(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).iter().rev();
    lines
        .flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty())
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    if entry.len() > MAX_ENTRY_BYTES {
        return None;
    }
    let text = std::str::from_utf8(entry).ok()?;
    let address = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bracketed) => bracketed.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => match text.parse() {
            Ok(address) => Some(address),
            Err(_) => text.parse::<SocketAddr>().ok().map(|socket| socket.ip()),
        },
    };
    address.map(|address| address.to_canonical())
}

/// A host with or without port, made of nothing but what hosts are made of.
fn parse_host(entry: &[u8]) -> Option<HeaderValue> {
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(byte);
    let fits = !entry.is_empty() && entry.len() <= MAX_HOST_BYTES && entry.iter().all(is_host);
    fits.then(|| HeaderValue::from_bytes(entry).ok()).flatten()
}

fn parse_port(entry: &[u8]) -> Option<u16> {
    let port = std::str::from_utf8(entry).ok()?.parse().ok()?;
    (port != 0 && entry[0].is_ascii_digit()).then_some(port)
}

/// What one proxy says in `Forwarded`.
#[derive(Default)]
struct Element {
    address: Option<IpAddr>,
    scheme: Option<Scheme>,
    host: Option<HeaderValue>,
}

/// All elements, from the client's end. What stands before a malformed line or element is
/// forgotten, as if the walk from the right had stopped there.
fn forwarded_elements(headers: &HeaderMap) -> Vec<Element> {
    let mut elements = Vec::new();
    for line in headers.get_all(header::FORWARDED) {
        let mut rest = line.as_bytes();
        if rest.len() > MAX_FORWARDED_BYTES {
            elements.clear();
            continue;
        }
        while let Some(text) = cut(&mut rest, b',') {
            match parse_element(text) {
                Ok(Some(element)) => elements.push(element),
                Ok(None) => {}
                Err(Malformed) => elements.clear(),
            }
        }
    }
    elements
}

/// A `Forwarded` element that is not RFC 7239's grammar.
struct Malformed;

/// `for="[2001:db8::1]:80";proto=https`; `None` when it is empty. Each parameter may occur once
/// (RFC 7239 §4).
fn parse_element(mut text: &[u8]) -> Result<Option<Element>, Malformed> {
    let mut element = Element::default();
    let mut seen: Vec<&[u8]> = Vec::new();
    while let Some(pair) = cut(&mut text, b';') {
        if pair.trim_ascii().is_empty() {
            continue;
        }
        let equals = pair.iter().position(|&byte| byte == b'=').ok_or(Malformed)?;
        let name = pair[..equals].trim_ascii();
        if seen.len() == 8 || seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(Malformed);
        }
        seen.push(name);
        let value = unquote(pair[equals + 1..].trim_ascii())?;
        if name.eq_ignore_ascii_case(b"for") {
            element.address = parse_address(&value);
        } else if name.eq_ignore_ascii_case(b"proto") {
            element.scheme = Scheme::parse(&value);
        } else if name.eq_ignore_ascii_case(b"host") {
            element.host = parse_host(&value);
        }
    }
    Ok((!seen.is_empty()).then_some(element))
}

/// Takes the text up to the next `separator` that is not in a quoted string; `None` at the end.
fn cut<'a>(rest: &mut &'a [u8], separator: u8) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let (mut quoted, mut escaped) = (false, false);
    let end = rest.iter().position(|&byte| {
        let is_end = byte == separator && !quoted;
        if escaped {
            escaped = false;
        } else if byte == b'"' {
            quoted = !quoted;
        } else if byte == b'\\' && quoted {
            escaped = true;
        }
        is_end
    });
    let end = end.unwrap_or(rest.len());
    let head = &rest[..end];
    *rest = rest.get(end + 1..).unwrap_or_default();
    Some(head)
}

/// A token as it is, or a quoted string without its quotes and escapes (RFC 9110 §5.6.4).
fn unquote(value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return if value.contains(&b'"') { Err(Malformed) } else { Ok(value.to_vec()) };
    };
    let inner = rest.strip_suffix(b"\"").ok_or(Malformed)?;
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return Err(Malformed),
            b'\\' => plain.push(*bytes.next().ok_or(Malformed)?),
            _ => plain.push(byte),
        }
    }
    Ok(plain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Trusts `10.0.0.0/8` and `fd00::/8`.
    fn trusts(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        }
    }

    pub(crate) fn identify(peer: &str, is_tls: bool, lines: &[(&str, &str)]) -> Client {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Client::identify_by(peer.parse().unwrap(), is_tls, &headers, trusts)
    }

    /// A client behind a trusted proxy.
    pub(crate) fn believed() -> Client {
        identify("10.0.0.1", false, &[("x-forwarded-for", "203.0.113.7")])
    }

    /// A client that is nobody's.
    pub(crate) fn stranger() -> Client {
        identify("198.51.100.1", false, &[])
    }

    fn chain(client: &Client) -> String {
        client.chain().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn nothing_is_believed_from_a_peer_that_is_not_trusted() {
        let client = identify(
            "198.51.100.1",
            false,
            &[
                ("x-forwarded-for", "203.0.113.7"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("forwarded", "for=203.0.113.7;proto=https"),
            ],
        );
        assert_eq!(client.address, "198.51.100.1".parse::<IpAddr>().unwrap());
        assert_eq!((client.scheme, client.host.clone()), (Scheme::Http, None));
        assert!(!client.is_believed());
        assert_eq!(chain(&client), "198.51.100.1");
    }

    #[test]
    fn x_forwarded_for_is_walked_from_the_right_past_trusted_proxies() {
        for (field, expected) in [
            ("203.0.113.7", "203.0.113.7 10.0.0.1"),
            ("6.6.6.6, 203.0.113.7, 10.0.0.2", "203.0.113.7 10.0.0.2 10.0.0.1"),
            ("10.0.0.3,10.0.0.2", "10.0.0.3 10.0.0.2 10.0.0.1"),
            ("203.0.113.7:4711", "203.0.113.7 10.0.0.1"),
            ("2001:db8::7", "2001:db8::7 10.0.0.1"),
            ("[2001:db8::7]", "2001:db8::7 10.0.0.1"),
            ("[2001:db8::7]:443", "2001:db8::7 10.0.0.1"),
            ("203.0.113.7, fd00::1", "203.0.113.7 fd00::1 10.0.0.1"),
            ("::ffff:203.0.113.7", "203.0.113.7 10.0.0.1"),
            (" , 203.0.113.7 ,, ", "203.0.113.7 10.0.0.1"),
            // What is no address ends the walk.
            ("203.0.113.7, unknown, 10.0.0.2", "10.0.0.2 10.0.0.1"),
            ("203.0.113.7, _hidden", "10.0.0.1"),
            ("203.0.113.7, [203.0.113.8]", "10.0.0.1"),
            ("203.0.113.7, 203.0.113.8:99999", "10.0.0.1"),
            ("\"203.0.113.7\"", "10.0.0.1"),
            ("010.0.0.9", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let client = identify("10.0.0.1", false, &[("x-forwarded-for", field)]);
            assert_eq!(chain(&client), expected, "{field}");
            assert_eq!(client.chain()[0], client.address, "{field}");
        }
    }

    #[test]
    fn several_lines_are_one_list_and_long_ones_cost_no_more() {
        let lines = [("x-forwarded-for", "6.6.6.6, 203.0.113.7"), ("x-forwarded-for", "10.0.0.2")];
        assert_eq!(chain(&identify("10.0.0.1", false, &lines)), "203.0.113.7 10.0.0.2 10.0.0.1");

        let long = "10.0.0.2,".repeat(5_000);
        let client = identify("10.0.0.1", false, &[("x-forwarded-for", &long)]);
        assert_eq!(client.chain().len(), MAX_HOPS + 1);
        let wide = "1".repeat(60_000);
        assert_eq!(chain(&identify("10.0.0.1", false, &[("x-forwarded-for", &wide)])), "10.0.0.1");
    }

    #[test]
    fn scheme_host_and_port_come_from_the_proxy_that_named_the_client() {
        let host = |text: &str| Some(HeaderValue::from_str(text).unwrap());
        let client = identify(
            "10.0.0.1",
            false,
            &[
                ("x-forwarded-for", "6.6.6.6, 203.0.113.7, 10.0.0.2"),
                ("x-forwarded-proto", "http, https, http"),
                ("x-forwarded-host", "app.example.com:8443"),
                ("x-forwarded-port", "8443"),
            ],
        );
        assert_eq!(client.scheme, Scheme::Https, "as 10.0.0.2 saw it, not as the client claims");
        assert_eq!((client.host, client.port), (host("app.example.com:8443"), Some(8443)));

        let odd = identify(
            "10.0.0.1",
            true,
            &[
                ("x-forwarded-proto", "gopher"),
                ("x-forwarded-host", "a b/c"),
                ("x-forwarded-port", "+80"),
            ],
        );
        assert_eq!((odd.scheme, odd.host, odd.port), (Scheme::Https, None, None));
    }

    #[test]
    fn forwarded_is_read_where_no_x_forwarded_field_is_there() {
        for (field, expected, scheme) in [
            ("for=203.0.113.7;proto=https", "203.0.113.7 10.0.0.1", Scheme::Https),
            ("For=\"[2001:db8::7]:80\"", "2001:db8::7 10.0.0.1", Scheme::Http),
            ("for=6.6.6.6, for=203.0.113.7;PROTO=https", "203.0.113.7 10.0.0.1", Scheme::Https),
            (
                "for=203.0.113.7;proto=https,for=10.0.0.2;proto=http",
                "203.0.113.7 10.0.0.2 10.0.0.1",
                Scheme::Https,
            ),
            ("for=\"203.0.113.7\\\"\", for=10.0.0.2", "10.0.0.2 10.0.0.1", Scheme::Http),
            ("for=_x, for=10.0.0.2", "10.0.0.2 10.0.0.1", Scheme::Http),
            ("for=203.0.113.7;by=\"a,b;c\"", "203.0.113.7 10.0.0.1", Scheme::Http),
            // Malformed: nothing before it counts.
            ("for=203.0.113.7;for=203.0.113.8", "10.0.0.1", Scheme::Http),
            ("for=203.0.113.7, for=\"10.0.0.2", "10.0.0.1", Scheme::Http),
            ("for=203.0.113.7, nonsense", "10.0.0.1", Scheme::Http),
            ("for=203.0.113.7, nonsense, for=10.0.0.2", "10.0.0.2 10.0.0.1", Scheme::Http),
            ("", "10.0.0.1", Scheme::Http),
        ] {
            let client = identify("10.0.0.1", false, &[("forwarded", field)]);
            assert_eq!((chain(&client).as_str(), client.scheme), (expected, scheme), "{field}");
        }
        let both = [("x-forwarded-proto", "https"), ("forwarded", "for=203.0.113.7")];
        assert_eq!(chain(&identify("10.0.0.1", false, &both)), "10.0.0.1", "who wrote it?");
    }

    #[test]
    fn a_mapped_peer_is_its_ipv4_address() {
        assert_eq!(chain(&identify("::ffff:198.51.100.1", true, &[])), "198.51.100.1");
        assert!(identify("::ffff:10.0.0.1", true, &[]).is_believed());
    }

    #[test]
    fn no_forwarding_field_makes_the_readers_panic() {
        let mut rng = fastrand::Rng::with_seed(3);
        let alphabet = b"for=\"\\;,:[]. 1a0\tproto\xff";
        for _ in 0..20_000 {
            let bytes: Vec<u8> =
                (0..rng.usize(0..40)).map(|_| alphabet[rng.usize(0..alphabet.len())]).collect();
            let mut headers = HeaderMap::new();
            let name = if rng.bool() { header::FORWARDED } else { X_FORWARDED_FOR };
            headers.insert(name, HeaderValue::from_bytes(&bytes).unwrap());
            let client = Client::identify_by([10, 0, 0, 1].into(), false, &headers, trusts);
            assert_eq!(client.chain().last(), Some(&IpAddr::from([10, 0, 0, 1])));
        }
    }
}
