//! In which form a client can read an answer of ours.
//!
//! Answers "page, JSON or gRPC status?" from `Content-Type` and `Accept` (RFC 9110 §12.5.1). Called
//! when a request has failed; a raw head that never became a request will do. Never negotiates
//! anything that a backend says.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

/// Media ranges of one request that are looked at; browsers send eight.
const MAX_RANGES: usize = 64;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Negotiated {
    /// `application/problem+json` (RFC 9457): what programs get, and whoever says nothing.
    #[default]
    Json,
    /// A page for people.
    Html,
    /// A gRPC or gRPC-web status without messages, under this media type.
    Grpc(&'static str),
}

impl Negotiated {
    /// Chooses from a request's fields.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        Self::from_values(
            headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes),
            headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes),
        )
    }

    /// Chooses from the raw values of `Content-Type` and of every `Accept` field.
    ///
    /// A page only for who names `text/html` (or XHTML) and ranks it no lower than JSON; `*/*`
    /// alone is a program.
    pub fn from_values<'a>(
        content_type: Option<&[u8]>,
        accept: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        if let Some(media_type) = content_type.and_then(grpc_media_type) {
            return Self::Grpc(media_type);
        }
        let mut ranks = Ranks::default();
        let lists = accept.into_iter();
        for range in lists.flat_map(|list| list.split(|&byte| byte == b',')).take(MAX_RANGES) {
            ranks.add(range);
        }
        if ranks.prefers_html() { Self::Html } else { Self::Json }
    }
}

impl Negotiated {
    /// Whether it is a call of gRPC proper, in which both sides may stream.
    #[must_use]
    pub fn is_grpc_call(self) -> bool {
        matches!(self, Self::Grpc(media_type) if !media_type.contains("-web"))
    }
}

/// The media type to answer a gRPC request with; `None` when it is none.
fn grpc_media_type(content_type: &[u8]) -> Option<&'static str> {
    const WEB: [&str; 4] = [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc-web-text",
        "application/grpc-web-text+proto",
    ];
    let essence = essence(content_type);
    if let Some(web) = WEB.iter().find(|web| essence.eq_ignore_ascii_case(web.as_bytes())) {
        return Some(web);
    }
    let rest = strip_prefix(essence, b"application/grpc")?;
    match rest.first() {
        None | Some(b'+') => Some("application/grpc"),
        // gRPC-web in an encoding of the application's own.
        Some(b'-') if strip_prefix(rest, b"-web").is_some() => Some(WEB[0]),
        Some(_) => None,
    }
}

/// How high a client ranks what we have, in thousandths. The more specific range decides.
#[derive(Default)]
struct Ranks {
    html: Option<u16>,
    json: Option<u16>,
    any_application: Option<u16>,
    anything: Option<u16>,
}

impl Ranks {
    /// Takes one range of an `Accept` field; one with a broken weight is as if it were not there.
    fn add(&mut self, range: &[u8]) {
        let Some(weight) = weight(range) else { return };
        let media_type = essence(range);
        let is = |name: &str| media_type.eq_ignore_ascii_case(name.as_bytes());
        let slot = if is("text/html") || is("application/xhtml+xml") {
            &mut self.html
        } else if is("application/json") || is("application/problem+json") {
            &mut self.json
        } else if is("application/*") {
            &mut self.any_application
        } else if is("*/*") {
            &mut self.anything
        } else {
            return;
        };
        *slot = (*slot).max(Some(weight));
    }

    fn prefers_html(&self) -> bool {
        let json = self.json.or(self.any_application).or(self.anything).unwrap_or(0);
        self.html.is_some_and(|html| html > 0 && html >= json)
    }
}

/// A media type without its parameters.
fn essence(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii()
}

/// The weight of a range in thousandths: 1000 without one, `None` when it is malformed
/// (RFC 9110 §12.4.2).
fn weight(range: &[u8]) -> Option<u16> {
    let mut parameters = range.split(|&byte| byte == b';').skip(1).map(<[u8]>::trim_ascii);
    let found = parameters.find_map(|parameter| strip_prefix(parameter, b"q="));
    let Some(text) = found else { return Some(1000) };
    let (whole, decimals) = match text {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut weight = u16::from(whole - b'0') * 1000;
    for (digit, place) in decimals.iter().zip([100, 10, 1]) {
        weight += u16::from(digit.is_ascii_digit().then(|| digit - b'0')?) * place;
    }
    (weight <= 1000).then_some(weight)
}

/// What follows `prefix`, in whatever case it is written.
fn strip_prefix<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> Negotiated {
        Negotiated::from_values(None, [value.as_bytes()])
    }

    #[test]
    fn people_get_a_page_and_programs_get_json() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (value, form) in [
            (browser, Negotiated::Html),
            ("text/html", Negotiated::Html),
            ("TEXT/HTML; charset=utf-8", Negotiated::Html),
            ("application/xhtml+xml", Negotiated::Html),
            ("application/json, text/html", Negotiated::Html),
            ("text/html;q=0.9, application/json;q=0.9", Negotiated::Html),
            ("text/html;q=0.5, application/json;q=0", Negotiated::Html),
            ("text/html;q=0.5, application/json;q=0.1, */*", Negotiated::Html),
            ("", Negotiated::Json),
            ("*/*", Negotiated::Json),
            ("text/*", Negotiated::Json),
            ("application/json", Negotiated::Json),
            ("text/html;q=0.8, application/json", Negotiated::Json),
            ("text/html;q=0.8, application/problem+json", Negotiated::Json),
            ("text/html;q=0.8, application/*;q=0.9", Negotiated::Json),
            ("text/html;q=0.5, */*", Negotiated::Json),
            ("text/html;q=0", Negotiated::Json),
            ("text/html;q=2", Negotiated::Json),
            ("text/html;q=1.001", Negotiated::Json),
            ("text/html;q=0.1234", Negotiated::Json),
            ("text/html;q=-1, text/plain", Negotiated::Json),
            ("text/html;q=0.\u{e9}", Negotiated::Json),
        ] {
            assert_eq!(accept(value), form, "{value}");
        }
        let lines: [&[u8]; 2] = [b"application/json;q=0.2", b"text/html"];
        assert_eq!(Negotiated::from_values(None, lines), Negotiated::Html, "lines are one list");
    }

    #[test]
    fn grpc_is_told_by_the_content_type() {
        for (value, form) in [
            ("application/grpc", Negotiated::Grpc("application/grpc")),
            ("application/grpc+proto", Negotiated::Grpc("application/grpc")),
            ("Application/gRPC; charset=x", Negotiated::Grpc("application/grpc")),
            ("application/grpc-web", Negotiated::Grpc("application/grpc-web")),
            ("application/grpc-web+proto", Negotiated::Grpc("application/grpc-web+proto")),
            (
                "application/grpc-web-text+proto",
                Negotiated::Grpc("application/grpc-web-text+proto"),
            ),
            ("application/grpc-web+thrift", Negotiated::Grpc("application/grpc-web")),
            ("application/grpcish", Negotiated::Json),
            ("application/json", Negotiated::Json),
        ] {
            assert_eq!(Negotiated::from_values(Some(value.as_bytes()), []), form, "{value}");
        }
    }

    #[test]
    fn weights_are_thousandths() {
        for (value, expected) in [
            ("a/b", Some(1000)),
            ("a/b;q=1", Some(1000)),
            ("a/b;Q=1.000", Some(1000)),
            ("a/b; x=y ; q=0.25", Some(250)),
            ("a/b;q=0.", Some(0)),
            ("a/b;q=.5", None),
            ("a/b;q=", None),
            ("a/b;q=1.5", None),
            ("a/b;q=0,5", None),
        ] {
            assert_eq!(weight(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn no_accept_field_makes_the_reader_panic() {
        let mut rng = fastrand::Rng::with_seed(11);
        let alphabet = b"text/html;q=0.19,*application/json \xff\t";
        for _ in 0..50_000 {
            let bytes: Vec<u8> =
                (0..rng.usize(0..60)).map(|_| alphabet[rng.usize(0..alphabet.len())]).collect();
            let _ = Negotiated::from_values(Some(&bytes), [bytes.as_slice()]);
            assert!(weight(&bytes).is_none_or(|weight| weight <= 1000));
        }
    }
}
