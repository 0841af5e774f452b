//! Kept connections, and the choice among servers.

use std::net::SocketAddr;
use std::time::Duration;

use super::heads::H2Origin;
use super::{config, front};
use crate::support::{Answer, Gateway, Origin, Peer, Stage, closed, field, within};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One server at this address.
fn one(address: SocketAddr, more: &str) -> String {
    format!("servers: [\"http://{address}\"]{more}")
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let origin = Origin::start().await;
    let gateway = front(&one(origin.address(), "")).await;
    let mut client = gateway.client().connect().await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        client.send(request.as_bytes()).await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    }
    assert_eq!(origin.connections(), 1);
    let lines = gateway.wait_accesses(5, |_| true).await;
    assert!(field(&lines[0], "connect_ms").is_number(), "dialled: {}", lines[0]);
    assert!(field(&lines[1], "connect_ms").is_null(), "kept: {}", lines[1]);
}

#[tokio::test]
async fn requests_at_once_have_connections_of_their_own_and_those_are_kept() {
    let origin = Origin::start().await;
    let gateway = front(&one(origin.address(), "")).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(gateway.client().connect().await);
    }
    for round in 1..=3 {
        origin.hold();
        for client in &mut clients {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        }
        origin.received(round * 5).await;
        origin.release();
        for client in &mut clients {
            assert_eq!(client.read_reply(false).await.unwrap().status, 200);
        }
    }
    assert_eq!(origin.connections(), 5);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_closed() {
    let stage = Stage::open().await;
    let gateway = front(&one(stage.address(), ", timeouts: { pool_idle: 300ms }")).await;
    let client = gateway.client();
    let reply = tokio::spawn(async move { client.get("/").await.status });
    let (mut origin, _) = stage.accept_head().await;
    origin.send(OK).await.unwrap();
    assert_eq!(reply.await.unwrap(), 200);
    assert_eq!(origin.read_to_end().await.unwrap(), b"", "closed, and nothing else was sent");
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_meanwhile_is_not_used() {
    let origin = Origin::answering(|_| Answer::Close(OK.to_vec())).await;
    let gateway = front(&one(origin.address(), "")).await;
    for number in 1..=5 {
        assert_eq!(gateway.client().send("POST", "/", "", b"x").await.status, 200);
        assert_eq!(origin.connections(), number);
    }
}

/// A kept connection that its origin closes on the next request, without an answer.
async fn answered_after_a_stale_connection(method: &str, body: &str) -> (u16, u64) {
    let stage = Stage::open().await;
    let gateway = front(&one(stage.address(), "")).await;
    let mut client = gateway.client().connect().await;
    client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    origin.send(OK).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    let length = body.len();
    let request =
        format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
    client.send(request.as_bytes()).await.unwrap();
    origin.read_until(format!("\r\n\r\n{body}").as_bytes()).await.unwrap();
    drop(origin);
    let mut count = 1;
    let status = within("answer", async {
        loop {
            tokio::select! {
                (mut origin, _) = stage.accept_head() => {
                    count += 1;
                    origin.read_exact(body.len()).await.unwrap();
                    origin.send(OK).await.unwrap();
                }
                () = client.wait_readable() => {
                    return client.read_reply(false).await.unwrap().status;
                }
            }
        }
    })
    .await;
    let line = gateway.wait_access(|line| field(line, "url.path") == "/").await;
    let resent = field(&line, "http.request.resend_count").as_u64().unwrap_or_default();
    assert_eq!(resent, count - 1, "{line}");
    (status, count)
}

#[tokio::test]
async fn a_request_lost_on_a_stale_connection_is_sent_again_only_if_it_may_be() {
    assert_eq!(answered_after_a_stale_connection("GET", "").await, (200, 2));
    assert_eq!(answered_after_a_stale_connection("PUT", "body").await, (200, 2));
    assert_eq!(answered_after_a_stale_connection("DELETE", "").await, (200, 2));
    assert_eq!(answered_after_a_stale_connection("POST", "body").await, (502, 1));
    assert_eq!(answered_after_a_stale_connection("POST", "").await, (502, 1));
    assert_eq!(answered_after_a_stale_connection("PATCH", "x").await, (502, 1));
}

#[tokio::test]
async fn a_request_is_sent_again_once_however_many_connections_are_stale() {
    let origin = Origin::answering(|request| match request.target.as_str() {
        "/lost" => Answer::Close(Vec::new()),
        _ => Answer::text(200, "ok"),
    })
    .await;
    let gateway = front(&one(origin.address(), "")).await;
    origin.hold();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = gateway.client();
        clients.spawn(async move { client.get("/").await.status });
    }
    origin.received(3).await;
    origin.release();
    assert!(clients.join_all().await.into_iter().all(|status| status == 200));
    assert_eq!(gateway.client().get("/lost").await.status, 502);
    let lost = origin.requests().iter().filter(|request| request.target == "/lost").count();
    assert_eq!(lost, 2);
    let line = gateway.wait_access(|line| field(line, "url.path") == "/lost").await;
    assert_eq!(field(&line, "http.request.resend_count"), 1, "{line}");
}

#[tokio::test]
async fn a_request_lost_on_a_fresh_connection_is_not_sent_again() {
    let origin = Origin::answering(|_| Answer::Close(Vec::new())).await;
    let gateway = front(&one(origin.address(), "")).await;
    assert_eq!(gateway.client().get("/").await.status, 502);
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_poison_nothing() {
    let stage = Stage::open().await;
    let gateway = front(&one(stage.address(), "")).await;
    let mut client = gateway.client().connect().await;
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    origin.send(OK).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().text(), "ok");
    // The connection is kept by now, or about to be.
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison").await.unwrap();
    client.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut second, head) = stage.accept_head().await;
    assert!(head.starts_with("GET /2 "), "on a connection of its own");
    second.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean").await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().text(), "clean");
}

#[tokio::test]
async fn a_connection_that_carries_an_identity_is_nobody_elses() {
    for (asked, answered, is_kept) in [
        ("Authorization: Basic eDp5\r\n", "", true),
        ("", "WWW-Authenticate: Basic realm=\"ntlm\"\r\n", true),
        ("Authorization: NTLM TlRMTVNTUAAD\r\n", "", false),
        ("authorization: \tnegotiate YII=\r\n", "", false),
        ("", "WWW-Authenticate: NTLM TlRMTVNTUAAC\r\n", false),
        ("", "WWW-Authenticate: Basic realm=\"a, b\", NEGOTIATE\r\n", false),
        ("", "WWW-Authenticate: Basic realm=a\r\nWWW-Authenticate: Negotiate\r\n", false),
    ] {
        let stage = Stage::open().await;
        let gateway = front(&one(stage.address(), "")).await;
        let mut alice = gateway.client().connect().await;
        let request = format!("GET /alice HTTP/1.1\r\nHost: a\r\n{asked}\r\n");
        alice.send(request.as_bytes()).await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        let answer = format!("HTTP/1.1 401 No\r\n{answered}Content-Length: 2\r\n\r\nno");
        origin.send(answer.as_bytes()).await.unwrap();
        assert_eq!(alice.read_reply(false).await.unwrap().status, 401);
        gateway.wait_access(|_| true).await;
        let mut mallory = gateway.client().connect().await;
        mallory.send(b"GET /mallory HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        if is_kept {
            let head = origin.read_until(b"\r\n\r\n").await.unwrap();
            assert!(head.starts_with(b"GET /mallory "), "{asked}{answered}");
            continue;
        }
        assert_eq!(origin.read_to_end().await.unwrap(), b"", "closed: {asked}{answered}");
        let (mut second, head) = stage.accept_head().await;
        assert!(head.starts_with("GET /mallory "), "{asked}{answered}");
        second.send(OK).await.unwrap();
        assert_eq!(mallory.read_reply(false).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_http2_connection_that_carries_an_identity_is_nobody_elses() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let gateway = front(&one(origin.address(), ", protocol: h2c")).await;
    let client = gateway.client();
    let (negotiate, ntlm) = ("Authorization: Negotiate YII=\r\n", "Authorization: NTLM TlR=\r\n");
    for (number, fields) in (1..).zip(["", negotiate, ntlm, ""]) {
        assert_eq!(client.send("GET", "/headers", fields, b"").await.status, 200);
        gateway.wait_accesses(number, |_| true).await;
    }
    let is_request = |event: &serde_json::Value| event["event"] == "request";
    let requests = origin.events().wait_for_count("requests", 4, is_request).await;
    let connections: Vec<_> = requests.iter().map(|event| event["connection"].as_u64()).collect();
    assert_eq!(connections, [Some(1), Some(2), Some(3), Some(1)]);
    for number in [2, 3] {
        let is_its =
            |event: &serde_json::Value| event["event"] == "closed" && event["connection"] == number;
        origin.events().wait("end of the connection", is_its).await;
    }
}

#[tokio::test]
async fn a_refused_connection_is_tried_once_more_elsewhere_whatever_the_method() {
    let origin = Origin::start().await;
    let pool =
        format!("servers: [\"http://{}\", \"{}\"], balance: round_robin", closed(), origin.url());
    let gateway = front(&pool).await;
    for _ in 0..4 {
        assert_eq!(gateway.client().send("POST", "/", "", b"once").await.status, 200);
    }
    assert_eq!(origin.requests().len(), 4, "and each once");
    let lines = gateway.wait_accesses(4, |_| true).await;
    assert!(lines.iter().any(|line| field(line, "http.request.resend_count") == 1), "{lines:?}");
}

#[tokio::test]
async fn two_refusals_are_an_answer() {
    let origin = Origin::start().await;
    let servers = format!(
        "servers: [\"http://{}\", \"http://{}\", \"http://{}\"], balance: round_robin",
        closed(),
        closed(),
        closed()
    );
    let gateway = front(&servers).await;
    assert_eq!(gateway.client().get("/").await.status, 502);
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "http.request.resend_count"), 1, "one more attempt, not two: {line}");
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn round_robin_follows_the_weights() {
    let (light, heavy) = (Origin::start().await, Origin::start().await);
    let pool = format!(
        "servers: [\"{}\", {{ url: \"{}\", weight: 3 }}], balance: round_robin",
        light.url(),
        heavy.url()
    );
    let gateway = front(&pool).await;
    for _ in 0..40 {
        gateway.client().get("/").await;
    }
    assert_eq!((light.requests().len(), heavy.requests().len()), (10, 30));
}

#[tokio::test]
async fn least_requests_avoids_the_busy_server() {
    const EACH: usize = 4;
    let (busy, idle) = (Origin::start().await, Origin::start().await);
    busy.hold();
    idle.hold();
    let pool = format!("servers: [\"{}\", \"{}\"]", busy.url(), idle.url());
    let gateway = front(&pool).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 1..=2 * EACH {
        let client = gateway.client();
        clients.spawn(async move { client.get("/").await.status });
        within("request", async {
            while busy.requests().len() + idle.requests().len() < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    assert_eq!((busy.requests().len(), idle.requests().len()), (EACH, EACH), "evenly while equal");
    idle.release();
    for _ in 0..EACH {
        assert_eq!(clients.join_next().await.unwrap().unwrap(), 200);
    }
    // A request has left its server's count once its access line is written.
    gateway.wait_accesses(EACH, |_| true).await;
    for _ in 0..20 {
        gateway.client().get("/").await;
    }
    assert_eq!((busy.requests().len(), idle.requests().len()), (EACH, EACH + 20));
    busy.release();
    assert!(clients.join_all().await.into_iter().all(|status| status == 200));
}

#[tokio::test]
async fn localhost_is_found_on_either_family() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = std::net::TcpListener::bind(address) else {
            eprintln!("skipped {address}: this machine does not have it");
            continue;
        };
        drop(listener);
        let stage = Stage::open_at(address).await;
        let gateway = Gateway::start(config(&format!(
            "servers: [\"http://localhost:{}\"]",
            stage.address().port()
        )))
        .await;
        let client = gateway.client();
        let reply = tokio::spawn(async move { client.get("/").await.status });
        let (mut origin, _) = stage.accept_head().await;
        origin.send(OK).await.unwrap();
        assert_eq!(reply.await.unwrap(), 200, "{address}");
    }
}

#[tokio::test]
async fn localhost_is_found_on_either_family_over_h2_too() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        if std::net::TcpListener::bind(address).is_err() {
            eprintln!("skipped {address}: this machine does not have it");
            continue;
        }
        let origin = H2Origin::start_at(address).await;
        let pool = format!("servers: [\"http://localhost:{}\"], protocol: h2c", origin.port);
        let gateway = Gateway::start(config(&pool)).await;
        for _ in 0..8 {
            assert_eq!(gateway.client().get("/fields/1/1").await.status, 200, "{address}");
        }
        // The engine knows those again that went where the next one goes first.
        assert!(origin.connections() <= 2, "{address}: {}", origin.connections());
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_stops_nothing_but_its_own_requests() {
    let origin = Origin::start().await;
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ routes: [ {{ match: {{ path: /lost }}, upstream: lost }}, {{ upstream: \"{}\" }} ] }} }}\n\
         upstreams: {{ lost: {{ servers: [\"http://no-such-host.invalid:80\"], timeouts: {{ connect: 1s }} }} }}\n",
        origin.url()
    );
    let gateway = Gateway::start(yaml).await;
    assert_eq!(gateway.client().get("/").await.status, 200);
    let reply = gateway.client().get("/lost").await;
    assert_eq!(reply.status, 503);
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn the_host_field_is_what_the_pool_says() {
    let origin = Origin::start().await;
    for (host, expected) in [
        ("preserve", "app.test:81".to_owned()),
        ("upstream", origin.address().to_string()),
        ("{ name: literal.test }", "literal.test".to_owned()),
    ] {
        let gateway = front(&one(origin.address(), &format!(", host: {host}"))).await;
        gateway.client().host("app.test:81").get("/").await;
        assert_eq!(origin.requests().last().unwrap().values("host"), [&*expected]);
    }
}
