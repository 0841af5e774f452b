//! Servers that speak HTTP/2, and `auto`: deadlines, early answers, what is sent again.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{Connection, Gateway, Origin, Peer, Reply, Stage, field};

/// A gateway for HTTP/1.1 and h2c in front of an h2 server.
async fn front(origin: &Peer, pool: &str, route: &str) -> Gateway {
    let url = format!("http://{}", origin.address());
    Gateway::start(config(&url, &format!("protocol: h2c{pool}"), route)).await
}

fn config(url: &str, pool: &str, route: &str) -> String {
    format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }} }}\n\
         sites: {{ app.test: {{ https: both, routes: [{{ upstream: app{route} }}] }} }}\n\
         upstreams: {{ app: {{ servers: [\"{url}\"], {pool} }} }}\n"
    )
}

/// Waits until the server was asked for `path` so often, and sees that it was not more.
async fn assert_asked(origin: &Peer, path: &str, times: usize) {
    let target = json!([":path", path]);
    let is_it = |event: &Value| {
        event["headers"].as_array().is_some_and(|headers| headers.contains(&target))
    };
    if times > 0 {
        origin.events().wait_for_count("requests", times, is_it).await;
    }
    assert_eq!(origin.events().all().into_iter().filter(is_it).count(), times, "{path}");
}

async fn post(gateway: &Gateway, path: &str, size: usize) -> Connection {
    let mut connection = gateway.client().connect().await;
    let head = format!("POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n");
    connection.send(head.as_bytes()).await.unwrap();
    connection
}

/// Sends a large body for as long as anybody takes it, and returns the answer.
async fn upload(gateway: &Gateway, path: &str) -> (Reply, Duration) {
    const SIZE: usize = 8 << 20;
    let began = Instant::now();
    let stream = TcpStream::connect(gateway.address("web")).await.unwrap();
    let (reading, mut writing) = stream.into_split();
    let head = format!("POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {SIZE}\r\n\r\n");
    let sending = tokio::spawn(async move {
        let body = vec![b'x'; SIZE];
        // It breaks off when the gateway closes.
        let _ = writing.write_all(&[head.as_bytes(), &body].concat()).await;
        writing
    });
    let reply =
        Connection::over(tokio::io::join(reading, tokio::io::sink())).read_reply(false).await;
    sending.abort();
    (reply.unwrap(), began.elapsed())
}

#[tokio::test]
async fn an_early_answer_passes_a_body_that_nobody_takes() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, ", timeouts: { response: 2s, read: 2s }", "").await;
    for (path, longest) in [("/early-reset", 1_500), ("/early", 4_000)] {
        let (answer, took) = upload(&gateway, path).await;
        assert_eq!((answer.status, answer.text().as_str()), (401, "no"), "{path}");
        assert!(took < Duration::from_millis(longest), "{path}: {took:?}");
    }
    let (answer, took) = upload(&gateway, "/hang").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(took < Duration::from_secs(5), "{took:?}");
    let line = gateway.wait_access(|line| field(line, "url.path") == "/hang").await;
    assert_eq!(field(&line, "error.type"), "response_timeout", "{line}");
    let bounded = front(&origin, "", ", timeouts: { request: 1s }").await;
    let (answer, took) = upload(&bounded, "/hang").await;
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(took < Duration::from_secs(4), "{took:?}");
    let line = bounded.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "exchange_timeout", "{line}");
}

#[tokio::test]
async fn a_server_that_is_late_or_ends_the_stream_is_not_asked_twice() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, ", timeouts: { response: 600ms, read: 600ms }", "").await;
    let client = gateway.client().host("app.test");
    for (path, status, kind) in
        [("/hang", 504, "response_timeout"), ("/rst", 502, "upstream_reset")]
    {
        assert_eq!(client.get("/headers").await.status, 200, "on a connection that is kept");
        assert_eq!(client.get(path).await.status, status);
        let line = gateway.wait_access(|line| field(line, "url.path") == path).await;
        assert_eq!(field(&line, "error.type"), kind, "{line}");
        assert!(field(&line, "connect_ms").is_null(), "on a kept connection: {line}");
        assert_asked(&origin, path, 1).await;
    }
}

#[tokio::test]
async fn what_the_server_says_it_has_not_done_is_sent_again_whatever_the_method() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, "", "").await;
    let client = gateway.client().host("app.test");
    for path in ["/drain", "/refuse"] {
        let reply = client.send("POST", path, "", b"body").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "4"), "{path}");
        assert_asked(&origin, path, 2).await;
    }
}

#[tokio::test]
async fn a_server_that_is_late_is_asked_again_where_the_pool_says_so() {
    let pool = ", timeouts: { response: 500ms, read: 20s }, retry: { after: [reset] }";
    for size in [4, 30_000] {
        let origin = Peer::start("h2_origin.py", &[]).await;
        let gateway = front(&origin, pool, "").await;
        let body = vec![b'x'; size];
        let reply = gateway.client().host("app.test").send("PUT", "/nap", "", &body).await;
        assert_eq!((reply.status, reply.text()), (200, size.to_string()));
        assert_asked(&origin, "/nap", 2).await;
        let reply = gateway.client().host("app.test").send("PUT", "/hang", "", &body).await;
        assert_eq!(reply.status, 504, "{}", reply.text());
        assert_asked(&origin, "/hang", 2).await;
    }
}

#[tokio::test]
async fn an_upload_may_take_longer_than_an_answer() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, ", timeouts: { response: 700ms, read: 700ms }", "").await;
    let h1 = async {
        let mut connection = post(&gateway, "/take", 60_000).await;
        for _ in 0..6 {
            connection.send(&[b'x'; 10_000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        connection.read_reply(false).await.unwrap()
    };
    let head = json!([
        [":method", "POST"],
        [":scheme", "http"],
        [":authority", "app.test"],
        [":path", "/take"]
    ]);
    let mut steps = vec![json!({"request": {"stream": 1, "headers": head, "open": true}})];
    for number in 0..6 {
        let body = "x".repeat(10_000);
        steps.push(json!({"data": {"stream": 1, "body": body, "end": number == 5}}));
        steps.push(json!({"pause": 0.3}));
    }
    steps.push(json!({"wait": "end", "stream": 1}));
    let scenario = json!({"address": gateway.address("web").to_string(), "steps": steps});
    let (reply, h2) = tokio::join!(h1, Peer::result("h2_client.py", &scenario));
    assert_eq!((reply.status, reply.text().as_str()), (200, "60000"));
    assert_eq!(h2["streams"]["1"]["body"], "60000", "{h2}");
}

#[tokio::test]
async fn both_limits_of_silence_mean_the_same_as_over_http1() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    for (timeouts, path, kind) in [
        ("response: 500ms, read: 20s", "/hang", "response_timeout"),
        ("response: 20s, read: 500ms", "/gap", "read_timeout"),
    ] {
        let gateway = front(&origin, &format!(", timeouts: {{ {timeouts} }}"), "").await;
        let began = Instant::now();
        let answer = gateway.client().host("app.test").try_get(path).await;
        match path {
            "/hang" => assert_eq!(answer.unwrap().status, 504),
            _ => assert!(answer.is_err(), "cut: {answer:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{path}: {:?}", began.elapsed());
        let line = gateway.wait_access(|_| true).await;
        assert_eq!(field(&line, "error.type"), kind, "{line}");
    }
}

#[tokio::test]
async fn a_client_that_was_told_to_go_on_learns_that_the_server_is_late() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    for (path, size) in [("/hang", 20_000), ("/deaf", 300_000)] {
        let gateway = front(&origin, ", timeouts: { response: 500ms, read: 500ms }", "").await;
        let mut client = gateway.client().connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\n\
             Content-Length: {size}\r\n\r\n"
        );
        client.send(head.as_bytes()).await.unwrap();
        let head = client.read_until(b"\r\n\r\n").await.unwrap();
        assert!(head.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&head));
        client.send(&vec![b'x'; size]).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        assert_eq!(reply.status, 504, "{path}: {}", reply.text());
        let line = gateway.wait_access(|line| field(line, "url.path") == path).await;
        assert_eq!(field(&line, "error.type"), "response_timeout", "{line}");
        let id = field(&line, "request_id");
        let is_it =
            |line: &Value| field(line, "message") == "failed" && field(line, "request_id") == id;
        assert_eq!(field(&gateway.wait_log(is_it).await, "pool"), "app");
    }
}

#[tokio::test]
async fn a_client_that_pauses_is_not_cut_for_the_servers_silence() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, ", timeouts: { read: 1500ms }", "").await;
    let mut client = gateway.client().with_room(16 << 10).connect().await;
    client.send(b"GET /bits HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    client.wait_readable().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let reply = client.read_reply(false).await.unwrap();
    assert_eq!((reply.status, reply.body.len()), (200, 16 << 20));
}

#[tokio::test]
async fn an_upload_goes_on_behind_an_answer_that_is_whole() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, ", timeouts: { read: 300ms }", "").await;
    for (path, status, text) in [("/bare", 403, ""), ("/told", 200, "x")] {
        let mut connection = post(&gateway, path, 60_000).await;
        for _ in 0..6 {
            connection.send(&[b'x'; 10_000]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (status, text), "{path}");
        let line = gateway.wait_access(|line| field(line, "url.path") == path).await;
        assert!(field(&line, "error.type").is_null(), "{line}");
    }
}

#[tokio::test]
async fn an_upgrade_needs_a_server_that_speaks_http1() {
    const UPGRADE: &[u8] =
        b"GET /chat HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&origin, "", "").await;
    let mut client = gateway.client().connect().await;
    client.send(UPGRADE).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 501);
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "not_implemented", "{line}");
    assert_asked(&origin, "/chat", 0).await;

    // Over TLS the server has the choice, and would choose h2.
    let stage = Stage::open().await;
    let backend = backend(&stage.url()).await;
    let gateway = auto(&backend, ", timeouts: { response: 300ms, read: 300ms }").await;
    let mut client = gateway.client().connect().await;
    client.send(UPGRADE).await.unwrap();
    let (mut server, _) = stage.accept_head().await;
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";
    server.send(switched).await.unwrap();
    let head = client.read_until(b"\r\n\r\n").await.unwrap();
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.send(b"ping").await.unwrap();
    assert_eq!(server.read_until(b"ping").await.unwrap(), b"ping", "after a long silence");
}

/// A TLS server in front of `upstream` that speaks both.
async fn backend(upstream: &str) -> Gateway {
    Gateway::start(backend_text(upstream)).await
}

fn backend_text(upstream: &str) -> String {
    format!(
        "listeners: {{ secure: {{ bind: \"127.0.0.1:0\", protocol: https }} }}\n\
         sites: {{ app.test: {{ certificate: internal, upstream: \"{upstream}\" }} }}\n"
    )
}

async fn auto(backend: &Gateway, pool: &str) -> Gateway {
    let url = format!("https://{}", backend.address("secure"));
    let tls = "tls: { verify: false, server_name: app.test }";
    Gateway::start(config(&url, &format!("protocol: auto, {tls}{pool}"), "")).await
}

/// A TLS server that speaks both, and the directory with its certificate.
async fn origin_of_both() -> (TempDir, Peer) {
    let made = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::write(at("cert.pem"), made.cert.pem()).unwrap();
    fs::write(at("cert.key"), made.signing_key.serialize_pem()).unwrap();
    let origin = Peer::start("h2_origin.py", &[&at("cert.pem"), &at("cert.key"), "both"]).await;
    (directory, origin)
}

fn auto_text(address: SocketAddr) -> String {
    let tls = "tls: { verify: false, server_name: app.test }";
    config(&format!("https://{address}"), &format!("protocol: auto, {tls}"), "")
}

#[tokio::test]
async fn a_server_that_wants_http1_once_has_h2_again_when_that_is_over() {
    let (_directory, origin) = origin_of_both().await;
    for path in ["/http1", "/broken"] {
        let gateway = Gateway::start(auto_text(origin.address())).await;
        let client = gateway.client().host("app.test");
        assert_eq!(client.get("/spoken").await.text(), "h2");
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "http/1.1"), "{path}");
        assert_eq!(client.get("/spoken").await.text(), "http/1.1", "{path}");
        // A pool without the server forgets it, as five minutes do.
        gateway.reload(&auto_text("127.0.0.1:1".parse().unwrap()), 2).await;
        gateway.reload(&auto_text(origin.address()), 3).await;
        for _ in 0..2 {
            assert_eq!(client.get("/spoken").await.text(), "h2", "{path}");
        }
    }
}

#[tokio::test]
async fn a_server_that_no_longer_speaks_h2_is_spoken_to_over_http1() {
    let (_directory, origin) = origin_of_both().await;
    let gateway = Gateway::start(auto_text(origin.address())).await;
    let client = gateway.client().host("app.test");
    assert_eq!(client.get("/retire").await.text(), "h2");
    for _ in 0..2 {
        let reply = client.send("POST", "/spoken", "", b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "http/1.1"));
    }

    // Others do not say that they know nothing of h2, but end TLS.
    let origin = Origin::start().await;
    let both = backend(&origin.url()).await;
    let http1 = backend_text(&origin.url()).replace("https }", "https, alpn: [http/1.1] }");
    let http1 = Gateway::start(http1).await;
    let (target, targets) = watch::channel(both.address("secure"));
    let gateway = Gateway::start(auto_text(relay(targets).await)).await;
    let client = gateway.client().host("app.test");
    assert_eq!(client.get("/").await.status, 200);
    let version = async |backend: &Gateway| {
        let line = backend.wait_access(|_| true).await;
        field(&line, "network.protocol.version").as_str().unwrap().to_owned()
    };
    assert_eq!(version(&both).await, "2");
    target.send_replace(http1.address("secure"));
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(version(&http1).await, "1.1");
}

/// Passes connections on to where `targets` says, and cuts those to where it said before.
async fn relay(targets: watch::Receiver<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut targets = targets.clone();
            tokio::spawn(async move {
                let target = *targets.borrow_and_update();
                let mut server = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = targets.changed() => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn one_request_asks_what_a_server_speaks_and_the_others_wait_for_it() {
    const REQUESTS: usize = 5;
    let stage = Stage::open().await;
    let gateway = Gateway::start(auto_text(stage.address())).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let client = gateway.client().host("app.test");
        clients.spawn(async move { client.get("/").await.status });
    }
    let asking = stage.accept().await;
    let other = tokio::time::timeout(Duration::from_millis(500), stage.accept()).await;
    assert!(other.is_err(), "a second connection");
    // With the first they do not all fail: each sees for itself.
    drop(asking);
    for _ in 1..REQUESTS {
        drop(stage.accept().await);
    }
    assert_eq!(clients.join_all().await, [502; REQUESTS]);
}

#[tokio::test]
async fn those_who_wait_for_a_connection_that_does_not_come_about_wait_no_longer_than_one() {
    const REQUESTS: usize = 6;
    let stage = Stage::open().await;
    let url = format!("https://{}", stage.address());
    let pool =
        "protocol: h2, tls: { verify: false }, timeouts: { connect: 5s }, retry: { attempts: 1 }";
    let gateway = Gateway::start(config(&url, pool, "")).await;
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let client = gateway.client().host("app.test");
        clients.spawn(async move { client.get("/").await.status });
    }
    // No handshake is answered.
    let first = stage.accept().await;
    let mut hanging = Vec::new();
    for _ in 1..REQUESTS {
        hanging.push(stage.accept().await);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(clients.join_all().await, [504; REQUESTS]);
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    drop((first, hanging));

    // And where one is refused, the others do not wait for each other.
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let client = gateway.client().host("app.test");
        clients.spawn(async move { client.get("/").await.status });
    }
    drop(stage.accept().await);
    let mut others = Vec::new();
    for _ in 1..REQUESTS {
        others.push(stage.accept().await);
    }
    drop(others);
    assert_eq!(clients.join_all().await, [502; REQUESTS]);
}

#[tokio::test]
async fn nobody_waits_long_for_a_connection_of_somebody_else() {
    let stage = Stage::open().await;
    let url = format!("https://{}", stage.address());
    let pool = "protocol: h2, tls: { verify: false }, timeouts: { connect: 20s }";
    let gateway = Gateway::start(config(&url, pool, "")).await;
    let ask = || {
        let client = gateway.client().host("app.test");
        tokio::spawn(async move { client.get("/").await.status })
    };
    let first = ask();
    let hanging = stage.accept().await;
    let (began, second) = (Instant::now(), ask());
    drop(stage.accept().await);
    assert_eq!(second.await.unwrap(), 502);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(hanging);
    assert_eq!(first.await.unwrap(), 502);
}

#[tokio::test]
async fn auto_over_http1_has_the_deadlines_of_http1() {
    let origin = Origin::start().await;
    let backend =
        Gateway::start(backend_text(&origin.url()).replace("https }", "https, alpn: [http/1.1] }"))
            .await;
    let gateway = auto(&backend, ", timeouts: { response: 1s, read: 20s }").await;
    assert_eq!(gateway.client().host("app.test").get("/").await.status, 200);
    origin.hold();
    let began = Instant::now();
    let reply = gateway.client().host("app.test").get("/late").await;
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    origin.release();
}
