//! What is refused because it is too much.

use serde_json::json;

use super::config;
use crate::support::{Answer, Gateway, Origin, Peer, field};

async fn with_limits(origin: &str, limits: &str) -> Gateway {
    Gateway::start(config(origin, "", &format!("limits: {{ {limits} }}"))).await
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let origin = Origin::start().await;
    let limits = "request_header_bytes: 4KiB, request_headers: 10, request_uri_bytes: 1KiB";
    let gateway = with_limits(&origin.url(), limits).await;
    let fields = |count: usize| -> String { (1..count).map(|n| format!("X-{n}: 1\r\n")).collect() };
    let long = |bytes: usize| format!("X-Long: {}\r\n", "x".repeat(bytes));
    for (target, fields, status, token) in [
        ("/".to_owned(), fields(10), 200, ""),
        ("/".to_owned(), fields(11), 431, "headers_too_large"),
        ("/".to_owned(), long(3000), 200, ""),
        ("/".to_owned(), long(5000), 431, "headers_too_large"),
        (format!("/{}", "u".repeat(1023)), String::new(), 200, ""),
        (format!("/{}", "u".repeat(1024)), String::new(), 414, "uri_too_long"),
    ] {
        let before = gateway.access().len();
        let reply = gateway.client().send("GET", &target, &fields, b"").await;
        assert_eq!(reply.status, status, "{token}");
        let lines = gateway.wait_accesses(before + 1, |_| true).await;
        let error = field(&lines[before], "error.type").as_str().unwrap_or_default();
        assert_eq!(error, token);
    }
    assert_eq!(gateway.access().len(), 6);
    assert_eq!(origin.requests().len(), 3);
}

#[tokio::test]
async fn a_head_without_end_costs_no_memory() {
    let origin = Origin::start().await;
    let gateway = with_limits(&origin.url(), "request_header_bytes: 16KiB").await;
    assert_eq!(gateway.client().get("/").await.status, 200);
    let before = gateway.memory_peak();
    let block = "X: 1\r\n".repeat(20_000);
    for _ in 0..20 {
        let mut client = gateway.client().connect().await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        let _ = client.send(block.as_bytes()).await; // closed by then, perhaps
        assert_eq!(client.read_reply(false).await.unwrap().status, 431);
    }
    assert!(gateway.memory_peak() - before < 4 << 20);
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed_at_once() {
    for limit in ["connections: 2", "connections_per_ip: 2"] {
        let origin = Origin::start().await;
        let gateway = with_limits(&origin.url(), limit).await;
        let mut kept = Vec::new();
        for _ in 0..2 {
            let mut client = gateway.client().connect().await;
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert_eq!(client.read_reply(false).await.unwrap().status, 200);
            kept.push(client);
        }
        assert!(gateway.client().try_get("/").await.is_err(), "{limit}");
        kept[0].send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(kept[0].read_reply(false).await.unwrap().status, 200, "{limit}");
        kept.clear();
        crate::support::within("room again", async {
            while gateway.client().try_get("/").await.is_err() {}
        })
        .await;
    }
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_to_come_back() {
    for (pool, sections, token) in [
        ("", "limits: { requests: 1 }", "overloaded"),
        (", limits: { connections: 1, pending: 0 }", "", "pool_full"),
        (", limits: { connections: 1, pending: 1 }, timeouts: { connect: 200ms }", "", "pool_full"),
    ] {
        let origin = Origin::start().await;
        let gateway = Gateway::start(config(&origin.url(), pool, sections)).await;
        origin.hold();
        let first = tokio::spawn({
            let client = gateway.client();
            async move { client.get("/first").await }
        });
        origin.received(1).await;
        let refused = gateway.client().get("/second").await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{token}");
        let line = gateway.wait_access(|line| field(line, "url.path") == "/second").await;
        assert_eq!(field(&line, "error.type"), token);
        origin.release();
        assert_eq!(first.await.unwrap().status, 200);
        assert_eq!(gateway.client().get("/third").await.status, 200, "{token}");
    }
}

#[tokio::test]
async fn a_request_that_waits_for_a_place_gets_the_next_one() {
    let origin = Origin::start().await;
    let pool = ", limits: { connections: 1, pending: 1 }";
    let gateway = Gateway::start(config(&origin.url(), pool, "")).await;
    origin.hold();
    let mut statuses = tokio::task::JoinSet::new();
    let mut get = |path: &'static str| {
        let client = gateway.client();
        statuses.spawn(async move { client.get(path).await.status });
    };
    get("/first");
    origin.received(1).await;
    get("/second");
    get("/third");
    assert_eq!(statuses.join_next().await.unwrap().unwrap(), 503, "one of the two");
    assert_eq!(origin.requests().len(), 1, "one place, one request");
    origin.release();
    assert_eq!(statuses.join_all().await, [200, 200]);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_answer_of_ours_never_makes_up_for_a_broken_one_behind_it() {
    // An answer that promised to keep the connection, then a response that is cut: the promise
    // was about the former only.
    let origin = Origin::answering(|_| {
        Answer::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour".to_vec())
    })
    .await;
    let nobody = crate::support::closed();
    let yaml = config(&origin.url(), "", "").replace(
        "{ upstream: app }",
        &format!(
            "{{ routes: [ {{ match: {{ path: /ours }}, respond: ours }}, \
             {{ match: {{ path: /refused }}, upstream: \"http://{nobody}\" }}, {{ upstream: app }} ] }}"
        ),
    );
    let gateway = Gateway::start(yaml).await;
    for (target, status) in [("/ours", 200), ("/refused", 502)] {
        let mut client = gateway.client().connect().await;
        let first = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(first.as_bytes()).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (status, Some("keep-alive")));
        client.send(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(client.read_reply(false).await.is_err(), "cut, and the connection with it");
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_for_a_place_is_forgotten() {
    // The engine notices it only while bytes go back and forth.
    let origin = Origin::start().await;
    let pool = ", limits: { connections: 1, pending: 10 }, timeouts: { connect: 20s }";
    let yaml = config(&origin.url(), pool, "")
        .replace("protocol: http", "protocol: http, alpn: [h2, http/1.1]");
    let gateway = Gateway::start(yaml).await;
    origin.hold();
    let get = |path: &'static str| {
        let client = gateway.client();
        tokio::spawn(async move { client.send("PUT", path, "", b"body").await })
    };
    let first = get("/first");
    origin.received(1).await;
    let mut waiting = Vec::new();
    for request in [
        "GET /left HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /left HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST /left HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "POST /left HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
        "POST /left HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        waiting.push(client);
    }
    let head =
        json!([[":method", "GET"], [":scheme", "http"], [":authority", "a"], [":path", "/left"]]);
    let scenario = json!({"address": gateway.address("web").to_string(), "steps": [
        {"request": {"stream": 1, "headers": head}}, {"ping": true}, {"wait": "pong"}, {"reset": {"stream": 1}},
        {"ping": true}, {"wait": "pong"},
    ]});
    Peer::result("h2_client.py", &scenario).await;
    drop(waiting);
    let lines = gateway.wait_accesses(6, |line| field(line, "url.path") == "/left").await;
    for line in lines {
        assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
        assert_eq!(field(&line, "http.response.status_code"), 499, "{line}");
    }
    // Who is still there, whatever it sent meanwhile, gets its answer; the end of a client's own
    // direction behind further requests is none.
    let last = get("/last");
    let mut pipelining = gateway.client().connect().await;
    let put = "PUT /pipelined HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    pipelining.send(put.repeat(2).as_bytes()).await.unwrap();
    pipelining.shut_down().await.unwrap();
    let mut large = gateway.client().connect().await;
    let head = "PUT /large HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n";
    large.send(format!("{head}{}", "x".repeat(20_000)).as_bytes()).await.unwrap();
    origin.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(last.await.unwrap().status, 200);
    for _ in 0..2 {
        assert_eq!(pipelining.read_reply(false).await.unwrap().status, 200);
    }
    assert_eq!(large.read_reply(false).await.unwrap().status, 200);
    let requests = origin.requests();
    let mut seen: Vec<_> =
        requests.iter().map(|request| (&*request.target, request.body.len())).collect();
    seen.sort_unstable();
    let expected =
        [("/first", 4), ("/large", 20_000), ("/last", 4), ("/pipelined", 4), ("/pipelined", 4)];
    assert_eq!(seen, expected, "nobody else's request was sent, and every body came whole");
}
