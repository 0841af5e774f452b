//! `rate_limit`: a token bucket per client, header or cookie (429, RFC 6585 §4).
//!
//! Answers carry `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10),
//! those that are let through as well, so that clients can slow down before they have to.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};

use super::buckets::{Buckets, Draw, Pace};
use super::{Rejection, Request, Verdict};
use crate::config::filter::{RateKey, RateLimit as Spec};
use crate::net::customer;

/// What is left of a quota, and until when.
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The quota and its time.
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Bytes that the longest value of `RateLimit` takes: a short name and two numbers.
const STATE_BYTES: usize = 64;
/// Instead of a value that no field can have, which there is none of: names are ours.
const UNSPEAKABLE: HeaderValue = HeaderValue::from_static("\"default\";r=0;t=1");

/// A limiter.
#[derive(Debug)]
pub(super) struct RateLimit {
    key: RateKey,
    pace: Pace,
    /// `q` and `w` of the policy.
    quota: (u32, u64),
    buckets: Arc<Buckets>,
}

/// What the buckets tell keys apart by.
#[derive(Debug, PartialEq, Eq)]
enum Key<'a> {
    Address(IpAddr),
    Value(&'a [u8]),
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Address(address) => (0_u8, address).hash(state),
            Self::Value(value) => (1_u8, value).hash(state),
        }
    }
}

impl RateLimit {
    /// A limiter by `spec` that takes over the buckets of `previous` where those have the same key.
    pub(super) fn new(spec: &Spec, previous: Option<&Self>) -> Self {
        let buckets = match previous.filter(|previous| previous.key == spec.key) {
            Some(previous) => Arc::clone(&previous.buckets),
            None => Arc::new(Buckets::new(Instant::now())),
        };
        Self {
            key: spec.key.clone(),
            pace: Pace::new(spec.rate, spec.period, spec.burst),
            quota: (spec.rate, spec.period.as_secs().max(1)),
            buckets,
        }
    }

    /// Takes a token for the request, as of `now`: when a request began says when its client wants it
    /// to have come, and heads held back would bring a burst of their own each.
    pub(super) fn judge(&self, request: &Request<'_>, now: Instant) -> (Verdict, Draw) {
        let draw = self.buckets.draw(&self.key(request), self.pace, now);
        let verdict = match draw.is_granted {
            true => Verdict::Continue,
            false => Verdict::Reject(Rejection::RateLimited { retry_after: draw.reset }),
        };
        (verdict, draw)
    }

    /// The value of `RateLimit-Policy` under this name.
    pub(super) fn policy(&self, name: &str) -> HeaderValue {
        let (quota, window) = self.quota;
        value(&format!("\"{name}\";q={quota};w={window}"))
    }

    /// The value of `RateLimit` after a draw, put together by hand: every request gets one, and
    /// `format!` takes three times as many instructions.
    pub(super) fn state(name: &str, draw: &Draw) -> HeaderValue {
        let mut text = Vec::with_capacity(STATE_BYTES);
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\";r=");
        decimal(&mut text, draw.remaining);
        text.extend_from_slice(b";t=");
        decimal(&mut text, whole_seconds(draw.reset));
        HeaderValue::from_bytes(&text).unwrap_or(UNSPEAKABLE)
    }

    /// The buckets, for whoever reports their size.
    pub(super) fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    fn key<'r>(&self, request: &Request<'r>) -> Key<'r> {
        let value = match &self.key {
            RateKey::ClientIp => None,
            RateKey::Header(name) => request.head.headers.get(name).map(HeaderValue::as_bytes),
            RateKey::Cookie(name) => {
                let mut cookies = request.head.cookies();
                cookies.find(|(cookie, _)| cookie == name).map(|(_, value)| value.as_bytes())
            }
        };
        value.map_or_else(|| Key::Address(customer(request.client)), Key::Value)
    }
}

/// Never sooner than is meant.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn decimal(text: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[first..]);
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(UNSPEAKABLE)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::tests::request;
    use super::*;

    fn limiter(key: RateKey, rate: u32, burst: u32) -> RateLimit {
        RateLimit::new(&spec(key, rate, burst), None)
    }

    fn spec(key: RateKey, rate: u32, burst: u32) -> Spec {
        Spec { key, rate, period: Duration::from_secs(60), burst }
    }

    #[test]
    fn who_shares_a_bucket() {
        let fields = |rows: &[(&'static str, &'static str)]| -> HeaderMap {
            let rows = rows.iter();
            rows.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let header = || RateKey::Header(HeaderName::from_static("x-key"));
        let cookie = || RateKey::Cookie("uid".to_owned());
        let none = || fields(&[]);
        for (key, first, second, is_shared) in [
            (RateKey::ClientIp, ("192.0.2.1", none()), ("192.0.2.1", none()), true),
            (RateKey::ClientIp, ("192.0.2.1", none()), ("192.0.2.2", none()), false),
            (RateKey::ClientIp, ("192.0.2.1", none()), ("::ffff:192.0.2.1", none()), true),
            (RateKey::ClientIp, ("2001:db8::1", none()), ("2001:db8::ffff:1:2", none()), true),
            (RateKey::ClientIp, ("2001:db8::1", none()), ("2001:db8:0:1::1", none()), false),
            (
                header(),
                ("192.0.2.1", fields(&[("x-key", "a")])),
                ("192.0.2.2", fields(&[("x-key", "a")])),
                true,
            ),
            (
                header(),
                ("192.0.2.1", fields(&[("x-key", "a")])),
                ("192.0.2.1", fields(&[("x-key", "b")])),
                false,
            ),
            (header(), ("192.0.2.1", none()), ("192.0.2.1", none()), true),
            (header(), ("192.0.2.1", none()), ("192.0.2.2", none()), false),
            (
                header(),
                ("192.0.2.1", none()),
                ("192.0.2.2", fields(&[("x-key", "192.0.2.1")])),
                false,
            ),
            (
                cookie(),
                ("192.0.2.1", fields(&[("cookie", "a=b; uid=7")])),
                ("192.0.2.2", fields(&[("cookie", "uid=7; a=c")])),
                true,
            ),
            (
                cookie(),
                ("192.0.2.1", fields(&[("cookie", "uid=7")])),
                ("192.0.2.1", fields(&[("cookie", "uid=8")])),
                false,
            ),
        ] {
            let (limiter, now) = (limiter(key, 1, 1), Instant::now());
            let ask = |(client, fields): &(&str, HeaderMap)| {
                let (verdict, _) = limiter.judge(&request(client, fields), now);
                verdict == Verdict::Continue
            };
            assert!(ask(&first), "{first:?}");
            assert_eq!(ask(&second), !is_shared, "{:?} {first:?} {second:?}", limiter.key);
        }
    }

    #[test]
    fn fields_tell_quota_rest_and_time() {
        let (limiter, now) = (limiter(RateKey::ClientIp, 100, 2), Instant::now());
        assert_eq!(limiter.policy("default"), "\"default\";q=100;w=60");
        let fields = HeaderMap::new();
        let request = request("192.0.2.1", &fields);
        for expected in ["\"x\";r=1;t=1", "\"x\";r=0;t=1", "\"x\";r=0;t=1"] {
            let (_, draw) = limiter.judge(&request, now);
            assert_eq!(RateLimit::state("x", &draw), expected);
        }
        let (verdict, _) = limiter.judge(&request, now);
        let Verdict::Reject(Rejection::RateLimited { retry_after }) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(retry_after, Duration::from_millis(600));
        for (remaining, seconds, expected) in [
            (0, 0, "\"x\";r=0;t=0"),
            (9, 10, "\"x\";r=9;t=10"),
            (100, 99, "\"x\";r=100;t=99"),
            (u64::MAX, u64::MAX, "\"x\";r=18446744073709551615;t=18446744073709551615"),
        ] {
            let reset = Duration::from_secs(seconds);
            let draw = Draw { is_granted: true, remaining, reset };
            assert_eq!(RateLimit::state("x", &draw), expected);
        }
    }

    #[test]
    fn buckets_outlive_a_reload_while_the_key_stays() {
        let fields = HeaderMap::new();
        let request = request("192.0.2.1", &fields);
        let (limiter, now) = (limiter(RateKey::ClientIp, 1, 1), Instant::now());
        assert_eq!(limiter.judge(&request, now).0, Verdict::Continue);
        for (next, is_kept) in [
            (spec(RateKey::ClientIp, 1, 1), true),
            (spec(RateKey::ClientIp, 2, 1), true),
            (spec(RateKey::Cookie("a".to_owned()), 1, 1), false),
        ] {
            let next_limiter = RateLimit::new(&next, Some(&limiter));
            let is_blocked = next_limiter.judge(&request, now).0 != Verdict::Continue;
            assert_eq!(is_blocked, is_kept, "{next:?}");
        }
    }
}
