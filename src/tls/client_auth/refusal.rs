//! Why a client's certificate does not count, in words for the log.

use std::error::Error as StdError;
use std::fmt;

use rustls::{CertificateError, Error};

/// What the library found wrong. What it has no words for, or the name of a type, is said plainly.
#[derive(Debug)]
pub struct Refusal(pub(in crate::tls) Error);

impl StdError for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match &self.0 {
            Error::InvalidCertificate(error) => words(error),
            _ => None,
        };
        match words {
            Some(words) => f.write_str(words),
            None => self.0.fmt(f),
        }
    }
}

fn words(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer => "no CA of the rule has signed it",
        CertificateError::BadSignature => "it names a CA that has not signed it",
        CertificateError::UnknownRevocationStatus => {
            "no revocation list is of the CA that has signed it, or an intermediate CA's certificate"
        }
        // The type behind it belongs to a library below.
        CertificateError::Other(other) => match &*other.to_string() {
            "UnsupportedCertVersion" => "it is not of X.509 version 3",
            "CaUsedAsEndEntity" => "it is the certificate of a CA",
            "EndEntityUsedAsCa" => "it is signed with a certificate that is no CA's",
            "UnsupportedCriticalExtension" => "it has a critical extension that is not supported",
            "NameConstraintViolation" => "it has a name that its CA may not certify",
            "PathLenConstraintViolated" => "it has more intermediate CAs than its CA allows",
            _ => return None,
        },
        _ => return None,
    })
}
