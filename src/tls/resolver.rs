//! What rustls asks for a certificate during a handshake.
//!
//! [`accept`](super::accept::accept) looks at the ClientHello first and pins the certificate it
//! chose with [`Pinned`]. [`ByName`] is what a [`ServerConfig`](rustls::ServerConfig) holds until
//! then, so that it also works where somebody else drives the handshake; it cannot see which
//! address the client reached, and rustls answers an unknown name with `access_denied`.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::store::CertStore;

/// Resolves by the name the client asks for.
#[derive(Debug)]
pub(super) struct ByName(pub(super) Arc<CertStore>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let entry = self.0.resolve(hello.server_name(), None)?;
        Some(entry.key())
    }
}

/// The one certificate that was chosen for this connection.
#[derive(Debug)]
pub(super) struct Pinned(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Pinned {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
