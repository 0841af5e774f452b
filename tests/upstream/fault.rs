//! Backends that break the rules of HTTP, or fall silent, at every stage of an exchange.

use super::front;
use crate::support::{Connection, Gateway, Peer, field};

/// What the client is to see of a fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// A whole answer with this status and body.
    Answer(u16, &'static str),
    /// An answer of ours with this status.
    Refused(u16),
    /// A head, and then an end that no client can take for the answer's.
    Cut,
}

use Seen::{Answer, Cut, Refused};

/// Each script of `raw_origin.py`.
const FAULTS: [(&str, Seen); 35] = [
    ("ok", Answer(200, "ok")),
    ("truncated", Cut),
    ("truncated-chunk", Cut),
    ("truncated-chunks", Cut),
    ("truncated-head", Refused(502)),
    ("reset-before-head", Refused(502)),
    ("reset-in-body", Cut),
    ("close-before-head", Refused(502)),
    ("extra-bytes", Answer(200, "ok")),
    ("extra-after-chunks", Answer(200, "ok")),
    ("two-lengths", Refused(502)),
    ("two-equal-lengths", Refused(502)),
    // The engine drops the length before we see it, as RFC 9112 §6.3 lets it.
    ("length-and-chunks", Answer(200, "ok")),
    ("bad-length", Refused(502)),
    ("bad-chunk", Cut),
    ("trailers", Answer(200, "ok")),
    ("until-close", Answer(200, "ok")),
    ("http10", Answer(200, "ok")),
    ("no-content-with-body", Refused(502)),
    ("not-modified-with-body", Answer(304, "")),
    ("unsolicited-101", Refused(502)),
    ("informational", Answer(200, "ok")),
    ("informational-200", Answer(200, "ok")),
    ("named-hop-by-hop", Answer(200, "ok")),
    ("header-injection", Refused(502)),
    ("huge-head", Refused(502)),
    ("garbage", Refused(502)),
    ("early-close", Answer(401, "no")),
    ("early-keep", Answer(401, "no")),
    ("hang-before-head", Refused(504)),
    ("hang-in-head", Refused(504)),
    ("hang-in-body", Cut),
    ("hang-in-chunk", Cut),
    // `HTTP/1.1 200 OK`, a body without end, and `HTTP/0.9`.
    ("hex/485454502f312e3120323030204f4b0d0a0d0a6f6b/close", Answer(200, "ok")),
    ("hex/68656c6c6f20776f726c640d0a/close", Refused(502)),
];

#[tokio::test]
async fn no_fault_of_a_backend_reaches_another_request() {
    let origin = Peer::start("raw_origin.py", &[]).await;
    // Only those that are to run into a deadline have one that is near.
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: app, routes: [ {{ match: {{ path_regex: ^/hang }}, upstream: hung }} ] }} }}\n\
         upstreams:\n  app: {{ servers: \"http://{0}\" }}\n  \
         hung: {{ servers: \"http://{0}\", timeouts: {{ response: 1s, read: 1s }} }}\n",
        origin.address()
    );
    let gateway = Gateway::start(yaml).await;
    let client = gateway.client();
    let mut checks = tokio::task::JoinSet::new();
    for (name, expected) in FAULTS {
        let client = client.clone();
        checks.spawn(async move { check(client.connect().await, name, expected).await });
    }
    let wrong: Vec<String> = checks.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (name, expected) in FAULTS {
        let path = format!("/{name}");
        let is_its = |line: &serde_json::Value| field(line, "url.path") == path.as_str();
        let line = gateway.wait_access(is_its).await;
        let lines = gateway.access().into_iter().filter(is_its).count();
        assert_eq!(lines, 1 + usize::from(name == "ok") * (lines - 1), "one line: {line}");
        assert_eq!(field(&line, "error.type").is_null(), matches!(expected, Answer(..)), "{line}");
    }
}

/// What a backend sends, what becomes of its connection then, and what the client is to see. In a
/// response a space before a colon is taken away and a folded line joined (RFC 9112 §5.1, §5.2).
const ANSWERS: [(&str, &str, Seen); 32] = [
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "keep",
        Refused(502),
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", "close", Refused(502)),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\nok",
        "keep",
        Refused(502),
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\nok", "keep", Cut),
    (
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "close",
        Refused(502),
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", "keep", Refused(502)),
    (
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        "keep",
        Answer(200, "ok"),
    ),
    ("HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok", "keep", Answer(200, "ok")),
    ("HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 1000 High\r\nContent-Length: 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "keep", Refused(502)),
    ("HTTP/1.1 103 Early Hints\r\n\r\n", "close", Refused(502)),
    ("HTTP/1.1 103 Early Hints\r\n\r\n", "reset", Refused(502)),
    ("HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n", "close", Refused(502)),
    ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "close", Refused(502)),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nok\r\n0\r\n\r\n",
        "keep",
        Cut,
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", "keep", Cut),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", "keep", Cut),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "reset", Cut),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", "close", Cut),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "close", Cut),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=\"b;c\"\r\nok\r\n0;x\r\nX-T: 1\r\n\r\n",
        "keep",
        Answer(200, "ok"),
    ),
    ("HTTP/1.1 200 \r\ncontent-length:2\r\n\r\nok", "keep", Answer(200, "ok")),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "keep",
        Answer(200, "ok"),
    ),
    ("\r\n", "close", Refused(502)),
];

#[tokio::test]
async fn what_no_backend_may_send_is_refused_or_read_in_one_way() {
    let origin = Peer::start("raw_origin.py", &[]).await;
    let gateway = front(&format!("servers: [\"http://{}\"]", origin.address())).await;
    let client = gateway.client();
    let mut checks = tokio::task::JoinSet::new();
    for (answer, end, expected) in ANSWERS {
        let client = client.clone();
        let hex: String = answer.bytes().map(|byte| format!("{byte:02x}")).collect();
        checks.spawn(async move {
            let wrong = check(client.connect().await, &format!("hex/{hex}/{end}"), expected).await;
            wrong.map(|wrong| format!("{answer:?}: {wrong}"))
        });
    }
    let wrong: Vec<String> = checks.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(client.get("/ok").await.text(), "ok");
}

/// Sends a request for the fault and three more, and says what is wrong.
async fn check(mut client: Connection, name: &str, expected: Seen) -> Option<String> {
    let body = if name.starts_with("early") { "x".repeat(1 << 20) } else { String::new() };
    let request =
        format!("POST /{name} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(request.as_bytes()).await.unwrap();
    // An answer may come before all has been sent.
    let _ = client.send(body.as_bytes()).await;
    let seen = match client.read_reply(false).await {
        Ok(reply) if reply.header("x-request-id").is_some() => Refused(reply.status),
        Ok(reply) => Answer(
            reply.status,
            if reply.text() == "ok" {
                "ok"
            } else if reply.text() == "no" {
                "no"
            } else if reply.body.is_empty() {
                ""
            } else {
                "something else"
            },
        ),
        Err(_) => Cut,
    };
    if seen != expected {
        return Some(format!("{name}: {seen:?}, expected {expected:?}"));
    }
    for number in 1..=3 {
        // Either the connection is over, or it answers as if nothing had been.
        let request = format!("GET /ok?{number} HTTP/1.1\r\nHost: a\r\n\r\n");
        if client.send(request.as_bytes()).await.is_err() {
            return None;
        }
        match client.read_reply(false).await {
            Err(_) => return None,
            Ok(reply) if (reply.status, reply.text().as_str()) == (200, "ok") => {}
            Ok(reply) => {
                return Some(format!(
                    "{name}: follow-up {number}: {} {:?}",
                    reply.status,
                    reply.text()
                ));
            }
        }
    }
    None
}

#[tokio::test]
async fn a_head_larger_than_the_limit_or_without_end_costs_little_memory() {
    let origin = Peer::start("raw_origin.py", &[]).await;
    let gateway = front(&format!("servers: [\"http://{}\"]", origin.address())).await;
    let ask = async |count| {
        for _ in 0..count {
            assert_eq!(gateway.client().get("/huge-head").await.status, 502);
        }
    };
    ask(5).await;
    let before = gateway.memory_peak();
    ask(60).await;
    // The kernel adds a process' threads up lazily, so that even a peak can seem to fall.
    let growth = gateway.memory_peak().saturating_sub(before);
    assert!(growth < 40 << 20, "grew by {growth} bytes");
}

#[tokio::test]
async fn a_bad_head_is_not_copied_into_the_log() {
    let origin = Peer::start("raw_origin.py", &[]).await;
    let gateway = front(&format!("servers: [\"http://{}\"]", origin.address())).await;
    for name in ["header-injection", "huge-head", "garbage", "two-lengths", "bad-chunk"] {
        let _ = gateway.client().try_get(&format!("/{name}")).await;
    }
    gateway.wait_accesses(5, |_| true).await;
    let log = gateway.log().to_string();
    assert!(log.len() < 8 << 10, "{} bytes", log.len());
    for secret in ["X-B", "xxxx", "this is not HTTP", "0x2"] {
        assert!(!log.contains(secret), "{log}");
    }
}
