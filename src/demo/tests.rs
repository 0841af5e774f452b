use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// A backend that serves until the test ends it.
struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start() -> Running {
    let backend = DemoBackend::bind("127.0.0.1:0".parse().unwrap(), "one").await.unwrap();
    let address = backend.local_addr();
    let stop = CancellationToken::new();
    let task = tokio::spawn(backend.serve(stop.clone()));
    Running { address, stop, task }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// All that comes back for `request`, whose last exchange must close the connection.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> (String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
        let answer = self.exchange(&request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

#[tokio::test]
async fn a_request_is_echoed_as_json() {
    let backend = start().await;
    let answer = backend
        .exchange(
            "POST /a/b?c=d HTTP/1.1\r\nHost: demo\r\nX-One: 1\r\nX-One: 2\r\n\
             Transfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: close\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("x-demo-backend: one"), "{head}");
    let mut echo: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(echo["client"].take().as_str().unwrap().starts_with("127.0.0.1:"));
    let expected = json!({
        "server": "one", "client": null, "method": "POST", "path": "/a/b", "query": "c=d",
        "version": "HTTP/1.1",
        "headers": [
            ["host", "demo"], ["x-one", "1"], ["x-one", "2"],
            ["transfer-encoding", "chunked"], ["trailer", "x-sum"], ["connection", "close"],
        ],
        "body": "hello", "body_bytes": 5, "trailers": [["x-sum", "7"]],
    });
    assert_eq!(echo, expected);
}

#[tokio::test]
async fn each_path_answers_as_promised() {
    let backend = start().await;
    let table = [
        ("/health", "200 OK", "ok\n"),
        ("/status/503", "503 Service Unavailable", "503 Service Unavailable\n"),
        ("/status/204", "204 No Content", ""),
        ("/status/101", "400 Bad Request", "/status/N takes 200 to 599\n"),
        ("/status/x", "400 Bad Request", "/status/N takes 200 to 599\n"),
        ("/bytes/20", "200 OK", "0123456789abcdef0123"),
        ("/bytes/0", "200 OK", ""),
        ("/bytes/1073741825", "400 Bad Request", "/bytes/N takes 0 to 1073741824\n"),
        ("/ws", "426 Upgrade Required", "this is a WebSocket of version 13\n"),
    ];
    for (path, status, expected) in table {
        let (head, body) = backend.get(path).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
        assert_eq!(body, expected, "{path}");
    }
    let (_, body) = backend.get("/slow?seconds=0").await;
    assert!(body.contains("\"path\": \"/slow\""), "{body}");
}

#[tokio::test]
async fn a_stream_is_lines_or_events() {
    let backend = start().await;
    let (head, body) = backend.get("/stream?count=2&every=0").await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(body.contains("tick 1 of 2\n") && body.contains("tick 2 of 2\n"), "{body}");

    let answer = backend
        .exchange(
            "GET /stream?count=1 HTTP/1.1\r\nHost: demo\r\nAccept: text/event-stream\r\n\
             Connection: close\r\n\r\n",
        )
        .await;
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    assert!(answer.contains("id: 1\ndata: tick 1 of 1\n\n"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_head_has_no_body() {
    let backend = start().await;
    let answer = backend
        .exchange(
            "HEAD /bytes/1000 HTTP/1.1\r\nHost: demo\r\n\r\n\
             GET /health HTTP/1.1\r\nHost: demo\r\n\r\n\
             GET /bytes/3 HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n",
        )
        .await;
    let heads: Vec<&str> = answer.split("\r\n\r\n").collect();
    assert!(heads[0].contains("content-length: 1000"), "{answer}");
    assert!(heads[1].starts_with("HTTP/1.1 200"), "no body after HEAD: {answer}");
    assert!(heads[2].starts_with("ok\nHTTP/1.1 200"), "{answer}");
    assert_eq!(heads[3], "012");
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_before_it_sends() {
    let backend = start().await;
    let mut stream = backend.connect().await;
    let head = "POST /mirror HTTP/1.1\r\nHost: demo\r\nContent-Length: 4\r\n\
                Expect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_large_upload_is_counted_and_repeated_in_part() {
    let backend = start().await;
    let request = format!(
        "PUT / HTTP/1.1\r\nHost: demo\r\nContent-Length: 3000000\r\nConnection: close\r\n\r\n{}",
        "x".repeat(3_000_000)
    );
    let answer = backend.exchange(&request).await;
    let echo: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(echo["body_bytes"], 3_000_000);
    assert_eq!(echo["body"].as_str().unwrap().len(), 64 * 1024);
}

#[tokio::test]
async fn a_websocket_echoes_on_any_path_and_closes_at_the_end() {
    let backend = start().await;
    let url = format!("ws://{}/chat", backend.address);
    let stream = backend.connect().await;
    let (mut socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(response.headers()["x-demo-backend"], "one");
    use futures_util::{SinkExt, StreamExt};
    for message in [Message::text("hello"), Message::binary(vec![0; 100_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("p".into()));

    backend.stop.cancel();
    let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(frame.code), 1001);
    drop(socket);
    backend.task.await.unwrap();
}

#[tokio::test]
async fn stopping_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let backend = start().await;
    let mut idle = backend.connect().await;
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: demo\r\n\r\n").await.unwrap();
    let mut first = [0; 1];
    idle.read_exact(&mut first).await.unwrap();

    let mut busy = backend.connect().await;
    let request = b"GET /stream?count=3&every=100 HTTP/1.1\r\nHost: demo\r\n\r\n";
    busy.write_all(request).await.unwrap();
    busy.read_exact(&mut first).await.unwrap();
    backend.stop.cancel();

    let mut rest = String::new();
    busy.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("tick 3 of 3"), "{rest}");
    idle.read_to_string(&mut rest).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(5), backend.task).await;
    waited.expect("nothing is left to wait for").unwrap();
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let backend = start().await;
    for garbage in ["\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let answer = backend.exchange(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(backend.get("/health").await.1, "ok\n");
}

#[tokio::test]
async fn a_name_that_no_header_can_carry_is_refused() {
    let address = "127.0.0.1:0".parse().unwrap();
    let error = DemoBackend::bind(address, "a\r\nb").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
