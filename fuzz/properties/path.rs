//! Paths: the canonical form is one, and no reading of it climbs or hides a segment.

use wardgate::net::path::{self, EncodedSlashes};

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // What operators write is never a reason to panic.
    let _ = path::match_key_of_pattern(text);
    for slashes in [EncodedSlashes::Refuse, EncodedSlashes::Pass] {
        let Ok(canonical) = path::canonical(text, slashes) else { continue };
        let canonical = canonical.as_str();
        let again = path::canonical(canonical, slashes).expect("canonical is fine");
        assert_eq!(again.as_str(), canonical);
        assert!(matches!(again.into_cow(), std::borrow::Cow::Borrowed(_)), "seen to be canonical");
        if canonical == "*" {
            continue;
        }
        sound(canonical, slashes);
        keys(canonical);
    }
    let is_fine = |slashes| path::canonical(text, slashes).map(|it| it.into_cow().into_owned());
    if let Ok(strict) = is_fine(EncodedSlashes::Refuse) {
        assert_eq!(is_fine(EncodedSlashes::Pass), Ok(strict), "passing more changes nothing");
    }
}

/// No backend may read another path in it.
fn sound(canonical: &str, slashes: EncodedSlashes) {
    let rest = canonical.strip_prefix('/').expect("absolute");
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>?[\\]^`{|}".contains(&byte);
    assert!(canonical.bytes().all(is_plain), "{canonical}");
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        assert!(!segment.is_empty() || segments.peek().is_none(), "{canonical}");
        let decoded = decoded(segment.as_bytes());
        let bare = decoded.split(|byte| *byte == b';').next().unwrap_or_default();
        assert!(bare != b"." && bare != b"..", "{canonical}");
        assert!(decoded.iter().all(|byte| !byte.is_ascii_control()), "{canonical}");
        if slashes == EncodedSlashes::Refuse {
            assert!(!decoded.iter().any(|byte| matches!(byte, b'/' | b'\\')), "{canonical}");
        }
    }
}

fn keys(canonical: &str) {
    let key = path::match_key(canonical);
    let key = key.as_str();
    assert_eq!(path::match_key(key).as_str(), key);
    assert_eq!(path::match_key_of_pattern(canonical).as_deref(), Ok(key), "{canonical}");
    if let Some(prefix) = key.strip_suffix('/') {
        assert_eq!(path::strip_prefix(canonical, prefix), Some("/"), "{canonical}");
    } else {
        assert_eq!(path::strip_prefix(canonical, key), Some(""), "{canonical}");
    }
}

fn decoded(mut bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    while let [first, rest @ ..] = bytes {
        let escape = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes = match (first, byte) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                &rest[2..]
            }
            _ => {
                decoded.push(*first);
                rest
            }
        };
    }
    decoded
}
