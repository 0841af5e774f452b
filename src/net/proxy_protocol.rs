//! The PROXY protocol, versions 1 and 2: how a proxy tells whose connection it passes on.
//!
//! Answers "what does this header say, and where does it end?", and writes headers of our own. Called
//! by `listen` for the bytes a connection begins with, and by `upstream`. Pure: bytes in, verdict out.
//! Never decides who may send one.
//!
//! # Why
//! By HAProxy's `proxy-protocol.txt`, whose sections are named below. The libraries there are take
//! lines that it forbids, look at no checksum, or are not kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is taken. Version 1 ends after 107 bytes; of version 2 an IPv6 header has 52, and
/// the rest is extensions, of which a client's certificate is the largest. HAProxy's own buffer holds
/// as much.
pub const MAX_BYTES: usize = 16 * 1024;

/// Longest line of version 1, its end included (§2.1).
const MAX_LINE: usize = 107;

/// What a line of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// What version 2 begins with (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 before its addresses.
const FIXED: usize = 16;

/// Bytes of type and length before an extension's value.
const TLV_HEAD: usize = 3;

/// `PP2_TYPE_CRC32C`: the extension that holds the checksum of the whole header (§2.2.2).
const CHECKSUM: u8 = 0x03;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// That of the client at `source`, which connected to `destination`.
    Client {
        /// The client's end. IPv4-mapped IPv6 addresses are IPv4.
        source: SocketAddr,
        /// The end that the client knows.
        destination: SocketAddr,
    },
    /// The sender's own, such as a health check (`LOCAL`), or that of somebody without an IP address
    /// (`UNKNOWN`, `UNSPEC`, a Unix socket): the addresses of the connection itself count.
    Nobody,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The beginning of a header: none of them lies behind it.
    Incomplete,
    /// A header of `len` bytes; what follows is the client's.
    Header {
        /// Its length.
        len: usize,
        /// What it says.
        said: Said,
    },
    /// No header, or a broken one.
    Refuse(HeaderFault),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderFault {
    /// They begin otherwise.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// A line of version 1 that does not end.
    #[error("a PROXY line of more than 107 bytes")]
    Endless,
    /// A line of version 1 that is not as it must be.
    #[error("a PROXY line that is not valid")]
    Line,
    /// Neither version 1 nor 2.
    #[error("a PROXY header of an unknown version")]
    Version,
    /// Neither LOCAL nor PROXY.
    #[error("a PROXY header with an unknown command")]
    Command,
    /// A family or transport that there is not.
    #[error("a PROXY header with an unknown address family")]
    Family,
    /// Longer than [`MAX_BYTES`].
    #[error("a PROXY header that is too long")]
    TooLong,
    /// Too short for its addresses.
    #[error("a PROXY header that is too short for its addresses")]
    TooShort,
    /// Extensions that do not fill what is left.
    #[error("a PROXY header whose extensions do not fit its length")]
    Extension,
    /// The checksum is another one.
    #[error("a PROXY header with a wrong checksum")]
    Checksum,
}

/// Judges the first bytes of a connection. However they are cut, the verdict is the same in the end.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Verdict {
    let outcome = if begins(bytes, WORD) {
        line(bytes)
    } else if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else {
        Err(HeaderFault::Missing)
    };
    match outcome {
        Ok(Some((len, said))) => Verdict::Header { len, said },
        Ok(None) => Verdict::Incomplete,
        Err(fault) => Verdict::Refuse(fault),
    }
}

/// Whether `bytes` are the beginning of `start`, or more than it.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let count = bytes.len().min(start.len());
    bytes[..count] == start[..count]
}

/// A header's length and meaning, once it is complete.
type Read = Result<Option<(usize, Said)>, HeaderFault>;

/// §2.1. The line ends with CRLF, and neither of the two stands elsewhere in it.
fn line(bytes: &[u8]) -> Read {
    let window = &bytes[..bytes.len().min(MAX_LINE - 1)];
    let Some(end) = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if window.len() < MAX_LINE - 1 { Ok(None) } else { Err(HeaderFault::Endless) };
    };
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', None) => return Ok(None),
        (b'\r', Some(b'\n')) => {}
        _ => return Err(HeaderFault::Line),
    }
    let text = bytes[..end].strip_prefix(WORD).ok_or(HeaderFault::Line)?;
    let said = words(text).ok_or(HeaderFault::Line)?;
    Ok(Some((end + 2, said)))
}

fn words(text: &[u8]) -> Option<Said> {
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Some(Said::Nobody);
    }
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let mut next = || words.next();
    let (family, source, destination) = (next()?, next()?, next()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if next().is_some() {
        return None;
    }
    let address = |text: &str| match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    Some(client((address(source)?, source_port), (address(destination)?, destination_port)))
}

/// Decimal, without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zeros = text.len() > 1 && text.starts_with('0');
    if is_plain && !has_zeros { text.parse().ok() } else { None }
}

fn client(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Said {
    let at = |(address, port): (IpAddr, u16)| SocketAddr::new(address.to_canonical(), port);
    Said::Client { source: at(source), destination: at(destination) }
}

/// §2.2.
fn binary(bytes: &[u8]) -> Read {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 {
        return Err(HeaderFault::Version);
    }
    let is_local = match command & 0x0f {
        0 => true,
        1 => false,
        _ => return Err(HeaderFault::Command),
    };
    // What a LOCAL header says of addresses is to be ignored, their family included.
    let addresses = if is_local { 0 } else { address_bytes(family)? };
    if FIXED + length > MAX_BYTES {
        return Err(HeaderFault::TooLong);
    }
    if length < addresses {
        return Err(HeaderFault::TooShort);
    }
    let Some(block) = rest.get(..length) else { return Ok(None) };
    let len = FIXED + length;
    if is_local {
        return Ok(Some((len, Said::Nobody)));
    }
    extensions(&bytes[..len], FIXED + addresses)?;
    Ok(Some((len, ends(family, &block[..addresses]).unwrap_or(Said::Nobody))))
}

/// How many bytes the addresses of a family and transport take. Datagrams are QUIC's, which a proxy
/// may well pass on over TCP: its clients' addresses are as good as others.
fn address_bytes(family: u8) -> Result<usize, HeaderFault> {
    match family {
        0x00 => Ok(0),
        0x11 | 0x12 => Ok(12),
        0x21 | 0x22 => Ok(36),
        0x31 | 0x32 => Ok(216),
        _ => Err(HeaderFault::Family),
    }
}

/// The IP addresses in a block of addresses, if that is what it holds.
fn ends(family: u8, block: &[u8]) -> Option<Said> {
    let port = |at: usize| Some(u16::from_be_bytes(*block.get(at..)?.first_chunk()?));
    let v4 = |at: usize| Some(IpAddr::from(*block.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*block.get(at..)?.first_chunk::<16>()?));
    match family >> 4 {
        1 => Some(client((v4(0)?, port(8)?), (v4(4)?, port(10)?))),
        2 => Some(client((v6(0)?, port(32)?), (v6(16)?, port(34)?))),
        _ => None,
    }
}

/// Whether the extensions of `header` from `at` on are whole, and its checksum right where there is
/// one. What else they say is nobody's business here.
fn extensions(header: &[u8], mut at: usize) -> Result<(), HeaderFault> {
    let mut is_checked = false;
    while at < header.len() {
        let [kind, high, low] = *header[at..].first_chunk().ok_or(HeaderFault::Extension)?;
        let start = at + TLV_HEAD;
        let end = start + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(start..end).ok_or(HeaderFault::Extension)?;
        if kind == CHECKSUM {
            // A second one could be right only beside a wrong first one.
            let wanted: [u8; 4] = value.try_into().map_err(|_| HeaderFault::Extension)?;
            let found = crc32c(&[&header[..start], &[0; 4], &header[end..]]);
            if is_checked || found != u32::from_be_bytes(wanted) {
                return Err(HeaderFault::Checksum);
            }
            is_checked = true;
        }
        at = end;
    }
    Ok(())
}

/// The checksum of RFC 4960 appendix B, over `parts` one after the other.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(u32::MAX, |sum, byte| (sum >> 8) ^ REMAINDERS[usize::from(sum as u8 ^ byte)])
}

/// What each byte adds to a checksum, by the reflected polynomial 0x1EDC6F41.
const REMAINDERS: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 { (rest >> 1) ^ 0x82f6_3b78 } else { rest >> 1 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
};

impl Version {
    /// The header for a connection that is passed on for the client at `source`, which connected to
    /// `destination`. Two families become IPv6, since a header has room for one.
    #[must_use]
    pub fn header(self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
        let ports = (source.port(), destination.port());
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => match self {
                Self::V1 => format!("PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1).into(),
                Self::V2 => written(0x11, &from.octets(), &to.octets(), ports),
            },
            (from, to) => {
                let (from, to) = (widened(from), widened(to));
                match self {
                    Self::V1 => {
                        format!("PROXY TCP6 {from} {to} {} {}\r\n", ports.0, ports.1).into()
                    }
                    Self::V2 => written(0x21, &from.octets(), &to.octets(), ports),
                }
            }
        }
    }

    /// The header for a connection of our own, such as a check.
    #[must_use]
    pub fn local(self) -> &'static [u8] {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n",
            Self::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        }
    }
}

fn widened(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn written(family: u8, from: &[u8], to: &[u8], (from_port, to_port): (u16, u16)) -> Vec<u8> {
    let length = (from.len() + to.len() + 4) as u16;
    let mut header = Vec::with_capacity(FIXED + usize::from(length));
    header.extend_from_slice(SIGNATURE);
    header.extend_from_slice(&[0x21, family]);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(from);
    header.extend_from_slice(to);
    header.extend_from_slice(&from_port.to_be_bytes());
    header.extend_from_slice(&to_port.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(source: &str, destination: &str) -> Said {
        Said::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// Version 2 with this command, family and block.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&u16::try_from(block.len()).unwrap().to_be_bytes());
        header.extend_from_slice(block);
        header
    }

    const V4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x30, 0x39, 0x01, 0xbb];

    fn with(extensions: &[u8]) -> Vec<u8> {
        v2(0x21, 0x11, &[&V4, extensions].concat())
    }

    /// What became of `bytes` in one piece, which must be what becomes of them piece by piece.
    fn outcome(bytes: &[u8]) -> Verdict {
        let whole = inspect(bytes);
        let first = (0..=bytes.len()).map(|count| inspect(&bytes[..count]));
        let first = first.into_iter().find(|verdict| *verdict != Verdict::Incomplete);
        assert_eq!(first.unwrap_or(Verdict::Incomplete), whole, "{bytes:?}");
        whole
    }

    fn assert_header(header: &[u8], expected: Said) {
        let len = header.len();
        let text = String::from_utf8_lossy(header);
        assert_eq!(outcome(header), Verdict::Header { len, said: expected }, "{text:?}");
        for rest in [&b"\x16\x03\x01"[..], b"\n", b"PROXY UNKNOWN\r\n", &[0; 300]] {
            let more = [header, rest].concat();
            assert_eq!(inspect(&more), Verdict::Header { len, said: expected }, "{text:?}");
        }
    }

    #[test]
    fn a_header_says_whose_connection_it_is_and_ends_where_it_ends() {
        let everything_6 =
            format!("PROXY TCP6 {0} {0} 65535 65535\r\n", "ffff:".repeat(7) + "ffff");
        assert_eq!(everything_6.len(), 104, "the longest of §2.1");
        let ffff = format!("[{}ffff]:65535", "ffff:".repeat(7));
        let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(unknown.len(), MAX_LINE);
        let of_v4 = said("203.0.113.7:12345", "192.0.2.1:443");
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &V4[8..]].concat();
        let mapped = [&[0; 10][..], &[255, 255, 10, 0, 0, 1], &[0; 15], &[1], &V4[8..]].concat();
        for (header, expected) in [
            (&b"PROXY TCP4 203.0.113.7 192.0.2.1 12345 443\r\n"[..], of_v4),
            (
                b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
                said("0.0.0.0:0", "255.255.255.255:65535"),
            ),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 443\r\n", said("[2001:db8::7]:12345", "[::1]:443")),
            (b"PROXY TCP6 ::ffff:10.0.0.1 ::1 1 2\r\n", said("10.0.0.1:1", "[::1]:2")),
            (everything_6.as_bytes(), said(&ffff, &ffff)),
            (b"PROXY UNKNOWN\r\n", Said::Nobody),
            (b"PROXY UNKNOWN ffff::1 what ever \x80\0 1\r\n", Said::Nobody),
            (unknown.as_bytes(), Said::Nobody),
            (&v2(0x21, 0x11, &V4), of_v4),
            (&v2(0x21, 0x12, &V4), of_v4),
            (&v2(0x21, 0x21, &v6), said("[2001:db8::7]:12345", "[::1]:443")),
            (&v2(0x21, 0x22, &mapped), said("10.0.0.1:12345", "[::1]:443")),
            (&v2(0x21, 0x00, &[]), Said::Nobody),
            (&v2(0x21, 0x00, &[4, 0, 1, 0]), Said::Nobody),
            (&v2(0x21, 0x31, &[b'/'; 216]), Said::Nobody),
            (&v2(0x20, 0x00, &[]), Said::Nobody),
            (&v2(0x20, 0x11, &V4), Said::Nobody),
            (&v2(0x20, 0xff, &[1, 2, 3]), Said::Nobody),
            (&with(&[1, 0, 2, b'h', b'2', 4, 0, 0, 0x20, 0, 1, 0]), of_v4),
            (&with(&[&[0xea, 0x3f, 0x00][..], &[1; 0x3f00]].concat()), of_v4),
        ] {
            assert_header(header, expected);
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_known() {
        use HeaderFault::*;
        let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        let bad_version = v2(0x11, 0x11, &V4);
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Missing),
            (b"\x16\x03\x01", Missing),
            (b"proxy TCP4", Missing),
            (b"PROXY\tTCP4", Missing),
            (b"\r\n\r\n\r\n", Missing),
            (b"\r\n\r\n\0\r\nQUIT\r", Missing),
            (endless.as_bytes(), Endless),
            (b"PROXY UNKNOWN\n", Line),
            (b"PROXY UNKNOWN\rx", Line),
            (b"PROXY UNKNOWNS\r\n", Line),
            (b"PROXY \r\n", Line),
            (b"PROXY TCP4\r\n", Line),
            (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", Line),
            (b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", Line),
            (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n", Line),
            (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", Line),
            (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", Line),
            (b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", Line),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", Line),
            (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", Line),
            (b"PROXY TCP6 ::1 fe80::1%lo 1 2\r\n", Line),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xff\r\n", Line),
            (&bad_version, Version),
            (&v2(0x22, 0x11, &V4), Command),
            (&v2(0x21, 0x13, &V4), Family),
            (&v2(0x21, 0x41, &V4), Family),
            (&v2(0x21, 0x01, &V4), Family),
            (&v2(0x21, 0x11, &V4[1..]), TooShort),
            (&v2(0x21, 0x11, &[]), TooShort),
            (&v2(0x21, 0x21, &V4), TooShort),
            (&v2(0x21, 0x31, &[0; 215]), TooShort),
            (&v2(0x21, 0x11, &[0; MAX_BYTES - FIXED + 1]), TooLong),
            (&v2(0x20, 0x00, &[0; u16::MAX as usize]), TooLong),
            (&with(&[1]), Extension),
            (&with(&[1, 0]), Extension),
            (&with(&[1, 0, 1]), Extension),
            (&with(&[1, 0xff, 0xff, 0]), Extension),
            (&with(&[3, 0, 3, 1, 2, 3]), Extension),
            (&with(&[3, 0, 4, 1, 2, 3, 4]), Checksum),
        ] {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
            assert_eq!(outcome(bytes), Verdict::Refuse(expected), "{text:?}");
        }
        let long = v2(0x21, 0x11, &[0xff; 20_000]);
        assert_eq!(inspect(&long[..FIXED]), Verdict::Refuse(TooLong), "before it is read");
    }

    #[test]
    fn a_checksum_is_over_the_whole_header() {
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283, "the check value of RFC 3720's CRC32C");
        let mut header = with(&[1, 0, 2, b'h', b'2', 3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 9]);
        let at = FIXED + 12 + 5 + TLV_HEAD;
        let sum = crc32c(&[&header]).to_be_bytes();
        header[at..at + 4].copy_from_slice(&sum);
        assert_header(&header, said("203.0.113.7:12345", "192.0.2.1:443"));
        // All but what makes it a checksum.
        for byte in (12..header.len()).filter(|byte| *byte != at - TLV_HEAD) {
            let mut changed = header.clone();
            changed[byte] ^= 0x40;
            assert!(!matches!(inspect(&changed), Verdict::Header { .. }), "byte {byte}");
        }
        let twice = [&header[FIXED + 12..], &header[at - TLV_HEAD..at + 4]].concat();
        assert_eq!(inspect(&with(&twice)), Verdict::Refuse(HeaderFault::Checksum));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let rows = [
            ("203.0.113.7:12345", "192.0.2.1:443", "TCP4 203.0.113.7 192.0.2.1 12345 443"),
            ("[2001:db8::7]:0", "[::1]:443", "TCP6 2001:db8::7 ::1 0 443"),
            ("10.0.0.1:1", "[2001:db8::1]:2", "TCP6 ::ffff:10.0.0.1 2001:db8::1 1 2"),
            ("[2001:db8::1]:1", "10.0.0.1:2", "TCP6 2001:db8::1 ::ffff:10.0.0.1 1 2"),
            ("[::ffff:10.0.0.1]:1", "10.0.0.2:2", "TCP4 10.0.0.1 10.0.0.2 1 2"),
        ];
        for (source, destination, text) in rows {
            let (from, to) = (source.parse().unwrap(), destination.parse().unwrap());
            let line = Version::V1.header(from, to);
            assert_eq!(String::from_utf8_lossy(&line), format!("PROXY {text}\r\n"));
            let source = source.replace("[::ffff:10.0.0.1]", "10.0.0.1");
            assert_header(&line, said(&source, destination));
            assert_header(&Version::V2.header(from, to), said(&source, destination));
        }
        for version in [Version::V1, Version::V2] {
            assert_header(version.local(), Said::Nobody);
        }
    }
}
