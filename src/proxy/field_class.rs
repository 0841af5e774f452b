//! What a header field is to a gateway, by its name.
//!
//! Answers "may this field pass, and who may take it away?". Called by `forward` for every field
//! of every message, so it looks at the first byte before it compares, and it never allocates.

/// What is done with a field on its way through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// Passes as it is.
    EndToEnd,
    /// Passes, and belongs to the engine, which frames and addresses messages with it.
    Framing,
    /// `Connection` (RFC 9110 §7.6.1).
    Connection,
    /// `TE` (RFC 9110 §10.1.4).
    Te,
    /// `Upgrade` (RFC 9110 §7.8).
    Upgrade,
    /// `Cookie`, which h2 clients may split.
    Cookie,
    /// Ends here, whoever sends it.
    HopByHop,
    /// Overwritten by us, however often it occurs.
    Ours,
    /// `tracestate`, which goes on with a continued trace only.
    TraceState,
    /// A statement about the client that only a trusted proxy may make.
    Claim,
    /// A statement about the client's certificate that nobody but us may make: proxies that are trusted
    /// for addresses pass their clients' fields of these names on.
    Certificate,
    /// Never goes to a backend: it is there to be mistaken for another field.
    Forbidden,
}

/// Longest folded name; every name with a class of its own is shorter.
const FOLDED_BYTES: usize = 48;

/// Classifies a name in lower case, as `http::HeaderName` holds it.
///
/// CGI, WSGI, PHP and their heirs map everything that is no letter or digit to `_`, so that
/// `X_Forwarded-For` and `x.forwarded.for` reach the program as the field that we set. Such
/// spellings of a name that matters are forbidden.
pub(super) fn classify(name: &str) -> Class {
    let bytes = name.as_bytes();
    // No name that matters starts otherwise; most fields of a browser's request do.
    match bytes {
        [b'c' | b'e'..=b'h' | b'k' | b'm' | b'p' | b't'..=b'x', ..]
        | [b's', b's', ..]
        | [b'r', b'e', b'm', ..] => {}
        _ => return Class::EndToEnd,
    }
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    if bytes.iter().all(is_plain) {
        return known(bytes);
    }
    let mut folded = [0; FOLDED_BYTES];
    let length = bytes.len().min(FOLDED_BYTES);
    for (to, from) in folded.iter_mut().zip(bytes) {
        *to = if is_plain(from) { *from } else { b'-' };
    }
    match known(&folded[..length]) {
        Class::EndToEnd => Class::EndToEnd,
        _ => Class::Forbidden,
    }
}

/// Whether a `Connection` field may name this one and thereby take it away.
///
/// RFC 9110 §7.6.1 forbids naming fields that are meant for the recipient. We do not obey a sender
/// who does: it would let a client remove what somebody further on relies on (CVE-2024-45410).
pub(super) fn may_be_nominated(name: &str) -> bool {
    const PREFIXES: [&str; 8] = [
        "accept",
        "access-control-",
        "content-",
        "cross-origin-",
        "if-",
        "sec-",
        "x-csrf",
        "x-xsrf",
    ];
    const NAMES: [&str; 35] = [
        "age",
        "allow",
        "alt-svc",
        "authorization",
        "cache-control",
        "clear-site-data",
        "date",
        "etag",
        "expires",
        "grpc-encoding",
        "grpc-message",
        "grpc-status",
        "grpc-timeout",
        "last-modified",
        "link",
        "location",
        "origin",
        "permissions-policy",
        "pragma",
        "priority",
        "range",
        "referer",
        "referrer-policy",
        "retry-after",
        "server",
        "set-cookie",
        "strict-transport-security",
        "user-agent",
        "vary",
        "via",
        "www-authenticate",
        "x-api-key",
        "x-content-type-options",
        "x-frame-options",
        "x-http-method-override",
    ];
    classify(name) == Class::EndToEnd
        && NAMES.binary_search(&name).is_err()
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The class of a name that has nothing but letters, digits and dashes.
fn known(name: &[u8]) -> Class {
    match name {
        b"connection" => Class::Connection,
        b"te" => Class::Te,
        b"upgrade" => Class::Upgrade,
        b"cookie" => Class::Cookie,
        b"content-length" | b"host" | b"transfer-encoding" => Class::Framing,
        b"expect"
        | b"http2-settings"
        | b"keep-alive"
        | b"proxy-authenticate"
        | b"proxy-authentication-info"
        | b"proxy-authorization"
        | b"proxy-connection"
        | b"trailer" => Class::HopByHop,
        b"forwarded" | b"traceparent" | b"x-forwarded-for" | b"x-forwarded-host"
        | b"x-forwarded-proto" | b"x-request-id" => Class::Ours,
        b"tracestate" => Class::TraceState,
        // CGI programs take `Proxy` for their HTTP_PROXY (CVE-2016-5385); the others replace the
        // path that routes and filters decided on.
        b"proxy" | b"x-original-url" | b"x-original-uri" | b"x-rewrite-url" => Class::Forbidden,
        _ if is_about_certificates(name) => Class::Certificate,
        _ if is_claim(name) => Class::Claim,
        _ => Class::EndToEnd,
    }
}

/// Names by which some backend takes the word of whoever is in front of it for the client's
/// certificate: ours, and those of IIS, nginx, HAProxy, Envoy, Traefik and load balancers.
fn is_about_certificates(name: &[u8]) -> bool {
    match name {
        b"client-cert"
        | b"client-cert-chain"
        | b"ms-aspnetcore-clientcert"
        | b"x-arr-clientcert"
        | b"x-client-verify"
        | b"x-clientcert" => true,
        _ => {
            name.starts_with(b"x-client-cert")
                || name.starts_with(b"ssl-client-")
                || name.starts_with(b"x-ssl-client-")
                || name.starts_with(b"x-ssl-cert")
                || name.starts_with(b"x-tls-client-")
                || name.starts_with(b"x-amzn-mtls-")
                || name.starts_with(b"x-forwarded-client-cert")
                || name.starts_with(b"x-forwarded-tls-client-cert")
        }
    }
}

/// Names by which some backend takes the word of whoever is in front of it for the client's
/// address, scheme, host or user.
fn is_claim(name: &[u8]) -> bool {
    match name {
        b"cf-connecting-ip"
        | b"cf-connecting-ipv6"
        | b"client-ip"
        | b"cloudfront-viewer-address"
        | b"fastly-client-ip"
        | b"fly-client-ip"
        | b"forwarded-for"
        | b"forwarded-for-ip"
        | b"forwarded-proto"
        | b"front-end-https"
        | b"proxy-client-ip"
        | b"remote-user"
        | b"true-client-ip"
        | b"wl-proxy-client-ip"
        | b"wl-proxy-ssl"
        | b"x-appengine-user-ip"
        | b"x-azure-clientip"
        | b"x-azure-socketip"
        | b"x-client-ip"
        | b"x-cluster-client-ip"
        | b"x-envoy-external-address"
        | b"x-envoy-original-path"
        | b"x-forward-for"
        | b"x-forwarded"
        | b"x-host"
        | b"x-http-host-override"
        | b"x-original-forwarded-for"
        | b"x-original-host"
        | b"x-originating-ip"
        | b"x-proxyuser-ip"
        | b"x-real-ip"
        | b"x-remote-addr"
        | b"x-remote-ip"
        | b"x-remote-user"
        | b"x-scheme"
        | b"x-true-client-ip"
        | b"x-url-scheme" => true,
        // IIS in front of Kestrel has the second and third.
        _ => {
            name.starts_with(b"x-forwarded-")
                || name.starts_with(b"x-arr-")
                || name.starts_with(b"ms-aspnetcore-")
                || name.starts_with(b"x-ssl-")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_matters_has_its_class_in_any_spelling() {
        for (name, class) in [
            ("connection", Class::Connection),
            ("proxy-connection", Class::HopByHop),
            ("transfer-encoding", Class::Framing),
            ("host", Class::Framing),
            ("x-forwarded-for", Class::Ours),
            ("traceparent", Class::Ours),
            ("x-forwarded-prefix", Class::Claim),
            ("x-forwarded-client-cert", Class::Certificate),
            ("x-real-ip", Class::Claim),
            ("x-arr-clientcert", Class::Certificate),
            ("x-arr-ssl", Class::Claim),
            ("ms-aspnetcore-clientcert", Class::Certificate),
            ("ms-aspnetcore-winauthtoken", Class::Claim),
            ("front-end-https", Class::Claim),
            ("wl-proxy-client-ip", Class::Claim),
            ("client-cert", Class::Certificate),
            ("x-client-cert-anything", Class::Certificate),
            ("x-client-verify", Class::Certificate),
            ("client_cert", Class::Forbidden),
            ("x_client-verify", Class::Forbidden),
            ("ssl-client-s-dn", Class::Certificate),
            ("x-ssl-client-cert", Class::Certificate),
            ("x-ssl-cipher", Class::Claim),
            ("remote-user", Class::Claim),
            ("remote_user", Class::Forbidden),
            ("x-amzn-mtls-clientcert", Class::Certificate),
            ("ssl_client_verify", Class::Forbidden),
            ("proxy", Class::Forbidden),
            ("x-original-url", Class::Forbidden),
            ("x_forwarded_for", Class::Forbidden),
            ("x-forwarded_proto", Class::Forbidden),
            ("x.forwarded.host", Class::Forbidden),
            ("x_real_ip", Class::Forbidden),
            ("transfer_encoding", Class::Forbidden),
            ("content_length", Class::Forbidden),
            ("proxy_connection", Class::Forbidden),
            ("x_request_id", Class::Forbidden),
            ("accept", Class::EndToEnd),
            ("user-agent", Class::EndToEnd),
            ("sec-fetch-site", Class::EndToEnd),
            ("x_custom", Class::EndToEnd),
            ("x-http-method-override", Class::EndToEnd),
            ("content-type", Class::EndToEnd),
        ] {
            assert_eq!(classify(name), class, "{name}");
        }
        let long = format!("x_forwarded_{}", "y".repeat(100));
        assert_eq!(classify(&long), Class::Forbidden, "a long name is still a claim");
    }

    #[test]
    fn no_known_name_is_lost_to_the_first_byte_or_the_length_of_the_fold() {
        let source = include_str!("field_class.rs");
        let names = source.split("b\"").skip(1).filter_map(|rest| rest.split('"').next());
        for name in names.filter(|name| name.len() > 1 && !name.ends_with('-')) {
            if known(name.as_bytes()) != Class::EndToEnd {
                assert_ne!(classify(name), Class::EndToEnd, "{name} is short-circuited");
                assert!(name.len() < FOLDED_BYTES, "{name}");
            }
        }
    }

    #[test]
    fn only_fields_that_nobody_further_on_relies_on_may_be_nominated() {
        for name in ["x-custom", "foo", "http-foo"] {
            assert!(may_be_nominated(name), "{name}");
        }
        for name in [
            "authorization",
            "cookie",
            "host",
            "content-length",
            "content-type",
            "x-forwarded-for",
            "x-real-ip",
            "x-request-id",
            "client-cert",
            "x-client-cert-subject",
            "set-cookie",
            "strict-transport-security",
            "cache-control",
            "age",
            "x-http-method-override",
            "sec-websocket-key",
        ] {
            assert!(!may_be_nominated(name), "{name}");
        }
    }
}
