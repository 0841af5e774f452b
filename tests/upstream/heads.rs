//! What stands around a backend's body: its head, what comes before that, and trailers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::{config, front};
use crate::support::{Gateway, Peer, field};

/// An h2c origin. `/fields/N/BYTES` is answered with that many fields of such values, and `/trailers/N`
/// with `ok` and that many trailers behind those that every response has.
pub(super) struct H2Origin {
    pub(super) port: u16,
    connections: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl H2Origin {
    pub(super) async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream));
            }
        });
        Self { port, connections, accepting }
    }

    async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// How many connections it has had.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut answer))) = connection.accept().await {
        let path: Vec<&str> = request.uri().path().split('/').collect();
        let number = |at: usize| path[at].parse().unwrap();
        let mut response = Response::new(());
        let trailers = match path[1] {
            "fields" => {
                *response.headers_mut() = fields(number(2), number(3));
                HeaderMap::new()
            }
            _ => fields(number(2), 1),
        };
        let mut body = answer.send_response(response, false).unwrap();
        body.send_data(Bytes::from_static(b"ok"), false).unwrap();
        let mut all = trailers;
        for (name, value) in TRAILERS {
            all.append(name, HeaderValue::from_static(value));
        }
        body.send_trailers(all).unwrap();
    }
}

/// What stays, and then what does not.
const TRAILERS: [(&str, &str); 12] = [
    ("grpc-status", "0"),
    ("grpc-message", "fine"),
    ("x-checksum", "1234"),
    ("etag", "\"a\""),
    ("x-request-id", "17"),
    ("x-forwarded-by", "app"),
    ("content-length", "77"),
    ("set-cookie", "session=evil"),
    ("location", "https://evil.test/"),
    ("cache-control", "public"),
    ("access-control-allow-origin", "*"),
    ("set_cookie", "session=evil"),
];

fn fields(count: usize, bytes: usize) -> HeaderMap {
    let value = HeaderValue::try_from("y".repeat(bytes)).unwrap();
    let name = |index: usize| HeaderName::try_from(format!("x-{index}")).unwrap();
    (0..count).map(|index| (name(index), value.clone())).collect()
}

async fn h2_front(origin: &H2Origin) -> Gateway {
    let pool = format!("servers: [\"http://127.0.0.1:{}\"], protocol: h2c", origin.port);
    Gateway::start(
        config(&pool).replace("protocol: http }", "protocol: http, alpn: [h2, http/1.1] }"),
    )
    .await
}

#[tokio::test]
async fn a_head_over_h2_is_no_larger_than_one_over_http1() {
    let origin = H2Origin::start().await;
    let gateway = h2_front(&origin).await;
    let client = gateway.client();
    for (path, status) in [
        ("/fields/50/10", 200),
        ("/fields/300/10", 502),
        ("/fields/20000/1", 502),
        ("/fields/50/10000", 200),
        ("/fields/200/20000", 502),
        ("/fields/1/10", 200),
    ] {
        let reply = client.get(path).await;
        assert_eq!(reply.status, status, "{path}");
    }
    for error in ["more than 256 header fields", "more than 1024 KiB of header fields"] {
        let event = gateway.wait_log(|line| field(line, "error") == error).await;
        assert_eq!(field(&event, "message"), "refused a response");
    }
}

/// The trailers of a response over h2; `None` when it is not there as a whole.
async fn trailers(address: SocketAddr, path: &str) -> Option<HeaderMap> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut streams, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://app.test{path}")).body(()).unwrap();
    let (response, _) = streams.send_request(request, true).unwrap();
    let response = response.await.unwrap();
    let is_whole = response.status() == 200;
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.ok()?.len()).unwrap();
    }
    let trailers = body.trailers().await.ok()?;
    connection.abort();
    trailers.filter(|_| is_whole)
}

#[tokio::test]
async fn trailers_are_those_that_belong_there() {
    let origin = H2Origin::start().await;
    let gateway = h2_front(&origin).await;
    let address = gateway.address("web");
    let mut seen: Vec<(String, String)> = trailers(address, "/trailers/0")
        .await
        .unwrap()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let mut wanted =
        TRAILERS[..6].iter().map(|(n, v)| ((*n).into(), (*v).into())).collect::<Vec<_>>();
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted);

    assert_eq!(trailers(address, "/trailers/300").await, None, "nobody may take it for whole");
    let error = "more than 256 header fields";
    gateway.wait_log(|line| field(line, "error") == error).await;
}

#[tokio::test]
async fn a_length_goes_on_in_one_spelling_and_few_responses_before_the_last() {
    let origin = Peer::start("raw_origin.py", &[]).await;
    let gateway = front(&format!("servers: [\"http://{}\"]", origin.address())).await;
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 002\r\n\r\nok";
    let hint = "HTTP/1.1 103 E\r\n\r\n";
    for (hints, status) in [(0, 200), (250, 200), (251, 502)] {
        let answer = format!("{}{ok}", hint.repeat(hints));
        let hex: String = answer.bytes().map(|byte| format!("{byte:02x}")).collect();
        let reply = gateway.client().get(&format!("/hex/{hex}/keep")).await;
        assert_eq!(reply.status, status, "after {hints}");
        if status == 200 {
            assert_eq!(reply.informational.len(), hints);
            assert_eq!((reply.header("content-length"), &*reply.text()), (Some("2"), "ok"));
        }
    }
}
