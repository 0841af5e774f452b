//! Which header fields a backend and a client see, and what error answers look like.

use super::{config, front};
use crate::support::{Answer, Client, Gateway, Origin, Received, field};

/// What the backend gets of a request with these lines.
async fn forwarded(gateway: &Gateway, origin: &Origin, fields: &str) -> Received {
    let before = origin.requests().len();
    let client = gateway.client().host("app.test");
    assert_eq!(client.send("GET", "/", fields, b"").await.status, 200, "{fields}");
    origin.received(before + 1).await.remove(before)
}

#[tokio::test]
async fn hop_by_hop_fields_end_here() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let fields = "Connection: X-Named, keep-alive\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nTE: trailers\r\nTrailer: X\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nProxy-Authorization: x\r\nX-Kept: 1\r\n";
    let request = forwarded(&gateway, &origin, fields).await;
    for gone in
        ["x-named", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"]
    {
        assert_eq!(request.header(gone), None, "{gone}");
    }
    assert_eq!(request.header("x-kept"), Some("1"));
    assert!(request.header("connection").is_none_or(|value| value == "keep-alive"));
}

#[tokio::test]
async fn connection_takes_nothing_away_that_identifies() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let fields = "Connection: X-Forwarded-For, Authorization, Cookie, Host, X-Request-Id\r\n\
        Authorization: Basic eDp5\r\nCookie: a=b\r\n";
    let request = forwarded(&gateway, &origin, fields).await;
    assert_eq!(request.header("authorization"), Some("Basic eDp5"));
    assert_eq!(request.header("cookie"), Some("a=b"));
    assert_eq!(request.header("host"), Some("app.test"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert!(request.header("x-request-id").is_some());
}

#[tokio::test]
async fn the_backend_learns_who_asks_from_us_alone() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let spoofed = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX_Forwarded_For: 6.6.6.6\r\n\
        X-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\nX-Forwarded-Host: evil.test\r\n\
        X-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6;proto=https\r\nX-Real-IP: 6.6.6.6\r\n\
        X-Request-Id: mine\r\nTrue-Client-IP: 6.6.6.6\r\nX-Forwarded: x\r\n";
    let request = forwarded(&gateway, &origin, spoofed).await;
    assert_eq!(request.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.values("x-forwarded-proto"), ["http"]);
    assert_eq!(request.values("x-forwarded-host"), ["app.test"]);
    assert_eq!(request.values("forwarded").len(), 1);
    assert!(request.header("forwarded").unwrap().contains("for=127.0.0.1"));
    assert_eq!(request.values("x-request-id").len(), 1);
    assert_eq!(request.values("traceparent").len(), 1);
    for (name, value) in &request.headers {
        assert!(!value.contains("6.6.6.6") && !value.contains("evil"), "{name}: {value}");
    }
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "request_id"), request.header("x-request-id").unwrap());
    assert_eq!(field(&line, "client.address"), "127.0.0.1");
    let trace = request.header("traceparent").unwrap();
    assert_eq!(field(&line, "trace_id"), trace.split('-').nth(1).unwrap());
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let origin = Origin::start().await;
    let yaml = config(&origin.url(), "", "trusted_proxies: [127.0.0.0/8]");
    let gateway = Gateway::start(yaml).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = format!(
        "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: public.test\r\nX-Request-Id: theirs-1\r\ntraceparent: {trace}\r\n"
    );
    let request = forwarded(&gateway, &origin, &fields).await;
    assert!(request.header("x-forwarded-for").unwrap().contains("203.0.113.7"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-host"), Some("public.test"));
    assert_eq!(request.header("x-request-id"), Some("theirs-1"));
    assert!(request.header("traceparent").unwrap().contains("0af7651916cd43dd8448eb211c80319c"));
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "client.address"), "203.0.113.7", "the first that nobody vouches for");
    assert_eq!(field(&line, "network.peer.address"), "127.0.0.1");
    assert_eq!(field(&line, "request_id"), "theirs-1");
}

#[tokio::test]
async fn the_spelling_and_order_of_other_fields_stay() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let fields = "X-OdD-CaSe: 1\r\nx-lower: 2\r\nX-Twice: a\r\nX-Between: 0\r\nX-Twice: b\r\nACCEPT: */*\r\n";
    let request = forwarded(&gateway, &origin, fields).await;
    for name in ["X-OdD-CaSe", "x-lower", "ACCEPT"] {
        assert!(
            request.headers.iter().any(|(key, _)| key == name),
            "{name}: {:?}",
            request.headers
        );
    }
    assert_eq!(request.values("x-twice"), ["a", "b"]);
}

#[tokio::test]
async fn a_response_s_hop_by_hop_fields_end_here_as_well() {
    let origin = Origin::answering(|_| {
        Answer::Bytes(
            b"HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
            Proxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: X\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
            X-CaSe: 1\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )
    })
    .await;
    let gateway = front(&origin.url()).await;
    let reply = gateway.client().get("/").await;
    for gone in ["x-secret", "keep-alive", "proxy-connection", "upgrade", "trailer"] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    let cookies: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).collect();
    assert_eq!(cookies.len(), 2);
    assert!(reply.headers.iter().any(|(name, _)| name == "X-CaSe"), "{:?}", reply.headers);
}

#[tokio::test]
async fn an_error_answer_has_the_form_the_client_reads_and_no_inner_detail() {
    let nobody = crate::support::closed();
    let gateway = front(&format!("http://{nobody}")).await;
    for (fields, kind) in [
        ("Accept: text/html,*/*;q=0.8\r\n", "text/html"),
        ("Accept: application/json\r\n", "application/problem+json"),
        ("", "application/problem+json"),
    ] {
        let before = gateway.access().len();
        let reply = gateway.client().send("GET", "/", fields, b"").await;
        assert_eq!(reply.status, 502);
        assert!(reply.header("content-type").unwrap().starts_with(kind), "{fields}");
        let lines = gateway.wait_accesses(before + 1, |_| true).await;
        let id = field(&lines[before], "request_id").as_str().unwrap();
        assert_eq!(reply.header("x-request-id"), Some(id));
        assert!(reply.text().contains(id), "{}", reply.text());
        let all = format!("{:?} {}", reply.headers, reply.text());
        for inner in ["127.0.0.1", &nobody.port().to_string(), "pingora"] {
            assert!(!all.contains(inner), "{inner} in {all}");
        }
    }
    let grpc = "Content-Type: application/grpc\r\nTE: trailers\r\n";
    let reply = gateway.client().send("POST", "/pkg.Service/Method", grpc, b"").await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("14")));
    gateway.wait_log(|line| field(line, "error.type") == "upstream_refused").await;
}

#[tokio::test]
async fn a_refused_head_is_answered_and_logged_under_one_id() {
    let gateway = front("http://127.0.0.1:1").await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}", 400),
    ] {
        let before = gateway.access().len();
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        assert_eq!(reply.status, status, "{request:?}");
        assert_eq!(client.read_to_end().await.unwrap(), b"", "{request:?}");
        let lines = gateway.wait_accesses(before + 1, |_| true).await;
        assert_eq!(field(&lines[before], "http.response.status_code"), status);
        assert_eq!(field(&lines[before], "request_id"), reply.header("x-request-id").unwrap());
    }
    assert_eq!(gateway.access().len(), 8);
}

#[tokio::test]
async fn an_access_line_tells_the_whole_story() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let client: Client = gateway.client().host("app.test");
    let agent = "User-Agent: tester/1\r\n";
    client.send("POST", "/a/b?token=secret", agent, b"hello").await;
    let line = gateway.wait_access(|_| true).await;
    for (name, value) in [
        ("listener", "web"),
        ("site", "*"),
        ("http.route", "/*"),
        ("pool", "app"),
        ("server.address", &origin.address().to_string()),
        ("client.address", "127.0.0.1"),
        ("http.request.method", "POST"),
        ("url.path", "/a/b"),
        ("url.scheme", "http"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "tester/1"),
    ] {
        assert_eq!(field(&line, name), value, "{name} in {line}");
    }
    for (name, value) in [
        ("http.response.status_code", 200),
        ("http.request.body.size", 5),
        ("http.response.body.size", 2),
    ] {
        assert_eq!(field(&line, name), value, "{name} in {line}");
    }
    for name in ["connect_ms", "first_byte_ms", "total_ms"] {
        assert!(field(&line, name).as_f64().is_some(), "{name} in {line}");
    }
    assert!(!line.to_string().contains("secret"), "no query values: {line}");
}
