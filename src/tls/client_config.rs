//! What we speak to a pool's servers: whom we trust, as whom, and which protocols.
//!
//! One configuration is built per pool and generation and shared by its connections, because it
//! holds the sessions that spare returning connections the full handshake.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::{ClientConfig, WantsClientCert};
use rustls::pki_types::ServerName;
use rustls::{ConfigBuilder, RootCertStore};

use crate::config::listener::{Alpn, TlsVersion};
use crate::config::upstream::UpstreamTls;
use crate::net::Host;
use crate::tls::pem::{self, LoadError, Loaded, Warning};
use crate::tls::server_config::wire_names;
use crate::tls::unverified::Unverified;
use crate::tls::{Certificate, provider};

/// The CAs that the operating system trusts. Reading them takes milliseconds and disk: load them
/// once for all pools.
///
/// # Why
/// `rustls-native-certs` reads the store once; a platform verifier would ask Windows at each
/// handshake, which may block on the network to fetch a root. Backends are certified by private
/// CAs, which are in the store from the start, and by a pool's own `ca:`.
#[derive(Clone, Debug)]
pub struct SystemRoots {
    store: Arc<RootCertStore>,
    /// CAs in the store that could not be read or parsed, and are therefore not trusted.
    pub skipped: usize,
}

/// A client configuration and what an operator should know about it.
#[derive(Debug)]
pub struct Built {
    /// Ready to connect with.
    pub config: Arc<ClientConfig>,
    /// About our client certificate.
    pub warnings: Vec<Warning>,
}

/// Why a pool's `tls:` yields no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientConfigError {
    /// The `ca:` file cannot be used.
    #[error("the CA file cannot be used")]
    Ca(#[source] LoadError),
    /// A certificate in the `ca:` file is not one that can be trusted.
    #[error("certificate {position} in {} cannot be trusted", path.display())]
    Untrustable {
        /// The file.
        path: PathBuf,
        /// From 1.
        position: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The system's store holds no usable CA, so every server would be refused.
    #[error("the system trusts no CA: set `ca`, or install the system's CA certificates")]
    NoRoots,
    /// Our client certificate cannot be used.
    #[error("the client certificate cannot be used")]
    Client(#[source] LoadError),
    /// The process runs with a provider that lacks what TLS needs.
    #[error("the cryptography provider cannot speak TLS")]
    Provider(#[source] rustls::Error),
    /// The server's host cannot stand in SNI or a certificate.
    #[error("{0} is no name that a certificate can have")]
    ServerName(Host),
}

impl SystemRoots {
    /// Reads the system's store. Never fails: a CA that cannot be used is counted, and having
    /// none at all matters only to a pool that needs one.
    #[must_use]
    pub fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (_, unparsable) = store.add_parsable_certificates(found.certs);
        Self { store: Arc::new(store), skipped: unparsable + found.errors.len() }
    }

    /// None at all, for pools without TLS.
    #[must_use]
    pub fn none() -> Self {
        Self { store: Arc::new(RootCertStore::empty()), skipped: 0 }
    }

    /// How many CAs are trusted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether no CA is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }
}

/// The configuration for a pool, offering `alpn` in this order; empty offers nothing.
///
/// # Errors
/// [`ClientConfigError`] names the file and what is wrong with it.
pub fn build(
    tls: &UpstreamTls,
    alpn: &[Alpn],
    roots: &SystemRoots,
    now: SystemTime,
) -> Result<Built, ClientConfigError> {
    let builder = trusting(tls, roots)?;
    let client = client_certificate(tls, now)?;
    let warnings = client.as_ref().map_or_else(Vec::new, |client| client.warnings.clone());
    let mut config = match client {
        Some(Loaded { certificate: Certificate { key, .. }, .. }) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = wire_names(alpn);
    // One entry per server of the pool, in the library's measure of tickets.
    config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS);
    Ok(Built { config: Arc::new(config), warnings })
}

/// The configuration for a certificate authority's own server: the system's CAs, and beside them
/// those in `ca`, the file of an authority that the system does not know.
///
/// # Errors
/// [`ClientConfigError`] names the file and what is wrong with it.
pub fn authority(
    ca: Option<&std::path::Path>,
    roots: &SystemRoots,
) -> Result<Arc<ClientConfig>, ClientConfigError> {
    let mut store = match ca {
        Some(path) => own_roots(path)?,
        None if roots.is_empty() => return Err(ClientConfigError::NoRoots),
        None => RootCertStore::empty(),
    };
    store.extend(roots.store.roots.iter().cloned());
    let config = ClientConfig::builder_with_provider(provider::provider())
        .with_protocol_versions(provider::versions(TlsVersion::V1_2))
        .map_err(ClientConfigError::Provider)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Servers whose sessions are remembered; a pool with more forgets the oldest.
const SESSIONS: usize = 256;

/// The name to ask for and to check: the pool's `server_name`, else the server's own host. An
/// address is checked against the certificate's addresses and not sent (RFC 6066 §3).
///
/// # Errors
/// [`ClientConfigError::ServerName`] when no certificate could carry it.
pub fn server_name(
    tls: &UpstreamTls,
    host: &Host,
) -> Result<ServerName<'static>, ClientConfigError> {
    name_of(&tls.server_name.clone().map_or_else(|| host.clone(), Host::Name))
}

/// The name to ask for and to check where nothing but `host` says it.
///
/// # Errors
/// [`ClientConfigError::ServerName`] when no certificate could carry it.
pub fn name_of(host: &Host) -> Result<ServerName<'static>, ClientConfigError> {
    match host {
        Host::Address(address) => Ok(ServerName::from(*address)),
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
            .map_err(|_| ClientConfigError::ServerName(host.clone())),
    }
}

/// The first half of a configuration: versions and whom to trust.
fn trusting(
    tls: &UpstreamTls,
    roots: &SystemRoots,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, ClientConfigError> {
    let provider = provider::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(provider::versions(TlsVersion::V1_2))
        .map_err(ClientConfigError::Provider)?;
    if !tls.verify {
        let verifier = Arc::new(Unverified::new(&provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier));
    }
    let store = match &tls.ca {
        Some(path) => Arc::new(own_roots(path)?),
        None if roots.is_empty() => return Err(ClientConfigError::NoRoots),
        None => Arc::clone(&roots.store),
    };
    Ok(builder.with_root_certificates(store))
}

/// The CAs in a file of the operator's. Each must be usable: a silent gap would show as refused
/// servers later.
fn own_roots(path: &std::path::Path) -> Result<RootCertStore, ClientConfigError> {
    let text = pem::read(path).map_err(ClientConfigError::Ca)?;
    let mut store = RootCertStore::empty();
    for (index, der) in
        pem::certificates(path, &text).map_err(ClientConfigError::Ca)?.into_iter().enumerate()
    {
        store.add(der).map_err(|source| ClientConfigError::Untrustable {
            path: path.to_owned(),
            position: index + 1,
            source,
        })?;
    }
    Ok(store)
}

fn client_certificate(
    tls: &UpstreamTls,
    now: SystemTime,
) -> Result<Option<Loaded>, ClientConfigError> {
    let Some(files) = &tls.client else { return Ok(None) };
    let mut loaded =
        pem::load(&files.chain, &files.key, &[], now).map_err(ClientConfigError::Client)?;
    // A client is known by its subject; it needs no host names.
    loaded.warnings.retain(|warning| *warning != Warning::NoNames);
    Ok(Some(loaded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::upstream::ClientCertificate;
    use crate::net::HostName;
    use crate::tls::fixture::Ca;

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ca = Ca::new("test");
        let leaf = ca.leaf(&["a.test"]);
        let none = SystemRoots { store: Arc::new(RootCertStore::empty()), skipped: 0 };
        let damaged = ca.pem().replace("MII", "MIA");
        let plain = UpstreamTls { ca: None, verify: true, server_name: None, client: None };
        let with_ca = |path| UpstreamTls { ca: Some(path), ..plain.clone() };
        let client = ClientCertificate {
            chain: file("client.pem", &leaf.chain),
            key: file("other.key", &ca.leaf(&["b.test"]).key),
        };
        let cases = [
            (
                plain.clone(),
                "the system trusts no CA: set `ca`, or install the system's CA certificates",
            ),
            (with_ca(dir.path().join("absent")), "the CA file cannot be used"),
            (with_ca(file("key.pem", &leaf.key)), "the CA file cannot be used"),
            (
                with_ca(file("bad.pem", &(ca.pem() + &damaged))),
                "certificate 2 in PATH cannot be trusted",
            ),
            (
                UpstreamTls { client: Some(client), ..with_ca(file("ca.pem", &ca.pem())) },
                "the client certificate cannot be used",
            ),
        ];
        for (tls, wanted) in cases {
            let error = build(&tls, &[], &none, SystemTime::now()).unwrap_err();
            let said =
                error.to_string().replace(dir.path().join("bad.pem").to_str().unwrap(), "PATH");
            assert_eq!(said, wanted, "{error:?}");
        }
    }

    #[test]
    fn the_system_store_is_read_without_a_panic() {
        let roots = SystemRoots::load();
        assert!(roots.is_empty() || roots.len() > 1);
    }

    #[test]
    fn the_servers_own_host_is_asked_for_unless_a_name_is_given() {
        let plain = UpstreamTls { ca: None, verify: true, server_name: None, client: None };
        let named = UpstreamTls { server_name: HostName::parse("b.test").ok(), ..plain.clone() };
        for (tls, host, wanted) in [
            (&plain, "a.test", "a.test"),
            (&plain, "10.0.0.1", "10.0.0.1"),
            (&plain, "::1", "::1"),
            (&named, "10.0.0.1", "b.test"),
        ] {
            let name = server_name(tls, &Host::parse(host).unwrap()).unwrap();
            assert_eq!(name.to_str(), wanted);
        }
    }
}
