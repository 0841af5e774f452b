//! What the logs say, and what they never say.

mod rotation;
mod secret;

use serde_json::Value;

use crate::support::{Gateway, Origin, closed, field, run};

/// A gateway over plain http and https before `origin`, with `more` in its configuration.
async fn gateway(origin: &str, more: &str) -> Gateway {
    Gateway::start(
        r#"
listeners:
  web: { bind: "127.0.0.1:0", protocol: http }
  secure: { bind: "127.0.0.1:0", protocol: https }
sites:
  app.test: { https: both, upstream: shop }
upstreams:
  shop: { servers: "ORIGIN" }
"#
        .replace("ORIGIN", origin)
            + more,
    )
    .await
}

/// What a client may put into a line: each target and user agent, as raw bytes.
const HOSTILE: [(&[u8], &[u8]); 8] = [
    (b"/%0d%0a%1b[31m", b"plain"),
    (b"/quote\"back\\slash", b"a \"quoted\" \\ agent"),
    (b"/a\xff\xfe", b"\xff\xc3\x28 not utf-8"),
    (b"/{\"level\":\"error\"}", b"\",\"level\":\"error\",\"x\":\""),
    (b"/%E2%80%A8", "\u{2028}\u{202e}".as_bytes()),
    (b"/esc", b"\x1b[2J\x07"),
    (b"/cr\rlf", b"x"),
    (b"/\x1b]0;title\x07", b"x"),
];

#[tokio::test]
async fn whatever_a_client_says_is_one_json_line() {
    let origin = Origin::start().await;
    let mut gateway = gateway(&origin.url(), "log: { level: trace }\n").await;
    for (target, agent) in HOSTILE {
        let mut connection = gateway.client_of("web").connect().await;
        let head =
            [b"GET ", target, b" HTTP/1.1\r\nHost: app.test\r\nUser-Agent: ", agent, b"\r\n\r\n"];
        connection.send(&head.concat()).await.unwrap();
        let reply = connection.read_reply(false).await.unwrap();
        assert!(matches!(reply.status, 200 | 400), "{target:?}: {}", reply.status);
    }
    gateway.drain();
    gateway.exit_status().await;
    let access = gateway.access();
    assert_eq!(access.len(), HOSTILE.len());
    for line in gateway.log().all().iter().chain(&access) {
        assert!(line.is_object(), "{line}");
    }
}

#[tokio::test]
async fn whatever_a_client_says_is_one_line_of_the_file() {
    let origin = Origin::start().await;
    let file = "log: { access: { file: logs/access.log } }\n";
    let mut gateway = gateway(&origin.url(), file).await;
    for (target, agent) in HOSTILE {
        let mut connection = gateway.client_of("web").connect().await;
        let head =
            [b"GET ", target, b" HTTP/1.1\r\nHost: app.test\r\nUser-Agent: ", agent, b"\r\n\r\n"];
        connection.send(&head.concat()).await.unwrap();
        connection.read_reply(false).await.unwrap();
    }
    gateway.drain();
    gateway.exit_status().await;
    assert_eq!(gateway.access().len(), 0, "nothing on standard output");
    let text = std::fs::read(gateway.directory().join("logs/access.log")).unwrap();
    let text = String::from_utf8(text).expect("UTF-8, whatever came in");
    assert_eq!(text.lines().count(), HOSTILE.len());
    let is_bad = |c: char| c != '\n' && c.is_control();
    assert!(!text.contains(is_bad), "{text:?}");
    for line in text.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[tokio::test]
async fn secrets_of_a_request_are_in_no_line_at_any_level() {
    let origin = Origin::start().await;
    let mut gateway = gateway(&origin.url(), "log: { level: trace }\n").await;
    let ca = gateway.ca().display().to_string();
    for (listener, scheme, version) in [
        ("web", "http", "--http1.1"),
        ("secure", "https", "--http1.1"),
        ("secure", "https", "--http2"),
    ] {
        let port = gateway.address(listener).port();
        let resolve = format!("app.test:{port}:127.0.0.1");
        for path in ["/a?token=s3cr3t", "/a%2fb?token=s3cr3t"] {
            let url = format!("{scheme}://app.test:{port}{path}");
            let fields = ["Cookie: id=s3cr3t", "Authorization: Bearer s3cr3t", "X-Api-Key: s3cr3t"];
            let mut arguments = vec![
                "--silent",
                "--show-error",
                "--noproxy",
                "*",
                version,
                "--cacert",
                &ca,
                "--resolve",
                &resolve,
            ];
            arguments.extend(fields.iter().flat_map(|field| ["--header", field]));
            arguments.extend(["--data", "password=s3cr3t", &url]);
            let output = run("curl", arguments).await;
            assert!(output.status.success(), "{output:?}");
        }
    }
    assert_eq!(origin.requests()[0].target, "/a?token=s3cr3t", "the backend does get it");
    gateway.drain();
    gateway.exit_status().await;
    assert_eq!(gateway.access().len(), 6);
    for line in gateway.log().all().iter().chain(&gateway.access()) {
        assert!(!line.to_string().contains("s3cr3t"), "{line}");
    }
}

#[tokio::test]
async fn an_access_line_is_complete() {
    let origin = Origin::start().await;
    let gateway = gateway(&origin.url(), "").await;
    let client = gateway.tls_client_of("secure", "app.test");
    let fields = "User-Agent: tester/1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    assert_eq!(client.send("POST", "/a/b?c=d", fields, b"12345").await.status, 200);
    let line = gateway.wait_access(|line| field(line, "url.path") == "/a/b").await;
    let address = origin.address().to_string();
    for (name, value) in [
        ("message", "request"),
        ("listener", "secure"),
        ("client.address", "127.0.0.1"),
        ("network.peer.address", "127.0.0.1"),
        ("http.request.method", "POST"),
        ("url.scheme", "https"),
        ("url.domain", "app.test"),
        ("network.protocol.version", "1.1"),
        ("tls.protocol.version", "1.3"),
        ("user_agent.original", "tester/1"),
        ("site", "app.test"),
        ("http.route", "/*"),
        ("pool", "shop"),
        ("endpoint", &origin.url()),
        ("server.address", &address),
    ] {
        assert_eq!(field(&line, name), value, "{name} in {line}");
    }
    assert_eq!(field(&line, "http.response.status_code"), 200);
    assert_eq!(field(&line, "http.request.body.size"), 5);
    assert_eq!(field(&line, "http.response.body.size"), 2);
    for name in ["connect_ms", "first_byte_ms", "total_ms"] {
        assert!(field(&line, name).as_f64().is_some_and(|time| time >= 0.0), "{name} in {line}");
    }
    let received = origin.requests();
    assert_eq!(received[0].header("x-request-id"), field(&line, "request_id").as_str());
    let trace = field(&line, "trace_id").as_str().unwrap();
    assert!(received[0].header("traceparent").unwrap().contains(trace), "one trace");
    assert!(field(&line, "error.type").is_null());
}

#[tokio::test]
async fn a_failed_backend_is_named_with_its_reason_and_the_request() {
    let closed = closed();
    let gateway = gateway(&format!("http://{closed}"), "").await;
    let reply = gateway.client_of("web").host("app.test").get("/x").await;
    assert_eq!(reply.status, 502);
    let id = reply.header("x-request-id").expect("the answer names the request").to_owned();
    let line = gateway.wait_log(|line| field(line, "request_id") == &id).await;
    assert_eq!(field(&line, "level"), "warn");
    assert_eq!(field(&line, "pool"), "shop");
    assert!(field(&line, "endpoint").to_string().contains(&closed.to_string()), "{line}");
    assert!(field(&line, "error").to_string().contains("refused"), "{line}");
    let access = gateway.wait_access(|line| field(line, "request_id") == &id).await;
    assert_eq!(field(&access, "error.type"), "upstream_refused");
    let body = reply.text();
    assert!(
        !body.contains("shop") && !body.contains(&closed.to_string()),
        "no inner detail: {body}"
    );
}

#[tokio::test]
async fn levels_formats_and_destinations_are_honoured() {
    let origin = Origin::start().await;
    let mut quiet =
        gateway(&origin.url(), "log: { level: \"off,wardgate::app=info\", access: off }\n").await;
    assert_eq!(quiet.client_of("web").host("app.test").get("/").await.status, 200);
    quiet.drain();
    quiet.exit_status().await;
    assert_eq!(quiet.access().len(), 0);
    let mut debug =
        gateway(&origin.url(), "log: { level: \"info,wardgate=debug\", format: json }\n").await;
    debug.drain();
    debug.exit_status().await;
    for line in quiet.log().all() {
        assert!(field(&line, "target").as_str().unwrap().starts_with("wardgate::app"), "{line}");
    }
}

#[tokio::test]
async fn failures_of_a_pool_are_told_once_and_by_name() {
    let gateway = gateway(&format!("http://{}", closed()), "").await;
    let client = gateway.client_of("web").host("app.test");
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 502);
    }
    let origin = Origin::start().await;
    origin.hold();
    let full = "{ servers: \"ORIGIN\", limits: { connections: 1, pending: 0 } }";
    let full = Gateway::start(
        "listeners: { web: { bind: \"127.0.0.1:0\", protocol: http } }\n\
         sites: { app.test: { https: both, upstream: shop } }\n\
         upstreams: { shop: FULL }\n"
            .replace("FULL", &full.replace("ORIGIN", &origin.url())),
    )
    .await;
    let client = full.client_of("web").host("app.test");
    let first = tokio::spawn({
        let client = full.client_of("web").host("app.test");
        async move { client.get("/first").await }
    });
    origin.received(1).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 503);
    }
    origin.release();
    first.await.unwrap();
    for (gateway, token, lines) in [(&gateway, "upstream_refused", 20), (&full, "pool_full", 21)] {
        gateway.wait_accesses(lines, |_| true).await;
        let log = gateway.log().all();
        let told: Vec<_> = log.iter().filter(|line| field(line, "message") == "failed").collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (field(told[0], "level"), field(told[0], "error.type"), field(told[0], "pool")),
            (&"warn".into(), &token.into(), &"shop".into())
        );
        assert_eq!(field(told[0], "count"), 1);
        let error = field(told[0], "error").as_str().unwrap();
        assert!(error.len() > 10 && !error.contains("HTTPStatus"), "{error}");
    }
}
