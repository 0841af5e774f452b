//! `compress`, read by decoders that are not ours.

use std::io::Read;

use serde_json::json;

use super::{gateway, h2_values, play, request};
use crate::support::{Answer, Connection, Gateway, Origin, Peer, Stage, run};

const SITE: &str = "sites:\n  app.test:\n    https: both\n    certificate: internal\n    \
    filters: [ { compress: [zstd, br, gzip] } ]\n    routes:\n      \
    - { match: { path: /respond }, respond: { status: 200, body: BODY, headers: { Content-Type: text/plain } } }\n      \
    - { upstream: ORIGIN }\n";

/// 4 KiB of text.
fn text() -> String {
    "The quick brown fox jumps over the lazy dog. ".repeat(92)
}

/// Answers with the text: of its type by the path, chunked below /chunked.
async fn origin() -> Origin {
    Origin::answering(|received| {
        let body = text();
        let kind = if received.target.ends_with(".png") { "image/png" } else { "text/html" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nETag: \"abc\"\r\n");
        let body = if received.method == "HEAD" {
            format!("Content-Length: {}\r\n\r\n", body.len())
        } else if received.target.starts_with("/chunked") {
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
        } else {
            format!("Content-Length: {}\r\n\r\n{body}", body.len())
        };
        Answer::Bytes(format!("{head}{body}").into_bytes())
    })
    .await
}

async fn start(origin: &str) -> Gateway {
    gateway(origin, &SITE.replace("BODY", &format!("{:?}", text()))).await
}

fn decoded(coding: Option<&str>, body: &[u8]) -> String {
    let mut text = String::new();
    let read = match coding {
        Some("zstd") => zstd::stream::read::Decoder::new(body).unwrap().read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_string(&mut text),
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_string(&mut text),
        Some(other) => panic!("unknown coding {other}"),
        None => (&mut &*body).read_to_string(&mut text),
    };
    read.unwrap_or_else(|error| panic!("{coding:?}: {error}"));
    text
}

#[tokio::test]
async fn the_client_gets_the_coding_it_likes_best() {
    let origin = origin().await;
    let gateway = start(&origin.url()).await;
    let client = gateway.client_of("web").host("app.test");
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, deflate, br", Some("br")),
        ("gzip", Some("gzip")),
        ("gzip;q=1, br;q=0.5, zstd;q=0.1", Some("gzip")),
        ("zstd;q=0, *", Some("br")),
        ("identity;q=0, *;q=0.1", Some("zstd")),
        ("*;q=0", None),
        ("identity, gzip;q=0.9", None),
        ("deflate", None),
    ] {
        for path in ["/", "/chunked", "/respond"] {
            let fields = format!("Accept-Encoding: {accept}\r\n");
            let reply = client.send("GET", path, &fields, b"").await;
            assert_eq!(reply.header("content-encoding"), coding, "{accept} {path}");
            assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "{accept} {path}");
            assert!(decoded(coding, &reply.body) == text(), "{accept} {path}");
            assert!(coding.is_none() || reply.body.len() < 1000, "{accept} {path}");
            if path != "/respond" {
                let tag = if coding.is_some() { "W/\"abc\"" } else { "\"abc\"" };
                assert_eq!(reply.header("etag"), Some(tag), "{accept} {path}");
            }
        }
        let steps = json!([
            {"request": request(1, "GET", "/", &[("accept-encoding", accept)])},
            {"wait": "end", "stream": 1},
        ]);
        let result = play(&gateway, steps).await;
        let found = h2_values(&result["streams"]["1"], "content-encoding");
        assert_eq!(found.first().map(String::as_str), coding, "{accept} on h2");
    }
    let picture = client.send("GET", "/a.png", "Accept-Encoding: gzip\r\n", b"").await;
    assert_eq!((picture.header("content-encoding"), picture.header("vary")), (None, None));
    let head = client.send("HEAD", "/", "Accept-Encoding: gzip\r\n", b"").await;
    assert_eq!(head.header("content-encoding"), Some("gzip"), "as GET would get it");
    assert_eq!(head.header("content-length"), None);
    let small = client.send("GET", "/nowhere", "Accept-Encoding: gzip\r\n", b"").await;
    assert_eq!(small.status, 200);
}

#[tokio::test]
async fn curl_reads_what_it_asked_for() {
    let origin = origin().await;
    let gateway = start(&origin.url()).await;
    let address = gateway.address("web");
    for (path, version) in [
        ("/", "--http1.1"),
        ("/chunked", "--http1.1"),
        ("/", "--http2-prior-knowledge"),
        ("/chunked", "--http1.0"),
    ] {
        let url = format!("http://{address}{path}");
        let host = "Host: app.test";
        let arguments = ["-sS", "--noproxy", "*", "--compressed", version, "--header", host, &url];
        let output = run("curl", arguments).await;
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout) == text(), "{path} {version}: {output:?}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_an_encoded_body_without_chunks() {
    let origin = origin().await;
    let gateway = start(&origin.url()).await;
    for path in ["/", "/chunked"] {
        let mut connection = gateway.client_of("web").connect().await;
        let head =
            format!("GET {path} HTTP/1.0\r\nHost: app.test\r\nAccept-Encoding: gzip\r\n\r\n");
        connection.send(head.as_bytes()).await.unwrap();
        let reply = connection.read_reply(false).await.unwrap();
        assert_eq!(reply.header("transfer-encoding"), None, "{path}");
        assert!(decoded(reply.header("content-encoding"), &reply.body) == text(), "{path}");
    }
}

#[tokio::test]
async fn events_are_delivered_one_by_one() {
    let stage = Stage::open().await;
    let gateway = start(&stage.url()).await;
    for coding in ["gzip", "br", "zstd"] {
        let mut client = gateway.client_of("web").connect().await;
        let head =
            format!("GET /events HTTP/1.1\r\nHost: app.test\r\nAccept-Encoding: {coding}\r\n\r\n");
        client.send(head.as_bytes()).await.unwrap();
        let (mut origin, _) = stage.accept_head().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        origin.send(head.as_bytes()).await.unwrap();
        let head = String::from_utf8(client.read_until(b"\r\n\r\n").await.unwrap()).unwrap();
        assert!(
            head.to_ascii_lowercase().contains(&format!("content-encoding: {coding}")),
            "{head}"
        );
        let (mut body, mut expected) = (Vec::new(), String::new());
        for number in 0..5 {
            let event = format!("data: {number}\n\n");
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            origin.send(chunk.as_bytes()).await.unwrap();
            expected.push_str(&event);
            // The next event is not sent before this one can be read.
            while so_far(coding, &body) != expected {
                body.extend_from_slice(&chunk_of(&mut client).await);
            }
        }
        origin.send(b"0\r\n\r\n").await.unwrap();
        loop {
            let chunk = chunk_of(&mut client).await;
            if chunk.is_empty() {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        assert_eq!(decoded(Some(coding), &body), expected);
    }
}

/// The next chunk; an empty one is the last.
async fn chunk_of(client: &mut Connection) -> Vec<u8> {
    let line = String::from_utf8(client.read_until(b"\r\n").await.unwrap()).unwrap();
    let length = usize::from_str_radix(line.trim(), 16).unwrap();
    let mut chunk = client.read_exact(length + 2).await.unwrap();
    chunk.truncate(length);
    chunk
}

/// What a client can read of a body that has not ended.
fn so_far(coding: &str, body: &[u8]) -> String {
    let mut reader: Box<dyn Read + '_> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(body).unwrap()),
        "br" => Box::new(brotli::Decompressor::new(body, 4096)),
        _ => Box::new(flate2::read::GzDecoder::new(body)),
    };
    let (mut text, mut buffer) = (Vec::new(), [0; 256]);
    while let Ok(read @ 1..) = reader.read(&mut buffer) {
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_body_from_an_http_2_backend_ends_whole_where_trailers_follow_it() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let site = "sites:\n  app.test:\n    https: both\n    certificate: internal\n    upstream: app\n    \
        filters: [ { compress: [br] }, { response_headers: { set: { Content-Type: text/plain } } } ]\n\
        upstreams: { app: { servers: [\"ORIGIN\"], protocol: h2c } }\n";
    let gateway = gateway(&format!("http://{}", origin.address()), site).await;
    let client = gateway.client_of("web").host("app.test");
    let fields = "Accept-Encoding: br\r\n";
    let reply = client.send("POST", "/echo", fields, text().as_bytes()).await;
    assert_eq!(reply.header("content-encoding"), Some("br"));
    assert!(decoded(Some("br"), &reply.body) == text());
}
