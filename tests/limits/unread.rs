//! What is left in the system of answers that clients do not read.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::gateway;
use crate::support::{Answer, Origin, field, within};

/// Bytes of a response, more than the system keeps of it.
const SIZE: usize = 1 << 20;

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

/// Reads from `client` until `is_over`, or the server has ended; slowly once there are so many bytes
/// that the rest may have left the gateway.
async fn take(client: &mut TcpStream, all: &mut Vec<u8>, is_over: impl Fn(&[u8]) -> bool) {
    within("more of an answer", async {
        while !is_over(all) {
            let mut room = [0; 16 << 10];
            match client.read(&mut room).await.unwrap() {
                0 => return,
                count => all.extend_from_slice(&room[..count]),
            }
            if all.len() > SIZE / 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    })
    .await;
}

/// How much of a body frames of h2 carry, and whether that is all of it.
fn h2_body(mut frames: &[u8]) -> (usize, bool) {
    let (mut size, mut is_whole) = (0, false);
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = frames {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == 0 {
            size += length.min(rest.len());
            is_whole = flags & 1 != 0 && rest.len() >= length;
        }
        frames = rest.get(length..).unwrap_or_default();
    }
    (size, is_whole)
}

#[tokio::test]
async fn a_slow_client_of_h2_gets_all_of_its_answer_from_a_gateway_that_leaves() {
    let origin = Origin::answering(|_| Answer::text(200, &"x".repeat(SIZE))).await;
    let left = |is_reload: bool| {
        let url = origin.url();
        async move {
            let mut gateway = gateway(&url, "").await;
            let address = gateway.address("web");
            let mut client = asking(address, &h2_request()).await;
            let mut all = Vec::new();
            take(&mut client, &mut all, |all| h2_body(all).0 > 0).await;
            if is_reload {
                let yaml = super::yaml(&url, "http/1.1", "").replace("web:", "other:");
                gateway.reload(&yaml, 2).await;
            } else {
                gateway.drain();
            }
            tokio::select! {
                // The gateway has seen to the last byte, and the client has not.
                line = gateway.wait_access(|_| true) => {
                    assert!(field(&line, "error.type").is_null(), "{line}");
                }
                () = take(&mut client, &mut all, |all| h2_body(all).1) => {}
            }
            assert!(h2_body(&all).0 < SIZE);
            // More than the gateway waits for an answer to its farewell.
            tokio::time::sleep(Duration::from_secs(4)).await;
            while !h2_body(&all).1 {
                // Room for more on the connection, as clients make it.
                client.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
                let wanted = all.len() + (256 << 10);
                take(&mut client, &mut all, |all| all.len() >= wanted || h2_body(all).1).await;
            }
            assert_eq!(h2_body(&all), (SIZE, true), "reload: {is_reload}");
            drop(client);
            if !is_reload {
                assert!(gateway.exit_status().await.success());
            }
        }
    };
    tokio::join!(left(false), left(true));
}

#[tokio::test]
async fn an_answer_that_is_under_way_is_not_lost_to_a_request_that_is_refused() {
    let origin = Origin::answering(|_| Answer::text(200, &"x".repeat(SIZE))).await;
    let gateway = gateway(&origin.url(), "").await;
    let requests = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\nno request\r\n\r\n";
    let mut client = asking(gateway.address("web"), requests).await;
    let mut all = Vec::new();
    tokio::select! {
        lines = gateway.wait_accesses(2, |_| true) => {
            let statuses = lines.iter().map(|line| field(line, "http.response.status_code"));
            assert_eq!(statuses.collect::<Vec<_>>(), [200, 400]);
        }
        () = take(&mut client, &mut all, |_| false) => {}
    }
    // More than the gateway reads on for where nothing is under way.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let _ = client.write_all(b"and more").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    take(&mut client, &mut all, |_| false).await;
    let text = String::from_utf8(all).unwrap();
    let (first, second) = text.split_once("\r\n\r\n").unwrap();
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    assert!(second.starts_with(&"x".repeat(SIZE)), "{} bytes", second.len());
    assert!(second[SIZE..].starts_with("HTTP/1.1 400 "));
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
