//! By what code a connection ends that a client or a server has broken, and frames that are no use.

use std::time::{Duration, Instant};

use crate::support::{Client, Connection, Gateway, Origin, Stage};

use super::{gateway, yaml};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// GET (0x82) or POST (0x83) http / from HPACK's static table, the authority, and `more`.
fn fields(method: u8, more: &[u8]) -> Vec<u8> {
    [&[method, 0x86, 0x84, 0x41, 8][..], b"app.test", more].concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(0x82, &[]))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields(0x83, &[]))
}

/// The next frame: type, stream and payload.
async fn next(connection: &mut Connection) -> std::io::Result<(u8, u32, Vec<u8>)> {
    let head = connection.read_exact(9).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
    Ok((head[3], stream, connection.read_exact(length as usize).await?))
}

/// The code of the GOAWAY by which the connection ends; `None` when it ends without one.
async fn goaway(connection: &mut Connection) -> Option<u32> {
    loop {
        let (kind, _, payload) = next(connection).await.ok()?;
        if kind == GOAWAY {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
}

#[tokio::test]
async fn a_broken_connection_ends_by_the_code_that_the_text_has() {
    let origin = Origin::start().await;
    origin.hold();
    let gateway = gateway(&origin.url(), "").await;
    let setting =
        |id: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat());
    let end = END_STREAM | END_HEADERS;
    let cases = [
        ("PING of another length", frame(PING, 0, 0, &[0; 6]), FRAME_SIZE_ERROR),
        ("SETTINGS of another length", frame(SETTINGS, 0, 0, &[0; 5]), FRAME_SIZE_ERROR),
        ("SETTINGS that acknowledge and set", frame(SETTINGS, ACK, 0, &[0; 6]), FRAME_SIZE_ERROR),
        ("WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), FRAME_SIZE_ERROR),
        ("GOAWAY of another length", frame(GOAWAY, 0, 0, &[0; 4]), FRAME_SIZE_ERROR),
        (
            "PRIORITY of another length",
            [post(1), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            FRAME_SIZE_ERROR,
        ),
        (
            "RST_STREAM of another length",
            [post(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            FRAME_SIZE_ERROR,
        ),
        (
            "HEADERS without room for their priority",
            frame(HEADERS, end | 0x20, 1, &[0; 4]),
            FRAME_SIZE_ERROR,
        ),
        ("a frame above 16 KiB", frame(PING, 0, 0, &[0; 16_385]), FRAME_SIZE_ERROR),
        ("a window beyond 2^31-1", setting(4, 1 << 31), FLOW_CONTROL_ERROR),
        ("DATA behind the end", [get(1), frame(DATA, 1, 1, b"a")].concat(), STREAM_CLOSED),
        ("HEADERS behind the end", [get(1), get(1)].concat(), STREAM_CLOSED),
        // What has been PROTOCOL_ERROR stays so.
        ("PING with a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL_ERROR),
        ("ENABLE_PUSH of 2", setting(2, 2), PROTOCOL_ERROR),
        ("MAX_FRAME_SIZE of 1", setting(5, 1), PROTOCOL_ERROR),
        ("DATA on an idle stream", frame(DATA, 1, 1, b"a"), PROTOCOL_ERROR),
        ("a stream of an even number", get(2), PROTOCOL_ERROR),
        ("a stream below the last", [get(5), get(3)].concat(), PROTOCOL_ERROR),
        ("a stream within a block", [frame(HEADERS, 1, 1, &[]), get(1)].concat(), PROTOCOL_ERROR),
        ("too much padding", frame(HEADERS, end | 8, 1, &[9, 0x82]), PROTOCOL_ERROR),
        (
            "a name in upper case",
            frame(HEADERS, end, 1, &fields(0x82, b"\0\x01A\x01a")),
            PROTOCOL_ERROR,
        ),
        // The text has COMPRESSION_ERROR, but only the h2 layer could tell it from the one above.
        (
            "an index of HPACK's of 0",
            frame(HEADERS, end, 1, &fields(0x82, &[0x80])),
            PROTOCOL_ERROR,
        ),
    ];
    for (name, bytes, wanted) in cases {
        let steps = if bytes.len() > 1_000 { vec![bytes.len()] } else { vec![bytes.len(), 1, 9] };
        for step in steps {
            let mut client = gateway.client().connect().await;
            client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
            // What is sent meets a connection that waits for it, and in these pieces.
            assert_eq!(next(&mut client).await.unwrap().0, SETTINGS);
            for piece in bytes.chunks(step) {
                // The gateway may be gone before the last of it.
                if client.send(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let code = goaway(&mut client).await;
            assert_eq!(code, Some(wanted), "{name}, {step} bytes at a time");
            assert!(client.read_to_end().await.is_ok_and(|rest| rest.is_empty()), "{name}");
        }
    }
    origin.release();
}

/// How many empty DATA frames are sent: without a limit each is kept by some hundred bytes.
const EMPTY: usize = 300_000;

/// Somebody else is served, and soon, while `flood` goes on and when the gateway has ended it, which it
/// does before a ping finds the peer dead; memory has a bound.
async fn weather(gateway: &Gateway, flood: impl Future<Output = ()>) {
    let bystander = Client::new(gateway.address("web")).host("nowhere.test");
    assert_eq!(bystander.get("/").await.status, 404);
    let before = gateway.memory_peak();
    let flood = tokio::time::timeout(Duration::from_secs(15), flood);
    tokio::pin!(flood);
    let ended = loop {
        let asked = Instant::now();
        tokio::select! {
            ended = &mut flood => break ended,
            reply = bystander.get("/") => assert_eq!(reply.status, 404),
        }
        assert!(asked.elapsed() < Duration::from_secs(5), "waited {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(bystander.get("/").await.status, 404);
    let grown = gateway.memory_peak() - before;
    assert!(grown < 16 << 20, "{grown} bytes more");
    assert!(ended.is_ok(), "the flood is not ended; {grown} bytes more");
}

#[tokio::test]
async fn empty_data_of_a_client_that_nobody_takes_is_not_kept() {
    let stage = Stage::open().await;
    let gateway = gateway(&stage.url(), "").await;
    let flood = async {
        let mut client = gateway.client().connect().await;
        let body = frame(DATA, 0, 1, &[0; 16_000]);
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &post(1), &body.repeat(4)];
        client.send(&begin.concat()).await.unwrap();
        // The server takes the head and no more, so that the body stands in line.
        let (_server, head) = stage.accept_head().await;
        assert!(head.starts_with("POST / "), "{head}");
        let empty = frame(DATA, 0, 1, &[]).repeat(1_000);
        for _ in 0..EMPTY / 1_000 {
            if client.send(&empty).await.is_err() {
                break;
            }
        }
        let code = goaway(&mut client).await;
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
        // Reset, as we have sent more than anybody would read; or closed.
        let _ = client.read_to_end().await;
    };
    weather(&gateway, flood).await;
}

#[tokio::test]
async fn empty_data_of_a_server_that_nobody_takes_is_not_kept() {
    let stage = Stage::open().await;
    let gateway = Gateway::start(yaml(&stage.url(), "h2c", "")).await;
    let flood = async {
        // The client opens no window, so that the response stands in line.
        let narrow = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let mut client = gateway.client().connect().await;
        client.send(&[PREFACE, &narrow, &get(1)].concat()).await.unwrap();
        let mut server = stage.accept().await;
        server.read_until(PREFACE).await.unwrap();
        server.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        while next(&mut server).await.unwrap().0 != HEADERS {}
        server.send(&frame(HEADERS, END_HEADERS, 1, &[0x88])).await.unwrap();
        // As much as is taken for the client before anybody waits for it.
        let mut windows = [65_535; 2];
        loop {
            while windows.iter().all(|window| *window >= 16_000) {
                server.send(&frame(DATA, 0, 1, &[b'a'; 16_000])).await.unwrap();
                windows = windows.map(|window| window - 16_000);
            }
            let more = tokio::time::timeout(Duration::from_millis(300), server.wait_readable());
            if more.await.is_err() {
                break;
            }
            let (kind, stream, payload) = next(&mut server).await.unwrap();
            if kind == WINDOW_UPDATE {
                windows[stream as usize] += u32::from_be_bytes(payload.try_into().unwrap());
            }
        }
        let empty = frame(DATA, 0, 1, &[]).repeat(1_000);
        for _ in 0..EMPTY / 1_000 {
            if server.send(&empty).await.is_err() {
                break;
            }
        }
        let code = goaway(&mut server).await;
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
        let _ = server.read_to_end().await;
    };
    weather(&gateway, flood).await;
    // The pool has lost a connection and nothing else.
    let again = tokio::spawn({
        let client = gateway.client().host("app.test");
        async move { client.get("/again").await }
    });
    let mut server = stage.accept().await;
    server.read_until(PREFACE).await.unwrap();
    server.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let stream = loop {
        let (kind, stream, _) = next(&mut server).await.unwrap();
        if kind == HEADERS {
            break stream;
        }
    };
    server.send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &[0x88])).await.unwrap();
    assert_eq!(again.await.unwrap().status, 200);
}
