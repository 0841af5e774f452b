//! Listeners whose connections begin with a PROXY header.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::{v2, v2_of};
use crate::support::{Connection, Gateway, Origin, field, run, within};

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const TO: &str = "192.0.2.1:443";

/// Listeners `web` (http, h2c too) and `secure` (https) with this list of senders.
fn config(origin: &Origin, senders: &str, more: &str) -> String {
    let key = format!("proxy_protocol: [{senders}]");
    format!(
        "listeners:\n  \
           web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [http/1.1, h2], {key} }}\n  \
           secure: {{ bind: \"127.0.0.1:0\", protocol: https, {key} }}\n\
         sites: {{ localhost: {{ https: both, upstream: \"{}\" }} }}\n{more}\n",
        origin.url()
    )
}

async fn front(origin: &Origin, senders: &str, more: &str) -> Gateway {
    Gateway::start(config(origin, senders, more)).await
}

async fn dial(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let stream = within("connection", socket.connect(to)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn connect(gateway: &Gateway) -> Connection {
    Connection::over(dial("127.0.0.1", gateway.address("web")).await)
}

/// Sends `bytes` and a request after them, and returns what the answer is; `None` without one.
async fn ask(gateway: &Gateway, bytes: &[u8]) -> Option<u16> {
    let mut client = connect(gateway).await;
    let _ = client.send(&[bytes, GET.as_bytes()].concat()).await; // closed by then, perhaps
    client.read_reply(false).await.ok().map(|reply| reply.status)
}

/// The value of `wardgate_proxy_headers_total` for this result of the listener `web`.
async fn counted(gateway: &Gateway, result: &str) -> u64 {
    let start = format!("wardgate_proxy_headers_total{{listener=\"web\",result=\"{result}\"}} ");
    let text = crate::support::Client::new(gateway.admin_address()).get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(start.as_str()));
    line.unwrap_or_else(|| panic!("no {start}")).parse().unwrap()
}

/// Whether the log has it, at this level.
fn says(line: &Value, level: &str, message: &str) -> bool {
    field(line, "level") == level && field(line, "message") == message
}

#[tokio::test]
async fn a_header_says_who_the_client_is_to_everybody_who_asks() {
    let origin = Origin::start().await;
    let filters = "trusted_proxies: [203.0.113.0/24]";
    let gateway = front(&origin, "127.0.0.1", filters).await;
    let tlv = [0x04, 0x00, 0x02, 0x00, 0x00];
    let with_extension = v2(
        0x21,
        0x11,
        &[&[198, 51, 100, 9, 192, 0, 2, 1, 0x30, 0x39, 0x01, 0xbb][..], &tlv].concat(),
    );
    for (header, client) in [
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 12345 443\r\n".to_vec(), "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), "2001:db8::7"),
        (v2_of("198.51.100.8:12345", TO), "198.51.100.8"),
        (v2_of("[2001:db8::8]:12345", "[2001:db8::1]:443"), "2001:db8::8"),
        (v2_of("[::ffff:198.51.100.8]:12345", "[2001:db8::1]:443"), "198.51.100.8"),
        (with_extension, "198.51.100.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
        (v2(0x21, 0x31, &[b'/'; 216]), "127.0.0.1"),
    ] {
        let before = origin.requests().len();
        assert_eq!(ask(&gateway, &header).await, Some(200), "{client}");
        let received = origin.received(before + 1).await;
        assert_eq!(received[before].values("x-forwarded-for"), [client]);
        let line = gateway.wait_accesses(before + 1, |_| true).await.remove(before);
        assert_eq!(field(&line, "client.address"), client, "{line}");
        assert_eq!(field(&line, "network.peer.address"), client, "{line}");
    }
    assert_eq!((counted(&gateway, "client").await, counted(&gateway, "local").await), (6, 3));

    // What the client says beyond that is believed of those whom `trusted_proxies` has.
    let mut client = connect(&gateway).await;
    client.send(&v2_of("203.0.113.1:1", TO)).await.unwrap();
    let request = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.77\r\n\r\n");
    client.send(request.as_bytes()).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    let last = origin.requests().pop().unwrap();
    assert_eq!(last.values("x-forwarded-for"), ["192.0.2.77, 203.0.113.1"]);
}

#[tokio::test]
async fn rules_apply_to_the_client_and_its_end_is_the_local_address() {
    let origin = Origin::start().await;
    let yaml = config(&origin, "127.0.0.1", "").replace(
        "https: both,",
        "https: both, filters: [{ access: { deny: [127.0.0.1, 203.0.113.7] } }],",
    );
    let gateway = Gateway::start(yaml).await;
    assert_eq!(ask(&gateway, &v2_of("203.0.113.6:1", TO)).await, Some(200));
    assert_eq!(ask(&gateway, &v2_of("203.0.113.7:1", TO)).await, Some(403));
    assert_eq!(ask(&gateway, &v2(0x20, 0, b"")).await, Some(403), "a LOCAL one is the sender's");

    // HTTP/1.0 without a Host is for the address that the client connected to.
    let origin = Origin::start().await;
    let yaml = config(&origin, "127.0.0.1", "").replace("localhost:", "\"10.9.9.9\":");
    let gateway = Gateway::start(yaml).await;
    for (destination, status) in [("10.9.9.9:80", 200), ("10.9.9.8:80", 404)] {
        let mut client = connect(&gateway).await;
        client.send(&v2_of("203.0.113.6:1", destination)).await.unwrap();
        client.send(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, status, "{destination}");
    }
}

#[tokio::test]
async fn senders_that_are_not_listed_are_refused() {
    let origin = Origin::start().await;
    let any =
        config(&origin, "127.0.0.2, 127.0.1.0/24", "").replacen("\"127.0.0.1:0\"", "\":0\"", 1); // every address: IPv4 comes as mapped IPv6
    let gateway = Gateway::start(any).await;
    let web = SocketAddr::from(([127, 0, 0, 1], gateway.address("web").port()));
    for (from, is_listed) in
        [("127.0.0.1", false), ("127.0.0.2", true), ("127.0.1.200", true), ("127.0.0.3", false)]
    {
        let mut client = Connection::over(dial(from, web).await);
        let _ = client.send(&[&v2_of("203.0.113.7:1", TO), GET.as_bytes()].concat()).await;
        let reply = client.read_reply(false).await;
        assert_eq!(reply.is_ok(), is_listed, "{from}");
    }
    let told = gateway.wait_log(|line| says(line, "warn", "refused a sender")).await;
    assert_eq!(field(&told, "client.address"), "127.0.0.1", "{told}");
    assert_eq!(field(&told, "listener"), "web");
    assert_eq!(counted(&gateway, "unlisted").await, 2);
    let told = gateway.log().all();
    let told = told.iter().filter(|line| field(line, "message") == "refused a sender");
    assert_eq!(told.count(), 1, "the second is told more quietly");
    assert_eq!(origin.requests().len(), 2);
}

#[tokio::test]
async fn a_connection_without_a_sound_header_is_closed() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "").await;
    let short = v2(0x21, 0x11, &[0; 11]);
    let mut long = v2(0x21, 0x11, &[0; 12]);
    long[14..16].copy_from_slice(&[0xff, 0xff]);
    let mut unchecked = v2_of("203.0.113.7:1", TO);
    unchecked[15] += 7;
    unchecked.extend_from_slice(&[3, 0, 4, 1, 2, 3, 4]);
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    let broken: [&[u8]; 10] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 65536\r\n",
        b"PROXY UNKNOWN\n",
        &endless,
        &short,
        &long,
        &v2(0x22, 0x11, &[0; 12]),
        &unchecked,
    ];
    for bytes in broken {
        let text = String::from_utf8_lossy(bytes);
        let mut client = connect(&gateway).await;
        let _ = client.send(&[bytes, GET.as_bytes()].concat()).await;
        // A reset is as good as an end: bytes were left unread.
        let read = client.read_to_end().await.unwrap_or_default();
        assert_eq!(read, b"", "{text:?}");
    }
    assert_eq!(counted(&gateway, "malformed").await, broken.len() as u64);
    gateway.wait_log(|line| says(line, "warn", "refused a sender")).await;
    assert_eq!(origin.requests().len(), 0);
    assert_eq!(ask(&gateway, &v2_of("203.0.113.7:1", TO)).await, Some(200));
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "").await;
    for header in [b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), v2_of("203.0.113.7:1", TO)]
    {
        let mut client = connect(&gateway).await;
        for byte in &header {
            client.send(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.send(GET.as_bytes()).await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 200);
        let last = origin.requests().pop().unwrap();
        assert_eq!(last.values("x-forwarded-for"), ["203.0.113.7"]);
    }
}

#[tokio::test]
async fn a_header_comes_before_tls_and_may_be_in_one_packet_with_it() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "").await;
    let secure = gateway.address("secure");
    for (header, is_glued) in [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), true),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), false),
        (v2_of("203.0.113.7:1", TO), true),
        (v2_of("203.0.113.7:1", TO), false),
    ] {
        let mut tcp = dial("127.0.0.1", secure).await;
        let mut glue = header;
        if !is_glued {
            tcp.write_all(&glue).await.unwrap();
            glue.clear();
        }
        let mut client = Connection::over(shake_hands(&gateway, Glued { tcp, glue }).await);
        client.send(GET.as_bytes()).await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 200);
        let last = origin.requests().pop().unwrap();
        assert_eq!(last.values("x-forwarded-for"), ["203.0.113.7"]);
        assert_eq!(last.values("x-forwarded-proto"), ["https"]);
    }
    // Whoever speaks plain HTTP behind the header is told.
    let mut client = Connection::over(dial("127.0.0.1", secure).await);
    client.send(&[&v2_of("203.0.113.7:1", TO), GET.as_bytes()].concat()).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 400);
    let line = gateway.wait_access(|line| *field(line, "http.response.status_code") == 400).await;
    assert_eq!(field(&line, "client.address"), "203.0.113.7", "{line}");
}

async fn shake_hands(gateway: &Gateway, stream: Glued) -> tokio_rustls::client::TlsStream<Glued> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(gateway.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    within("handshake", connector.connect(name, stream)).await.unwrap()
}

/// A connection whose first write goes out in one piece with what stands before it.
struct Glued {
    tcp: TcpStream,
    glue: Vec<u8>,
}

impl AsyncRead for Glued {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Glued {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let bytes = [&self.glue, buf].concat();
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, &bytes))?;
        let glued = self.glue.len();
        assert!(written > glued, "a new connection takes a few hundred bytes");
        self.glue.clear();
        Poll::Ready(Ok(written - glued))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_header_may_stand_before_h2_with_prior_knowledge() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "").await;
    let mut client = connect(&gateway).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // GET http://localhost/ by HPACK's static table, and the one literal it takes.
    let block = [&[0x82, 0x86, 0x84, 0x41, 9][..], b"localhost"].concat();
    let frame = [&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1][..], &block].concat();
    let header = v2_of("203.0.113.7:1", TO);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    client.send(&[&header, &preface[..], &settings, &frame].concat()).await.unwrap();
    let received = origin.received(1).await;
    assert_eq!(received[0].values("x-forwarded-for"), ["203.0.113.7"]);
    let line = gateway.wait_access(|line| field(line, "network.protocol.version") == "2").await;
    assert_eq!(field(&line, "client.address"), "203.0.113.7", "{line}");
}

#[tokio::test]
async fn a_slow_header_is_cut_by_the_handshake_deadline() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "limits: { handshake_timeout: 500ms }").await;
    let header = v2_of("203.0.113.7:1", TO);
    let started = Instant::now();
    let mut silent = connect(&gateway).await;
    let mut slow = connect(&gateway).await;
    let mut late = Connection::over(dial("127.0.0.1", gateway.address("secure")).await);
    slow.send(&header[..20]).await.unwrap();
    late.send(&header).await.unwrap(); // the handshake that follows has no time of its own
    for client in [&mut silent, &mut slow, &mut late] {
        assert_eq!(client.read_to_end().await.unwrap_or_default(), b"");
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(counted(&gateway, "timeout").await, 2);
}

#[tokio::test]
async fn connections_are_counted_by_the_client_and_not_by_the_sender() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "limits: { connections_per_ip: 1 }").await;
    let mut kept = Vec::new();
    for header in
        [v2_of("203.0.113.7:1", TO), v2_of("203.0.113.8:1", TO), v2(0x20, 0, b""), v2(0x20, 0, b"")]
    {
        let mut client = connect(&gateway).await;
        client.send(&[&header, GET.as_bytes()].concat()).await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 200);
        kept.push(client);
    }
    assert_eq!(ask(&gateway, &v2_of("203.0.113.7:2", TO)).await, None);
    // Of IPv6 a client has a network, as for `rate_limit`.
    let six = |source: &str| v2_of(&format!("[{source}]:1"), "[2001:db8::1]:443");
    let mut client = connect(&gateway).await;
    client.send(&[&six("2001:db8:1:2::3"), GET.as_bytes()].concat()).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    kept.push(client);
    assert_eq!(ask(&gateway, &six("2001:db8:1:2:ffff::4")).await, None);
    assert_eq!(ask(&gateway, &six("2001:db8:1:3::3")).await, Some(200));
    kept.clear();
    within("room again", async {
        while ask(&gateway, &v2_of("203.0.113.7:3", TO)).await.is_none() {}
    })
    .await;
}

#[tokio::test]
async fn checks_of_a_load_balancer_make_no_noise() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "").await;
    for listener in ["web", "secure"] {
        for bytes in [&b""[..], &v2(0x20, 0, b""), b"PROXY UNKNOWN\r\n", &v2(0x20, 0x11, &[0; 12])]
        {
            let mut client = Connection::over(dial("127.0.0.1", gateway.address(listener)).await);
            client.send(bytes).await.unwrap();
            client.shut_down().await.unwrap();
            assert_eq!(client.read_to_end().await.unwrap_or_default(), b"", "{listener}");
        }
    }
    assert_eq!((counted(&gateway, "local").await, counted(&gateway, "closed").await), (3, 1));
    let log = gateway.log().all();
    let is_noise = |line: &&Value| matches!(field(line, "level").as_str(), Some("warn" | "error"));
    assert_eq!(log.iter().find(is_noise), None);
    assert_eq!(gateway.access().len(), 0);
}

#[tokio::test]
async fn a_reload_asks_the_next_connections_for_a_header_or_no_longer() {
    let origin = Origin::start().await;
    let with = config(&origin, "127.0.0.1", "");
    let without = with.replace(", proxy_protocol: [127.0.0.1]", "");
    let gateway = Gateway::start(&without).await;
    let mut before = connect(&gateway).await;
    before.send(GET.as_bytes()).await.unwrap();
    assert_eq!(before.read_reply(false).await.unwrap().status, 200);

    gateway.reload(&with, 2).await;
    assert_eq!(ask(&gateway, b"").await, None);
    assert_eq!(ask(&gateway, &v2_of("203.0.113.7:1", TO)).await, Some(200));
    before.send(GET.as_bytes()).await.unwrap();
    assert_eq!(before.read_reply(false).await.unwrap().status, 200, "it is a client's as before");

    gateway.reload(&without, 3).await;
    assert_eq!(ask(&gateway, b"").await, Some(200));
    assert_eq!(ask(&gateway, b"PROXY UNKNOWN\r\n").await, Some(400), "no header is asked for");
}

#[tokio::test]
async fn curl_is_understood_over_every_protocol() {
    let origin = Origin::start().await;
    let gateway = front(&origin, "127.0.0.1", "").await;
    let (web, secure) = (gateway.address("web"), gateway.address("secure"));
    let ca = gateway.ca().display().to_string();
    for (number, (url, protocol, shown)) in [
        (format!("http://localhost:{}/", web.port()), "--http1.1", "1.1"),
        (format!("http://localhost:{}/", web.port()), "--http2-prior-knowledge", "2"),
        (format!("https://localhost:{}/", secure.port()), "--http1.1", "1.1"),
        (format!("https://localhost:{}/", secure.port()), "--http2", "2"),
    ]
    .into_iter()
    .enumerate()
    {
        let fixed = ["--silent", "--show-error", "--haproxy-protocol", "--max-time", "20", "-4"];
        let output = run("curl", fixed.into_iter().chain(["--cacert", &ca, protocol, &url])).await;
        assert!(output.status.success(), "{url} {protocol}: {output:?}");
        assert_eq!(output.stdout, b"ok");
        let line = gateway.wait_accesses(number + 1, |_| true).await.remove(number);
        assert_eq!(field(&line, "network.protocol.version"), shown, "{line}");
    }
    assert_eq!(counted(&gateway, "client").await, 2);
}
