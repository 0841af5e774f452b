//! `compress`: whether a response gets a content coding, and which.
//!
//! Answers "may this response be encoded, and what can its client read?" (RFC 9110 §8.4, §12.5.3)
//! and changes the head accordingly. The body is [`Encoder`](super::Encoder)'s.
//!
//! A response that announces trailers stays as it is: the engine cannot send what ends an encoded
//! body and trailers after it. Trailers of an encoded body that nobody announced end here.

use std::borrow::Cow;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, TRAILER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::config::filter::{Coding, Compress as Spec};
use crate::net::Fields;

/// Fields that vouch for the bytes of a body, which we would change (RFC 9530, RFC 1864).
static DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Entries of one `Accept-Encoding` that are looked at; browsers send four.
const MOST_ENTRIES: usize = 32;

/// Which responses are encoded.
#[derive(Debug)]
pub(super) struct Compress {
    codings: Vec<Coding>,
    types: Vec<String>,
    min_size: u64,
}

impl Compress {
    pub(super) fn new(spec: &Spec) -> Self {
        let types = spec.types.iter().map(|it| it.to_ascii_lowercase()).collect();
        Self { codings: spec.codings.clone(), types, min_size: spec.min_size }
    }

    /// Makes `response` the head of an encoded response to a request with the fields `asked`, or
    /// leaves it but for `Vary`. Returns the coding of its body.
    pub(super) fn apply(
        &self,
        asked: &HeaderMap,
        status: StatusCode,
        response: &mut impl Fields,
    ) -> Option<Coding> {
        if !self.is_eligible(status, response.map()) {
            return None;
        }
        vary(response);
        if has_directive(asked, "no-transform") {
            return None;
        }
        let coding = choose(asked, &self.codings)?;
        response.insert(CONTENT_ENCODING, HeaderValue::from_static(token(coding)));
        response.remove(&CONTENT_LENGTH);
        // Ranges would count bytes of a body that we do not keep.
        response.remove(&ACCEPT_RANGES);
        weaken(response);
        Some(coding)
    }

    /// Whether the response would be encoded for a client that can read it. What settles it for most
    /// responses, their length and type, is asked first.
    fn is_eligible(&self, status: StatusCode, response: &HeaderMap) -> bool {
        let has_body = !status.is_informational()
            && !matches!(
                status,
                StatusCode::NO_CONTENT
                    | StatusCode::RESET_CONTENT
                    | StatusCode::PARTIAL_CONTENT
                    | StatusCode::NOT_MODIFIED
            );
        let is_fixed = || {
            response.contains_key(CONTENT_ENCODING)
                || response.contains_key(CONTENT_RANGE)
                || response.contains_key(TRAILER)
                || DIGESTS.iter().any(|name| response.contains_key(name))
                || has_directive(response, "no-transform")
        };
        has_body && self.is_large(response) && self.is_of_type(response) && !is_fixed()
    }

    fn is_large(&self, response: &HeaderMap) -> bool {
        let Some(length) = response.get(CONTENT_LENGTH) else { return true };
        let length = length.to_str().ok().and_then(|length| length.parse::<u64>().ok());
        length.is_some_and(|length| length >= self.min_size.max(1))
    }

    fn is_of_type(&self, response: &HeaderMap) -> bool {
        let Some(Ok(value)) = response.get(CONTENT_TYPE).map(HeaderValue::to_str) else {
            return false;
        };
        let essence = lower(value.split(';').next().unwrap_or_default().trim());
        // Its messages have a compression of their own, and its clients read no other.
        let is_grpc = essence.starts_with("application/grpc");
        !is_grpc && self.types.iter().any(|pattern| covers(pattern, &essence))
    }
}

/// In lower case, as nearly all are written.
fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

/// Whether a pattern such as `text/*`, `*/*` or `application/json` covers a media type. Both in
/// lower case.
fn covers(pattern: &str, essence: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("*/" | "") => true,
        Some(start) => essence.starts_with(start),
        None => pattern == essence,
    }
}

/// The coding that the client likes best; of those it likes alike, our first. None where it would
/// rather have none, or says nothing.
fn choose(asked: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let wishes = Wishes::read(asked);
    let mut best: Option<(u16, Coding)> = None;
    for &coding in offered {
        let weight = wishes.weight(coding);
        if weight > 0 && best.is_none_or(|(other, _)| weight > other) {
            best = Some((weight, coding));
        }
    }
    let (weight, coding) = best?;
    wishes.identity.is_none_or(|identity| identity <= weight).then_some(coding)
}

/// The weights of an `Accept-Encoding`, in thousandths; `None` is not named.
#[derive(Debug, Default)]
struct Wishes {
    zstd: Option<u16>,
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    rest: Option<u16>,
}

impl Wishes {
    fn read(asked: &HeaderMap) -> Self {
        let mut wishes = Self::default();
        let values = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for entry in values.flat_map(|value| value.split(',')).take(MOST_ENTRIES) {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let Some(weight) = weight(parameters) else { continue };
            let name = name.trim();
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let wish = if is("zstd") {
                &mut wishes.zstd
            } else if is("br") {
                &mut wishes.brotli
            } else if is("gzip") || is("x-gzip") {
                &mut wishes.gzip
            } else if is("identity") {
                &mut wishes.identity
            } else if is("*") {
                &mut wishes.rest
            } else {
                continue;
            };
            wish.get_or_insert(weight);
        }
        wishes
    }

    fn weight(&self, coding: Coding) -> u16 {
        let named = match coding {
            Coding::Zstd => self.zstd,
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        };
        named.or(self.rest).unwrap_or(0)
    }
}

/// `;q=0.5` as 500 (RFC 9110 §12.4.2); without one 1000, `None` where it is none.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, decimals) = value.trim().split_once('.').unwrap_or_else(|| (value.trim(), ""));
    let are_digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    if decimals.len() > 3 || !are_digits {
        return None;
    }
    let thousandths: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

/// Whether a `Cache-Control` has this directive.
fn has_directive(fields: &HeaderMap, directive: &str) -> bool {
    let values = fields.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case(directive))
}

/// Tells caches that the response depends on `Accept-Encoding` (RFC 9110 §12.5.5).
fn vary(response: &mut impl Fields) {
    let values = response.map().get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let is_said = values.flat_map(|value| value.split(',')).any(|name| {
        let name = name.trim();
        name == "*" || name.eq_ignore_ascii_case("accept-encoding")
    });
    if !is_said {
        response.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// A strong validator vouches for bytes that are no longer the same (RFC 9110 §8.8.3.3).
fn weaken(response: &mut impl Fields) {
    let Some(tag) = response.map().get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"\"") {
        let weak = [b"W/", tag.as_bytes()].concat();
        match HeaderValue::from_bytes(&weak) {
            Ok(weak) => response.insert(ETAG, weak),
            Err(_) => response.remove(&ETAG),
        }
    }
}

fn token(coding: Coding) -> &'static str {
    match coding {
        Coding::Zstd => "zstd",
        Coding::Brotli => "br",
        Coding::Gzip => "gzip",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        rows.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn filter() -> Compress {
        Compress::new(&Spec {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            types: vec!["text/*".to_owned(), "application/json".to_owned()],
            min_size: 100,
        })
    }

    #[test]
    fn the_client_chooses_by_weight_and_we_by_order() {
        use Coding::{Brotli, Gzip, Zstd};
        for (accept, expected) in [
            ("", None),
            ("gzip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("GZIP", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip, br", Some(Brotli)),
            ("gzip;q=1.0, br;q=0.5", Some(Gzip)),
            ("gzip;q=0.5, br;q=0.5", Some(Brotli)),
            ("gzip;q=0, br;q=0", None),
            ("zstd;q=0, *", Some(Brotli)),
            ("*", Some(Zstd)),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Gzip)),
            ("gzip, *;q=0", Some(Gzip)),
            ("identity", None),
            ("identity;q=0", None),
            ("identity;q=0, gzip;q=0.001", Some(Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("deflate, compress", None),
            ("gzip ; q=0.3 ,\tbr ; Q=0.2", Some(Gzip)),
            ("gzip;q=2, br;q=0.1", Some(Brotli)),
            ("gzip;q=0.0001", None),
            ("gzip;q=1.001", None),
            ("gzip;q=", None),
            ("gzip;q", None),
            ("gzip;level=3", None),
            (",,, ,gzip", Some(Gzip)),
            ("gzip;q=0, gzip", None),
        ] {
            let asked = map(&[]);
            let asked = if accept.is_empty() { asked } else { map(&[("accept-encoding", accept)]) };
            assert_eq!(choose(&asked, &[Zstd, Brotli, Gzip]), expected, "{accept:?}");
        }
        let split = map(&[("accept-encoding", "gzip;q=0.5"), ("accept-encoding", "br")]);
        assert_eq!(choose(&split, &[Gzip, Brotli]), Some(Brotli));
        assert_eq!(choose(&split, &[Gzip]), Some(Gzip), "only what is offered");
    }

    #[test]
    fn which_responses_are_encoded() {
        let html = ("content-type", "text/html; charset=utf-8");
        for (status, fields, is_encoded) in [
            (200, &[html][..], true),
            (200, &[("content-type", "TEXT/HTML")], true),
            (200, &[("content-type", "application/json;x=y")], true),
            (200, &[("content-type", "text/event-stream")], true),
            (404, &[html], true),
            (200, &[], false),
            (200, &[("content-type", "image/png")], false),
            (200, &[("content-type", "application/jsonp")], false),
            (200, &[html, ("content-length", "100")], true),
            (200, &[html, ("content-length", "99")], false),
            (200, &[html, ("content-length", "0")], false),
            (200, &[html, ("content-encoding", "gzip")], false),
            (200, &[html, ("content-encoding", "identity")], false),
            (200, &[html, ("cache-control", "public, No-Transform")], false),
            (200, &[html, ("cache-control", "no-cache")], true),
            (200, &[html, ("content-digest", "sha-256=:x:")], false),
            (200, &[html, ("content-range", "bytes 0-1/2")], false),
            (200, &[html, ("trailer", "x-sum")], false),
            (101, &[html], false),
            (103, &[html], false),
            (204, &[html], false),
            (205, &[html], false),
            (206, &[html], false),
            (304, &[html], false),
        ] {
            let asked = map(&[("accept-encoding", "gzip")]);
            let mut response = map(fields);
            let status = StatusCode::from_u16(status).unwrap();
            let coding = filter().apply(&asked, status, &mut response);
            assert_eq!(coding.is_some(), is_encoded, "{status} {fields:?}");
            assert_eq!(response.contains_key("vary"), is_encoded, "{status} {fields:?}");
        }
        let everything =
            Spec { codings: vec![Coding::Gzip], types: vec!["*/*".into()], min_size: 0 };
        let everything = Compress::new(&everything);
        let asked = map(&[("accept-encoding", "gzip")]);
        for (content_type, is_encoded) in [("image/png", true), ("application/grpc+proto", false)] {
            let mut response = map(&[("content-type", content_type)]);
            let coding = everything.apply(&asked, StatusCode::OK, &mut response);
            assert_eq!(coding.is_some(), is_encoded, "{content_type}");
        }
    }

    #[test]
    fn the_head_tells_what_became_of_the_body() {
        let fields = [
            ("content-type", "text/css"),
            ("content-length", "5000"),
            ("etag", "\"abc\""),
            ("accept-ranges", "bytes"),
            ("vary", "Cookie"),
        ];
        let value = |response: &HeaderMap, name: &str| {
            let values = response.get_all(name).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(", ")
        };
        let mut response = map(&fields);
        let asked = map(&[("accept-encoding", "br")]);
        let coding = filter().apply(&asked, StatusCode::OK, &mut response);
        assert_eq!(coding, Some(Coding::Brotli));
        for (name, expected) in [
            ("content-encoding", "br"),
            ("content-length", ""),
            ("etag", "W/\"abc\""),
            ("accept-ranges", ""),
            ("vary", "Cookie, Accept-Encoding"),
            ("content-type", "text/css"),
        ] {
            assert_eq!(value(&response, name), expected, "{name}");
        }
        for asked in
            [map(&[]), map(&[("accept-encoding", "br"), ("cache-control", "no-transform")])]
        {
            let mut response = map(&fields);
            assert_eq!(filter().apply(&asked, StatusCode::OK, &mut response), None);
            assert_eq!(value(&response, "etag"), "\"abc\"");
            assert_eq!(value(&response, "content-length"), "5000");
            assert_eq!(value(&response, "vary"), "Cookie, Accept-Encoding", "it would vary");
        }
    }

    #[test]
    fn vary_is_said_once() {
        for (vary, expected) in [
            ("*", "*"),
            ("accept-encoding", "accept-encoding"),
            ("Cookie, Accept-Encoding", "Cookie, Accept-Encoding"),
        ] {
            let mut response = map(&[("content-type", "text/css"), ("vary", vary)]);
            let asked = map(&[("accept-encoding", "gzip")]);
            filter().apply(&asked, StatusCode::OK, &mut response).unwrap();
            let values: Vec<_> = response.get_all("vary").iter().collect();
            assert_eq!(values, [expected]);
        }
    }
}
