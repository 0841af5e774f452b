//! A visit to a TLS server as a certificate authority would make it, to see who answers.
//!
//! Trusts whatever it is shown: the point is to tell what that is.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::listener::TlsVersion;
use crate::net::{Host, HostPattern};
use crate::tls::certificate::{Leaf, sha256};
use crate::tls::challenge::{ACME_TLS, server_name};
use crate::tls::connect::{ConnectError, connect};
use crate::tls::provider;
use crate::tls::unverified::Unverified;

/// What a server has shown.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The names in its certificate that are hosts.
    pub names: Vec<HostPattern>,
    /// Who signed it, for people.
    pub issuer: String,
    /// When it ends.
    pub not_after: SystemTime,
    /// What it proves to an authority (RFC 8737 §3); `None` for every ordinary certificate.
    proof: Option<Vec<u8>>,
}

impl Seen {
    /// Whether it proves `key_authorization`.
    #[must_use]
    pub fn proves(&self, key_authorization: &str) -> bool {
        self.proof.as_deref() == Some(&sha256(key_authorization.as_bytes())[..])
    }
}

/// Makes the handshake of TLS-ALPN-01 (RFC 8737) with whoever is behind `io`.
///
/// # Errors
/// [`ConnectError`], also for a server that does not know of the challenge and says so.
pub async fn as_authority<IO>(io: IO, host: &Host) -> Result<Option<Seen>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    visit(io, server_name(host).as_str().try_into().ok(), &[ACME_TLS]).await
}

/// Makes an ordinary handshake with whoever is behind `io`.
///
/// # Errors
/// [`ConnectError`].
pub async fn as_client<IO>(io: IO, host: &Host) -> Result<Option<Seen>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = match host {
        Host::Name(name) => name.as_str().try_into().ok(),
        Host::Address(address) => Some((*address).into()),
    };
    visit(io, name, &[b"h2", b"http/1.1"]).await
}

/// `None` when there is no way to ask for the name, or the server has shown nothing that parses.
async fn visit<IO>(
    io: IO,
    name: Option<ServerName<'_>>,
    protocols: &[&[u8]],
) -> Result<Option<Seen>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Some(name) = name else { return Ok(None) };
    let provider = provider::provider();
    let verifier = Arc::new(Unverified::new(&provider));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(provider::versions(TlsVersion::V1_2))
        .map_err(ConnectError::Protocol)?;
    let mut config =
        config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = connect(&Arc::new(config), name.to_owned(), io).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    Ok(shown.and_then(seen))
}

fn seen(der: &CertificateDer<'_>) -> Option<Seen> {
    let leaf = Leaf::parse(der).ok()?;
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let proof = parsed.iter_extensions().find(|it| it.oid.to_id_string() == ACME_IDENTIFIER);
    // An OCTET STRING with the digest in it.
    let proof = proof.and_then(|it| it.value.strip_prefix(&[4, 32])).map(<[u8]>::to_vec);
    let Leaf { names, issuer, not_after, .. } = leaf;
    Some(Seen { names, issuer, not_after, proof })
}

/// `id-pe-acmeIdentifier` (RFC 8737 §6.1).
const ACME_IDENTIFIER: &str = "1.3.6.1.5.5.7.1.31";

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;
    use crate::tls::fixture::{Ca, Server, entry, patterns, store};

    #[tokio::test]
    async fn a_challenge_is_told_from_everything_else() {
        let ca = Ca::new("Root");
        let store = store([entry(&ca, &["a.test"])]);
        let server = Server::start(Arc::clone(&store)).await;
        let connect = || async { TcpStream::connect(server.address).await.unwrap() };
        for host in ["a.test", "127.0.0.1"] {
            let host = Host::parse(host).unwrap();
            let none = as_authority(connect().await, &host).await;
            assert!(none.is_err(), "{host}: nothing is outstanding");
            let published = store.challenges().publish_tls_alpn(host.clone(), "token.thumb");
            let published = published.unwrap();
            assert!(store.challenges().has_tls_alpn(&host));
            let seen = as_authority(connect().await, &host).await.unwrap().unwrap();
            assert!(seen.proves("token.thumb") && !seen.proves("other.thumb"), "{seen:?}");
            drop(published);
            assert!(!store.challenges().has_tls_alpn(&host));
        }
        let name = Host::parse("a.test").unwrap();
        let seen = as_client(connect().await, &name).await.unwrap().unwrap();
        assert_eq!((seen.names, seen.issuer.as_str()), (patterns(&["a.test"]), "CN=Root"));
        assert_eq!(seen.proof, None);
    }
}
