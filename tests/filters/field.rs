//! `security_headers`, `request_headers` and `response_headers`.

use serde_json::json;

use super::{gateway, h2_values, play, request};
use crate::support::{Answer, Origin, Stage};

const SITE: &str = "sites:\n  app.test:\n    https: both\n    certificate: internal\n    filters:\n      \
    - security_headers: {}\n      \
    - request_headers: { remove: [X-Debug], set: { X-Env: prod, X-Forwarded-Proto: ours }, add: { X-Tag: gateway } }\n      \
    - response_headers: { remove: [Server, X-Powered-By], set: { X-Set: \"1\" }, add: { X-Tag: gateway } }\n    \
    routes:\n      - { match: { path: /redirect }, redirect: { to: /elsewhere } }\n      \
    - { match: { path: /respond }, respond: here, filters: [ { response_headers: { set: { X-Set: \"2\" } } } ] }\n      \
    - { match: { path: /refused }, respond: here, filters: [ { access: { deny: [127.0.0.1] } } ] }\n      \
    - { match: { path: /gone }, upstream: \"http://127.0.0.1:1\" }\n      - { upstream: ORIGIN }\n";

#[tokio::test]
async fn backends_get_the_operators_fields_after_ours() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin.url(), SITE).await;
    let fields = "X-Debug: 1\r\nX-Env: client\r\nX-Tag: client\r\n";
    let client = gateway.client_of("web").host("app.test");
    client.send("GET", "/", fields, b"").await;
    let received = &origin.received(1).await[0];
    for (name, expected) in [
        ("x-debug", &[][..]),
        ("x-env", &["prod"]),
        ("x-tag", &["client", "gateway"]),
        ("x-forwarded-proto", &["ours"]),
    ] {
        assert_eq!(received.values(name), expected, "{name}");
    }
}

#[tokio::test]
async fn no_other_spelling_of_the_operators_fields_comes_from_clients() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin.url(), SITE).await;
    let fields = "X_Env: forged\r\nx.env: forged\r\nX~ENV: forged\r\nX_Debug: forged\r\nX_Tag: kept\r\nX_Environment: kept\r\n";
    let client = gateway.client_of("web").host("app.test");
    client.send("GET", "/", fields, b"").await;
    let streams = json!([
        {"request": request(1, "GET", "/", &[("x_env", "forged"), ("x.debug", "forged"), ("x_tag", "kept"), ("x_environment", "kept")])},
        {"wait": "end", "stream": 1},
    ]);
    play(&gateway, streams).await;
    for received in &origin.received(2).await {
        let forged: Vec<_> =
            received.headers.iter().filter(|(_, value)| value == "forged").collect();
        assert!(forged.is_empty(), "{forged:?}");
        assert_eq!(received.values("x-env"), ["prod"]);
        let kept = received.headers.iter().filter(|(_, value)| value == "kept");
        assert_eq!(kept.count(), 2, "{:?}", received.headers);
    }
}

#[tokio::test]
async fn upgrades_get_the_fields_of_any_request() {
    let stage = Stage::open().await;
    let gateway = gateway(&stage.url(), SITE).await;
    let mut client = gateway.client_of("web").connect().await;
    let head = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\nX-Debug: 1\r\n\r\n";
    client.send(head.as_bytes()).await.unwrap();
    let (mut origin, head) = stage.accept_head().await;
    let head = head.to_ascii_lowercase();
    assert!(head.contains("x-env: prod\r\n") && !head.contains("x-debug"), "{head}");
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\nServer: x\r\n\r\n";
    origin.send(switched.as_bytes()).await.unwrap();
    let head = String::from_utf8(client.read_until(b"\r\n\r\n").await.unwrap()).unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("x-set: 1\r\n"), "{head}");
    assert!(!head.contains("server: x"), "{head}");
    client.send(b"up").await.unwrap();
    assert_eq!(origin.read_exact(2).await.unwrap(), b"up");
}

#[tokio::test]
async fn every_answer_gets_the_responses_fields() {
    let origin = Origin::answering(|_| {
        Answer::Bytes(
            b"HTTP/1.1 200 OK\r\nServer: x\r\nX-Powered-By: y\r\nX-Frame-Options: DENY\r\n\
              X-Tag: origin\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )
    })
    .await;
    let gateway = gateway(&origin.url(), SITE).await;
    for (client, is_https) in [
        (gateway.client_of("web").host("app.test"), false),
        (gateway.tls_client_of("secure", "app.test"), true),
    ] {
        for (path, status, set) in [
            ("/", 200, "1"),
            ("/redirect", 308, "1"),
            ("/respond", 200, "2"),
            ("/refused", 403, "1"),
            ("/gone", 502, "1"),
        ] {
            let reply = client.get(path).await;
            assert_eq!(reply.status, status, "{path}");
            assert_eq!(reply.header("x-set"), Some(set), "{path}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
            let hsts = reply.header("strict-transport-security");
            assert_eq!(hsts.is_some(), is_https, "{path}: {hsts:?}");
            assert_eq!((reply.header("server"), reply.header("x-powered-by")), (None, None));
        }
        let reply = client.get("/").await;
        assert_eq!(reply.header("x-frame-options"), Some("DENY"), "the backend knows better");
        let tags = reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-tag"));
        let tags: Vec<_> = tags.map(|(_, value)| &**value).collect();
        assert_eq!(tags, ["origin", "gateway"]);
    }
    let steps = json!([{"request": request(1, "GET", "/", &[])}, {"wait": "end", "stream": 1}]);
    let result = play(&gateway, steps).await;
    let stream = &result["streams"]["1"];
    assert_eq!(h2_values(stream, "x-set"), ["1"], "{result}");
    assert!(h2_values(stream, "server").is_empty(), "{result}");
}
