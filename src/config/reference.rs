//! Keeps the reference in `docs/configuration.md` equal to the tables.

use std::fmt::Write as _;
use std::path::Path;

use super::grammar::ROOT;
use super::grammar_filter::FILTER;
use super::section::{Absent, Scalar, Section, Shape};

const BEGIN: &str = "<!-- reference: begin -->\n";
const END: &str = "<!-- reference: end -->";

#[test]
fn the_reference_in_the_documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut tables = String::new();
    describe(&ROOT, "", &mut tables);
    let wanted = format!("{before}{BEGIN}{tables}\n{END}{after}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &wanted).unwrap();
        return;
    }
    assert!(page == wanted, "run the tests with UPDATE_GOLDEN=1");
}

fn describe(section: &Section, path: &str, out: &mut String) {
    let place = if path.is_empty() { String::new() } else { format!(" – `{path}`") };
    let _ = writeln!(out, "\n### {}{place}\n", section.title);
    if !section.one_of.is_empty() {
        let names: Vec<String> = section.one_of.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(out, "Exactly one of {}.\n", names.join(", "));
    }
    let _ = writeln!(out, "| key | value | default | meaning |\n|---|---|---|---|");
    for key in section.supported() {
        let default = match key.default {
            Absent::Required => "required".to_owned(),
            Absent::Text("") => "empty".to_owned(),
            Absent::Text(text) => format!("`{text}`"),
            Absent::Nothing | Absent::Defaults => String::new(),
        };
        let (value, doc) = (words(&key.shape), key.doc.replace('|', "\\|"));
        let _ = writeln!(out, "| `{}` | {value} | {default} | {doc} |", key.name);
    }
    let later: Vec<String> = section
        .keys
        .iter()
        .filter(|key| matches!(key.shape, Shape::Later))
        .map(|key| format!("`{}`", key.name))
        .collect();
    if !later.is_empty() {
        let _ = writeln!(out, "\nNot supported yet: {}.", later.join(", "));
    }
    for key in section.supported() {
        let dot = if path.is_empty() { "" } else { "." };
        inner(&key.shape, &format!("{path}{dot}{}", key.name), out);
    }
}

fn inner(shape: &Shape, path: &str, out: &mut String) {
    match shape {
        // A filter is the same wherever it stands, and the first place is `filters`.
        Shape::Section(section) if std::ptr::eq(*section, &FILTER) && path != FILTER_PATH => {}
        Shape::Values(value) => inner(value, &format!("{path}.NAME"), out),
        Shape::Section(section) => describe(section, path, out),
        Shape::Named(section) => describe(section, &format!("{path}.NAME"), out),
        Shape::List(item) => inner(item, &format!("{path}[]"), out),
        Shape::Any(shapes) => shapes.iter().for_each(|shape| inner(shape, path, out)),
        _ => {}
    }
}

/// Where filters are described.
const FILTER_PATH: &str = "filters.NAME[]";

fn words(shape: &Shape) -> String {
    let code = |word: &&str| format!("`{word}`");
    match shape {
        Shape::One(scalar) => match scalar {
            Scalar::Text => "text",
            Scalar::Secret => "text, never shown",
            Scalar::Duration => "duration",
            Scalar::Size => "size",
            Scalar::Speed => "size per second",
            Scalar::Boolean => "`true`, `false`",
            Scalar::Path => "path",
            Scalar::Storage => "path or URL",
            Scalar::Address => "address",
            Scalar::Method => "method",
            Scalar::HostPattern => "host, wildcard or `\"*\"`",
            Scalar::Block => "address block",
            Scalar::PathPattern => "path pattern",
            Scalar::Url => "URL",
            Scalar::Regex => "regular expression",
            Scalar::Template => "text with placeholders",
            Scalar::Target => "path, perhaps with a query",
            Scalar::Statuses => "status codes and ranges",
            Scalar::RetryStatus => "429 or 500 to 599",
            Scalar::Percent => "percentage",
            Scalar::Rate => "rate",
            Scalar::RateKey => "`client_ip`, `header:NAME`, `cookie:NAME`",
            Scalar::FieldName => "field name",
            Scalar::MediaType => "media type",
        }
        .to_owned(),
        Shape::Choice(now, _) => now.iter().map(code).collect::<Vec<_>>().join(", "),
        Shape::Count(min, max) => format!("{min} to {max}"),
        Shape::List(item) => format!("list of {}", words(item)),
        Shape::Section(_) => "map".to_owned(),
        Shape::Named(_) => "map by name".to_owned(),
        Shape::Values(value) => format!("map by name to {}", words(value)),
        Shape::Any(shapes) => shapes.iter().map(words).collect::<Vec<_>>().join(", or "),
        Shape::Later => String::new(),
    }
}
