//! The values of `X-Forwarded-For` and `Forwarded` (RFC 7239), written once per connection.
//!
//! Answers "how is this client spelt in a header?". Owned by a client's connection, called by
//! `forward` for each of its requests. Never decides who the client is.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Mutex;

use http::HeaderValue;

use super::client::{Client, Scheme};

/// What one connection's requests say of their client, as long as nobody in between speaks for
/// somebody else.
///
/// Requests of an h2 connection share it; a request that finds the lock taken writes its own copy
/// and does not wait.
#[derive(Debug)]
pub struct ConnectionValues {
    peer: IpAddr,
    address: HeaderValue,
    last: Mutex<Option<LastForwarded>>,
}

/// `Forwarded` as it was written last. Connections rarely change their host.
#[derive(Debug)]
struct LastForwarded {
    host: HeaderValue,
    scheme: Scheme,
    value: HeaderValue,
}

impl ConnectionValues {
    /// For a connection from `peer`: the address that [`Client::identify`] gets.
    #[must_use]
    pub fn new(peer: IpAddr) -> Self {
        let peer = peer.to_canonical();
        Self { peer, address: addresses(&[peer]), last: Mutex::new(None) }
    }

    /// `X-Forwarded-For` and `Forwarded` for a request by `client` to `host`.
    pub(super) fn of(&self, client: &Client, host: &HeaderValue) -> (HeaderValue, HeaderValue) {
        let chain = client.chain();
        if chain != [self.peer] {
            return (addresses(chain), forwarded(chain, host, client.scheme));
        }
        let own = || self.forwarded(host, client.scheme);
        let value = match self.last.try_lock() {
            Ok(mut last) => match &*last {
                Some(last) if last.scheme == client.scheme && last.host == *host => {
                    last.value.clone()
                }
                _ => {
                    let value = own();
                    let (host, scheme) = (host.clone(), client.scheme);
                    *last = Some(LastForwarded { host, scheme, value: value.clone() });
                    value
                }
            },
            Err(_) => own(),
        };
        (self.address.clone(), value)
    }

    /// `Forwarded` of the peer, whose address is written already.
    fn forwarded(&self, host: &HeaderValue, scheme: Scheme) -> HeaderValue {
        let address = self.address.to_str().unwrap_or("unknown");
        let mut text = String::with_capacity(address.len() + host.len() + 32);
        write_for(&mut text, address, self.peer.is_ipv6());
        write_host(&mut text, host);
        write_scheme(&mut text, scheme);
        to_value(text)
    }
}

/// `203.0.113.7, 10.0.0.2`.
fn addresses(chain: &[IpAddr]) -> HeaderValue {
    let mut text = String::with_capacity(chain.len() * 17);
    for address in chain {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{address}");
    }
    to_value(text)
}

/// `for=203.0.113.7;host=app.example.com;proto=https, for="[2001:db8::2]"`.
///
/// Host and scheme belong to the first element, which is the client's. A host that cannot be
/// quoted is left out.
fn forwarded(chain: &[IpAddr], host: &HeaderValue, scheme: Scheme) -> HeaderValue {
    let mut text = String::with_capacity(chain.len() * 24 + host.len() + 24);
    for (at, address) in chain.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { ", " });
        write_for(&mut text, &address.to_string(), address.is_ipv6());
        if at == 0 {
            write_host(&mut text, host);
            write_scheme(&mut text, scheme);
        }
    }
    to_value(text)
}

fn write_for(text: &mut String, address: &str, is_ipv6: bool) {
    let (begin, end) = if is_ipv6 { ("for=\"[", "]\"") } else { ("for=", "") };
    for part in [begin, address, end] {
        text.push_str(part);
    }
}

fn write_scheme(text: &mut String, scheme: Scheme) {
    text.push_str(";proto=");
    text.push_str(scheme.as_str());
}

fn write_host(text: &mut String, host: &HeaderValue) {
    let is_quotable = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let Ok(host) = host.to_str() else { return };
    if host.is_empty() || !host.bytes().all(is_quotable) {
        return;
    }
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let quote = if host.bytes().all(is_token) { "" } else { "\"" };
    for part in [";host=", quote, host, quote] {
        text.push_str(part);
    }
}

/// The text is made of addresses and of checked hosts, so that it is always a value.
fn to_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::client::tests::identify;

    #[test]
    fn forwarded_quotes_what_is_no_token() {
        for (chain, host, scheme, expected) in [
            (
                &["203.0.113.7"][..],
                "app.example.com",
                Scheme::Https,
                "for=203.0.113.7;host=app.example.com;proto=https",
            ),
            (
                &["2001:db8::7", "10.0.0.2", "fd00::3"],
                "app.example.com:8443",
                Scheme::Http,
                "for=\"[2001:db8::7]\";host=\"app.example.com:8443\";proto=http, for=10.0.0.2, \
                 for=\"[fd00::3]\"",
            ),
            (&["203.0.113.7"], "[::1]", Scheme::Http, "for=203.0.113.7;host=\"[::1]\";proto=http"),
            (&["203.0.113.7"], "a\";proto=x", Scheme::Http, "for=203.0.113.7;proto=http"),
            (&["203.0.113.7"], "", Scheme::Http, "for=203.0.113.7;proto=http"),
        ] {
            let chain: Vec<IpAddr> = chain.iter().map(|text| text.parse().unwrap()).collect();
            let host = HeaderValue::from_str(host).unwrap();
            assert_eq!(forwarded(&chain, &host, scheme), expected);
            if let [peer] = chain[..] {
                assert_eq!(ConnectionValues::new(peer).forwarded(&host, scheme), expected);
            }
        }
    }

    #[test]
    fn values_follow_host_scheme_and_chain() {
        let values = ConnectionValues::new("::ffff:10.0.0.1".parse().unwrap());
        let direct = identify("10.0.0.1", true, &[]);
        let behind = identify("10.0.0.1", true, &[("x-forwarded-for", "203.0.113.7")]);
        let plain = identify("10.0.0.1", true, &[("x-forwarded-proto", "http")]);
        for (client, host, expected) in [
            (&direct, "a", ("10.0.0.1", "for=10.0.0.1;host=a;proto=https")),
            (&direct, "a", ("10.0.0.1", "for=10.0.0.1;host=a;proto=https")),
            (&direct, "b", ("10.0.0.1", "for=10.0.0.1;host=b;proto=https")),
            (&plain, "b", ("10.0.0.1", "for=10.0.0.1;host=b;proto=http")),
            (
                &behind,
                "b",
                ("203.0.113.7, 10.0.0.1", "for=203.0.113.7;host=b;proto=https, for=10.0.0.1"),
            ),
        ] {
            let (addresses, forwarded) = values.of(client, &HeaderValue::from_static(host));
            assert_eq!((addresses.to_str().unwrap(), forwarded.to_str().unwrap()), expected);
        }
    }
}
