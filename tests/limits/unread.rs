//! What is left in the system of answers that clients do not read.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::gateway;
use crate::support::{Answer, Origin, field, within};

/// A client that has asked with these bytes, and has room for little of the answer.
async fn asking(address: SocketAddr, request: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = within("connection", socket.connect(address)).await.unwrap();
    client.write_all(request).await.unwrap();
    client
}

/// GET / on a stream of h2, with room for whatever comes.
fn h2_request() -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    // :method GET, :scheme http, :path / and :authority app.test.
    let head = [&[0x82, 0x86, 0x84, 0x41, 8][..], b"app.test"].concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]),
        frame(8, 0, 0, &[0x7f, 0, 0, 0]),
        frame(1, 5, 1, &head),
    ]
    .concat()
}

#[tokio::test]
async fn a_client_that_is_cut_for_taking_nothing_is_forgotten_at_once() {
    let origin = Origin::answering(|_| Answer::text(200, &"x".repeat(16 << 20))).await;
    let gateway = gateway(&origin.url(), "limits: { idle_timeout: 1s }").await;
    let h1 = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n".to_vec();
    for (name, request) in [("HTTP/1.1", h1), ("HTTP/2", h2_request())] {
        let mut client = asking(gateway.address("web"), &request).await;
        within("end", async {
            // Reading too early would be taking something.
            while client.take_error().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await; // what had come, or the reset
        assert!(rest.len() < 1 << 20, "{name}: {} bytes", rest.len());
    }
    for line in gateway.wait_accesses(2, |_| true).await {
        assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_answer_that_is_never_read_stays_no_longer_than_a_client_may_be_idle() {
    /// Sockets of this port that are closed and have not been rid of what was written.
    fn unsent(port: u16) -> usize {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let local = format!(":{port:04X}");
        let rows = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[1].ends_with(&local) && row[3] == "04").count()
    }
    let origin = Origin::answering(|_| Answer::text(200, &"x".repeat(256 << 10))).await;
    let gateway = gateway(&origin.url(), "limits: { idle_timeout: 1s }").await;
    let address = gateway.address("web");
    let request = b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let client = asking(address, request).await;
    let line = gateway.wait_access(|_| true).await;
    assert!(field(&line, "error.type").is_null(), "the system took it all: {line}");
    within("end", async {
        while unsent(address.port()) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while unsent(address.port()) > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    drop(client);
}
