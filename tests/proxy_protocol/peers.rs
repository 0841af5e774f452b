//! HAProxy in front of the gateway, nginx behind it: what they send is understood, and they
//! understand what is sent.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Client, Connection, Gateway, Origin, Program, field, steady, within};

/// Waits until somebody listens there.
async fn listening(address: SocketAddr) {
    within("listening program", async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// HAProxy, which passes connections on to a server with `options`, and where it listens.
async fn haproxy(directory: &TempDir, server: SocketAddr, options: &str) -> (Program, SocketAddr) {
    let (address, _) = steady();
    let config = format!(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         listen front\n  bind {address}\n  server gateway {server} {options}\n"
    );
    let file = directory.path().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let program = Program::start(Command::new("haproxy").args(["-db", "-f"]).arg(&file));
    listening(address).await;
    (program, address)
}

#[tokio::test]
async fn haproxy_says_whose_connections_it_passes_on() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(format!(
        "listeners:\n  \
           web: {{ bind: \"127.0.0.1:0\", protocol: http, proxy_protocol: [127.0.0.1] }}\n  \
           secure: {{ bind: \"127.0.0.1:0\", protocol: https, proxy_protocol: [127.0.0.1] }}\n\
         sites: {{ localhost: {{ https: both, upstream: \"{}\" }} }}\n",
        origin.url()
    ))
    .await;
    let all = "proxy-v2-options crc32c,unique-id,authority,ssl,cert-cn";
    let options =
        ["send-proxy", "send-proxy-v2", &format!("send-proxy-v2 {all}"), "send-proxy-v2-ssl"];
    for options in options {
        let directory = TempDir::new().unwrap();
        let (_program, front) = haproxy(&directory, gateway.address("web"), options).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let mut client = Connection::over(socket.connect(front).await.unwrap());
        client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert_eq!(client.read_reply(false).await.unwrap().status, 200, "{options}");
        let last = origin.requests().pop().unwrap();
        assert_eq!(last.values("x-forwarded-for"), ["127.0.0.9"], "{options}");
    }
    let directory = TempDir::new().unwrap();
    // Its checks are LOCAL connections that end with a reset.
    let options = "send-proxy-v2 check check-send-proxy inter 200ms";
    let (_program, front) = haproxy(&directory, gateway.address("secure"), options).await;
    let reply = Client::new(front).tls(&gateway.ca()).host("localhost").get("/").await;
    assert_eq!(reply.status, 200);
    let line = gateway.wait_access(|line| field(line, "listener") == "secure").await;
    let local = "wardgate_proxy_headers_total{listener=\"secure\",result=\"local\"} ";
    within("check of HAProxy's", async {
        loop {
            let text = Client::new(gateway.admin_address()).get("/metrics").await.text();
            let count = text.lines().find_map(|line| line.strip_prefix(local)).unwrap();
            if count != "0" {
                return;
            }
        }
    })
    .await;
    assert_eq!(field(&line, "client.address"), "127.0.0.1");
    let log = gateway.log().all();
    assert!(!log.iter().any(|line| field(line, "level") == "warn"), "{}", gateway.log());
}

/// nginx, which answers with what a PROXY header has told it: plain, TLS, h2, and h2c.
struct Nginx {
    _program: Program,
    /// In that order.
    ports: [SocketAddr; 4],
    directory: TempDir,
}

impl Nginx {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(path.join("nginx.pem"), made.cert.pem()).unwrap();
        fs::write(path.join("nginx.key"), made.signing_key.serialize_pem()).unwrap();
        let ((plain, tls), (h2, h2c)) = (steady(), steady());
        let shown = path.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {shown}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {shown}/nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; {temporary}\
             ssl_certificate {shown}/nginx.pem; ssl_certificate_key {shown}/nginx.key;\n\
             server {{ listen {plain} proxy_protocol; listen {tls} ssl proxy_protocol;\n\
             listen {h2} ssl http2 proxy_protocol; listen {h2c} http2 proxy_protocol;\n\
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port \
             $proxy_protocol_server_addr $proxy_protocol_server_port $server_protocol \
             $connection $connection_requests\"; }} }} }}\n"
        );
        fs::write(path.join("nginx.conf"), config).unwrap();
        let program = Program::start(
            Command::new("nginx").arg("-e").arg("stderr").arg("-c").arg(path.join("nginx.conf")),
        );
        listening(h2c).await;
        Self { _program: program, ports: [plain, tls, h2, h2c], directory }
    }
}

#[tokio::test]
async fn nginx_learns_whose_requests_it_gets_over_every_protocol() {
    let nginx = Nginx::start().await;
    let [plain, tls, h2, h2c] = nginx.ports;
    let ca = nginx.directory.path().join("nginx.pem");
    let ca = ca.display();
    for version in ["v1", "v2"] {
        let trusting = format!("proxy_protocol: {version}, tls: {{ ca: \"{ca}\" }}");
        for (server, keys, protocol) in [
            (format!("http://{plain}"), format!("proxy_protocol: {version}"), "HTTP/1.1"),
            (format!("https://localhost:{}", tls.port()), trusting.clone(), "HTTP/1.1"),
            (
                format!("https://localhost:{}", h2.port()),
                format!("{trusting}, protocol: h2"),
                "HTTP/2.0",
            ),
            (
                format!("http://{h2c}"),
                format!("proxy_protocol: {version}, protocol: h2c"),
                "HTTP/2.0",
            ),
        ] {
            let gateway = Gateway::start(format!(
                "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
                 sites: {{ \"*\": {{ upstream: app }} }}\n\
                 upstreams: {{ app: {{ servers: [\"{server}\"], {keys}, \
                 health: {{ path: /, expect: {{ body: \"127.0.0.1\" }}, initial: healthy }} }} }}\n"
            ))
            .await;
            let mut seen = Vec::new();
            for _ in 0..2 {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
                let stream = socket.connect(gateway.address("web")).await.unwrap();
                let port = stream.local_addr().unwrap().port();
                let to = gateway.address("web").port();
                let mut client = Connection::over(stream);
                for number in 1..=2 {
                    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
                    let text = client.read_reply(false).await.unwrap().text();
                    let expected = format!("127.0.0.9 {port} 127.0.0.1 {to} {protocol} ");
                    let rest = text.strip_prefix(&expected);
                    let rest = rest.unwrap_or_else(|| panic!("{server} {keys}: {text}"));
                    let (connection, requests) = rest.split_once(' ').unwrap();
                    assert_eq!(requests, number.to_string(), "kept for its client: {text}");
                    seen.push(connection.to_owned());
                }
            }
            assert!(seen[0] == seen[1] && seen[1] != seen[2] && seen[2] == seen[3], "{seen:?}");
        }
    }
}
