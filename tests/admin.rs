//! The admin listener: what it answers, and to whom.

use std::net::TcpListener;

use crate::support::{Client, Gateway, run};

const SITES: &str = "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
    sites: { \"*\": { routes: [ { respond: site } ] } }\n";

#[tokio::test]
async fn supervisors_ask_on_loopback_and_nobody_else() {
    let gateway = Gateway::start(SITES).await;
    let address = gateway.admin_address();
    let port = address.port();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("LOCALHOST.".to_owned(), 200),
        (format!("[::1]:{port}"), 200),
        ("rebound.example".to_owned(), 403),
        (format!("rebound.example:{port}"), 403),
        ("192.0.2.1".to_owned(), 403),
        ("localhost.rebound.example".to_owned(), 403),
        ("a b".to_owned(), 403),
    ] {
        let reply = Client::new(address).host(&host).get("/ready").await;
        assert_eq!(reply.status, status, "{host}");
    }
    let admin = Client::new(address).host("localhost");
    for (method, path, status, body) in [
        ("GET", "/live", 200, "live\n"),
        ("GET", "/ready", 200, "running\n"),
        ("GET", "/", 404, "there are /live, /ready and /metrics\n"),
        ("POST", "/ready", 405, "GET and HEAD only\n"),
    ] {
        let reply = admin.send(method, path, "", b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{method} {path}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    assert_eq!(admin.send("HEAD", "/ready", "", b"").await.status, 200);
    assert_eq!(
        gateway.client().host("localhost").get("/ready").await.text(),
        "site",
        "not through a site"
    );
}

#[tokio::test]
async fn admin_off_opens_nothing() {
    let gateway = Gateway::start(format!("{SITES}admin: off\n")).await;
    let log = gateway.log().to_string();
    assert!(!log.contains("admin"), "{log}");
    assert_eq!(gateway.client().get("/").await.text(), "site");
}

#[tokio::test]
async fn an_admin_address_beyond_loopback_or_in_use_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = (taken.local_addr().unwrap().to_string(), taken);
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("gateway.yaml");
    for (address, code, text) in [
        ("0.0.0.0:2019", 2, "loopback"),
        (":2019", 2, "loopback"),
        ("192.0.2.1:2019", 2, "loopback"),
        (taken.0.as_str(), 1, "in use"),
    ] {
        let yaml = format!("{SITES}admin: {{ bind: \"{address}\" }}\nstorage: state\n");
        std::fs::write(&file, yaml).unwrap();
        let output = run(env!("CARGO_BIN_EXE_wardgate"), ["run".as_ref(), file.as_os_str()]).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{address}: {said}");
        assert!(said.contains(text), "{address}: {said}");
    }
}
