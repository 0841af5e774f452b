//! What a certificate's issuer says about its revocation, to be served with it (OCSP stapling, RFC
//! 6960, RFC 6066 §8).
//!
//! Answers "whom is there to ask, what is to be asked, and what is the answer worth?". `app` asks and
//! keeps; [`CertStore`](super::CertStore) serves a [`Staple`] with its certificate. Most certificates
//! name no responder, and nothing comes of them here.

mod der;
mod question;
mod response;
mod signature;

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_OCSP;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::question::{QuestionError, get_url};
pub use self::response::{ResponseError, ends_at};
use self::signature::is_signed;
use super::certificate::{Certificate, Fingerprint};

/// What a certificate says about its revocation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Revocation {
    /// Where to ask, in the order of preference; URLs of http and https (RFC 5280 §4.2.2.1).
    pub responders: Vec<String>,
    /// Clients that know of it refuse the certificate without a staple ("must-staple", RFC 7633).
    pub must_staple: bool,
}

/// A certificate that somebody can be asked about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it says itself.
    pub revocation: Revocation,
    fingerprint: Fingerprint,
    serial: Box<[u8]>,
    issuer: CertificateDer<'static>,
}

/// A verified answer about one certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Staple {
    /// The whole response, as it came.
    pub der: Vec<u8>,
    /// What it says.
    pub status: Status,
    /// Since when that is known to be so.
    pub this_update: SystemTime,
    /// Until when it may be served.
    pub until: SystemTime,
}

/// How a certificate stands with its issuer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It is not revoked.
    Good,
    /// It is revoked, or on hold.
    Revoked,
}

/// The certificate names a responder, and its chain lacks who issued it. Only with the issuer can it
/// be asked for and the answer be verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the certificate's issuer is not in its chain: add its certificate to the chain's file")]
pub struct NoIssuer;

/// The TLS feature `status_request` in the extension of RFC 7633 §4.1.
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);

/// Least time between two questions about one certificate that were answered.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

impl Revocation {
    /// What `certificate` says.
    #[must_use]
    pub fn of(certificate: &Certificate) -> Self {
        let Some(Ok((_, leaf))) =
            certificate.key.cert.first().map(|der| X509Certificate::from_der(der))
        else {
            return Self::default();
        };
        let mut found = Self::default();
        for extension in leaf.iter_extensions() {
            match extension.parsed_extension() {
                ParsedExtension::AuthorityInfoAccess(access) => {
                    let responders = access
                        .iter()
                        .filter(|it| it.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP);
                    found.responders.extend(responders.filter_map(|it| match it.access_location {
                        GeneralName::URI(url) if is_http(url) => Some(url.to_owned()),
                        _ => None,
                    }));
                }
                _ if extension.oid == TLS_FEATURE => {
                    found.must_staple = der::integers(extension.value).contains(&STATUS_REQUEST);
                }
                _ => {}
            }
        }
        found
    }
}

/// The number of the TLS extension `status_request` (RFC 6066 §8).
const STATUS_REQUEST: u64 = 5;

fn is_http(url: &str) -> bool {
    let scheme = url.split("://").next().unwrap_or_default();
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

impl Subject {
    /// What can be asked about `certificate`; `None` when it names nobody to ask.
    ///
    /// # Errors
    /// [`NoIssuer`] when its chain does not hold who issued it.
    pub fn of(certificate: &Certificate) -> Result<Option<Self>, NoIssuer> {
        let revocation = Revocation::of(certificate);
        if revocation.responders.is_empty() {
            return Ok(None);
        }
        let issuer = issuer(certificate).ok_or(NoIssuer)?;
        let (fingerprint, serial) = (certificate.leaf.fingerprint, certificate.leaf.serial.clone());
        Ok(Some(Self { revocation, fingerprint, serial, issuer }))
    }

    /// The certificate's own.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// Who issued the leaf, if the chain says.
fn issuer(certificate: &Certificate) -> Option<CertificateDer<'static>> {
    let (first, rest) = certificate.key.cert.split_first()?;
    let (_, leaf) = X509Certificate::from_der(first).ok()?;
    let has_issued = |der: &&CertificateDer<'static>| {
        X509Certificate::from_der(der).is_ok_and(|(_, issuer)| {
            issuer.subject().as_raw() == leaf.issuer().as_raw()
                && is_signed(first, issuer.public_key())
        })
    };
    rest.iter().find(has_issued).cloned()
}

impl Staple {
    /// Whether clients may be shown it at `now`: it says that all is well, and still counts.
    #[must_use]
    pub fn is_servable(&self, now: SystemTime) -> bool {
        self.status == Status::Good && now < self.until
    }

    /// Half of its time, which is when to ask again.
    #[must_use]
    pub fn half_time(&self) -> SystemTime {
        middle(self.this_update, self.until)
    }

    /// When to ask again, as seen at `now`: at half of its time, or at half of what is left where a
    /// cache has kept it longer than that.
    #[must_use]
    pub fn refresh_at(&self, now: SystemTime) -> SystemTime {
        let half = self.half_time();
        let at = if half > now { half } else { middle(now, self.until) };
        at.max(now + LEAST_PAUSE)
    }
}

fn middle(from: SystemTime, to: SystemTime) -> SystemTime {
    from + to.duration_since(from).unwrap_or_default() / 2
}

impl Status {
    /// The word for it in `/status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Revoked => "revoked",
        }
    }
}

#[cfg(test)]
mod tests;
