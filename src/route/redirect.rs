//! The text of a `Location` header.
//!
//! Answers "where is this client sent?". Called by `proxy` for `redirect:` routes and for plain
//! HTTP. What comes out is visible ASCII, whatever went in, so no header can be split by it.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::config::route::{Piece, Redirect};
use crate::net::{HostRef, RequestHead};

impl Redirect {
    /// The `Location` that this redirect has for a request.
    #[must_use]
    pub fn location(&self, head: &RequestHead<'_>) -> HeaderValue {
        header_value(&expand(&self.to, head))
    }
}

/// The `https` URL of what was asked for over plain HTTP, answered with 308 (RFC 9110 §15.4.9),
/// which keeps the method. `port` is the https listener's; 443 is left out. Path and query are kept
/// as they are given.
#[must_use]
pub fn https_location<'h>(
    host: impl Into<HostRef<'h>>,
    port: u16,
    path: &str,
    query: Option<&str>,
) -> HeaderValue {
    let mut url = format!("https://{}", host.into());
    if port != 443 {
        push(&mut url, format_args!(":{port}"));
    }
    url.push_str(absolute(path));
    if let Some(query) = query {
        url.push('?');
        url.push_str(query);
    }
    header_value(&url)
}

/// Fills in a template. `{query}` after a `?` joins with `&`.
pub(super) fn expand(template: &[Piece], head: &RequestHead<'_>) -> String {
    let mut text = String::new();
    for piece in template {
        match piece {
            Piece::Literal(literal) => text.push_str(literal),
            Piece::Path => text.push_str(absolute(head.path)),
            Piece::Host => push(&mut text, format_args!("{}", head.host)),
            Piece::Query => push_query(&mut text, head.query),
            Piece::Uri => {
                text.push_str(absolute(head.path));
                push_query(&mut text, head.query);
            }
        }
    }
    text
}

fn push_query(text: &mut String, query: Option<&str>) {
    let Some(query) = query else { return };
    match text.split_once('?') {
        None => text.push('?'),
        Some((_, before)) if before.is_empty() || before.ends_with('&') => {}
        Some(_) => text.push('&'),
    }
    text.push_str(query);
}

/// The path of a URL: `OPTIONS *` asks about the whole server, which is `/` there.
fn absolute(path: &str) -> &str {
    if path == "*" { "/" } else { path }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(arguments);
}

fn header_value(url: &str) -> HeaderValue {
    let visible = encode_invisible(url);
    HeaderValue::try_from(visible).expect("visible ASCII is a header value")
}

/// Percent-encodes what is no visible ASCII: controls, spaces, raw UTF-8.
pub(super) fn encode_invisible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            visible.push(byte.into());
        } else {
            push(&mut visible, format_args!("%{byte:02X}"));
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, StatusCode};

    use super::*;
    use crate::net::Host;

    fn text(literal: &str) -> Piece {
        Piece::Literal(literal.to_owned())
    }

    #[test]
    fn a_template_is_filled_from_the_request() {
        let rows = [
            (vec![text("https://x.example/v1"), Piece::Path], "https://x.example/v1/a%20b"),
            (vec![text("https://"), Piece::Host, Piece::Uri], "https://[::1]/a%20b?q=1"),
            (vec![text("/x"), Piece::Query], "/x?q=1"),
            (vec![text("/x?from="), Piece::Path, Piece::Query], "/x?from=/a%20b&q=1"),
            (vec![text("/x?"), Piece::Query], "/x?q=1"),
            (vec![text("/ä b\r\nSet-Cookie: x")], "/%C3%A4%20b%0D%0ASet-Cookie:%20x"),
        ];
        let host = Host::parse("::1").unwrap();
        for (to, expected) in rows {
            let location = Redirect { to, status: StatusCode::FOUND }.location(&RequestHead {
                method: &Method::GET,
                host: host.as_ref(),
                path: "/a%20b",
                match_key: "/a%20b",
                query: Some("q=1"),
                headers: &HeaderMap::new(),
            });
            assert_eq!(location, expected);
        }
    }

    #[test]
    fn the_https_url_keeps_path_and_query() {
        let rows = [
            ("example.com", 443, "/a/%2Fb", None, "https://example.com/a/%2Fb"),
            ("example.com", 8443, "/", Some("a=1&b=?"), "https://example.com:8443/?a=1&b=?"),
            ("::1", 443, "/x", Some(""), "https://[::1]/x?"),
            ("10.0.0.1", 444, "*", None, "https://10.0.0.1:444/"),
            ("example.com", 443, "//evil.example", None, "https://example.com//evil.example"),
            ("example.com", 443, "/a", Some("b\r\nc"), "https://example.com/a?b%0D%0Ac"),
        ];
        for (host, port, path, query, expected) in rows {
            let host = Host::parse(host).unwrap();
            assert_eq!(https_location(&host, port, path, query), expected);
        }
    }
}
