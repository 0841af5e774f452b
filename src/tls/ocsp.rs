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

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, OID_PKIX_ACCESS_DESCRIPTOR_OCSP,
};
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
    /// Where the issuer's certificate is, likewise.
    pub issuers: Vec<String>,
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
    leaf: CertificateDer<'static>,
    /// Filled in later, where the chain lacks it.
    issuer: OnceLock<CertificateDer<'static>>,
    is_issuer_in_chain: bool,
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

/// The certificate names a responder, its chain lacks who issued it, and it does not say where that is
/// to be had. Only with the issuer can it be asked about and the answer be verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the certificate's issuer is not in its chain: add its certificate to the chain's file")]
pub struct NoIssuer;

/// What was had as the issuer's certificate is something else.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("what is there is no certificate of the issuer")]
pub struct WrongIssuer;

/// The TLS feature `status_request` in the extension of RFC 7633 §4.1.
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);

/// Longest time between two questions about a certificate: authorities sign some answers for a year.
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 60 * 60);

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
                    let urls = |method: Oid<'static>| {
                        access.iter().filter_map(move |it| match it.access_location {
                            GeneralName::URI(url) if it.access_method == method && is_http(url) => {
                                Some(url.to_owned())
                            }
                            _ => None,
                        })
                    };
                    found.responders.extend(urls(OID_PKIX_ACCESS_DESCRIPTOR_OCSP));
                    found.issuers.extend(urls(OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS));
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
    /// [`NoIssuer`] when neither its chain nor an address in it leads to who issued it.
    pub fn of(certificate: &Certificate) -> Result<Option<Self>, NoIssuer> {
        let revocation = Revocation::of(certificate);
        if revocation.responders.is_empty() {
            return Ok(None);
        }
        let Some((leaf, rest)) = certificate.key.cert.split_first() else { return Ok(None) };
        let issuer = rest.iter().find(|one| has_issued(one, leaf)).cloned();
        let is_issuer_in_chain = issuer.is_some();
        if !is_issuer_in_chain && revocation.issuers.is_empty() {
            return Err(NoIssuer);
        }
        Ok(Some(Self {
            revocation,
            fingerprint: certificate.leaf.fingerprint,
            serial: certificate.leaf.serial.clone(),
            leaf: leaf.clone(),
            issuer: issuer.map(OnceLock::from).unwrap_or_default(),
            is_issuer_in_chain,
        }))
    }

    /// Whether the issuer's certificate is still to be found.
    #[must_use]
    pub fn needs_issuer(&self) -> bool {
        self.issuer.get().is_none()
    }

    /// The issuer's certificate, where the chain lacks it and it was found.
    #[must_use]
    pub fn found_issuer(&self) -> Option<&[u8]> {
        self.issuer.get().filter(|_| !self.is_issuer_in_chain).map(AsRef::as_ref)
    }

    /// Takes the issuer's certificate in, DER or PEM.
    ///
    /// # Errors
    /// [`WrongIssuer`] when it has not issued this one.
    pub fn take_issuer(&self, bytes: &[u8]) -> Result<(), WrongIssuer> {
        let der = match CertificateDer::from_pem_slice(bytes) {
            Ok(der) => der,
            Err(_) => CertificateDer::from(bytes.to_owned()),
        };
        if !has_issued(&der, &self.leaf) {
            return Err(WrongIssuer);
        }
        // Whoever was faster has found the same key.
        let _ = self.issuer.set(der);
        Ok(())
    }

    /// The certificate's own.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

fn has_issued(issuer: &CertificateDer<'_>, leaf: &CertificateDer<'_>) -> bool {
    let parse = |der| X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed);
    let (Some(by), Some(one)) = (parse(issuer.as_ref()), parse(leaf.as_ref())) else {
        return false;
    };
    by.subject().as_raw() == one.issuer().as_raw() && is_signed(leaf, by.public_key())
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
    /// cache has kept it longer than that; after half a day at most, for it may say that the
    /// certificate is revoked.
    #[must_use]
    pub fn refresh_at(&self, now: SystemTime) -> SystemTime {
        let half = self.half_time();
        let at = if half > now { half } else { middle(now, self.until) };
        at.min(now + LONGEST_PAUSE).max(now + LEAST_PAUSE)
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
