//! The byte classes and small words of HTTP/1.1, as strict as RFC 9110 and RFC 9112 print them.
//!
//! Answers "may this byte stand here?" and "is this a host?". Called by the head gate and by the
//! chunked body's trailers. Never looks at more than the slice it is given.

use std::net::Ipv6Addr;

/// `tchar` (RFC 9110 §5.6.2): field names.
const TOKEN: u8 = 1;
/// `tchar` without lower-case letters: every registered method is upper-case, and a backend that
/// folds case would see another method than the one we routed.
const METHOD: u8 = 2;
/// What may stand in a line: HTAB, SP, VCHAR and obs-text (RFC 9110 §5.5).
const PLAIN: u8 = 4;
/// What may stand in a request target: no blank, no control, no `#`. Bytes from 0x80 pass if they
/// are UTF-8; the canonical path decides about them.
const TARGET: u8 = 8;
/// Letters, digits, `-` and `_`: what labels of host names are made of in practice.
const LABEL: u8 = 16;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let byte = index as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() || is_token_mark(byte) {
            class |= TOKEN;
            if !byte.is_ascii_lowercase() {
                class |= METHOD;
            }
        }
        if byte == b'\t' || (byte >= b' ' && byte != 0x7f) {
            class |= PLAIN;
        }
        if byte > b' ' && byte != 0x7f && byte != b'#' {
            class |= TARGET;
        }
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            class |= LABEL;
        }
        table[index] = class;
        index += 1;
    }
    table
}

const fn is_token_mark(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    )
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Whether `byte` may stand in a field name.
pub(super) fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Whether `byte` may stand in a field value or a quoted string.
pub(super) fn is_plain(byte: u8) -> bool {
    is(byte, PLAIN)
}

/// Whether `text` is a method: a token without lower-case letters.
pub(super) fn is_method(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is(byte, METHOD))
}

/// Whether `text` holds only what may stand in a request target, and something. It must be UTF-8,
/// because the engine behind us reads it as a string and would answer with its own 400.
pub(super) fn is_target(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is(byte, TARGET)) && str::from_utf8(text).is_ok()
}

/// Where the first byte at or after `from` stands that cannot be inside a line (a control, CR and
/// LF among them), or the length of `bytes`.
pub(super) fn plain_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        if has_control(u64::from_ne_bytes(*word))
            && let Some(offset) = word.iter().position(|&byte| !is_plain(byte))
        {
            return at + offset;
        }
        at += word.len();
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|&byte| !is_plain(byte)).map_or(at + rest.len(), |offset| at + offset)
}

/// Whether one of the eight bytes is below 0x20 or is DEL. A subtraction borrows into a byte's top
/// bit exactly when that byte was too small, so eight bytes cost as much as one.
const fn has_control(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES * 0x80;
    let low = word.wrapping_sub(ONES * 0x20) & !word;
    let flipped = word ^ (ONES * 0x7f);
    let del = flipped.wrapping_sub(ONES) & !flipped;
    (low | del) & TOPS != 0
}

/// `text` without SP and HTAB at its ends (`OWS`, RFC 9110 §5.6.3); no other blank is taken off.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let mut text = trim_start(text);
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// `text` without SP and HTAB at its front.
pub(super) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Whether `text` is `host [":" port]` as a `Host` field may hold it (RFC 9110 §7.2), host not
/// empty.
///
/// Narrower than RFC 3986's reg-name on purpose: no percent-encoding and no sub-delimiters, since
/// a comma or a semicolon in a host is only ever read as two different hosts.
pub(super) fn is_authority(text: &[u8]) -> bool {
    if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
        let (address, after) = rest.split_at(end);
        return is_ipv6(address) && (after.len() == 1 || is_port(&after[1..]));
    }
    match text.iter().position(|&byte| byte == b':') {
        Some(colon) => is_name(&text[..colon]) && is_port(&text[colon..]),
        None => is_name(text),
    }
}

fn is_ipv6(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// `":"` and a port from 1 to 65535.
fn is_port(text: &[u8]) -> bool {
    let [b':', digits @ ..] = text else { return false };
    let is_digits = (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_digits
        && str::from_utf8(digits).is_ok_and(|text| text.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Labels of 1–63 bytes, 253 in all (RFC 1035 §2.3.4); one trailing dot is allowed, a hyphen at a
/// label's end is not. An IPv4 address looks like a name here.
fn is_name(text: &[u8]) -> bool {
    let name = text.strip_suffix(b".").unwrap_or(text);
    name.len() <= 253 && name.split(|&byte| byte == b'.').all(is_label)
}

fn is_label(label: &[u8]) -> bool {
    matches!(label.len(), 1..=63)
        && label.iter().all(|&byte| is(byte, LABEL))
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_agree_with_the_grammar_for_every_byte() {
        for byte in 0..=u8::MAX {
            let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(byte), is_tchar, "token {byte:#04x}");
            assert_eq!(is_method(&[byte]), is_tchar && !byte.is_ascii_lowercase(), "{byte:#04x}");
            let is_control = byte < 0x20 || byte == 0x7f;
            assert_eq!(is_plain(byte), !is_control || byte == b'\t', "plain {byte:#04x}");
            let is_ascii_target = byte < 0x80 && !is_control && byte != b' ' && byte != b'#';
            assert_eq!(is_target(&[byte]), is_ascii_target, "target {byte:#04x}");
        }
        assert!(is_target("/é".as_bytes()) && !is_target(b"/\xe9"), "UTF-8 only");
    }

    #[test]
    fn plain_end_finds_the_same_byte_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            let text = *b"\tblank\t and \xff\x80 text";
            for at in 0..text.len() {
                let mut text = text;
                text[at] = byte;
                let expected = if is_plain(byte) { text.len() } else { at };
                assert_eq!(plain_end(&text, 0), expected, "{byte:#04x} at {at}");
                assert_eq!(plain_end(&text, at), expected, "{byte:#04x} from {at}");
            }
        }
        assert_eq!(plain_end(b"short", 9), 9, "past the end is not a panic");
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{label}");
        let cases: &[(&str, bool)] = &[
            ("a", true),
            ("a.test", true),
            ("A.Test.", true),
            ("a_b.test", true),
            ("xn--bcher-kva.example:8080", true),
            ("127.0.0.1:1", true),
            ("[::1]", true),
            ("[2001:db8::1]:443", true),
            (&label, true),
            ("", false),
            (".", false),
            ("-", false),
            ("a..b", false),
            (".a", false),
            ("a-.b", false),
            ("a:", false),
            (":80", false),
            ("a:0", false),
            ("a:65536", false),
            ("a:+1", false),
            ("a:1:2", false),
            ("a,b", false),
            ("a b", false),
            ("a/b", false),
            ("a@b", false),
            ("http://a", false),
            ("a%2eb", false),
            ("bücher.example", false),
            ("[::1", false),
            ("[::1]x", false),
            ("[::1]:", false),
            ("[fe80::1%eth0]", false),
            ("[127.0.0.1]", false),
            ("[v1.x]", false),
            ("::1", false),
            (&long, false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_authority(text.as_bytes()), *expected, "{text:?}");
        }
    }

    #[test]
    fn only_spaces_and_tabs_are_trimmed() {
        assert_eq!(trim(b" \t a b \t"), b"a b");
        assert_eq!(trim(b" \x0ba\xa0 "), b"\x0ba\xa0");
        assert_eq!(trim(b" \t"), b"");
    }
}
