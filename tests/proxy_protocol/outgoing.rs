//! Pools whose connections begin with a PROXY header.

use std::net::SocketAddr;

use serde_json::json;
use tokio::net::TcpSocket;

use super::v2_of;
use crate::support::{Connection, Gateway, Peer, Stage, field, within};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn config(stage: &Stage, pool: &str, more: &str) -> String {
    format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: app }} }}\n\
         upstreams: {{ app: {{ servers: [\"{}\"], {pool} }} }}\n{more}\n",
        stage.url()
    )
}

/// A client's connection and its own address.
async fn connect(gateway: &Gateway) -> (Connection, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let stream = within("connection", socket.connect(gateway.address("web"))).await.unwrap();
    let address = stream.local_addr().unwrap();
    (Connection::over(stream), address)
}

/// Has `origin` answer the request that `client` sends.
async fn exchange(client: &mut Connection, origin: &mut Connection) -> String {
    let head = origin.read_until(b"\r\n\r\n").await.unwrap();
    origin.send(OK).await.unwrap();
    assert_eq!(client.read_reply(false).await.unwrap().status, 200);
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_connection_begins_with_the_clients_address_and_serves_only_this_client() {
    for version in ["v1", "v2"] {
        let stage = Stage::open().await;
        let gateway =
            Gateway::start(config(&stage, &format!("proxy_protocol: {version}"), "")).await;
        let web = gateway.address("web");
        let mut last = None;
        for _ in 0..2 {
            let (mut client, address) = connect(&gateway).await;
            client.send(GET).await.unwrap();
            let mut origin = stage.accept().await;
            let expected = match version {
                "v1" => {
                    let (from, to) = (address.port(), web.port());
                    format!("PROXY TCP4 127.0.0.9 127.0.0.1 {from} {to}\r\n").into_bytes()
                }
                _ => v2_of(&address.to_string(), &web.to_string()),
            };
            assert_eq!(origin.read_exact(expected.len()).await.unwrap(), expected);
            let head = exchange(&mut client, &mut origin).await;
            assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head:?}");
            client.send(GET).await.unwrap();
            let again = exchange(&mut client, &mut origin).await;
            assert!(again.starts_with("GET / HTTP/1.1\r\n"), "kept, without a header: {again:?}");
            last = Some((client, origin));
        }
        let lines = gateway.wait_accesses(4, |_| true).await;
        let is_dialled = |at: usize| field(&lines[at], "connect_ms").is_number();
        assert_eq!([0, 1, 2, 3].map(is_dialled), [true, false, true, false]);
        // It is of no use once its client has gone.
        let (client, mut origin) = last.unwrap();
        drop(client);
        assert_eq!(origin.read_to_end().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn requests_of_several_clients_on_one_connection_do_not_share_either() {
    let stage = Stage::open().await;
    let more = "trusted_proxies: [127.0.0.9]";
    let gateway = Gateway::start(config(&stage, "proxy_protocol: v2", more)).await;
    let web = gateway.address("web").to_string();
    let (mut client, _) = connect(&gateway).await;
    let mut origins = Vec::new();
    for source in ["203.0.113.7:0", "203.0.113.7:0", "203.0.113.8:0", "[2001:db8::7]:0"] {
        let address = source.parse::<SocketAddr>().unwrap().ip();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n");
        client.send(request.as_bytes()).await.unwrap();
        if source != "203.0.113.7:0" || origins.is_empty() {
            let mut origin = stage.accept().await;
            let expected = match source.starts_with('[') {
                true => {
                    v2_of(source, &format!("[::ffff:127.0.0.1]:{}", gateway.address("web").port()))
                }
                false => v2_of(source, &web),
            };
            assert_eq!(origin.read_exact(expected.len()).await.unwrap(), expected, "{source}");
            origins.push(origin);
        }
        exchange(&mut client, origins.last_mut().unwrap()).await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_that_speaks_of_nobody_is_the_client() {
    let stage = Stage::open().await;
    let more = "trusted_proxies: [127.0.0.9]";
    let gateway = Gateway::start(config(&stage, "proxy_protocol: v2", more)).await;
    let (mut client, address) = connect(&gateway).await;
    client.send(GET).await.unwrap();
    let mut origin = stage.accept().await;
    let expected = v2_of(&address.to_string(), &gateway.address("web").to_string());
    assert_eq!(origin.read_exact(expected.len()).await.unwrap(), expected);
    exchange(&mut client, &mut origin).await;
}

#[tokio::test]
async fn an_h2_connection_of_somebodys_own_goes_with_a_request_that_is_cut_short() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (pool, fields) in [
        ("protocol: h2c, proxy_protocol: v2", ["x-a", "b"]),
        ("protocol: h2c", ["authorization", "NTLM TlR="]),
    ] {
        let stage = Stage::open().await;
        let yaml = config(&stage, pool, "limits: { request_body_timeout: 300ms }")
            .replace("protocol: http }", "protocol: http, alpn: [h2, http/1.1] }");
        let gateway = Gateway::start(yaml).await;
        let headers = json!([
            [":method", "POST"],
            [":scheme", "http"],
            [":authority", "a"],
            [":path", "/"],
            ["content-length", "10"],
            fields,
        ]);
        let scenario = json!({"address": gateway.address("web").to_string(), "steps": [
            {"request": {"stream": 1, "headers": headers, "body": "a", "open": true}},
            {"wait": "closed"},
        ]});
        let client = tokio::spawn(Peer::run_result("h2_client.py", scenario));
        let mut origin = stage.accept().await;
        origin.read_until(PREFACE).await.unwrap();
        origin.send(SETTINGS).await.unwrap();
        let line = gateway.wait_access(|_| true).await;
        assert_eq!(field(&line, "error.type"), "request_timeout", "{line}");
        // The client stays where it is.
        origin.read_to_end().await.unwrap();
        assert!(!client.is_finished(), "{pool}");
        client.abort();
    }
}

#[tokio::test]
async fn a_header_that_came_in_goes_out() {
    let stage = Stage::open().await;
    let yaml = config(&stage, "proxy_protocol: v1", "")
        .replace("protocol: http }", "protocol: http, proxy_protocol: [127.0.0.9] }");
    let gateway = Gateway::start(yaml).await;
    let (mut client, _) = connect(&gateway).await;
    client.send(&v2_of("[2001:db8::7]:12345", "[2001:db8::1]:443")).await.unwrap();
    client.send(GET).await.unwrap();
    let mut origin = stage.accept().await;
    let line = origin.read_until(b"\r\n").await.unwrap();
    assert_eq!(line, b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n");
    exchange(&mut client, &mut origin).await;
}

#[tokio::test]
async fn checks_say_that_they_are_the_gateways_own() {
    for (version, local) in [("v1", &b"PROXY UNKNOWN\r\n"[..]), ("v2", LOCAL)] {
        let stage = Stage::open().await;
        let pool = format!("proxy_protocol: {version}, health: {{ path: /health }}");
        let gateway = Gateway::start(config(&stage, &pool, "")).await;
        let mut origin = stage.accept().await;
        assert_eq!(origin.read_exact(local.len()).await.unwrap(), local);
        let head = origin.read_until(b"\r\n\r\n").await.unwrap();
        assert!(head.starts_with(b"GET /health HTTP/1.1\r\n"));
        origin.send(OK).await.unwrap();
        gateway.wait_log(|line| field(line, "message") == "became healthy").await;
    }
}

#[tokio::test]
async fn where_there_is_no_room_the_oldest_connection_goes() {
    let stage = Stage::open().await;
    let pool = "proxy_protocol: v1, limits: { connections: 1 }";
    let gateway = Gateway::start(config(&stage, pool, "")).await;
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let (mut client, _) = connect(&gateway).await;
        client.send(GET).await.unwrap();
        let mut origin = stage.accept().await;
        origin.read_until(b"\r\n").await.unwrap();
        exchange(&mut client, &mut origin).await;
        pairs.push((client, origin));
    }
    let (_first, first_origin) = &mut pairs[0];
    assert_eq!(first_origin.read_to_end().await.unwrap(), b"", "closed, though its client stays");
    let (last, last_origin) = &mut pairs[1];
    last.send(GET).await.unwrap();
    exchange(last, last_origin).await;
}

#[tokio::test]
async fn a_reload_leaves_nobody_a_connection_that_began_otherwise() {
    let stage = Stage::open().await;
    let gateway = Gateway::start(config(&stage, "balance: random", "")).await;
    let (mut client, address) = connect(&gateway).await;
    client.send(GET).await.unwrap();
    let mut plain = stage.accept().await;
    exchange(&mut client, &mut plain).await;

    gateway.reload(&config(&stage, "balance: random, proxy_protocol: v2", ""), 2).await;
    client.send(GET).await.unwrap();
    let mut announced = stage.accept().await;
    let expected = v2_of(&address.to_string(), &gateway.address("web").to_string());
    assert_eq!(announced.read_exact(expected.len()).await.unwrap(), expected);
    exchange(&mut client, &mut announced).await;

    gateway.reload(&config(&stage, "balance: random", ""), 3).await;
    client.send(GET).await.unwrap();
    exchange(&mut client, &mut plain).await;
}
