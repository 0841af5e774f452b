//! Host names and addresses as they stand in configuration and requests.
//!
//! Answers "is this text a host, and which?" for configuration, SNI, `Host` and
//! `:authority`. Never resolves a name.
//!
//! # Why
//! A host that two parts of the gateway spell differently is a way around one of them, so every
//! text becomes a [`Host`] or a [`HostRef`] once, at the edge, and those compare byte by byte.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A DNS name in the one form we compare: lower-case ASCII, no trailing dot, 1–253 bytes.
///
/// SNI, `Host`, certificate names and sites all meet as `HostName`, so nobody folds case twice.
/// Labels hold letters, digits, `-` and, as Windows names and SRV owners do, `_`. Addresses are
/// not host names, nor is a name whose last label is a number, which some resolvers read as one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName(Arc<str>);

impl HostName {
    /// Parses `"WWW.Example.com."` into `www.example.com` and `"Bücher.example"` into
    /// `xn--bcher-kva.example` (UTS 46, non-transitional).
    ///
    /// # Errors
    /// [`HostNameError`] names what broke: the limits of RFC 1035 §2.3.4 (label 1–63 bytes, name at
    /// most 253), a character, or that the text is an address.
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        let ascii = if text.is_ascii() {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(idna::domain_to_ascii(text).map_err(|_| HostNameError::NotIdn)?)
        };
        Ok(Self(fold_name(&ascii)?.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same name in memory of its own.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self(self.as_str().into())
    }

    /// The name as text, shared with this.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// What follows the first dot, the key under which a wildcard for this name is filed:
    /// `example.com` for `www.example.com`, `None` for `localhost`.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        parent(&self.0)
    }
}

/// `name`, perhaps a wildcard, as people write it, where that is another form than its ASCII one:
/// `bücher.example` for `xn--bcher-kva.example`. To be shown beside the ASCII form, for letters of
/// two alphabets may look alike.
#[must_use]
pub fn unicode_form(name: &str) -> Option<String> {
    if !name.contains("xn--") {
        return None;
    }
    let (unicode, outcome) = idna::domain_to_unicode(name.trim_start_matches("*."));
    let wild = if name.starts_with("*.") { "*." } else { "" };
    let unicode = format!("{wild}{unicode}");
    (outcome.is_ok() && unicode != name).then_some(unicode)
}

impl AsRef<str> for HostName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// What stands where a host may: a name or an address literal.
///
/// Shown as in a URL: an IPv6 address in brackets.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Host {
    /// A DNS name.
    Name(HostName),
    /// An address; IPv6 without brackets, an IPv4-mapped one (RFC 4291 §2.5.5.2) as IPv4.
    Address(IpAddr),
}

impl Host {
    /// Parses `"example.com"`, `"1.2.3.4"`, `"[::1]"` or `"::1"`, as an operator writes them.
    ///
    /// # Errors
    /// [`HostError`] says what stands in the way; a port does.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match bare.unwrap_or(text).parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) if bare.is_some() => Err(HostError::Bracket),
            Ok(address) => Ok(Self::Address(address.to_canonical())),
            Err(_) if text.starts_with('[') => Err(HostError::Bracket),
            Err(_) => Ok(Self::Name(HostName::parse(text)?)),
        }
    }

    /// Parses a `Host` or `:authority` value as [`HostRef::parse_authority`] does, and owns it.
    ///
    /// # Errors
    /// As [`HostRef::parse_authority`].
    pub fn parse_authority(text: &str) -> Result<(Self, Option<u16>), HostError> {
        HostRef::parse_authority(text).map(|(host, port)| (host.to_host(), port))
    }

    /// The same host, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> HostRef<'_> {
        self.into()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A [`Host`] that borrows the text it was read from, for look-ups that should not allocate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostRef<'a> {
    /// A DNS name.
    Name(HostNameRef<'a>),
    /// An address, in the form of [`Host::Address`].
    Address(IpAddr),
}

/// A [`HostName`] that borrows its text unless that had to be folded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostNameRef<'a>(Cow<'a, str>);

impl HostNameRef<'_> {
    /// The name as text, in the form of [`HostName`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As [`HostName::parent`].
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        parent(&self.0)
    }
}

impl<'a> HostRef<'a> {
    /// Parses the value of `Host` or `:authority`: a host and, after a colon, a port (RFC 9110
    /// §7.2, RFC 3986 §3.2.2 without userinfo).
    ///
    /// Case is folded and a trailing dot dropped. An empty port is no port (RFC 3986 §3.2.3).
    /// One pass, and no allocation for a name in lower case.
    ///
    /// # Errors
    /// [`HostError`] for everything else: no host, userinfo, a path, spaces, control characters,
    /// percent-encodings, several values, an unclosed bracket, a port beyond 65535.
    pub fn parse_authority(text: &'a str) -> Result<(Self, Option<u16>), HostError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or(HostError::Bracket)?;
            let address = address.parse::<Ipv6Addr>().map_err(|_| HostError::Bracket)?;
            let port = match rest.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if rest.is_empty() => None,
                None => return Err(HostError::Bracket),
            };
            return Ok((Self::Address(IpAddr::V6(address).to_canonical()), port));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, None),
        };
        match fold_name(host) {
            Ok(name) => Ok((Self::Name(HostNameRef(name)), port)),
            Err(HostNameError::Address) => {
                let address = host.parse::<Ipv4Addr>().map_err(|_| HostNameError::Address)?;
                Ok((Self::Address(IpAddr::V4(address)), port))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The same host, owned.
    #[must_use]
    pub fn to_host(&self) -> Host {
        match self {
            Self::Name(name) => Host::Name(HostName(name.as_str().into())),
            Self::Address(address) => Host::Address(*address),
        }
    }
}

impl<'a> From<&'a HostName> for HostNameRef<'a> {
    fn from(name: &'a HostName) -> Self {
        Self(Cow::Borrowed(name.as_str()))
    }
}

impl<'a> From<&'a Host> for HostRef<'a> {
    fn from(host: &'a Host) -> Self {
        match host {
            Host::Name(name) => Self::Name(name.into()),
            Host::Address(address) => Self::Address(*address),
        }
    }
}

impl<'a> From<&'a HostRef<'_>> for HostRef<'a> {
    fn from(host: &'a HostRef<'_>) -> Self {
        match host {
            HostRef::Name(name) => Self::Name(HostNameRef(Cow::Borrowed(name.as_str()))),
            HostRef::Address(address) => Self::Address(*address),
        }
    }
}

impl fmt::Display for HostRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.pad(name.as_str()),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Why a text is no host name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostNameError {
    /// Nothing, or only a dot.
    #[error("the name is empty")]
    Empty,
    /// More than 253 bytes (RFC 1035 §2.3.4).
    #[error("the name has {0} bytes, at most 253 are allowed")]
    TooLong(usize),
    /// Two dots in a row, or one at the start.
    #[error("a label between two dots is empty")]
    EmptyLabel,
    /// A label of more than 63 bytes (RFC 1035 §2.3.4).
    #[error("a label has {0} bytes, at most 63 are allowed")]
    LabelTooLong(usize),
    /// A label that starts or ends with a hyphen (RFC 1123 §2.1).
    #[error("a label starts or ends with a hyphen")]
    Hyphen,
    /// Neither letter, digit, `-`, `_` nor dot.
    #[error("{0:?} cannot stand in a host name")]
    Character(char),
    /// An address, or a last label that is a number and so may be taken for one.
    #[error("an address stands where a name is wanted")]
    Address,
    /// Unicode that UTS 46 maps to no name.
    #[error("the name is not a valid internationalised name")]
    NotIdn,
}

/// Why a text is no host.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostError {
    /// Neither an address nor a name.
    #[error(transparent)]
    Name(#[from] HostNameError),
    /// Brackets that do not enclose exactly one IPv6 address.
    #[error("brackets must enclose one IPv6 address")]
    Bracket,
    /// What follows the colon is no number up to 65535.
    #[error("the port is not a number from 0 to 65535")]
    Port,
}

/// Checks an ASCII name and folds it: one pass, borrowed when there is nothing to fold.
fn fold_name(text: &str) -> Result<Cow<'_, str>, HostNameError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(HostNameError::Empty);
    }
    if name.len() > 253 {
        return Err(HostNameError::TooLong(name.len()));
    }
    let (mut start, mut has_upper) = (0, false);
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => has_upper = true,
            b'.' => {
                check_label(&name.as_bytes()[start..at])?;
                start = at + 1;
            }
            _ => {
                let found = name[at..].chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
                return Err(HostNameError::Character(found));
            }
        }
    }
    let last = &name.as_bytes()[start..];
    check_label(last)?;
    if is_number(last) {
        return Err(HostNameError::Address);
    }
    Ok(if has_upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

fn check_label(label: &[u8]) -> Result<(), HostNameError> {
    match label {
        [] => Err(HostNameError::EmptyLabel),
        [b'-', ..] | [.., b'-'] => Err(HostNameError::Hyphen),
        _ if label.len() > 63 => Err(HostNameError::LabelTooLong(label.len())),
        _ => Ok(()),
    }
}

/// Whether resolvers may read a name with this last label as an IPv4 address: `1`, `010`, `0x7f`.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        _ => label.iter().all(u8::is_ascii_digit),
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

/// Reads what follows the colon. Five digits are enough, so that no text of zeros is parsed.
fn parse_port(text: &str) -> Result<Option<u16>, HostError> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    text.parse().map(Some).map_err(|_| HostError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_people_write_them_where_that_differs() {
        for (name, wanted) in [
            ("xn--bcher-kva.example", Some("bücher.example")),
            ("*.xn--bcher-kva.example", Some("*.bücher.example")),
            ("a.example", None),
            ("xn--a.example", None),
            ("10.0.0.1", None),
        ] {
            assert_eq!(unicode_form(name).as_deref(), wanted, "{name}");
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        let long = format!("{}.com", "a".repeat(63));
        let rows = [
            ("www.example.com", "www.example.com"),
            ("WWW.Example.com.", "www.example.com"),
            ("localhost", "localhost"),
            ("my_windows_box", "my_windows_box"),
            ("_https._tcp.example", "_https._tcp.example"),
            ("Bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example.", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("日本語.jp", "xn--wgv71a119e.jp"),
            ("日本語。jp", "xn--wgv71a119e.jp"),
            ("1.example", "1.example"),
            ("1e100.net", "1e100.net"),
            (long.as_str(), long.as_str()),
        ];
        for (text, expected) in rows {
            let name = HostName::parse(text).unwrap();
            assert_eq!(name.as_str(), expected, "{text}");
            assert_eq!(name.to_string().parse(), Ok(name), "round trip of {text}");
        }
    }

    #[test]
    fn a_wrong_name_says_which_limit_it_breaks() {
        let label = "a".repeat(64);
        let name = format!("{}example", "abcdefg.".repeat(31));
        let rows = [
            ("", HostNameError::Empty),
            (".", HostNameError::Empty),
            ("a..b", HostNameError::EmptyLabel),
            (".a", HostNameError::EmptyLabel),
            ("a.b..", HostNameError::EmptyLabel),
            ("-a.b", HostNameError::Hyphen),
            ("a.b-", HostNameError::Hyphen),
            ("a b", HostNameError::Character(' ')),
            ("a/b", HostNameError::Character('/')),
            ("a\r\nb", HostNameError::Character('\r')),
            ("a%2eb", HostNameError::Character('%')),
            ("*.b", HostNameError::Character('*')),
            ("1.2.3.4", HostNameError::Address),
            ("1.2.3.4.", HostNameError::Address),
            ("127.1", HostNameError::Address),
            ("0x7f000001", HostNameError::Address),
            ("2130706433", HostNameError::Address),
            ("\u{200b}\u{301}", HostNameError::NotIdn),
            (label.as_str(), HostNameError::LabelTooLong(64)),
            (name.as_str(), HostNameError::TooLong(255)),
        ];
        for (text, expected) in rows {
            assert_eq!(HostName::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        let rows = [
            ("Example.com", "example.com"),
            ("1.2.3.4", "1.2.3.4"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ];
        for (text, shown) in rows {
            let host = Host::parse(text).unwrap();
            assert_eq!(host.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(host), "round trip of {text}");
        }
        for text in ["", "[::1", "::1]", "[1.2.3.4]", "[a]", "a:80", "[::1]:80", "1.2.3.4:80"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let rows = [
            ("example.com", "example.com", None),
            ("EXAMPLE.com.", "example.com", None),
            ("example.com.:8443", "example.com", Some(8443)),
            ("example.com:", "example.com", None),
            ("example.com:080", "example.com", Some(80)),
            ("a:65535", "a", Some(65535)),
            ("1.2.3.4:80", "1.2.3.4", Some(80)),
            ("[::1]", "[::1]", None),
            ("[::1]:443", "[::1]", Some(443)),
            ("[::1]:", "[::1]", None),
            ("[::FFFF:1.2.3.4]", "1.2.3.4", None),
        ];
        for (text, host, port) in rows {
            let (found, found_port) = Host::parse_authority(text).unwrap();
            assert_eq!((found.to_string().as_str(), found_port), (host, port), "{text}");
        }
    }

    #[test]
    fn an_authority_with_anything_else_is_refused() {
        let rows = [
            "",
            ":",
            ":80",
            ".",
            "a/b",
            "a b",
            " a",
            "a ",
            "a,b",
            "a, b",
            "http://a",
            "user@a",
            "user:pw@a",
            "a:99999",
            "a:65536",
            "a:000080",
            "a:+80",
            "a:-1",
            "a:8 ",
            "a:b",
            "a:80:80",
            "[::1",
            "::1",
            "[::1]80",
            "[::1]]",
            "[[::1]]",
            "[::1%eth0]",
            "[::1%25eth0]",
            "[1.2.3.4]",
            "[v1.x]",
            "a\0",
            "a\r",
            "a\nb",
            "a\tb",
            "a\u{7f}",
            "a%41",
            "%61",
            "a%00",
            "ä.example",
            "a?b",
            "a#b",
            "a\\b",
            "a;b",
            "a'b",
            "a\"b",
            "a..b",
            "*",
            "*.a",
            "127.1",
            "0x7f.1",
            "010.0.0.1",
            "1.2.3.4.",
            "1.2.3.256",
            "1.2.3.4.5",
        ];
        for text in rows {
            assert!(Host::parse_authority(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_authority_in_lower_case_is_borrowed() {
        let borrowed = |text| {
            matches!(
                HostRef::parse_authority(text),
                Ok((HostRef::Name(HostNameRef(Cow::Borrowed(_))), _))
            )
        };
        assert!(borrowed("www.example.com:8443"));
        assert!(borrowed("www.example.com."));
        assert!(!borrowed("Www.example.com"));
    }

    #[test]
    fn no_bytes_panic_the_authority_parser() {
        let mut random = fastrand::Rng::with_seed(7);
        let letters: Vec<char> = "aZ0.:[]-_@/%*x é\0\u{2028}".chars().collect();
        for _ in 0..20_000 {
            let text: String =
                (0..random.usize(0..12)).map(|_| letters[random.usize(..letters.len())]).collect();
            if let Ok((host, _)) = Host::parse_authority(&text) {
                assert_eq!(Host::parse(&host.to_string()), Ok(host), "{text:?}");
            }
        }
    }
}
