//! Requests and responses of every shape, one after the other on one connection.

use super::front;
use crate::support::{Answer, Origin, Received, Stage, field};

/// Answers with method and target, and a status that the target may name.
fn echo(request: &Received) -> Answer {
    match request.target.as_str() {
        "/204" => Answer::Bytes(b"HTTP/1.1 204 X\r\n\r\n".to_vec()),
        "/304" => {
            Answer::Bytes(b"HTTP/1.1 304 X\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n".to_vec())
        }
        _ if request.method == "HEAD" => {
            Answer::Bytes(b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n".to_vec())
        }
        target => Answer::text(200, &format!("{} {target} {}", request.method, request.body.len())),
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    for number in 0..5 {
        let request = format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        connection.send(request.as_bytes()).await.unwrap();
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, format!("GET /{number} 0")));
        assert_ne!(reply.header("connection"), Some("close"));
    }
    assert_eq!(origin.connections(), 1, "the backend's connection is kept as well");
    gateway.wait_accesses(5, |_| true).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    let requests = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        HEAD /4 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /204 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /304 HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    connection.send(requests).await.unwrap();
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "GET /1 0");
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "POST /2 5");
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "POST /3 3");
    let head = connection.read_reply(true).await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    let no_content = connection.read_reply(false).await.unwrap();
    assert_eq!((no_content.status, no_content.header("transfer-encoding")), (204, None));
    let not_modified = connection.read_reply(false).await.unwrap();
    assert_eq!((not_modified.status, not_modified.header("etag")), (304, Some("\"a\"")));
    let last = connection.read_reply(false).await.unwrap();
    assert_eq!((last.text().as_str(), last.header("connection")), ("GET /5 0", Some("close")));
    assert_eq!(connection.read_to_end().await.unwrap(), b"", "and then the connection closes");
    let bodies: Vec<_> = origin.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies[1..3], [b"hello".to_vec(), b"abc".to_vec()]);
}

#[tokio::test]
async fn hundreds_of_pipelined_requests_are_all_answered() {
    const COUNT: usize = 300;
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    let requests: String =
        (0..COUNT).map(|number| format!("GET /n{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    connection.send(requests.as_bytes()).await.unwrap();
    for number in 0..COUNT {
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!(reply.text(), format!("GET /n{number} 0"));
    }
}

#[tokio::test]
async fn a_client_that_pipelines_and_half_closes_gets_every_answer() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    origin.hold();
    let requests = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    connection.send(requests.as_bytes()).await.unwrap();
    connection.shut_down().await.unwrap();
    origin.received(1).await;
    origin.release();
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "GET /1 0");
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "GET /2 0");
    assert_eq!(connection.read_to_end().await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_half_closes_behind_its_only_request_is_taken_for_gone() {
    // TCP tells nobody whether the other direction is still open; a backend should not work for
    // clients that are gone.
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    origin.hold();
    let mut connection = gateway.client().connect().await;
    connection.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    origin.received(1).await;
    connection.shut_down().await.unwrap();
    origin.aborted(1).await;
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    connection.send(b"GET /old HTTP/1.0\r\n\r\n").await.unwrap();
    let answer = connection.read_to_end().await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("GET /old 0"), "{answer}");
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "network.protocol.version"), "1.0");
}

#[tokio::test]
async fn http_1_0_never_gets_chunks() {
    let chunked = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let origin = Origin::answering(|_| Answer::Bytes(chunked.to_vec())).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    connection.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(connection.read_to_end().await.unwrap()).unwrap();
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn http_1_0_may_ask_to_be_kept() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    for target in ["/1", "/2"] {
        let request = format!("GET {target} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        connection.send(request.as_bytes()).await.unwrap();
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!(reply.text(), format!("GET {target} 0"));
        let kept = reply.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert_eq!(kept, "keep-alive");
    }
}

#[tokio::test]
async fn the_target_goes_on_in_origin_form() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let address = gateway.address("web");
    for (sent, method, forwarded) in [
        ("http://app.test/a?b", "GET", "/a?b"),
        ("http://app.test", "GET", "/"),
        ("http://app.test?q", "GET", "/?q"),
        ("*", "OPTIONS", "*"),
        ("/a?b=<c>\"`", "GET", "/a?b=%3Cc%3E%22%60"),
        ("/<a>\"`", "GET", "/%3Ca%3E%22%60"),
        ("/a|b^c{d}", "GET", "/a%7Cb%5Ec%7Bd%7D"),
        ("/a?{|}^[]\\", "GET", "/a?{|}^[]\\"),
        ("//a/../b/%2e%2e/c", "GET", "/c"),
        ("/%61/./b", "GET", "/a/b"),
        ("/a?x=/../y%61", "GET", "/a?x=/../y%61"),
    ] {
        let mut connection = gateway.client().connect().await;
        let host =
            if sent.starts_with("http") { "app.test".to_owned() } else { address.to_string() };
        let request = format!("{method} {sent} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        connection.send(request.as_bytes()).await.unwrap();
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!(reply.text(), format!("{method} {forwarded} 0"), "{sent}");
        assert_eq!(origin.requests().last().unwrap().header("host"), Some(&*host), "{sent}");
    }
}

#[tokio::test]
async fn an_absolute_target_of_another_scheme_or_host_goes_nowhere() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    for (request, status) in [
        ("GET https://app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n", 421),
        ("GET http://other.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n", 400),
        ("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n", 405),
        ("GET ftp://app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n", 400),
    ] {
        let mut connection = gateway.client().connect().await;
        connection.send(request.as_bytes()).await.unwrap();
        assert_eq!(connection.read_reply(false).await.unwrap().status, status, "{request}");
        assert_eq!(connection.read_to_end().await.unwrap(), b"", "closed after {request}");
    }
    assert_eq!(origin.requests().len(), 0);
    gateway.wait_accesses(4, |_| true).await;
}

#[tokio::test]
async fn a_refused_absolute_target_has_a_line_of_its_own_and_head_no_body() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let mut connection = gateway.client().connect().await;
    let request = "HEAD https://app.test/a?q=1 HTTP/1.1\r\nHost: app.test\r\n\r\n";
    connection.send(request.as_bytes()).await.unwrap();
    let answer = String::from_utf8(connection.read_to_end().await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "http.request.method"), "HEAD", "{line}");
    assert_eq!(field(&line, "url.domain"), "app.test", "{line}");
    assert_eq!(field(&line, "url.path"), "/a", "{line}");
    assert_eq!(field(&line, "http.response.body.size"), 0, "{line}");
}

#[tokio::test]
async fn half_a_head_and_then_the_end_is_answered_and_has_its_line() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    for sent in ["POST /half HTTP/1.1\r\nHost: a.test\r\nContent-Le", "\r\n\r\n", ""] {
        let mut connection = gateway.client().connect().await;
        connection.send(sent.as_bytes()).await.unwrap();
        connection.shut_down().await.unwrap();
        let answer = String::from_utf8(connection.read_to_end().await.unwrap()).unwrap();
        assert_eq!(answer.starts_with("HTTP/1.1 400 "), sent.starts_with("POST"), "{answer}");
        assert!(sent.starts_with("POST") || answer.is_empty(), "{answer}");
    }
    assert_eq!(gateway.client().get("/last").await.status, 200);
    let lines = gateway.wait_accesses(2, |_| true).await;
    assert_eq!(lines.len(), 2, "empty lines are no request: {lines:?}");
    assert_eq!(field(&lines[0], "http.response.status_code"), 400, "{lines:?}");
    assert_eq!(field(&lines[0], "error.type"), "bad_request", "{lines:?}");
    assert_eq!(field(&lines[0], "http.request.method"), "POST", "{lines:?}");
    assert_eq!(field(&lines[0], "url.path"), "/half", "{lines:?}");
}

#[tokio::test]
async fn curl_gets_what_the_backend_said() {
    let origin = Origin::answering(echo).await;
    let gateway = front(&origin.url()).await;
    let url = format!("http://{}/one", gateway.address("web"));
    let arguments = ["--silent", "--show-error", "--noproxy", "*", "--data", "hello", &url, &url];
    let output = crate::support::run("curl", arguments).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "POST /one 5POST /one 5", "{output:?}");
}

#[tokio::test]
async fn http10_clients_get_no_informational_answer() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    for (version, seen) in [("1.1", vec![103, 103]), ("1.0", vec![])] {
        let mut client = gateway.client().connect().await;
        let request = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.send(request.as_bytes()).await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(2);
        let answer =
            format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        origin.send(answer.as_bytes()).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "{version}");
        assert_eq!(reply.informational, seen, "{version}");
    }
}
