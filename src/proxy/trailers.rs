//! The fields behind a backend's body.
//!
//! Answers "which of them does the client get?". Only those of HTTP/2 backends come this far, and only
//! HTTP/2 clients get any.

use http::{HeaderMap, HeaderName};

use super::field_class::{Class, classify};
use super::response_check::{BadResponse, check_size};

/// What controls a message as a whole, beside what frames it and concerns one connection. Statements about
/// a client (`X-Request-Id`, `X-Forwarded-For`) do not: in a response they are a program's own.
const HEAD_ONLY: [&str; 43] = [
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "cache-control",
    "clear-site-data",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-security-policy-report-only",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "permissions-policy",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referrer-policy",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-xss-protection",
];

/// Families of such fields.
const HEAD_ONLY_PREFIXES: [&str; 2] = ["access-control-", "cross-origin-"];

/// Removes what may stand in a head only (RFC 9110 §6.5.1): clients that merge trailers into the head
/// would take it for what the gateway has let pass there. gRPC's fields and a program's own stay.
///
/// # Errors
/// [`BadResponse`] when there are more than a head may have.
pub(super) fn keep_fit(trailers: &mut HeaderMap) -> Result<(), BadResponse> {
    check_size(trailers)?;
    let doomed: Vec<HeaderName> =
        trailers.keys().filter(|name| !may_trail(name.as_str())).cloned().collect();
    for name in doomed {
        trailers.remove(&name);
    }
    Ok(())
}

/// By a name in lower case.
fn may_trail(name: &str) -> bool {
    let folded = name.replace('_', "-");
    let is_framing = matches!(
        classify(&folded),
        Class::Connection | Class::Framing | Class::HopByHop | Class::Te | Class::Upgrade
    );
    !is_framing
        && HEAD_ONLY.binary_search(&&*folded).is_err()
        && !HEAD_ONLY_PREFIXES.iter().any(|prefix| folded.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_behind_a_body_stays_there() {
        assert!(HEAD_ONLY.is_sorted());
        for name in [
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
            "etag",
            "server-timing",
            "digest",
            "authentication-info",
            "x-checksum",
            "x_sum",
            "x-request-id",
            "x-real-ip",
            "x-forwarded-for",
        ] {
            assert!(may_trail(name), "{name}");
        }
        for name in [
            "content-length",
            "content_length",
            "transfer-encoding",
            "connection",
            "upgrade",
            "set-cookie",
            "set_cookie",
            "location",
            "cache-control",
            "content-type",
            "access-control-allow-origin",
            "via",
            "www-authenticate",
            "strict-transport-security",
            "proxy-authentication-info",
        ] {
            assert!(!may_trail(name), "{name}");
        }
    }
}
