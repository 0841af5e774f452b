//! Connections that are there, and do nothing.

use crate::support::{Connection, Gateway, Origin};

/// How many there are; `tests/bench/connections.py` holds ten thousand.
const CONNECTIONS: usize = 300;

#[tokio::test]
async fn idle_tls_connections_cost_little_and_each_still_answers() {
    let origin = Origin::start().await;
    let gateway = Gateway::start(format!(
        "listeners: {{ secure: {{ bind: \"127.0.0.1:0\", protocol: https }} }}\n\
         sites: {{ app.test: {{ certificate: internal, upstream: \"{}\" }} }}\n",
        origin.url()
    ))
    .await;
    let client = gateway.tls_client_of("secure", "app.test");
    let ask = async |connection: &mut Connection| {
        connection.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        assert_eq!(connection.read_reply(false).await.unwrap().status, 200);
    };
    let mut held = Vec::new();
    let mut before = 0;
    for number in 0..CONNECTIONS + 50 {
        if number == 50 {
            before = gateway.memory();
        }
        let mut connection = client.connect().await;
        ask(&mut connection).await;
        held.push(connection);
    }
    let grown = gateway.memory().saturating_sub(before) / CONNECTIONS;
    assert!(grown < 30 << 10, "{grown} bytes for each");
    for connection in &mut held {
        ask(connection).await;
    }
}

#[tokio::test]
async fn a_hundred_heads_without_end_cost_no_more_than_their_limit() {
    let origin = Origin::start().await;
    let gateway = super::gateway(&origin.url(), "").await;
    gateway.client().get("/warm").await;
    let before = gateway.memory_peak();
    let mut heads = tokio::task::JoinSet::new();
    for number in 0..100 {
        let client = gateway.client();
        // Half of them have too many fields, half too large a one.
        let block = if number % 2 == 0 { "X: 1\r\n".repeat(30_000) } else { "x".repeat(180_000) };
        heads.spawn(async move {
            let mut connection = client.connect().await;
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Y: ").await.unwrap();
            let _ = connection.send(block.as_bytes()).await; // closed by then, perhaps
            connection.read_reply(false).await.unwrap().status
        });
    }
    assert_eq!(heads.join_all().await, [431; 100]);
    let grown = gateway.memory_peak() - before;
    assert!(grown < 100 * (96 << 10), "{grown} bytes more");
    assert_eq!(origin.connections(), 1);
}
