//! What the engine accepts or forwards as it comes, and what becomes of it here.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Origin, Peer, Received, field};

/// A listener for HTTP/1.1 and h2c in front of one origin.
async fn front(origin: &str) -> Gateway {
    Gateway::start(format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }} }}\n\
         sites: {{ \"*\": {{ upstream: \"{origin}\" }} }}\n"
    ))
    .await
}

/// What becomes of a request.
enum Fate {
    /// It is refused with this status, and nobody behind hears of it.
    Refused(u16),
    /// The backend gets this, and nothing of that.
    Gets(&'static [&'static str], &'static [&'static str]),
}

use Fate::{Gets, Refused};

/// Each item of the section "Accepted or forwarded as they come", and what is near it.
const ODD: [(&str, Fate); 47] = [
    ("GET / HTTP/1.1\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: \r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: x@a\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\nHost: a\n\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n", Refused(400)),
    ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("Get / HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nx", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nx", Refused(400)),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Refused(501),
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n y\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refused(400)),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", Refused(400)),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Refused(400)),
    (
        "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        Gets(&["GET /x HTTP/1.1", "host: a\r\n"], &["http://a/x"]),
    ),
    (
        "GET //a/../b/%2e%2e/c HTTP/1.1\r\nHost: a\r\n\r\n",
        Gets(&["GET /c HTTP/1.1"], &["%2e", ".."]),
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        Gets(&["x-forwarded-for: 127.0.0.1\r\n"], &["6.6.6.6"]),
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        Gets(&["x-forwarded-for: 127.0.0.1\r\n"], &["6.6.6.6"]),
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: X\r\n\r\n0\r\n\r\n",
        Gets(&["transfer-encoding: chunked\r\n"], &["trailer"]),
    ),
];

/// A request in lower case but for its first line, as the backend got it.
fn text(request: &Received) -> String {
    let fields = request.headers.iter();
    let fields: String = fields
        .map(|(name, value)| format!("{}: {}\r\n", name.to_lowercase(), value.to_lowercase()))
        .collect();
    format!("{} {} HTTP/1.1\r\n{fields}\r\n", request.method, request.target)
}

#[tokio::test]
async fn what_the_engine_would_forward_as_it_comes_is_refused_or_made_canonical() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let mut expected = 0;
    for (number, (request, fate)) in ODD.iter().enumerate() {
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        match fate {
            Refused(status) => {
                assert_eq!(reply.status, *status, "{request:?}");
                assert_eq!(client.read_to_end().await.unwrap(), b"", "closed after {request:?}");
            }
            Gets(there, gone) => {
                assert_eq!(reply.status, 200, "{request:?}");
                expected += 1;
                let text = text(&origin.received(expected).await[expected - 1]);
                for part in *there {
                    assert!(text.contains(part), "{part:?} of {request:?}: {text}");
                }
                for part in *gone {
                    assert!(!text.contains(part), "{part:?} of {request:?}: {text}");
                }
            }
        }
        assert_eq!(origin.requests().len(), expected, "{request:?}");
        gateway.wait_accesses(number + 1, |_| true).await;
    }
    assert_eq!(gateway.access().len(), ODD.len(), "one line each");
}

#[tokio::test]
async fn a_request_shorter_than_the_preface_of_h2_is_answered() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    // The shortest there are; 24 bytes are what the engine waits for.
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "200"),
        ("P / HTTP/1.0\r\n\r\n", "200"),
        ("PRI / HTTP/1.0\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET /\r\n\r\n", "400"),
        ("\r\n\r\n\r\nx", ""),
    ] {
        assert!(request.len() < 24);
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        if status.is_empty() {
            client.shut_down().await.unwrap();
        }
        let answer = String::from_utf8(client.read_to_end().await.unwrap()).unwrap();
        assert_eq!(
            answer.get(9..12).unwrap_or("400"),
            status.get(..3).unwrap_or("400"),
            "{request:?}: {answer}"
        );
    }
}

fn stream(number: u32, fields: &[(&str, &str)]) -> Value {
    let pseudo = [(":scheme", "http"), (":authority", "a.test")];
    let fields = fields
        .iter()
        .filter(|(name, _)| name.starts_with(':'))
        .chain(&pseudo)
        .chain(fields.iter().filter(|(name, _)| !name.starts_with(':')));
    let fields: Vec<_> = fields.map(|(name, value)| json!([name, value])).collect();
    json!({"stream": number, "headers": fields})
}

#[tokio::test]
async fn a_client_of_h2_is_not_kept_waiting_by_100_continue() {
    // The backend hints before it answers, which the engine drops on h2.
    let origin = Origin::answering(|request| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let body = request.body.len().to_string();
        Answer::Bytes(
            format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .into(),
        )
    })
    .await;
    let gateway = front(&origin.url()).await;
    let mut post = stream(
        1,
        &[(":method", "POST"), (":path", "/"), ("expect", "100-continue"), ("content-length", "5")],
    );
    post["body"] = json!("hello");
    // RFC 9110 §10.1.1: a client need not wait, and some wait for a second at most.
    let steps = json!([{"request": post}, {"wait": "end", "stream": 1}]);
    let scenario = json!({"address": gateway.address("web").to_string(), "steps": steps});
    let result = Peer::result("h2_client.py", &scenario).await;
    let stream = &result["streams"]["1"];
    assert_eq!((&stream["status"], &stream["body"]), (&json!(200), &json!("5")), "{result}");
    assert_eq!(origin.requests()[0].header("expect"), None, "the backend is not asked");
}

#[tokio::test]
async fn a_websocket_over_h2_is_declined_and_the_connection_goes_on() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let connect =
        stream(1, &[(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/chat")]);
    let steps = json!([
        {"request": connect}, {"wait": "end", "stream": 1},
        {"request": stream(3, &[(":method", "GET"), (":path", "/")])}, {"wait": "end", "stream": 3},
    ]);
    let scenario = json!({"address": gateway.address("web").to_string(), "steps": steps});
    let result = Peer::result("h2_client.py", &scenario).await;
    let declined = &result["streams"]["1"];
    let is_declined =
        declined["reset"].is_number() || declined["status"] == 405 || declined["status"] == 400;
    assert!(is_declined, "{result}");
    assert_eq!(result["streams"]["3"]["status"], 200, "{result}");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn what_clients_do_wrong_is_no_error_of_the_gateway() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(format!(
        "listeners:\n  web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }}\n  \
         secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         sites: {{ a.test: {{ https: both, upstream: \"{}\" }} }}\n\
         limits: {{ handshake_timeout: 1s, request_header_timeout: 1s, request_body_timeout: 500ms }}\n\
         log: {{ level: \"info,pingora_core=trace,pingora_proxy=trace,h2=warn,rustls=warn\" }}\n",
        origin.url()
    ))
    .await;
    let wrong: [&[u8]; 9] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n",
        b"GET / HTTP/9.9\r\nHost: a.test\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10\r\n\r\nhalf",
        b"\0\0\0\0\r\n\r\n",
        b"",
    ];
    for bytes in wrong {
        for listener in ["web", "secure"] {
            let mut client = gateway.client_of(listener).connect().await;
            client.send(bytes).await.unwrap();
            if bytes.len() % 2 == 0 {
                let _ = client.shut_down().await;
            }
            let _ = client.read_to_end().await;
        }
        let mut inside = gateway.tls_client_of("secure", "a.test").connect().await;
        let _ = inside.send(bytes).await;
        let _ = inside.shut_down().await;
        let _ = inside.read_to_end().await;
    }
    assert_eq!(gateway.client().host("a.test").get("/last").await.status, 200);
    gateway.wait_access(|line| field(line, "url.path") == "/last").await;
    let loud: Vec<_> = gateway
        .log()
        .all()
        .into_iter()
        .filter(|line| field(line, "level") == "error" || field(line, "level") == "warn")
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");
}
