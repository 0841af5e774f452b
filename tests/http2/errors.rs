//! By what code a connection ends that a client has broken.

use crate::support::{Connection, Origin};

use super::gateway;

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
