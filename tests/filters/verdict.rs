//! `access`, `rate_limit` and `body_limit`: who is let through, and what the others are told.

use std::time::Duration;

use serde_json::json;

use super::{gateway, h2_values, play, request};
use crate::support::{Client, Gateway, Origin, Peer, Stage, field};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn web(gateway: &Gateway) -> Client {
    gateway.client_of("web").host("app.test")
}

#[tokio::test]
async fn who_is_denied_never_reaches_the_origin_whatever_he_speaks() {
    let origin = Origin::start().await;
    let gateway = gateway(
        &origin.url(),
        "sites:\n  app.test: { https: both, certificate: internal, upstream: ORIGIN, \
         filters: [ { access: { deny: [127.0.0.0/8] } } ] }\n",
    )
    .await;
    let client = web(&gateway);
    for fields in ["", UPGRADE, "Accept: text/html\r\n"] {
        let reply = client.send("GET", "/", fields, b"").await;
        assert_eq!(reply.status, 403, "{fields:?}");
    }
    assert_eq!(client.get("/").await.json()["error"], "access_denied");
    let secure = gateway.tls_client_of("secure", "app.test");
    assert_eq!(secure.get("/").await.status, 403);
    let result = play(
        &gateway,
        json!([{"request": request(1, "GET", "/", &[])}, {"wait": "end", "stream": 1}]),
    )
    .await;
    assert_eq!(result["streams"]["1"]["status"], 403, "{result}");
    let scenario = json!({
        "uri": "ws://app.test/chat",
        "address": gateway.address("web").to_string(),
        "steps": [{"text": "hello"}],
    });
    let result = Peer::result("ws_client.py", &scenario).await;
    assert_eq!(result["status"], 403, "{result}");
    let lines = gateway.wait_accesses(7, |_| true).await;
    for line in lines {
        assert_eq!(field(&line, "error.type"), "access_denied", "{line}");
        assert_eq!(field(&line, "http.response.status_code"), 403, "{line}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn the_address_behind_a_trusted_proxy_is_the_one_that_counts() {
    let gateway = gateway(
        "",
        "sites:\n  app.test: { https: both, certificate: internal, routes: [ { respond: in } ], \
         filters: [ { access: { allow: [192.0.2.0/24, 198.51.100.7], deny: [192.0.2.128/25] } } ] }\n\
         trusted_proxies: [127.0.0.1]\n",
    )
    .await;
    for (address, status) in [
        ("192.0.2.1", 200),
        ("192.0.2.129", 403),
        ("198.51.100.7", 200),
        ("198.51.100.8", 403),
        ("2001:db8::1", 403),
    ] {
        let fields = format!("X-Forwarded-For: {address}\r\n");
        let reply = web(&gateway).send("GET", "/", &fields, b"").await;
        assert_eq!(reply.status, status, "{address}");
    }
    assert_eq!(web(&gateway).get("/").await.status, 403, "the proxy itself");
}

#[tokio::test]
async fn a_limiter_counts_every_kind_of_request_and_says_when_to_come_back() {
    let origin = Origin::start().await;
    let gateway = gateway(
        &origin.url(),
        "filters:\n  public: [ { rate_limit: { rate: 2/h, burst: 5, key: \"header:X-Key\" } } ]\n\
         sites:\n  app.test:\n    https: both\n    certificate: internal\n    filters: [public]\n    \
         routes:\n      - { match: { path: /redirect }, redirect: { to: /elsewhere } }\n      \
         - { match: { path: /respond }, respond: here }\n      - { upstream: ORIGIN }\n",
    )
    .await;
    let client = web(&gateway);
    let key = "X-Key: a\r\n";
    for (rest, (path, status)) in
        [("4", ("/", 200)), ("3", ("/redirect", 308)), ("2", ("/respond", 200))]
    {
        let reply = client.send("GET", path, key, b"").await;
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.header("ratelimit-policy"), Some("\"default\";q=2;w=3600"), "{path}");
        let told = reply.header("ratelimit").expect("what is left");
        assert!(told.starts_with(&format!("\"default\";r={rest};t=")), "{path}: {told}");
    }
    let steps = json!([
        {"request": request(1, "GET", "/", &[("x-key", "a")])}, {"wait": "end", "stream": 1},
        {"request": request(3, "GET", "/", &[("x-key", "a")])}, {"wait": "end", "stream": 3},
        {"request": request(5, "GET", "/", &[("x-key", "a")])}, {"wait": "end", "stream": 5},
    ]);
    let result = play(&gateway, steps).await;
    let streams = &result["streams"];
    let statuses = ["1", "3", "5"].map(|id| streams[id]["status"].as_u64());
    assert_eq!(statuses, [Some(200), Some(200), Some(429)], "{result}");
    assert_eq!(h2_values(&streams["5"], "ratelimit").len(), 1, "{result}");
    let reached = origin.requests().len();
    for fields in [key.to_owned(), format!("{key}{UPGRADE}")] {
        let reply = client.send("GET", "/", &fields, b"").await;
        assert_eq!(reply.status, 429, "{fields:?}");
        assert_eq!(reply.json()["error"], "rate_limited");
        let wait: u64 = reply.header("retry-after").expect("a time").parse().unwrap();
        assert!((1700..=1800).contains(&wait), "{wait} s until the next of 2/h");
        let told = reply.header("ratelimit").expect("what is left");
        assert_eq!(told, format!("\"default\";r=0;t={wait}"));
    }
    assert_eq!(origin.requests().len(), reached, "what is refused goes no further");
    let other = client.send("GET", "/", "X-Key: b\r\n", b"").await;
    assert_eq!(other.status, 200, "another key has its own bucket");
    let line = gateway.wait_access(|line| field(line, "error.type") == "rate_limited").await;
    assert_eq!(field(&line, "http.response.status_code"), 429);
}

#[tokio::test]
async fn a_monitored_filter_tells_the_log_and_nobody_else() {
    let origin = Origin::start().await;
    let gateway = gateway(
        &origin.url(),
        "filters:\n  watched: [ { rate_limit: { rate: 1/h, mode: monitor } }, \
         { access: { allow: [192.0.2.1], mode: monitor } }, { body_limit: { max: 1KiB, mode: monitor } } ]\n\
         sites:\n  app.test: { https: both, certificate: internal, upstream: ORIGIN, filters: [watched, \
         { access: { deny: [127.0.0.1], mode: off } } ] }\n",
    )
    .await;
    for _ in 0..2 {
        let fields = "X-Request-Id: ignored\r\nCookie: secret=1\r\n";
        let reply = web(&gateway).send("POST", "/?token=secret", fields, &[b'x'; 2000]).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("ratelimit"), None);
    }
    let mut connection = web(&gateway).connect().await;
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunked = format!("{head}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000));
    connection.send(chunked.as_bytes()).await.unwrap();
    assert_eq!(connection.read_reply(false).await.unwrap().status, 200);
    for (filter, error, position) in [
        ("rate_limit", "rate_limited", 0),
        ("access", "access_denied", 1),
        ("body_limit", "body_too_large", 2),
    ] {
        let event = gateway
            .wait_log(|line| {
                field(line, "message") == "would have blocked" && field(line, "filter") == filter
            })
            .await;
        assert_eq!(field(&event, "chain"), "chain watched", "{event}");
        assert_eq!(field(&event, "position"), position, "{event}");
        assert_eq!(field(&event, "error.type"), error, "{event}");
        assert!(field(&event, "request_id").is_string(), "{event}");
        assert!(!event.to_string().contains("secret"), "{event}");
    }
    for line in gateway.wait_accesses(3, |_| true).await {
        assert!(field(&line, "error.type").is_null(), "{line}");
    }
}

#[tokio::test]
async fn a_sites_filters_come_before_its_routes_and_hold_without_a_route_too() {
    let gateway = gateway(
        "",
        "filters:\n  few: [ { rate_limit: { rate: 2/h } } ]\n\
         sites:\n  app.test:\n    https: both\n    certificate: internal\n    \
         filters: [ { access: { allow: [127.0.0.1] } }, few ]\n    routes:\n      \
         - { match: { path: /closed }, respond: x, filters: [ { access: { deny: [127.0.0.1] } } ] }\n      \
         - { match: { path: /open }, respond: x }\n  \
         other.test: { https: both, certificate: internal, routes: [ { respond: x } ] }\n",
    )
    .await;
    let client = web(&gateway);
    assert_eq!(client.get("/nowhere").await.status, 404);
    assert_eq!(client.get("/closed").await.status, 403, "the site's let it through");
    assert_eq!(client.get("/closed").await.status, 429, "the site's comes first");
    assert_eq!(client.get("/open").await.status, 429);
    assert_eq!(client.get("/nowhere").await.status, 429);
    assert_eq!(client.host("other.test").get("/").await.status, 200, "has no filters");
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_reaches_nobody() {
    let origin = Origin::start().await;
    let gateway = limited(&origin.url()).await;
    let client = web(&gateway);
    assert_eq!(client.send("POST", "/", "", &[b'x'; 1024]).await.status, 200);
    let reply = client.send("POST", "/", "", &[b'x'; 1025]).await;
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    assert_eq!(reply.json()["error"], "body_too_large");
    let mut connection = client.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n";
    connection.send(head.as_bytes()).await.unwrap();
    let reply = connection.read_reply(false).await.unwrap();
    assert_eq!((reply.status, &*reply.informational), (413, &[][..]), "asked before it is sent");
    let steps = json!([
        {"request": {"stream": 1, "headers": request(1, "POST", "/", &[("content-length", "2000")])["headers"], "size": 2000}},
        {"wait": "end", "stream": 1},
    ]);
    let result = play(&gateway, steps).await;
    assert_eq!(result["streams"]["1"]["status"], 413, "{result}");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_cut_and_told() {
    let stage = Stage::open().await;
    let gateway = limited(&stage.url()).await;
    let mut client = web(&gateway).connect().await;
    let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(head.as_bytes()).await.unwrap();
    client.send(format!("3e8\r\n{}\r\n", "x".repeat(1000)).as_bytes()).await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    client.send(b"19\r\n0123456789012345678901234\r\n").await.unwrap();
    let reply = client.read_reply(false).await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    assert_eq!(reply.json()["error"], "body_too_large");
    let rest = origin.read_to_end().await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the backend does not take it for whole");
    let open = request(1, "POST", "/", &[])["headers"].clone();
    let steps = json!([
        {"request": {"stream": 1, "headers": open, "size": 1000, "open": true}},
        {"data": {"stream": 1, "body": "0123456789012345678901234", "end": false}},
        {"wait": "end", "stream": 1},
    ]);
    let (result, ()) = tokio::join!(play(&gateway, steps), async {
        let (mut origin, _) = stage.accept_head().await;
        let _ = origin.read_to_end().await;
    });
    assert_eq!(result["streams"]["1"]["status"], 413, "{result}");
    for line in gateway.wait_accesses(2, |_| true).await {
        assert_eq!(field(&line, "error.type"), "body_too_large", "{line}");
    }
}

#[tokio::test]
async fn what_a_websocket_carries_is_no_body() {
    let origin = Peer::start("ws_echo.py", &["chat"]).await;
    let gateway = limited(&format!("http://{}", origin.address())).await;
    let scenario = json!({
        "uri": "ws://app.test/chat",
        "address": gateway.address("web").to_string(),
        "subprotocols": ["chat"],
        "steps": [{"binary": 100_000}, {"close": 1000}],
    });
    let result = Peer::result("ws_client.py", &scenario).await;
    assert_eq!((&result["status"], &result["echoes"]), (&json!(101), &json!(1)), "{result}");
}

async fn limited(origin: &str) -> Gateway {
    gateway(
        origin,
        "sites:\n  app.test: { https: both, certificate: internal, upstream: ORIGIN, \
         filters: [ { body_limit: 1KiB } ] }\n",
    )
    .await
}

#[tokio::test]
async fn heads_that_are_held_back_bring_no_burst_of_their_own() {
    let gateway = gateway(
        "",
        "sites:\n  app.test: { https: both, certificate: internal, routes: [ { respond: in } ], \
         filters: [ { rate_limit: { rate: 10/s, burst: 1 } } ] }\n",
    )
    .await;
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = web(&gateway).connect().await;
        client.send(b"GET / HTTP/1.1\r\nHost: app.").await.unwrap();
        clients.push(client);
        tokio::time::sleep(Duration::from_millis(105)).await;
    }
    for client in &mut clients {
        client.send(b"test\r\n\r\n").await.unwrap();
    }
    let mut served = 0;
    for client in &mut clients {
        served += usize::from(client.read_reply(false).await.unwrap().status == 200);
    }
    // All came at one moment; it may be a long one.
    assert!((1..=6).contains(&served), "{served} of 12");
}
