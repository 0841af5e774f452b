//! The judges judged: each peer against another, with no gateway between them. What fails here says
//! nothing about the gateway.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Answer, Client, Gateway, Origin, Peer, command, field, run};

#[tokio::test]
async fn origin_records_holds_and_answers() {
    let origin = Origin::answering(|request| Answer::text(201, &request.target)).await;
    let client = Client::new(origin.address()).host("app.test");
    origin.hold();
    let reply = tokio::spawn({
        let client = client.clone();
        async move { client.send("POST", "/a", "X-A: 1\r\nx-a: 2\r\n", b"body").await }
    });
    let requests = origin.received(1).await;
    assert!(!reply.is_finished(), "held");
    origin.release();
    let reply = reply.await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (201, "/a"));
    assert_eq!(requests[0].values("x-a"), ["1", "2"]);
    assert_eq!(
        (&*requests[0].method, &*requests[0].target, &*requests[0].body),
        ("POST", "/a", &b"body"[..])
    );
    assert_eq!(requests[0].header("host"), Some("app.test"));
    assert_eq!((requests[0].connection, origin.connections()), (1, 1));
}

#[tokio::test]
async fn origin_notices_a_client_that_leaves() {
    let origin = Origin::start().await;
    origin.hold();
    let mut connection = Client::new(origin.address()).connect().await;
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    origin.received(1).await;
    drop(connection);
    origin.aborted(1).await;
}

#[tokio::test]
async fn origin_reads_chunks_and_pipelined_requests() {
    let origin = Origin::start().await;
    let mut connection = Client::new(origin.address()).connect().await;
    let chunked =
        b"POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    connection.send(&[&chunked[..], b"GET /2 HTTP/1.1\r\n\r\n"].concat()).await.unwrap();
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "ok");
    assert_eq!(connection.read_reply(false).await.unwrap().text(), "ok");
    let requests = origin.requests();
    assert_eq!((&*requests[0].body, &*requests[1].target), (&b"abcde"[..], "/2"));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn client_reads_answers_strictly() {
    let peer = Peer::start("raw_origin.py", &[]).await;
    let client = Client::new(peer.address());
    assert_eq!(client.get("/ok").await.text(), "ok");
    assert_eq!(client.get("/until-close").await.text(), "ok");
    assert_eq!(client.get("/unsolicited-101").await.status, 101);
    assert_eq!(client.get("/trailers").await.trailers, [("X-Sum".to_owned(), "42".to_owned())]);
    assert_eq!(client.get("/informational-200").await.informational, [103; 200]);
    assert_eq!(client.send("HEAD", "/truncated", "", b"").await.status, 200);
    for broken in [
        "/truncated",
        "/truncated-chunk",
        "/truncated-head",
        "/reset-in-body",
        "/close-before-head",
    ] {
        assert!(client.try_get(broken).await.is_err(), "{broken}");
    }
    let json =
        client.get(&format!("/hex/{}/close", hex("HTTP/1.1 200 OK\r\n\r\n{\"a\":1}"))).await.json();
    assert_eq!(json, json!({"a": 1}));
}

#[tokio::test]
async fn raw_origin_records_every_byte() {
    let peer = Peer::start("raw_origin.py", &[]).await;
    let sent = b"POST /early-keep HTTP/1.1\r\nContent-Length: 2\r\n\r\n\xff\0";
    let mut connection = Client::new(peer.address()).connect().await;
    connection.send(sent).await.unwrap();
    assert_eq!(connection.read_exact(12).await.unwrap(), b"HTTP/1.1 401");
    connection.shut_down().await.unwrap();
    assert!(connection.read_to_end().await.unwrap().ends_with(b"no"));
    peer.event("closed").await;
    assert_eq!(peer.received(1), sent);
}

#[tokio::test]
async fn h2_client_and_origin_agree() {
    let origin = Peer::start("h2_origin.py", &[]).await;
    let request = |stream: u32, method: &str, path: &str| {
        json!({"stream": stream, "headers":
            [[":method", method], [":scheme", "http"], [":authority", "a.test"], [":path", path]]})
    };
    let mut echo = request(1, "POST", "/echo");
    echo["size"] = json!(200_000);
    echo["trailers"] = json!([["x-sent", "1"]]);
    let scenario = json!({"address": origin.address().to_string(), "steps": [
        // The small answers need room in the connection's window.
        {"request": echo}, {"wait": "end", "stream": 1},
        {"request": request(3, "GET", "/headers")}, {"request": request(5, "GET", "/reset")},
        {"request": request(7, "GET", "/hang")}, {"reset": {"stream": 7}}, {"ping": true},
        {"wait": "end", "stream": 3}, {"wait": "end", "stream": 5}, {"wait": "pong"},
        {"request": request(9, "GET", "/goaway")}, {"wait": "goaway"},
    ]});
    let result = Peer::result("h2_client.py", &scenario).await;
    let streams = &result["streams"];
    assert_eq!(
        (&streams["1"]["status"], &streams["1"]["size"]),
        (&json!(200), &json!(200_000)),
        "{result}"
    );
    assert_eq!(streams["1"]["trailers"], json!([["x-sent", "1"], ["x-origin", "end"]]));
    assert!(streams["3"]["body"].as_str().unwrap().contains("a.test"), "{result}");
    assert_eq!((&streams["5"]["body"], &streams["5"]["reset"]), (&json!("four"), &json!(2)));
    assert_eq!(
        (&result["pongs"], &result["goaway"], &result["waited"]),
        (&json!(1), &json!(0), &json!(true))
    );
    assert_eq!(origin.event("reset").await["code"], 8);
}

#[tokio::test]
async fn websocket_client_and_server_agree() {
    let server = Peer::start("ws_echo.py", &["chat"]).await;
    let address = server.address().to_string();
    let steps = json!([{"text": "hello"}, {"binary": 300_000}, {"ping": true}, {"close": 4001}]);
    let scenario = json!({"uri": "ws://app.test/ws?a=1", "address": address, "subprotocols": ["chat"], "steps": steps});
    let result = Peer::result("ws_client.py", &scenario).await;
    let expected = json!({"event": "result", "status": 101, "subprotocol": "chat", "echoes": 2, "pongs": 1,
        "code": 4001, "error": null});
    assert_eq!(result, expected);
    assert_eq!(server.event("opened").await["path"], "/ws?a=1");
    assert_eq!(server.event("closed").await["code"], 4001);
}

#[tokio::test]
async fn grpc_client_and_server_agree() {
    let server = Peer::start("grpc_peer.py", &["server"]).await;
    let told = Peer::run("grpc_peer.py", &["client", &server.address().to_string()]).await;
    let failed: Vec<&Value> = told.iter().filter(|line| line["ok"] == false).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(told.last().unwrap()["passed"], 14);
    server.event("cancelled").await;
}

#[tokio::test]
async fn curl_reads_the_origin() {
    let origin =
        Origin::answering(|_| Answer::Close(b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec())).await;
    let output = run("curl", ["--silent", "--show-error", "--noproxy", "*", &origin.url()]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello", "{output:?}");
}

#[tokio::test]
async fn gateway_is_followed_from_its_log_to_its_end() {
    let directory = with_leaf_of_own_ca("app.test");
    let mut gateway =
        Gateway::start_program(command("stub_gateway.py", &[]), directory, "sites: {}").await;
    assert_eq!(gateway.client().get("/plain").await.text(), "stub");
    assert_eq!(gateway.tls_client_of("secure", "app.test").get("/tls").await.text(), "stub");
    assert!(
        gateway.tls_client_of("secure", "other.test").try_get("/").await.is_err(),
        "another name"
    );
    assert_eq!(Client::new(gateway.admin_address()).get("/admin").await.status, 200);
    let line = gateway.wait_access(|line| field(line, "url.path") == "/tls").await;
    assert_eq!(field(&line, "http.response.status_code"), 200);
    gateway.wait_access(|line| field(line, "url.path") == "/admin").await;
    assert_eq!(gateway.access().len(), 3);
    assert_eq!(gateway.addresses("secure").len(), 1);

    let address = gateway.address("web");
    gateway.drain();
    assert_eq!(gateway.exit_status().await.code(), Some(3));
    gateway.wait_log(|line| field(line, "message") == "stopped").await;
    let refused = Client::new(address).try_get("/").await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
#[should_panic(expected = "the process ended without")]
async fn gateway_that_does_not_start_fails_the_test_at_once() {
    Gateway::start("no such key: 1").await;
}

/// `storage/` with a CA where the gateway keeps its own, and a certificate of it.
fn with_leaf_of_own_ca(name: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let storage = directory.path().join("storage");
    let (ca_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = ca.self_signed(&ca_key).unwrap();
    let leaf = CertificateParams::new([name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key)).unwrap();
    fs::create_dir_all(storage.join("local-ca")).unwrap();
    fs::write(storage.join("local-ca/ca.pem"), certificate.pem()).unwrap();
    fs::write(storage.join("leaf.pem"), leaf.pem()).unwrap();
    fs::write(storage.join("leaf.key"), leaf_key.serialize_pem()).unwrap();
    directory
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
