//! gRPC through the gateway, with grpcio at both ends.

use serde_json::Value;

use crate::support::{Gateway, Peer, field};

async fn gateway(backend: &str) -> Gateway {
    Gateway::start(format!(
        "listeners:\n\
         \x20 web: {{ bind: \"127.0.0.1:0\", protocol: http, alpn: [h2, http/1.1] }}\n\
         \x20 secure: {{ bind: \"127.0.0.1:0\", protocol: https }}\n\
         sites:\n\
         \x20 app.test: {{ certificate: internal, https: both, upstream: grpc }}\n\
         \x20 localhost: {{ certificate: internal, https: both, upstream: grpc }}\n\
         \x20 127.0.0.1: {{ certificate: internal, https: both, upstream: grpc }}\n\
         upstreams:\n\
         \x20 grpc: {{ servers: [\"http://{backend}\"], protocol: h2c }}\n"
    ))
    .await
}

fn assert_passed(told: &[Value]) {
    let failed: Vec<_> = told.iter().filter(|line| line["ok"] == false).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(told.last().unwrap()["passed"], 14);
}

#[tokio::test]
async fn every_kind_of_call_passes_in_the_clear() {
    let server = Peer::start("grpc_peer.py", &["server"]).await;
    let gateway = gateway(&server.address().to_string()).await;
    let address = gateway.address("web").to_string();
    assert_passed(&Peer::run("grpc_peer.py", &["client", &address]).await);
    let cancelled = |line: &Value| line["event"] == "cancelled";
    server.events().wait_for_count("both calls cancelled", 2, cancelled).await;
}

#[tokio::test]
async fn every_kind_of_call_passes_over_tls() {
    let server = Peer::start("grpc_peer.py", &["server"]).await;
    let gateway = gateway(&server.address().to_string()).await;
    let address = gateway.address("secure").to_string();
    let ca = gateway.ca();
    let client = ["client", &address, ca.to_str().unwrap(), "app.test"];
    assert_passed(&Peer::run("grpc_peer.py", &client).await);
    let cancelled = |line: &Value| line["event"] == "cancelled";
    server.events().wait_for_count("both calls cancelled", 2, cancelled).await;
    let line = gateway.wait_access(|line| field(line, "url.path") == "/wardgate.test.Echo/Bidi");
    assert_eq!(field(&line.await, "network.protocol.version"), "2");
}

#[tokio::test]
async fn a_backend_that_is_down_is_told_as_unavailable() {
    let port = crate::support::closed().port();
    let gateway = gateway(&format!("127.0.0.1:{port}")).await;
    let address = gateway.address("web").to_string();
    let told = Peer::run("grpc_peer.py", &["client", &address]).await;
    let unary = told.iter().find(|line| line["name"] == "unary").unwrap();
    let detail = unary["detail"].as_str().unwrap();
    assert!(detail.contains("StatusCode.UNAVAILABLE"), "{detail}");
    let line = gateway.wait_access(|line| field(line, "error.type") == "upstream_refused").await;
    assert_eq!(field(&line, "url.path"), "/wardgate.test.Echo/Unary");
}
