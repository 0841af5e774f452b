//! Header fields as configuration writes them.
//!
//! Answers "is this a field name, is this a field value?" (RFC 9110 §5.1, §5.5) for conditions, fixed
//! answers and filters. Never touches a request.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};

use super::diagnostic::quoted;
use super::filter::HeaderEdits;
use super::keys::Keys;
use super::reading::{Reading, shown};
use super::tree::{Node, Scalar};
use super::value;

/// Reads a field's name from a key.
pub(super) fn read_name(key: &Scalar, reading: &mut Reading) -> Option<HeaderName> {
    if let Ok(name) = HeaderName::from_bytes(key.text.as_bytes()) {
        return Some(name);
    }
    let message = format!("{} is not the name of a header field", quoted(shown(key)));
    let hint = if key.text.ends_with(':') { "remove the colon from the name" } else { "" };
    reading.wrong(key, message, hint);
    None
}

/// Reads the fields of an answer that the gateway gives itself.
pub(super) fn read_fields(
    node: &Node,
    reading: &mut Reading,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    read_pairs(node, &OURS, reading, |node, reading| Some(vec![read_value(node, reading)?]))
}

/// Reads `remove`, `set` and `add` of `request_headers` or `response_headers`.
pub(super) fn read_edits(keys: &mut Keys<'_, '_>, is_response: bool) -> HeaderEdits {
    let ours: &[&str] = if is_response { &OURS } else { &OURS_UPSTREAM };
    let claims: &[&str] = if is_response { &[] } else { &CERTIFICATE };
    let unset = [ours, claims].concat();
    let mut seen = HashSet::new();
    let remove = keys.list("remove", |node, reading| {
        let scalar = value::scalar(node, reading)?;
        if scalar.text.contains('*') {
            let message = format!("{} is not the name of a header field", quoted(shown(scalar)));
            reading.wrong(scalar, message, "a name stands for itself: list each of them");
            return None;
        }
        let name = read_name(scalar, reading)?;
        if !refuse_ours(&name, ours, scalar, reading) && !seen.insert(name.clone()) {
            reading.error(scalar.span, format!("{} stands here twice", quoted(shown(scalar))));
        }
        Some(name)
    });
    let set = keys.read("set", |node, reading| {
        read_pairs(node, &unset, reading, |node, reading| Some(vec![read_value(node, reading)?]))
    });
    let add = keys.read("add", |node, reading| {
        read_pairs(node, &unset, reading, |node, reading| match node {
            Node::List(list) => {
                if list.items.is_empty() {
                    reading.error(list.span, "this list of values is empty");
                }
                Some(list.items.iter().filter_map(|item| read_value(item, reading)).collect())
            }
            _ => Some(vec![read_value(node, reading)?]),
        })
    });
    HeaderEdits { remove, set: set.unwrap_or_default(), add: add.unwrap_or_default() }
}

/// A map from names to what `read` makes values of, without the fields called `ours`.
fn read_pairs(
    node: &Node,
    ours: &[&str],
    reading: &mut Reading,
    read: fn(&Node, &mut Reading) -> Option<Vec<HeaderValue>>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    value::map(node, reading, |map, reading| {
        let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
        let mut names = HashSet::new();
        for entry in &map.entries {
            let name = read_name(&entry.key, reading);
            let values = read(&entry.value, reading);
            let (Some(name), Some(values)) = (name, values) else { continue };
            if refuse_ours(&name, ours, &entry.key, reading) {
                continue;
            }
            if !names.insert(name.clone()) {
                let message = format!("{} is set twice", quoted(&entry.key.text));
                reading.error_hint(entry.key.span, message, "case does not matter in names");
            }
            fields.extend(values.into_iter().map(|value| (name.clone(), value)));
        }
        Some(fields)
    })
}

/// Reports a field that nobody but the gateway may set. Whether it is one.
fn refuse_ours(name: &HeaderName, ours: &[&str], written: &Scalar, reading: &mut Reading) -> bool {
    let is_ours = ours.contains(&name.as_str());
    if is_ours {
        let message = format!("{} is set by the gateway", quoted(shown(written)));
        let hint = match name.as_str() {
            "host" => "write `host:` in the pool, under `upstreams:`",
            _ => "leave it out",
        };
        reading.wrong(written, message, hint);
    }
    is_ours
}

/// Framing and connection fields, which an answer gets by its body and connection (RFC 9112 §6,
/// RFC 9110 §7.6.1).
const OURS: [&str; 9] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The same for requests, which carry their target and their expectation as well (RFC 9110 §7.2,
/// §10.1.1).
const OURS_UPSTREAM: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What backends are told of a client's certificate: who may write it could be anybody. It may be
/// removed.
const CERTIFICATE: [&str; 8] = [
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-client-cert-fingerprint",
    "x-client-cert-issuer",
    "x-client-cert-serial",
    "x-client-cert-subject",
    "x-client-verify",
];

/// Reads the value of a field.
pub(super) fn read_value(node: &Node, reading: &mut Reading) -> Option<HeaderValue> {
    let scalar = value::scalar(node, reading)?;
    let Ok(mut value) = HeaderValue::from_bytes(scalar.text.as_bytes()) else {
        // Not quoted: fields carry keys, and messages are logged.
        let message = "this text is not the value of a header field";
        let hint = match scalar.text.trim_end_matches('\n').contains('\n') {
            false if scalar.text.ends_with('\n') => "it ends with a line break: write >- or |-",
            true => "it contains a line break",
            false => "it contains a control character",
        };
        reading.wrong(scalar, message, hint);
        return None;
    };
    value.set_sensitive(scalar.is_secret);
    Some(value)
}
