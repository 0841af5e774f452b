//! Whether a message makes its connection somebody's own.
//!
//! NTLM and Negotiate say once who is at the other end of a *connection*, and the server takes
//! every later request on it for theirs (RFC 4559 §6). Such a connection must not be used for
//! anybody else, and we cannot tell who else is whom, so it is used for nobody. Called by `onward`
//! for each request and response. Never looks into credentials and never refuses a message.

use http::{HeaderMap, HeaderName, header};

/// The schemes that speak of the connection, without regard to case (RFC 9110 §11.1).
const SCHEMES: [&[u8]; 2] = [b"ntlm", b"negotiate"];

/// Whether a request's credentials count for its connection.
#[must_use]
pub(super) fn is_in_request(fields: &HeaderMap) -> bool {
    names_scheme(fields, &header::AUTHORIZATION)
        || names_scheme(fields, &header::PROXY_AUTHORIZATION)
}

/// Whether a response asks for such credentials or goes on with them.
#[must_use]
pub(super) fn is_in_response(fields: &HeaderMap) -> bool {
    names_scheme(fields, &header::WWW_AUTHENTICATE)
        || names_scheme(fields, &header::PROXY_AUTHENTICATE)
}

/// A list of challenges is cut at every comma, quoted ones too: what a realm contains at worst
/// costs a connection.
fn names_scheme(fields: &HeaderMap, name: &HeaderName) -> bool {
    let mut elements =
        fields.get_all(name).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    elements.any(|element| {
        let element = element.trim_ascii();
        let scheme = element.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_schemes_that_speak_of_the_connection_are_found() {
        for (values, is_found) in [
            (&["NTLM"][..], true),
            (&["ntlm TlRMTVNTUAAB"], true),
            (&["\t negotiate\tYII="], true),
            (&["Basic realm=\"a\", Negotiate"], true),
            (&["Basic realm=\"a\"", "NTLM"], true),
            (&["Basic realm=\"a\",NTLM,Digest nonce=b"], true),
            (&[""], false),
            (&["Basic bnRsbQ=="], false),
            (&["Bearer negotiate"], false),
            (&["NTLMv3 a"], false),
            (&["Digest realm=\"NTLM\""], false),
            (&[], false),
        ] {
            for (name, find) in [
                (header::AUTHORIZATION, is_in_request as fn(&HeaderMap) -> bool),
                (header::PROXY_AUTHORIZATION, is_in_request),
                (header::WWW_AUTHENTICATE, is_in_response),
                (header::PROXY_AUTHENTICATE, is_in_response),
            ] {
                let mut fields = HeaderMap::new();
                for value in values {
                    fields.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
                }
                assert_eq!(find(&fields), is_found, "{name}: {values:?}");
            }
        }
    }
}
