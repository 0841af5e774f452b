//! Desync payloads and mutated requests against gate and tracker, judged by rules of their own.
//!
//! The oracle below shares no code with what it judges: it splits whole messages with the standard
//! library and asks plain questions about them.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use regex::bytes::Regex;

use super::{Head, HeadGate, HeadLimits, Refusal, Verdict};
use crate::listen::{BodyTracker, FramingError};

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 100, uri_bytes: 16 * 1024 };

/// Payloads that are fine and must not be refused: strictness is no excuse.
const SOUND: [&str; 12] = [
    "rfc-expect-100",
    "rfc-hdr-obs",
    "rfc-hdr-underscore",
    "rfc-host-615f622e74657374",
    "rfc-meth-464f4f3",
    "rfc-path-2f612f2e2e2f2e2e2f73",
    "rfc-path-2f2f6576696c2f73",
    "rfc-hdrsize-8000",
    "garden-47",
    "llhttp-connection-20",
    "llhttp-method-15",
    "llhttp-sample-7",
];

/// What came of one connection's bytes, in order.
#[derive(Debug, Eq, PartialEq)]
enum Event {
    Head(Head),
    /// Bytes of a complete body.
    Body(usize),
    Refused(Refusal),
    Broken(FramingError),
}

/// Reads `raw` as a connection would, `step` bytes at a time.
fn read(raw: &[u8], step: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut buf = Vec::new();
    let mut gate = HeadGate::default();
    let mut body: Option<(BodyTracker, usize)> = None;
    for piece in raw.chunks(step.max(1)) {
        buf.extend_from_slice(piece);
        loop {
            if let Some((tracker, total)) = &mut body {
                match tracker.advance(&buf) {
                    Ok(taken) => {
                        buf.drain(..taken);
                        *total += taken;
                    }
                    Err(error) => {
                        events.push(Event::Broken(error));
                        return events;
                    }
                }
                if !tracker.is_done() {
                    break;
                }
                events.push(Event::Body(*total));
                body = None;
            }
            match gate.inspect(&buf, &LIMITS) {
                Verdict::Incomplete => break,
                Verdict::Pass(head) => {
                    buf.drain(..head.len);
                    body = Some((BodyTracker::new(head.body), 0));
                    events.push(Event::Head(head));
                }
                Verdict::Refuse(refusal) => {
                    events.push(Event::Refused(refusal));
                    return events;
                }
            }
        }
    }
    events
}

/// What could be read in two ways about a head that was let through.
fn ambiguity(head: &[u8]) -> Option<&'static str> {
    let text = Regex::new(r"(?-u)\A(?:[^\x00-\x08\x0a-\x1f\x7f]+\r\n)+\r\n\z").unwrap();
    if !text.is_match(head) {
        return Some("a control, a bare CR or LF, or an empty line inside");
    }
    let mut lines =
        head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request = Regex::new(r"(?-u)\A[A-Z0-9!#$%&'*+.^_`|~-]+ [^ \t#]+ HTTP/1\.[01]\z").unwrap();
    let first = lines.next()?;
    if !request.is_match(first) || first.starts_with(b"CONNECT ") {
        return Some("request line");
    }
    let field = Regex::new(r"(?-u)\A([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*(.*?)[ \t]*\z").unwrap();
    let mut values: [Vec<Vec<u8>>; 3] = Default::default();
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(parts) = field.captures(line) else { return Some("field line") };
        let name = String::from_utf8_lossy(&parts[1]).to_ascii_lowercase();
        let hyphened = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let known = ["content-length", "transfer-encoding", "host"];
        for (known, values) in known.iter().zip(&mut values) {
            if *known == name {
                values.push(parts[2].to_vec());
            } else if *known == hyphened {
                return Some("a name that is nearly one that matters");
            }
        }
    }
    let [lengths, codings, hosts] = &values;
    let length = Regex::new(r"\A(?:0|[1-9][0-9]{0,18})\z").unwrap();
    let host = Regex::new(r"\A(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?\z").unwrap();
    let is_old = first.ends_with(b"0");
    match () {
        () if lengths.len() + codings.len() > 1 => Some("more than one framing field"),
        () if !lengths.iter().all(|value| length.is_match(value)) => Some("odd length"),
        () if !codings.iter().all(|value| value.eq_ignore_ascii_case(b"chunked")) => Some("coding"),
        () if is_old && !codings.is_empty() => Some("coding on HTTP/1.0"),
        () if hosts.len() > 1 || (hosts.is_empty() && !is_old) => Some("not one host"),
        () if !hosts.iter().all(|value| host.is_match(value)) => Some("odd host"),
        () if !engine_agrees(head, first) => Some("httparse reads something else"),
        () => None,
    }
}

/// Whether httparse, the parser of the engine behind us, sees the same head.
fn engine_agrees(head: &[u8], first: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(head);
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return false;
    };
    let line = format!("{method} {target} HTTP/1.{minor}");
    let lines = head.split(|&byte| byte == b'\n').count();
    parsed == Ok(httparse::Status::Complete(head.len()))
        && line.as_bytes() == first
        && request.headers.len() + 3 == lines
}

/// Length of the chunked body at the front of `bytes`, if it is one by the letter of RFC 9112 §7.1.
fn chunked_len(bytes: &[u8]) -> Option<usize> {
    let size_line =
        Regex::new(r"(?-u)\A([0-9A-Fa-f]{1,16})(?:;[^\x00-\x08\x0a-\x1f\x7f]+)?\r\n").unwrap();
    let trailers =
        Regex::new(r"(?-u)\A(?:[A-Za-z0-9!#$%&'*+.^_`|~-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n")
            .unwrap();
    let mut at = 0;
    loop {
        let line = size_line.captures(bytes.get(at..)?)?;
        let size = usize::from_str_radix(str::from_utf8(&line[1]).ok()?, 16).ok()?;
        at += line[0].len();
        if size == 0 {
            return Some(at + trailers.find(bytes.get(at..)?)?.len());
        }
        at = at.checked_add(size)?;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
}

/// Follows the events through `raw` and says what let something ambiguous through.
fn judge(raw: &[u8], events: &[Event]) -> Result<(), String> {
    let mut rest = raw;
    let mut is_chunked = false;
    for event in events {
        let taken = match event {
            Event::Head(head) => {
                let text = &rest[head.leading..head.len];
                if let Some(reason) = ambiguity(text) {
                    return Err(format!("{reason}: {}", text.escape_ascii()));
                }
                is_chunked =
                    text.to_ascii_lowercase().windows(20).any(|at| at == b"\r\ntransfer-encoding:");
                head.len
            }
            Event::Body(taken) if is_chunked && chunked_len(rest) != Some(*taken) => {
                return Err(format!("took {taken} of {}", rest.escape_ascii()));
            }
            Event::Body(taken) => *taken,
            Event::Refused(_) | Event::Broken(_) => return Ok(()),
        };
        rest = &rest[taken..];
    }
    Ok(())
}

#[test]
fn nothing_ambiguous_in_the_desync_corpus_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/h1-desync.jsonl");
    let Ok(corpus) = fs::read_to_string(&path) else {
        // Past the test harness's capture, so that a run without the corpus does not look complete.
        writeln!(io::stderr(), "SKIPPED: no desync corpus at {}", path.display()).unwrap();
        return;
    };
    let (mut passed, mut faults) = (Vec::new(), Vec::new());
    for line in corpus.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let id = entry["id"].as_str().unwrap();
        let raw = unhex(entry["raw"].as_str().unwrap());
        let events = read(&raw, raw.len());
        for step in [1, 7] {
            if read(&raw, step) != events {
                faults.push(format!("{id}: {step} bytes at a time gives something else"));
            }
        }
        if let Err(fault) = judge(&raw, &events) {
            faults.push(format!("{id}: {fault}"));
        }
        if let Some(Event::Head(_)) = events.first() {
            passed.push(id.to_owned());
        }
        if SOUND.contains(&id) && !matches!(events.first(), Some(Event::Head(_))) {
            faults.push(format!("{id}: sound, but {events:?}"));
        }
    }
    assert!(corpus.lines().count() > 1000, "the corpus is whole");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(passed.len() < 100, "too many pass: {passed:?}");
}

#[test]
fn nothing_ambiguous_among_mutated_requests_passes() {
    const SEEDS: [&str; 4] = [
        "POST /a?b HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://[::1]:8080/x HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\n\r\n",
        "\r\nPUT /x HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n",
    ];
    const BYTES: &[u8] = b"\r\n\t\0\x0b\x7f\x80\xff :;,#_-+019afAFxX/?*@[]\"";
    const LINES: [&str; 5] = [
        "\r\nContent-Length: 5",
        "\r\nTransfer-Encoding: chunked",
        "\r\nHost: b",
        "\r\n X: y",
        "\r\n\r\n",
    ];
    let mut random = fastrand::Rng::with_seed(3);
    let mut passed = 0;
    for _ in 0..20_000 {
        let mut raw = SEEDS[random.usize(..SEEDS.len())].as_bytes().to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..raw.len());
            match random.u8(..5) {
                0 => drop(raw.remove(at)),
                1 => raw.insert(at, BYTES[random.usize(..BYTES.len())]),
                2 => raw[at] = BYTES[random.usize(..BYTES.len())],
                3 => raw[at] ^= 0x20,
                _ => drop(raw.splice(at..at, LINES[random.usize(..LINES.len())].bytes())),
            }
        }
        let events = read(&raw, raw.len());
        assert_eq!(read(&raw, 1), events, "{}", raw.escape_ascii());
        judge(&raw, &events).unwrap();
        passed += usize::from(matches!(events.first(), Some(Event::Head(_))));
    }
    assert!(passed > 1000, "only {passed} heads were tried");
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap();
    text.as_bytes().chunks(2).map(|pair| (digit(&pair[0]) * 16 + digit(&pair[1])) as u8).collect()
}
