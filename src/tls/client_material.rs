//! A pool's `tls:` as plain DER, for the proxy engine's own TLS, which HTTP/2 to servers uses.

use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::client_config::ClientConfigError;
use super::pem;
use crate::config::upstream::UpstreamTls;

/// Certificates to trust and to present, in DER. Every one of them has been parsed.
pub struct ClientMaterial {
    /// Never empty: where nothing is verified and nothing is trusted, it holds one CA whose key
    /// nobody has.
    pub roots: Vec<Vec<u8>>,
    /// Chain, leaf first, and key.
    pub client: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

impl ClientMaterial {
    /// Reads what `tls` names, or the system's CAs.
    ///
    /// # Errors
    /// [`ClientConfigError`] names the file that cannot be used.
    pub fn load(tls: &UpstreamTls, now: SystemTime) -> Result<Self, ClientConfigError> {
        let mut roots: Vec<Vec<u8>> = match &tls.ca {
            Some(path) => {
                let text = pem::read(path).map_err(ClientConfigError::Ca)?;
                let certificates = pem::certificates(path, &text).map_err(ClientConfigError::Ca)?;
                certificates.into_iter().map(|der| der.to_vec()).collect()
            }
            None => rustls_native_certs::load_native_certs()
                .certs
                .into_iter()
                .filter(is_usable)
                .map(|der| der.to_vec())
                .collect(),
        };
        if roots.is_empty() {
            if tls.verify {
                return Err(ClientConfigError::NoRoots);
            }
            roots.push(nobodys_ca()?);
        }
        let client = match &tls.client {
            None => None,
            Some(files) => {
                pem::load(&files.chain, &files.key, &[], now).map_err(ClientConfigError::Client)?;
                let text = pem::read(&files.chain).map_err(ClientConfigError::Client)?;
                let chain = pem::certificates(&files.chain, &text)
                    .map_err(ClientConfigError::Client)?
                    .into_iter()
                    .map(|der| der.to_vec())
                    .collect();
                let key = pem::read(&files.key).map_err(ClientConfigError::Client)?;
                // Loaded just above, so it is there; an empty key would be refused by the engine.
                let key = PrivateKeyDer::from_pem_slice(&key).ok();
                Some((chain, key.map_or_else(Vec::new, |key| key.secret_der().to_vec())))
            }
        };
        Ok(Self { roots, client })
    }
}

/// Whether both the engine's parser and rustls accept the certificate as a CA; the engine panics
/// on others.
fn is_usable(der: &CertificateDer<'static>) -> bool {
    x509_parser::parse_x509_certificate(der).is_ok()
        && RootCertStore::empty().add(der.clone()).is_ok()
}

/// A CA that signed nothing, since the engine wants one even where nothing is verified.
fn nobodys_ca() -> Result<Vec<u8>, ClientConfigError> {
    let made = rcgen::generate_simple_self_signed(vec!["invalid".to_owned()]);
    made.map(|made| made.cert.der().to_vec()).map_err(|_| ClientConfigError::NoRoots)
}
