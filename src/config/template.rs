//! Texts with placeholders: `{path}`, `{query}`, `{host}`, `{uri}`.
//!
//! Answers "which parts of this are copied, and which come from the request?" for redirects and
//! rewrites. Never fills them in.

use super::diagnostic::quoted;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::route::Piece;
use super::tree::{Node, Scalar};
use super::value;

/// Reads the target of a redirect: a URL or a path.
pub(super) fn read_location(node: &Node, reading: &mut Reading) -> Option<Vec<Piece>> {
    let scalar = value::scalar(node, reading)?;
    let pieces = read(scalar, reading)?;
    let text = &*scalar.text;
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        matches!(scheme, "http" | "https") && !rest.is_empty() && !rest.starts_with('/')
    });
    let is_path = text.starts_with('/') && !text.starts_with("//");
    if is_url || is_path || matches!(pieces.first(), Some(Piece::Path | Piece::Uri)) {
        return Some(pieces);
    }
    let message = format!("{} is neither a URL nor a path", quoted(shown(scalar)));
    let hint = match text.split_once("://") {
        Some(_) => "http:// or https://, and a host".to_owned(),
        None if scalar.is_secret => String::new(),
        None => format!("write \"https://{}\"", text.trim_start_matches('/')),
    };
    reading.wrong(scalar, message, hint);
    None
}

/// Reads the new path of a rewrite.
pub(super) fn read_path(node: &Node, reading: &mut Reading) -> Option<Vec<Piece>> {
    let scalar = value::scalar(node, reading)?;
    let pieces = read(scalar, reading)?;
    let starts_well = match pieces.first() {
        Some(Piece::Literal(text)) => text.starts_with('/'),
        Some(Piece::Path | Piece::Uri) => true,
        _ => false,
    };
    if !starts_well || scalar.text.contains('#') {
        let message = format!("{} is not a path", quoted(shown(scalar)));
        let hint = "it starts with / or {path}, and has no #";
        reading.wrong(scalar, message, hint);
        return None;
    }
    Some(pieces)
}

fn read(scalar: &Scalar, reading: &mut Reading) -> Option<Vec<Piece>> {
    let is_plain = |char: char| char.is_ascii_graphic();
    if let Some(char) = scalar.text.chars().find(|char| !is_plain(*char)) {
        let message = format!("{char:?} cannot stand in a URL");
        let mut buffer = [0; 4];
        let bytes = char.encode_utf8(&mut buffer).bytes();
        let encoded: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
        let hint =
            if char.is_control() { "remove it".to_owned() } else { format!("write {encoded}") };
        reading.wrong(scalar, message, hint);
        return None;
    }
    match parse(&scalar.text) {
        Ok(pieces) => Some(pieces),
        Err((message, hint)) => {
            reading.wrong(scalar, message, hint);
            None
        }
    }
}

const PLACEHOLDERS: [(&str, Piece); 4] =
    [("path", Piece::Path), ("query", Piece::Query), ("host", Piece::Host), ("uri", Piece::Uri)];

fn parse(text: &str) -> Result<Vec<Piece>, (String, String)> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some(index) = rest.find(['{', '}']) {
        if index > 0 {
            pieces.push(Piece::Literal(rest[..index].to_owned()));
        }
        let open = &rest[index..];
        let Some((name, after)) = open.strip_prefix('{').and_then(|open| open.split_once('}'))
        else {
            let message = "a { or } stands alone".to_owned();
            return Err((message, "placeholders: {path}, {query}, {host}, {uri}".to_owned()));
        };
        let Some((_, piece)) = PLACEHOLDERS.into_iter().find(|(known, _)| *known == name) else {
            let hint = match nearest(name, PLACEHOLDERS.iter().map(|(known, _)| *known)) {
                Some(near) => format!("did you mean {{{near}}}?"),
                None => "placeholders: {path}, {query}, {host}, {uri}".to_owned(),
            };
            return Err((format!("{} is not a placeholder", quoted(name)), hint));
        };
        pieces.push(piece);
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_cut_at_its_placeholders() {
        let literal = |text: &str| Piece::Literal(text.to_owned());
        for (text, wanted) in [
            ("", vec![]),
            ("/a", vec![literal("/a")]),
            ("{uri}", vec![Piece::Uri]),
            (
                "https://{host}/v1{path}{query}",
                vec![literal("https://"), Piece::Host, literal("/v1"), Piece::Path, Piece::Query],
            ),
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
        for text in ["{pth}", "{", "}", "{}", "a{path", "{{path}}"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
