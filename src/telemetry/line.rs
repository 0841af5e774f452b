//! One line of text or JSON, put together by hand into a buffer of bytes.
//!
//! Answers "how is this value written so that it stays one value on one line?". Called by the log and
//! the access log. Whatever the bytes are, a JSON line is valid JSON and neither kind holds a line
//! break or a terminal's control sequence.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::config::process::LogFormat;

/// The shape of a line on a stream: as asked, else text for people at a terminal and JSON for
/// programs.
pub(super) fn format_for(asked: Option<LogFormat>, is_terminal: bool) -> LogFormat {
    asked.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json })
}

/// A key that is known when the program is built, spelled for both formats: see [`key!`].
#[derive(Clone, Copy)]
pub(super) struct Key {
    /// `,"key":`
    pub(super) json: &'static str,
    /// ` key=`
    pub(super) text: &'static str,
}

/// The [`Key`] of a literal. What surrounds a key costs as much as the key: this makes it one copy.
macro_rules! key {
    ($name:literal) => {
        $crate::telemetry::line::Key {
            json: concat!(",\"", $name, "\":"),
            text: concat!(" ", $name, "="),
        }
    };
}
pub(super) use key;

/// Adds `key=value` or `"key":value` pairs to a line: a key first, then its value.
///
/// Keys are ours and plain ASCII; they are not escaped.
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
    is_first: bool,
}

impl<'a> Fields<'a> {
    /// Begins a line that has no pairs yet; JSON gets its opening brace.
    #[inline]
    pub(super) fn begin(out: &'a mut Vec<u8>, format: LogFormat) -> Self {
        if format == LogFormat::Json {
            out.push(b'{');
        }
        Self { out, format, is_first: true }
    }

    /// Ends the line; JSON gets its closing brace.
    #[inline]
    pub(super) fn end(self) {
        self.out.extend_from_slice(if self.format == LogFormat::Json { b"}\n" } else { b"\n" });
    }

    /// Writes a key. Its value must follow.
    #[inline]
    pub(super) fn key(&mut self, key: Key) -> Value<'_> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let spelled = match self.format {
            LogFormat::Json if is_first => &key.json[1..],
            LogFormat::Json => key.json,
            LogFormat::Text => key.text,
        };
        self.out.extend_from_slice(spelled.as_bytes());
        Value { out: self.out, format: self.format }
    }

    /// Writes a key that only the running program knows. Its value must follow.
    pub(super) fn named(&mut self, name: &str) -> Value<'_> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let (before, after): (&[u8], &[u8]) = match self.format {
            LogFormat::Json if is_first => (b"\"", b"\":"),
            LogFormat::Json => (b",\"", b"\":"),
            LogFormat::Text => (b" ", b"="),
        };
        self.out.extend_from_slice(before);
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(after);
        Value { out: self.out, format: self.format }
    }
}

/// The place after a key, to be filled once.
#[must_use = "a key without a value is no valid line"]
pub(super) struct Value<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

impl Value<'_> {
    /// Bytes of a peer or text of ours. Text quotes it only where it would be ambiguous.
    #[inline]
    pub(super) fn text(self, value: &[u8]) {
        if self.format == LogFormat::Text && is_one_word(value) {
            self.out.extend_from_slice(value);
        } else {
            self.out.push(b'"');
            escape(self.out, value, Quoted::Yes);
            self.out.push(b'"');
        }
    }

    /// Text that `write` appends and that needs neither quotes nor escapes.
    #[inline]
    pub(super) fn plain(self, write: impl FnOnce(&mut Vec<u8>)) {
        let quote: &[u8] = if self.format == LogFormat::Json { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        write(self.out);
        self.out.extend_from_slice(quote);
    }

    /// A value that knows how to write itself.
    pub(super) fn display(self, value: impl fmt::Display) {
        if self.format == LogFormat::Text {
            return self.text(value.to_string().as_bytes());
        }
        self.out.push(b'"');
        // `Escaping` never fails; a `Display` that does leaves a short value behind.
        let _ = write!(Escaping(self.out), "{value}");
        self.out.push(b'"');
    }

    /// A number, or `true` and `false`: what JSON writes without quotes.
    pub(super) fn literal(self, value: impl fmt::Display) {
        let _ = write!(Escaping(self.out), "{value}");
    }

    /// A whole number, without the price of `fmt`.
    #[inline]
    pub(super) fn number(self, value: u64) {
        decimal(self.out, value);
    }

    /// A duration in milliseconds with three decimals, which are microseconds.
    #[inline]
    pub(super) fn millis(self, value: Duration) {
        millis(self.out, value);
    }
}

/// Appends `value` in decimal.
pub(super) fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `value` in milliseconds, `12.345`.
pub(super) fn millis(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    decimal(out, micros / 1000);
    let rest = micros % 1000;
    out.push(b'.');
    out.extend([rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}

/// Whether quotes and backslashes need a backslash of their own.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Quoted {
    /// Between quotes, by the rules of RFC 8259 §7.
    Yes,
    /// In running text.
    No,
}

/// Appends `bytes` so that they stay on one line and reach no terminal as a command: control
/// characters and line separators as JSON's escapes, what is not UTF-8 as U+FFFD.
#[inline]
pub(super) fn escape(out: &mut Vec<u8>, bytes: &[u8], quoted: Quoted) {
    if is_plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        escape_chars(out, bytes, quoted);
    }
}

fn escape_chars(out: &mut Vec<u8>, bytes: &[u8], quoted: Quoted) {
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' | '\\' if quoted == Quoted::Yes => out.extend([b'\\', char as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                _ if is_unprintable(char) => escape_code(out, char),
                _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

/// Control characters (C0, DEL, C1), and those that break a line or turn its direction and so make a
/// reader see another line than the one that was written.
fn is_unprintable(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends `\u001b`. All that [`is_unprintable`] names has at most four digits.
fn escape_code(out: &mut Vec<u8>, char: char) {
    let code = char as u32;
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| b"0123456789abcdef"[(code >> shift & 0xf) as usize]));
}

/// Escapes what is formatted through it as the inside of a JSON string.
pub(super) struct Escaping<'a>(pub(super) &'a mut Vec<u8>);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text.as_bytes(), Quoted::Yes);
        Ok(())
    }
}

/// Whether every byte stands for itself in a JSON string. Sixteen at a time, without a branch between
/// them, is what the compiler turns into vector instructions.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let all = |bytes: &[u8]| bytes.iter().fold(true, |plain, byte| plain & is_plain_byte(*byte));
    chunks.iter().all(|chunk| all(chunk)) && all(rest)
}

#[inline]
fn is_plain_byte(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\')
}

fn is_one_word(value: &[u8]) -> bool {
    !value.is_empty() && is_plain(value) && !value.iter().any(|byte| matches!(byte, b' ' | b'='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        let mut fields = Fields::begin(&mut out, LogFormat::Json);
        fields.named("a").text(bytes);
        fields.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn any_bytes_become_one_line_of_valid_json() {
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..20_000 {
            let length = random.usize(0..60);
            // Half of the rounds stay near ASCII, where escapes and plain text meet.
            let limit = if round % 2 == 0 { 0xff } else { 0x7f };
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(0..=limit)).collect();
            let line = json_of(&bytes);
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["a"], String::from_utf8_lossy(&bytes).into_owned());
            assert_eq!(line.matches('\n').count(), 1, "one line");
            assert!(!line.trim_end().chars().any(is_unprintable), "{line:?}");
        }
    }

    #[test]
    fn every_character_survives_json() {
        for char in '\0'..='\u{ffff}' {
            let text = format!("x{char}y");
            let value: serde_json::Value = serde_json::from_str(&json_of(text.as_bytes())).unwrap();
            assert_eq!(value["a"], text);
        }
    }

    #[test]
    fn text_is_quoted_only_where_it_would_be_ambiguous() {
        let table: [(&[u8], &str); 7] = [
            (b"plain/path-1", " k=plain/path-1\n"),
            (b"", " k=\"\"\n"),
            (b"two words", " k=\"two words\"\n"),
            (b"a=b", " k=\"a=b\"\n"),
            (b"say \"x\"", " k=\"say \\\"x\\\"\"\n"),
            (b"a\r\nforged", " k=\"a\\r\\nforged\"\n"),
            (b"\x1b[31m", " k=\"\\u001b[31m\"\n"),
        ];
        for (value, expected) in table {
            let mut out = Vec::new();
            let mut fields = Fields::begin(&mut out, LogFormat::Text);
            fields.key(key!("k")).text(value);
            fields.end();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn numbers_and_durations_are_exact() {
        for value in [0, 9, 10, 1234, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
        let table = [
            (0, "0.000"),
            (1, "0.001"),
            (999, "0.999"),
            (1000, "1.000"),
            (12_034_567, "12034.567"),
        ];
        for (micros, expected) in table {
            let mut out = Vec::new();
            millis(&mut out, Duration::from_micros(micros));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn the_format_follows_the_terminal_unless_asked() {
        assert_eq!(format_for(None, true), LogFormat::Text);
        assert_eq!(format_for(None, false), LogFormat::Json);
        assert_eq!(format_for(Some(LogFormat::Json), true), LogFormat::Json);
        assert_eq!(format_for(Some(LogFormat::Text), false), LogFormat::Text);
    }
}
