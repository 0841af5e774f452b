//! Header fields as configuration writes them.
//!
//! Answers "is this a field name, is this a field value?" (RFC 9110 §5.1, §5.5) for conditions and
//! fixed answers. Never touches a request.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};

use super::diagnostic::quoted;
use super::reading::{Reading, shown};
use super::tree::{Node, Scalar};
use super::value;

/// Reads a field's name from a key.
pub(super) fn read_name(key: &Scalar, reading: &mut Reading) -> Option<HeaderName> {
    if let Ok(name) = HeaderName::from_bytes(key.text.as_bytes()) {
        return Some(name);
    }
    let message = format!("{} is not the name of a header field", quoted(&key.text));
    let hint = if key.text.ends_with(':') { "remove the colon from the name" } else { "" };
    reading.error_hint(key.span, message, hint);
    None
}

/// Reads the fields of an answer that the gateway gives itself.
pub(super) fn read_fields(
    node: &Node,
    reading: &mut Reading,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    value::map(node, reading, |map, reading| {
        let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
        let mut names = HashSet::new();
        for entry in &map.entries {
            let name = read_name(&entry.key, reading);
            let value = read_value(&entry.value, reading);
            let (Some(name), Some(value)) = (name, value) else { continue };
            if OURS.contains(&name.as_str()) {
                let message = format!("{} is set by the gateway", quoted(&entry.key.text));
                reading.error_hint(entry.key.span, message, "remove it");
            } else if !names.insert(name.clone()) {
                let message = format!("{} is set twice", quoted(&entry.key.text));
                reading.error_hint(entry.key.span, message, "case does not matter in names");
            } else {
                fields.push((name, value));
            }
        }
        Some(fields)
    })
}

/// Framing and connection fields, which an answer gets by its body and connection (RFC 9112 §6,
/// RFC 9110 §7.6.1).
const OURS: [&str; 8] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn read_value(node: &Node, reading: &mut Reading) -> Option<HeaderValue> {
    let scalar = value::scalar(node, reading)?;
    let Ok(mut value) = HeaderValue::from_bytes(scalar.text.as_bytes()) else {
        let message = format!("{} is not the value of a header field", quoted(shown(scalar)));
        reading.wrong(scalar, message, "it contains a control character");
        return None;
    };
    value.set_sensitive(scalar.is_secret);
    Some(value)
}
