//! An answer, taken apart and verified (RFC 6960 §3.2, §4.2).
//!
//! What it says is believed from the issuer's own key, or from a certificate that the issuer has given
//! the right to speak for it, and only about the certificate that was asked about.

use std::time::{Duration, SystemTime};

use x509_parser::asn1_rs::{Class, GeneralizedTime, Oid, Tag, oid};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::der::{Fields, Malformed};
use super::question::{CertId, SHA1, sha1};
use super::signature::is_signed;
use super::{Staple, Status, Subject};
use crate::tls::certificate::system_time;

/// Why an answer cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// It is something else.
    #[error("the answer is no OCSP response")]
    Malformed,
    /// The responder does not answer the question (RFC 6960 §4.2.1).
    #[error("the responder says {0}")]
    Refused(&'static str),
    /// It is about other certificates.
    #[error("the response is about another certificate")]
    Other,
    /// Who signed it may not speak for the issuer.
    #[error("the response is signed by nobody who may speak for the certificate's issuer")]
    Signer,
    /// The signature is not good.
    #[error("the response's signature is wrong, or made in a way that TLS does not know")]
    Signature,
    /// It begins later.
    #[error("the response is for a time to come; is the clock right?")]
    Early,
    /// Its time is over.
    #[error("the response has expired")]
    Expired,
    /// The responder knows nothing of the certificate (yet).
    #[error("the responder does not know the certificate")]
    Unknown,
}

/// How far our clock may be behind the responder's.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// How long an answer counts that does not say when there will be another, from the moment it was
/// made. RFC 5019 §2.2.4 wants responders to say it.
const UNLIMITED: Duration = Duration::from_secs(60 * 60);

/// `id-pkix-ocsp-basic`.
const BASIC: Oid<'static> = oid!(1.3.6.1.5.5.7.48.1.1);

/// A response, as far as it is needed.
struct Response<'a> {
    /// The part with the signature.
    basic: &'a [u8],
    responder: Responder<'a>,
    produced_at: SystemTime,
    answers: Fields<'a>,
    /// Each with its bytes.
    certificates: Vec<(X509Certificate<'a>, &'a [u8])>,
}

/// Who says to have signed it.
enum Responder<'a> {
    Name(&'a [u8]),
    KeyHash(&'a [u8]),
}

/// What is said about one certificate.
struct Answer {
    id: Option<CertId>,
    status: Option<Status>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
}

impl Subject {
    /// What `der` says about the certificate at `now`.
    ///
    /// # Errors
    /// [`ResponseError`] when it is not to be believed, or says nothing.
    pub fn verify(&self, der: &[u8], now: SystemTime) -> Result<Staple, ResponseError> {
        let issuer = self.issuer.get().ok_or(ResponseError::Signer)?;
        let (_, issuer) = X509Certificate::from_der(issuer).map_err(|_| ResponseError::Signer)?;
        let response = Response::parse(der)?;
        let signer_ends = response.verify(&issuer, now)?;
        let wanted = self.cert_id();
        let answer = response.answers()?.into_iter().find(|it| it.id.is_some() && it.id == wanted);
        let Answer { status, this_update, next_update, .. } = answer.ok_or(ResponseError::Other)?;
        let until = next_update.unwrap_or(response.produced_at + UNLIMITED);
        let until = signer_ends.map_or(until, |end| end.min(until));
        if this_update > now + TOLERANCE {
            Err(ResponseError::Early)
        } else if until <= now {
            Err(ResponseError::Expired)
        } else {
            let status = status.ok_or(ResponseError::Unknown)?;
            Ok(Staple { der: der.to_owned(), status, this_update, until })
        }
    }
}

/// When the response `der` ends, by its own words; `None` when it is none.
#[must_use]
pub fn ends_at(der: &[u8]) -> Option<SystemTime> {
    let response = Response::parse(der).ok()?;
    let answers = response.answers().ok()?;
    let end = |answer: Answer| answer.next_update.unwrap_or(response.produced_at + UNLIMITED);
    answers.into_iter().map(end).max()
}

impl<'a> Response<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, ResponseError> {
        let mut outer = Fields::of(der)?;
        match outer.universal(Tag::Enumerated)? {
            [0] => {}
            [code] => return Err(ResponseError::Refused(refusal(*code))),
            _ => return Err(ResponseError::Malformed),
        }
        let mut bytes = outer.optional(0)?.ok_or(Malformed)?.sequence()?;
        if bytes.universal(Tag::Oid)? != BASIC.as_bytes() {
            return Err(ResponseError::Malformed);
        }
        Ok(Self::basic(bytes.universal(Tag::OctetString)?)?)
    }

    fn basic(basic: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::of(basic)?;
        let mut data = fields.sequence()?;
        fields.sequence()?; // the algorithm
        fields.universal(Tag::BitString)?; // the signature
        let mut certificates = Vec::new();
        if let Some(mut explicit) = fields.optional(0)? {
            let mut list = explicit.sequence()?;
            while !list.is_empty() {
                let (_, raw) = list.next()?;
                // One that is not understood cannot be the signer's.
                certificates.extend(X509Certificate::from_der(raw).map(|(_, found)| (found, raw)));
            }
        }
        data.optional(0)?; // the version, of which there is one
        let responder = if let Some(mut name) = data.optional(1)? {
            Responder::Name(name.next()?.1)
        } else {
            let mut key = data.optional(2)?.ok_or(Malformed)?;
            Responder::KeyHash(key.universal(Tag::OctetString)?)
        };
        let produced_at = time(&mut data)?;
        let answers = data.sequence()?;
        Ok(Self { basic, responder, produced_at, answers, certificates })
    }

    fn answers(&self) -> Result<Vec<Answer>, Malformed> {
        let (mut left, mut answers) = (self.answers, Vec::new());
        while !left.is_empty() {
            answers.push(Answer::read(&mut left.sequence()?)?);
        }
        Ok(answers)
    }

    /// Checks who has signed it. Returns when his right to do so ends, where that is not the issuer.
    fn verify(
        &self,
        issuer: &X509Certificate<'_>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, ResponseError> {
        let (signer, end) = if self.responder.is(issuer) {
            (issuer, None)
        } else {
            let may_sign = |(one, raw): &&(X509Certificate<'_>, &[u8])| {
                self.responder.is(one) && is_delegate(one, raw, issuer, now)
            };
            let signer = self.certificates.iter().find(may_sign).ok_or(ResponseError::Signer)?;
            (&signer.0, Some(system_time(signer.0.validity().not_after)))
        };
        if is_signed(self.basic, signer.public_key()) {
            Ok(end)
        } else {
            Err(ResponseError::Signature)
        }
    }
}

/// Whether `issuer` lets the owner of `one` answer for it (RFC 6960 §4.2.2.2).
fn is_delegate(
    one: &X509Certificate<'_>,
    raw: &[u8],
    issuer: &X509Certificate<'_>,
    now: SystemTime,
) -> bool {
    let validity = one.validity();
    let usage = one.extended_key_usage().ok().flatten();
    usage.is_some_and(|usage| usage.value.ocsp_signing)
        && system_time(validity.not_before) <= now + TOLERANCE
        && now < system_time(validity.not_after)
        && one.issuer().as_raw() == issuer.subject().as_raw()
        && is_signed(raw, issuer.public_key())
}

impl Responder<'_> {
    fn is(&self, certificate: &X509Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => *name == certificate.subject().as_raw(),
            Self::KeyHash(hash) => {
                **hash == *sha1(&certificate.public_key().subject_public_key.data)
            }
        }
    }
}

impl Answer {
    fn read(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let id = CertId::read(&mut fields.sequence()?)?;
        let (status, _) = fields.next()?;
        let status = match (status.class(), status.tag().0) {
            (Class::ContextSpecific, 0) => Some(Status::Good),
            (Class::ContextSpecific, 1) => Some(Status::Revoked),
            (Class::ContextSpecific, 2) => None,
            _ => return Err(Malformed),
        };
        let this_update = time(fields)?;
        let next_update = fields.optional(0)?.map(|mut next| time(&mut next)).transpose()?;
        Ok(Self { id, status, this_update, next_update })
    }
}

impl CertId {
    /// `None` when it is made with another hash than ours.
    fn read(fields: &mut Fields<'_>) -> Result<Option<Self>, Malformed> {
        let algorithm = fields.sequence()?.universal(Tag::Oid)?;
        let issuer_name_hash = fields.universal(Tag::OctetString)?.into();
        let issuer_key_hash = fields.universal(Tag::OctetString)?.into();
        let serial = fields.universal(Tag::Integer)?.into();
        let id = Self { issuer_name_hash, issuer_key_hash, serial };
        Ok((algorithm == SHA1.as_bytes()).then_some(id))
    }
}

impl From<Malformed> for ResponseError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

fn time(fields: &mut Fields<'_>) -> Result<SystemTime, Malformed> {
    let bytes = fields.universal(Tag::GeneralizedTime)?;
    let time = GeneralizedTime::from_bytes(bytes).and_then(|time| time.utc_datetime());
    time.map(|time| system_time(ASN1Time::new(time))).map_err(|_| Malformed)
}

/// The words of RFC 6960 §4.2.1.
fn refusal(code: u8) -> &'static str {
    match code {
        1 => "malformedRequest",
        2 => "internalError",
        3 => "tryLater",
        5 => "sigRequired",
        6 => "unauthorized: it does not answer for this issuer or certificate",
        _ => "that it does not answer, with an unknown code",
    }
}
