//! One request's head, in the canonical form that routes and filters decide on.
//!
//! Built once by `proxy` after validation, read by `route` and `filter`, changed by nobody.

use std::borrow::Cow;

use http::header::COOKIE;
use http::{HeaderMap, Method};

use super::HostRef;

/// Bytes of the longest method we read. The longest registered one has 17 (`UPDATEREDIRECTREF`).
pub const LONGEST_METHOD: usize = 32;

/// What routing and filters may know of a request before its body.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// Method, upper case as registered; unknown ones are allowed.
    pub method: &'a Method,
    /// The host of `:authority` or `Host`, without port.
    pub host: HostRef<'a>,
    /// The [canonical](super::path::Canonical) path: what the backend gets.
    pub path: &'a str,
    /// Its [key](super::path::MatchKey), which path conditions compare with.
    pub match_key: &'a str,
    /// What follows the first `?`, without it and not decoded. `None` when there is no `?`.
    pub query: Option<&'a str>,
    /// Header fields as received.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// Name and value of every cookie, in the order sent (RFC 6265 §4.2.1).
    ///
    /// All `Cookie` fields are read, since h2 may split them (RFC 9113 §8.2.3). Values keep their
    /// quotes; a pair without `=` or that is not UTF-8 is skipped.
    pub fn cookies(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let fields = self.headers.get_all(COOKIE).iter();
        fields
            .flat_map(|field| field.as_bytes().split(|&byte| byte == b';'))
            .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
            .map(|(name, value)| (trim(name), trim(value)))
    }

    /// Name and value of every query parameter, form-decoded: `+` is a space, `%XX` a byte, and
    /// what is then no UTF-8 becomes U+FFFD. A parameter without `=` has an empty value.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        form_urlencoded::parse(self.query.unwrap_or_default().as_bytes())
    }
}

/// Without the optional white space of RFC 9110 §5.6.3.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::net::Host;

    type Pairs = &'static [(&'static str, &'static str)];

    fn with_head<T>(
        query: Option<&str>,
        cookies: &[&[u8]],
        run: impl Fn(&RequestHead<'_>) -> T,
    ) -> T {
        let host = Host::parse("example.com").unwrap();
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_bytes(cookie).unwrap());
        }
        run(&RequestHead {
            method: &Method::GET,
            host: host.as_ref(),
            path: "/",
            match_key: "/",
            query,
            headers: &headers,
        })
    }

    #[test]
    fn cookies_come_from_all_fields_in_order() {
        let rows: [(&[&[u8]], Pairs); 8] = [
            (&[], &[]),
            (&[b"a=1"], &[("a", "1")]),
            (&[b"a=1; b=2", b"c=3"], &[("a", "1"), ("b", "2"), ("c", "3")]),
            (&[b"a=1;b=2 ;\tc = 3"], &[("a", "1"), ("b", "2"), ("c", "3")]),
            (&[b"a=b=c; a=2"], &[("a", "b=c"), ("a", "2")]),
            (&[b"flag; a="], &[("a", "")]),
            (&[b"a=\"x y\""], &[("a", "\"x y\"")]),
            (&[b"a=\xff; b=2;;"], &[("b", "2")]),
        ];
        for (fields, expected) in rows {
            let found = with_head(None, fields, |head| {
                let pairs = head.cookies().map(|(name, value)| (name.to_owned(), value.to_owned()));
                pairs.collect::<Vec<_>>()
            });
            let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(found, expected, "{fields:?}");
        }
    }

    #[test]
    fn query_pairs_are_form_decoded() {
        let rows: [(Option<&str>, Pairs); 8] = [
            (None, &[]),
            (Some(""), &[]),
            (Some("a=1&b=2"), &[("a", "1"), ("b", "2")]),
            (Some("a=x+y%20z"), &[("a", "x y z")]),
            (Some("%61=%C3%A4&a"), &[("a", "ä"), ("a", "")]),
            (Some("a=%zz&b=%"), &[("a", "%zz"), ("b", "%")]),
            (Some("a=%ff"), &[("a", "\u{fffd}")]),
            (Some("a=1;b=2&&c==?"), &[("a", "1;b=2"), ("c", "=?")]),
        ];
        for (query, expected) in rows {
            with_head(query, &[], |head| {
                let found: Vec<_> = head.query_pairs().collect();
                let found: Vec<_> = found.iter().map(|(n, v)| (&**n, &**v)).collect();
                assert_eq!(found, expected, "{query:?}");
            });
        }
    }
}
