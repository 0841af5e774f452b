//! `compress:`: which codings are offered, and which media types are worth it.
//!
//! Answers "what does this filter compress?" for the reader of filters. Never compresses anything.

use http::HeaderName;

use super::diagnostic::quoted;
use super::filter::{Coding, Compress, FilterKind, Mode, Setting};
use super::grammar_filter::COMPRESS;
use super::reading::{Reading, shown};
use super::tree::{Entry, Map, Node, Scalar};
use super::value;

/// Reads `compress`: a map, or the list of its `codings`.
pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Setting> {
    if let Node::Map(_) = node {
        return value::map(node, reading, read_map);
    }
    if let Node::Scalar(scalar) = node
        && scalar.is_null()
    {
        return read_map(&Map { span: scalar.span, ..Map::default() }, reading);
    }
    // A list is its `codings`.
    let key = Scalar { text: "codings".into(), span: node.span(), ..Scalar::default() };
    let entries = vec![Entry { key, value: node.clone() }];
    read_map(&Map { entries, span: node.span() }, reading)
}

fn read_map(map: &Map, reading: &mut Reading) -> Option<Setting> {
    let mut keys = map.keys(&COMPRESS, reading);
    let mut codings = keys.choices("codings", &Coding::WORDS);
    let twice = (1..codings.len()).find(|index| codings[..*index].contains(&codings[*index]));
    if let (Some(_), Some(span)) = (twice, keys.span_of("codings")) {
        keys.reading.error(span, "the same coding stands twice in \"codings\"");
    }
    let mut types = keys.list("types", read_media_type);
    let min_size = keys.read("min_size", |node, reading| {
        value::bytes(node, value::Most { bytes: 1 << 30, name: "1GiB", words: "" }, reading)
    });
    let mode = Mode::read_plain(&mut keys);
    keys.finish();
    if codings.is_empty() {
        codings = Coding::WORDS.map(|(_, coding)| coding).to_vec();
    }
    if types.is_empty() {
        types = COMPRESSIBLE.map(str::to_owned).to_vec();
    }
    Some((mode?, FilterKind::Compress(Compress { codings, types, min_size: min_size? })))
}

impl Coding {
    pub(super) const WORDS: [(&'static str, Self); 3] =
        [("zstd", Self::Zstd), ("br", Self::Brotli), ("gzip", Self::Gzip)];
}

/// Types that shrink: texts, and formats that are not compressed by themselves.
pub(super) const COMPRESSIBLE: [&str; 21] = [
    "text/*",
    "application/json",
    "application/ld+json",
    "application/geo+json",
    "application/problem+json",
    "application/manifest+json",
    "application/x-ndjson",
    "application/javascript",
    "application/x-javascript",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/soap+xml",
    "application/problem+xml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "font/collection",
    "image/svg+xml",
];

/// Reads `text/*` or `application/json`, in lower case.
fn read_media_type(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let text = scalar.text.to_ascii_lowercase();
    let is_token = |text: &str| HeaderName::from_bytes(text.as_bytes()).is_ok();
    let parts = text.split_once('/');
    let is_one = parts.is_some_and(|(kind, rest)| {
        let is_whole = rest == "*" || !rest.contains('*');
        is_token(kind) && is_token(rest) && !kind.contains('*') && is_whole
    });
    if is_one {
        return Some(text);
    }
    let message = format!("{} is not a media type", quoted(shown(scalar)));
    let hint = match parts {
        _ if text.contains(';') => "parameters such as charset do not count: remove them",
        Some(("*", _)) => "images, videos and archives are compressed already: name the types",
        _ => "such as text/* or application/json",
    };
    reading.wrong(scalar, message, hint);
    None
}
