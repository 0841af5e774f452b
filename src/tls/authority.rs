//! A certificate authority in memory: its key, its certificate, and the signing of leaves.
//!
//! Pure but for randomness: the caller brings `now` and keeps the files.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::net::{Host, HostPattern};
use crate::tls::certificate::{Leaf, sha256};

/// A CA that can sign.
#[derive(Debug)]
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The CA's own certificate.
    pub(super) der: CertificateDer<'static>,
    /// The same as text.
    pub(super) pem: String,
    /// What that says about itself.
    pub(super) about: Leaf,
}

/// Why a certificate is not this key's CA certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("not a PEM certificate")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("not a CA certificate")]
    NotACa,
    #[error("the certificate belongs to another key")]
    OtherKey,
    #[error("the certificate cannot sign")]
    Unusable(#[from] rcgen::Error),
}

impl Authority {
    /// Signs a new CA certificate for `key`, valid for ten years.
    ///
    /// The subject depends on the key alone, so a certificate made later for the same key takes
    /// the place of an earlier one in every trust store that has it.
    pub(super) fn create(key: KeyPair, now: SystemTime) -> Result<Self, rcgen::Error> {
        let mut params = params(now, CA_LIFE)?;
        params.distinguished_name =
            distinguished_name(&format!("Wardgate local CA {}", short_id(&key)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let der = certificate.der().clone();
        let about = Leaf::parse(&der).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        Ok(Self { issuer: Issuer::new(params, key), der, pem: certificate.pem(), about })
    }

    /// The CA of `key` and the certificate in `pem`.
    pub(super) fn parse(key: KeyPair, pem: &str) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(AuthorityError::Pem)?;
        let about = Leaf::parse(&der).map_err(|_| AuthorityError::NotACa)?;
        {
            let (_, parsed) =
                X509Certificate::from_der(&der).map_err(|_| AuthorityError::NotACa)?;
            if !parsed.is_ca() {
                return Err(AuthorityError::NotACa);
            }
            if parsed.public_key().raw != key.subject_public_key_info() {
                return Err(AuthorityError::OtherKey);
            }
        }
        Ok(Self { issuer: Issuer::from_ca_cert_der(&der, key)?, der, pem: pem.to_owned(), about })
    }

    /// Signs a leaf for `names` over `key`, valid for [`LEAF_LIFE`] or as long as the CA.
    /// `*` cannot stand in a certificate and is left out.
    pub(super) fn sign(
        &self,
        names: &[HostPattern],
        key: &KeyPair,
        now: SystemTime,
    ) -> Result<rcgen::Certificate, rcgen::Error> {
        let mut params = params(now, LEAF_LIFE)?;
        params.not_after = params.not_after.min(self.about.not_after.into());
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names.iter().filter_map(alt_name).collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer)
    }

    /// Whether this CA's key signed `der`.
    pub(super) fn signed(&self, der: &CertificateDer<'_>) -> bool {
        let Ok((_, leaf)) = X509Certificate::from_der(der) else { return false };
        let Ok((_, own)) = X509Certificate::from_der(&self.der) else { return false };
        leaf.issuer().as_raw() == own.subject().as_raw()
            && leaf.verify_signature(Some(own.public_key())).is_ok()
    }
}

/// Ten years: installing a root by hand is work that nobody wants to repeat.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Sixty days, renewed after forty: short enough that renewal is exercised, and far below the
/// 825 days at which Apple's systems refuse a certificate of a user's own CA.
pub(super) const LEAF_LIFE: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// What all our certificates have in common.
fn params(now: SystemTime, life: Duration) -> Result<CertificateParams, rcgen::Error> {
    /// Other machines' clocks may be behind ours.
    const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now.checked_sub(CLOCK_SKEW).unwrap_or(now));
    params.not_after = OffsetDateTime::from(now.checked_add(life).unwrap_or(now));
    params.serial_number = Some(serial()?);
    Ok(params)
}

/// 127 random bits (RFC 5280 §4.1.2.2). Not rcgen's default, a hash of the key: Firefox refuses a
/// second certificate with issuer and serial number of a first.
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = bytes[0] & 0x7f | 0x40; // positive, and never shorter than 16 bytes
    Ok(SerialNumber::from_slice(&bytes))
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Eight hex digits that tell this CA from other machines' in a trust store.
fn short_id(key: &KeyPair) -> String {
    sha256(&key.subject_public_key_info())[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn alt_name(pattern: &HostPattern) -> Option<Result<SanType, rcgen::Error>> {
    match pattern {
        HostPattern::Exact(Host::Address(address)) => Some(Ok(SanType::IpAddress(*address))),
        HostPattern::Exact(Host::Name(_)) | HostPattern::Wildcard(_) => {
            Some(pattern.to_string().try_into().map(SanType::DnsName))
        }
        HostPattern::Any => None,
    }
}
