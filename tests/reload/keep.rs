//! What goes on while the configuration changes.

use std::fs;

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::{ask, is_message, says, yaml};
use crate::support::{Client, Connection, Gateway, Origin, Peer, Stage, field, within};

#[tokio::test]
async fn a_websocket_outlives_its_own_site() {
    let server = Peer::start("ws_echo.py", &[]).await;
    let ours = format!("  app.test: {{ upstream: \"http://{}\" }}\n", server.address());
    let gateway = Gateway::start(yaml(&ours)).await;
    let mut socket = open_websocket(&gateway).await;
    echo(&mut socket, b"one").await;
    gateway.reload(&yaml(&(ours.clone() + &says("b.test", "b"))), 2).await;
    echo(&mut socket, b"two").await;
    gateway.reload(&yaml(&says("b.test", "b")), 3).await;
    echo(&mut socket, b"three").await;
    assert_eq!(gateway.client().host("app.test").get("/").await.status, 404);
}

/// A WebSocket to app.test over a connection of its own.
pub(super) async fn open_websocket(gateway: &Gateway) -> Connection {
    let mut socket = gateway.client().connect().await;
    let head =
        b"GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.send(head).await.unwrap();
    let head = String::from_utf8(socket.read_until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    socket
}

/// Has a text of less than 126 bytes come back (RFC 6455 §5.2).
pub(super) async fn echo(socket: &mut Connection, text: &[u8]) {
    let length = u8::try_from(text.len()).unwrap();
    let masked = [&[0x81, 0x80 | length, 0, 0, 0, 0], text].concat();
    socket.send(&masked).await.unwrap();
    let expected = [&[0x81, length], text].concat();
    assert_eq!(socket.read_exact(expected.len()).await.unwrap(), expected);
}

#[tokio::test]
async fn connections_stay_and_their_next_requests_are_served_by_the_new_configuration() {
    let one = yaml(&(says("a.test", "one") + &says("gone.test", "gone")));
    let gateway = Gateway::start(&one).await;
    let mut connection = gateway.client().connect().await;
    for host in ["a.test", "gone.test"] {
        assert_eq!(ask(&mut connection, host, "/").await.unwrap().status, 200);
    }
    let tcp = tokio::net::TcpStream::connect(gateway.address("web")).await.unwrap();
    let (mut streams, h2) = h2::client::handshake(tcp).await.unwrap();
    let h2 = tokio::spawn(h2);
    assert_eq!(fetch(&mut streams, "a.test").await, (200, "one".to_owned()));

    gateway.reload(&yaml(&(says("a.test", "two") + &says("new.test", "new"))), 2).await;
    for (host, status, text) in [("a.test", 200, "two"), ("new.test", 200, "new")] {
        let reply = ask(&mut connection, host, "/").await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (status, text), "{host}");
        assert_eq!(fetch(&mut streams, host).await, (status, text.to_owned()), "{host} over h2");
    }
    assert_eq!(fetch(&mut streams, "gone.test").await.0, 404);
    assert!(!h2.is_finished());
    assert_eq!(ask(&mut connection, "gone.test", "/").await.unwrap().status, 404);
}

/// Status and body of `GET /` from `host`.
async fn fetch(streams: &mut h2::client::SendRequest<Bytes>, host: &str) -> (u16, String) {
    within("answer over h2", async {
        let request = Request::get(format!("http://{host}/")).body(()).unwrap();
        futures_util::future::poll_fn(|cx| streams.poll_ready(cx)).await.unwrap();
        let (answer, _) = streams.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(piece) = body.data().await {
            text.extend_from_slice(&piece.unwrap());
        }
        (status, String::from_utf8(text).unwrap())
    })
    .await
}

#[tokio::test]
async fn a_request_in_flight_ends_as_it_began() {
    let origin = Origin::start().await;
    let old = yaml(&format!("  \"*\": {{ upstream: \"{}\" }}\n", origin.url()))
        + "log: { level: \"info,wardgate=debug\" }\n";
    let gateway = Gateway::start(&old).await;
    origin.hold();
    let client = gateway.client();
    let reply = tokio::spawn(async move { client.get("/slow").await });
    origin.received(1).await;
    let new = yaml(&says("\"*\"", "new")) + "log: { level: \"info,wardgate=debug\" }\n";
    gateway.reload(&new, 2).await;
    assert_eq!(gateway.client().get("/").await.text(), "new");
    let is_freed = is_message("freed a configuration");
    assert!(!gateway.log().all().iter().any(&is_freed), "the old one is in use");
    origin.release();
    assert_eq!(reply.await.unwrap().text(), "ok");
    let line = gateway.wait_access(|line| field(line, "url.path") == "/slow").await;
    assert_eq!(field(&line, "pool"), &origin.url(), "{line}");
    let freed = gateway.wait_log(is_freed).await;
    assert_eq!(field(&freed, "generation"), 1, "{freed}");
}

#[tokio::test]
async fn pools_keep_their_connections() {
    let origin = Origin::start().await;
    let pool =
        |more: &str| format!("upstreams: {{ app: {{ servers: [\"{}\"]{more} }} }}\n", origin.url());
    let site = "  app.test: { upstream: app }\n".to_owned();
    let gateway = Gateway::start(yaml(&site) + &pool("")).await;
    let client = gateway.client().host("app.test");
    assert_eq!(client.get("/").await.text(), "ok");
    gateway.reload(&(yaml(&(site.clone() + &says("b.test", "b"))) + &pool("")), 2).await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(origin.connections(), 1, "the pool is the same");
    gateway.reload(&(yaml(&site) + &pool(", timeouts: { response: 7s }")), 3).await;
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(origin.connections(), 1, "the endpoint is the same");
}

#[tokio::test]
async fn limits_hold_from_the_next_request_on() {
    let one = yaml(&says("\"*\"", "one"));
    let gateway = Gateway::start(&one).await;
    let fields: String = (0..20).map(|number| format!("X-{number}: 1\r\n")).collect();
    assert_eq!(gateway.client().send("GET", "/", &fields, b"").await.status, 200);
    gateway.reload(&format!("{one}limits: {{ request_headers: 10 }}\n"), 2).await;
    assert_eq!(gateway.client().send("GET", "/", &fields, b"").await.status, 431);
    gateway.reload(&one, 3).await;
    assert_eq!(gateway.client().send("GET", "/", &fields, b"").await.status, 200);
}

#[tokio::test]
async fn rate_limits_go_on_counting() {
    let filters = "filters: [ { rate_limit: { key: client_ip, rate: 1/h, burst: 2 } } ], routes";
    let site = says("a.test", "one").replace("routes", filters);
    let gateway = Gateway::start(yaml(&site)).await;
    let client = gateway.client().host("a.test");
    assert_eq!(client.get("/").await.status, 200);
    gateway.reload(&yaml(&(site.clone() + &says("b.test", "b"))), 2).await;
    assert_eq!(client.get("/").await.status, 200);
    gateway.reload(&yaml(&site), 3).await;
    assert_eq!(client.get("/").await.status, 429);
}

/// How the servers of the pool stand, by the admin API.
/// How the servers of the first pool stand, once none of them has a request any more: an answer is whole
/// before its request is counted off.
async fn servers(gateway: &Gateway) -> Value {
    let client = Client::new(gateway.admin_address()).host("localhost");
    within("servers without a request", async {
        loop {
            let servers = client.get("/status").await.json()["pools"][0]["servers"].clone();
            if servers.as_array().unwrap().iter().all(|server| server["in_flight"] == 0) {
                return servers;
            }
        }
    })
    .await
}

#[tokio::test]
async fn health_and_counts_go_on_whatever_becomes_of_their_pool() {
    let origin = Origin::start().await;
    let dead = "http://127.0.0.1:1";
    let pool = |more: &str| {
        let (live, health) =
            (origin.url(), "{ path: /, every: 1h, initial: hold, unhealthy_after: 3 }");
        format!(
            "upstreams: {{ app: {{ servers: [\"{live}\", \"{dead}\"], health: {health}{more} }} }}\n"
        )
    };
    let site = "  app.test: { upstream: app }\n".to_owned();
    let gateway = Gateway::start(yaml(&site) + &pool("")).await;
    for (message, endpoint) in [("became healthy", origin.url()), ("became unhealthy", dead.into())]
    {
        gateway
            .wait_log(|line| {
                field(line, "message") == message && field(line, "endpoint") == endpoint.as_str()
            })
            .await;
    }
    let client = gateway.client().host("app.test");
    assert_eq!(client.get("/").await.status, 200);
    let before = servers(&gateway).await;
    let events = gateway.log().all().len();

    gateway.reload(&(yaml(&(site.clone() + &says("b.test", "b"))) + &pool("")), 2).await;
    assert_eq!(servers(&gateway).await, before, "the pool is the same");
    gateway.reload(&(yaml(&site) + &pool(", timeouts: { response: 7s }")), 3).await;
    assert_eq!(servers(&gateway).await, before, "the endpoints are the same");
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200, "the dead one is not asked");
    }
    let news = &gateway.log().all()[events..];
    let is_verdict =
        |line: &&Value| field(line, "message").as_str().unwrap_or_default().starts_with("became");
    assert_eq!(news.iter().find(is_verdict), None, "nothing became anything");
    // A request is counted before its line is written.
    gateway.wait_accesses(11, |_| true).await;
    let metrics =
        Client::new(gateway.admin_address()).host("localhost").get("/metrics").await.text();
    let count = "wardgate_requests_total{site=\"app.test\",route=\"/*\",code=\"2xx\"} 11\n";
    assert!(metrics.contains(count), "{metrics}");
}

#[tokio::test]
async fn another_access_log_costs_no_line() {
    let with = |file: &str| {
        yaml(&says("\"*\"", "one")) + &format!("log: {{ access: {{ file: {file}.log }} }}\n")
    };
    let mut gateway = Gateway::start(with("first")).await;
    let mut connection = gateway.client().connect().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let visits = tokio::spawn(async move {
        let mut count = 0_usize;
        while stopped.try_recv().is_err() {
            assert_eq!(ask(&mut connection, "a", "/").await.unwrap().status, 200);
            count += 1;
        }
        count
    });
    for (round, file) in ["second", "first", "third", "second"].into_iter().enumerate() {
        gateway.reload(&with(file), round as u64 + 2).await;
    }
    stop.send(()).unwrap();
    let asked = visits.await.unwrap();
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(0));
    let lines = |file: &str| {
        let text = fs::read_to_string(gateway.directory().join(format!("{file}.log")));
        text.unwrap_or_default().lines().count()
    };
    assert_eq!(["first", "second", "third"].map(lines).iter().sum::<usize>(), asked);
    let line = gateway.wait_log(is_message("terminated")).await;
    assert_eq!(field(&line, "dropped_lines"), 0, "{line}");
}

#[tokio::test]
async fn a_pool_that_is_gone_keeps_no_connection() {
    let origin = Stage::open().await;
    let ours = format!("  app.test: {{ upstream: \"{}\" }}\n", origin.url());
    let gateway = Gateway::start(yaml(&ours)).await;
    // The pool lives on as long as its last exchange does.
    let mut socket = gateway.client().connect().await;
    let head =
        b"GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    socket.send(head).await.unwrap();
    let (mut tunnel, _) = origin.accept_head().await;
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    tunnel.send(switch).await.unwrap();
    socket.read_until(b"\r\n\r\n").await.unwrap();
    let client = gateway.client().host("app.test");
    let reply = tokio::spawn(async move { client.get("/").await.status });
    let (mut late, _) = origin.accept_head().await;
    gateway.reload(&yaml(&says("b.test", "b")), 2).await;
    late.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(reply.await.unwrap(), 200);
    let end = within("the connection's end", late.read_to_end()).await;
    assert_eq!(end.unwrap(), b"", "nobody would ever look after it");
    tunnel.send(b"still here").await.unwrap();
    assert_eq!(socket.read_exact(10).await.unwrap(), b"still here");
}
