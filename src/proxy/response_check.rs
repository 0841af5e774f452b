//! Whether a backend's response head can be believed.
//!
//! Answers "would this response end where its sender thinks it ends, for everybody on the way?".
//! Called once per response, before any of it goes to the client; a fault is a 502 and the
//! backend's connection is not used again. Never changes the response.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use super::forward::tokens;

/// Fields of a head, as the engine has it for those over HTTP/1.1.
const MAX_FIELDS: usize = 256;

/// Bytes of a head, likewise: names, values, and what is between them in HTTP/1.1.
const MAX_BYTES: usize = 1 << 20;

/// Responses with a status of 1xx before the one that was asked for: more than anybody has use for.
pub const MAX_INTERIM: u8 = 250;

/// What is wrong with a backend's response head.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadResponse {
    /// Request smuggling's first ingredient (RFC 9112 §6.3).
    #[error("several Content-Length fields")]
    SeveralLengths,
    /// Not a decimal number that fits 63 bits (RFC 9110 §8.6).
    #[error("Content-Length is not a number")]
    LengthNotANumber,
    /// RFC 9112 §6.3: ought to be handled as an error.
    #[error("Content-Length beside Transfer-Encoding")]
    LengthAndEncoding,
    /// Only `chunked`, only once, only in HTTP/1.1 (RFC 9112 §6.1).
    #[error("a Transfer-Encoding other than chunked")]
    Encoding,
    /// 1xx and 204 have none (RFC 9110 §15.2, §15.3.5).
    #[error("a body announced for a status that has none")]
    UnexpectedBody,
    /// 101 that nobody asked for, or in h2 (RFC 9110 §15.2.2, RFC 9113 §8.6).
    #[error("a switch of protocols that was not asked for")]
    UnrequestedUpgrade,
    /// 101 to something other than what was asked for.
    #[error("a switch to a protocol that was not asked for")]
    OtherProtocol,
    /// More than a head over HTTP/1.1 may have.
    #[error("more than {MAX_FIELDS} header fields")]
    TooManyFields,
    /// Likewise.
    #[error("more than {} KiB of header fields", MAX_BYTES >> 10)]
    TooLarge,
    /// Someone who never comes to the point.
    #[error("more than {MAX_INTERIM} responses before the one that was asked for")]
    TooManyInterim,
    /// A control character in a value (RFC 9110 §5.5).
    #[error("a control character in a header field")]
    ControlCharacter,
}

impl BadResponse {
    /// How many there are.
    pub const COUNT: usize = Self::ControlCharacter as usize + 1;
}

/// Checks a response head as it came from the backend.
///
/// `upgrade` is what [`requested_upgrade`](super::forward::requested_upgrade) found. A 304 and the
/// answer to HEAD may announce the length of what they stand for, and a 204 a length of 0.
///
/// # Errors
/// [`BadResponse`], the first that is found.
pub fn check_response(
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
    upgrade: Option<&HeaderValue>,
) -> Result<(), BadResponse> {
    if headers.values().any(|value| has_control(value.as_bytes())) {
        return Err(BadResponse::ControlCharacter);
    }
    if version == Version::HTTP_2 {
        // The engine lets 16 MiB pass there.
        check_size(headers)?;
    }
    let length = content_length(headers)?;
    let is_chunked = check_encoding(version, headers)?;
    if is_chunked && length.is_some() {
        return Err(BadResponse::LengthAndEncoding);
    }
    let is_bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    if is_bodiless && (is_chunked || length.is_some_and(|bytes| bytes > 0)) {
        return Err(BadResponse::UnexpectedBody);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        check_upgrade(version, headers, upgrade)?;
    }
    Ok(())
}

/// Checks that there are no more fields than a client can be expected to take.
///
/// # Errors
/// [`BadResponse::TooManyFields`] and [`BadResponse::TooLarge`].
pub fn check_size(fields: &HeaderMap) -> Result<(), BadResponse> {
    const AROUND: usize = ": \r\n".len();
    if fields.len() > MAX_FIELDS {
        return Err(BadResponse::TooManyFields);
    }
    let bytes = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + AROUND);
    if bytes.sum::<usize>() > MAX_BYTES { Err(BadResponse::TooLarge) } else { Ok(()) }
}

/// The one spelling of a length that [`check_response`] has let pass, where it has another: with zeros
/// in front, which not everybody on the way need read alike.
#[must_use]
pub fn plain_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    let has_zeros = value.len() > 1 && value.starts_with('0');
    if has_zeros { value.parse().ok() } else { None }
}

/// Whether a value holds what could end a line or confuse a reader. All values together are a few
/// hundred bytes; without a branch in the loop the compiler takes them 16 at a time.
fn has_control(value: &[u8]) -> bool {
    value.iter().fold(false, |found, &byte| found | ((byte < b' ' && byte != b'\t') || byte == 127))
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadResponse> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() || value.as_bytes().contains(&b',') {
        return Err(BadResponse::SeveralLengths);
    }
    let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    match number.filter(|&bytes| is_number && bytes <= i64::MAX as u64) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(BadResponse::LengthNotANumber),
    }
}

/// Whether the body is chunked.
fn check_encoding(version: Version, headers: &HeaderMap) -> Result<bool, BadResponse> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(false) };
    let is_chunked = value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if values.next().is_some() || version != Version::HTTP_11 || !is_chunked {
        return Err(BadResponse::Encoding);
    }
    Ok(true)
}

fn check_upgrade(
    version: Version,
    headers: &HeaderMap,
    requested: Option<&HeaderValue>,
) -> Result<(), BadResponse> {
    let requested = requested.filter(|_| version == Version::HTTP_11);
    let Some(requested) = requested else { return Err(BadResponse::UnrequestedUpgrade) };
    let mut granted =
        headers.get_all(UPGRADE).iter().flat_map(|value| tokens(value.as_bytes())).peekable();
    let is_requested =
        |token: &[u8]| tokens(requested.as_bytes()).any(|asked| asked.eq_ignore_ascii_case(token));
    if granted.peek().is_none() || !granted.all(is_requested) {
        return Err(BadResponse::OtherProtocol);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn check(
        status: u16,
        version: Version,
        lines: &[(&str, &str)],
        upgrade: Option<&'static str>,
    ) -> Result<(), BadResponse> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let upgrade = upgrade.map(HeaderValue::from_static);
        check_response(StatusCode::from_u16(status).unwrap(), version, &headers, upgrade.as_ref())
    }

    #[test]
    fn a_body_has_one_end() {
        use BadResponse::{Encoding, LengthAndEncoding, LengthNotANumber, SeveralLengths};
        for (lines, expected) in [
            (&[("content-length", "3")][..], Ok(())),
            (&[("transfer-encoding", "Chunked")], Ok(())),
            (&[], Ok(())),
            (&[("content-length", "3"), ("content-length", "4")], Err(SeveralLengths)),
            (&[("content-length", "3"), ("content-length", "3")], Err(SeveralLengths)),
            (&[("content-length", "3, 3")], Err(SeveralLengths)),
            (&[("content-length", "+3")], Err(LengthNotANumber)),
            (&[("content-length", "-3")], Err(LengthNotANumber)),
            (&[("content-length", "")], Err(LengthNotANumber)),
            (&[("content-length", "0x3")], Err(LengthNotANumber)),
            (&[("content-length", "9223372036854775808")], Err(LengthNotANumber)),
            (&[("content-length", "99999999999999999999")], Err(LengthNotANumber)),
            (&[("content-length", "3"), ("transfer-encoding", "chunked")], Err(LengthAndEncoding)),
            (&[("transfer-encoding", "gzip, chunked")], Err(Encoding)),
            (&[("transfer-encoding", "identity")], Err(Encoding)),
            (&[("transfer-encoding", ",chunked")], Err(Encoding)),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(Encoding)),
        ] {
            assert_eq!(check(200, Version::HTTP_11, lines, None), expected, "{lines:?}");
        }
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let lines = [("transfer-encoding", "chunked")];
            assert_eq!(check(200, version, &lines, None), Err(Encoding), "{version:?}");
        }
    }

    #[test]
    fn a_length_has_one_spelling() {
        for (text, plain) in [("0", None), ("20", None), ("02", Some(2)), ("000", Some(0))] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static(text));
            assert_eq!(plain_length(&headers), plain, "{text}");
        }
    }

    #[test]
    fn heads_over_h2_are_no_larger_than_those_over_http1() {
        let name = |index: usize| HeaderName::try_from(format!("x-{index}")).unwrap();
        let of = |count: usize, bytes: usize| -> HeaderMap {
            let value = HeaderValue::try_from("y".repeat(bytes)).unwrap();
            (0..count).map(|index| (name(index), value.clone())).collect()
        };
        for (headers, expected) in [
            (of(256, 100), Ok(())),
            (of(257, 1), Err(BadResponse::TooManyFields)),
            (of(1, 1_048_000), Ok(())),
            (of(1, 1 << 20), Err(BadResponse::TooLarge)),
            (of(256, 4096), Err(BadResponse::TooLarge)),
        ] {
            let found = check_response(StatusCode::OK, Version::HTTP_2, &headers, None);
            assert_eq!(found, expected, "{} fields", headers.len());
        }
    }

    #[test]
    fn statuses_without_a_body_announce_none() {
        let (length, none) = (&[("content-length", "3")][..], &[("content-length", "0")][..]);
        let chunked = &[("transfer-encoding", "chunked")][..];
        let unexpected = Err(BadResponse::UnexpectedBody);
        for (status, lines, expected) in [
            (204, length, unexpected),
            (204, chunked, unexpected),
            (204, none, Ok(())),
            (103, length, unexpected),
            (100, chunked, unexpected),
            (304, length, Ok(())),
            (304, chunked, Ok(())),
        ] {
            assert_eq!(
                check(status, Version::HTTP_11, lines, None),
                expected,
                "{status} {lines:?}"
            );
        }
    }

    #[test]
    fn protocols_are_switched_only_as_they_were_asked_for() {
        use BadResponse::{OtherProtocol, UnrequestedUpgrade};
        let websocket = &[("upgrade", "WebSocket")][..];
        for (version, lines, asked, expected) in [
            (Version::HTTP_11, websocket, Some("websocket"), Ok(())),
            (Version::HTTP_11, websocket, Some("foo, websocket"), Ok(())),
            (Version::HTTP_11, websocket, None, Err(UnrequestedUpgrade)),
            (Version::HTTP_2, websocket, Some("websocket"), Err(UnrequestedUpgrade)),
            (Version::HTTP_11, &[("upgrade", "h2c")], Some("websocket"), Err(OtherProtocol)),
            (
                Version::HTTP_11,
                &[("upgrade", "websocket, x")],
                Some("websocket"),
                Err(OtherProtocol),
            ),
            (Version::HTTP_11, &[], Some("websocket"), Err(OtherProtocol)),
        ] {
            assert_eq!(check(101, version, lines, asked), expected, "{lines:?} for {asked:?}");
        }
        assert_eq!(check(200, Version::HTTP_11, &[], Some("websocket")), Ok(()), "declined");
    }

    #[test]
    fn control_characters_are_seen_wherever_they_stand() {
        for byte in 0..=255_u8 {
            let is_bad = (byte < 32 && byte != 9) || byte == 127;
            for at in [0, 1, 20, 40] {
                let mut value = vec![b'a'; 41];
                value[at] = byte;
                assert_eq!(has_control(&value), is_bad, "{byte} at {at}");
            }
        }
    }
}
