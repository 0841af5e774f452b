//! TLS to the backend.

use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::config;
use crate::support::{Gateway, Peer, field, within};

/// A CA, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, name: &str, is_expired: bool) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        if is_expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        roots
    }
}

/// What an origin has seen: connections, requests, and the last one's SNI and client certificate.
#[derive(Clone, Debug, Default)]
struct Seen {
    handshakes: usize,
    requests: usize,
    name: Option<String>,
    has_client_certificate: bool,
    /// Handshakes that went on with an earlier session.
    resumed: usize,
}

/// An HTTPS origin that answers everything with `tls`.
struct TlsOrigin {
    port: u16,
    seen: watch::Receiver<Seen>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl TlsOrigin {
    async fn start(ca: &Authority, name: &str, is_expired: bool, wants_client: bool) -> Self {
        let acceptor = acceptor(ca, name, is_expired, wants_client);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, seen) = watch::channel(Seen::default());
        let accepting = tokio::spawn(serve(listener, acceptor, Arc::new(tell)));
        Self { port, seen, accepting }
    }

    fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

fn acceptor(ca: &Authority, name: &str, is_expired: bool, wants_client: bool) -> TlsAcceptor {
    let (certificate, key) = ca.issue(name, is_expired);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if wants_client {
        let roots = Arc::new(ca.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, tell: Arc<watch::Sender<Seen>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, tell) = (acceptor.clone(), Arc::clone(&tell));
        connections.spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let (_, session) = stream.get_ref();
            tell.send_modify(|seen| {
                seen.handshakes += 1;
                seen.name = session.server_name().map(str::to_owned);
                seen.has_client_certificate = session.peer_certificates().is_some();
                seen.resumed +=
                    usize::from(session.handshake_kind() == Some(HandshakeKind::Resumed));
            });
            let mut unread = Vec::new();
            while stream.read_buf(&mut unread).await.is_ok_and(|count| count > 0) {
                if unread.ends_with(b"\r\n\r\n") {
                    let is_last = unread.starts_with(b"GET /last ");
                    unread.clear();
                    tell.send_modify(|seen| seen.requests += 1);
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntls";
                    if stream.write_all(answer).await.is_err() || is_last {
                        let _ = stream.shutdown().await;
                        return;
                    }
                }
            }
        });
    }
}

/// A gateway in front of `https://localhost:port`, with the CA in `ca.pem` and a client's
/// certificate in `client.pem`.
async fn front(ca: &Authority, port: u16, tls: &str) -> Gateway {
    front_checking(ca, port, tls, "").await
}

/// The same, with more keys of the pool.
async fn front_checking(ca: &Authority, port: u16, tls: &str, more: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    let (client, key) = ca.issue("gateway.test", false);
    fs::write(directory.path().join("ca.pem"), ca.certificate.pem()).unwrap();
    fs::write(directory.path().join("client.pem"), client.pem()).unwrap();
    fs::write(directory.path().join("client.key"), key.serialize_pem()).unwrap();
    let pool = format!("servers: [\"https://localhost:{port}\"], tls: {{ {tls} }}{more}");
    Gateway::start_in(directory, &config(&pool)).await
}

#[tokio::test]
async fn a_backend_of_our_own_ca_is_trusted_and_its_connection_kept() {
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "localhost", false, false).await;
    let gateway = front(&ca, origin.port, "ca: ca.pem").await;
    let mut client = gateway.client().connect().await;
    for _ in 0..3 {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().text(), "tls");
    }
    let seen = origin.seen();
    assert_eq!((seen.handshakes, seen.requests), (1, 3));
    assert_eq!(seen.name.as_deref(), Some("localhost"));
}

#[tokio::test]
async fn the_server_name_may_be_another_than_the_address() {
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "app.internal", false, false).await;
    let gateway = front(&ca, origin.port, "ca: ca.pem, server_name: app.internal").await;
    assert_eq!(gateway.client().get("/").await.text(), "tls");
    assert_eq!(origin.seen().name.as_deref(), Some("app.internal"));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "localhost", false, true).await;
    let gateway = front(&ca, origin.port, "ca: ca.pem, cert: client.pem, key: client.key").await;
    assert_eq!(gateway.client().get("/").await.text(), "tls");
    assert!(origin.seen().has_client_certificate);

    let gateway = front(&ca, origin.port, "ca: ca.pem").await;
    assert_eq!(gateway.client().get("/").await.status, 502);
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_for_a_reason_only_the_log_tells() {
    let ca = Authority::new("ours");
    let stranger = Authority::new("stranger");
    for (issuer, name, is_expired, reason) in [
        (&ca, "localhost", true, "expired"),
        (&ca, "other.test", false, "not valid for name"),
        (&stranger, "localhost", false, "UnknownIssuer"),
    ] {
        let origin = TlsOrigin::start(issuer, name, is_expired, false).await;
        let gateway = front(&ca, origin.port, "ca: ca.pem").await;
        let reply = gateway.client().send("GET", "/", "Accept: application/json\r\n", b"").await;
        assert_eq!(reply.status, 502, "{reason}");
        assert_eq!(reply.json()["error"], "upstream_tls");
        for inner in ["certificate", "expired", "localhost", "issuer", &origin.port.to_string()] {
            assert!(!reply.text().contains(inner), "{inner} in {}", reply.text());
        }
        let event = gateway.wait_log(|line| field(line, "error.type") == "upstream_tls").await;
        let cause = field(&event, "error").as_str().unwrap();
        assert!(cause.contains(reason), "{reason}: {cause}");
        assert_eq!(origin.seen().requests, 0);
        drop(gateway);

        let gateway = front(&ca, origin.port, "verify: false").await;
        assert_eq!(gateway.client().get("/").await.text(), "tls", "{reason}");
    }
}

#[tokio::test]
async fn a_backend_without_tls_is_a_bad_gateway() {
    let ca = Authority::new("ours");
    let origin = crate::support::Stage::open().await;
    let gateway = front(&ca, origin.address().port(), "ca: ca.pem").await;
    let client = gateway.client();
    let reply = tokio::spawn(async move { client.get("/").await.status });
    let mut connection = origin.accept().await;
    connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(within("answer", reply).await.unwrap(), 502);
}

#[tokio::test]
async fn checks_speak_tls_as_requests_do() {
    let ca = Authority::new("ours");
    for check in ["path: /", "tcp: true"] {
        let health = format!(", health: {{ {check}, every: 200ms, timeout: 10s }}");
        let origin = TlsOrigin::start(&ca, "localhost", false, false).await;
        let gateway = front_checking(&ca, origin.port, "ca: ca.pem", &health).await;
        gateway.wait_log(|line| field(line, "message") == "became healthy").await;
        assert_eq!(gateway.client().get("/").await.text(), "tls", "{check}");
        assert_eq!(origin.seen().name.as_deref(), Some("localhost"));

        let expired = TlsOrigin::start(&ca, "localhost", true, false).await;
        let gateway = front_checking(&ca, expired.port, "ca: ca.pem", &health).await;
        let event = gateway.wait_log(|line| field(line, "message") == "became unhealthy").await;
        let reason = field(&event, "reason").as_str().unwrap();
        assert!(reason.contains("the server's certificate has expired"), "{check}: {reason}");
        assert_eq!(gateway.client().get("/").await.status, 503, "{check}");
    }
}

#[tokio::test]
async fn a_backend_that_has_no_name_is_spoken_to_over_tls_all_the_same() {
    // The engine fails on an empty SNI, and an address is none (RFC 6066 §3).
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "127.0.0.1", false, false).await;
    for protocol in ["http/1.1", "auto"] {
        for tls in ["ca: ca.pem", "verify: false"] {
            let directory = TempDir::new().unwrap();
            fs::write(directory.path().join("ca.pem"), ca.certificate.pem()).unwrap();
            let pool = format!(
                "servers: [\"https://127.0.0.1:{}\"], protocol: {protocol}, tls: {{ {tls} }}",
                origin.port
            );
            let gateway = Gateway::start_in(directory, &config(&pool)).await;
            assert_eq!(gateway.client().get("/").await.text(), "tls", "{protocol}, {tls}");
            assert_eq!(origin.seen().name, None, "{protocol}, {tls}");
        }
    }
}

#[tokio::test]
async fn an_authority_of_the_system_that_cannot_be_read_stops_nothing() {
    // The engine panics on one when it starts.
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "localhost", false, false).await;
    let directory = TempDir::new().unwrap();
    let garbage = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let store = directory.path().join("system.pem");
    fs::write(&store, format!("{garbage}{}{garbage}", ca.certificate.pem())).unwrap();
    for protocol in ["http/1.1", "auto"] {
        let pool =
            format!("servers: [\"https://localhost:{}\"], protocol: {protocol}", origin.port);
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_wardgate"));
        program.env("SSL_CERT_FILE", &store).env_remove("SSL_CERT_DIR");
        let gateway =
            Gateway::start_program(program, TempDir::new().unwrap(), &config(&pool)).await;
        assert_eq!(gateway.client().get("/").await.text(), "tls", "{protocol}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_by_a_pool_that_trusts_somebody_else() {
    // The engine's pool tells connections apart by neither CA nor ALPN.
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "localhost", false, false).await;
    let stranger = Authority::new("stranger");
    for protocol in ["http/1.1", "auto"] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("ca.pem"), ca.certificate.pem()).unwrap();
        fs::write(directory.path().join("stranger.pem"), stranger.certificate.pem()).unwrap();
        let pool = |tls: &str| {
            format!(
                "{{ servers: [\"https://localhost:{}\"], protocol: {protocol}, tls: {{ {tls} }} }}",
                origin.port
            )
        };
        let yaml = format!(
            "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
             sites:\n  ours.test: {{ https: both, certificate: internal, upstream: ours }}\n  \
             theirs.test: {{ https: both, certificate: internal, upstream: theirs }}\n  \
             blind.test: {{ https: both, certificate: internal, upstream: blind }}\n\
             upstreams:\n  ours: {}\n  theirs: {}\n  blind: {}\n",
            pool("ca: ca.pem"),
            pool("ca: stranger.pem"),
            pool("verify: false"),
        );
        let gateway = Gateway::start_in(directory, &yaml).await;
        for (host, status) in
            [("blind.test", 200), ("ours.test", 200), ("theirs.test", 502), ("blind.test", 200)]
        {
            let reply = gateway.client().host(host).get("/").await;
            assert_eq!(reply.status, status, "{protocol}, {host}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn a_second_connection_to_a_backend_of_our_own_ca_resumes() {
    // The engine makes its TLS settings anew for each connection to a peer with its own CA.
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "localhost", false, false).await;
    let gateway = front(&ca, origin.port, "ca: ca.pem").await;
    for _ in 0..3 {
        assert_eq!(gateway.client().get("/last").await.text(), "tls");
    }
    let seen = origin.seen();
    assert_eq!((seen.handshakes, seen.resumed), (3, 2));
}

#[tokio::test]
async fn every_form_of_a_private_key_is_shown_or_refused_with_its_reason() {
    // The engine panics on a key that is not in DER.
    let ca = Authority::new("ours");
    let origin = TlsOrigin::start(&ca, "localhost", false, true).await;
    let (certificate, key) = ca.issue("gateway.test", false);
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("pkcs8.key"), key.serialize_pem()).unwrap();
    let sec1 = ["ec", "-in", &at("pkcs8.key"), "-out", &at("sec1.key")];
    let made = crate::support::run("openssl", sec1).await;
    assert!(made.status.success(), "{made:?}");
    let sec1 = fs::read_to_string(at("sec1.key")).unwrap();
    assert!(sec1.contains("BEGIN EC PRIVATE KEY"), "{sec1}");
    fs::write(at("client.pem"), certificate.pem()).unwrap();
    fs::write(at("ca.pem"), ca.certificate.pem()).unwrap();
    let bare = key.serialize_der();
    fs::write(at("der.key"), bare).unwrap();
    fs::write(at("garbage.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    fs::write(at("other.key"), ca.issue("other.test", false).1.serialize_pem()).unwrap();
    for protocol in ["http/1.1", "auto"] {
        let yaml = |key: &str| {
            config(&format!(
                "servers: [\"https://localhost:{}\"], protocol: {protocol}, \
                 tls: {{ ca: {:?}, cert: {:?}, key: {:?} }}",
                origin.port,
                at("ca.pem"),
                at("client.pem"),
                at(key)
            ))
        };
        for key in ["pkcs8.key", "sec1.key"] {
            let gateway = Gateway::start(yaml(key)).await;
            assert_eq!(gateway.client().get("/").await.text(), "tls", "{protocol}, {key}");
        }
        for key in ["der.key", "garbage.key", "other.key"] {
            let file = at("gateway.yaml");
            fs::write(&file, format!("{}storage: storage\nadmin: off\n", yaml(key))).unwrap();
            let output = crate::support::run(env!("CARGO_BIN_EXE_wardgate"), ["run", &file]).await;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(1 | 2)), "{protocol}, {key}: {said}");
            assert!(said.contains(key) && !said.contains("panicked"), "{protocol}, {key}: {said}");
        }
    }
}

#[tokio::test]
async fn what_another_authority_has_vouched_for_is_not_used_any_more() {
    let (ours, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let (certificate, key) = ours.issue("localhost", false);
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("ca.pem"), ours.certificate.pem()).unwrap();
    fs::write(at("cert.pem"), certificate.pem()).unwrap();
    fs::write(at("cert.key"), key.serialize_pem()).unwrap();
    let h2 = Peer::start("h2_origin.py", &[&at("cert.pem"), &at("cert.key")]).await;
    let http1 = TlsOrigin::start(&ours, "localhost", false, false).await;
    let pool = |port: u16, protocol: &str| {
        format!(
            "{{ servers: [\"https://localhost:{port}\"], protocol: {protocol}, \
             tls: {{ ca: ca.pem }} }}"
        )
    };
    let port = h2.address().port();
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites:\n  h2.test: {{ https: both, certificate: internal, upstream: h2 }}\n  \
         auto.test: {{ https: both, certificate: internal, upstream: auto }}\n  \
         http1.test: {{ https: both, certificate: internal, upstream: http1 }}\n\
         upstreams:\n  h2: {}\n  auto: {}\n  http1: {}\n",
        pool(port, "h2"),
        pool(port, "auto"),
        pool(http1.port, "auto"),
    );
    let gateway = Gateway::start_in(directory, &yaml).await;
    let statuses = async || {
        let mut statuses = Vec::new();
        for host in ["h2.test", "auto.test", "http1.test"] {
            statuses.push(gateway.client().host(host).get("/headers").await.status);
        }
        statuses
    };
    assert_eq!([statuses().await, statuses().await], [[200; 3], [200; 3]]);
    for (authority, status, generation) in [(&stranger, 502, 2), (&ours, 200, 3)] {
        fs::write(gateway.directory().join("ca.pem"), authority.certificate.pem()).unwrap();
        gateway.signal("HUP");
        gateway.reloaded(generation).await;
        assert_eq!(statuses().await, [status; 3], "generation {generation}");
    }
}

#[tokio::test]
async fn what_a_client_has_sent_leaves_while_it_waits() {
    let ca = Authority::new("ours");
    let acceptor = acceptor(&ca, "localhost", false, false);
    let listener = tokio::net::TcpSocket::new_v4().unwrap();
    listener.set_recv_buffer_size(64 << 10).unwrap();
    listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = listener.listen(8).unwrap();
    let gateway = front(&ca, listener.local_addr().unwrap().port(), "ca: ca.pem").await;
    let client = tokio::net::TcpStream::connect(gateway.address("web")).await.unwrap();
    let (_reading, mut writing) = client.into_split();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    writing.write_all(head.as_bytes()).await.unwrap();
    let (stream, _) = within("connection", listener.accept()).await.unwrap();
    let mut origin = acceptor.accept(stream).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(within("head", origin.read_u8()).await.unwrap());
    }
    // Whatever is in whose buffers when the client pauses.
    for size in (0..32).map(|number| (2 << 20) + number * (48 << 10)) {
        let sending = tokio::spawn(async move {
            writing.write_all(&vec![b'x'; size]).await.unwrap();
            writing
        });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let mut taken = vec![0; size];
        within("all that was sent", origin.read_exact(&mut taken)).await.unwrap();
        writing = sending.await.unwrap();
    }
}
