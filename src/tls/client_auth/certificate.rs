//! A client's certificate in words that fit into a header field.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::subject;
use crate::tls::certificate::{NotACertificate, sha256};

/// What a client has shown, verified. All texts are printable ASCII.
#[derive(Debug)]
pub struct ClientCertificate {
    /// Never empty; the leaf first, then whatever the client sent.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Whom it is for, by RFC 4514.
    pub subject: String,
    /// Who signed it, by RFC 4514.
    pub issuer: String,
    /// The number that the issuer gave it, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 of its DER, in hexadecimal digits.
    pub fingerprint: String,
}

impl ClientCertificate {
    /// Reads the leaf of `chain`, which is not empty.
    pub(super) fn parse(chain: &[CertificateDer<'_>]) -> Result<Self, NotACertificate> {
        let leaf = chain.first().map_or(&[][..], |leaf| leaf);
        let (_, parsed) = X509Certificate::from_der(leaf)?;
        Ok(Self {
            subject: subject::rfc4514(parsed.subject()),
            issuer: subject::rfc4514(parsed.issuer()),
            serial: serial(parsed.raw_serial()),
            fingerprint: subject::hex(&sha256(leaf)).to_ascii_lowercase(),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        })
    }

    /// The leaf in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf)
    }
}

/// As OpenSSL shows it: without the zero that keeps a large number positive.
fn serial(raw: &[u8]) -> String {
    match raw {
        [0, rest @ ..] if !rest.is_empty() => subject::hex(rest),
        raw => subject::hex(raw),
    }
}
