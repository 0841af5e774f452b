//! Upgrades under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Request;

use super::*;
use crate::support::{Connection, Origin, Peer};

/// What is asked until it is over, and how much of it was answered. Anything else than the whole
/// answer fails the test.
#[derive(Clone, Default)]
struct Load {
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
}

impl Load {
    fn is_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// On connections that are kept while the gateway lets us, with `pause` between requests.
    async fn keep(self, client: Client, pause: Duration) {
        let mut connection = client.connect().await;
        while self.is_on() {
            connection.send(b"GET /kept HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
            let reply = connection.read_reply(false).await.unwrap();
            assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
            self.count();
            if reply.header("connection") == Some("close") {
                assert_eq!(connection.read_to_end().await.unwrap(), b"");
                connection = client.connect().await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// On connections of their own.
    async fn connect(self, client: Client) {
        while self.is_on() {
            let reply = client.get("/new").await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
            self.count();
        }
    }

    /// Over HTTP/2. What the gateway says it has not begun is asked again (RFC 9113 §6.8).
    async fn stream(self, address: SocketAddr) {
        while self.is_on() {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut streams, connection) = h2::client::handshake(tcp).await.unwrap();
            let connection = tokio::spawn(connection);
            while self.is_on() {
                if futures_util::future::poll_fn(|cx| streams.poll_ready(cx)).await.is_err() {
                    break;
                }
                let request = Request::get("http://app.test/h2").body(()).unwrap();
                let Ok((answer, _)) = streams.send_request(request, true) else { break };
                match answer.await {
                    Ok(answer) => {
                        assert_eq!(answer.status(), 200);
                        let mut body = answer.into_body();
                        let chunk = body.data().await.unwrap().unwrap();
                        assert_eq!(&chunk[..], b"ok");
                        self.count();
                    }
                    Err(error) => {
                        let is_unbegun = error.reason() == Some(h2::Reason::REFUSED_STREAM);
                        assert!(error.is_go_away() || is_unbegun, "{error:?}");
                        break;
                    }
                }
            }
            connection.abort();
        }
    }

    /// The admin listener, which always serves.
    async fn supervise(self, admin: Client) {
        while self.is_on() {
            let reply = admin.get("/ready").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn open_websocket(client: &Client) -> Connection {
    let mut socket = client.connect().await;
    let head =
        b"GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.send(head).await.unwrap();
    let head = String::from_utf8(socket.read_until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    socket
}

async fn echo(socket: &mut Connection) {
    socket.send(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    assert_eq!(socket.read_exact(4).await.unwrap(), [0x81, 2, b'h', b'i']);
}

/// Sites before an origin and a WebSocket server, with `more`.
fn yaml(origin: &Origin, sockets: &Peer, more: &str) -> String {
    format!(
        r#"
listeners:
  web: {{ bind: "127.0.0.1:0", protocol: http, alpn: [h2, http/1.1] }}
  secure: {{ bind: "127.0.0.1:0", protocol: https }}
sites:
  app.test:
    https: both
    certificate: internal
    routes: [ {{ match: {{ path: /ws }}, upstream: "http://{}" }}, {{ upstream: "{}" }} ]
{more}
"#,
        sockets.address(),
        origin.url(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_over_three_upgrades_under_load() {
    let origin = Origin::start().await;
    let sockets = Peer::start("ws_echo.py", &[]).await;
    let more = "shutdown: { grace: 60s }";
    let mut gateways = Generations::start(&yaml(&origin, &sockets, more)).await;
    let plain = gateways.first.client_of("web").host("app.test");
    let secure = gateways.first.tls_client_of("secure", "app.test");
    let mut socket = open_websocket(&plain).await;
    let load = Load::default();
    let mut tasks = tokio::task::JoinSet::new();
    for (client, millis) in [(&plain, 0), (&plain, 7), (&plain, 100), (&secure, 0), (&secure, 31)] {
        tasks.spawn(load.clone().keep(client.clone(), Duration::from_millis(millis)));
    }
    for client in [&plain, &secure, &secure] {
        tasks.spawn(load.clone().connect(client.clone()));
    }
    tasks.spawn(load.clone().stream(gateways.first.address("web")));
    tasks.spawn(load.clone().supervise(gateways.admin()));
    let asked = |load: &Load| load.served.load(Ordering::Relaxed);

    let mut served = vec![gateways.first.id()];
    for _ in 0..3 {
        let before = asked(&load);
        served.push(gateways.upgrade(&[]).await);
        assert!(asked(&load) > before, "requests are answered meanwhile");
        echo(&mut socket).await;
        // One that comes after the upgrade is for the process that serves now.
        let mut other = open_websocket(&plain).await;
        echo(&mut other).await;
    }
    load.is_over.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.expect("no request failed");
    }
    // The first process has nothing left but the WebSocket, the second and third have nothing.
    for pid in &served[1..3] {
        gone(*pid, gateways.directory()).await;
    }
    assert_eq!(gateways.serving().await, served[3]);
    echo(&mut socket).await;
    drop(socket);
    assert_eq!(gateways.first.end().await.code(), Some(0));
    signal(served[3], "TERM");
    gateways.first.exit_status().await; // the last one's streams end with it

    let ends = gateways.first.log().all();
    let ends: Vec<_> = ends.iter().filter(|line| is_message("terminated")(line)).collect();
    assert_eq!(ends.len(), 4, "{ends:?}");
    assert!(ends.iter().all(|end| *field(end, "dropped_lines") == 0), "{ends:?}");
    let lines = gateways.first.access();
    let broken = lines.iter().find(|line| !line.is_object());
    assert_eq!(broken, None, "lines of two processes do not mix");
    let answered = lines.iter().filter(|line| *field(line, "http.response.status_code") == 200);
    assert_eq!(answered.count(), asked(&load), "every answer has its line");
    eprintln!("{} requests over three upgrades", asked(&load));
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_files_of_two_processes_lose_no_line() {
    let origin = Origin::start().await;
    let sockets = Peer::start("ws_echo.py", &[]).await;
    let more = "log: { access: { file: access.log, rotate: [16KiB], keep: 10000 } }\n\
                shutdown: { grace: 5s }";
    let mut gateways = Generations::start(&yaml(&origin, &sockets, more)).await;
    let plain = gateways.first.client_of("web").host("app.test");
    let load = Load::default();
    let mut tasks = tokio::task::JoinSet::new();
    for millis in [0, 3] {
        tasks.spawn(load.clone().keep(plain.clone(), Duration::from_millis(millis)));
        tasks.spawn(load.clone().connect(plain.clone()));
    }
    let last = gateways.upgrade(&[]).await;
    load.is_over.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.expect("no request failed");
    }
    assert_eq!(gateways.first.end().await.code(), Some(0));
    signal(last, "TERM");
    gone(last, gateways.directory()).await;
    let entries = fs::read_dir(gateways.directory()).unwrap().map(|entry| entry.unwrap().path());
    let logs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let texts: Vec<String> = logs.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(texts.len() > 2, "{} files", texts.len());
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    assert!(lines.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(lines.len(), load.served.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_client_that_is_idle_gets_one_more_answer_and_a_stop_cuts_nothing_twice() {
    let origin = Origin::start().await;
    let sockets = Peer::start("ws_echo.py", &[]).await;
    let more = "shutdown: { grace: 20s }";
    let mut gateways = Generations::start(&yaml(&origin, &sockets, more)).await;
    let plain = gateways.first.client_of("web").host("app.test");
    let (mut kept, mut silent) = (plain.connect().await, plain.connect().await);
    let ask = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    kept.send(ask).await.unwrap();
    assert_ne!(kept.read_reply(false).await.unwrap().header("connection"), Some("close"));
    origin.hold();
    let mut held = plain.connect().await;
    held.send(ask).await.unwrap();
    origin.received(2).await;
    let last = gateways.upgrade(&[]).await;
    gateways.first.wait_log(is_message("stopping")).await;
    // systemd tells all processes of a unit that is stopped.
    gateways.first.signal("TERM");
    gateways.first.wait_log(is_message("finishes what is in flight already")).await;
    origin.release();
    for connection in [&mut kept, &mut silent] {
        connection.send(ask).await.unwrap();
    }
    for mut connection in [kept, silent, held] {
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        assert_eq!(connection.read_to_end().await.unwrap(), b"");
    }
    assert_eq!(gateways.first.end().await.code(), Some(0));
    assert_eq!(gateways.serving().await, last);
}
