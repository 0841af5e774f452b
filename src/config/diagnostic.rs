//! Faults and warnings of a configuration file, each with its place, rendered for people.
//!
//! Answers "what is wrong, where, and what should stand there instead?". Filled by every reader of
//! `config`, shown by `cli` and by a rejected reload. Never decides whether a fault stops anything:
//! the caller asks [`Diagnostics::has_errors`].

use std::fmt;

/// Where something stands in the file.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span {
    /// Line from 1.
    pub line: u32,
    /// Column from 1, counted in characters.
    pub column: u32,
    /// Length in characters; what reaches past the end of its line is underlined up to there.
    pub length: u32,
}

/// Whether the configuration can be used nevertheless.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but it probably does not say what was meant.
    Warning,
}

/// One fault or warning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Fault or warning.
    pub severity: Severity,
    /// What it is about.
    pub span: Span,
    /// What was found and what was wanted; lower-case, one line.
    pub message: String,
    /// What to write instead. Stands behind the caret; may be empty.
    pub hint: String,
}

/// All faults and warnings of one file, with the text they point into.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    file: String,
    source: String,
    /// Byte offset of each line's start.
    lines: Vec<usize>,
    entries: Vec<Diagnostic>,
    errors: usize,
    /// Faults beyond those that are kept.
    dropped: usize,
}

impl Diagnostics {
    /// None yet, for a file called `file` as the operator named it.
    #[must_use]
    pub fn new(file: &str, source: &str) -> Self {
        let lines = starts_of_lines(source);
        let (file, source) = (file.to_owned(), source.to_owned());
        Self { file, source, lines, entries: Vec::new(), errors: 0, dropped: 0 }
    }

    /// The name of the file, as the operator gave it.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether there is anything that forbids using the configuration.
    #[must_use]
    pub const fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Number of faults, without warnings.
    #[must_use]
    pub const fn error_count(&self) -> usize {
        self.errors
    }

    /// Number of warnings.
    #[must_use]
    pub const fn warning_count(&self) -> usize {
        self.entries.len() + self.dropped - self.errors
    }

    /// Whether there is nothing to say at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Faults and warnings in the order of the file once it was read whole.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.entries.iter()
    }

    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.error_hint(span, message, "");
    }

    pub(super) fn error_hint(
        &mut self,
        span: Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.errors += 1;
        if self.entries.len() >= KEPT {
            self.dropped += 1;
            return;
        }
        let (message, hint) = (message.into(), hint.into());
        self.entries.push(Diagnostic { severity: Severity::Error, span, message, hint });
    }

    pub(super) fn warning(
        &mut self,
        span: Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.entries.len() >= KEPT {
            return;
        }
        let (message, hint) = (message.into(), hint.into());
        self.entries.push(Diagnostic { severity: Severity::Warning, span, message, hint });
    }

    /// Has no excerpt show `secret`, which stands in this line; columns stay what they are.
    pub(super) fn hide(&mut self, line: u32, secret: &str) {
        let shown = self.line(line);
        if secret.is_empty() || !shown.contains(secret) {
            return;
        }
        let hidden = shown.replace(secret, &"*".repeat(secret.chars().count()));
        let start = self.lines[(line as usize).saturating_sub(1)];
        let end = start + shown.len();
        self.source.replace_range(start..end, &hidden);
        self.lines = starts_of_lines(&self.source);
    }

    /// What follows `span` in its line.
    pub(super) fn rest_of_line(&self, span: Span) -> String {
        let end = (span.column as usize).saturating_sub(1) + span.length as usize;
        let line = self.line(span.line);
        if line.len() > LONGEST_LINE { String::new() } else { line.chars().skip(end).collect() }
    }

    fn line(&self, number: u32) -> &str {
        let index = (number as usize).saturating_sub(1);
        let start = self.lines.get(index).copied().unwrap_or(self.source.len());
        let end = self.lines.get(index + 1).copied().unwrap_or(self.source.len());
        self.source.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r'])
    }

    /// Puts the entries in the order of the file and drops exact repetitions, which a value that
    /// stands behind several aliases would cause.
    pub(super) fn sort(&mut self) {
        self.entries.sort_by_key(|entry| entry.span);
        self.entries.dedup();
        let is_error = |entry: &&Diagnostic| entry.severity == Severity::Error;
        self.errors = self.dropped + self.entries.iter().filter(is_error).count();
    }

    fn write_entry(&self, entry: &Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { line, column, length } = entry.span;
        let file = escaped(&self.file);
        let label = if entry.severity == Severity::Warning { "warning: " } else { "" };
        writeln!(f, "{file}:{line}:{column}: {label}{}", escaped(&entry.message))?;
        let excerpt = Excerpt::of(self.line(line), column as usize, length as usize);
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{}", format!("{number} | {}", excerpt.text).trim_end())?;
        let carets = "^".repeat(excerpt.carets);
        let marked =
            format!("{gutter} | {}{carets} {}", " ".repeat(excerpt.indent), escaped(&entry.hint));
        writeln!(f, "{}", marked.trim_end())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().take(SHOWN).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.write_entry(entry, f)?;
        }
        match (self.entries.len() + self.dropped).saturating_sub(SHOWN) {
            0 => Ok(()),
            more => writeln!(f, "\n{}: and {more} more", escaped(&self.file)),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// `rendered` diagnostics without the lines of the file, which may hold a token, and the hints below
/// them: place and message remain. For what others than the operator at his terminal may read.
#[must_use]
pub fn without_excerpts(rendered: &str) -> String {
    let is_excerpt = |line: &&str| {
        let line = line.trim_start_matches(|char: char| char == ' ' || char.is_ascii_digit());
        line.starts_with('|')
    };
    let kept = rendered.lines().filter(|line| !is_excerpt(line) && !line.is_empty());
    kept.flat_map(|line| [line, "\n"]).collect()
}

fn starts_of_lines(source: &str) -> Vec<usize> {
    let breaks = source.match_indices('\n').map(|(index, _)| index + 1);
    std::iter::once(0).chain(breaks).collect()
}

/// More than this is one mistake repeated by a generator, and nobody scrolls further.
const SHOWN: usize = 1000;

/// Later faults are only counted, so that a hostile file cannot fill the memory with them.
const KEPT: usize = 10_000;

/// Longer lines are not shown: finding a column in one takes as long as the line.
const LONGEST_LINE: usize = 64 << 10;

/// `text` in quotes for a message: one line, nothing that a terminal obeys, at most 60 characters.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(60).collect();
    let is_cut = shown.len() < text.len();
    shown = shown.replace('\t', "\\t");
    if is_cut {
        shown.push('…');
    }
    format!("\"{}\"", escaped(&shown))
}

/// `text` without anything that a terminal obeys or that reorders what is read.
fn escaped(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// The part of a source line that is shown, and where the caret goes.
struct Excerpt {
    text: String,
    indent: usize,
    carets: usize,
}

impl Excerpt {
    /// Longest source text shown; a longer line is cut around the caret.
    const WIDTH: usize = 100;

    fn of(line: &str, column: usize, length: usize) -> Self {
        if line.len() > LONGEST_LINE {
            return Self { text: "…".to_owned(), indent: 0, carets: 1 };
        }
        let chars: Vec<char> = line.chars().collect();
        let start = column.saturating_sub(1).min(chars.len());
        let end = (start + length.max(1)).min(chars.len()).max(start);
        let from = if chars.len() <= Self::WIDTH { 0 } else { start.saturating_sub(40) };
        let to = chars.len().min(from + Self::WIDTH);
        let mut text = String::new();
        let (mut indent, mut carets) = (0, 0);
        if from > 0 {
            text.push('…');
            indent += 1;
        }
        for (index, &char) in chars.iter().enumerate().take(to).skip(from) {
            let piece = shown(char);
            let columns: usize = piece.chars().map(columns).sum();
            if index < start {
                indent += columns;
            } else if index < end {
                carets += columns;
            }
            text.push_str(&piece);
        }
        if to < chars.len() {
            text.push('…');
        }
        Self { text, indent, carets: carets.max(1) }
    }
}

/// A character as it is printed: control and reordering characters (CVE-2021-42574) as escapes.
fn shown(char: char) -> String {
    match char {
        '\t' => " ".to_owned(),
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => {
            char.escape_unicode().to_string()
        }
        '\u{feff}' => char.escape_unicode().to_string(),
        _ if char.is_control() => char.escape_default().to_string(),
        _ => char.to_string(),
    }
}

/// Terminal columns of a character: 0 for combining marks, 2 for East Asian wide ones and emoji
/// (Unicode Standard Annex #11, coarse blocks), else 1.
const fn columns(char: char) -> usize {
    match char as u32 {
        0x300..=0x36f | 0xfe00..=0xfe0f | 0x1ab0..=0x1aff | 0x20d0..=0x20ff => 0,
        0x1100..=0x115f | 0x2e80..=0x303e | 0x3041..=0xa4cf | 0xac00..=0xd7a3 => 2,
        0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 => 2,
        0x1f300..=0x1f64f | 0x1f680..=0x1f6ff | 0x1f900..=0x1f9ff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, span: Span, hint: &str) -> String {
        let mut faults = Diagnostics::new("gateway.yaml", source);
        faults.error_hint(span, "no upstream is called \"apo\"", hint);
        faults.to_string()
    }

    #[test]
    fn a_fault_shows_its_line_a_caret_and_a_hint() {
        let source = "\n\nsites:\n      upstream: apo\n";
        let hint = "did you mean \"api\"? declared at line 12";
        let shown = rendered(source, Span { line: 4, column: 17, length: 3 }, hint);
        let wanted = "\
gateway.yaml:4:17: no upstream is called \"apo\"
  |
4 |       upstream: apo
  |                 ^^^ did you mean \"api\"? declared at line 12
";
        assert_eq!(shown, wanted);
    }

    #[test]
    fn the_caret_stands_under_its_text_whatever_comes_before() {
        for (line, column, length, indent, carets) in [
            ("ä: apo", 4, 3, 3, 3),
            ("名前: apo", 5, 3, 6, 3),
            ("e\u{301}: apo", 5, 3, 3, 3),
            ("\tx: apo", 5, 3, 4, 3),
            ("\u{1b}[0m: apo", 7, 3, 11, 3),
            ("\u{202e}: apo", 4, 3, 10, 3),
            ("short", 9, 3, 5, 1),
            ("x: 名前", 4, 2, 3, 4),
            ("", 1, 0, 0, 1),
        ] {
            let excerpt = Excerpt::of(line, column, length);
            assert_eq!((excerpt.indent, excerpt.carets), (indent, carets), "{line:?}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}apo{}", "x".repeat(5000), "y".repeat(5000));
        let excerpt = Excerpt::of(&line, 5001, 3);
        assert!(excerpt.text.starts_with('…') && excerpt.text.ends_with('…'));
        assert!(excerpt.text.chars().count() < 110);
        let under: String = excerpt.text.chars().skip(excerpt.indent).take(3).collect();
        assert_eq!(under, "apo");
    }

    #[test]
    fn entries_come_in_the_order_of_the_file_and_once() {
        let mut faults = Diagnostics::new("f", "a\nb\n");
        faults.error(Span { line: 2, column: 1, length: 1 }, "second");
        faults.warning(Span { line: 1, column: 1, length: 1 }, "first", "");
        faults.error(Span { line: 2, column: 1, length: 1 }, "second");
        faults.sort();
        let messages: Vec<_> = faults.iter().map(|entry| entry.message.as_str()).collect();
        assert_eq!(messages, ["first", "second"]);
        assert_eq!((faults.error_count(), faults.warning_count()), (1, 1));
    }

    #[test]
    fn a_secret_in_an_excerpt_is_hidden_and_columns_stay() {
        let mut faults = Diagnostics::new("f", "a: 1\nb: redis://u:hüsh@host/x\nc: hüsh\n");
        faults.hide(2, "hüsh");
        faults.error(Span { line: 2, column: 18, length: 4 }, "odd");
        faults.error(Span { line: 3, column: 4, length: 4 }, "odd");
        let shown = faults.to_string();
        assert!(
            shown.contains("2 | b: redis://u:****@host/x\n  |                  ^^^^"),
            "{shown}"
        );
        assert!(shown.contains("3 | c: hüsh\n"), "another line is another's: {shown}");
    }

    #[test]
    fn places_and_messages_can_be_told_without_the_file() {
        let source = "admin: { token: hush-hush, bnd: 1 }\nx: hush\n".repeat(9);
        let mut faults = Diagnostics::new("gateway.yaml", &source);
        faults.error_hint(
            Span { line: 1, column: 28, length: 3 },
            "unknown key \"bnd\"",
            "\"bind\"",
        );
        faults.warning(Span { line: 12, column: 1, length: 1 }, "odd", "");
        let told = without_excerpts(&faults.to_string());
        assert_eq!(
            told,
            "gateway.yaml:1:28: unknown key \"bnd\"\ngateway.yaml:12:1: warning: odd\n"
        );
        let other = "cannot read gateway.yaml: it is a directory\n";
        assert_eq!(without_excerpts(other), other);
    }
}
