//! YAML syntax errors in the operator's words.
//!
//! Answers "why can this not be read, and is a quote missing?". Called by `tree` for the one error
//! that stands alone. Never looks at what keys mean.

use serde_saphyr::granit_parser::{ErrorKind, ScanError};

use super::diagnostic::{Diagnostics, Span};

/// Reports why `text` is not YAML.
pub(super) fn report(error: &ScanError, text: &str, out: &mut Diagnostics) {
    let marker = error.marker();
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let (line, column) = (marker.line().max(1), marker.col() + 1);
    let source = text.lines().nth(line - 1).unwrap_or_default();
    let place = |column, length| Span { line: number(line), column: number(column), length };
    if let Some(found) = unquoted(source, error.kind()) {
        // Not quoted: it may be a key or a token, and messages are logged.
        let message = format!("this must stand in quotes: {}", found.reason);
        let length = number(found.text.chars().count());
        out.error_hint(place(found.column, length), message, format!("write '{}'", found.text));
        return;
    }
    if let Some((previous, hint)) = missing_colon(text, line, error.kind()) {
        let span = Span { line: number(previous), ..place(1, 0) };
        let indent = text.lines().nth(previous - 1).map_or(0, |l| l.len() - l.trim_start().len());
        let span = Span { column: number(indent + 1), ..span };
        out.error_hint(span, "a \": \" is missing in this line", hint);
        return;
    }
    if is_about_tabs(error.kind())
        && let Some((line, indent)) = tab_from(text, line)
    {
        let span = Span { line: number(line), column: number(indent + 1), length: 1 };
        out.error_hint(span, "a tab cannot be used as indentation", "use spaces");
        return;
    }
    let (message, hint) = explain(error.kind());
    let fits_not =
        matches!(error.kind(), ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed);
    let column = if fits_not { source.len() - source.trim_start().len() + 1 } else { column };
    let message = message.map_or_else(|| error.info(), str::to_owned);
    let end = source.chars().count() + 1;
    out.error_hint(place(column.min(end), 1), message, hint);
}

const fn is_about_tabs(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TabInIndentation
            | ErrorKind::TabInBlockIndentation
            | ErrorKind::TabNotAllowed
            | ErrorKind::TabAtBlockScalarStart
            | ErrorKind::TabInPlainScalar
    )
}

/// The first line from `line` on that is indented with a tab, and how far in it stands. The parser
/// names the value above it.
fn tab_from(text: &str, line: usize) -> Option<(usize, usize)> {
    let tab_of = |text: &str| text[..text.len() - text.trim_start().len()].find('\t');
    let mut lines = text.lines().enumerate().skip(line - 1).take(3);
    lines.find_map(|(index, text)| Some((index + 1, tab_of(text)?)))
}

/// The line above `line` that is no "key: value", where that explains why `line` does not fit.
fn missing_colon(text: &str, line: usize, kind: &ErrorKind) -> Option<(usize, String)> {
    if !matches!(kind, ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidSimpleKey) {
        return None;
    }
    let lines = text.lines().take(line.saturating_sub(1)).enumerate();
    let is_content = |text: &str| !text.trim().is_empty() && !text.trim().starts_with('#');
    let (index, above) = lines.filter(|(_, text)| is_content(text)).last()?;
    let above = above.trim();
    if above.contains(": ") || above.ends_with(':') || above.starts_with(['-', '"', '\'', '{', '['])
    {
        return None;
    }
    let (key, value) = above.split_once([':', ' '])?;
    Some((index + 1, format!("write `{key}: {}`", value.trim_start())))
}

/// A value that YAML misreads for want of quotes.
struct Unquoted {
    text: String,
    column: usize,
    reason: &'static str,
}

/// Looks for the usual reason behind an error in this line: a value that needs quotes.
fn unquoted(line: &str, kind: &ErrorKind) -> Option<Unquoted> {
    let suspicious = matches!(
        kind,
        ErrorKind::UnknownAnchor
            | ErrorKind::MissingAnchorOrAliasName
            | ErrorKind::UnexpectedCharacter { .. }
            | ErrorKind::MappingValueNotAllowed
            | ErrorKind::SimpleKeyExpected
            | ErrorKind::InvalidSimpleKey
            | ErrorKind::ExpectedBlockMappingKey
            | ErrorKind::ExpectedFlowSequenceSeparator
            | ErrorKind::ExpectedFlowMappingSeparator
            | ErrorKind::MisplacedFlowCollectionEnd
            | ErrorKind::InvalidMappingValueWhitespace
            | ErrorKind::MappingKeyNotAllowed
            | ErrorKind::InvalidIndentation
            | ErrorKind::InvalidGlobalTagCharacter
            | ErrorKind::InvalidTagTerminator
            | ErrorKind::UndeclaredTagHandle
            | ErrorKind::MissingTagUri
            | ErrorKind::InvalidDirectiveName
            | ErrorKind::MissingDirectiveName
            | ErrorKind::InvalidColonPlacement
            | ErrorKind::InvalidFlowScalarIndent
            | ErrorKind::UnclosedFlowCollection { .. }
    );
    if !suspicious || line.len() > 4096 {
        return None;
    }
    let special = starts(line).find_map(|start| special(&line[start..], line, start));
    special.or_else(|| match kind {
        ErrorKind::MappingValueNotAllowed
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::InvalidSimpleKey
        | ErrorKind::SimpleKeyExpected => {
            starts(line).find_map(|start| colon(&line[start..], line, start))
        }
        _ => None,
    })
}

/// Byte offsets at which a key, an item or a value may start.
fn starts(line: &str) -> impl Iterator<Item = usize> {
    let first = line.len() - line.trim_start().len();
    let follows = line.char_indices().filter_map(move |(index, char)| {
        let rest = &line[index + char.len_utf8()..];
        let is_separator =
            matches!(char, '[' | '{' | ',') || (matches!(char, ':' | '-') && rest.starts_with(' '));
        let start = line.len() - rest.trim_start().len();
        (is_separator && start < line.len()).then_some(start)
    });
    std::iter::once(first).filter(move |start| *start < line.len()).chain(follows)
}

/// A value that starts with a character that means something else in YAML.
fn special(rest: &str, line: &str, start: usize) -> Option<Unquoted> {
    let column = line[..start].chars().count() + 1;
    let word = word_of(rest);
    let found = |text: &str, reason| Some(Unquoted { text: text.to_owned(), column, reason });
    match rest.chars().next()? {
        '*' => found(word, "a plain * starts a YAML alias"),
        '@' => found(word, "YAML reserves @ at the start"),
        '`' => found(word, "YAML reserves ` at the start"),
        '%' => found(word, "YAML reserves % at the start"),
        '&' if word.len() > 1 => found(word, "a plain & starts a YAML anchor"),
        '!' => found(word, "a plain ! starts a YAML tag"),
        '[' => {
            let close = rest.find(']')?;
            let tail = word_of(&rest[close + 1..]);
            let is_address = rest[..close].contains(':') && tail.starts_with(':');
            is_address.then(|| &rest[..=close + tail.len()]).and_then(|address| {
                found(address.trim_end_matches(':'), "a plain [ starts a YAML list")
            })
        }
        _ => None,
    }
}

/// A value that contains `: `.
fn colon(rest: &str, line: &str, start: usize) -> Option<Unquoted> {
    let before = line[..start].trim_end();
    if !before.ends_with(':') || rest.starts_with(['"', '\'', '{', '[', '#', '|', '>']) {
        return None;
    }
    let value = rest.split(" #").next().unwrap_or(rest);
    let ends: &[char] = if before.contains(['{', '[']) { &[',', '}', ']'] } else { &[] };
    let text = value.split(ends).next().unwrap_or(value).trim_end();
    let column = line[..start].chars().count() + 1;
    let reason = "\": \" starts a YAML map";
    text.contains(": ").then(|| Unquoted { text: text.to_owned(), column, reason })
}

/// The text up to the next character that ends a plain word in a list or before a value.
fn word_of(rest: &str) -> &str {
    let end = rest.find([' ', ',', ']', '}']).unwrap_or(rest.len());
    let word = &rest[..end];
    if end == rest.len() || rest[end..].starts_with(' ') {
        word.strip_suffix(':').filter(|word| !word.is_empty()).unwrap_or(word)
    } else {
        word
    }
}

/// Our words for an error, where the parser's would not help; and what to do.
fn explain(kind: &ErrorKind) -> (Option<&'static str>, &'static str) {
    use ErrorKind as Kind;
    match kind {
        Kind::TabInIndentation
        | Kind::TabInBlockIndentation
        | Kind::TabNotAllowed
        | Kind::TabAtBlockScalarStart
        | Kind::TabInPlainScalar => (Some("a tab cannot be used as indentation"), "use spaces"),
        Kind::RecursionLimitExceeded => (Some("the nesting is too deep"), ""),
        Kind::UnclosedQuotedScalar => (Some("this quote is never closed"), ""),
        Kind::UnclosedFlowCollection { .. }
        | Kind::UnexpectedEofFlowSequence
        | Kind::UnexpectedEofFlowMapping
        | Kind::UnexpectedEofImplicitFlowMapping => (Some("this bracket is never closed"), ""),
        Kind::ExpectedFlowSequenceSeparator => {
            (Some("a \",\" or the closing \"]\" of a list is missing here"), "")
        }
        Kind::ExpectedFlowMappingSeparator => {
            (Some("a \",\" or the closing \"}\" of a map is missing here"), "")
        }
        Kind::InvalidColonPlacement => (Some("a bracket above is not closed"), ""),
        Kind::UnexpectedCharacter { .. } => {
            (Some("this character cannot stand here"), "write it as an escape in double quotes")
        }
        Kind::MisplacedFlowCollectionEnd => (Some("this bracket closes nothing"), ""),
        Kind::MismatchedFlowCollectionEnd { .. } => {
            (Some("this bracket closes one of another kind"), "")
        }
        Kind::SimpleKeyExpected | Kind::InvalidSimpleKey => {
            (Some("a \":\" is missing here"), "every line of a map is \"key: value\"")
        }
        Kind::InvalidMappingValueWhitespace | Kind::ExpectedWhitespace => {
            (Some("a space is missing here"), "")
        }
        Kind::InvalidIndentation
        | Kind::ExpectedBlockMappingKey
        | Kind::ExpectedBlockSequenceEntry
        | Kind::BlockSequenceEntryNotAllowed
        | Kind::MappingKeyNotAllowed
        | Kind::MappingValueNotAllowed => (
            Some("this line does not fit the lines above it"),
            "keys of one map start in the same column",
        ),
        Kind::UnknownQuotedScalarEscape | Kind::InvalidQuotedScalarHexEscape => (
            Some("this escape is unknown in double quotes"),
            "write \\\\ for a backslash, or use single quotes",
        ),
        Kind::InvalidTrailingSingleQuotedScalar | Kind::InvalidTrailingDoubleQuotedScalar => {
            (Some("something follows the closing quote"), "")
        }
        _ => (None, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_needs_quotes_is_found_in_its_line() {
        let kind = ErrorKind::MappingValueNotAllowed;
        for (line, wanted, column) in [
            ("  *.example.com:", Some("*.example.com"), 3),
            ("aliases: [a, *.b.org]", Some("*.b.org"), 14),
            ("  - *", Some("*"), 5),
            ("bind: [::]:443", Some("[::]:443"), 7),
            ("body: @here", Some("@here"), 7),
            ("level: %d", Some("%d"), 8),
            ("body: hello: world # x", Some("hello: world"), 7),
            ("- respond: { status: 503, body: a: b }", Some("a: b"), 33),
            ("https: both", None, 0),
            ("bind: \"[::]:443\"", None, 0),
            ("bind: [a, b]", None, 0),
        ] {
            let found = unquoted(line, &kind);
            assert_eq!(found.as_ref().map(|found| found.text.as_str()), wanted, "{line}");
            assert_eq!(found.map_or(0, |found| found.column), column, "{line}");
        }
    }
}
