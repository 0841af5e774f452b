//! The question about a certificate, in the profile for many clients (RFC 5019 §2.1): one
//! certificate, named by SHA-1, without signature and nonce, so that responders can answer it from a
//! cache.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use x509_parser::asn1_rs::{Integer, OctetString, Oid, Sequence, SerializeError, ToDer, oid};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Subject;

/// SHA-1 (RFC 3279 §2.1).
pub(super) const SHA1: Oid<'static> = oid!(1.3.14.3.2.26);

/// DER of NULL.
const NULL: [u8; 2] = [5, 0];

/// What names a certificate in questions and answers (RFC 6960 §4.1.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct CertId {
    pub(super) issuer_name_hash: Box<[u8]>,
    pub(super) issuer_key_hash: Box<[u8]>,
    pub(super) serial: Box<[u8]>,
}

/// No question can be put.
#[derive(Debug, thiserror::Error)]
#[error("the certificate cannot be asked about")]
pub struct QuestionError(#[source] Option<SerializeError>);

/// Longest URL of a question that is asked by GET (RFC 5019 §5); others are posted.
const LONGEST_GET: usize = 255;

impl Subject {
    pub(super) fn cert_id(&self) -> Option<CertId> {
        let (_, issuer) = X509Certificate::from_der(self.issuer.get()?).ok()?;
        Some(CertId {
            issuer_name_hash: sha1(issuer.subject().as_raw()),
            issuer_key_hash: sha1(&issuer.public_key().subject_public_key.data),
            serial: self.serial.clone(),
        })
    }

    /// The request (RFC 6960 §4.1.1), DER.
    ///
    /// # Errors
    /// [`QuestionError`] when the certificate has nothing to be named by.
    pub fn question(&self) -> Result<Vec<u8>, QuestionError> {
        let id = self.cert_id().ok_or(QuestionError(None))?;
        id.request().map_err(|source| QuestionError(Some(source)))
    }
}

/// Where `question` is asked by GET at `responder`; `None` when it has to be posted.
#[must_use]
pub fn get_url(responder: &str, question: &[u8]) -> Option<String> {
    let encoded = BASE64_STANDARD.encode(question);
    let mut url = responder.trim_end_matches('/').to_owned();
    url.push('/');
    for part in form_urlencoded::byte_serialize(encoded.as_bytes()) {
        url.push_str(part);
    }
    (url.len() <= LONGEST_GET && !responder.contains(['?', '#'])).then_some(url)
}

pub(super) fn sha1(bytes: &[u8]) -> Box<[u8]> {
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref().into()
}

impl CertId {
    fn request(&self) -> Result<Vec<u8>, SerializeError> {
        let algorithm = sequence([SHA1.to_der_vec()?, NULL.to_vec()])?;
        let id = sequence([
            algorithm,
            OctetString::new(&self.issuer_name_hash).to_der_vec()?,
            OctetString::new(&self.issuer_key_hash).to_der_vec()?,
            Integer::new(&self.serial).to_der_vec()?,
        ])?;
        // A request in a list of one, in a request to be signed, in a request without a signature.
        let mut outer = id;
        for _ in 0..4 {
            outer = sequence([outer])?;
        }
        Ok(outer)
    }
}

fn sequence<const N: usize>(fields: [Vec<u8>; N]) -> Result<Vec<u8>, SerializeError> {
    Sequence::new(Cow::from(fields.concat())).to_der_vec()
}
