//! Distinguished names as text that is safe in a header field and in a log.
//!
//! RFC 4514, with everything beyond printable ASCII as `\XX`, byte by byte of its UTF-8 (§2.4): the
//! text that `openssl x509 -nameopt RFC2253` and nginx's `$ssl_client_s_dn` give. What a CA was
//! talked into certifying can neither end the field nor pass for another name.

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::prelude::X509Name;

/// The name, its most special part first.
pub(super) fn rfc4514(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        let attributes: Vec<_> = part.iter().collect();
        for (index, attribute) in attributes.into_iter().rev().enumerate() {
            if index > 0 {
                text.push('+');
            }
            let oid = attribute.attr_type().to_id_string();
            let known = KEYWORDS.iter().find(|(known, _)| *known == oid);
            match (known, decoded(attribute.attr_value())) {
                (Some((_, keyword)), Some(value)) => {
                    let _ = write!(text, "{keyword}=");
                    escape(&value, &mut text);
                }
                // Whatever it is, nobody can take it for a text (RFC 4514 §2.4).
                (known, _) => {
                    let keyword = known.map_or(&*oid, |(_, keyword)| keyword);
                    let der = attribute.attr_value().to_der_vec().unwrap_or_default();
                    let _ = write!(text, "{keyword}=#{}", hex(&der));
                }
            }
        }
    }
    text
}

/// Upper-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// The table of RFC 4514 §3, and what else is met in certificates of people and devices.
const KEYWORDS: [(&str, &str); 15] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The value of a string type; `None` for everything else, and for one that is not in its own
/// encoding.
fn decoded(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    match value.header.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::VisibleString => std::str::from_utf8(bytes).ok().map(str::to_owned),
        // Latin-1 in practice, whatever T.61 says.
        Tag::TeletexString => Some(bytes.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok())?
        }
        Tag::UniversalString => {
            let (points, rest) = bytes.as_chunks::<4>();
            let points = points.iter().map(|point| char::from_u32(u32::from_be_bytes(*point)));
            rest.is_empty().then(|| points.collect::<Option<String>>())?
        }
        _ => None,
    }
}

/// RFC 4514 §2.4.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if index == 0 => text.push_str("\\#"),
            b' ' if index == 0 || index == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;

    /// OID in DER, tag, value.
    type Attribute<'a> = (&'a [u8], u8, &'a [u8]);

    /// A name of these parts.
    fn name(parts: &[&[Attribute<'_>]]) -> Vec<u8> {
        let wrap = |tag: u8, inside: Vec<u8>| {
            let length = u16::try_from(inside.len()).unwrap().to_be_bytes();
            [vec![tag, 0x82], length.to_vec(), inside].concat()
        };
        let attribute = |(oid, tag, value): &Attribute<'_>| {
            wrap(0x30, [wrap(0x06, oid.to_vec()), wrap(*tag, value.to_vec())].concat())
        };
        let part = |part: &&[Attribute<'_>]| wrap(0x31, part.iter().flat_map(attribute).collect());
        wrap(0x30, parts.iter().flat_map(part).collect())
    }

    fn text(parts: &[&[Attribute<'_>]]) -> String {
        let der = name(parts);
        let (_, name) = X509Name::from_der(&der).unwrap();
        rfc4514(&name)
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    #[test]
    fn a_name_begins_with_its_most_special_part() {
        assert_eq!(text(&[]), "");
        let parts: &[&[Attribute<'_>]] = &[
            &[(&[0x55, 4, 6], 0x13, b"FR")],
            &[(O, 0x0c, b"Example")],
            &[(CN, 0x0c, b"ann"), (&[0x55, 4, 5], 0x13, b"7")],
        ];
        assert_eq!(text(parts), "serialNumber=7+CN=ann,O=Example,C=FR");
    }

    #[test]
    fn nothing_in_a_value_leaves_its_place() {
        for (tag, value, wanted) in [
            (0x0c, &b"a,CN=root"[..], "CN=a\\,CN=root"),
            (0x0c, b"a+b;c<d>e\"f\\g=h", "CN=a\\+b\\;c\\<d\\>e\\\"f\\\\g=h"),
            (0x0c, b"a\r\nX-Client-Verify: SUCCESS", "CN=a\\0D\\0AX-Client-Verify: SUCCESS"),
            (0x0c, b"\x00\x7f", "CN=\\00\\7F"),
            (0x0c, b" # ", "CN=\\ #\\ "),
            (0x0c, b"#1", "CN=\\#1"),
            (0x0c, b" ", "CN=\\ "),
            (0x0c, b"", "CN="),
            (0x0c, "Ånn".as_bytes(), "CN=\\C3\\85nn"),
            (0x0c, b"\xc3(", "CN=#0C02C328"),
            (0x14, b"\xc5nn", "CN=\\C3\\85nn"),
            (0x1e, b"\x00a\x20\xac", "CN=a\\E2\\82\\AC"),
            (0x1e, b"\xd8\x00", "CN=#1E02D800"),
            (0x1e, b"a", "CN=#1E0161"),
            (0x1c, b"\x00\x01\xf6\x00", "CN=\\F0\\9F\\98\\80"),
            (0x1c, b"\x00\x11\x00\x00", "CN=#1C0400110000"),
            (0x04, b"raw", "CN=#0403726177"),
            (0x01, b"\xff", "CN=#0101FF"),
        ] {
            assert_eq!(text(&[&[(CN, tag, value)]]), wanted, "{tag:#x} {value:?}");
        }
        let unknown: &[u8] = &[0x2a, 3, 4];
        assert_eq!(text(&[&[(unknown, 0x0c, b"a")]]), "1.2.3.4=#0C0161");
    }

    #[test]
    fn every_value_is_printable_ascii() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let value: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(..)).collect();
            let tag = [0x0c, 0x13, 0x14, 0x16, 0x1a, 0x1c, 0x1e][rng.usize(0..7)];
            let der = name(&[&[(CN, tag, &value)]]);
            let Ok((_, name)) = X509Name::from_der(&der) else { continue };
            let text = rfc4514(&name);
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        }
    }
}
