//! The keys of certificates, and the requests that are signed with them.

use std::net::IpAddr;

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, RsaKeySize, SanType,
};

use crate::config;

/// What kind of key a certificate gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyType {
    /// ECDSA on P-256, which every client knows and which signs fastest.
    #[default]
    P256,
    /// ECDSA on P-384, for those whose rules ask for it.
    P384,
    /// RSA with 2048 bits, for clients that are too old for ECDSA.
    Rsa2048,
}

impl From<config::acme::KeyType> for KeyType {
    fn from(configured: config::acme::KeyType) -> Self {
        match configured {
            config::acme::KeyType::P256 => Self::P256,
            config::acme::KeyType::P384 => Self::P384,
            config::acme::KeyType::Rsa2048 => Self::Rsa2048,
        }
    }
}

impl KeyType {
    /// A new key, PKCS #8 as PEM. An RSA key takes a tenth of a second: do it where that is nobody's
    /// loss.
    ///
    /// # Errors
    /// What the cryptography library says.
    pub fn generate(self) -> Result<String, rcgen::Error> {
        let key = match self {
            Self::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        Ok(key?.serialize_pem())
    }
}

/// The request for a certificate for `names` with the key in `key_pem` (RFC 8555 §7.4). No subject:
/// authorities choose a common name, if any, by themselves.
///
/// # Errors
/// When the key is none, or a name cannot stand in a certificate.
pub(super) fn request(key_pem: &str, names: &[String]) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key_pem)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
        })
        .collect::<Result<_, rcgen::Error>>()?;
    Ok(params.serialize_request(&key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn every_kind_of_key_is_pkcs8_and_signs_the_same_request_again() {
        let names = ["a.test", "*.a.test", "192.0.2.1", "2001:db8::1"].map(str::to_owned);
        for (kind, bits) in [(KeyType::P256, 256), (KeyType::P384, 384), (KeyType::Rsa2048, 2048)] {
            let key = kind.generate().unwrap();
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{kind:?}");
            let request = request(&key, &names).unwrap();
            let (_, parsed) = X509CertificationRequest::from_der(&request).unwrap();
            parsed.verify_signature().unwrap();
            let key = &parsed.certification_request_info.subject_pki.parsed().unwrap();
            assert_eq!(key.key_size(), bits, "{kind:?}");
        }
        assert!(request("no key", &names).is_err());
    }
}
