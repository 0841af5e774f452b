//! The one spelling of a request's path.
//!
//! Answers "what path is this, for every part of the gateway and for the backend alike?". Called by
//! `proxy` for each request, by `route` after a rewrite and by `config` for patterns. Never looks
//! at the query.
//!
//! # Why
//! A path that a rule reads in one way and a backend in another walks past the rule (CVE-2019-9901,
//! CVE-2021-29492, CVE-2018-1271). So a path is made [`Canonical`] or refused with 400; rules
//! compare its [`MatchKey`], and the backend receives the canonical form and nothing else. The two
//! differ only in the reserved characters `!$&'()*+,;=:@`, which RFC 3986 §2.2 lets a backend tell
//! from their escapes, while a rule for `/@admin` must hold for `/%40admin` too.

use std::borrow::Cow;
use std::fmt;

/// What becomes of `%2F`, `%5C` and `\` in a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EncodedSlashes {
    /// 400: backends disagree on whether they separate segments.
    Refuse,
    /// They stay encoded and separate nothing.
    Pass,
}

/// A path as the backend receives it: absolute, or the `*` of `OPTIONS`.
///
/// Unreserved characters stand plain, everything that may not stand in a path is percent-encoded,
/// escapes are in upper case, and there are neither dot segments nor empty ones, except for a
/// slash at the end.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Canonical<'a>(Cow<'a, str>);

impl<'a> Canonical<'a> {
    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, borrowed when the path came canonical.
    #[must_use]
    pub fn into_cow(self) -> Cow<'a, str> {
        self.0
    }

    /// What path conditions compare with.
    #[must_use]
    pub fn match_key(&self) -> MatchKey<'_> {
        match_key(&self.0)
    }
}

impl fmt::Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A canonical path with the escapes of `!$&'()*+,;=:@` decoded: equal for all paths that differ
/// only in whether those characters are escaped. For comparison only, never sent.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct MatchKey<'a>(Cow<'a, str>);

impl<'a> MatchKey<'a> {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, borrowed when it equals the canonical path.
    #[must_use]
    pub fn into_cow(self) -> Cow<'a, str> {
        self.0
    }
}

/// Why a path is refused, always with 400.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// It does not start with a slash.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A control character, a space, `#` or `?`.
    #[error("{0:?} cannot stand in a path")]
    Character(char),
    /// A `%` that two hexadecimal digits do not follow (RFC 3986 §2.1).
    #[error("a percent sign is not followed by two hexadecimal digits")]
    Escape,
    /// `%00` to `%1F`, `%7F`.
    #[error("%{0:02X} encodes a control character")]
    Control(u8),
    /// `%C0%AF` and others of its kind (RFC 3629 §10).
    #[error("%{0:02X} begins an overlong UTF-8 sequence")]
    Overlong(u8),
    /// `%2F`, where the site refuses it.
    #[error("the path has an encoded slash")]
    Slash,
    /// `\` or `%5C`, where the site refuses it.
    #[error("the path has a backslash")]
    Backslash,
    /// `/..;/`: servers that drop path parameters would climb a segment.
    #[error("a dot segment has parameters")]
    DotParameters,
}

impl PathError {
    /// What is wrong, in fixed words.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAbsolute => "the path does not start with a slash",
            Self::Character(_) => "the path has a character that cannot stand in it",
            Self::Escape => "a percent sign is not followed by two hexadecimal digits",
            Self::Control(_) => "the path encodes a control character",
            Self::Overlong(_) => "the path has an overlong UTF-8 sequence",
            Self::Slash => "the path has an encoded slash",
            Self::Backslash => "the path has a backslash",
            Self::DotParameters => "a dot segment of the path has parameters",
        }
    }
}

/// Makes the path of a request target canonical. One pass and no allocation if it is so already.
///
/// Escapes of unreserved characters are decoded (RFC 3986 §6.2.2.2) and all others kept; raw
/// `"<>[]^{|}`, the backtick and non-ASCII are encoded, as clients send them and backends differ;
/// slashes are merged, then dot segments resolved, also encoded ones, never above the root.
///
/// # Errors
/// [`PathError`] says what was found.
pub fn canonical(raw: &str, slashes: EncodedSlashes) -> Result<Canonical<'_>, PathError> {
    if is_canonical(raw, slashes) {
        return Ok(Canonical(Cow::Borrowed(raw)));
    }
    Ok(Canonical(Cow::Owned(rebuild(raw, slashes, Source::Client)?)))
}

/// The key of a canonical path.
#[must_use]
pub fn match_key(canonical: &str) -> MatchKey<'_> {
    if !canonical.as_bytes().contains(&b'%') {
        return MatchKey(Cow::Borrowed(canonical));
    }
    let mut rest = canonical;
    let mut key = String::new();
    while let Some((at, character)) = find_reserved_escape(rest) {
        key.push_str(&rest[..at]);
        key.push(character);
        rest = &rest[at + 3..];
    }
    if key.is_empty() {
        return MatchKey(Cow::Borrowed(canonical));
    }
    key.push_str(rest);
    MatchKey(Cow::Owned(key))
}

/// The key of the literal text of a path pattern, as an operator writes it: what may stand in a
/// request's path, and spaces. Encoded slashes are taken; whether a request may have them is the
/// site's to say.
///
/// # Errors
/// As [`canonical`].
pub fn match_key_of_pattern(text: &str) -> Result<String, PathError> {
    let path = rebuild(text, EncodedSlashes::Pass, Source::Operator)?;
    Ok(match_key(&path).into_cow().into_owned())
}

/// A match key without the parameters of its segments (RFC 3986 §3.3), if it has any.
///
/// Servlet containers look for what they serve without them: for those `/;a/admin;b` is `/admin`, and
/// a rule for that must hold for both.
#[must_use]
pub fn without_parameters(match_key: &str) -> Option<String> {
    if !match_key.as_bytes().contains(&b';') {
        return None;
    }
    let mut bare = String::with_capacity(match_key.len());
    let segments =
        match_key.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    for segment in segments.filter(|segment| !segment.is_empty()) {
        bare.push('/');
        bare.push_str(segment);
    }
    let is_open =
        match_key.rsplit('/').next().is_none_or(|last| last.is_empty() || last.starts_with(';'));
    if is_open || bare.is_empty() {
        bare.push('/');
    }
    Some(bare)
}

/// What follows `prefix` in `canonical`, if `prefix`, a match key without a slash at its end, holds
/// whole segments of it: starts with a slash or is empty. The two may differ in escaping, and in
/// parameters that `prefix` does not have, be they a whole segment.
#[must_use]
pub fn strip_prefix<'p>(canonical: &'p str, prefix: &str) -> Option<&'p str> {
    let mut rest = canonical;
    let mut expected = prefix.as_bytes();
    while let [next, after @ ..] = expected {
        if *next == b'/' && after.first() != Some(&b';') {
            while let Some(skipped) = rest.strip_prefix('/').and_then(skip_parameters) {
                rest = skipped;
            }
        }
        rest = match rest.as_bytes() {
            [found, ..] if found == next => &rest[1..],
            [b'%', high, low, ..] if reserved_escape(*high, *low) == Some(*next) => &rest[3..],
            _ if *next == b'/' => {
                rest = skip_parameters(rest)?;
                continue;
            }
            _ => return None,
        };
        expected = after;
    }
    let rest = skip_parameters(rest).unwrap_or(rest);
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// What follows the parameters that `rest` begins with, if it does: the end of their segment.
fn skip_parameters(rest: &str) -> Option<&str> {
    let has_some = rest.starts_with(';') || rest.starts_with("%3B");
    has_some.then(|| rest.find('/').map_or("", |end| &rest[end..]))
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Source {
    Client,
    Operator,
}

/// Whether [`rebuild`] would return `raw` as it is.
fn is_canonical(raw: &str, slashes: EncodedSlashes) -> bool {
    let bytes = raw.as_bytes();
    if bytes.first() != Some(&b'/') {
        return raw == "*";
    }
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += match CLASS[usize::from(byte)] {
            Class::Plain => 1,
            Class::Slash if !is_special_segment(&bytes[at + 1..]) => 1,
            Class::Percent if is_canonical_escape(&bytes[at..], slashes) => 3,
            _ => return false,
        };
    }
    true
}

/// Whether the segment that begins here may have to go: empty, `.`, `..` or one of those two with
/// parameters. An escaped dot is found as an escape.
fn is_special_segment(rest: &[u8]) -> bool {
    match rest {
        [b'/', ..] => true,
        [b'.', b'.', after @ ..] | [b'.', after @ ..] => {
            matches!(after, [] | [b'/' | b';', ..] | [b'%', b'3', b'B' | b'b', ..])
        }
        _ => false,
    }
}

fn is_canonical_escape(rest: &[u8], slashes: EncodedSlashes) -> bool {
    let is_upper = !rest[1..].iter().take(2).any(u8::is_ascii_lowercase);
    is_upper && matches!(read_escape(rest, slashes), Ok(byte) if !is_unreserved(byte))
}

/// Writes the canonical form of `raw`.
fn rebuild(raw: &str, slashes: EncodedSlashes, source: Source) -> Result<String, PathError> {
    if raw == "*" && source == Source::Client {
        return Ok(raw.to_owned());
    }
    let inner = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let mut path = String::with_capacity(raw.len() + 8);
    path.push('/');
    let mut segment = 1;
    let mut rest = inner;
    while let Some(next) = rest.chars().next() {
        let mut length = next.len_utf8();
        match class(next) {
            Class::Plain => path.push(next),
            Class::Slash => {
                close_segment(&mut path, &mut segment)?;
                if path.len() > segment {
                    path.push('/');
                    segment = path.len();
                }
            }
            Class::Percent => {
                match read_escape(rest.as_bytes(), slashes)? {
                    byte if is_unreserved(byte) => path.push(byte.into()),
                    byte => push_escape(&mut path, byte),
                }
                length = 3;
            }
            Class::Backslash if slashes == EncodedSlashes::Refuse => {
                return Err(PathError::Backslash);
            }
            Class::Refused if next != ' ' || source == Source::Client => {
                return Err(PathError::Character(next));
            }
            Class::Encoded | Class::Backslash | Class::Refused => {
                rest.as_bytes()[..length].iter().for_each(|byte| push_escape(&mut path, *byte));
            }
        }
        rest = &rest[length..];
    }
    close_segment(&mut path, &mut segment)?;
    Ok(path)
}

/// Resolves the segment that begins at `segment` and reaches to the end, if it is a dot segment.
fn close_segment(path: &mut String, segment: &mut usize) -> Result<(), PathError> {
    let written = &path[*segment..];
    match written {
        "." => path.truncate(*segment),
        ".." => {
            let parent = path[..*segment - 1].rfind('/').map_or(1, |slash| slash + 1);
            path.truncate(parent);
            *segment = parent;
        }
        _ => {
            let after = written.strip_prefix("..").or_else(|| written.strip_prefix('.'));
            if after.is_some_and(|after| after.starts_with(';') || after.starts_with("%3B")) {
                return Err(PathError::DotParameters);
            }
        }
    }
    Ok(())
}

/// The byte that the escape at the start of `rest` stands for.
fn read_escape(rest: &[u8], slashes: EncodedSlashes) -> Result<u8, PathError> {
    let [_, high, low, after @ ..] = rest else { return Err(PathError::Escape) };
    let byte = hex_byte(*high, *low).ok_or(PathError::Escape)?;
    let refuses = slashes == EncodedSlashes::Refuse;
    match byte {
        0..=0x1f | 0x7f => Err(PathError::Control(byte)),
        b'/' if refuses => Err(PathError::Slash),
        b'\\' if refuses => Err(PathError::Backslash),
        0x80.. if is_overlong(byte, after) => Err(PathError::Overlong(byte)),
        _ => Ok(byte),
    }
}

/// Whether `lead` begins a UTF-8 sequence longer than its character needs. `C0` and `C1` can begin
/// nothing else. Other bytes that are no UTF-8 are left alone: old sites have Latin-1 paths.
fn is_overlong(lead: u8, after: &[u8]) -> bool {
    let limit = match lead {
        0xc0 | 0xc1 => return true,
        0xe0 => 0xa0,
        0xf0 => 0x90,
        0xf8 => 0x88,
        0xfc => 0x84,
        _ => return false,
    };
    match after {
        [b'%', high, low, ..] => {
            hex_byte(*high, *low).is_some_and(|second| (0x80..limit).contains(&second))
        }
        _ => false,
    }
}

fn push_escape(path: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    path.push('%');
    path.push(HEX[usize::from(byte >> 4)].into());
    path.push(HEX[usize::from(byte & 15)].into());
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn find_reserved_escape(text: &str) -> Option<(usize, char)> {
    let bytes = text.as_bytes();
    text.match_indices('%').find_map(|(at, _)| {
        let found = reserved_escape(*bytes.get(at + 1)?, *bytes.get(at + 2)?)?;
        Some((at, char::from(found)))
    })
}

/// The character of `!$&'()*+,;=:@` that an escape stands for (RFC 3986 §3.3, `pchar`).
fn reserved_escape(high: u8, low: u8) -> Option<u8> {
    hex_byte(high, low).filter(|byte| b"!$&'()*+,;=:@".contains(byte))
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may be done with a raw character.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Class {
    /// Stands as it is.
    Plain,
    Slash,
    Percent,
    Backslash,
    /// Stands percent-encoded.
    Encoded,
    Refused,
}

fn class(character: char) -> Class {
    if character.is_ascii() { CLASS[character as usize] } else { Class::Encoded }
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Refused; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = match at as u8 {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Encoded,
            0..=b' ' | b'#' | b'?' | 0x7f => Class::Refused,
            0x80.. => Class::Encoded,
            _ => Class::Plain,
        };
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use EncodedSlashes::{Pass, Refuse};

    use super::*;

    #[test]
    fn a_path_has_one_canonical_form() {
        let rows = [
            // Canonical already.
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a-b_c.d~e", "/a-b_c.d~e"),
            ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
            ("/.well-known/acme-challenge/x", "/.well-known/acme-challenge/x"),
            ("/...", "/..."),
            ("/..a/.b", "/..a/.b"),
            ("/a..", "/a.."),
            ("/a./b", "/a./b"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/*", "/*"),
            // Unreserved escapes are decoded, others are kept in upper case.
            ("/%61dmin", "/admin"),
            ("/%41%5a%7e%2D%5F%2e%30", "/AZ~-_.0"),
            ("/%e4%b8%ad", "/%E4%B8%AD"),
            ("/a%20b", "/a%20b"),
            ("/a%2bb%3ac%40d", "/a%2Bb%3Ac%40d"),
            ("/100%25", "/100%25"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%25%32%66", "/%252f"),
            ("/%3f%23", "/%3F%23"),
            ("/caf%E9", "/caf%E9"),
            // Raw characters that clients send.
            ("/a\"<>^`{|}", "/a%22%3C%3E%5E%60%7B%7C%7D"),
            ("/a[0]", "/a%5B0%5D"),
            ("/bücher", "/b%C3%BCcher"),
            ("/日本", "/%E6%97%A5%E6%9C%AC"),
            // Slashes are merged.
            ("//admin", "/admin"),
            ("///", "/"),
            ("/a//b///c//", "/a/b/c/"),
            // Dot segments are resolved, never above the root.
            ("/.", "/"),
            ("/..", "/"),
            ("/./admin", "/admin"),
            ("/x/../admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/../", "/a/"),
            ("/a/b/../../..", "/"),
            ("/a/./b/./", "/a/b/"),
            ("/a//../b", "/b"),
            ("//..//a", "/a"),
            ("/x/..//admin", "/admin"),
            ("/%2e/admin", "/admin"),
            ("/x/%2e%2e/admin", "/admin"),
            ("/x/%2E./admin", "/admin"),
            ("/x/.%2e/admin", "/admin"),
            ("/x/%2e%2E", "/"),
            ("//a/../b/%2e%2e/c", "/c"),
            ("/.../a", "/.../a"),
            ("/.%41", "/.A"),
            ("/..%20/a", "/..%20/a"),
        ];
        for (raw, expected) in rows {
            let path = canonical(raw, Refuse).unwrap();
            assert_eq!(path.as_str(), expected, "{raw}");
            let is_borrowed = matches!(path.into_cow(), Cow::Borrowed(_));
            assert_eq!(is_borrowed, raw == expected, "{raw} is copied only when it changes");
        }
    }

    #[test]
    fn an_ambiguous_path_is_refused() {
        let rows = [
            ("", PathError::NotAbsolute),
            ("admin", PathError::NotAbsolute),
            ("**", PathError::NotAbsolute),
            ("http://a/b", PathError::NotAbsolute),
            ("\\admin", PathError::NotAbsolute),
            ("/\\admin", PathError::Backslash),
            ("/x\\..\\admin", PathError::Backslash),
            ("/%5Cadmin", PathError::Backslash),
            ("/%5cadmin", PathError::Backslash),
            ("/admin%2f", PathError::Slash),
            ("/admin%2F", PathError::Slash),
            ("/x/..%2fadmin", PathError::Slash),
            ("/x%2f%2e%2e%2fadmin", PathError::Slash),
            ("/a b", PathError::Character(' ')),
            ("/a\tb", PathError::Character('\t')),
            ("/a\r\nb", PathError::Character('\r')),
            ("/a\0b", PathError::Character('\0')),
            ("/a\u{7f}", PathError::Character('\u{7f}')),
            ("/a#b", PathError::Character('#')),
            ("/a?b", PathError::Character('?')),
            ("/%00", PathError::Control(0)),
            ("/a%0d%0ab", PathError::Control(0x0d)),
            ("/a%1Fb", PathError::Control(0x1f)),
            ("/a%7fb", PathError::Control(0x7f)),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/%4g", PathError::Escape),
            ("/%+1", PathError::Escape),
            ("/%u002e%u002e/admin", PathError::Escape),
            ("/%%32%65", PathError::Escape),
            ("/%é", PathError::Escape),
            ("/%2é", PathError::Escape),
            ("/x/..%c0%af", PathError::Overlong(0xc0)),
            ("/%C0%AE%C0%AE/admin", PathError::Overlong(0xc0)),
            ("/%c1%9c", PathError::Overlong(0xc1)),
            ("/%c0%2f", PathError::Overlong(0xc0)),
            ("/%E0%80%AF", PathError::Overlong(0xe0)),
            ("/%e0%9f%bf", PathError::Overlong(0xe0)),
            ("/%F0%80%80%AF", PathError::Overlong(0xf0)),
            ("/%f8%80%80%80%af", PathError::Overlong(0xf8)),
            ("/%fc%80%80%80%80%af", PathError::Overlong(0xfc)),
            ("/x/..;/admin", PathError::DotParameters),
            ("/x/..;a=b/admin", PathError::DotParameters),
            ("/.;/admin", PathError::DotParameters),
            ("/x/..;", PathError::DotParameters),
            ("/x/..%3B/admin", PathError::DotParameters),
            ("/x/..%3b/admin", PathError::DotParameters),
            ("/x/%2e%2e;/admin", PathError::DotParameters),
            ("/x/.%2e%3bx/admin", PathError::DotParameters),
        ];
        for (raw, expected) in rows {
            assert_eq!(canonical(raw, Refuse), Err(expected), "{raw:?}");
        }
    }

    #[test]
    fn passed_slashes_stay_encoded_and_separate_nothing() {
        let rows = [
            ("/admin%2f", "/admin%2F"),
            ("/x/..%2fadmin", "/x/..%2Fadmin"),
            ("/a%2F%2Fb", "/a%2F%2Fb"),
            ("/a\\b", "/a%5Cb"),
            ("/a%5cb", "/a%5Cb"),
            ("/x\\..\\admin", "/x%5C..%5Cadmin"),
            ("/%2e%2e%2f", "/..%2F"),
        ];
        for (raw, expected) in rows {
            assert_eq!(canonical(raw, Pass).unwrap().as_str(), expected, "{raw}");
        }
        assert_eq!(canonical("/%00", Pass), Err(PathError::Control(0)));
    }

    #[test]
    fn a_rule_sees_the_same_path_however_it_is_spelled() {
        let rows = [
            ("/%40admin", "/@admin"),
            ("/@admin", "/@admin"),
            ("/a%3Ab%2Cc%3D%21", "/a:b,c=!"),
            ("/a%3bb%2a", "/a;b*"),
            ("/a%2540", "/a%2540"),
            ("/a%20b%25", "/a%20b%25"),
            ("/%C3%BC%40", "/%C3%BC@"),
            ("/%2540%40", "/%2540@"),
        ];
        for (raw, expected) in rows {
            let path = canonical(raw, Refuse).unwrap();
            assert_eq!(path.match_key().as_str(), expected, "{raw}");
        }
    }

    #[test]
    fn parameters_are_no_part_of_what_is_asked_for() {
        let rows = [
            ("/admin", None),
            ("*", None),
            ("/admin;a=b;c", Some("/admin")),
            ("/;a/admin;b", Some("/admin")),
            ("/admin;/users;x/", Some("/admin/users/")),
            ("/admin/;x", Some("/admin/")),
            ("/;", Some("/")),
            ("/;;/;", Some("/")),
        ];
        for (key, expected) in rows {
            assert_eq!(without_parameters(key).as_deref(), expected, "{key}");
        }
    }

    #[test]
    fn a_pattern_may_be_written_plainly() {
        let rows = [
            ("/v1", "/v1"),
            ("/v1/", "/v1/"),
            ("/", "/"),
            ("/@admin", "/@admin"),
            ("/%40admin", "/@admin"),
            ("/meine bücher", "/meine%20b%C3%BCcher"),
            ("/meine%20b%c3%bccher", "/meine%20b%C3%BCcher"),
            ("/a%2fb", "/a%2Fb"),
            ("//a/./b/../c", "/a/c"),
        ];
        for (text, expected) in rows {
            assert_eq!(match_key_of_pattern(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "*", "v1", "/a?b", "/a#b", "/100%", "/a\nb", "/..;/a", "/%00"] {
            assert!(match_key_of_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_is_stripped_on_segment_boundaries_whatever_is_escaped() {
        let rows = [
            ("/v1", "/v1", Some("")),
            ("/v1/", "/v1", Some("/")),
            ("/v1/a%40", "/v1", Some("/a%40")),
            ("/v10", "/v1", None),
            ("/v", "/v1", None),
            ("/%40a/b%3A", "/@a", Some("/b%3A")),
            ("/@a/b", "/@a", Some("/b")),
            ("/a%20b/c", "/a%20b", Some("/c")),
            ("/a%2Fb", "/a", None),
            ("/a%3Bb", "/a", Some("")),
            ("/a;b", "/a", Some("")),
            ("/a;b/c;d", "/a", Some("/c;d")),
            ("/a;x/b;y/c", "/a/b", Some("/c")),
            ("/a;x/b;y/c", "/a;x/b", Some("/c")),
            ("/a;x", "/a/b", None),
            ("/ab;x", "/a", None),
            ("/;x/a/b", "/a", Some("/b")),
            ("/;x/%3By/a;z/;/b/c", "/a/b", Some("/c")),
            ("/;x/a/b", "/;x/a", Some("/b")),
            ("/a/;x/b", "/a", Some("/;x/b")),
            ("/;x", "/a", None),
            ("/;x/ab", "/a", None),
            ("/;x/a", "", Some("/;x/a")),
            ("/a", "", Some("/a")),
            ("*", "/v1", None),
        ];
        for (path, prefix, expected) in rows {
            assert_eq!(strip_prefix(path, prefix), expected, "{path} {prefix}");
        }
    }

    /// Paths made of the pieces that confuse parsers.
    fn random_path(random: &mut fastrand::Rng) -> String {
        const PIECES: [&str; 32] = [
            "/", "/", "/", "/", ".", "..", ".", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", ";",
            "%3b", "a", "A", "%61", "%25", "%", "2", "e", "%40", "@", "%e0", "%80", "ü", "%c3",
            "{", "%7B", "admin", ":",
        ];
        let count = random.usize(0..10);
        let pieces = (0..count).map(|_| PIECES[random.usize(..PIECES.len())]);
        std::iter::once("/").chain(pieces).collect()
    }

    #[test]
    fn the_canonical_form_is_stable_and_clean() {
        let mut random = fastrand::Rng::with_seed(42);
        let mut accepted = 0;
        for slashes in [Refuse, Pass] {
            for _ in 0..50_000 {
                let raw = random_path(&mut random);
                let Ok(path) = canonical(&raw, slashes) else { continue };
                accepted += 1;
                let text = path.as_str();
                let again = canonical(text, slashes);
                assert_eq!(again.as_ref().map(Canonical::as_str), Ok(text), "{raw}");
                assert!(matches!(again.unwrap().into_cow(), Cow::Borrowed(_)), "{raw}");
                assert!(text.starts_with('/'), "{raw}");
                for bad in ["//", "/../", "/./", "/..;", "/.;", "\\", "{", "%61", "%2E"] {
                    assert!(!text.contains(bad), "{raw} became {text}, which holds {bad}");
                }
                assert!(!text.ends_with("/..") && !text.ends_with("/."), "{raw} {text}");
                assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{raw} {text}");
                let is_uri = text.parse::<http::uri::PathAndQuery>();
                assert_eq!(is_uri.as_ref().map(|uri| uri.path()).ok(), Some(text), "{raw}");
            }
        }
        assert!(accepted > 10_000, "the generator makes good paths too: {accepted}");
    }

    #[test]
    fn the_key_is_stable_and_survives_the_backend_s_decoding() {
        let mut random = fastrand::Rng::with_seed(43);
        for _ in 0..50_000 {
            let raw = random_path(&mut random);
            let Ok(path) = canonical(&raw, Refuse) else { continue };
            let key = path.match_key();
            let forwarded = canonical(path.as_str(), Refuse).unwrap();
            assert_eq!(forwarded.match_key(), key, "what is forwarded matches alike: {raw}");
            assert_eq!(match_key(key.as_str()), key, "{raw}");
            let respelled = canonical(key.as_str(), Refuse).unwrap();
            assert_eq!(respelled.match_key(), key, "the key is itself a canonical path: {raw}");
        }
    }
}
