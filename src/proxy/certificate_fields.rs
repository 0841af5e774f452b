//! A client's certificate in header fields, written once per connection.
//!
//! Answers "what is a backend told of the certificate?". Owned by a client's connection, and set on each
//! of its requests after everything of these names was taken away, whoever sent it. Never decides
//! whether a certificate counts: what is here was verified in the handshake.
//!
//! `Client-Cert` is RFC 9440's. Its `Client-Cert-Chain` is never sent: it would hold what the client
//! sent beside the certificate, which need not be what it was verified by.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::{HeaderName, HeaderValue};

use crate::net::Fields;
use crate::tls::client_auth::ClientCertificate;

/// The certificate itself, as a byte sequence of RFC 8941.
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// `SUCCESS` or `NONE`.
const VERIFY: HeaderName = HeaderName::from_static("x-client-verify");
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const ISSUER: HeaderName = HeaderName::from_static("x-client-cert-issuer");
const SERIAL: HeaderName = HeaderName::from_static("x-client-cert-serial");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");

/// What backends are told of a client that was asked for a certificate.
#[derive(Debug)]
pub struct CertificateFields(Vec<(HeaderName, HeaderValue)>);

impl CertificateFields {
    /// For a client that has shown `certificate`, or none.
    #[must_use]
    pub fn new(certificate: Option<&ClientCertificate>) -> Self {
        let Some(certificate) = certificate else {
            return Self(vec![(VERIFY, HeaderValue::from_static("NONE"))]);
        };
        let encoded = format!(":{}:", BASE64_STANDARD.encode(certificate.der()));
        Self(vec![
            (VERIFY, HeaderValue::from_static("SUCCESS")),
            (SUBJECT, value(certificate.subject.clone())),
            (ISSUER, value(certificate.issuer.clone())),
            (SERIAL, value(certificate.serial.clone())),
            (FINGERPRINT, value(certificate.fingerprint.clone())),
            (CLIENT_CERT, value(encoded)),
        ])
    }

    /// Sets the fields on a request, which has none of these names.
    pub(super) fn set(&self, fields: &mut impl Fields) {
        for (name, value) in &self.0 {
            fields.insert(name.clone(), value.clone());
        }
    }
}

/// The text is printable ASCII, so that it is always a value.
fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}
