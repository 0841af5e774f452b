//! Certificates that change, and what does not change with them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ask, is_message, refused, replace};
use crate::support::{Gateway, field, within};

const HOSTS: [&str; 2] = ["a.test", "b.test"];

/// Writes a new certificate for [`HOSTS`] and its key.
fn make(directory: &Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(directory.join("trusted.pem"), &chain).unwrap();
    (chain, key)
}

/// Sites that `own` stands for.
fn yaml(hosts: &[&str], more: &str) -> String {
    let site = |host: &&str| {
        format!("  {host}: {{ certificate: own, routes: [ {{ respond: {{ body: {host} }} }} ] }}\n")
    };
    let sites: String = hosts.iter().map(site).collect();
    format!(
        "listeners: {{ tls: {{ bind: \"127.0.0.1:0\", protocol: https }} }}\nsites:\n{sites}\
         certificates: {{ own: {{ chain: own.pem, key: own.key }} }}\n{more}"
    )
}

async fn start(yaml: &str) -> Gateway {
    let directory = TempDir::new().unwrap();
    let (chain, key) = make(directory.path());
    fs::write(directory.path().join("own.pem"), chain).unwrap();
    fs::write(directory.path().join("own.key"), key).unwrap();
    Gateway::start_in(directory, yaml).await
}

#[tokio::test]
async fn a_new_certificate_is_served_as_soon_as_its_files_are_whole() {
    let gateway = start(&yaml(&HOSTS, "")).await;
    let at = |name: &str| gateway.directory().join(name);
    let first = at("first.pem");
    fs::copy(at("trusted.pem"), &first).unwrap();
    let client = gateway.client_of("tls").host("a.test");
    let mut old = client.clone().tls(&first).connect().await;
    assert_eq!(ask(&mut old, "a.test", "/").await.unwrap().text(), "a.test");

    let (chain, key) = make(gateway.directory());
    replace(&at("own.pem"), &chain);
    let line = gateway.wait_log(is_message("rejected a configuration")).await;
    let faults = field(&line, "faults").as_str().unwrap();
    assert!(faults.contains("own") && faults.contains("key"), "the key is another's: {line}");
    assert_eq!(client.clone().tls(&first).get("/").await.text(), "a.test", "the old one is kept");

    replace(&at("own.key"), &key);
    gateway.reloaded(2).await;
    assert_eq!(client.clone().tls(&at("trusted.pem")).get("/").await.text(), "a.test");
    assert!(client.tls(&first).try_connect().await.is_err(), "the old one is gone");
    assert_eq!(ask(&mut old, "a.test", "/").await.unwrap().text(), "a.test", "what is open stays");
}

#[tokio::test]
async fn a_broken_certificate_keeps_the_whole_new_configuration_out() {
    let gateway = start(&yaml(&["a.test"], "")).await;
    let trusted = gateway.directory().join("trusted.pem");
    let client = gateway.client_of("tls").host("a.test").tls(&trusted);
    replace(&gateway.directory().join("own.pem"), "-----BEGIN CERTIFICATE-----\nhalf");
    let faults = refused(&gateway, &yaml(&HOSTS, "")).await;
    assert!(faults.contains("own.pem"), "{faults}");
    let mut connection = client.connect().await;
    assert_eq!(ask(&mut connection, "a.test", "/").await.unwrap().text(), "a.test");
    assert_eq!(ask(&mut connection, "b.test", "/").await.unwrap().status, 421, "not in force");
}

#[tokio::test]
async fn files_that_a_refused_configuration_names_are_waited_for() {
    let gateway = start(&yaml(&["a.test"], "")).await;
    let moved =
        yaml(&HOSTS, "").replace("own.pem", "new/own.pem").replace("own.key", "new/own.key");
    let faults = refused(&gateway, &moved).await;
    assert!(faults.contains("own.pem"), "{faults}");
    let new = gateway.directory().join("new");
    fs::create_dir(&new).unwrap();
    for name in ["own.pem", "own.key"] {
        fs::copy(gateway.directory().join(name), new.join(name)).unwrap();
    }
    gateway.reloaded(2).await;
}

#[tokio::test]
async fn a_site_is_added_to_connections_whose_certificate_stands_for_it() {
    let gateway = start(&yaml(&["a.test"], "")).await;
    let trusted = gateway.directory().join("trusted.pem");
    let mut connection = gateway.client_of("tls").host("a.test").tls(&trusted).connect().await;
    assert_eq!(ask(&mut connection, "b.test", "/").await.unwrap().status, 421);
    gateway.reload(&yaml(&HOSTS, ""), 2).await;
    for host in HOSTS {
        assert_eq!(ask(&mut connection, host, "/").await.unwrap().text(), host);
    }
    gateway.reload(&yaml(&["a.test"], ""), 3).await;
    assert_eq!(ask(&mut connection, "b.test", "/").await.unwrap().status, 421);
    assert_eq!(ask(&mut connection, "a.test", "/").await.unwrap().text(), "a.test");
}

#[tokio::test]
async fn sessions_resume_after_a_reload() {
    let gateway = start(&yaml(&HOSTS, "")).await;
    let trusted = gateway.directory().join("trusted.pem");
    for (version, generation) in [(&rustls::version::TLS12, 2), (&rustls::version::TLS13, 3)] {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&trusted).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let client = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        assert!(!is_resumed(&gateway, &client).await);
        let idle = format!("limits: {{ idle_timeout: {}s }}\n", 60 + generation);
        gateway.reload(&yaml(&HOSTS, &idle), generation).await;
        assert!(is_resumed(&gateway, &client).await, "{version:?}");
    }
}

/// Whether a visit to a.test takes up the session of the one before.
async fn is_resumed(gateway: &Gateway, client: &Arc<ClientConfig>) -> bool {
    within("visit", async {
        let tcp = TcpStream::connect(gateway.address("tls")).await.unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, tcp).await.unwrap();
        // TLS 1.3 brings its tickets with the first data.
        let head = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    })
    .await
}
