//! The head gate: its verdict does not depend on how the bytes are cut, and what it lets pass another
//! parser reads in the same way.

use std::ops::Range;

use wardgate::listen::{BodyFraming, Head, HeadGate, HeadLimits, TargetForm, Verdict};

/// Small ones, which short inputs reach.
const LIMITS: HeadLimits = HeadLimits { bytes: 2048, fields: 24, uri_bytes: 512 };

pub(crate) fn check(data: &[u8]) {
    let whole = HeadGate::default().inspect(data, &LIMITS);
    let long = data.len() / 1024 + 1;
    for step in [1, 3, 64] {
        let mut gate = HeadGate::default();
        let cuts = (0..data.len()).step_by(step * long).chain([data.len()]);
        let mut verdicts = cuts.map(|end| gate.inspect(&data[..end], &LIMITS));
        let first = verdicts.find(|verdict| *verdict != Verdict::Incomplete);
        assert_eq!(first.unwrap_or(Verdict::Incomplete), whole, "{step} at a time");
    }
    match whole {
        Verdict::Incomplete => assert!(data.len() < LIMITS.bytes),
        Verdict::Pass(head) => passed(data, &head),
        Verdict::Refuse(refusal) => {
            assert!((400..=505).contains(&refusal.status));
            for span in [refusal.method, refusal.target, refusal.host].into_iter().flatten() {
                let seen = data.get(span.start..span.end).expect("within the bytes");
                assert!(seen.iter().all(|byte| !byte.is_ascii_control()), "{seen:?}");
            }
        }
    }
}

fn passed(data: &[u8], head: &Head) {
    assert!(head.leading < head.len && head.len <= data.len().min(LIMITS.bytes));
    let text = &data[head.leading..head.len];
    let Verdict::Pass(again) = HeadGate::default().inspect(text, &LIMITS) else {
        panic!("what passed passes again");
    };
    assert_eq!((again.leading, again.len), (0, text.len()));
    assert_eq!((again.body, again.keep_alive), (head.body, head.keep_alive));
    plain(text);

    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(text), Ok(httparse::Status::Complete(text.len())));
    assert_eq!(request.method.map(str::as_bytes), Some(head.method.of(data)));
    assert_eq!(request.path.map(str::as_bytes), Some(head.target.of(data)));
    assert_eq!(request.version, Some(head.version_minor));
    assert!(request.headers.len() <= LIMITS.fields);
    framing(request.headers, head);
    host(request.headers, data, head);
    target(data, head);
}

/// Lines end in CRLF, and nothing that ends a line elsewhere stands in them.
fn plain(text: &[u8]) {
    assert!(text.ends_with(b"\r\n\r\n"));
    let text = std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Into::into);
    for line in text.split("\r\n") {
        let is_odd = |character: char| character.is_ascii_control() && character != '\t';
        assert!(!line.contains(is_odd), "{line:?}");
        assert!(!line.starts_with([' ', '\t']), "{line:?}");
    }
}

fn framing(fields: &[httparse::Header<'_>], head: &Head) {
    let of = |name: &str| -> Vec<&[u8]> {
        let fields = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value.trim_ascii()).collect()
    };
    let (lengths, codings) = (of("content-length"), of("transfer-encoding"));
    match head.body {
        BodyFraming::Chunked => {
            assert!(lengths.is_empty() && head.version_minor == 1);
            assert!(matches!(codings[..], [one] if one.eq_ignore_ascii_case(b"chunked")));
        }
        BodyFraming::Length(length) => {
            assert!(codings.is_empty());
            let [written] = lengths[..] else { panic!("{} lengths", lengths.len()) };
            assert!(written.iter().all(u8::is_ascii_digit));
            let text = std::str::from_utf8(written).expect("digits");
            assert_eq!(text.parse(), Ok(length));
        }
        BodyFraming::None => assert!(lengths.is_empty() && codings.is_empty()),
    }
}

fn host(fields: &[httparse::Header<'_>], data: &[u8], head: &Head) {
    let mut hosts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let written = hosts.next();
    assert!(hosts.next().is_none());
    assert!(written.is_some() || head.version_minor == 0);
    if let (Some(written), Some(host)) = (written, head.host) {
        assert_eq!(written.value.trim_ascii(), host.of(data));
        assert!(!host.of(data).iter().any(|byte| b" /,@\\".contains(byte)));
    }
}

/// The engine's parser takes the target, once four characters are escaped as the gateway does it.
fn target(data: &[u8], head: &Head) {
    if let TargetForm::Absolute { authority, path, .. } = head.form {
        let within =
            |part: Range<usize>| head.target.start <= part.start && part.end <= head.target.end;
        assert!(within(authority.start..authority.end) && within(path.start..path.end));
        assert!(!authority.is_empty());
    }
    let mut spelt = Vec::new();
    for byte in head.target.of(data) {
        match byte {
            b'"' | b'<' | b'>' | b'`' => spelt.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => spelt.push(*byte),
        }
    }
    let uri = http::Uri::try_from(spelt.clone());
    assert!(uri.is_ok(), "{uri:?} of {:?}", String::from_utf8_lossy(&spelt));
}
