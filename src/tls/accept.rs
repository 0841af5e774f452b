//! One server-side handshake, from the first byte to an encrypted stream.
//!
//! Called by `listen` for each connection of an https listener. It reads the ClientHello before
//! anything is decided, so an unknown name gets the alert that says so and the connection carries
//! the entry it was served with. The handshake has no deadline here: the caller bounds the whole future.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{Acceptor, ClientHello};
use rustls::{CommonState, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use crate::config::listener::Alpn;
use crate::net::{Host, HostName};
use crate::tls::challenge::probed;
use crate::tls::client_auth::{ClientProof, Refusal};
use crate::tls::resolver::Pinned;
use crate::tls::server_config::{Offer, from_wire};
use crate::tls::store::{CertStore, Entry};

/// How long a client that was refused for its certificate may take to read so and to close.
const LINGER: Duration = Duration::from_secs(1);

/// An encrypted stream from a client.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;

/// How a handshake ended that was finished.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart at once, and a probe is one in thousands"
)]
pub enum Handshake<IO> {
    /// With a client.
    Client(Accepted<IO>),
    /// With a certificate authority that has seen the proof that this host is ours (RFC 8737). The
    /// connection is closed: nothing is ever said over it.
    Challenge(Host),
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// Plain text in and out.
    pub stream: ServerStream<IO>,
    /// The certificate that was served, and for which names.
    pub entry: Arc<Entry>,
    /// What was agreed on.
    pub session: Session,
    /// What the client has shown, where it was asked.
    pub proof: Option<ClientProof>,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The name the client asked for; `None` when it asked for none.
    pub server_name: Option<HostName>,
    /// `None` when the client does not speak ALPN, which means HTTP/1.1.
    pub alpn: Option<Alpn>,
    /// `"1.2"` or `"1.3"`, OpenTelemetry's `tls.protocol.version`.
    pub version: &'static str,
    /// The suite's IANA name.
    pub cipher: &'static str,
    /// Whether a ticket spared the full handshake.
    pub resumed: bool,
}

/// Why a handshake yielded no connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client asked for a name, or none, that no certificate is for.
    #[error("no certificate for {}", name.as_deref().unwrap_or("a client that names no host"))]
    UnrecognizedName {
        /// What it asked for.
        name: Option<String>,
    },
    /// The client has shown no certificate though one is required, or one that does not count.
    #[error("the client's certificate was refused")]
    Client(#[source] Refusal),
    /// What came is not TLS, or nothing in it is acceptable; the client has been told.
    #[error("the handshake was refused")]
    Refused(#[source] rustls::Error),
    /// The client is gone.
    #[error("the client closed the connection during the handshake")]
    Io(#[source] io::Error),
}

/// Performs the handshake on `io` with the certificate that `store` has for it: that of an
/// outstanding challenge for a client that asks for one, else one of its table.
///
/// `local` is the address the client reached; it decides when the client names no host. `offer` says
/// how the handshake goes for the name that the client asks for.
///
/// # Errors
/// [`AcceptError`]; where the protocol allows it the client has been sent an alert.
pub async fn accept<IO>(
    io: IO,
    local: Option<IpAddr>,
    offer: impl FnOnce(Option<&str>) -> Offer,
    store: &CertStore,
) -> Result<Handshake<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut hello = LazyConfigAcceptor::new(Acceptor::default(), io);
    let started = match (&mut hello).await {
        Ok(started) => started,
        Err(error) => {
            if let Some(mut io) = hello.take_io() {
                let _ = io.shutdown().await; // so that the alert leaves before the close
            }
            return Err(AcceptError::from_io(error));
        }
    };
    let probed = probed(&started.client_hello()).map(str::to_owned);
    let challenge = match probed {
        Some(name) => store.challenges().tls_alpn(&name).await,
        None => None,
    };
    if let Some((host, config)) = challenge {
        let mut stream = started.into_stream(config).await.map_err(AcceptError::from_io)?;
        let _ = stream.shutdown().await; // it has seen what it came for
        return Ok(Handshake::Challenge(host));
    }
    let Some(entry) = choose(&started.client_hello(), local, store) else {
        let name = started.client_hello().server_name().map(str::to_owned);
        refuse_name(started.io).await;
        return Err(AcceptError::UnrecognizedName { name });
    };
    let Offer { config, policy } = offer(started.client_hello().server_name());
    let shaken = started.into_stream(pin(&config, &entry)).into_fallible().await;
    let mut stream = match shaken {
        Ok(stream) => stream,
        Err((error, io)) => {
            let error = AcceptError::from_io(error);
            if matches!(error, AcceptError::Client(_)) {
                // A client that does not close would have the caller's deadline hide the reason.
                let _ = timeout(LINGER, linger(io)).await;
            }
            return Err(error);
        }
    };
    let connection = stream.get_ref().1;
    let session = Session::of(connection);
    let proof = |policy| ClientProof::new(policy, connection.peer_certificates(), session.resumed);
    match policy.map(proof).transpose() {
        Ok(proof) => Ok(Handshake::Client(Accepted { stream, entry, session, proof })),
        Err(error) => {
            // The library sends no alert of ours once the handshake is over, and a resumed one is.
            let _ = stream.shutdown().await;
            Err(AcceptError::Client(Refusal(error)))
        }
    }
}

/// Reads what a client has sent on, for it takes itself for admitted until it reads the alert, and a
/// socket that is closed with bytes unread takes the alert back.
async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    const MOST: u64 = 64 * 1024;
    let _ = io.shutdown().await;
    let _ = tokio::io::copy(&mut io.take(MOST), &mut tokio::io::sink()).await;
}

/// The one place that decides on a certificate in service, from a ClientHello.
fn choose(hello: &ClientHello<'_>, local: Option<IpAddr>, store: &CertStore) -> Option<Arc<Entry>> {
    store.resolve(hello.server_name(), local)
}

/// `config` with the certificate settled, so that what is served is what was chosen even when
/// the store is replaced in between. The copy is a few reference counts and the ALPN names.
fn pin(config: &Arc<ServerConfig>, entry: &Entry) -> Arc<ServerConfig> {
    let mut pinned = ServerConfig::clone(config);
    pinned.cert_resolver = Arc::new(Pinned(entry.key()));
    Arc::new(pinned)
}

/// Sends the fatal alert `unrecognized_name` (112, RFC 6066 §3) in a plain record. rustls would
/// say `access_denied` (49), which clients report as a permission problem.
async fn refuse_name<IO: AsyncWrite + Unpin>(mut io: IO) {
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
    // A client that is gone has no use for it.
    if io.write_all(&ALERT).await.is_ok() {
        let _ = io.shutdown().await;
    }
}

impl AcceptError {
    /// tokio-rustls hides rustls' errors in I/O errors.
    fn from_io(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(
                error @ (rustls::Error::InvalidCertificate(_)
                | rustls::Error::InvalidCertRevocationList(_)
                | rustls::Error::NoCertificatesPresented),
            ) => Self::Client(Refusal(error)),
            Ok(error) => Self::Refused(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl Session {
    /// What `connection` agreed on.
    #[must_use]
    pub fn of(connection: &ServerConnection) -> Self {
        Self {
            server_name: connection.server_name().and_then(|name| HostName::parse(name).ok()),
            alpn: connection.alpn_protocol().and_then(from_wire),
            version: version(connection),
            cipher: cipher(connection),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

fn version(state: &CommonState) -> &'static str {
    match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    }
}

fn cipher(state: &CommonState) -> &'static str {
    state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::TlsVersion;
    use crate::tls::fixture::{Ca, Server, credulous, entry, listener, shown, store, visit};
    use crate::tls::server_config;
    use crate::tls::ticket::Tickets;

    #[tokio::test]
    async fn the_name_chooses_exact_then_wildcard_then_default() {
        let ca = Ca::new("test");
        let entries = [
            entry(&ca, &["www.example.com"]),
            entry(&ca, &["*.example.com"]),
            entry(&ca, &["*", "fallback.test"]),
        ];
        let mut server = Server::start(store(entries)).await;
        let client = Arc::new(credulous());
        for (name, wanted) in [
            ("www.example.com", "www.example.com"),
            ("WWW.Example.COM", "www.example.com"),
            ("api.example.com", "*.example.com"),
            ("a.b.example.com", "*"),
            ("example.com", "*"),
            ("127.0.0.1", "*"),
        ] {
            visit(&client, server.address, name).await.unwrap();
            assert_eq!(&*server.result().await.unwrap().0, wanted, "{name}");
        }
    }

    #[tokio::test]
    async fn a_client_that_names_no_host_gets_the_certificate_of_the_address_it_reached() {
        let ca = Ca::new("test");
        let mut server =
            Server::start(store([entry(&ca, &["*", "x.test"]), entry(&ca, &["127.0.0.1"])])).await;
        let stream = visit(&Arc::new(ca.client()), server.address, "127.0.0.1").await.unwrap();
        let (id, session) = server.result().await.unwrap();
        assert_eq!((&*id, session.server_name), ("127.0.0.1", None));
        assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }

    #[tokio::test]
    async fn a_replaced_store_serves_the_next_handshake() {
        let ca = Ca::new("test");
        let (old, new) = (entry(&ca, &["a.test"]), entry(&ca, &["a.test"]));
        let store = store([Arc::clone(&old)]);
        let server = Server::start(Arc::clone(&store)).await;
        let client = || Arc::new(ca.client());
        let first = visit(&client(), server.address, "a.test").await.unwrap();
        store.replace(crate::tls::Table::new([Arc::clone(&new)]));
        let second = visit(&client(), server.address, "a.test").await.unwrap();
        assert_eq!(shown(&first), old.certificate().key.cert[0]);
        assert_eq!(shown(&second), new.certificate().key.cert[0]);
    }

    #[tokio::test]
    async fn an_unknown_name_is_refused_with_unrecognized_name() {
        let ca = Ca::new("test");
        let mut server = Server::start(store([entry(&ca, &["a.test"])])).await;
        for name in ["b.test", "127.0.0.1"] {
            let error = visit(&Arc::new(ca.client()), server.address, name).await.unwrap_err();
            let error = error.downcast::<rustls::Error>().unwrap();
            let wanted = rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName);
            assert_eq!(error, wanted, "{name}");
            let refused = server.result().await.unwrap_err();
            assert!(matches!(refused, AcceptError::UnrecognizedName { .. }), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_post_quantum_group_and_the_listeners_first_protocol_are_agreed_on() {
        let ca = Ca::new("test");
        let mut server = Server::start(store([entry(&ca, &["a.test"])])).await;
        let mut client = ca.client();
        client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let stream = visit(&Arc::new(client), server.address, "a.test").await.unwrap();
        let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        let (_, session) = server.result().await.unwrap();
        let wanted = Session {
            server_name: HostName::parse("a.test").ok(),
            alpn: Some(Alpn::H2),
            version: "1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            resumed: false,
        };
        assert_eq!(session, wanted);
    }

    #[tokio::test]
    async fn an_unoffered_protocol_is_refused() {
        let ca = Ca::new("test");
        let mut server = Server::start(store([entry(&ca, &["a.test"])])).await;
        let mut client = ca.client();
        client.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        assert!(visit(&Arc::new(client), server.address, "a.test").await.is_err());
        let refused = server.result().await.unwrap_err();
        assert!(matches!(refused, AcceptError::Refused(rustls::Error::NoApplicationProtocol)));
    }

    /// A client that believes everybody and offers these protocols.
    fn offering(protocols: &[&str]) -> Arc<rustls::ClientConfig> {
        let mut client = credulous();
        client.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        Arc::new(client)
    }

    #[tokio::test]
    async fn a_probe_sees_the_challenge_of_its_host_and_the_end_of_the_connection() {
        use tokio::io::AsyncReadExt;
        let ca = Ca::new("test");
        let store = store([entry(&ca, &["a.test"])]);
        let mut server = Server::start(Arc::clone(&store)).await;
        let probe = offering(&["acme-tls/1"]);
        for (host, asked) in [
            ("a.test", "a.test"),
            ("new.test", "new.test"),
            ("127.0.0.1", "1.0.0.127.in-addr.arpa"),
        ] {
            let host = Host::parse(host).unwrap();
            let published = store.challenges().publish_tls_alpn(host.clone(), "t.thumb").unwrap();
            let io = tokio::net::TcpStream::connect(server.address).await.unwrap();
            let name = rustls::pki_types::ServerName::try_from(asked).unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&probe));
            let mut stream = connector.connect(name, io).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
            let (_, shown) = x509_parser::parse_x509_certificate(&shown(&stream))
                .map(|(rest, it)| (rest.len(), it.tbs_certificate.extensions().len()))
                .unwrap();
            assert_eq!(shown, 2, "the host and the digest");
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "nothing is said over it");
            assert_eq!(server.proven().await, host);
            drop(published);
            assert!(visit(&probe, server.address, asked).await.is_err(), "{asked} afterwards");
            server.result().await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn nobody_but_a_probe_sees_a_challenge() {
        let ca = Ca::new("test");
        let own = entry(&ca, &["a.test", "b.test"]);
        let store = store([Arc::clone(&own)]);
        let mut server = Server::start(Arc::clone(&store)).await;
        let host = Host::parse("a.test").unwrap();
        let _published = store.challenges().publish_tls_alpn(host, "t.thumb").unwrap();
        for protocols in [&[][..], &["h2"], &["h2", "acme-tls/1"], &["acme-tls/1", "http/1.1"]] {
            let stream = visit(&offering(protocols), server.address, "a.test").await.unwrap();
            assert_eq!(shown(&stream), own.certificate().key.cert[0], "{protocols:?}");
            server.result().await.unwrap();
        }
        let probe = offering(&["acme-tls/1"]);
        for host in ["b.test", "c.test", "127.0.0.1"] {
            assert!(visit(&probe, server.address, host).await.is_err(), "{host} has none");
            server.result().await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn tickets_resume_at_every_listener_that_shares_the_keys() {
        let ca = Ca::new("test");
        let store = store([entry(&ca, &["a.test", "b.test"])]);
        let tickets = Tickets::new().unwrap();
        let build = |tickets| {
            let listener = listener(TlsVersion::V1_2);
            server_config::build(&listener, Arc::clone(&store), tickets, None).unwrap()
        };
        let mut servers = [
            Server::with(build(&tickets), Arc::clone(&store)).await,
            Server::with(build(&tickets), Arc::clone(&store)).await,
            Server::with(build(&Tickets::new().unwrap()), Arc::clone(&store)).await,
        ];
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let client = Arc::new(only(&ca, version));
            let mut resumed = Vec::new();
            tickets.rotate();
            for (server, name) in
                [(0, "a.test"), (1, "a.test"), (0, "a.test"), (0, "b.test"), (2, "a.test")]
            {
                visit(&client, servers[server].address, name).await.unwrap();
                resumed.push(servers[server].result().await.unwrap().1.resumed);
            }
            assert_eq!(resumed, [false, true, true, false, false], "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_listener_from_1_3_up_refuses_1_2() {
        let ca = Ca::new("test");
        let store = store([entry(&ca, &["a.test"])]);
        let tickets = Tickets::new().unwrap();
        let config =
            server_config::build(&listener(TlsVersion::V1_3), Arc::clone(&store), &tickets, None);
        let mut server = Server::with(config.unwrap(), store).await;
        let old = Arc::new(only(&ca, &rustls::version::TLS12));
        assert!(visit(&old, server.address, "a.test").await.is_err());
        assert!(matches!(server.result().await, Err(AcceptError::Refused(_))));
        visit(&Arc::new(ca.client()), server.address, "a.test").await.unwrap();
        assert_eq!(server.result().await.unwrap().1.version, "1.3");
    }

    /// A client of one version.
    fn only(ca: &Ca, version: &'static rustls::SupportedProtocolVersion) -> rustls::ClientConfig {
        let trusting = ca.client();
        let mut client =
            rustls::ClientConfig::builder_with_provider(crate::tls::provider::provider())
                .with_protocol_versions(&[version])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(
                    crate::tls::unverified::Unverified::new(trusting.crypto_provider()),
                ))
                .with_no_client_auth();
        client.resumption = rustls::client::Resumption::in_memory_sessions(8);
        client
    }

    #[tokio::test]
    async fn plain_text_silence_and_garbage_are_errors_without_a_panic() {
        use tokio::io::AsyncReadExt;
        let ca = Ca::new("test");
        let mut server = Server::start(store([entry(&ca, &["a.test"])])).await;
        for (bytes, disconnect) in [
            (&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], false),
            (b"", true),
            (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", false),
            (b"\x16\x03\x01\x40\x00\x01", true),
            (&[0xff; 64], false),
        ] {
            let mut io = tokio::net::TcpStream::connect(server.address).await.unwrap();
            io.write_all(bytes).await.unwrap();
            io.shutdown().await.unwrap();
            let _ = io.read_to_end(&mut Vec::new()).await;
            let error = server.result().await.unwrap_err();
            assert_eq!(matches!(error, AcceptError::Io(_)), disconnect, "{bytes:?}: {error}");
        }
    }

    /// OpenSSL as a second opinion on what goes over the wire.
    #[cfg(unix)]
    mod judged_by_openssl {
        use super::*;
        use std::process::{Command, Stdio};

        async fn s_client(server: &Server, arguments: &[&str]) -> String {
            let mut command = Command::new("openssl");
            // Reads on until the server closes, or a late ticket would be missed.
            command.args(["s_client", "-ign_eof", "-connect", &server.address.to_string()]);
            command.args(arguments).stdin(Stdio::null());
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
            let output = output.unwrap();
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        }

        #[tokio::test]
        async fn the_alert_for_an_unknown_name_is_number_112() {
            let ca = Ca::new("test");
            let server = Server::start(store([entry(&ca, &["a.test"])])).await;
            for version in ["-tls1_2", "-tls1_3"] {
                let said = s_client(&server, &["-servername", "b.test", version]).await;
                assert!(
                    said.contains("unrecognized name") && said.contains("alert number 112"),
                    "{said}"
                );
            }
        }

        #[tokio::test]
        async fn old_versions_and_weak_suites_are_refused() {
            let ca = Ca::new("test");
            let server = Server::start(store([entry(&ca, &["a.test"])])).await;
            for arguments in [
                &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0"][..],
                &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"],
                &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
                &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
                &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
            ] {
                let said =
                    s_client(&server, &[&["-servername", "a.test"], arguments].concat()).await;
                assert!(
                    said.contains("Cipher is (NONE)") && said.contains("alert"),
                    "{arguments:?} {said}"
                );
            }
        }

        #[tokio::test]
        async fn a_ticket_of_one_name_does_not_resume_under_another() {
            let ca = Ca::new("test");
            let server = Server::start(store([entry(&ca, &["a.test", "b.test"])])).await;
            let dir = tempfile::tempdir().unwrap();
            for version in ["-tls1_2", "-tls1_3"] {
                let file = dir.path().join(version);
                let file = file.to_str().unwrap();
                s_client(&server, &["-servername", "a.test", version, "-sess_out", file]).await;
                for (name, wanted) in [("a.test", "Reused,"), ("b.test", "New,")] {
                    let said =
                        s_client(&server, &["-servername", name, version, "-sess_in", file]).await;
                    assert!(said.contains(wanted), "{version} {name} {said}");
                }
            }
        }
    }
}
