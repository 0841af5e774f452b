//! One client-side handshake, and a plain word for why it failed.
//!
//! Called by `upstream` on a connected stream. It sets no deadline: the caller bounds the future.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::config::listener::Alpn;
use crate::tls::server_config::from_wire;

/// An encrypted stream to a server.
pub type ClientStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// Why a server got no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its certificate's time is over.
    #[error("the server's certificate has expired")]
    Expired(#[source] Error),
    /// Its certificate's time has not begun, or our clock is behind.
    #[error("the server's certificate is not valid yet")]
    NotYetValid(#[source] Error),
    /// Its certificate is for other names.
    #[error("the server's certificate is not for {name}")]
    WrongName {
        /// The name that was asked for.
        name: String,
        /// Which names it is for.
        source: Error,
    },
    /// No CA that we trust stands behind its certificate.
    #[error("the server's certificate comes from an unknown issuer")]
    UnknownIssuer(#[source] Error),
    /// Its certificate is wrong in another way.
    #[error("the server's certificate is not acceptable")]
    Certificate(#[source] Error),
    /// It wants a certificate from us, or another one.
    #[error("the server does not accept our client certificate, or asks for one")]
    ClientCertificate(#[source] Error),
    /// It broke off the handshake and said why.
    #[error("the server refused the handshake")]
    Refused(#[source] Error),
    /// What it speaks is not TLS.
    #[error("the server does not speak TLS on this port")]
    NotTls(#[source] Error),
    /// It and we have no protocol version, suite or ALPN name in common, or it breaks the rules.
    #[error("the server's TLS and ours do not fit")]
    Protocol(#[source] Error),
    /// It closed the connection.
    #[error("the server closed the connection during the handshake")]
    Closed,
    /// The connection failed.
    #[error("the connection failed during the handshake")]
    Io(#[source] io::Error),
}

/// Performs the handshake for `name` on `io`.
///
/// # Errors
/// [`ConnectError`]. In TLS 1.3 a server that dislikes our client certificate says so only after
/// the handshake: pass the error of the first read to [`ConnectError::classify`].
pub async fn connect<IO>(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    io: IO,
) -> Result<ClientStream<IO>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let wanted = name.to_str().into_owned();
    TlsConnector::from(Arc::clone(config))
        .connect(name, io)
        .await
        .map_err(|error| ConnectError::classify(error, &wanted))
}

/// The application protocol the server chose; `None` means it chose none, so HTTP/1.1.
#[must_use]
pub fn alpn<IO>(stream: &ClientStream<IO>) -> Option<Alpn> {
    stream.get_ref().1.alpn_protocol().and_then(from_wire)
}

impl ConnectError {
    /// Puts a name to an I/O error from a TLS stream; `name` is what the server was asked for.
    #[must_use]
    pub fn classify(error: io::Error, name: &str) -> Self {
        let kind = error.kind();
        match error.downcast::<Error>() {
            Ok(error) => Self::from_tls(error, name),
            Err(_) if kind == io::ErrorKind::UnexpectedEof => Self::Closed,
            Err(error) => Self::Io(error),
        }
    }

    fn from_tls(error: Error, name: &str) -> Self {
        use CertificateError as Bad;
        match &error {
            Error::InvalidCertificate(problem) => match problem {
                Bad::Expired | Bad::ExpiredContext { .. } => Self::Expired(error),
                Bad::NotValidYet | Bad::NotValidYetContext { .. } => Self::NotYetValid(error),
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                    Self::WrongName { name: name.to_owned(), source: error }
                }
                Bad::UnknownIssuer => Self::UnknownIssuer(error),
                _ => Self::Certificate(error),
            },
            Error::AlertReceived(alert) if is_about_our_certificate(*alert) => {
                Self::ClientCertificate(error)
            }
            Error::AlertReceived(_) => Self::Refused(error),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls(error),
            _ => Self::Protocol(error),
        }
    }
}

/// The alerts of RFC 8446 §6.2 that a server sends about a client's certificate.
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::upstream::{ClientCertificate, UpstreamTls};
    use crate::net::{Host, HostName};
    use crate::tls::client_config::{self, SystemRoots, server_name};
    use crate::tls::fixture::{Ca, DAY, Pem, Server, entry, store};
    use crate::tls::{Certificate, Entry, provider};

    /// What a pool's `tls:` says in these tests, with the files it names.
    struct Pool {
        tls: UpstreamTls,
        dir: tempfile::TempDir,
    }

    impl Pool {
        /// Trusts `ca` alone.
        fn trusting(ca: &Ca) -> Self {
            let mut pool = Self::unverified();
            pool.tls.verify = true;
            pool.tls.ca = Some(pool.file("ca.pem", &ca.pem()));
            pool
        }

        fn unverified() -> Self {
            let tls = UpstreamTls { ca: None, verify: false, server_name: None, client: None };
            Self { tls, dir: tempfile::tempdir().unwrap() }
        }

        fn presenting(mut self, leaf: &Pem) -> Self {
            let chain = self.file("client.pem", &leaf.chain);
            let key = self.file("client.key", &leaf.key);
            self.tls.client = Some(ClientCertificate { chain, key });
            self
        }

        fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn config(&self) -> Arc<ClientConfig> {
            let alpn = [Alpn::H2, Alpn::Http1];
            let roots = SystemRoots::load();
            client_config::build(&self.tls, &alpn, &roots, SystemTime::now()).unwrap().config
        }

        async fn dial(
            &self,
            address: std::net::SocketAddr,
            host: &str,
        ) -> Result<ClientStream<TcpStream>, ConnectError> {
            let io = TcpStream::connect(address).await.unwrap();
            let name = server_name(&self.tls, &Host::parse(host).unwrap()).unwrap();
            connect(&self.config(), name, io).await
        }
    }

    fn served(names: &[&str], leaf: &Pem) -> Arc<Entry> {
        let patterns = crate::tls::fixture::patterns(names);
        Arc::new(Entry::new(names[0], patterns, leaf.certificate()))
    }

    #[tokio::test]
    async fn a_bad_certificate_is_named_by_what_is_wrong_with_it() {
        let ca = Ca::new("test");
        let (past, future) = (SystemTime::now() - DAY / 2, SystemTime::now() + DAY / 2);
        let cases = [
            ("good.test", ca.leaf(&["good.test"]), "ok"),
            ("127.0.0.1", ca.leaf(&["127.0.0.1"]), "ok"),
            (
                "old.test",
                ca.leaf_with(&["old.test"], |leaf| leaf.not_after = past.into()),
                "the server's certificate has expired",
            ),
            (
                "new.test",
                ca.leaf_with(&["new.test"], |leaf| leaf.not_before = future.into()),
                "the server's certificate is not valid yet",
            ),
            (
                "wrong.test",
                ca.leaf(&["right.test"]),
                "the server's certificate is not for wrong.test",
            ),
            (
                "other.test",
                Ca::new("other").leaf(&["other.test"]),
                "the server's certificate comes from an unknown issuer",
            ),
        ];
        for (host, leaf, wanted) in cases {
            let server = Server::start(store([served(&["*"], &leaf)])).await;
            let said = match Pool::trusting(&ca).dial(server.address, host).await {
                Ok(stream) => {
                    assert_eq!(alpn(&stream), Some(Alpn::H2));
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(said, wanted, "{host}");
            Pool::unverified().dial(server.address, host).await.unwrap();
        }
    }

    #[tokio::test]
    async fn server_name_replaces_the_host_in_sni_and_in_the_check() {
        let ca = Ca::new("test");
        let mut server = Server::start(store([entry(&ca, &["app.internal"])])).await;
        let mut pool = Pool::trusting(&ca);
        pool.tls.server_name = HostName::parse("app.internal").ok();
        pool.dial(server.address, "10.0.0.6").await.unwrap();
        assert_eq!(server.result().await.unwrap().1.server_name, pool.tls.server_name);
    }

    #[tokio::test]
    async fn sessions_resume_within_a_pool() {
        let ca = Ca::new("test");
        let mut server = Server::start(store([entry(&ca, &["a.test"])])).await;
        let config = Pool::trusting(&ca).config();
        for resumed in [false, true] {
            crate::tls::fixture::visit(&config, server.address, "a.test").await.unwrap();
            assert_eq!(server.result().await.unwrap().1.resumed, resumed);
        }
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_certificate_gets_ours() {
        let ca = Ca::new("test");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.root()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider::provider(),
        );
        let key = Arc::clone(&ca.leaf(&["a.test"]).certificate().key);
        let config = rustls::ServerConfig::builder_with_provider(provider::provider())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
        let server = Server::with(Arc::new(config), store([entry(&ca, &["a.test"])])).await;

        let with = Pool::trusting(&ca).presenting(&ca.leaf(&[]));
        let mut text = String::new();
        let mut stream = with.dial(server.address, "a.test").await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ok");

        let mut stream = Pool::trusting(&ca).dial(server.address, "a.test").await.unwrap();
        let error = stream.read_to_string(&mut text).await.unwrap_err();
        let error = ConnectError::classify(error, "a.test");
        assert!(matches!(error, ConnectError::ClientCertificate(_)), "{error:?}");
    }

    #[tokio::test]
    async fn what_is_not_tls_and_who_hangs_up_are_told_apart() {
        for (answer, wanted) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
                "the server does not speak TLS on this port",
            ),
            (b"", "the server closed the connection during the handshake"),
            (&[21, 3, 3, 0, 2, 2, 40], "the server refused the handshake"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut io, _) = listener.accept().await.unwrap();
                let mut hello = [0; 4096];
                let _ = io.read(&mut hello).await;
                let _ = io.write_all(answer).await;
            });
            let error = Pool::unverified().dial(address, "a.test").await.unwrap_err();
            assert_eq!(error.to_string(), wanted, "{error:?}");
        }
    }

    #[tokio::test]
    async fn without_verification_no_certificate_panics_and_odd_ones_pass() {
        let ca = Ca::new("test");
        let good = ca.leaf(&["a.test"]).certificate();
        let der = good.key.cert[0].to_vec();
        let dates = replace_all(&der, b"Z", |date| date[..12].fill(b'9'), 12);
        let version_1 = replace_all(&der, &[0xa0, 3, 2, 1, 2], |field| field[4] = 0, 0);
        assert!(dates != der && version_1 != der);
        let mut cases =
            vec![(der.clone(), true), (dates, true), (version_1, true), (vec![0x30; 40], false)];
        cases.extend((1..der.len()).step_by(37).map(|length| (der[..length].to_vec(), false)));
        for (der, accepted) in cases {
            let key = rustls::sign::CertifiedKey::new(vec![der.into()], Arc::clone(&good.key.key));
            let bad = Certificate { key: Arc::new(key), ..good.clone() };
            let entry = Entry::new("*", crate::tls::fixture::patterns(&["*"]), bad);
            let server = Server::start(store([Arc::new(entry)])).await;
            let result = Pool::unverified().dial(server.address, "a.test").await;
            assert_eq!(result.is_ok(), accepted, "{:?}", result.err());
        }
    }

    /// `bytes` with `change` applied where `found` stands, and `before` bytes in front of it.
    fn replace_all(
        bytes: &[u8],
        found: &[u8],
        change: impl Fn(&mut [u8]),
        before: usize,
    ) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for end in found.len()..=bytes.len() {
            let start = end - found.len();
            let is_it = &bytes[start..end] == found
                && start >= before
                && (before == 0 || bytes[start - before..start].iter().all(u8::is_ascii_digit));
            if is_it {
                change(&mut out[start - before..end]);
            }
        }
        out
    }
}
