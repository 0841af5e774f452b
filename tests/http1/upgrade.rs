//! WebSockets and other connections that stop being HTTP, and those that only claim to.

use serde_json::json;

use super::{config, front};
use crate::support::{Connection, Gateway, Peer, Stage, field, within};

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\nX-A: 1\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";

/// A tunnel through `gateway`, and both of its ends.
async fn tunnel(gateway: &Gateway, stage: &Stage) -> (Connection, Connection) {
    let mut client = gateway.client().connect().await;
    client.send(UPGRADE.as_bytes()).await.unwrap();
    let (mut origin, head) = stage.accept_head().await;
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("upgrade: raw/1\r\n") && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    origin.send(SWITCHED.as_bytes()).await.unwrap();
    let head = String::from_utf8(client.read_until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_ascii_lowercase().contains("upgrade: raw/1\r\n"), "{head}");
    (client, origin)
}

#[tokio::test]
async fn websockets_pass_over_plain_and_tls() {
    let origin = Peer::start("ws_echo.py", &["chat"]).await;
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }}, \
         secure: {{ bind: \"127.0.0.1:0\", protocol: https }} }}\n\
         sites: {{ app.test: {{ certificate: internal, https: both, upstream: \"http://{}\" }} }}\n",
        origin.address()
    );
    let gateway = Gateway::start(yaml).await;
    for (scheme, listener) in [("ws", "web"), ("wss", "secure")] {
        let scenario = json!({
            "uri": format!("{scheme}://app.test/chat?x"),
            "address": gateway.address(listener).to_string(),
            "ca": gateway.ca(),
            "subprotocols": ["chat"],
            "steps": [{"text": "hello"}, {"binary": 3_000_000}, {"ping": true}, {"text": ""}, {"close": 4321}],
        });
        let result = Peer::result("ws_client.py", &scenario).await;
        assert_eq!(result["error"], json!(null), "{result}");
        assert_eq!((&result["status"], &result["subprotocol"]), (&json!(101), &json!("chat")));
        assert_eq!((&result["echoes"], &result["pongs"]), (&json!(3), &json!(1)), "{result}");
        assert_eq!(result["code"], 4321, "{result}");
    }
    let lines = gateway.wait_accesses(2, |_| true).await;
    for line in lines {
        assert_eq!(field(&line, "http.response.status_code"), 101, "{line}");
        assert!(field(&line, "error.type").is_null(), "{line}");
    }
}

#[tokio::test]
async fn an_idle_websocket_outlives_the_timeouts_of_requests() {
    let origin = Peer::start("ws_echo.py", &[]).await;
    let pool = ", timeouts: { response: 200ms, read: 200ms }";
    let limits = "limits: { request_body_timeout: 200ms, idle_timeout: 1s }";
    let gateway =
        Gateway::start(config(&format!("http://{}", origin.address()), pool, limits)).await;
    let scenario = json!({
        "uri": "ws://a/", "address": gateway.address("web").to_string(),
        "steps": [{"text": "one"}, {"idle": 1.3}, {"text": "two"}, {"close": 1000}],
    });
    let result = Peer::result("ws_client.py", &scenario).await;
    assert_eq!((&result["echoes"], &result["code"]), (&json!(2), &json!(1000)), "{result}");
}

#[tokio::test]
async fn an_upgrade_ends_when_both_sides_were_silent_for_too_long() {
    let stage = Stage::open().await;
    let limits = "limits: { upgrade_idle_timeout: 1s }";
    let gateway = Gateway::start(config(&stage.url(), "", limits)).await;
    let (mut client, mut origin) = tunnel(&gateway, &stage).await;
    for _ in 0..5 {
        // Either direction counts as life: this one alone lasts longer than the limit.
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        origin.send(b"tick").await.unwrap();
        client.read_until(b"tick").await.unwrap();
    }
    client.read_to_end().await.unwrap_or_default();
    origin.read_to_end().await.unwrap_or_default();
    gateway.wait_access(|line| field(line, "http.response.status_code") == 101).await;
}

#[tokio::test]
async fn any_other_protocol_passes_byte_by_byte() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let (mut client, mut origin) = tunnel(&gateway, &stage).await;
    for round in 0..10 {
        let up = format!("GET /{round} HTTP/1.1\r\n\r\n\0\u{ff}");
        client.send(up.as_bytes()).await.unwrap();
        assert_eq!(origin.read_exact(up.len()).await.unwrap(), up.as_bytes());
        let down = format!("HTTP/1.1 200 {round}\r\n\r\n\0");
        origin.send(down.as_bytes()).await.unwrap();
        assert_eq!(client.read_exact(down.len()).await.unwrap(), down.as_bytes());
    }
    client.shut_down().await.unwrap();
    assert_eq!(origin.read_to_end().await.unwrap(), b"", "the end passes as well");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    origin.send(b"last words").await.unwrap();
    drop(origin);
    assert_eq!(client.read_to_end().await.unwrap(), b"last words");
    gateway.wait_access(|_| true).await;
}

#[tokio::test]
async fn a_backend_has_limited_time_behind_the_end_of_a_tunnel_s_client() {
    let stage = Stage::open().await;
    let gateway = Gateway::start(config(&stage.url(), "", "limits: { idle_timeout: 1s }")).await;
    let (client, mut origin) = tunnel(&gateway, &stage).await;
    drop(client);
    assert_eq!(origin.read_to_end().await.unwrap(), b"");
    gateway.wait_access(|line| field(line, "http.response.status_code") == 101).await;
}

#[tokio::test]
async fn the_backend_s_end_of_a_tunnel_reaches_the_client() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let (mut client, mut origin) = tunnel(&gateway, &stage).await;
    origin.send(b"bye").await.unwrap();
    drop(origin);
    assert_eq!(client.read_to_end().await.unwrap(), b"bye");
}

#[tokio::test]
async fn nothing_of_ours_is_said_in_a_tunnel() {
    // Neither when the backend breaks off, nor when the route's time is up.
    for (route, resets) in [("", true), (", timeouts: { request: 1s }", false)] {
        let stage = Stage::open().await;
        let yaml = config(&stage.url(), "", "")
            .replace("{ upstream: app }", &format!("{{ routes: [ {{ upstream: app{route} }} ] }}"));
        let gateway = Gateway::start(yaml).await;
        let mut client = gateway.client().connect().await;
        client.send(UPGRADE.as_bytes()).await.unwrap();
        let backend = stage.accept_stream().await;
        let mut head = vec![0; 16 << 10];
        assert!(within("head", backend.peek(&mut head)).await.unwrap() > 0);
        within("room", backend.writable()).await.unwrap();
        assert_eq!(backend.try_write(SWITCHED.as_bytes()).unwrap(), SWITCHED.len());
        client.read_until(b"\r\n\r\n").await.unwrap();
        let _held = if resets {
            // What it has not read makes the kernel say so.
            drop(backend);
            None
        } else {
            Some(backend)
        };
        let said = client.read_to_end().await.unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&said), "");
        let line = gateway.wait_access(|_| true).await;
        assert_eq!(field(&line, "http.response.status_code"), 101, "{line}");
        assert_eq!(field(&line, "http.response.body.size"), 0, "{line}");
    }
}

#[tokio::test]
async fn bytes_beside_the_switch_are_not_lost() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    // Many times, since what was lost once was lost by chance.
    for _ in 0..40 {
        let mut client = gateway.client().connect().await;
        client.send(format!("{UPGRADE}early").as_bytes()).await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        origin.send(format!("{SWITCHED}first").as_bytes()).await.unwrap();
        client.read_until(b"\r\n\r\n").await.unwrap();
        assert_eq!(client.read_exact(5).await.unwrap(), b"first");
        assert_eq!(origin.read_exact(5).await.unwrap(), b"early");
    }
}

#[tokio::test]
async fn a_declined_upgrade_is_an_ordinary_exchange() {
    // CVE-2026-2833: what follows the head is the next request and not the backend's to read.
    let stage = Stage::open().await;
    let yaml = config(&stage.url(), "", "").replace(
        "{ upstream: app }",
        "{ routes: [ { match: { path: /admin }, respond: 403 }, { upstream: app } ] }",
    );
    let gateway = Gateway::start(yaml).await;
    let mut client = gateway.client().connect().await;
    let second = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let third = "GET /third HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("{UPGRADE}{second}{third}").as_bytes()).await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().text(), "ok");
    assert_eq!(client.read_reply(false).await.unwrap().status, 403, "refused by us");
    let next = String::from_utf8(origin.read_until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(next.starts_with("GET /third "), "nothing came before it: {next}");
    origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthird").await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().text(), "third");
    gateway.wait_accesses(3, |_| true).await;
}

#[tokio::test]
async fn a_switch_that_was_not_asked_for_is_refused() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let other = SWITCHED.replace("raw/1", "other");
    let nameless = "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned();
    let old = SWITCHED.replace("HTTP/1.1", "HTTP/1.0");
    let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let with_body = UPGRADE.replace("X-A: 1", "Content-Length: 2").replace("GET", "POST") + "ab";
    let h2c = UPGRADE.replace("raw/1", "h2c");
    for (request, answer) in [
        (plain, SWITCHED),
        (UPGRADE, &other),
        (UPGRADE, &nameless),
        (UPGRADE, &old),
        (&with_body, SWITCHED),
        (&h2c, &SWITCHED.replace("raw/1", "h2c")),
        (&UPGRADE.replace("HTTP/1.1", "HTTP/1.0"), SWITCHED),
    ] {
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        origin.send(format!("{answer}HTTP/1.1 200 OK\r\n\r\npoison").as_bytes()).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        assert_eq!(reply.status, 502, "{request}{answer}");
        let rest = origin.read_to_end().await.unwrap_or_default();
        assert!(rest.is_empty() || rest == b"ab", "{request}{answer}");
    }
    let lines = gateway.wait_accesses(7, |_| true).await;
    assert!(
        lines.iter().all(|line| field(line, "error.type") == "upstream_bad_response"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn an_upgrade_to_another_http_is_not_passed_on() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    for protocol in ["h2c", "HTTP/2.0", "TLS/1.0"] {
        let mut client = gateway.client().connect().await;
        client.send(UPGRADE.replace("raw/1", protocol).as_bytes()).await.unwrap();
        let (mut origin, head) = stage.accept_head().await;
        assert!(!head.to_ascii_lowercase().contains("upgrade"), "{head}");
        origin
            .send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    }
}
