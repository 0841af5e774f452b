//! Bodies: they end where they end however they are cut, and another parser walks the same chunks.

use wardgate::listen::{BodyFraming, BodyTracker};

pub(crate) fn check(data: &[u8]) {
    let Some((framing, body)) = data.split_first() else { return };
    let framing = match framing {
        0 => BodyFraming::None,
        1..=0x1f => BodyFraming::Length(u64::from(*framing)),
        _ => BodyFraming::Chunked,
    };
    let mut whole = BodyTracker::new(framing);
    let outcome = whole.advance(body);
    for step in [1, 2, 7] {
        let mut tracker = BodyTracker::new(framing);
        let mut taken = 0;
        let mut failure = None;
        for piece in body.chunks(step) {
            match tracker.advance(piece) {
                Ok(count) => taken += count,
                Err(error) => {
                    failure = Some(error);
                    assert_eq!(tracker.advance(b"x"), Err(error), "it stays broken");
                    break;
                }
            }
            if tracker.is_done() {
                assert_eq!(tracker.advance(b"x"), Ok(0), "nothing more belongs to it");
                break;
            }
        }
        match outcome {
            Ok(count) => {
                assert_eq!((failure, taken), (None, count), "{step} at a time");
                assert_eq!(tracker.is_done(), whole.is_done());
                assert_eq!(tracker.received(), whole.received());
            }
            Err(error) => assert_eq!(failure, Some(error), "{step} at a time"),
        }
    }
    if let (Ok(count), true, BodyFraming::Chunked) = (outcome, whole.is_done(), framing) {
        assert_eq!(walk(&body[..count]), Some(whole.received()));
    }
}

/// The content's bytes in a chunked body that is all of `body`, as httparse sees its sizes.
fn walk(mut body: &[u8]) -> Option<u64> {
    let mut received = 0;
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(body) else {
            return None;
        };
        body = &body[line..];
        if size == 0 {
            break;
        }
        received += size;
        body = body.get(usize::try_from(size).ok()?..)?.strip_prefix(b"\r\n")?;
    }
    let mut fields = [httparse::EMPTY_HEADER; 128];
    match httparse::parse_headers(body, &mut fields) {
        Ok(httparse::Status::Complete((end, _))) if end == body.len() => Some(received),
        _ => None,
    }
}
