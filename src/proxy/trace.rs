//! The two names of a request: the id people quote and the context that tracing systems follow.
//!
//! Answers "what is this request called, here and further on?". Called once per request when its
//! head is known. Never records a span and never decides what is sampled.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::client::Client;

/// Field that carries the request's id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Field that carries the trace context (W3C Trace Context §3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Field that carries vendors' parts of the trace context (W3C Trace Context §3.3).
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Longest id of somebody else's that is continued, in bytes.
const LONGEST_BELIEVED: usize = 128;

/// What a request is called in logs, in error answers and towards the backend.
///
/// Ours are 128 random bits as 32 lower-case hex digits, which is a trace id's form too: a trace
/// that starts here bears the request's id, so people look for one name and not for two.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestId(Id);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Id {
    Ours { bits: u128, hex: Hex },
    Believed(Arc<str>),
}

impl RequestId {
    /// A new id from 128 random bits. Not a secret: the generator is not a cryptographic one.
    #[must_use]
    pub fn random() -> Self {
        let bits = fastrand::u128(1..);
        Self(Id::Ours { bits, hex: Hex::of(bits) })
    }

    /// The id that a trusted proxy gave the request: a single field of 1 to 128 visible ASCII
    /// bytes. `None` when there is none that is to be continued.
    #[must_use]
    pub fn continued(client: &Client, headers: &HeaderMap) -> Option<Self> {
        if !client.is_believed() {
            return None;
        }
        let bytes = only(headers, &X_REQUEST_ID)?.as_bytes();
        let fits = !bytes.is_empty() && bytes.len() <= LONGEST_BELIEVED;
        let text = std::str::from_utf8(bytes).ok()?;
        (fits && bytes.iter().all(u8::is_ascii_graphic)).then(|| Self(Id::Believed(text.into())))
    }

    /// The id as text: 32 hex digits, or what a trusted proxy chose. Visible ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Id::Ours { hex, .. } => hex.as_str(),
            Id::Believed(text) => text,
        }
    }

    /// The id as a field's value.
    #[must_use]
    pub fn to_value(&self) -> HeaderValue {
        visible(self.as_str().as_bytes())
    }

    /// The id's bits, when it is one of ours.
    fn bits(&self) -> Option<u128> {
        match &self.0 {
            Id::Ours { bits, .. } => Some(*bits),
            Id::Believed(_) => None,
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 128 bits as 32 lower-case hex digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hex([u8; 32]);

impl Hex {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn of(bits: u128) -> Self {
        let mut digits = [0; 32];
        write_hex(&mut digits, &bits.to_be_bytes());
        Self(digits)
    }
}

/// Where a request stands in a distributed trace (W3C Trace Context, level 1).
///
/// Shown and sent as `00-<trace id>-<parent id>-<flags>`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// Names the whole trace; never 0.
    pub trace_id: u128,
    /// Names our part of it, which is the backend's parent; never 0.
    pub parent_id: u64,
    /// Whether somebody before us, or we, want it recorded.
    pub is_sampled: bool,
    /// Whether it was continued: then `tracestate` goes on, else it ends here (§4.3).
    pub is_continued: bool,
}

impl TraceContext {
    /// The trace that a trusted proxy started, with a new parent id, else a new trace.
    ///
    /// A new one takes the request's id where that is ours. It is marked as sampled: backends
    /// follow the mark by default (OpenTelemetry's `parentbased_always_on`), and an unmarked
    /// context would silently switch their own tracing off.
    #[must_use]
    pub fn of(client: &Client, headers: &HeaderMap, id: &RequestId) -> Self {
        let believed = if client.is_believed() {
            only(headers, &TRACEPARENT).and_then(|value| Self::parse(value.as_bytes()))
        } else {
            None
        };
        match believed {
            Some(parent) => Self { parent_id: fastrand::u64(1..), ..parent },
            None => Self::start(id),
        }
    }

    /// Reads `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
    ///
    /// A version after 00 is read by the same first fields as §3.2.4 asks for, provided that what
    /// follows them starts with a dash; `ff`, upper case and zero ids are invalid.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(TRACEPARENT_BYTES)?;
        let version: u8 = parse_hex(&head[..2]).and_then(|bits| bits.try_into().ok())?;
        let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let trace_id = parse_hex(&head[3..35])?;
        let parent_id: u64 = parse_hex(&head[36..52]).and_then(|bits| bits.try_into().ok())?;
        let flags = parse_hex(&head[53..55])?;
        (dashes && ends && trace_id != 0 && parent_id != 0).then_some(Self {
            trace_id,
            parent_id,
            is_sampled: flags & 1 == 1,
            is_continued: true,
        })
    }

    /// The trace id as log lines show it.
    #[must_use]
    pub fn trace_id_hex(&self) -> Hex {
        Hex::of(self.trace_id)
    }

    /// The context as a field's value, always in version 00 and with the flags of level 1 only.
    #[must_use]
    pub fn to_value(self) -> HeaderValue {
        let mut out = [b'-'; TRACEPARENT_BYTES];
        out[..2].copy_from_slice(b"00");
        write_hex(&mut out[3..35], &self.trace_id.to_be_bytes());
        write_hex(&mut out[36..52], &self.parent_id.to_be_bytes());
        out[53..].copy_from_slice(if self.is_sampled { b"01" } else { b"00" });
        visible(&out)
    }

    fn start(id: &RequestId) -> Self {
        Self {
            trace_id: id.bits().unwrap_or_else(|| fastrand::u128(1..)),
            parent_id: fastrand::u64(1..),
            is_sampled: true,
            is_continued: false,
        }
    }
}

/// Length of a `traceparent` of version 00.
const TRACEPARENT_BYTES: usize = 55;

/// The value of a field that occurs once; a doubled one is nobody's word.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// A value of visible ASCII, which every caller has made sure of.
fn visible(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Up to 32 lower-case hex digits as a number; upper case is not hex here (§3.2.2.3).
fn parse_hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::client::tests::{believed, stranger};

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn our_ids_are_32_lower_case_hex_digits_and_differ() {
        let (one, two) = (RequestId::random(), RequestId::random());
        assert_eq!(one.as_str().len(), 32);
        assert!(one.as_str().bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
        assert_ne!(one, two);
        assert_eq!(Hex::of(0xab).as_str(), format!("{:032x}", 0xab));
    }

    #[test]
    fn an_id_is_continued_from_trusted_proxies_only_and_only_when_short_and_visible() {
        let longest = "x".repeat(128);
        let longer = "x".repeat(129);
        for (value, continued) in
            [("abc-1", true), (&longest, true), (&longer, false), ("a b", false), ("", false)]
        {
            let map = headers(&[(X_REQUEST_ID, value)]);
            let id = RequestId::continued(&believed(), &map);
            assert_eq!(id.is_some_and(|id| id.as_str() == value), continued, "{value}");
            assert_eq!(RequestId::continued(&stranger(), &map), None, "nobody vouches for it");
        }
        let doubled = headers(&[(X_REQUEST_ID, "a"), (X_REQUEST_ID, "b")]);
        assert_eq!(RequestId::continued(&believed(), &doubled), None, "whose is it?");
    }

    #[test]
    fn traceparent_is_read_as_the_recommendation_says() {
        let future = VALID.replacen("00", "cc", 1);
        for (value, valid) in [
            (VALID.to_owned(), true),
            (VALID.to_uppercase(), false),
            (format!("{VALID}-x"), false),
            (future.clone(), true),
            (format!("{future}-what-the-future-will-be"), true),
            (format!("{future}.x"), false),
            (VALID.replacen("00", "ff", 1), false),
            (VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), false),
            (VALID.replace("00f067aa0ba902b7", &"0".repeat(16)), false),
            (VALID.replace('-', "_"), false),
            (VALID[..54].to_owned(), false),
            (VALID.replace("-01", "-0g"), false),
            (String::new(), false),
        ] {
            assert_eq!(TraceContext::parse(value.as_bytes()).is_some(), valid, "{value}");
        }
    }

    #[test]
    fn what_is_formatted_reads_back_and_only_the_sampled_flag_survives() {
        let parsed = TraceContext::parse(VALID.as_bytes()).unwrap();
        assert_eq!(parsed.to_value(), VALID);
        assert_eq!(parsed.trace_id_hex().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let flags = TraceContext::parse(VALID.replace("-01", "-ff").as_bytes()).unwrap();
        assert_eq!(flags.to_value(), VALID, "unknown flags are zeroed (§3.2.2.5.2)");
    }

    #[test]
    fn a_trace_is_continued_for_trusted_proxies_and_restarted_for_others() {
        let map = headers(&[(TRACEPARENT, VALID)]);
        let id = RequestId::random();

        let ours = TraceContext::of(&believed(), &map, &id);
        assert_eq!(ours.trace_id_hex().as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(ours.parent_id, 0x00f0_67aa_0ba9_02b7, "we are the backend's parent");
        assert!(ours.is_continued);

        let fresh = TraceContext::of(&stranger(), &map, &id);
        assert_eq!(fresh.trace_id_hex().as_str(), id.as_str(), "one name to look for");
        assert!(!fresh.is_continued && fresh.is_sampled);

        let doubled = headers(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID)]);
        assert!(!TraceContext::of(&believed(), &doubled, &id).is_continued);
    }

    #[test]
    fn no_traceparent_makes_the_parser_panic() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut value = VALID.as_bytes().to_vec();
            value.resize(rng.usize(0..70), b'-');
            for _ in 0..rng.usize(0..3).min(value.len()) {
                let at = rng.usize(0..value.len());
                value[at] = rng.u8(..);
            }
            if let Some(context) = TraceContext::parse(&value) {
                assert_eq!(TraceContext::parse(context.to_value().as_bytes()), Some(context));
            }
        }
    }
}
