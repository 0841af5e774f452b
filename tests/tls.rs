//! TLS towards clients, and its failures towards backends.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{Client, Gateway, Origin, Peer, Program, field, run, within};

const YAML: &str = "
listeners:
  secure: { bind: \"127.0.0.1:0\", protocol: https }
  second: { bind: \"127.0.0.1:0\", protocol: https }
  modern: { bind: \"127.0.0.1:0\", protocol: https, tls: { min_version: \"1.3\" } }
sites:
  a.test: { certificate: internal, routes: [ { respond: { status: 200, body: a } } ] }
  b.test: { certificate: internal, routes: [ { respond: { status: 200, body: b } } ] }
  \"*.wild.test\": { certificate: internal, routes: [ { respond: { status: 200, body: wild } } ] }
  127.0.0.1: { certificate: internal, routes: [ { respond: { status: 200, body: address } } ] }
";

/// Runs `openssl s_client` against a listener, and returns all it wrote.
async fn s_client(gateway: &Gateway, listener: &str, arguments: &str) -> String {
    let (address, ca) = (gateway.address(listener).to_string(), gateway.ca());
    let fixed = ["s_client", "-connect", &address, "-CAfile", ca.to_str().unwrap()];
    let output = run("openssl", fixed.into_iter().chain(arguments.split_whitespace())).await;
    [output.stdout, output.stderr].iter().map(|text| String::from_utf8_lossy(text)).collect()
}

#[tokio::test]
async fn only_sound_versions_and_suites_are_served() {
    let gateway = Gateway::start(YAML).await;
    const OLD: &str = "-cipher DEFAULT@SECLEVEL=0";
    for (listener, arguments, wanted) in [
        ("secure", format!("-tls1 {OLD}"), None),
        ("secure", format!("-tls1_1 {OLD}"), None),
        ("secure", "-tls1_2".to_owned(), Some("TLSv1.2")),
        ("secure", "-tls1_3".to_owned(), Some("TLSv1.3")),
        ("modern", "-tls1_2".to_owned(), None),
        ("modern", "-tls1_3".to_owned(), Some("TLSv1.3")),
        ("secure", "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA".to_owned(), None),
        ("secure", "-tls1_2 -cipher ECDHE-ECDSA-AES256-SHA384".to_owned(), None),
        ("secure", "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384".to_owned(), Some("TLSv1.2")),
        ("secure", "-tls1_3 -groups X25519".to_owned(), Some("X25519")),
    ] {
        let told = s_client(&gateway, listener, &format!("-servername a.test {arguments}")).await;
        let is_refused = told.contains("Cipher is (NONE)");
        match wanted {
            None => assert!(is_refused, "{listener} {arguments}: {told}"),
            Some(wanted) => assert!(!is_refused && told.contains(wanted), "{arguments}: {told}"),
        }
    }
}

#[tokio::test]
async fn the_name_chooses_the_certificate_and_an_unknown_one_is_told_so() {
    let gateway = Gateway::start(YAML).await;
    for (arguments, verified) in [
        ("-servername a.test", "a.test"),
        ("-servername B.TEST", "b.test"),
        ("-servername x.wild.test", "x.wild.test"),
        ("-noservername", "127.0.0.1"),
    ] {
        let check = match verified {
            "127.0.0.1" => "-verify_ip 127.0.0.1".to_owned(),
            name => format!("-verify_hostname {name}"),
        };
        let told = s_client(&gateway, "secure", &format!("{arguments} {check}")).await;
        assert!(told.contains("Verify return code: 0 (ok)"), "{arguments}: {told}");
    }
    for name in ["other.test", "wild.test", "a.b.wild.test"] {
        let told = s_client(&gateway, "secure", &format!("-servername {name}")).await;
        assert!(told.contains("unrecognized name"), "{name}: {told}");
    }
}

#[tokio::test]
async fn sessions_resume_at_every_listener_but_under_no_other_name() {
    let gateway = Gateway::start(YAML).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = Arc::new(client(&gateway, version));
        for (listener, kind) in
            [("secure", HandshakeKind::Full), ("second", HandshakeKind::Resumed)]
        {
            let mut stream = connect(&gateway, listener, &client, "a.test").await;
            // TLS 1.3 brings its tickets with the first data.
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = Vec::new();
            within("answer", stream.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            let got = stream.get_ref().1.handshake_kind();
            // The key exchange group of the first may need another round trip.
            let got = if got == Some(HandshakeKind::FullWithHelloRetryRequest) {
                Some(HandshakeKind::Full)
            } else {
                got
            };
            assert_eq!(got, Some(kind), "{version:?} {listener}");
        }
    }
    let session = gateway.directory().join("session.pem");
    let session = session.to_str().unwrap();
    // s_client leaves at once on TLS 1.3, before the ticket comes.
    let told =
        s_client(&gateway, "secure", &format!("-tls1_2 -servername a.test -sess_out {session}"))
            .await;
    assert!(told.contains("New, TLSv1.2"), "{told}");
    for (name, wanted) in [("a.test", "Reused, TLSv1.2"), ("b.test", "New, TLSv1.2")] {
        let told =
            s_client(&gateway, "second", &format!("-tls1_2 -servername {name} -sess_in {session}"))
                .await;
        assert!(told.contains(wanted), "{name}: {told}");
    }
}

#[tokio::test]
async fn the_post_quantum_key_exchange_goes_first() {
    let gateway = Gateway::start(YAML).await;
    let client = Arc::new(client(&gateway, &rustls::version::TLS13));
    let stream = connect(&gateway, "secure", &client, "a.test").await;
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

fn client(gateway: &Gateway, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(gateway.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

async fn connect(
    gateway: &Gateway,
    listener: &str,
    client: &Arc<ClientConfig>,
    name: &str,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let tcp = TcpStream::connect(gateway.address(listener)).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(client)).connect(name, tcp).await.unwrap()
}

#[tokio::test]
async fn a_host_that_the_connection_was_not_made_for_is_misdirected() {
    let gateway = Gateway::start(YAML).await;
    for (host, status) in [("a.test", 200), ("A.test.", 200), ("b.test", 421), ("other.test", 421)]
    {
        let mut connection = gateway.tls_client_of("secure", "a.test").connect().await;
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        connection.send(head.as_bytes()).await.unwrap();
        assert_eq!(connection.read_reply(false).await.unwrap().status, status, "h1 {host}");
        let ca = gateway.ca();
        let scenario = json!({
            "address": gateway.address("secure").to_string(),
            "tls": {"ca": ca.to_str().unwrap(), "name": "a.test"},
            "steps": [
                {"request": {"stream": 1, "headers": [[":method", "GET"], [":scheme", "https"],
                    [":authority", host], [":path", "/"]]}},
                {"wait": "end", "stream": 1},
            ],
        });
        let result = Peer::result("h2_client.py", &scenario).await;
        assert_eq!(
            (&result["alpn"], &result["streams"]["1"]["status"]),
            (&json!("h2"), &json!(status)),
            "h2 {host}"
        );
    }
}

#[tokio::test]
async fn a_slow_or_broken_hello_ends_at_its_deadline_and_harms_nobody() {
    let gateway = Gateway::start(format!("{YAML}limits: {{ handshake_timeout: 500ms }}\n")).await;
    let client = gateway.client_of("secure");
    for sent in [
        &b""[..],
        b"\x16",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01\xff\xff",
        b"\x80\x2e\x01\x03\x01\x00\x15",
        &[0xff; 64],
        &[0; 5_000],
    ] {
        let mut connection = client.connect().await;
        // A refusal may come while we still send.
        let _ = connection.send(sent).await;
        let _ = connection.read_to_end().await;
    }
    assert_eq!(gateway.tls_client_of("secure", "a.test").get("/").await.text(), "a");
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() {
    let gateway = Gateway::start(YAML).await;
    let reply = gateway.client_of("secure").host("a.test").get("/").await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("HTTPS"), "{}", reply.text());
    let line = gateway.wait_access(|line| field(line, "error.type") == "bad_request").await;
    assert_eq!(field(&line, "url.scheme"), "http", "{line}");
    assert_eq!(field(&line, "listener"), "secure", "{line}");
}

/// What `certificates:` may name, made for one test.
struct Material {
    directory: TempDir,
}

impl Material {
    /// Writes `NAME.pem` and `NAME.key`: a leaf for `host` and the CA behind it.
    fn write(
        &self,
        name: &str,
        host: &str,
        change: impl FnOnce(&mut CertificateParams),
        order: [usize; 2],
    ) {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let mut leaf = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut leaf);
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let chain = [leaf.pem(), ca_certificate.pem()];
        let chain = order.map(|index| chain[index].clone()).concat();
        fs::write(self.directory.path().join(format!("{name}.pem")), chain).unwrap();
        fs::write(self.directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn certificates_that_cannot_be_served_stop_the_start() {
    let material = Material { directory: TempDir::new().unwrap() };
    material.write("good", "a.test", |_| (), [0, 1]);
    material.write("other", "a.test", |_| (), [0, 1]);
    material.write("order", "a.test", |_| (), [1, 0]);
    material.write("name", "b.test", |_| (), [0, 1]);
    fs::write(material.directory.path().join("empty.pem"), "").unwrap();
    fs::write(material.directory.path().join("text.pem"), "no certificate\n").unwrap();
    for (chain, key, wanted) in [
        ("good", "other", "does not belong to the certificate for a.test"),
        ("order", "order", "the leaf must come first"),
        ("name", "name", "is not valid for a.test"),
        ("empty", "good", "holds no certificate in PEM form"),
        ("text", "good", "holds no certificate in PEM form"),
        ("missing", "good", "missing.pem"),
        ("good", "missing", "missing.key"),
    ] {
        let told = refused(&material, chain, key).await;
        assert!(told.contains(wanted), "{chain}/{key}: {told}");
        assert!(!told.contains("panicked"), "{told}");
    }
}

/// Starts the program, which is to refuse, and returns what it said.
async fn refused(material: &Material, chain: &str, key: &str) -> String {
    let yaml = format!(
        "listeners: {{ secure: {{ bind: \"127.0.0.1:0\", protocol: https }} }}\n\
         sites: {{ a.test: {{ certificate: mine, routes: [ {{ respond: {{ status: 200 }} }} ] }} }}\n\
         certificates: {{ mine: {{ chain: {chain}.pem, key: {key}.key, names: [a.test] }} }}\n\
         storage: storage\nadmin: off\n"
    );
    let file = material.directory.path().join("gateway.yaml");
    fs::write(&file, yaml).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_wardgate"));
    command.arg("run").arg(&file).current_dir(material.directory.path());
    let mut program = Program::start(&mut command);
    let status = program.exit_status().await;
    let told = program.stderr.to_string();
    assert_eq!(status.code(), Some(1), "{chain}/{key}: {told}");
    told
}

#[tokio::test]
async fn a_certificate_from_files_is_served_with_its_chain() {
    let material = Material { directory: TempDir::new().unwrap() };
    material.write("good", "a.test", |_| (), [0, 1]);
    let gateway = Gateway::start_in(
        material.directory,
        "listeners: { secure: { bind: \"127.0.0.1:0\", protocol: https } }\n\
         sites: { a.test: { certificate: mine, routes: [ { respond: { status: 200, body: mine } } ] } }\n\
         certificates: { mine: { chain: good.pem, key: good.key } }\n",
    )
    .await;
    let pem = fs::read_to_string(gateway.directory().join("good.pem")).unwrap();
    let ca = pem.split_inclusive("-----END CERTIFICATE-----").nth(1).unwrap();
    let ca_file = gateway.directory().join("their-ca.pem");
    fs::write(&ca_file, ca).unwrap();
    let client = Client::new(gateway.address("secure")).tls(&ca_file).host("a.test");
    assert_eq!(client.get("/").await.text(), "mine");
}

#[tokio::test]
async fn an_expired_certificate_is_served_and_warned_about() {
    let material = Material { directory: TempDir::new().unwrap() };
    let expired = |leaf: &mut CertificateParams| {
        leaf.not_before = rcgen::date_time_ymd(2019, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2020, 1, 1);
    };
    material.write("old", "a.test", expired, [0, 1]);
    let gateway = Gateway::start_in(
        material.directory,
        "listeners: { secure: { bind: \"127.0.0.1:0\", protocol: https } }\n\
         sites: { a.test: { certificate: mine, routes: [ { respond: { status: 200 } } ] } }\n\
         certificates: { mine: { chain: old.pem, key: old.key } }\n",
    )
    .await;
    let line = gateway.wait_log(|line| field(line, "certificate") == "mine").await;
    assert_eq!(field(&line, "level"), "warn", "{line}");
    assert!(field(&line, "warning").as_str().unwrap().contains("expired"), "{line}");
}

#[tokio::test]
async fn a_panic_in_a_request_is_contained_counted_and_named() {
    // A backend whose certificate has dates that do not parse, and is not verified.
    let directory = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let mut der = made.cert.der().to_vec();
    let is_time = |window: &[u8]| window[..2] == [0x17, 13] && window[14] == b'Z';
    while let Some(at) = der.windows(15).position(is_time) {
        der[at + 2..at + 15].fill(b'X');
    }
    let (chain, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    fs::write(&chain, to_pem(&der).await).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let origin =
        Peer::start("h2_origin.py", &[chain.to_str().unwrap(), key.to_str().unwrap()]).await;
    let sound = Origin::start().await;
    let mut gateway = Gateway::start(format!(
        "listeners:\n\
         \x20 web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }}\n\
         sites:\n\
         \x20 bad.test: {{ https: both, certificate: internal, upstream: bad }}\n\
         \x20 sound.test: {{ https: both, certificate: internal, upstream: \"{}\" }}\n\
         upstreams:\n\
         \x20 bad: {{ servers: [\"https://{}\"], protocol: h2, tls: {{ verify: false }} }}\n",
        sound.url(),
        origin.address(),
    ))
    .await;
    let reply = gateway.client().host("bad.test").get("/1").await;
    assert!(matches!(reply.status, 500 | 502), "{} {}", reply.status, reply.text());
    let line = gateway.wait_access(|line| field(line, "url.path") == "/1").await;
    let id = field(&line, "request_id").as_str().unwrap().to_owned();
    assert_eq!(reply.header("x-request-id"), Some(&*id), "{line}");
    assert_eq!(field(&line, "http.response.status_code"), reply.status, "{line}");
    assert_eq!(field(&line, "error.type"), "panic", "{line}");
    gateway
        .wait_log(|line| field(line, "message") == "panicked" && field(line, "request_id") == &*id)
        .await;

    let headers = json!([
        [":method", "GET"],
        [":scheme", "http"],
        [":authority", "bad.test"],
        [":path", "/2"]
    ]);
    let result = Peer::result(
        "h2_client.py",
        &json!({"address": gateway.address("web").to_string(), "steps": [
            {"request": {"stream": 1, "headers": headers}}, {"wait": "end", "stream": 1},
        ]}),
    )
    .await;
    assert!(result["streams"]["1"]["reset"].is_number(), "{result}");
    let line = gateway.wait_access(|line| field(line, "url.path") == "/2").await;
    assert_eq!(field(&line, "error.type"), "panic", "{line}");

    assert_eq!(gateway.client().host("sound.test").get("/").await.text(), "ok");
    gateway.wait_access(|line| field(line, "url.domain") == "sound.test").await;
    assert_eq!(gateway.access().len(), 3, "one line each");
    gateway.drain();
    assert!(gateway.exit_status().await.success());
    let last = gateway.wait_log(|line| field(line, "message") == "terminated").await;
    assert!(field(&last, "panics").as_u64().unwrap() >= 1, "{last}");
    assert_eq!(field(&last, "dropped_lines"), 0, "{last}");
}

async fn to_pem(der: &[u8]) -> String {
    let directory = TempDir::new().unwrap();
    let (from, to) = (directory.path().join("c.der"), directory.path().join("c.pem"));
    fs::write(&from, der).unwrap();
    let arguments =
        ["x509", "-inform", "DER", "-in", from.to_str().unwrap(), "-out", to.to_str().unwrap()];
    let output = run("openssl", arguments).await;
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(to).unwrap()
}
