//! Active checks: who gets requests while servers come and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;

use super::front;
use crate::support::{Answer, Gateway, Origin, Peer, Received, Stage, field, within};

/// A server that can be killed and started again on its port, and be told what to say.
struct Server {
    /// Keeps the port; it does not listen.
    _reserved: TcpSocket,
    address: SocketAddr,
    status: Arc<AtomicU16>,
    origin: Option<Origin>,
}

impl Server {
    async fn start() -> Self {
        let reserved = shared_socket("127.0.0.1:0".parse().unwrap());
        let address = reserved.local_addr().unwrap();
        let status = Arc::new(AtomicU16::new(200));
        let mut server = Self { _reserved: reserved, address, status, origin: None };
        server.restart();
        server
    }

    fn restart(&mut self) {
        let listener = shared_socket(self.address).listen(128).unwrap();
        let status = Arc::clone(&self.status);
        let script = move |_: &Received| Answer::text(status.load(Ordering::SeqCst), "ok");
        self.origin = Some(Origin::answering_on(listener, script));
    }

    fn kill(&mut self) {
        self.origin = None;
    }

    /// What it answers from now on.
    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn origin(&self) -> &Origin {
        self.origin.as_ref().unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that were no checks.
    fn served(&self) -> usize {
        self.origin().requests().iter().filter(|request| request.target != "/health").count()
    }
}

fn shared_socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// Checks that come often and have time enough on a busy machine.
const CHECKS: &str = "path: /health, every: 100ms, timeout: 20s, unhealthy_after: 2";

async fn front_of(servers: &[&Server], health: &str, more: &str) -> Gateway {
    let urls: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.url())).collect();
    front(&format!("servers: [{}], health: {{ {health} }}{more}", urls.join(", "))).await
}

/// Waits until `url` has become `healthy` or `unhealthy` for the `count`th time; the last event.
async fn became(gateway: &Gateway, url: &str, standing: &str, count: usize) -> Value {
    let message = format!("became {standing}");
    let is_its =
        |line: &Value| field(line, "message") == message.as_str() && field(line, "endpoint") == url;
    gateway.log().wait_for_count(&message, count, is_its).await.remove(count - 1)
}

/// Sends 20 requests, all of which have to be answered with 200.
async fn serve_20(gateway: &Gateway) {
    for _ in 0..20 {
        assert_eq!(gateway.client().get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_killed_server_gets_no_request_until_it_is_back() {
    let (mut a, b) = (Server::start().await, Server::start().await);
    let gateway = front_of(&[&a, &b], CHECKS, ", balance: round_robin").await;
    became(&gateway, &a.url(), "healthy", 1).await;
    became(&gateway, &b.url(), "healthy", 1).await;
    serve_20(&gateway).await;
    assert_eq!((a.served(), b.served()), (10, 10));
    for round in 1..=2 {
        a.kill();
        let event = became(&gateway, &a.url(), "unhealthy", round).await;
        let reason = field(&event, "reason").as_str().unwrap();
        assert!(reason.starts_with("connection refused"), "{event}");
        let before = gateway.access().len();
        serve_20(&gateway).await;
        for line in &gateway.wait_accesses(before + 20, |_| true).await[before..] {
            let resends = field(line, "http.request.resend_count");
            assert!(resends.is_null(), "the dead one was not asked: {line}");
        }
        a.restart();
        became(&gateway, &a.url(), "healthy", round + 1).await;
        serve_20(&gateway).await;
        assert!(a.served() >= 10, "its share again");
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_answers_500_gets_no_request() {
    let (a, b) = (Server::start().await, Server::start().await);
    let checks = "path: /health, every: 100ms, timeout: 4s, unhealthy_after: 1";
    let gateway = front_of(&[&a, &b], checks, "").await;
    became(&gateway, &a.url(), "healthy", 1).await;
    became(&gateway, &b.url(), "healthy", 1).await;
    a.origin().hold();
    let event = became(&gateway, &a.url(), "unhealthy", 1).await;
    assert_eq!(field(&event, "reason"), "no answer within 4s");
    let before = a.served();
    serve_20(&gateway).await;
    assert_eq!(a.served(), before);
    a.origin().release();
    became(&gateway, &a.url(), "healthy", 2).await;
    a.answer(500);
    let event = became(&gateway, &a.url(), "unhealthy", 2).await;
    assert_eq!(field(&event, "reason"), "status 500");
    let before = a.served();
    serve_20(&gateway).await;
    assert_eq!(a.served(), before);
}

#[tokio::test]
async fn a_server_that_flaps_stands_as_it_stood() {
    for (thresholds, first) in [
        ("healthy_after: 2, unhealthy_after: 2", "healthy"),
        ("healthy_after: 2, unhealthy_after: 1", "unhealthy"),
    ] {
        let turn = AtomicU16::new(0);
        let origin = Origin::answering(move |_| {
            let is_well = turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
            Answer::text(if is_well { 200 } else { 500 }, "")
        })
        .await;
        let pool = format!(
            "servers: \"{}\", health: {{ path: /, every: 20ms, timeout: 20s, {thresholds} }}",
            origin.url()
        );
        let gateway = front(&pool).await;
        became(&gateway, &origin.url(), first, 1).await;
        origin.received(20).await;
        let log = gateway.log().all();
        let changes: Vec<_> = log
            .iter()
            .filter_map(|line| field(line, "message").as_str()?.strip_prefix("became "))
            .collect();
        let expected: &[&str] =
            if first == "healthy" { &["healthy"] } else { &["healthy", "unhealthy"] };
        assert_eq!(changes, expected, "{thresholds}");
    }
}

#[tokio::test]
async fn requests_wait_for_the_first_check_or_do_not_as_initial_says() {
    let server = Server::start().await;
    server.origin().hold();
    let gateway = front_of(&[&server], CHECKS, "").await;
    let client = gateway.client();
    let waiting = tokio::spawn(async move { client.get("/").await.status });
    server.origin().received(1).await;
    assert_eq!(server.served(), 0, "it waits for the check");
    server.origin().release();
    assert_eq!(waiting.await.unwrap(), 200);

    let server = Server::start().await;
    let gateway = front_of(&[&server], "path: /health, initial: unhealthy, every: 1h", "").await;
    server.origin().received(1).await;
    assert_eq!(gateway.client().get("/").await.status, 503, "one success is not enough");
    assert_eq!(server.served(), 0);

    let stage = Stage::open().await;
    let health = "health: { path: /health, initial: healthy, every: 1h, timeout: 1h }";
    let gateway = front(&format!("servers: \"{}\", {health}", stage.url())).await;
    let client = gateway.client();
    let reply = tokio::spawn(async move { client.get("/").await.status });
    let (mut first, head) = stage.accept_head().await;
    let (mut second, _) = stage.accept_head().await;
    let asked = if head.starts_with("GET /health") { &mut second } else { &mut first };
    asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(reply.await.unwrap(), 200, "though no check was answered");
}

#[tokio::test]
async fn an_answer_is_what_is_expected_or_a_failure() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nall\r\n3\r\n we\r\n3\r\nll.\r\n0\r\n\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(64 << 10) + "well");
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat((64 << 10) - 4) + "well");
    let none = "HTTP/1.1 204 No\r\n\r\n";
    let (moved, gone) = ("HTTP/1.1 302 X\r\n\r\n", "HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n");
    for (expect, answer, reason) in [
        ("", none, ""),
        ("", moved, ""),
        ("", gone, "status 404"),
        ("expect: { status: 404 },", gone, ""),
        ("expect: { status: [200, 201-204] },", moved, "status 302"),
        ("expect: { body: all well },", chunked, ""),
        ("expect: { body: all ill },", chunked, "the body does not contain the expected text"),
        ("expect: { status: 500, body: all well },", chunked, "status 200"),
        ("expect: { body: x },", none, "the body does not contain the expected text"),
        ("expect: { body: well },", &long, ""),
        ("expect: { body: well },", &endless, "the body does not contain the expected text"),
        ("", "SSH-2.0-OpenSSH\r\n", "no valid answer"),
        ("", "", "no valid answer"),
    ] {
        let bytes = answer.as_bytes().to_vec();
        let origin = Origin::answering(move |_| Answer::Close(bytes.clone())).await;
        let health = format!("health: {{ path: \"/up?full\", {expect} timeout: 20s, every: 1h }}");
        let host = "host: { name: app.test }";
        let gateway = front(&format!("servers: \"{}\", {health}, {host}", origin.url())).await;
        let standing = if reason.is_empty() { "healthy" } else { "unhealthy" };
        let event = became(&gateway, &origin.url(), standing, 1).await;
        let found = field(&event, "reason").as_str().unwrap_or_default();
        assert!(found.starts_with(reason), "{expect} {reason}: {event}");
        let asked = &origin.received(1).await[0];
        assert_eq!((&*asked.method, &*asked.target), ("GET", "/up?full"));
        assert_eq!(asked.values("host"), ["app.test"]);
        assert_eq!(asked.values("connection"), ["close"]);
        let agent = concat!("wardgate/", env!("CARGO_PKG_VERSION"), " health");
        assert_eq!(asked.values("user-agent"), [agent]);
        assert!(gateway.access().is_empty(), "a check is no request");
    }
}

#[tokio::test]
async fn a_connection_is_enough_for_tcp() {
    let stage = Stage::open().await;
    let health = "health: { tcp: true, every: 100ms, timeout: 20s, unhealthy_after: 1 }";
    let gateway = front(&format!("servers: \"{}\", {health}", stage.url())).await;
    became(&gateway, &stage.url(), "healthy", 1).await;
    assert_eq!(stage.accept().await.read_to_end().await.unwrap(), b"");
    let url = stage.url();
    drop(stage);
    became(&gateway, &url, "unhealthy", 1).await;
}

#[tokio::test]
async fn http2_is_checked_in_http2() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let url = format!("http://{}", origin.address());
    let health = "health: { path: /headers, expect: { body: user-agent }, timeout: 20s }";
    let gateway = front(&format!("servers: \"{url}\", protocol: h2c, {health}")).await;
    became(&gateway, &url, "healthy", 1).await;
    assert_eq!(gateway.client().get("/headers").await.status, 200);
}

#[tokio::test]
async fn a_backup_takes_over_and_gives_back() {
    let (mut primary, backup) = (Server::start().await, Server::start().await);
    let pool = format!(
        "servers: [\"{}\", {{ url: \"{}\", backup: true }}], health: {{ {CHECKS} }}",
        primary.url(),
        backup.url()
    );
    let gateway = front(&pool).await;
    became(&gateway, &backup.url(), "healthy", 1).await;
    serve_20(&gateway).await;
    assert_eq!((primary.served(), backup.served()), (20, 0));
    primary.kill();
    // Until the checks notice, the refused connection is tried on the backup.
    serve_20(&gateway).await;
    became(&gateway, &primary.url(), "unhealthy", 1).await;
    serve_20(&gateway).await;
    assert_eq!(backup.served(), 40);
    primary.restart();
    became(&gateway, &primary.url(), "healthy", 2).await;
    serve_20(&gateway).await;
    assert_eq!((primary.served(), backup.served()), (20, 40));
}

#[tokio::test]
async fn without_a_healthy_server_the_answer_is_503_at_once() {
    let (a, b) = (Server::start().await, Server::start().await);
    a.answer(500);
    b.answer(500);
    let checks = "path: /health, every: 1h, timeout: 1h";
    let gateway = front_of(&[&a, &b], checks, ", timeouts: { connect: 1h }").await;
    became(&gateway, &a.url(), "unhealthy", 1).await;
    became(&gateway, &b.url(), "unhealthy", 1).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = gateway.client();
        clients.spawn(async move { client.get("/").await });
    }
    for reply in within("answers", clients.join_all()).await {
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")));
        assert!(reply.text().contains("no_healthy_upstream"), "{}", reply.text());
    }
    assert_eq!((a.served(), b.served()), (0, 0));
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "no_healthy_upstream");
}

#[tokio::test]
async fn a_server_that_recovers_begins_with_few_requests() {
    for balance in ["round_robin", "least_requests", "random"] {
        let (a, b) = (Server::start().await, Server::start().await);
        let checks = format!("{CHECKS}, slow_start: 1h");
        let gateway = front_of(&[&a, &b], &checks, &format!(", balance: {balance}")).await;
        became(&gateway, &a.url(), "healthy", 1).await;
        became(&gateway, &b.url(), "healthy", 1).await;
        for _ in 0..50 {
            gateway.client().get("/").await;
        }
        assert!(a.served() >= 5, "the start is no recovery: {} of 50, {balance}", a.served());
        a.answer(500);
        became(&gateway, &a.url(), "unhealthy", 1).await;
        a.answer(200);
        became(&gateway, &a.url(), "healthy", 2).await;
        let before = a.served();
        for _ in 0..100 {
            gateway.client().get("/").await;
        }
        let after = a.served() - before;
        assert!(after <= 20, "a hundredth of its half, not {after} of 100: {balance}");
    }
}

#[tokio::test]
async fn checks_are_logged_when_something_changes_and_never_else() {
    let server = Server::start().await;
    let checks = "path: /health, every: 20ms, timeout: 20s";
    let gateway = front_of(&[&server], checks, "").await;
    server.origin().received(20).await;
    let about_health =
        |line: &&Value| field(line, "message").as_str().is_some_and(|it| it.contains("health"));
    assert_eq!(gateway.log().all().iter().filter(about_health).count(), 1, "{}", gateway.log());
    assert!(gateway.access().is_empty());
    // What is checked is still a server for requests.
    let reply = tokio::time::timeout(Duration::from_secs(30), gateway.client().get("/")).await;
    assert_eq!(reply.unwrap().status, 200);
}
