//! Fields that may not stand behind the body of a request.

/// Fields that frame, route, authenticate or describe the content: too late after it (RFC 9110
/// §6.5.1), and merged into the header fields they would overrule what was decided.
const FORBIDDEN: [&[u8]; 27] = [
    b"authorization",
    b"cache-control",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"keep-alive",
    b"max-forwards",
    b"pragma",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"range",
    b"set-cookie",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"via",
    b"www-authenticate",
    b"x-real-ip",
    b"x-request-id",
];

/// Every `X-Forwarded-…` is refused too.
const FORBIDDEN_PREFIX: &[u8] = b"x-forwarded-";

/// Whether a field may not stand behind the body of a request, by its name in lower case and with `-`
/// for `_`. Names that are cut after 24 bytes are other ones than those that may not.
#[must_use]
pub fn is_forbidden_trailer(name: &[u8]) -> bool {
    name.starts_with(FORBIDDEN_PREFIX) || FORBIDDEN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_that_was_cut_is_one_that_is_forbidden() {
        assert!(FORBIDDEN.iter().all(|name| name.len() < 24));
    }
}
