//! The admin listener: what it answers, and to whom.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Client, Gateway, Origin, field, run, within};

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
    for (method, path, status, allow, body) in [
        ("GET", "/live", 200, None, "live\n"),
        ("GET", "/ready", 200, None, "running\n"),
        ("GET", "/", 404, None, "there are /live, /ready, "),
        ("POST", "/ready", 405, Some("GET, HEAD"), "GET and HEAD only\n"),
        ("DELETE", "/config", 405, Some("GET, HEAD"), "GET and HEAD only\n"),
        ("GET", "/reload", 405, Some("POST"), "POST only\n"),
        ("GET", "/probe?name=a.test", 405, Some("POST"), "POST only\n"),
        ("POST", "/probe?name=a.test", 401, None, "this needs the admin token\n"),
    ] {
        let reply = admin.send(method, path, "", b"").await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert!(reply.text().starts_with(body), "{method} {path}: {}", reply.text());
        assert_eq!(reply.header("allow"), allow, "{method} {path}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    assert_eq!(admin.send("HEAD", "/ready", "", b"").await.status, 200);
    for path in ["/ready", "/status", "/config", "/metrics"] {
        let reply = gateway.client().host("localhost").get(path).await;
        assert_eq!(reply.text(), "site", "{path}: not through a site");
    }
    let reload = gateway.client().host("localhost").send("POST", "/reload", "", b"").await;
    assert_eq!(reload.text(), "site");
}

/// The field that shows the gateway's token.
fn token_field(gateway: &Gateway) -> String {
    let token = std::fs::read_to_string(gateway.directory().join("storage/admin/token")).unwrap();
    format!("Authorization: Bearer {}\r\n", token.trim())
}

#[tokio::test]
async fn no_page_and_nobody_without_the_token_changes_anything() {
    let gateway = Gateway::start(SITES).await;
    let address = gateway.admin_address();
    let token = token_field(&gateway);
    let local = format!("Origin: http://{address}\r\n");
    let last = if token.contains("0\r\n") { "1\r\n" } else { "0\r\n" };
    let wrong = format!("{}{last}", &token[..token.len() - 3]);
    let with = |more: &str| format!("{token}{more}");
    for (fields, status) in [
        (String::new(), 401),
        (wrong, 401),
        ("Authorization: Bearer\r\n".to_owned(), 401),
        (format!("{token}{token}"), 401),
        (with("Origin: http://evil.example\r\n"), 403),
        (with("Origin: null\r\n"), 403),
        (with("Origin: http://localhost:3000\r\n"), 403),
        (with("Sec-Fetch-Site: cross-site\r\n"), 403),
        (with("Sec-Fetch-Site: same-site\r\n"), 403),
        (with("Content-Type: text/plain\r\n"), 403),
        (with("Content-Type: application/x-www-form-urlencoded\r\n"), 403),
    ] {
        let reply = Client::new(address).send("POST", "/reload", &fields, b"").await;
        assert_eq!(reply.status, status, "{fields}");
        let challenge = reply.header("www-authenticate");
        assert_eq!(challenge, (status == 401).then_some("Bearer"), "{fields}");
    }
    let rebound = Client::new(address).host("rebound.example");
    assert_eq!(rebound.send("POST", "/reload", &token, b"").await.status, 403);
    // What is not read to its end may cost the answer.
    let long = with(&format!("X-Long: {}\r\n", "x".repeat(1_000_000)));
    let long = Client::new(address).try_send("POST", "/reload", &long, b"").await;
    assert!(long.as_ref().map_or(true, |reply| reply.status == 431), "{long:?}");
    let large = vec![b'x'; 1_000_000];
    let large = Client::new(address).try_send("POST", "/reload", &token, &large).await;
    assert!(large.as_ref().map_or(true, |reply| reply.status == 413), "{large:?}");
    let own = Client::new(address).send("POST", "/reload", &with(&local), b"").await;
    assert!(!matches!(own.status, 400..500), "admitted: {own:?}");
    for path in ["/status", "/config"] {
        let foreign = "Origin: http://evil.example\r\n";
        let reply = Client::new(address).send("GET", path, foreign, b"").await;
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let secret = token.trim().rsplit(' ').next().unwrap();
    assert!(!gateway.log().to_string().contains(secret), "never logged");
}

#[cfg(unix)]
#[tokio::test]
async fn the_token_survives_a_restart_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut gateway = Gateway::start(SITES).await;
    let directory = gateway.directory().join("storage/admin");
    let mode =
        |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("token"), mode("address"), mode("")), (0o600, 0o600, 0o700));
    let first = token_field(&gateway);
    let address = std::fs::read_to_string(directory.join("address")).unwrap();
    assert_eq!(address.trim(), gateway.admin_address().to_string());
    gateway.drain();
    gateway.exit_status().await;

    let storage = format!("storage: {:?}\n", directory.parent().unwrap());
    let again = Gateway::start(format!("{SITES}{storage}")).await;
    let kept = std::fs::read_to_string(directory.join("token")).unwrap();
    assert_eq!(first, format!("Authorization: Bearer {}\r\n", kept.trim()));
    let address = std::fs::read_to_string(directory.join("address")).unwrap();
    assert_eq!(address.trim(), again.admin_address().to_string(), "the new one");
}

#[tokio::test]
async fn a_state_that_cannot_be_written_costs_the_token_only() {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("storage"), "a file").unwrap();
    let gateway = Gateway::start_in(directory, SITES).await;
    gateway.wait_log(|line| field(line, "message") == "has no admin token").await;
    let admin = Client::new(gateway.admin_address());
    assert_eq!(admin.get("/status").await.status, 200);
    assert_eq!(admin.send("POST", "/reload", "", b"").await.status, 401);
}

#[tokio::test]
async fn status_and_config_tell_how_the_gateway_stands() {
    let origin = Origin::start().await;
    let yaml = format!(
        "listeners:\n  web: {{ bind: \"127.0.0.1:0\", protocol: http }}\n  \
         secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         sites: {{ app.test: {{ aliases: [b.test], upstream: app }} }}\n\
         upstreams: {{ app: {{ servers: [\"{}\"] }} }}\n",
        origin.url()
    );
    let gateway = Gateway::start(yaml).await;
    let admin = Client::new(gateway.admin_address());
    let reply = admin.get("/status").await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let status = reply.json();
    for (pointer, wanted) in [
        ("/version", json!(env!("CARGO_PKG_VERSION"))),
        ("/state", json!("running")),
        ("/generation", json!(1)),
        ("/last_reload", json!(null)),
        ("/requests_in_flight", json!(0)),
        ("/listeners/0/name", json!("web")),
        ("/listeners/0/addresses/0", json!(gateway.address("web").to_string())),
        ("/listeners/1/protocol", json!("https")),
        ("/sites/0/hosts", json!(["app.test", "b.test"])),
        ("/sites/0/certificate", json!("internal:app.test")),
        ("/pools/0/name", json!("app")),
        ("/pools/0/servers/0/address", json!(origin.address().to_string())),
        ("/pools/0/servers/0/health", json!("unknown")),
        ("/pools/0/servers/0/in_flight", json!(0)),
        ("/certificates/0/name", json!("internal:app.test")),
        ("/certificates/0/hosts", json!(["app.test", "b.test"])),
    ] {
        assert_eq!(status.pointer(pointer), Some(&wanted), "{pointer} of {status:#}");
    }
    assert!(status["certificates"][0]["days_left"].as_i64().unwrap() > 0, "{status:#}");

    let mut held = gateway.client_of("secure").tls(&gateway.ca()).host("app.test").connect().await;
    origin.hold();
    held.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    origin.received(1).await;
    let status = admin.get("/status").await.json();
    for pointer in ["/connections", "/requests_in_flight", "/pools/0/servers/0/in_flight"] {
        assert_eq!(status.pointer(pointer), Some(&json!(1)), "{pointer} of {status:#}");
    }
    origin.release();
    assert_eq!(held.read_reply(false).await.unwrap().status, 200);

    let file = gateway.directory().join("gateway.yaml");
    let arguments = ["config".as_ref(), file.as_os_str()];
    let printed = run(env!("CARGO_BIN_EXE_wardgate"), arguments).await;
    let config = admin.get("/config").await;
    assert_eq!(config.text(), String::from_utf8(printed.stdout).unwrap());
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
        (":2019", 2, "listens on one address"),
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

/// As many connections as the admin listener has, that ask for this and take little of the answer.
async fn crowd(address: SocketAddr, request: &[u8]) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..64 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        // What the system keeps for a client grows with its segments.
        SockRef::from(&socket).set_tcp_mss(536).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        client.write_all(request).await.unwrap();
        crowd.push(client);
    }
    crowd
}

#[tokio::test]
async fn whoever_asks_and_reads_nothing_keeps_nobody_out_for_long() {
    let body = "x".repeat(64 << 10);
    let sites = SITES.replace("respond: site", &format!("respond: \"{body}\""));
    let gateway = Gateway::start(sites).await;
    let address = gateway.admin_address();
    let started = Instant::now();
    let crowd = crowd(address, &b"GET /config HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(8)).await;
    let reply = within("room", Client::new(address).get("/live")).await;
    assert_eq!(reply.status, 200);
    assert!(started.elapsed() > Duration::from_secs(5), "nobody was kept out");
    drop(crowd);
}

#[tokio::test]
async fn connections_are_not_kept_for_ever_where_there_are_many() {
    const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let gateway = Gateway::start(SITES).await;
    let address = gateway.admin_address();
    let mut crowd = crowd(address, LIVE).await;
    // Each asks often enough not to be silent for too long.
    let asking = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for client in &mut crowd {
                let _ = client.write_all(LIVE).await; // closed by then, perhaps
            }
        }
    };
    let client = Client::new(address);
    tokio::select! {
        () = asking => {}
        reply = within("room", client.get("/live")) => assert_eq!(reply.status, 200),
    }
}
