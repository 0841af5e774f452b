//! `verify: false`: any certificate is good, but the server must hold its key.
//!
//! Never panics on what a server sends: certificates that the strict parser refuses (version 1,
//! nonsense dates, missing fields) are common behind this setting, so their key is then read by a
//! lenient one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Checks handshake signatures and nothing else.
#[derive(Debug)]
pub(super) struct Unverified(WebPkiSupportedAlgorithms);

impl Unverified {
    /// With the signature algorithms of `provider`.
    pub(super) fn new(provider: &Arc<CryptoProvider>) -> Self {
        Self(provider.signature_verification_algorithms)
    }

    /// The strict parser's result; where it cannot read the certificate, the lenient one's.
    fn or_leniently(
        &self,
        strict: Result<HandshakeSignatureValid, Error>,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match strict {
            Err(Error::InvalidCertificate(CertificateError::BadSignature)) | Ok(_) => strict,
            Err(error) if self.lenient(message, certificate, signed) => {
                tracing::debug!(%error, "odd server certificate accepted, as verify is off");
                Ok(HandshakeSignatureValid::assertion())
            }
            Err(_) => strict,
        }
    }

    /// Whether the key in `certificate` made the signature, by any algorithm of its scheme.
    fn lenient(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let key = parsed.public_key().subject_public_key.as_ref();
        self.0
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter())
            .any(|algorithm| algorithm.verify_signature(key, message, signed.signature()).is_ok())
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let strict = verify_tls12_signature(message, certificate, signed, &self.0);
        self.or_leniently(strict, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let strict = verify_tls13_signature(message, certificate, signed, &self.0);
        self.or_leniently(strict, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
