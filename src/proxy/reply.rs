//! The answers that the gateway gives itself.
//!
//! Answers "what exactly does the client get?" for failures, redirects and `respond:`. Called by
//! the engine's hooks and by the head gate, which has no engine and takes the bytes. Never decides
//! that there is a failure, and never tells a client anything of the inside: see [`Failure`].
//!
//! Answers to failures carry `X-Request-Id`, so that people can quote it. A backend's responses do
//! not get one from us.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::header::{RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::Serialize;

use super::accept::Negotiated;
use super::failure::Failure;
use super::trace::{RequestId, X_REQUEST_ID};
use crate::config::route::Respond;
use crate::welcome::{CONTENT_SECURITY_POLICY, error_page};

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A whole response of our own, ready to be sent any number of times.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Final status.
    pub status: StatusCode,
    /// Every field but `Date` and `Connection`; `Content-Length` is among them where it may be.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Empty where status or method allow no body.
    pub body: Bytes,
    /// Whether an HTTP/1.1 connection has to be closed afterwards.
    pub close: bool,
}

impl Reply {
    /// The answer to a request that failed.
    ///
    /// In the form the client can read: a page, `application/problem+json` (RFC 9457), or a gRPC
    /// status in the head of a 200 without messages. HEAD gets the head of what GET would get.
    #[must_use]
    pub fn failure(
        failure: &Failure,
        negotiated: Negotiated,
        id: &RequestId,
        method: &Method,
    ) -> Self {
        let mut reply = match negotiated {
            Negotiated::Grpc(media_type) => Self::grpc(failure, media_type),
            Negotiated::Html => {
                let (status, sentence) = (failure.status(), detail(failure));
                let page =
                    error_page::html(status.as_u16(), failure.title(), &sentence, id.as_str());
                Self::document(status, HTML, page)
            }
            Negotiated::Json => Self::document(failure.status(), PROBLEM_JSON, json(failure, id)),
        };
        reply.close = failure.closes();
        reply.headers.push((CACHE_CONTROL, NO_STORE));
        reply.headers.push((X_REQUEST_ID, id.to_value()));
        if let Some(wait) = failure.retry_after() {
            // Whole seconds (RFC 9110 §10.2.3), and never sooner than is meant.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            reply.headers.push((RETRY_AFTER, seconds.into()));
        }
        if let Some(allow) = failure.allow() {
            reply.headers.push((ALLOW, HeaderValue::from_static(allow)));
        }
        if method == Method::HEAD { reply.without_body() } else { reply }
    }

    /// A page of our own, with the policy that keeps it from loading anything.
    #[must_use]
    pub fn page(html: String) -> Self {
        let mut reply = Self::document(StatusCode::OK, HTML, html);
        let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
        reply.headers.push((http::header::CONTENT_SECURITY_POLICY, policy));
        reply.headers.push((CACHE_CONTROL, NO_STORE));
        reply
    }

    /// A redirect to `location`, whatever a client has put into it: what may not stand in a URI is
    /// percent-encoded.
    #[must_use]
    pub fn redirect(status: StatusCode, location: &str) -> Self {
        let headers = vec![(LOCATION, encode_location(location)), (CONTENT_LENGTH, 0_u64.into())];
        Self { status, headers, body: Bytes::new(), close: false }
    }

    /// A route's `respond:`, to be built once per generation and cloned per request.
    ///
    /// Fields that frame the message are ours and are left out of the operator's.
    #[must_use]
    pub fn respond(respond: &Respond) -> Self {
        let is_framing = |name: &HeaderName| {
            *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING || *name == CONNECTION
        };
        let mut headers: Vec<_> =
            respond.headers.iter().filter(|(name, _)| !is_framing(name)).cloned().collect();
        let status = respond.status;
        if has_no_body(status) {
            return Self { status, headers, body: Bytes::new(), close: false };
        }
        let body = Bytes::copy_from_slice(respond.body.as_bytes());
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, PLAIN));
        }
        headers.push((CONTENT_LENGTH, body.len().into()));
        Self { status, headers, body, close: false }
    }

    /// What a certificate authority wants to see, as the bytes that it is (RFC 8555 §8.3).
    #[must_use]
    pub fn proof(body: Bytes) -> Self {
        let length = (CONTENT_LENGTH, body.len().into());
        let headers = vec![(CONTENT_TYPE, OCTETS), length, (CACHE_CONTROL, NO_STORE)];
        Self { status: StatusCode::OK, headers, body, close: false }
    }

    /// The same head without the body, as HEAD asks for it (RFC 9110 §9.3.2).
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.body = Bytes::new();
        self
    }

    /// Writes the response as HTTP/1.1, for failures that never reach the engine.
    ///
    /// `date` is an IMF-fixdate (RFC 9110 §5.6.7). The connection is announced as closing unless
    /// `keep_alive` is set and the reply allows it. `head_only` leaves the body out.
    pub fn write_h1(&self, out: &mut Vec<u8>, date: &str, keep_alive: bool, head_only: bool) {
        let reason = self.status.canonical_reason().unwrap_or_default();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            write_name(out, name.as_str());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let connection: &[u8] = if keep_alive && !self.close { b"keep-alive" } else { b"close" };
        out.extend_from_slice(b"Connection: ");
        out.extend_from_slice(connection);
        out.extend_from_slice(b"\r\n\r\n");
        if !head_only {
            out.extend_from_slice(&self.body);
        }
    }

    fn document(status: StatusCode, content_type: HeaderValue, body: String) -> Self {
        let headers = vec![(CONTENT_TYPE, content_type), (CONTENT_LENGTH, body.len().into())];
        Self { status, headers, body: body.into(), close: false }
    }

    /// Trailers-only: the status stands in the head, and no message follows (gRPC over HTTP2,
    /// "Responses").
    fn grpc(failure: &Failure, media_type: &'static str) -> Self {
        let headers = vec![
            (CONTENT_TYPE, HeaderValue::from_static(media_type)),
            (CONTENT_LENGTH, 0_u64.into()),
            (GRPC_STATUS, u16::from(failure.grpc_status() as u8).into()),
            (GRPC_MESSAGE, HeaderValue::from_static(failure.text())),
        ];
        Self { status: StatusCode::OK, headers, body: Bytes::new(), close: false }
    }
}

/// Statuses that end with their head (RFC 9110 §6.4.1).
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// A problem of RFC 9457; `about:blank` says that the status is all there is to it, and then the
/// title is the status' own (§4.2.1).
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    error: &'static str,
    request_id: &'a str,
}

fn json(failure: &Failure, id: &RequestId) -> String {
    let status = failure.status();
    let problem = Problem {
        r#type: "about:blank",
        title: failure.title(),
        status: status.as_u16(),
        detail: &detail(failure),
        error: failure.token(),
        request_id: id.as_str(),
    };
    // Numbers and strings: there is nothing in it that could fail.
    serde_json::to_string(&problem).unwrap_or_default() + "\n"
}

/// The failure's text, with what in particular is wrong where that is the client's business.
fn detail(failure: &Failure) -> String {
    let text = failure.text();
    match failure.reason() {
        Some(reason) => format!("{}: {}.", text.trim_end_matches('.'), reason.replace('_', " ")),
        None => text.to_owned(),
    }
}

/// A Location field: what is no visible ASCII is percent-encoded (RFC 3986 §2.1), and so are the
/// few visible characters that no URI has and browsers disagree about.
fn encode_location(location: &str) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(location.len());
    for byte in location.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            encoded.push(byte);
        } else {
            let digit = |nibble: u8| DIGITS[usize::from(nibble)];
            encoded.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(encoded))
        .unwrap_or_else(|_| HeaderValue::from_static("/"))
}

/// `content-type` as `Content-Type`, as people and old clients expect it in HTTP/1.1.
fn write_name(out: &mut Vec<u8>, name: &str) {
    let mut is_start = true;
    for byte in name.bytes() {
        out.push(if is_start { byte.to_ascii_uppercase() } else { byte });
        is_start = byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::*;
    use crate::proxy::client::tests::believed;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn field<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
        let mut values = reply.headers.iter().filter(|(other, _)| other == name);
        let value = values.next().map(|(_, value)| value.to_str().unwrap());
        assert!(values.next().is_none(), "{name} twice");
        value
    }

    fn failure(failure: Failure, negotiated: Negotiated, method: &Method) -> Reply {
        Reply::failure(&failure, negotiated, &RequestId::random(), method)
    }

    fn id(text: &str) -> RequestId {
        let headers = HeaderMap::from_iter([(X_REQUEST_ID, text.parse().unwrap())]);
        RequestId::continued(&believed(), &headers).unwrap()
    }

    #[test]
    fn json_is_a_problem_with_token_and_request_id() {
        let id = id("a\"b\\c");
        let reply = Reply::failure(&Failure::UpstreamRefused, Negotiated::Json, &id, &Method::GET);
        assert_eq!(reply.status, 502);
        assert_eq!(field(&reply, "content-type"), Some("application/problem+json"));
        assert_eq!(field(&reply, "cache-control"), Some("no-store"));
        assert_eq!(field(&reply, "x-request-id"), Some("a\"b\\c"));
        assert_eq!(field(&reply, "content-length"), Some(reply.body.len().to_string().as_str()));
        let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], "Bad Gateway");
        assert_eq!(problem["status"], 502);
        assert_eq!(problem["error"], "upstream_refused");
        assert_eq!(problem["request_id"], "a\"b\\c");
    }

    #[test]
    fn a_page_never_carries_markup_of_a_client() {
        let id = id("<script>alert('1')</script>");
        let reply = Reply::failure(
            &Failure::refused(400, "duplicate_host"),
            Negotiated::Html,
            &id,
            &Method::GET,
        );
        let page = std::str::from_utf8(&reply.body).unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        assert!(page.contains("was not passed on: duplicate host."), "{page}");
    }

    #[test]
    fn grpc_gets_its_status_in_the_head_of_a_200() {
        for (what, status) in [
            (Failure::UpstreamRefused, "14"),
            (Failure::ResponseTimeout, "4"),
            (Failure::NotFound, "12"),
            (Failure::Panic, "13"),
        ] {
            let negotiated = Negotiated::Grpc("application/grpc-web+proto");
            let reply = failure(what, negotiated, &Method::POST);
            assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
            assert_eq!(field(&reply, "content-type"), Some("application/grpc-web+proto"));
            assert_eq!(field(&reply, "grpc-status"), Some(status), "{what:?}");
            let message = field(&reply, "grpc-message").unwrap();
            let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
            assert!(message.bytes().all(plain), "needs percent-encoding: {message}");
        }
    }

    #[test]
    fn head_gets_the_head_that_get_would_get() {
        let get = failure(Failure::NotFound, Negotiated::Html, &Method::GET);
        let head = failure(Failure::NotFound, Negotiated::Html, &Method::HEAD);
        assert_eq!(field(&head, "content-length"), field(&get, "content-length"));
        assert!(head.body.is_empty() && !get.body.is_empty());
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_early() {
        for (wait, seconds) in [(0, "0"), (1, "1"), (999, "1"), (1000, "1"), (1001, "2")] {
            let what = Failure::TooManyRequests(Duration::from_millis(wait));
            let reply = failure(what, Negotiated::Json, &Method::GET);
            assert_eq!(field(&reply, "retry-after"), Some(seconds), "{wait} ms");
        }
        let reply = failure(Failure::MethodNotAllowed("GET"), Negotiated::Json, &Method::TRACE);
        assert_eq!(field(&reply, "allow"), Some("GET"));
    }

    #[test]
    fn no_failure_tells_of_the_inside() {
        for what in Failure::ALL {
            for form in [Negotiated::Html, Negotiated::Json, Negotiated::Grpc("application/grpc")] {
                let reply = failure(what, form, &Method::GET);
                let mut text = Vec::new();
                reply.write_h1(&mut text, DATE, true, false);
                let text = String::from_utf8(text).unwrap().to_lowercase();
                for word in ["pool", "127.", "wardgate", "pingora", "rust", "src/"] {
                    // The token is public, and one has the word in it.
                    let text = text.replace(what.token(), "");
                    assert!(!text.contains(word), "{what:?} says {word}: {text}");
                }
            }
        }
    }

    #[test]
    fn a_redirect_cannot_be_made_to_split_the_response() {
        for (location, expected) in [
            ("https://a.example/v1?x=%20", "https://a.example/v1?x=%20"),
            ("/a b", "/a%20b"),
            ("/\r\nSet-Cookie: a=b", "/%0D%0ASet-Cookie:%20a=b"),
            ("/\u{e9}", "/%C3%A9"),
            ("/a\\b\"<>", "/a%5Cb%22%3C%3E"),
        ] {
            let reply = Reply::redirect(StatusCode::PERMANENT_REDIRECT, location);
            assert_eq!(field(&reply, "location"), Some(expected));
        }
    }

    #[test]
    fn nothing_a_client_says_gets_a_line_into_a_response() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..5_000 {
            let text: String = (0..rng.usize(0..40)).map(|_| rng.char(..)).collect();
            let mut out = Vec::new();
            let reply = Reply::redirect(StatusCode::FOUND, &text);
            reply.write_h1(&mut out, DATE, true, true);
            let lines = out.split(|&byte| byte == b'\n').count();
            assert_eq!(lines, 7, "{text:?}");
            assert!(out.iter().all(|&byte| byte.is_ascii_graphic() || b" \r\n".contains(&byte)));
        }
    }

    #[test]
    fn respond_frames_its_message_itself() {
        let respond = |status: u16, body: &str, headers: &[(&str, &str)]| {
            Reply::respond(&Respond {
                status: StatusCode::from_u16(status).unwrap(),
                body: body.to_owned(),
                headers: headers
                    .iter()
                    .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                    .collect(),
            })
        };
        let reply = respond(200, "ok\n", &[("content-length", "7"), ("x-a", "b")]);
        assert_eq!(field(&reply, "content-length"), Some("3"));
        assert_eq!(field(&reply, "content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(field(&reply, "x-a"), Some("b"));
        let typed = respond(200, "{}", &[("content-type", "application/json")]);
        assert_eq!(field(&typed, "content-type"), Some("application/json"));
        let empty = respond(204, "ignored", &[("transfer-encoding", "chunked")]);
        assert!(empty.body.is_empty() && empty.headers.is_empty());
    }

    #[test]
    fn a_response_is_written_as_http_1_1() {
        let mut out = Vec::new();
        let reply = Reply::redirect(StatusCode::PERMANENT_REDIRECT, "/x");
        reply.write_h1(&mut out, DATE, true, false);
        let expected = "HTTP/1.1 308 Permanent Redirect\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                        Location: /x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);

        let reply = failure(Failure::RequestTimeout, Negotiated::Json, &Method::GET);
        let (mut whole, mut head) = (Vec::new(), Vec::new());
        reply.write_h1(&mut whole, DATE, true, false);
        reply.write_h1(&mut head, DATE, true, true);
        let whole = String::from_utf8(whole).unwrap();
        assert!(whole.contains("Connection: close\r\n"), "a failure that closes, closes");
        assert!(whole.ends_with("}\n"));
        assert_eq!(whole.len(), head.len() + reply.body.len());
    }
}
