//! Every payload of a desync corpus against the real gateway, in front of an origin that records
//! each byte and reads it strictly.
//!
//! A request that the gateway forwards carries the id which the gateway gave it, and which nobody
//! can guess. So a head at the origin without an id of an access line was smuggled, whatever any
//! parser on the way made of the payload.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::{Client, Gateway, field, in_repository};

/// Payloads under way at once.
const AT_ONCE: usize = 150;

/// What an origin made of one request.
#[derive(Clone, Debug, Default)]
struct Request {
    target: String,
    ids: Vec<String>,
    length: Option<usize>,
    is_chunked: bool,
}

/// All heads that came in, and what was wrong with any of them.
#[derive(Debug, Default)]
struct Recorded {
    requests: Vec<Request>,
    faults: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_desync_payload_smuggles_a_request() {
    let Ok(corpus) = std::fs::read_to_string(in_repository("../shared/corpora/h1-desync.jsonl"))
    else {
        // Past the capture of the test's output, so that it is seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no corpus of desync payloads");
        return;
    };
    let payloads: Vec<(String, Vec<u8>)> = corpus.lines().enumerate().map(payload).collect();
    let names: Vec<String> = payloads.iter().map(|(id, _)| id.clone()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    let recorded = Arc::new(Mutex::new(Recorded::default()));
    let serving = tokio::spawn(record(listener, Arc::clone(&recorded)));
    let gateway = Gateway::start(format!(
        "listeners: {{ web: {{ bind: \"127.0.0.1:0\", protocol: http }} }}\n\
         sites: {{ \"*\": {{ upstream: \"http://{origin}\" }} }}\n\
         limits: {{ request_header_timeout: 500ms, request_body_timeout: 500ms, idle_timeout: 3s }}\n"
    ))
    .await;

    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut attacks = tokio::task::JoinSet::new();
    for (number, (id, raw)) in payloads.into_iter().enumerate() {
        let (client, room) = (gateway.client(), Arc::clone(&room));
        attacks.spawn(async move {
            let _place = room.acquire().await.unwrap();
            attack(&client, number, &raw).await.map_err(|error| format!("{id}: {error}"))
        });
    }
    let outcomes = attacks.join_all().await;
    let wrong: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let answers: Vec<String> = outcomes.into_iter().flatten().flatten().collect();
    let different: BTreeSet<&String> = answers.iter().collect();
    assert_eq!(different.len(), answers.len(), "no answer of the origin was delivered twice");
    judge(&gateway, &recorded, &names).await;
    serving.abort();
}

/// Payloads whose second request is the client's own by every strict reading; the gateway routes it
/// like any other.
const OWN: [&str; 3] = [
    "rfc-upgrade-smug",
    // `X: X Transfer-Encoding: chunked` is the value of X.
    "smug-tecl-xprespace-20",
    "smug-tecl-xprespace-ff",
];

/// Compares what the origin saw with what the gateway says it sent.
async fn judge(gateway: &Gateway, recorded: &Mutex<Recorded>, names: &[String]) {
    gateway.client().send("GET", "/last", "", b"").await;
    gateway.wait_access(|line| field(line, "url.path") == "/last").await;
    let lines = gateway.access();
    let sent: BTreeMap<&str, u64> = lines
        .iter()
        .filter(|line| field(line, "server.address").is_string())
        .map(|line| {
            let again = field(line, "http.request.resend_count").as_u64().unwrap_or(0);
            (field(line, "request_id").as_str().unwrap(), again + 1)
        })
        .collect();
    let recorded = recorded.lock().unwrap();
    assert!(recorded.faults.is_empty(), "{:#?}", recorded.faults);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for request in &recorded.requests {
        let [id] = request.ids.as_slice() else { panic!("smuggled: {request:?}") };
        *seen.entry(id).or_default() += 1;
    }
    for request in &recorded.requests {
        let hidden = request.target.strip_prefix("/sm").and_then(|number| number.parse().ok());
        let Some(payload) = hidden.map(|number: usize| &*names[number]) else { continue };
        assert!(OWN.contains(&payload), "{payload} got through");
    }
    for (id, count) in seen {
        assert!(count <= sent.get(id).copied().unwrap_or(0), "smuggled, or sent twice: {id}");
    }
    assert!(recorded.requests.len() > 500, "the canaries at least: {}", recorded.requests.len());
}

/// A payload's name and bytes. The request that it hides gets a target of its own, of the same
/// length, to tell whose it was.
fn payload((number, line): (usize, &str)) -> (String, Vec<u8>) {
    let row: Value = serde_json::from_str(line).unwrap();
    let hex = row["raw"].as_str().unwrap();
    let bytes = (0..hex.len()).step_by(2);
    let mut raw: Vec<u8> =
        bytes.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let hidden = b"/smuggled";
    while let Some(at) = raw.windows(hidden.len()).position(|window| window == hidden) {
        raw[at..at + hidden.len()].copy_from_slice(format!("/sm{number:06}").as_bytes());
    }
    (row["id"].as_str().unwrap().to_owned(), raw)
}

/// Sends a payload and a canary behind it, and a canary on another connection. Returns the ids of
/// the answers that the origin gave.
async fn attack(client: &Client, number: usize, raw: &[u8]) -> Result<Vec<String>, String> {
    let canary = format!("/canary-{number}");
    let mut connection = client.connect().await;
    // Refused before all of it was sent, or waiting for more: either is fine.
    let _ = tokio::time::timeout(Duration::from_secs(2), connection.send(raw)).await;
    let mut answers = Vec::new();
    let mut is_open = true;
    while is_open {
        let wait =
            tokio::time::timeout(Duration::from_millis(60), connection.wait_readable()).await;
        if wait.is_err() {
            break; // it may be over, or it may be incomplete
        }
        match connection.read_reply(false).await {
            Ok(reply) => answers.extend(reply.header("x-echo").map(str::to_owned)),
            Err(_) => is_open = false,
        }
    }
    let request = format!("GET {canary} HTTP/1.1\r\nHost: canary.test\r\n\r\n");
    if is_open && connection.send(request.as_bytes()).await.is_ok() {
        // Its own answer, the payload's (whose body it has completed), or none.
        while let Ok(reply) = connection.read_reply(false).await {
            answers.extend(reply.header("x-echo").map(str::to_owned));
        }
    }
    let reply = client.try_get(&canary).await.map_err(|error| format!("canary: {error}"))?;
    answers.extend(reply.header("x-echo").map(str::to_owned));
    match (reply.status, reply.text()) {
        (200, text) if text == canary => Ok(answers),
        (status, text) => Err(format!("the canary got {status} {text}")),
    }
}

async fn record(listener: TcpListener, recorded: Arc<Mutex<Recorded>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&recorded)));
    }
}

/// Answers each request with its target and the id it came with.
async fn serve(mut stream: TcpStream, recorded: Arc<Mutex<Recorded>>) {
    let mut unread = Vec::new();
    while let Some(head) = head(&mut stream, &mut unread).await {
        let request = match read(&head) {
            Ok(request) => request,
            Err(fault) => {
                let head = head.escape_ascii();
                recorded.lock().unwrap().faults.push(format!("{fault}: {head}"));
                return;
            }
        };
        recorded.lock().unwrap().requests.push(request.clone());
        if body(&mut stream, &mut unread, &request).await.is_none() {
            return;
        }
        let id = request.ids.first().map_or("", String::as_str);
        let target = if head.starts_with(b"HEAD ") { "" } else { &request.target };
        let length = request.target.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nX-Echo: {id}\r\nContent-Length: {length}\r\n\r\n{target}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    stream.read_buf(unread).await.is_ok_and(|count| count > 0).then_some(())
}

async fn head(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some(unread.drain(..at + 4).collect());
        }
        more(stream, unread).await?;
    }
}

async fn take(stream: &mut TcpStream, unread: &mut Vec<u8>, count: usize) -> Option<()> {
    while unread.len() < count {
        more(stream, unread).await?;
    }
    unread.drain(..count);
    Some(())
}

async fn body(stream: &mut TcpStream, unread: &mut Vec<u8>, request: &Request) -> Option<()> {
    if !request.is_chunked {
        return take(stream, unread, request.length.unwrap_or(0)).await;
    }
    loop {
        let at = loop {
            match unread.windows(2).position(|window| window == b"\r\n") {
                Some(at) => break at,
                None => more(stream, unread).await?,
            }
        };
        let size = std::str::from_utf8(&unread[..at]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        take(stream, unread, at + 2 + size + 2).await?;
        if size == 0 {
            return Some(());
        }
    }
}

/// Reads a head as no lenient parser could read it otherwise.
fn read(head: &[u8]) -> Result<Request, &'static str> {
    let head = &head[..head.len() - 4];
    let is_control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 127;
    let mut lines = Vec::new();
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(is_control) {
            return Err("a control character");
        }
        lines.push(String::from_utf8_lossy(line).into_owned());
    }
    if head.iter().filter(|byte| **byte == b'\r').count() != lines.len() - 1 {
        return Err("a bare LF");
    }
    let mut parts = lines[0].split(' ');
    let mut request = Request::default();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(target), Some("HTTP/1.1"), None) => target.clone_into(&mut request.target),
        _ => return Err("no request line"),
    }
    let mut hosts = 0;
    for line in &lines[1..] {
        let Some((name, value)) = line.split_once(':') else { return Err("no field line") };
        if name.is_empty() || name.contains([' ', '\t', '\u{fffd}']) {
            return Err("an odd field name");
        }
        let value = value.trim_matches([' ', '\t']);
        match &*name.to_ascii_lowercase().replace('_', "-") {
            "content-length" if request.length.is_some() => return Err("two lengths"),
            "content-length" if !value.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err("an odd length");
            }
            "content-length" => request.length = value.parse().ok(),
            "transfer-encoding" if request.is_chunked || value != "chunked" => {
                return Err("an odd coding");
            }
            "transfer-encoding" => request.is_chunked = true,
            "host" => hosts += 1,
            "x-request-id" => request.ids.push(value.to_owned()),
            _ => {}
        }
    }
    match () {
        () if hosts != 1 => Err("not one host"),
        () if request.is_chunked && request.length.is_some() => Err("length and coding"),
        () => Ok(request),
    }
}

#[test]
fn the_judge_of_desync_is_strict() {
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding : chunked\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert!(read(head.as_bytes()).is_err(), "{head:?}");
    }
    let sound = "GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n";
    assert_eq!(read(sound.as_bytes()).unwrap().ids, ["1"]);
}
