//! Silences and slowness of every kind, and how each of them ends.

use std::time::Duration;

use super::config;
use crate::support::{Gateway, Origin, Stage, field, within};

/// Long enough to be told from "at once" on a busy machine, short enough to wait for.
const MOMENT: &str = "300ms";

async fn with_limits(origin: &str, limits: &str) -> Gateway {
    Gateway::start(config(origin, "", &format!("limits: {{ {limits} }}"))).await
}

async fn with_timeouts(origin: &str, timeouts: &str) -> Gateway {
    Gateway::start(config(origin, &format!(", timeouts: {{ {timeouts} }}"), "")).await
}

async fn with_request_timeout(origin: &str) -> Gateway {
    let yaml = config(origin, "", "").replace(
        "{ upstream: app }",
        "{ routes: [ { upstream: app, timeouts: { request: 300ms } } ] }",
    );
    Gateway::start(yaml).await
}

/// Sends a byte every now and then until the gateway answers or closes.
async fn drip(client: &mut crate::support::Connection, start: &str, drop: &[u8]) -> u16 {
    client.send(start.as_bytes()).await.unwrap();
    within("answer to a drip", async {
        loop {
            let wait = tokio::time::timeout(Duration::from_millis(50), client.wait_readable());
            if wait.await.is_ok() {
                return client.read_reply(false).await.unwrap().status;
            }
            if client.send(drop).await.is_err() {
                return client.read_reply(false).await.unwrap().status;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut() {
    let origin = Origin::start().await;
    let limits = format!("request_header_timeout: {MOMENT}");
    let gateway = with_limits(&origin.url(), &limits).await;
    let mut client = gateway.client().connect().await;
    let status = drip(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"x").await;
    assert_eq!(status, 408);
    client.read_to_end().await.unwrap();
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "http.response.status_code"), 408);
    assert_eq!(field(&line, "error.type"), "request_timeout");
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_gap_in_a_body_is_cut_before_the_answer() {
    let origin = Stage::open().await;
    let gateway = with_limits(&origin.url(), &format!("request_body_timeout: {MOMENT}")).await;
    for body in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"] {
        let mut client = gateway.client().connect().await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{body}");
        client.send(request.as_bytes()).await.unwrap();
        let (mut connection, _) = origin.accept_head().await;
        assert_eq!(client.read_reply(false).await.unwrap().status, 408);
        client.read_to_end().await.unwrap();
        let seen = connection.read_to_end().await.unwrap_or_default();
        assert!(!seen.ends_with(b"0\r\n\r\n"), "the backend must not take it for whole");
    }
    let lines = gateway.wait_accesses(2, |_| true).await;
    assert!(lines.iter().all(|line| field(line, "error.type") == "request_timeout"), "{lines:?}");
}

#[tokio::test]
async fn a_body_that_keeps_coming_is_not_cut() {
    let origin = Origin::start().await;
    // The backend's patience is as short: it does not count while the request is still coming.
    let pool = format!(", timeouts: {{ response: {MOMENT} }}");
    let limits = "limits: { request_body_timeout: 5s }";
    let gateway = Gateway::start(config(&origin.url(), &pool, limits)).await;
    let mut client = gateway.client().connect().await;
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.send(b"x").await.unwrap();
    }
    assert_eq!(client.read_reply(false).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let origin = Origin::start().await;
    let gateway = with_limits(&origin.url(), "idle_timeout: 1s").await;
    let mut fresh = gateway.client().connect().await;
    let mut used = gateway.client().connect().await;
    used.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(used.read_reply(false).await.unwrap().status, 200);
    assert_eq!(used.read_to_end().await.unwrap(), b"");
    assert_eq!(fresh.read_to_end().await.unwrap(), b"");
    gateway.wait_access(|_| true).await;
    assert_eq!(gateway.access().len(), 1, "nobody asked on the other one");
}

#[tokio::test]
async fn a_backend_that_does_not_begin_to_answer_is_given_up() {
    let origin = Stage::open().await;
    let gateway = with_timeouts(&origin.url(), &format!("response: {MOMENT}")).await;
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let mut client = gateway.client().connect().await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut connection, _) = origin.accept_head().await;
        connection.send(answer.as_bytes()).await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 504, "{answer}");
        connection.read_to_end().await.unwrap_or_default();
    }
    let lines = gateway.wait_accesses(3, |_| true).await;
    assert!(lines.iter().all(|line| field(line, "error.type") == "response_timeout"), "{lines:?}");
}

#[tokio::test]
async fn a_backend_whose_head_drips_in_is_given_up() {
    let origin = Stage::open().await;
    let gateway = with_timeouts(&origin.url(), &format!("response: {MOMENT}")).await;
    for drop in ["x", "x\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: "] {
        let mut client = gateway.client().connect().await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut connection, _) = origin.accept_head().await;
        connection.send(b"HTTP/1.1 103 Early Hints\r\nX: ").await.unwrap();
        let dripping = async {
            while connection.send(drop.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("end of the drip", dripping).await;
        assert_eq!(client.read_reply(false).await.unwrap().status, 504, "{drop}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_not_cut() {
    let origin = Stage::open().await;
    let timeouts = "response: 10s, read: 900ms";
    let gateway = with_timeouts(&origin.url(), timeouts).await;
    let mut client = gateway.client().connect().await;
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut connection, _) = origin.accept_head().await;
    tokio::time::sleep(Duration::from_millis(1000)).await; // more than a gap in the body may last
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await.unwrap();
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        connection.send(b"x").await.unwrap();
    }
    assert_eq!(client.read_reply(false).await.unwrap().text(), "xxxxxx");
}

#[tokio::test]
async fn a_backend_that_does_not_read_is_given_up() {
    let origin = Stage::open().await;
    let gateway = with_timeouts(&origin.url(), &format!("response: {MOMENT}")).await;
    let mut client = gateway.client().connect().await;
    let length = 64 << 20;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    client.send(head.as_bytes()).await.unwrap();
    let (_connection, _) = origin.accept_head().await;
    let block = vec![b'x'; 1 << 20];
    let (sent, status) = within("refusal", async {
        let mut sent = 0;
        loop {
            tokio::select! {
                biased;
                () = client.wait_readable() => {
                    return (sent, client.read_reply(false).await.unwrap().status);
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            let part = tokio::time::timeout(Duration::from_millis(20), client.send(&block)).await;
            sent += usize::from(matches!(part, Ok(Ok(()))));
        }
    })
    .await;
    assert_eq!(status, 504, "after {sent} MiB");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_cut_for_the_client_to_see() {
    let origin = Stage::open().await;
    let gateway = with_timeouts(&origin.url(), &format!("read: {MOMENT}")).await;
    for framing in
        ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
    {
        let mut client = gateway.client().connect().await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let (mut connection, _) = origin.accept_head().await;
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}");
        connection.send(answer.as_bytes()).await.unwrap();
        assert!(client.read_reply(false).await.is_err(), "{framing}");
        connection.read_to_end().await.unwrap_or_default();
    }
    let lines = gateway.wait_accesses(2, |_| true).await;
    assert!(lines.iter().all(|line| field(line, "error.type") == "read_timeout"), "{lines:?}");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_given_up() {
    // A queue of one that is full: the kernel drops what would come next.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = tokio::net::TcpStream::connect(address).await.unwrap();
    let gateway = with_timeouts(&format!("http://{address}"), &format!("connect: {MOMENT}")).await;
    let reply = gateway.client().get("/").await;
    assert_eq!(reply.status, 504);
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "connect_timeout", "{line}");
}

#[tokio::test]
async fn a_route_s_timeout_bounds_everything_before_the_head() {
    let origin = Stage::open().await;
    let gateway = with_request_timeout(&origin.url()).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
    ] {
        let mut client = gateway.client().connect().await;
        client.send(request.as_bytes()).await.unwrap();
        let (mut connection, _) = origin.accept_head().await;
        assert_eq!(client.read_reply(false).await.unwrap().status, 504);
        connection.read_to_end().await.unwrap_or_default();
    }
    gateway.wait_accesses(2, |_| true).await;
    gateway.client().get("/none").await; // and its line is the third, not the fifth
    let lines = gateway.wait_accesses(3, |_| true).await;
    assert_eq!(gateway.access().len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| field(line, "error.type") == "exchange_timeout"), "{lines:?}");
}

#[tokio::test]
async fn a_route_s_timeout_bounds_a_connection_that_does_not_come_about() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = tokio::net::TcpStream::connect(address).await.unwrap();
    let gateway = with_request_timeout(&format!("http://{address}")).await;
    let begun = std::time::Instant::now();
    assert_eq!(gateway.client().get("/").await.status, 504);
    assert!(begun.elapsed() < Duration::from_secs(4), "timeouts.connect is 5 s");
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "exchange_timeout", "{line}");
}

#[tokio::test]
async fn a_route_s_timeout_cuts_a_response_that_takes_longer() {
    let origin = Stage::open().await;
    let gateway = with_request_timeout(&origin.url()).await;
    let mut client = gateway.client().connect().await;
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut connection, _) = origin.accept_head().await;
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    client.read_until(b"\r\n\r\n").await.unwrap();
    let seen = within("end of a response that takes longer", async {
        loop {
            if connection.send(b"4\r\nmore\r\n").await.is_err() {
                break client.read_to_end().await.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!seen.ends_with(b"0\r\n\r\n"), "no clean end");
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "exchange_timeout", "{line}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let origin = Stage::open().await;
    let gateway = with_limits(&origin.url(), &format!("idle_timeout: {MOMENT}")).await;
    let client = gateway.client().connect().await;
    is_cut_unread(client, &origin, &gateway, 1 << 20).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_where_tls_has_room_left() {
    let origin = Stage::open().await;
    let yaml = format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: https }} }}\n\
         sites: {{ a.test: {{ certificate: internal, upstream: \"{}\" }} }}\n\
         limits: {{ idle_timeout: {MOMENT} }}\n",
        origin.url()
    );
    let gateway = Gateway::start(yaml).await;
    // Pieces that the TLS layer takes whole when the socket takes none.
    let client = gateway.tls_client_of("web", "a.test").connect().await;
    is_cut_unread(client, &origin, &gateway, 4 << 10).await;
}

async fn is_cut_unread(
    mut client: crate::support::Connection,
    origin: &Stage,
    gateway: &Gateway,
    piece: usize,
) {
    client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
    let (mut connection, _) = origin.accept_head().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    connection.send(head.as_bytes()).await.unwrap();
    let block = vec![b'x'; piece];
    within("cut", async { while connection.send(&block).await.is_ok() {} }).await;
    let line = gateway.wait_access(|_| true).await;
    assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
}
