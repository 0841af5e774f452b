//! The log's vocabulary: an event is a phrase and fields of known names.

use proc_macro2::{Group, TokenStream, TokenTree};

use super::source::{Source, is_ident, is_punct};
use super::{assert_none, sample};

/// Every field that an event may have. OpenTelemetry's names where it has one; the others are ours,
/// and a new one is written down here once nothing in this list says it.
const FIELDS: &[&str] = &[
    // OpenTelemetry's.
    "client.address",
    "error.type",
    "server.address",
    // What the configuration names, and the request.
    "certificate",
    "chain",
    "endpoint",
    "filter",
    "generation",
    "host",
    "listener",
    "pool",
    "position",
    "request_id",
    "setting",
    "site",
    // What went wrong.
    "error",
    "faults",
    "hint",
    "outcome",
    "place",
    "reason",
    "text",
    "warning",
    "warnings",
    // Files.
    "directory",
    "fingerprint",
    "issuer",
    "moved_to",
    "path",
    // Orders of certificates.
    "days",
    "echoed",
    "event",
    "instead",
    "names",
    "ordered",
    "profile",
    "record",
    "root",
    "url",
    // Life of the process.
    "bytes",
    "connections",
    "count",
    "delay",
    "dropped_lines",
    "grace",
    "limit",
    "lines",
    "name",
    "output",
    "panics",
    "pid",
    "pools",
    "seconds",
    "sites",
    "state",
    "version",
];

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

#[test]
fn events_are_phrases_with_known_fields() {
    let sources = Source::all("src");
    let count: usize = sources.iter().map(|source| events(source).len()).sum();
    assert!(count > 50, "{count} events were found");
    assert_none(sources, faults);
}

#[test]
fn a_field_that_is_not_known_is_a_fault() {
    for fine in [
        "tracing::info!(%error, pool = %a.b(), server.address = f(x, y), count, \"said\");",
        "tracing::warn!(target: \"a\", error = ?e as &dyn E, \"said\",);",
        "tracing::debug!(error.type = kind, \"said\");",
        "// tracing::info!(colour = 1, \"said\");",
    ] {
        assert_eq!(faults(&sample("src/net/a.rs", fine)), Vec::<String>::new(), "{fine}");
    }
    for (odd, count) in [
        ("tracing::info!(colour = 1, \"said\");", 1),
        ("tracing::info!(%colour, shape, error, \"said\");", 2),
        ("if a { tracing::error!(server.colour = ?1, \"said\") }", 1),
        ("tracing::info!(error, \"said {error}\");", 1),
        ("tracing::info!(error, \"said {}\", error);", 2),
        ("tracing::info!(error);", 1),
    ] {
        assert_eq!(faults(&sample("src/net/a.rs", odd)).len(), count, "{odd}");
    }
}

fn faults(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    for event in events(source) {
        let parts = parts(event.stream());
        let (phrase, fields) = parts.split_last().map_or((&[][..], &[][..]), |(a, b)| (a, b));
        let place = TokenTree::Group(event.clone());
        match phrase {
            [TokenTree::Literal(text)] if !text.to_string().contains('{') => {}
            _ => faults.push(source.fault(&place, "an event ends with a plain phrase")),
        }
        for part in fields {
            let name = name(part);
            if !FIELDS.contains(&name.as_str()) && name != "target:" {
                faults.push(source.fault(&place, &format!("{name:?} is no known field")));
            }
        }
    }
    faults
}

/// What stands between the brackets of each `tracing::info!(…)` and its like.
fn events(source: &Source) -> Vec<Group> {
    let mut found = Vec::new();
    for level in &source.levels {
        for window in level.windows(6) {
            if let [tracing, colon, _, word, mark, TokenTree::Group(group)] = window
                && is_ident(tracing, "tracing")
                && is_punct(colon, ':')
                && LEVELS.iter().any(|level| is_ident(word, level))
                && is_punct(mark, '!')
            {
                found.push(group.clone());
            }
        }
    }
    found
}

/// The parts between commas; a comma at the end adds none.
fn parts(stream: TokenStream) -> Vec<Vec<TokenTree>> {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let parts = tokens.split(|token| is_punct(token, ','));
    parts.filter(|part| !part.is_empty()).map(<[TokenTree]>::to_vec).collect()
}

/// `pool` of `pool = …`, `%pool` and `pool`; dots included.
fn name(part: &[TokenTree]) -> String {
    let is_name = |token: &&TokenTree| !is_punct(token, '=');
    let name = part.iter().take_while(is_name).map(ToString::to_string).collect::<String>();
    match name.split_once(':') {
        Some((word, _)) => format!("{word}:"),
        None => name.trim_start_matches(['%', '?']).to_owned(),
    }
}
