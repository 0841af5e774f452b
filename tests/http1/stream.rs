//! Bodies that are long, slow, or go both ways at once.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{config, front};
use crate::support::{Answer, Gateway, Origin, Stage, field, within};

/// Bytes of a body that does not fit into anybody's buffers.
const HUGE: usize = 256 << 20;

/// How much the gateway's memory may grow while bodies of [`HUGE`] pass: far below one of them.
const GROWTH: usize = 64 << 20;

#[tokio::test]
async fn events_arrive_one_by_one() {
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 14", "Connection: close"] {
        let stage = Stage::open().await;
        let gateway = front(&stage.url()).await;
        let mut client = gateway.client().connect().await;
        client.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        let is_chunked = framing.ends_with("chunked");
        let event = |text: &str| match is_chunked {
            true => format!("{:x}\r\n{text}\r\n", text.len()).into_bytes(),
            false => text.as_bytes().to_vec(),
        };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n");
        origin.send(head.as_bytes()).await.unwrap();
        client.read_until(b"\r\n\r\n").await.unwrap();
        for text in ["first\n\n", "second\n"] {
            origin.send(&event(text)).await.unwrap();
            client.read_until(text.as_bytes()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_upload_reaches_the_backend_as_it_is_sent() {
    for (framing, parts) in [
        ("Content-Length: 9", ["one", "two", "six"]),
        ("Transfer-Encoding: chunked", ["3\r\none\r\n", "3\r\ntwo\r\n", "3\r\nsix\r\n0\r\n\r\n"]),
    ] {
        let stage = Stage::open().await;
        let gateway = front(&stage.url()).await;
        let mut client = gateway.client().connect().await;
        let head = format!("POST /up HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        client.send(head.as_bytes()).await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        for (part, text) in parts.iter().zip(["one", "two", "six"]) {
            client.send(part.as_bytes()).await.unwrap();
            origin.read_until(text.as_bytes()).await.unwrap();
        }
        origin.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().text(), "ok");
    }
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let mut client = gateway.client().connect().await;
    client
        .send(b"POST /both HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let (mut origin, _) = stage.accept_head().await;
    origin.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let head = client.read_until(b"\r\n\r\n").await.unwrap();
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("Connection: close"), "as after any answer to half a request: {head}");
    for number in 100..120 {
        let text = format!("part {number}");
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        client.send(chunk.as_bytes()).await.unwrap();
        origin.read_until(text.as_bytes()).await.unwrap();
        origin.send(chunk.as_bytes()).await.unwrap();
        client.read_until(text.as_bytes()).await.unwrap();
    }
    client.send(b"0\r\n\r\n").await.unwrap();
    origin.read_until(b"0\r\n\r\n").await.unwrap();
    origin.send(b"0\r\n\r\n").await.unwrap();
    assert!(client.read_to_end().await.unwrap().ends_with(b"0\r\n\r\n"), "a clean end");
}

#[tokio::test]
async fn huge_bodies_pass_both_ways_in_little_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = front(&format!("http://{}", listener.local_addr().unwrap())).await;
    let origin = tokio::spawn(async move {
        echo_bodies(&listener, 2).await;
    });
    exchange(&gateway, HUGE / 8).await; // touches code and buffers
    let before = gateway.memory_peak();
    exchange(&gateway, HUGE).await;
    let growth = gateway.memory_peak() - before;
    assert!(growth < GROWTH, "grew by {growth} bytes");
    origin.await.unwrap();
    let lines = gateway.wait_accesses(2, |_| true).await;
    assert_eq!(field(&lines[1], "http.request.body.size"), HUGE, "{lines:?}");
    assert_eq!(field(&lines[1], "http.response.body.size"), HUGE, "{lines:?}");
}

/// Sends the body of one request on each of `count` connections back as it comes.
async fn echo_bodies(listener: &TcpListener, count: usize) {
    for _ in 0..count {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(read.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        write.write_all(answer.as_bytes()).await.unwrap();
        tokio::io::copy(&mut read.take(length.parse().unwrap()), &mut write).await.unwrap();
    }
}

/// Sends a body of `size` bytes and reads one as long at the same time.
async fn exchange(gateway: &Gateway, size: usize) {
    let mut client = TcpStream::connect(gateway.address("web")).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = client.split();
    let send = async {
        let block = vec![b'x'; 1 << 20];
        for _ in 0..size >> 20 {
            write.write_all(&block).await.unwrap();
        }
    };
    let receive = async {
        let mut seen = 0;
        let mut block = vec![0; 1 << 20];
        while seen < size {
            // The kernel may have to send again what it had no memory for, so progress is what counts.
            let count = within("more of the body", read.read(&mut block)).await.unwrap();
            assert_ne!(count, 0, "cut after {seen} bytes");
            seen += count;
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_backend_back_and_not_in_memory() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let mut client = gateway.client().connect().await;
    client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    let before = gateway.memory_peak();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {HUGE}\r\n\r\n");
    origin.send(head.as_bytes()).await.unwrap();
    let block = vec![b'x'; 1 << 20];
    let push = async {
        for _ in 0..HUGE >> 20 {
            origin.send(&block).await.unwrap();
        }
    };
    let stalled = tokio::time::timeout(std::time::Duration::from_millis(700), push).await;
    assert!(stalled.is_err(), "somebody took it all");
    assert!(gateway.memory_peak() - before < GROWTH);
}

#[tokio::test]
async fn a_client_that_leaves_while_the_head_is_awaited_cancels_the_request() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    origin.hold();
    let mut client = gateway.client().connect().await;
    client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    origin.received(1).await;
    drop(client);
    origin.aborted(1).await;
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
}

#[tokio::test]
async fn a_client_that_leaves_during_a_body_cancels_the_request() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    for (request, answer) in [
        ("GET /down HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        ("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", ""),
        ("POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nx", ""),
    ] {
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        let (mut origin, head) = stage.accept_head().await;
        if answer.is_empty() {
            origin.read_until(b"x").await.unwrap();
        } else {
            origin.send(answer.as_bytes()).await.unwrap();
            client.read_until(b"x").await.unwrap();
        }
        drop(client);
        let rest = origin.read_to_end().await.unwrap_or_default();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "no clean end of what was cut: {head}");
    }
    gateway.wait_accesses(3, |line| field(line, "error.type") == "client_gone").await;
}

#[tokio::test]
async fn a_waiting_client_is_told_to_go_on_after_routing() {
    let origin =
        Origin::answering(|request| Answer::text(200, &format!("{}", request.body.len()))).await;
    let gateway = front(&origin.url()).await;
    let mut client = gateway.client().connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).await.unwrap();
    let told = client.read_until(b"\r\n\r\n").await.unwrap();
    assert!(told.starts_with(b"HTTP/1.1 100"), "{told:?}");
    client.send(b"hello").await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().text(), "5");
    assert_eq!(origin.requests()[0].header("expect"), None, "the backend is not asked again");

    client.send(format!("{head}hello").as_bytes()).await.unwrap();
    let reply = client.read_reply(false).await.unwrap();
    assert_eq!(reply.text(), "5", "a client that does not wait is served as well");

    let old =
        "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello";
    let mut client = gateway.client().connect().await;
    client.send(old.as_bytes()).await.unwrap();
    let reply = client.read_reply(false).await.unwrap();
    assert_eq!((reply.status, reply.informational), (200, vec![]), "HTTP/1.0 knows no 1xx");

    let empty = "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n";
    let mut client = gateway.client().connect().await;
    client.send(empty.as_bytes()).await.unwrap();
    let reply = client.read_reply(false).await.unwrap();
    assert_eq!((reply.status, reply.informational), (200, vec![]), "nothing to wait for");
}

#[tokio::test]
async fn a_client_that_leaves_after_it_was_told_to_go_on_was_not_answered() {
    let origin = Origin::start().await;
    let gateway = front(&origin.url()).await;
    let mut client = gateway.client().connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(head.as_bytes()).await.unwrap();
    client.read_until(b"\r\n\r\n").await.unwrap();
    drop(client);
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "http.response.status_code"), 499, "{line}");
}

#[tokio::test]
async fn a_refused_client_is_not_told_to_go_on() {
    let origin = Origin::start().await;
    let yaml = config(&origin.url(), "", "").replace(
        "{ upstream: app }",
        "{ routes: [ { match: { path: /no }, respond: 403 }, { match: { path: /yes }, upstream: app } ] }",
    );
    let gateway = Gateway::start(yaml).await;
    for (target, expectation, status) in
        [("/no", "100-continue", 403), ("/none", "100-continue", 404), ("/yes", "200-ok", 417)]
    {
        let mut client = gateway.client().connect().await;
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: {expectation}\r\n\r\n"
        );
        client.send(head.as_bytes()).await.unwrap();
        let reply = client.read_reply(false).await.unwrap();
        assert_eq!((reply.status, &*reply.informational), (status, &[][..]), "{target}");
        assert_eq!(reply.header("connection"), Some("close"), "{target}");
        assert_eq!(client.read_to_end().await.unwrap(), b"", "{target}");
    }
    assert_eq!(origin.requests().len(), 0);
}
