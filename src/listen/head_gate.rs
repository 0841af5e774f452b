//! The head gate: whether the bytes at the front of a connection are one sound HTTP/1.1 head.
//!
//! Answers "is the head complete, may it pass, and what does it say about its body?". Called by the
//! connection task each time bytes arrive. Never changes a byte, allocates or waits, and never looks
//! at fields that have no say in framing, host or connection.
//!
//! # Why
//!
//! A head is refused here that RFC 9112 calls invalid *or* that parsers are known to read in two
//! ways. Whoever comes after sees only heads on which every parser agrees.

mod fields;
mod request_line;

#[cfg(test)]
mod corpus;

use std::borrow::Cow;

use super::syntax;
use fields::Fields;
use request_line::RequestLine;

/// Reads heads, one after the other, from a buffer that grows at its end.
///
/// Remembers where it stopped, so that a head which drips in byte by byte costs as much as one that
/// comes at once. After [`Verdict::Pass`] or [`Verdict::Refuse`] it starts afresh: take
/// [`Head::len`] bytes (and the body's) off the buffer before the next call.
#[derive(Clone, Debug, Default)]
pub struct HeadGate {
    /// Where the line being read begins.
    line: usize,
    /// Nothing before here ends a line or is forbidden in one.
    scanned: usize,
    /// Empty lines before the request line.
    empty_lines: usize,
    /// Where the request line begins.
    start: usize,
    seen: Seen,
    request: Option<RequestLine>,
    fields: Fields,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeadLimits {
    /// Bytes of the whole head, the blank line included.
    pub bytes: usize,
    /// Number of header fields.
    pub fields: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
}

/// What is to become of the bytes read so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing is wrong yet and the head is not over: read more and ask again.
    Incomplete,
    /// A whole head that may be handed on.
    Pass(Head),
    /// Answer and close; whatever follows on this connection cannot be trusted.
    Refuse(Refusal),
}

/// A head that passed. Every [`Span`] counts from the front of the buffer that was inspected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Bytes of empty lines before the request line (RFC 9112 §2.2). The head to hand on is
    /// `buf[leading..len]`.
    pub leading: usize,
    /// Bytes up to and with the blank line, `leading` included. The body begins here.
    pub len: usize,
    /// A token without lower-case letters, never `CONNECT`.
    pub method: Span,
    /// Whether the method is `HEAD`, whose response has no body.
    pub is_head: bool,
    /// The request target as it was written.
    pub target: Span,
    /// Which of the forms of RFC 9112 §3.2 the target has.
    pub form: TargetForm,
    /// The value of `Host`; for HTTP/1.0 without one the target's authority, if it has one.
    pub host: Option<Span>,
    /// 0 or 1: the minor version of HTTP/1.
    pub version_minor: u8,
    /// How the body's end is found.
    pub body: BodyFraming,
    /// Whether the client wants the connection kept (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends its body. Never on HTTP/1.0 or
    /// without a body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// Whether this is an upgrade that may be forwarded: HTTP/1.1, `Connection: upgrade`, an
    /// `Upgrade` field that does not name `h2c`, and no body. If not, `Upgrade` must not be
    /// forwarded either (RFC 9110 §7.8): a backend that switches to h2c behind our back would
    /// take requests that no filter has seen. What follows the head must wait for the 101: if the
    /// backend declines, it is the next request.
    pub upgrade: bool,
}

/// A stretch of the inspected buffer, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// The form of a request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TargetForm {
    /// `/path?query`.
    Origin,
    /// `http://host/path?query`, where the host equals the `Host` field.
    Absolute {
        /// Whether the scheme is `https`.
        is_https: bool,
        /// Host and perhaps port.
        authority: Span,
        /// Path and query: empty, or begins with `/` or `?`.
        path: Span,
    },
    /// `*`, with `OPTIONS` only.
    Asterisk,
}

/// How a request's body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyFraming {
    /// No body.
    None,
    /// `Content-Length`, in bytes.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a head may not pass, and what is known of it for the access line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// 400, 405, 414, 417, 431, 501 or 505; whoever waits for a head adds 408 and 421.
    pub status: u16,
    /// A fixed `snake_case` word for `error.type`.
    pub reason: &'static str,
    /// The method, if it was read and is one.
    pub method: Option<Span>,
    /// The target, if it was read and its bytes are allowed; cut at the limit if it is too long.
    pub target: Option<Span>,
    /// The `Host` field, if it was read and is one.
    pub host: Option<Span>,
}

/// Empty lines that may stand before a request line. RFC 9112 §2.2 asks for at least one, left over
/// by old clients that end a body with CRLF; more than a few is somebody probing.
const MAX_EMPTY_LINES: usize = 4;

impl HeadGate {
    /// Looks at `buf`, which begins with the bytes of the last call unless that one decided.
    ///
    /// The verdict depends on the bytes alone and not on how many arrived at a time. A head over a
    /// limit is refused as soon as the limit is passed.
    pub fn inspect(&mut self, buf: &[u8], limits: &HeadLimits) -> Verdict {
        let verdict = match self.read_lines(buf, limits) {
            Ok(None) => return Verdict::Incomplete,
            Ok(Some(head)) => Verdict::Pass(head),
            Err(fault) => Verdict::Refuse(self.refusal(fault)),
        };
        *self = Self::default();
        verdict
    }

    /// What is to be said of a head that comes to no end: it ended in the middle, or took too long.
    /// The gate starts afresh.
    pub fn give_up(&mut self, status: u16, reason: &'static str) -> Refusal {
        std::mem::take(self).refusal(Fault::new(status, reason))
    }

    fn read_lines(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<Head>, Fault> {
        let window = buf.get(..limits.bytes).unwrap_or(buf);
        loop {
            self.scanned = syntax::plain_end(window, self.scanned);
            let line = Span { start: self.line, end: self.scanned };
            if self.request.is_none() {
                request_line::check_size(window, line, limits, &mut self.seen)?;
            }
            match window.get(self.scanned..).unwrap_or_default() {
                [] | [b'\r'] => break,
                [b'\r', b'\n', ..] => {}
                [byte, ..] => return Err(Fault::control(*byte)),
            }
            self.scanned += 2;
            self.line = self.scanned;
            if let Some(head) = self.take_line(window, line, limits)? {
                return Ok(Some(head));
            }
        }
        match &self.request {
            _ if window.len() < limits.bytes => Ok(None),
            None => Err(Fault::new(414, "request_line_too_long")),
            Some(_) => Err(Fault::new(431, "head_too_large")),
        }
    }

    fn take_line(
        &mut self,
        buf: &[u8],
        line: Span,
        limits: &HeadLimits,
    ) -> Result<Option<Head>, Fault> {
        match &self.request {
            None if line.is_empty() => {
                self.empty_lines += 1;
                if self.empty_lines > MAX_EMPTY_LINES {
                    return Err(Fault::bad("too_many_empty_lines"));
                }
            }
            None => {
                self.start = line.start;
                self.request = Some(RequestLine::parse(buf, line, &mut self.seen)?);
            }
            Some(request) if line.is_empty() => return self.finish(buf, request).map(Some),
            Some(request) => {
                self.fields.take(buf, line, request.version_minor, limits)?;
                self.seen.host = self.fields.host;
            }
        }
        Ok(None)
    }

    fn finish(&self, buf: &[u8], request: &RequestLine) -> Result<Head, Fault> {
        let fields = &self.fields;
        let host = fields.host_for(buf, request)?;
        let body = fields.body();
        let has_body = !matches!(body, BodyFraming::None | BodyFraming::Length(0));
        let is_modern = request.version_minor == 1;
        Ok(Head {
            leading: self.start,
            len: self.scanned,
            method: request.method,
            is_head: request.method.of(buf) == b"HEAD",
            target: request.target,
            form: request.form,
            host,
            version_minor: request.version_minor,
            body,
            keep_alive: !fields.close && (is_modern || fields.keep_alive),
            expect_continue: fields.expect_continue && is_modern && has_body,
            upgrade: fields.is_upgrade() && is_modern && !has_body,
        })
    }

    fn refusal(&self, fault: Fault) -> Refusal {
        let Seen { method, target, host } = self.seen;
        Refusal { status: fault.status, reason: fault.reason, method, target, host }
    }
}

impl Head {
    /// The refusal of a head that is sound, but not for this connection.
    #[must_use]
    pub fn refused(&self, status: u16, reason: &'static str) -> Refusal {
        let (method, target) = (Some(self.method), Some(self.target));
        Refusal { status, reason, method, target, host: self.host }
    }

    /// The target as a backend wants it: the absolute form reduced to path and query (RFC 9112
    /// §3.2.1), an empty path as `/`, or as `*` for `OPTIONS` (§3.2.4). Borrowed unless a `/` had to
    /// be put before a query.
    #[must_use]
    pub fn origin_form<'a>(&self, buf: &'a [u8]) -> Cow<'a, [u8]> {
        let TargetForm::Absolute { path, .. } = self.form else {
            return Cow::Borrowed(self.target.of(buf));
        };
        match path.of(buf) {
            [] if self.method.of(buf) == b"OPTIONS" => Cow::Borrowed(b"*"),
            [] => Cow::Borrowed(b"/"),
            query @ [b'?', ..] => Cow::Owned([b"/", query].concat()),
            path => Cow::Borrowed(path),
        }
    }
}

impl Span {
    /// The bytes of `buf` this span covers; nothing if `buf` is too short.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What of a head may be named in a log even when it is refused.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    method: Option<Span>,
    target: Option<Span>,
    host: Option<Span>,
}

/// Status and reason of a refusal, before it is known what had been read.
#[derive(Clone, Copy, Debug)]
struct Fault {
    status: u16,
    reason: &'static str,
}

impl Fault {
    const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    /// 400 Bad Request.
    const fn bad(reason: &'static str) -> Self {
        Self::new(400, reason)
    }

    /// A byte that may not stand in a line; a CR here is one that no LF follows.
    const fn control(byte: u8) -> Self {
        Self::bad(match byte {
            b'\r' => "bare_cr",
            b'\n' => "bare_lf",
            _ => "control_character",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 1024, fields: 8, uri_bytes: 256 };

    /// The verdict on all of `raw` at once, which must be the same as byte by byte.
    fn inspect(raw: &[u8]) -> Verdict {
        let verdict = HeadGate::default().inspect(raw, &LIMITS);
        assert_eq!(drip(raw, &LIMITS), verdict, "byte by byte: {}", raw.escape_ascii());
        verdict
    }

    fn drip(raw: &[u8], limits: &HeadLimits) -> Verdict {
        let mut gate = HeadGate::default();
        for end in 0..=raw.len() {
            let verdict = gate.inspect(&raw[..end], limits);
            if verdict != Verdict::Incomplete {
                return verdict;
            }
        }
        Verdict::Incomplete
    }

    fn pass(raw: &[u8]) -> Head {
        match inspect(raw) {
            Verdict::Pass(head) => head,
            other => panic!("{}: {other:?}", raw.escape_ascii()),
        }
    }

    fn refuse(raw: &[u8]) -> Refusal {
        match inspect(raw) {
            Verdict::Refuse(refusal) => refusal,
            other => panic!("{}: {other:?}", raw.escape_ascii()),
        }
    }

    /// A head of HTTP/1.1 with a host and these lines.
    fn with(lines: &str) -> Vec<u8> {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes()
    }

    #[test]
    fn a_plain_request_passes_and_says_where_everything_stands() {
        let raw = b"GET /x?y HTTP/1.1\r\nHost: \ta.test:80 \r\nX: \xff \t\"y\"\r\n\r\nGET /next";
        let head = pass(raw);
        assert_eq!(&raw[head.len..], b"GET /next", "pipelined bytes stay");
        assert_eq!(head.leading, 0);
        assert_eq!(head.method.of(raw), b"GET");
        assert_eq!(head.target.of(raw), b"/x?y");
        assert_eq!(head.host.map(|span| span.of(raw)), Some(b"a.test:80".as_slice()));
        assert_eq!((head.version_minor, head.body), (1, BodyFraming::None));
        assert!(head.keep_alive && !head.upgrade && !head.expect_continue && !head.is_head);
    }

    #[test]
    fn a_few_empty_lines_may_stand_before_the_request_line() {
        let raw = b"\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = pass(raw);
        assert_eq!((head.leading, head.len), (4, raw.len()));
        assert_eq!(head.method.of(raw), b"HEAD");
        assert!(head.is_head);
        assert_eq!(refuse(b"\r\n\r\n\r\n\r\n\r\n").reason, "too_many_empty_lines");
        assert_eq!(refuse(b"\nGET / HTTP/1.1\r\n").reason, "bare_lf");
    }

    #[test]
    fn request_lines_that_parsers_read_differently_are_refused() {
        let cases: &[(&str, u16, &str)] = &[
            ("GET /s HTTP/1.1 ", 400, "bad_version"),
            ("GET /a b HTTP/1.1", 400, "bad_version"),
            ("GET  / HTTP/1.1", 400, "bad_target"),
            (" GET / HTTP/1.1", 400, "bad_method"),
            ("GET / ", 400, "bad_version"),
            ("GET /", 400, "bad_version"),
            ("GET", 400, "bad_target"),
            ("GET\t/s\tHTTP/1.1", 400, "bad_method"),
            ("GET /s\tHTTP/1.1", 400, "bad_target"),
            ("get / HTTP/1.1", 400, "bad_method"),
            ("Get / HTTP/1.1", 400, "bad_method"),
            ("GE(T / HTTP/1.1", 400, "bad_method"),
            ("G\u{e9}T / HTTP/1.1", 400, "bad_method"),
            ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1", 501, "method_too_long"),
            ("GET / http/1.1", 400, "bad_version"),
            ("GET / HTTP/11", 400, "bad_version"),
            ("GET / HTTP/1.10", 400, "bad_version"),
            ("GET / HTTP/01.1", 400, "bad_version"),
            ("GET / HTTP/4294967295.255", 400, "bad_version"),
            ("GET / HTTPS/1.1", 400, "bad_version"),
            ("PUT / RTSP/1.0", 400, "bad_version"),
            ("GET / HTTP/0.9", 505, "version_not_supported"),
            ("GET / HTTP/1.2", 505, "version_not_supported"),
            ("GET / HTTP/2.0", 505, "version_not_supported"),
            ("PRI * HTTP/2.0", 505, "version_not_supported"),
            ("CONNECT a:443 HTTP/1.1", 405, "connect_not_allowed"),
            ("CONNECT /s HTTP/1.1", 405, "connect_not_allowed"),
            ("GET * HTTP/1.1", 400, "bad_target"),
            ("OPTIONS ** HTTP/1.1", 400, "bad_target"),
            ("GET x HTTP/1.1", 400, "bad_target"),
            ("GET a:443 HTTP/1.1", 400, "bad_target"),
            ("GET ftp://a/ HTTP/1.1", 400, "bad_target"),
            ("GET http:/a HTTP/1.1", 400, "bad_target"),
            ("GET http:///s HTTP/1.1", 400, "bad_target"),
            ("GET http://u@a/ HTTP/1.1", 400, "bad_target"),
            ("GET http://a\\b/ HTTP/1.1", 400, "bad_target"),
            ("GET /s#frag HTTP/1.1", 400, "bad_target"),
            ("GET /\u{7f} HTTP/1.1", 400, "control_character"),
            ("GET /\0 HTTP/1.1", 400, "control_character"),
            ("GET / HTTP/1.1\rHost: a", 400, "bare_cr"),
            ("GET / HTTP/1.1\nHost: a", 400, "bare_lf"),
            ("\u{16}\u{3}\u{1}", 400, "control_character"),
        ];
        for (line, status, reason) in cases {
            let refusal = refuse(format!("{line}\r\nHost: a\r\n\r\n").as_bytes());
            assert_eq!((refusal.status, refusal.reason), (*status, *reason), "{line:?}");
        }
    }

    #[test]
    fn field_lines_that_parsers_read_differently_are_refused() {
        let cases: &[(&str, u16, &str)] = &[
            ("X : y", 400, "bad_field_name"),
            ("X\t: y", 400, "bad_field_name"),
            (": y", 400, "bad_field_name"),
            ("X", 400, "bad_field_name"),
            ("X y: z", 400, "bad_field_name"),
            ("X\u{80}: y", 400, "bad_field_name"),
            ("X(: y", 400, "bad_field_name"),
            ("X: a\r\n b", 400, "obs_fold"),
            ("X: a\r\n\tb", 400, "obs_fold"),
            (" Transfer-Encoding: chunked", 400, "obs_fold"),
            ("X: a\nY: b", 400, "bare_lf"),
            ("X: a\rY: b", 400, "bare_cr"),
            ("X: a\r\r\nY: b", 400, "bare_cr"),
            ("X: a\0b", 400, "control_character"),
            ("X: a\u{b}b", 400, "control_character"),
            ("X: a\u{7f}", 400, "control_character"),
            ("Host: a", 400, "duplicate_host"),
            ("host: b", 400, "duplicate_host"),
            ("Expect: 200-ok", 417, "expectation_not_supported"),
            ("Expect:", 417, "expectation_not_supported"),
            ("Connection: close, Content-Length", 400, "framing_field_nominated"),
            ("Connection: transfer-encoding", 400, "framing_field_nominated"),
        ];
        for (lines, status, reason) in cases {
            let refusal = refuse(&with(lines));
            assert_eq!((refusal.status, refusal.reason), (*status, *reason), "{lines:?}");
        }
    }

    #[test]
    fn a_body_has_one_length_or_is_chunked_but_never_both() {
        let refused: &[(&str, u16, &str)] = &[
            ("Content-Length: 3\r\nContent-Length: 3", 400, "duplicate_content_length"),
            ("Content-Length: 0\r\ncontent-length: 1", 400, "duplicate_content_length"),
            ("Content-Length:", 400, "bad_content_length"),
            ("Content-Length: +3", 400, "bad_content_length"),
            ("Content-Length: -3", 400, "bad_content_length"),
            ("Content-Length: 3, 3", 400, "bad_content_length"),
            ("Content-Length: 3 3", 400, "bad_content_length"),
            ("Content-Length: 3;", 400, "bad_content_length"),
            ("Content-Length: 0x3", 400, "bad_content_length"),
            ("Content-Length: 03", 400, "bad_content_length"),
            ("Content-Length: 1_0", 400, "bad_content_length"),
            ("Content-Length: \u{663}", 400, "bad_content_length"),
            ("Content-Length: 18446744073709551616", 400, "bad_content_length"),
            ("Content_Length: 3", 400, "framing_field_lookalike"),
            ("transfer_encoding: chunked", 400, "framing_field_lookalike"),
            ("Transfer.Encoding: chunked", 400, "framing_field_lookalike"),
            ("Content-Length: 3\r\nTransfer-Encoding: chunked", 400, "length_and_chunked"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3", 400, "length_and_chunked"),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                400,
                "duplicate_transfer_encoding",
            ),
            ("Transfer-Encoding:", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: ,chunked", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: chunked,", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: chunked, chunked", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: chunked, identity", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: identity", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: pigeons", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: \"chunked\"", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: chunked;q=1", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: chunked\u{80}", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: xchunked", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: gzip", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: chunked, gzip", 400, "bad_transfer_encoding"),
            ("Transfer-Encoding: gzip, chunked", 501, "transfer_coding_not_supported"),
            ("Transfer-Encoding: GZIP ,\tdeflate,Chunked", 501, "transfer_coding_not_supported"),
        ];
        for (lines, status, reason) in refused {
            let refusal = refuse(&with(lines));
            assert_eq!((refusal.status, refusal.reason), (*status, *reason), "{lines:?}");
        }
        let passed: &[(&str, BodyFraming)] = &[
            ("Content-Length: 0", BodyFraming::Length(0)),
            ("CONTENT-LENGTH:\t42\t  ", BodyFraming::Length(42)),
            ("Content-Length:9999999999999999999", BodyFraming::Length(9_999_999_999_999_999_999)),
            ("Transfer-Encoding: chunked", BodyFraming::Chunked),
            ("transfer-encoding:\tCHUNKED ", BodyFraming::Chunked),
            ("X: X Transfer-Encoding: chunked", BodyFraming::None),
            ("ContentXLength: 3", BodyFraming::None),
        ];
        for (lines, body) in passed {
            assert_eq!(pass(&with(lines)).body, *body, "{lines:?}");
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(refuse(old).reason, "transfer_encoding_on_http_1_0");
    }

    #[test]
    fn there_is_exactly_one_host_and_it_is_one() {
        let refused: &[(&str, &str)] = &[
            ("GET / HTTP/1.1\r\n", "missing_host"),
            ("GET / HTTP/1.1\r\nHost:\r\n", "empty_host"),
            ("GET / HTTP/1.1\r\nHost: \t \r\n", "empty_host"),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n", "bad_host"),
            ("GET / HTTP/1.1\r\nHost: a b\r\n", "bad_host"),
            ("GET / HTTP/1.1\r\nHost: a/x\r\n", "bad_host"),
            ("GET / HTTP/1.1\r\nHost: http://a\r\n", "bad_host"),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n", "bad_host"),
            ("GET http://a/ HTTP/1.1\r\n", "missing_host"),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n", "target_host_mismatch"),
            ("GET http://a:80/ HTTP/1.1\r\nHost: a\r\n", "target_host_mismatch"),
        ];
        for (head, reason) in refused {
            let refusal = refuse(format!("{head}\r\n").as_bytes());
            assert_eq!((refusal.status, refusal.reason), (400, *reason), "{head:?}");
        }
        let old = b"GET http://a.test/ HTTP/1.0\r\n\r\n";
        assert_eq!(pass(old).host.map(|span| span.of(old)), Some(b"a.test".as_slice()));
        assert_eq!(pass(b"GET / HTTP/1.0\r\n\r\n").host, None);
    }

    #[test]
    fn an_absolute_target_becomes_the_origin_form() {
        let cases: &[(&str, &str)] = &[
            ("GET http://a/x?y", "/x?y"),
            ("GET HTTPS://A/x", "/x"),
            ("GET http://a", "/"),
            ("GET http://a?q=/", "/?q=/"),
            ("OPTIONS http://a", "*"),
            ("OPTIONS http://a/", "/"),
            ("OPTIONS *", "*"),
            ("GET //a/b", "//a/b"),
        ];
        for (line, expected) in cases {
            let raw = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
            let origin = pass(&raw).origin_form(&raw).into_owned();
            assert_eq!(String::from_utf8_lossy(&origin), *expected, "{line:?}");
        }
        let secure = pass(b"GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n").form;
        assert!(matches!(secure, TargetForm::Absolute { is_https: true, .. }));
    }

    #[test]
    fn connection_options_decide_what_happens_afterwards() {
        // (version, lines, keep_alive, expect_continue, upgrade)
        let cases: &[(u8, &str, bool, bool, bool)] = &[
            (1, "X: y", true, false, false),
            (1, "Connection: close\t", false, false, false),
            (1, "Connection: keep-alive, CLOSE", false, false, false),
            (1, "Connection: closed", true, false, false),
            (0, "X: y", false, false, false),
            (0, "Connection: Keep-Alive", true, false, false),
            (0, "Connection: keep-alive\r\nConnection: close", false, false, false),
            (1, "Expect: 100-Continue\r\nContent-Length: 3", true, true, false),
            (1, "Expect: 100-continue\r\nTransfer-Encoding: chunked", true, true, false),
            (1, "Expect: 100-continue", true, false, false),
            (0, "Expect: 100-continue\r\nContent-Length: 3", false, false, false),
            (1, "Connection: ,keep-alive, Upgrade\r\nUpgrade: websocket", true, false, true),
            (1, "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 0", true, false, true),
            (1, "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1", true, false, false),
            (1, "Connection: upgrade", true, false, false),
            (1, "Upgrade: websocket", true, false, false),
            (1, "Connection: upgrade\r\nUpgrade: h2c", true, false, false),
            (1, "Connection: upgrade\r\nUpgrade: websocket, H2C", true, false, false),
            (0, "Connection: upgrade\r\nUpgrade: websocket", false, false, false),
        ];
        for (minor, lines, keep_alive, expect_continue, upgrade) in cases {
            let raw = format!("GET / HTTP/1.{minor}\r\nHost: a\r\n{lines}\r\n\r\n");
            let head = pass(raw.as_bytes());
            let found = (head.keep_alive, head.expect_continue, head.upgrade);
            assert_eq!(found, (*keep_alive, *expect_continue, *upgrade), "1.{minor} {lines:?}");
        }
    }

    #[test]
    fn limits_hold_to_the_byte_and_before_the_end_is_seen() {
        let base = with("X: ").len();
        let filled = |bytes: usize| with(&format!("X: {}", "a".repeat(bytes - base)));
        assert_eq!(pass(&filled(LIMITS.bytes)).len, LIMITS.bytes);
        let over = filled(LIMITS.bytes + 1);
        assert_eq!(refuse(&over).status, 431);
        assert_eq!(refuse(&over[..LIMITS.bytes]).reason, "head_too_large", "at the limit already");
        assert_eq!(inspect(&over[..LIMITS.bytes - 1]), Verdict::Incomplete);

        let target = |bytes: usize| {
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - 1)).into_bytes()
        };
        assert_eq!(pass(&target(LIMITS.uri_bytes)).len, LIMITS.uri_bytes + 26);
        let over = target(LIMITS.uri_bytes + 1);
        assert_eq!(refuse(&over).status, 414);
        let cut = refuse(&over[..LIMITS.uri_bytes + 5]);
        assert_eq!(cut.reason, "target_too_long", "without the end of the line");
        assert_eq!(cut.target.map(|span| span.of(&over).len()), Some(LIMITS.uri_bytes));
        assert_eq!(cut.method.map(|span| span.of(&over)), Some(b"GET".as_slice()));

        let wide = HeadLimits { uri_bytes: 4096, ..LIMITS };
        let verdict = HeadGate::default().inspect(&target(2000), &wide);
        assert!(matches!(verdict, Verdict::Refuse(Refusal { status: 414, .. })), "{verdict:?}");

        let fields = |count: usize| with(&["X: y"].repeat(count - 1).join("\r\n"));
        pass(&fields(LIMITS.fields));
        let over = refuse(&fields(LIMITS.fields + 1));
        assert_eq!((over.status, over.reason), (431, "too_many_fields"));
    }

    #[test]
    fn a_slow_drip_is_looked_at_once() {
        let limits = HeadLimits { bytes: 64 * 1024, fields: 100, uri_bytes: 16 * 1024 };
        let raw = with(&format!("X: {}", "a".repeat(60_000)));
        let mut gate = HeadGate::default();
        for end in 1..raw.len() {
            assert_eq!(gate.inspect(&raw[..end], &limits), Verdict::Incomplete);
            assert!(gate.scanned + 1 >= end, "all but a CR is done with at {end}");
        }
        assert!(matches!(gate.inspect(&raw, &limits), Verdict::Pass(_)));
    }

    #[test]
    fn a_gate_reads_the_next_head_afresh() {
        let first = with("Content-Length: 3");
        let mut gate = HeadGate::default();
        assert_eq!(gate.inspect(&first[..9], &LIMITS), Verdict::Incomplete);
        assert!(matches!(gate.inspect(&first, &LIMITS), Verdict::Pass(_)));
        let second = with("Transfer-Encoding: chunked");
        let Verdict::Pass(head) = gate.inspect(&second, &LIMITS) else { panic!("refused") };
        assert_eq!(head.body, BodyFraming::Chunked, "nothing of the first is left");
        gate.inspect(&second[..second.len() - 1], &LIMITS);
        assert_eq!(gate.inspect(b"", &LIMITS), Verdict::Incomplete, "a shorter buffer is no panic");
    }

    #[test]
    fn a_refusal_names_what_was_sound() {
        let raw = b"GET /x HTTP/1.1\r\nHost: a.test\r\nX : y\r\n\r\n";
        let refusal = refuse(raw);
        let text = |span: Option<Span>| span.map(|span| span.of(raw));
        assert_eq!(text(refusal.method), Some(b"GET".as_slice()));
        assert_eq!(text(refusal.target), Some(b"/x".as_slice()));
        assert_eq!(text(refusal.host), Some(b"a.test".as_slice()));
        let blind = refuse(b"\x16\x03\x01");
        assert_eq!((blind.method, blind.target, blind.host), (None, None, None));
    }
}
