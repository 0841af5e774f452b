//! Backends that do not take what they are sent: what they say passes all the same, and a client that
//! leaves is missed.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::{config, front};
use crate::support::{Connection, Gateway, Stage, field, within};

/// More than fits into anybody's buffers.
const HUGE: usize = 64 << 20;

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";

/// A client that sends `head`, and then more than is taken.
struct Flooding {
    reading: OwnedReadHalf,
    /// Gives the stream back once nothing more of it is taken.
    blocked: JoinHandle<OwnedWriteHalf>,
}

impl Flooding {
    async fn start(gateway: &Gateway, head: &str) -> Self {
        let client = TcpStream::connect(gateway.address("web")).await.unwrap();
        let (reading, mut writing) = client.into_split();
        writing.write_all(head.as_bytes()).await.unwrap();
        let blocked = tokio::spawn(async move {
            let piece = vec![b'x'; 64 << 10];
            let mut left = HUGE;
            // There is no event that says "this will never be taken".
            let limit = Duration::from_millis(400);
            while let Ok(sent) = tokio::time::timeout(limit, writing.write(&piece)).await {
                left = left.checked_sub(sent.unwrap()).expect("somebody took it all");
            }
            writing
        });
        Self { reading, blocked }
    }

    async fn read_until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        within(end, async {
            while !read.ends_with(end.as_bytes()) {
                read.push(self.reading.read_u8().await.unwrap());
            }
        })
        .await;
        String::from_utf8(read).unwrap()
    }

    /// Resets the connection once the flood has come to its end.
    async fn leave(self) {
        let writing = within("end of the flood", self.blocked).await.unwrap();
        let client = writing.reunite(self.reading).unwrap();
        client.set_zero_linger().unwrap();
    }
}

fn upload(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {HUGE}\r\n\r\n")
}

/// A tunnel that its client floods.
async fn flooded_tunnel(gateway: &Gateway, stage: &Stage) -> (Flooding, Connection) {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";
    let mut client = Flooding::start(gateway, head).await;
    let (mut origin, _) = stage.accept_head().await;
    origin.send(SWITCHED.as_bytes()).await.unwrap();
    client.read_until("\r\n\r\n").await;
    (client, origin)
}

#[tokio::test]
async fn a_client_that_leaves_a_tunnel_is_missed_though_the_backend_does_not_read() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let (client, _origin) = flooded_tunnel(&gateway, &stage).await;
    client.leave().await;
    gateway.wait_access(|line| field(line, "http.response.status_code") == 101).await;
}

#[tokio::test]
async fn a_tunnel_whose_backend_does_not_read_idles() {
    let stage = Stage::open().await;
    let limits = "limits: { upgrade_idle_timeout: 1s }";
    let gateway = Gateway::start(config(&stage.url(), "", limits)).await;
    let (mut client, mut origin) = flooded_tunnel(&gateway, &stage).await;
    for _ in 0..5 {
        // What it says passes, and is life.
        tokio::time::sleep(Duration::from_millis(300)).await;
        origin.send(b"tick").await.unwrap();
        client.read_until("tick").await;
    }
    gateway.wait_access(|line| field(line, "http.response.status_code") == 101).await;
}

#[tokio::test]
async fn a_tunnel_loses_nothing_that_its_backend_takes_late() {
    const SIZE: usize = 20 << 20;
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    let mut client = gateway.client().connect().await;
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n";
    client.send(head.as_bytes()).await.unwrap();
    let (mut origin, _) = stage.accept_head().await;
    origin.send(SWITCHED.as_bytes()).await.unwrap();
    client.read_until(b"\r\n\r\n").await.unwrap();
    let sending = tokio::spawn(async move {
        let bytes: Vec<u8> = (0..SIZE / 4).flat_map(|at| (at as u32).to_be_bytes()).collect();
        client.send(&bytes).await.unwrap();
        client.shut_down().await.unwrap();
        client
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let received = origin.read_exact(SIZE).await.unwrap();
    let is_right = |(at, bytes): (usize, &[u8])| bytes == (at as u32).to_be_bytes();
    assert!(received.chunks(4).enumerate().all(is_right));
    sending.await.unwrap();
}

#[tokio::test]
async fn events_pass_while_the_body_is_ignored_and_longer() {
    let stage = Stage::open().await;
    let pool = ", timeouts: { read: 2s }";
    let gateway = Gateway::start(config(&stage.url(), pool, "")).await;
    let mut client = Flooding::start(&gateway, &upload("/events")).await;
    let (mut origin, _) = stage.accept_head().await;
    origin.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
    client.read_until("\r\n\r\n").await;
    for number in 100..130 {
        // In all for longer than the backend may take nothing.
        tokio::time::sleep(Duration::from_millis(100)).await;
        origin.send(format!("event {number}\n").as_bytes()).await.unwrap();
        client.read_until(&number.to_string()).await;
    }
    client.leave().await;
    let line = gateway.wait_access(|line| field(line, "url.path") == "/events").await;
    assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
}

#[tokio::test]
async fn a_client_that_reads_when_it_has_sent_all_is_not_held_up_by_a_backend_that_takes_nothing() {
    const EVENTS: usize = 2000;
    let stage = Stage::open().await;
    let pool = ", timeouts: { read: 1s }";
    let gateway = Gateway::start(config(&stage.url(), pool, "")).await;
    let client = TcpStream::connect(gateway.address("web")).await.unwrap();
    let (mut reading, mut writing) = client.into_split();
    let sending = tokio::spawn(async move {
        writing.write_all(upload("/events").as_bytes()).await.unwrap();
        writing.write_all(&vec![b'x'; HUGE]).await.unwrap();
        writing
    });
    let (mut origin, _) = stage.accept_head().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 6 * EVENTS);
    origin.send(head.as_bytes()).await.unwrap();
    let mut left = EVENTS;
    within("end of the body", async {
        while !sending.is_finished() {
            origin.send(b"event\n").await.unwrap();
            left -= 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    origin.send(&b"event\n".repeat(left)).await.unwrap();
    let mut answer = Vec::new();
    within("answer", async {
        while !answer.ends_with(&b"event\n".repeat(EVENTS)) {
            assert!(reading.read_buf(&mut answer).await.unwrap() > 0);
        }
    })
    .await;
    sending.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_is_missed_though_the_backend_does_not_read() {
    for begins in [false, true] {
        let stage = Stage::open().await;
        let gateway = front(&stage.url()).await;
        let mut client = Flooding::start(&gateway, &upload("/left")).await;
        let (mut origin, _) = stage.accept_head().await;
        if begins {
            origin.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
            client.read_until("\r\n\r\n").await;
        }
        client.leave().await;
        let line = gateway.wait_access(|line| field(line, "url.path") == "/left").await;
        assert_eq!(field(&line, "error.type"), "client_gone", "{line}");
    }
}

#[tokio::test]
async fn an_early_answer_passes_while_the_body_is_blocked() {
    for keeps in [false, true] {
        let stage = Stage::open().await;
        let gateway = front(&stage.url()).await;
        let mut client = Flooding::start(&gateway, &upload("/early")).await;
        let (mut origin, _) = stage.accept_head().await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let end = if keeps { "" } else { "Connection: close\r\n" };
        let answer = format!("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n{end}\r\nno");
        origin.send(answer.as_bytes()).await.unwrap();
        assert!(client.read_until("\r\n\r\nno").await.starts_with("HTTP/1.1 413"));
        // What nobody will read is not held for long.
        gateway.wait_access(|line| field(line, "http.response.status_code") == 413).await;
    }
}

#[tokio::test]
async fn a_backend_that_answers_more_than_it_reads_is_not_held_up() {
    const SIZE: usize = 8 << 20;
    let stage = Stage::open().await;
    let pool = ", timeouts: { read: 5s, response: 5s }";
    let gateway = Gateway::start(config(&stage.url(), pool, "")).await;
    let client = TcpStream::connect(gateway.address("web")).await.unwrap();
    let (mut reading, mut writing) = client.into_split();
    let sending = tokio::spawn(async move {
        let head = format!("POST /four HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
        writing.write_all(head.as_bytes()).await.unwrap();
        let piece = [b'x'; 16 << 10];
        for _ in 0..SIZE / piece.len() {
            writing.write_all(&piece).await.unwrap();
        }
        writing
    });
    let (mut origin, _) = stage.accept_head().await;
    let answering = tokio::spawn(async move {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4 * SIZE);
        origin.send(head.as_bytes()).await.unwrap();
        for _ in 0..SIZE / (16 << 10) {
            let piece = origin.read_exact(16 << 10).await.unwrap();
            origin.send(&piece.repeat(4)).await.unwrap();
        }
        origin
    });
    let mut received = 0;
    let mut buffer = vec![0; 64 << 10];
    within("whole answer", async {
        while received < 4 * SIZE {
            let count = reading.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{received} bytes");
            received += count;
        }
    })
    .await;
    sending.await.unwrap();
    answering.await.unwrap();
}

#[tokio::test]
async fn a_body_arrives_whole_behind_the_whole_answer() {
    let stage = Stage::open().await;
    let gateway = front(&stage.url()).await;
    // Whatever is in whose buffers when the answer is complete.
    for size in (0..32).map(|number| (2 << 20) + number * (150 << 10)) {
        let client = TcpStream::connect(gateway.address("web")).await.unwrap();
        let (mut reading, mut writing) = client.into_split();
        let sending = tokio::spawn(async move {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
            writing.write_all(head.as_bytes()).await.unwrap();
            writing.write_all(&vec![b'x'; size]).await.unwrap();
            writing
        });
        let (mut origin, _) = stage.accept_head().await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        origin
            .send(b"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        let mut answer = Vec::new();
        within("answer", async {
            while !answer.ends_with(b"ok") {
                assert!(reading.read_buf(&mut answer).await.unwrap() > 0);
            }
        })
        .await;
        assert_eq!(origin.read_exact(size).await.unwrap().len(), size);
        sending.await.unwrap();
    }
}
