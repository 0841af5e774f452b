//! The request line (RFC 9112 §3): method, target and version with one space between them.
//!
//! Answers "what is asked for, in which form of target?". Called by the gate with the first line
//! that is not empty. Never decodes or normalises a path.

use super::{Fault, HeadLimits, Seen, Span, TargetForm};
use crate::listen::syntax;
use crate::net::LONGEST_METHOD;

/// A request line that may pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLine {
    pub(super) method: Span,
    pub(super) target: Span,
    pub(super) form: TargetForm,
    pub(super) version_minor: u8,
}

/// Bytes of `HTTP/1.1`.
const VERSION_LEN: usize = 8;

impl RequestLine {
    /// Reads `line` of `buf`, noting in `seen` what was sound even if the rest is not.
    pub(super) fn parse(buf: &[u8], line: Span, seen: &mut Seen) -> Result<Self, Fault> {
        let mut words = line.of(buf).splitn(3, |&byte| byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());

        let method = method.unwrap_or_default();
        if !syntax::is_method(method) {
            return Err(Fault::bad("bad_method"));
        }
        let method_span = Span { start: line.start, end: line.start + method.len() };
        seen.method = Some(method_span);

        let target = target.unwrap_or_default();
        let start = method_span.end + 1;
        let target_span = Span { start, end: start + target.len() };
        if !syntax::is_target(target) {
            return Err(Fault::bad("bad_target"));
        }
        seen.target = Some(target_span);

        let version_minor = version_minor(version.unwrap_or_default())?;
        let form = form(method, target, target_span)?;
        Ok(Self { method: method_span, target: target_span, form, version_minor })
    }
}

/// Refuses a request line, finished or not, as soon as one of its parts is too long.
///
/// What it says of a line it says of every longer one, so the verdict does not depend on how the
/// bytes arrive; and no line that it lets grow is looked at more than a few dozen times.
pub(super) fn check_size(
    buf: &[u8],
    line: Span,
    limits: &HeadLimits,
    seen: &mut Seen,
) -> Result<(), Fault> {
    let Some(front) = line.of(buf).get(..=LONGEST_METHOD) else { return Ok(()) };
    let Some(method_len) = front.iter().position(|&byte| byte == b' ') else {
        return Err(Fault::new(501, "method_too_long"));
    };
    let start = line.start + method_len + 1;
    let rest = Span { start, end: line.end }.of(buf);
    let Some(longest) = rest.get(..=limits.uri_bytes) else { return Ok(()) };
    match longest.iter().position(|&byte| byte == b' ') {
        Some(space) if rest.len() - space - 1 <= VERSION_LEN => Ok(()),
        Some(_) => Err(Fault::bad("bad_version")),
        None => {
            let method = Span { start: line.start, end: start - 1 };
            let target = Span { start, end: start + limits.uri_bytes };
            seen.method = Some(method).filter(|span| syntax::is_method(span.of(buf)));
            seen.target = Some(target).filter(|span| syntax::is_target(span.of(buf)));
            Err(Fault::new(414, "target_too_long"))
        }
    }
}

fn version_minor(text: &[u8]) -> Result<u8, Fault> {
    match text {
        b"HTTP/1.1" => Ok(1),
        b"HTTP/1.0" => Ok(0),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Fault::new(505, "version_not_supported"))
        }
        _ => Err(Fault::bad("bad_version")),
    }
}

fn form(method: &[u8], target: &[u8], span: Span) -> Result<TargetForm, Fault> {
    match target {
        _ if method == b"CONNECT" => Err(Fault::new(405, "connect_not_allowed")),
        [b'/', ..] => Ok(TargetForm::Origin),
        b"*" if method == b"OPTIONS" => Ok(TargetForm::Asterisk),
        _ => absolute_form(target, span).ok_or(Fault::bad("bad_target")),
    }
}

/// `http://authority[path][?query]`. User information is refused (RFC 9110 §4.2.4): it has no
/// business in a request and makes `good.example@evil.example` look like two hosts.
fn absolute_form(target: &[u8], span: Span) -> Option<TargetForm> {
    let colon = target.iter().position(|&byte| byte == b':')?;
    let (scheme, rest) = target.split_at(colon);
    let is_https = scheme.eq_ignore_ascii_case(b"https");
    if !is_https && !scheme.eq_ignore_ascii_case(b"http") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|&byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
    if !syntax::is_authority(&rest[..end]) {
        return None;
    }
    let start = span.end - rest.len();
    let authority = Span { start, end: start + end };
    Some(TargetForm::Absolute {
        is_https,
        authority,
        path: Span { start: authority.end, end: span.end },
    })
}
