//! What rustls asks whether a client's certificate counts.
//!
//! The library verifies the chain: signatures, dates, purposes, revocation. It does not look at the
//! dates of the CAs themselves, which RFC 5280 §6 leaves to whoever trusts them; here a CA that has
//! ended counts no more, as with OpenSSL.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::authorities::{Authorities, Ca};
use super::lists::RevocationList;
use crate::config::client_auth::ClientAuthMode;
use crate::tls::provider;

/// The library's verifier for the CAs that are valid at present.
pub(super) struct Verifier {
    authorities: Authorities,
    mode: ClientAuthMode,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Made anew when a CA begins or ends.
    current: ArcSwap<Current>,
}

/// The verifier of one set of CAs.
struct Current {
    /// By index: those that are valid.
    valid: Vec<bool>,
    /// `None` when none of them is.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Verifier {
    pub(super) fn new(authorities: Authorities, mode: ClientAuthMode, now: SystemTime) -> Self {
        let mut all = RootCertStore::empty();
        all.add_parsable_certificates(authorities.cas.iter().map(|ca| ca.der.clone()));
        let current = Current::at(&authorities, mode, now);
        Self {
            hints: all.subjects(),
            authorities,
            mode,
            algorithms: provider::provider().signature_verification_algorithms,
            current: ArcSwap::from_pointee(current),
        }
    }

    /// The revocation lists that count.
    pub(super) fn lists(&self) -> &[RevocationList] {
        &self.authorities.counting
    }
}

impl Current {
    fn at(authorities: &Authorities, mode: ClientAuthMode, now: SystemTime) -> Self {
        let valid: Vec<bool> = authorities.cas.iter().map(|ca| ca.is_valid(now)).collect();
        let mut roots = RootCertStore::empty();
        let present = authorities.cas.iter().zip(&valid).filter(|(_, is_valid)| **is_valid);
        roots.add_parsable_certificates(present.map(|(ca, _)| ca.der.clone()));
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider::provider())
                .with_crls(authorities.lists.iter().cloned())
                .enforce_revocation_expiration();
        let builder = match mode {
            ClientAuthMode::Request => builder.allow_unauthenticated(),
            ClientAuthMode::Require => builder,
        };
        // The lists have been read before, so what is missing are CAs.
        Self { valid, verifier: builder.build().ok() }
    }

    fn is_of(&self, cas: &[Ca], now: SystemTime) -> bool {
        cas.iter().zip(&self.valid).all(|(ca, was_valid)| ca.is_valid(now) == *was_valid)
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mode == ClientAuthMode::Require
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let mut current = self.current.load_full();
        if !current.is_of(&self.authorities.cas, time) {
            current = Arc::new(Current::at(&self.authorities, self.mode, time));
            self.current.store(Arc::clone(&current));
        }
        match &current.verifier {
            Some(verifier) => verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::Expired.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("mode", &self.mode).finish_non_exhaustive()
    }
}
