//! A certificate that can be served: chain, key and what the chain says about itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::net::{Host, HostName, HostPattern};

/// A chain with the key of its leaf, and the leaf's own words.
///
/// It exists only with a key that fits, so whoever holds one can serve it.
#[derive(Clone)]
pub struct Certificate {
    /// Chain, leaf first, and the signing key.
    pub key: Arc<CertifiedKey>,
    /// What the leaf says about itself.
    pub leaf: Leaf,
    /// The chain's and the key's file; `None` for one that lives in memory only.
    pub source: Option<Source>,
}

/// The files a certificate was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// PEM file of the chain.
    pub chain: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
}

/// What a certificate says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leaf {
    /// The subject alternative names that are hosts (RFC 5280 §4.2.1.6). The common name is not
    /// among them: no current client reads it (RFC 9525 §2).
    pub names: Vec<HostPattern>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Distinguished name of who signed it, for people.
    pub issuer: String,
    /// Distinguished name of whom it is for, for people; often empty.
    pub subject: String,
    /// The number the issuer gave it (RFC 5280 §4.1.2.2), as the bytes it was encoded with.
    pub serial: Box<[u8]>,
    /// SHA-256 of the DER.
    pub fingerprint: Fingerprint,
}

/// SHA-256 of a certificate's DER, shown as `AB:CD:…` like openssl and browsers do.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Fingerprint([u8; 32]);

/// The bytes are no X.509 certificate.
#[derive(Debug, thiserror::Error)]
#[error("not an X.509 certificate")]
pub struct NotACertificate(#[from] x509_parser::nom::Err<x509_parser::error::X509Error>);

impl Certificate {
    /// Whether one of the certificate's names is good for `host`.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        self.leaf.names.iter().any(|name| name.covers(host))
    }

    /// Those of `patterns` that clients would refuse this certificate for. `*` never is: it
    /// stands for whatever the certificate holds.
    #[must_use]
    pub fn uncovered(&self, patterns: &[HostPattern]) -> Vec<HostPattern> {
        let missing = |pattern: &&HostPattern| match pattern {
            HostPattern::Exact(host) => !self.covers(host),
            HostPattern::Wildcard(_) => !self.leaf.names.contains(pattern),
            HostPattern::Any => false,
        };
        patterns.iter().filter(missing).cloned().collect()
    }

    /// When a third of its life is left, which is when to renew it.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.leaf.renew_at()
    }
}

impl fmt::Debug for Certificate {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("leaf", &self.leaf)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Leaf {
    /// Reads it from `der`.
    ///
    /// # Errors
    /// [`NotACertificate`] when the bytes do not parse.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, NotACertificate> {
        let (_, certificate) = X509Certificate::from_der(der)?;
        let validity = certificate.validity();
        Ok(Self {
            names: names(&certificate),
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
            issuer: certificate.issuer().to_string(),
            subject: certificate.subject().to_string(),
            serial: certificate.raw_serial().into(),
            fingerprint: Fingerprint::of(der),
        })
    }

    /// When a third of its life is left.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_after.checked_sub(life / 3).unwrap_or(self.not_before)
    }
}

impl Fingerprint {
    /// The fingerprint of `der`.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 (FIPS 180-4) of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

/// The names that are hosts; what a name field may hold besides (mail, URI, garbage) is skipped.
fn names(certificate: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    extension.value.general_names.iter().filter_map(host_pattern).collect()
}

fn host_pattern(name: &GeneralName<'_>) -> Option<HostPattern> {
    match name {
        GeneralName::DNSName(text) => match text.strip_prefix("*.") {
            Some(parent) => HostName::parse(parent).ok().map(HostPattern::Wildcard),
            None => HostName::parse(text).ok().map(|name| HostPattern::Exact(Host::Name(name))),
        },
        GeneralName::IPAddress(bytes) => {
            let address = match <[u8; 4]>::try_from(*bytes) {
                Ok(four) => four.into(),
                Err(_) => <[u8; 16]>::try_from(*bytes).ok()?.into(),
            };
            Some(HostPattern::Exact(Host::Address(address)))
        }
        _ => None,
    }
}

/// `time` as the clock's type, cut to the years 1970 to 9999 that every formatter can show. A
/// date the platform's clock cannot hold becomes 1970, so nonsense reads as long expired.
pub(super) fn system_time(time: ASN1Time) -> SystemTime {
    const END_OF_9999: i64 = 253_402_300_799;
    u64::try_from(time.timestamp().min(END_OF_9999))
        .ok()
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
