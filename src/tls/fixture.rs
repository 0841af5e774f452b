//! What the tests of this module share: certificates made on the spot, and a server for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::listener::{Alpn, BindAddress, Listener, Protocol, TlsVersion};
use crate::net::{Host, HostPattern};
use crate::tls::accept::{AcceptError, Handshake, Session, accept};
use crate::tls::certificate::{Certificate, Source};
use crate::tls::server_config::Offer;
use crate::tls::store::{CertStore, Entry, Table};
use crate::tls::ticket::Tickets;
use crate::tls::unverified::Unverified;
use crate::tls::{pem, provider, server_config};

/// A CA for a test.
pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A leaf as an operator has it.
pub(super) struct Pem {
    pub(super) chain: String,
    pub(super) key: String,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap())
    }

    /// A CA below this one.
    pub(super) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(ca_params(name), key, &self.0).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn leaf(&self, names: &[&str]) -> Pem {
        self.leaf_with(names, |_| {})
    }

    /// A leaf valid from yesterday to tomorrow, after `change`.
    pub(super) fn leaf_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pem {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY).into();
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pem { chain: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// The CA's certificate.
    pub(super) fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A client that trusts this CA alone.
    pub(super) fn client(&self) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root()).unwrap();
        ClientConfig::builder_with_provider(provider::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl Pem {
    pub(super) fn certificate(&self) -> Certificate {
        let source = Source { chain: "chain.pem".into(), key: "key.pem".into() };
        pem::from_text(self.chain.as_bytes(), self.key.as_bytes(), source).unwrap()
    }
}

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub(super) fn patterns(texts: &[&str]) -> Vec<HostPattern> {
    texts.iter().map(|text| HostPattern::parse(text).unwrap()).collect()
}

/// An entry called after its first name, with a certificate of `ca` for all of them but `*`.
pub(super) fn entry(ca: &Ca, names: &[&str]) -> Arc<Entry> {
    let certified: Vec<_> = names.iter().copied().filter(|name| *name != "*").collect();
    Arc::new(Entry::new(names[0], patterns(names), ca.leaf(&certified).certificate()))
}

pub(super) fn store(entries: impl IntoIterator<Item = Arc<Entry>>) -> Arc<CertStore> {
    Arc::new(CertStore::new(Table::new(entries)))
}

pub(super) fn listener(min: TlsVersion) -> Listener {
    Listener {
        name: "secure".into(),
        bind: vec![BindAddress::Any { port: 0 }],
        protocol: Protocol::Https,
        alpn: vec![Alpn::H2, Alpn::Http1],
        min_tls_version: min,
        client_auth: None,
        backlog: 128,
        tcp_fast_open: None,
        keepalive: None,
        proxy_protocol: None,
    }
}

/// A TLS server that sends `ok` and closes, over and over.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    results: mpsc::UnboundedReceiver<Result<(Arc<str>, Session), AcceptError>>,
    proven: mpsc::UnboundedReceiver<Host>,
}

impl Server {
    /// Serves `store` with the listener's defaults.
    pub(super) async fn start(store: Arc<CertStore>) -> Self {
        let tickets = Tickets::new().unwrap();
        let config =
            server_config::build(&listener(TlsVersion::V1_2), Arc::clone(&store), &tickets, None)
                .unwrap();
        Self::with(config, store).await
    }

    pub(super) async fn with(config: Arc<ServerConfig>, store: Arc<CertStore>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (send, results) = mpsc::unbounded_channel();
        let (proofs, proven) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let local = io.local_addr().unwrap().ip();
                let offer = Offer { config: Arc::clone(&config), policy: None };
                let accepted = accept(io, Some(local), |_| offer, &store).await;
                let result = match accepted {
                    Ok(Handshake::Challenge(host)) => {
                        let _ = proofs.send(host);
                        continue;
                    }
                    Ok(Handshake::Client(mut accepted)) => {
                        let _ = accepted.stream.write_all(b"ok").await;
                        let _ = accepted.stream.shutdown().await;
                        Ok((Arc::clone(accepted.entry.id()), accepted.session))
                    }
                    Err(error) => Err(error),
                };
                if send.send(result).is_err() {
                    break;
                }
            }
        });
        Self { address, results, proven }
    }

    /// What became of the next connection: the entry's id and the session.
    pub(super) async fn result(&mut self) -> Result<(Arc<str>, Session), AcceptError> {
        self.results.recv().await.unwrap()
    }

    /// The host of the next challenge that was answered.
    pub(super) async fn proven(&mut self) -> Host {
        self.proven.recv().await.unwrap()
    }
}

/// Connects for `name` and reads to the end, so that tickets have arrived.
pub(super) async fn visit(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let io = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, io).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "ok");
    Ok(stream)
}

/// The first certificate the server showed.
pub(super) fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A client that believes everybody.
pub(super) fn credulous() -> ClientConfig {
    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(Unverified::new(&provider::provider()));
    ClientConfig::builder_with_provider(provider::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}
