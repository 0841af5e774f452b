//! `match:` and `rewrite:`: conditions on a request and changes to its path.
//!
//! Answers "are these patterns sound, and in the form that requests are compared in?". Never matches
//! a request: that is `route`.

use regex::Regex;

use super::diagnostic::quoted;
use super::grammar::{MATCH, REWRITE, REWRITE_REGEX};
use super::reading::{Reading, shown};
use super::route::{Match, PathPattern, Rewrite, ValuePattern};
use super::tree::{Map, Node, Scalar};
use super::{header, template, value};
use crate::net::path::match_key_of_pattern;

impl Match {
    /// What it matches in few words: its paths, its expression, or `/*`.
    pub(super) fn label(&self) -> String {
        let mut words: Vec<String> = self.paths.iter().map(ToString::to_string).collect();
        words.extend(self.path_regex.as_ref().map(|regex| format!("~{regex}")));
        if words.is_empty() { "/*".to_owned() } else { words.join(" ") }
    }

    pub(super) fn read(map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&MATCH, reading);
        let paths = keys.list("path", PathPattern::read);
        let path_regex = keys.read("path_regex", value::regex);
        let methods = keys.list("method", value::method);
        let headers =
            keys.read("header", |node, reading| read_conditions(node, reading, header::read_name));
        let text = |key: &Scalar, _: &mut Reading| Some(key.text.to_string());
        let query = keys.read("query", |node, reading| read_conditions(node, reading, text));
        let cookies =
            keys.read("cookie", |node, reading| read_conditions(node, reading, read_cookie_name));
        keys.finish();
        let (headers, query) = (headers.unwrap_or_default(), query.unwrap_or_default());
        let cookies = cookies.unwrap_or_default();
        Some(Self { paths, path_regex, methods, headers, query, cookies })
    }
}

fn read_conditions<N>(
    node: &Node,
    reading: &mut Reading,
    mut read_name: impl FnMut(&Scalar, &mut Reading) -> Option<N>,
) -> Option<Vec<(N, Vec<ValuePattern>)>> {
    value::map(node, reading, |map, reading| {
        if map.entries.is_empty() {
            reading.error(map.span, "this condition names nothing");
        }
        let mut conditions = Vec::new();
        for entry in &map.entries {
            let name = read_name(&entry.key, reading);
            let values: Vec<ValuePattern> = match &entry.value {
                Node::List(list) if list.items.is_empty() => {
                    reading.error(list.span, "this list is empty, so nothing matches");
                    continue;
                }
                Node::List(list) => {
                    list.items.iter().filter_map(|item| ValuePattern::read(item, reading)).collect()
                }
                node => ValuePattern::read(node, reading).into_iter().collect(),
            };
            conditions.extend(name.map(|name| (name, values)));
        }
        Some(conditions)
    })
}

/// A cookie's name is a token (RFC 6265 §4.1.1), as a header field's is.
fn read_cookie_name(key: &Scalar, reading: &mut Reading) -> Option<String> {
    if http::HeaderName::from_bytes(key.text.as_bytes()).is_ok() {
        return Some(key.text.to_string());
    }
    reading.error(key.span, format!("{} is not the name of a cookie", quoted(&key.text)));
    None
}

impl ValuePattern {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let scalar = value::scalar(node, reading)?;
        let text = &*scalar.text;
        if text.len() > 1 && text.contains('*') {
            let message = format!("{} is compared literally", quoted(shown(scalar)));
            reading.warning(scalar.span, message, "only \"*\" alone means any value");
        }
        Some(if text == "*" { Self::Any } else { Self::Is(text.to_owned()) })
    }
}

impl PathPattern {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        let scalar = value::scalar(node, reading)?;
        let text = &*scalar.text;
        let (prefix, is_prefix) = match text.strip_suffix("/*") {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        if !text.starts_with('/') {
            let message = format!("the path {} does not start with /", quoted(shown(scalar)));
            reading.wrong(scalar, message, hint_for_start(scalar));
            return None;
        }
        if prefix.contains('*') {
            let message = "* can only stand at the end, after a /";
            let hint = match text.strip_suffix('*').filter(|rest| !rest.contains('*')) {
                Some(rest) => format!("write \"{rest}/*\", or use `path_regex`"),
                None => "use `path_regex`".to_owned(),
            };
            reading.wrong(scalar, message, hint);
            return None;
        }
        if is_prefix && prefix.is_empty() {
            return Some(Self::Prefix(String::new()));
        }
        let key = canonical(scalar, prefix, reading)?;
        Some(match is_prefix {
            true => Self::Prefix(key.trim_end_matches('/').to_owned()),
            false => Self::Exact(key),
        })
    }
}

fn hint_for_start(scalar: &Scalar) -> String {
    match &*scalar.text {
        _ if scalar.is_secret => String::new(),
        "*" => "write \"/*\"; no `path` at all matches every path, too".to_owned(),
        text if text.contains("://") => "hosts belong to `sites:`; write the path alone".to_owned(),
        text => format!("write \"/{text}\""),
    }
}

/// A path or prefix in the form that requests are compared in; reports why it has none.
fn canonical(scalar: &Scalar, path: &str, reading: &mut Reading) -> Option<String> {
    if let Some(index) = path.find(['?', '#']) {
        let message = format!("a path ends before \"{}\"", &path[index..=index]);
        reading.wrong(scalar, message, "use `query` for what follows");
        return None;
    }
    match match_key_of_pattern(path) {
        Ok(key) => Some(key),
        Err(error) => {
            let message = format!("{} can match no path", quoted(shown(scalar)));
            reading.wrong(scalar, message, error.to_string());
            None
        }
    }
}

impl Rewrite {
    pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        value::map(node, reading, |map, reading| {
            let mut keys = map.keys(&REWRITE, reading);
            let strip = keys.read("strip_prefix", read_prefix).map(Self::StripPrefix);
            let path = keys.read("path", template::read_path).map(Self::Path);
            let regex = keys.section("regex", read_regex);
            keys.finish();
            strip.or(path).or(regex)
        })
    }
}

fn read_prefix(node: &Node, reading: &mut Reading) -> Option<String> {
    let scalar = value::scalar(node, reading)?;
    let prefix = scalar.text.trim_end_matches('/');
    if !scalar.text.starts_with('/') || prefix.is_empty() || prefix.contains('*') {
        let message = format!("{} is not a prefix to strip", quoted(shown(scalar)));
        reading.wrong(scalar, message, "such as \"/v1\", without *");
        return None;
    }
    let key = canonical(scalar, prefix, reading)?;
    Some(key.trim_end_matches('/').to_owned())
}

fn read_regex(map: &Map, reading: &mut Reading) -> Option<Rewrite> {
    let mut keys = map.keys(&REWRITE_REGEX, reading);
    let from = keys.read("from", value::regex);
    let to = keys.read("to", |node, reading| {
        let scalar = value::scalar(node, reading)?;
        if scalar.text.len() > 4096 {
            reading.wrong(scalar, "this replacement is longer than 4096 bytes", "");
        } else if let Some(from) = &from {
            check_groups(from, scalar, reading);
        }
        Some(scalar.text.to_string())
    });
    keys.finish();
    Some(Rewrite::Regex { from: from?, to: to? })
}

/// Reports a `$1` or `${name}` that the expression does not have; it would silently be empty.
fn check_groups(from: &Regex, to: &Scalar, reading: &mut Reading) {
    let text = to.text.replace("$$", "");
    for (index, _) in text.match_indices('$') {
        let rest = &text[index + 1..];
        let name = match rest.strip_prefix('{') {
            Some(inner) => inner.split('}').next().unwrap_or(inner),
            None => {
                let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
                &rest[..rest.find(|char| !is_word(char)).unwrap_or(rest.len())]
            }
        };
        let exists = match name.parse::<usize>() {
            Ok(number) => number < from.captures_len(),
            Err(_) => from.capture_names().flatten().any(|group| group == name),
        };
        if !exists {
            let message = format!("the regular expression has no group {}", quoted(name));
            let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
            let hint = match digits.is_empty() || digits.len() == name.len() {
                true => "a dollar that is no group is written $$$$".to_owned(),
                false => format!("write ${{{digits}}}{}", &name[digits.len()..]),
            };
            reading.wrong(to, message, hint);
        }
    }
}
