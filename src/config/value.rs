//! Scalars with units and other small values, read from their text.
//!
//! Answers "what does this scalar say?" for every section's reader. Each reader reports what it found
//! and what it wanted, and returns `None`. Never knows which key it reads for.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use regex::{Regex, RegexBuilder};

use super::diagnostic::quoted;
use super::grammar_filter::MAX_RATE;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::section::{self, Shape};
use super::tree::{Map, Node, Scalar};
use crate::net::Cidr;

/// The scalar that stands here.
pub(super) fn scalar<'n>(node: &'n Node, reading: &mut Reading) -> Option<&'n Scalar> {
    let hint = match node {
        Node::Scalar(scalar) if scalar.is_faulty => return None,
        Node::Scalar(scalar) if !scalar.is_null() => return Some(scalar),
        Node::Scalar(_) => "write a value; an empty text is \"\"",
        Node::Map(map) if map.is_placeholder() => "a text that starts with { must stand in quotes",
        Node::List(_) => "a text that starts with [ must stand in quotes",
        Node::Map(_) => "",
    };
    let message = format!("a single value is wanted here, not {}", node.kind());
    reading.error_hint(node.span(), message, hint);
    None
}

/// The map that stands here, or `off`, which is the inner `None`. `hint` says how a text that is
/// neither would be written.
#[expect(clippy::option_option, reason = "outer: whether it could be read; inner: the setting")]
pub(super) fn map_or_off<T>(
    node: &Node,
    hint: impl FnOnce(&str) -> String,
    reading: &mut Reading,
    read: impl FnOnce(&Map, &mut Reading) -> Option<T>,
) -> Option<Option<T>> {
    match node {
        Node::Scalar(scalar) if &*scalar.text == "off" => Some(None),
        Node::Scalar(scalar) if !scalar.is_null() => {
            let message = format!("{} is not \"off\"", quoted(shown(scalar)));
            reading.wrong(scalar, message, hint(&scalar.text));
            None
        }
        _ => map(node, reading, read).map(Some),
    }
}

/// The map that stands here; nothing at all is an empty map.
pub(super) fn map<T>(
    node: &Node,
    reading: &mut Reading,
    read: impl FnOnce(&Map, &mut Reading) -> Option<T>,
) -> Option<T> {
    match node {
        Node::Map(map) => read(map, reading),
        Node::Scalar(scalar) if scalar.is_null() => {
            read(&Map { span: scalar.span, ..Map::default() }, reading)
        }
        _ => {
            let message = format!("a map of keys is wanted here, not {}", node.kind());
            reading.error(node.span(), message);
            None
        }
    }
}

/// The map that stands here, where operators are tempted to write the value of its `main` key alone.
pub(super) fn map_with<T>(
    node: &Node,
    main: &str,
    reading: &mut Reading,
    read: impl FnOnce(&Map, &mut Reading) -> Option<T>,
) -> Option<T> {
    let value = match node {
        Node::Scalar(scalar) if scalar.is_faulty => return None,
        Node::Scalar(scalar) if !scalar.is_null() && !scalar.is_secret => {
            if scalar.is_quoted {
                quoted(&scalar.text)
            } else {
                scalar.text.to_string()
            }
        }
        Node::List(_) => "…".to_owned(),
        _ => return map(node, reading, read),
    };
    let message = format!("a map of keys is wanted here, not {}", node.kind());
    reading.error_hint(node.span(), message, format!("write {{ {main}: {value} }}"));
    None
}

/// Any text.
pub(super) fn text(node: &Node, reading: &mut Reading) -> Option<String> {
    scalar(node, reading).map(|scalar| scalar.text.to_string())
}

/// A duration above zero, such as `30s`.
pub(super) fn duration(node: &Node, reading: &mut Reading) -> Option<Duration> {
    let duration = pause(node, reading)?;
    if duration.is_zero() {
        reading.error(node.span(), "a duration above zero is wanted here");
        return None;
    }
    Some(duration)
}

/// A duration that may be zero.
pub(super) fn pause(node: &Node, reading: &mut Reading) -> Option<Duration> {
    let scalar = scalar(node, reading)?;
    let (digits, unit) = split_unit(&scalar.text);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(millis)) {
        Some(total) if millis > 0 && total <= LONGEST.as_millis() as u64 => {
            return Some(Duration::from_millis(total));
        }
        Some(_) if millis > 0 => {
            reading.wrong(scalar, "a duration is at most 3650d", "");
            return None;
        }
        Some(_) if unit.is_empty() => {
            let message = format!("{} has no unit", quoted(shown(scalar)));
            reading.wrong(scalar, message, format!("write \"{digits}s\""));
            return None;
        }
        _ => {}
    }
    let message = format!("{} is not a duration", quoted(shown(scalar)));
    let hint = match scalar.text.split_once(' ') {
        Some((number, unit)) if matches!(unit, "ms" | "s" | "m" | "h" | "d") => {
            format!("write \"{number}{unit}\"")
        }
        _ => "a whole number and ms, s, m, h or d, such as \"30s\"".to_owned(),
    };
    reading.wrong(scalar, message, hint);
    None
}

/// Ten years, so that adding a duration to a clock cannot overflow.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// A number of bytes above zero, such as `64KiB`, of memory that one client can take.
pub(super) fn size(node: &Node, reading: &mut Reading) -> Option<usize> {
    let most = Most { bytes: 1 << 30, name: "1GiB", words: "" };
    usize::try_from(bytes(node, most, reading)?).ok()
}

/// The largest size that may stand somewhere.
#[derive(Clone, Copy)]
pub(super) struct Most {
    /// In bytes.
    pub(super) bytes: u64,
    /// As it is written.
    pub(super) name: &'static str,
    /// What may stand there instead: empty, or `auto, off, or `.
    pub(super) words: &'static str,
}

/// A number of bytes above zero and up to `most`.
pub(super) fn bytes(node: &Node, most: Most, reading: &mut Reading) -> Option<u64> {
    let scalar = scalar(node, reading)?;
    let (digits, unit) = split_unit(&scalar.text);
    let unit_bytes = bytes_of(unit);
    let number = digits.parse::<u64>().ok();
    match number.and_then(|number| number.checked_mul(unit_bytes)) {
        Some(total) if total > 0 && total <= most.bytes => return Some(total),
        Some(_) if unit_bytes > 0 => {
            let message = format!("a size is between 1B and {} here", most.name);
            reading.wrong(scalar, message, most.words.trim_end_matches(", or "));
            return None;
        }
        _ => {}
    }
    let (message, hint) = match number {
        Some(number) if unit.is_empty() => {
            let spelling = match number {
                _ if number > 0 && number.is_multiple_of(1 << 20) => {
                    format!("{}MiB", number >> 20)
                }
                _ if number > 0 && number.is_multiple_of(1 << 10) => {
                    format!("{}KiB", number >> 10)
                }
                _ => format!("{number}B"),
            };
            ("has no unit", format!("{}write \"{spelling}\"", most.words))
        }
        _ => {
            let size = "a whole number and B, KiB, MiB, GiB, KB, MB or GB, such as \"64KiB\"";
            ("is not a size", format!("{}{size}", most.words))
        }
    };
    reading.wrong(scalar, format!("{} {message}", quoted(shown(scalar))), hint);
    None
}

/// How many bytes a unit of sizes is; 0 for a word that is none.
fn bytes_of(unit: &str) -> u64 {
    match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => 0,
    }
}

/// Bytes a second, above zero and at most 1 GiB, such as `240B/s`.
pub(super) fn speed(node: &Node, reading: &mut Reading) -> Option<u64> {
    let scalar = scalar(node, reading)?;
    let (digits, rest) = split_unit(&scalar.text);
    let unit = rest.strip_suffix("/s");
    let number = digits.parse::<u64>().ok();
    let total = number.and_then(|number| number.checked_mul(bytes_of(unit.unwrap_or_default())));
    match total {
        Some(total @ 1..=0x4000_0000) => return Some(total),
        Some(_) if unit.is_some_and(|unit| bytes_of(unit) > 0) => {
            reading.wrong(scalar, "a speed is between 1B/s and 1GiB/s here", "");
            return None;
        }
        _ => {}
    }
    let hint = match number {
        Some(1..) if rest.is_empty() || rest == "/s" => format!("write \"{digits}B/s\""),
        Some(1..) if bytes_of(rest) > 0 => format!("write \"{digits}{rest}/s\""),
        _ => "a size per second, such as \"240B/s\" or \"1KiB/s\"".to_owned(),
    };
    reading.wrong(scalar, format!("{} is not a speed", quoted(shown(scalar))), hint);
    None
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], &text[end..])
}

/// A percentage from 0% to 100%.
pub(super) fn percent(node: &Node, reading: &mut Reading) -> Option<u32> {
    let scalar = scalar(node, reading)?;
    let (digits, unit) = split_unit(&scalar.text);
    match digits.parse::<u32>() {
        Ok(percent @ 0..=100) if unit == "%" => return Some(percent),
        Ok(percent @ 0..=100) if unit.trim() == "%" || unit.is_empty() => {
            let message = format!("{} is not a percentage", quoted(shown(scalar)));
            reading.wrong(scalar, message, format!("write \"{percent}%\""));
        }
        _ => {
            let message = format!("{} is not a percentage", quoted(shown(scalar)));
            reading.wrong(scalar, message, "a whole number from 0% to 100%");
        }
    }
    None
}

/// A number of events and the time in which they may happen, such as `100/min`.
pub(super) fn rate(node: &Node, reading: &mut Reading) -> Option<(u32, Duration)> {
    let scalar = scalar(node, reading)?;
    let (digits, unit) = split_unit(&scalar.text);
    let period = |unit: &str| match unit {
        "s" => Some(1),
        "min" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let number = digits.parse::<u32>().ok().filter(|rate| u64::from(*rate) <= MAX_RATE);
    if let (Some(rate @ 1..), Some(seconds)) = (number, unit.strip_prefix('/').and_then(period)) {
        return Some((rate, Duration::from_secs(seconds)));
    }
    let message = format!("{} is not a rate", quoted(shown(scalar)));
    let meant = match unit.trim_start_matches([' ', '/']).trim() {
        "" | "s" | "sec" | "second" | "seconds" | "rps" => Some("s"),
        "m" | "min" | "minute" | "minutes" | "rpm" => Some("min"),
        "h" | "hour" | "hours" => Some("h"),
        _ => None,
    };
    let hint = match (number, meant) {
        (Some(0), Some(_)) => "at least 1; `access` refuses everybody".to_owned(),
        (None, _) if !digits.is_empty() => format!("at most {MAX_RATE}"),
        (Some(rate), Some(unit)) => format!("write \"{rate}/{unit}\""),
        _ => "a whole number per s, min or h, such as \"100/min\"".to_owned(),
    };
    reading.wrong(scalar, message, hint);
    None
}

/// An address block such as `10.0.0.0/8`, or one address.
pub(super) fn block(node: &Node, reading: &mut Reading) -> Option<Cidr> {
    let scalar = scalar(node, reading)?;
    match Cidr::parse(&scalar.text) {
        Ok(block) => Some(block),
        Err(error) => {
            reading.wrong(scalar, error.to_string(), "such as 10.0.0.0/8 or fd00::/8");
            None
        }
    }
}

/// A whole number.
pub(super) fn count(node: &Node, min: u64, max: u64, reading: &mut Reading) -> Option<u64> {
    let scalar = scalar(node, reading)?;
    let is_decimal = scalar.text.bytes().all(|byte| byte.is_ascii_digit());
    match scalar.text.parse::<u64>() {
        Ok(number) if is_decimal && (min..=max).contains(&number) => return Some(number),
        _ => {}
    }
    let message = format!("{} is not a whole number from {min} to {max}", quoted(shown(scalar)));
    reading.wrong(scalar, message, "");
    None
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node, reading: &mut Reading) -> Option<bool> {
    let scalar = scalar(node, reading)?;
    let hint = match &*scalar.text {
        "true" => return Some(true),
        "false" => return Some(false),
        text if matches!(text.to_ascii_lowercase().as_str(), "yes" | "on" | "y" | "true") => {
            "write \"true\""
        }
        text if matches!(text.to_ascii_lowercase().as_str(), "no" | "off" | "n" | "false") => {
            "write \"false\""
        }
        _ => "",
    };
    let message = format!("{} is neither true nor false", quoted(shown(scalar)));
    reading.wrong(scalar, message, hint);
    None
}

/// One of the words of `shape`.
pub(super) fn choice<T: Copy>(
    node: &Node,
    shape: &'static Shape,
    words: &[(&'static str, T)],
    reading: &mut Reading,
) -> Option<T> {
    let (now, later) = choices_of(shape);
    debug_assert!(
        words.len() == now.len() && words.iter().all(|(word, _)| now.contains(word)),
        "the words of {shape:?} are not those of its reader"
    );
    if let Node::Map(map) = node
        && let [entry] = map.entries.as_slice()
        && later.contains(&&*entry.key.text)
    {
        reading.not_yet(entry.key.span, &entry.key.text);
        return None;
    }
    let scalar = scalar(node, reading)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| **word == *scalar.text) {
        return Some(*value);
    }
    if later.contains(&&*scalar.text) {
        reading.not_yet(scalar.span, &scalar.text);
        return None;
    }
    let known = now.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ");
    let message = format!("{} is not one of {known}", quoted(shown(scalar)));
    let hint = nearest(&scalar.text, now.iter().copied());
    let hint = hint.map(|near| format!("did you mean {}?", quoted(near))).unwrap_or_default();
    reading.wrong(scalar, message, hint);
    None
}

/// The words of a choice, also where the choice is one of several shapes.
fn choices_of(shape: &'static Shape) -> (&'static [&'static str], &'static [&'static str]) {
    match shape {
        Shape::Choice(now, later) => (now, later),
        Shape::Any(shapes) => {
            shapes.iter().map(choices_of).find(|(now, _)| !now.is_empty()).unwrap_or((&[], &[]))
        }
        _ => (&[], &[]),
    }
}

/// A path; a relative one starts at the directory of the file that names it.
pub(super) fn path(node: &Node, reading: &mut Reading) -> Option<PathBuf> {
    let scalar = scalar(node, reading)?;
    if scalar.text.is_empty() || scalar.text.contains('\0') {
        reading.wrong(scalar, "this path is empty or contains a NUL", "");
        return None;
    }
    Some(reading.base.join(&*scalar.text))
}

/// A request method (RFC 9110 §9.1): upper-case, since methods are case-sensitive.
pub(super) fn method(node: &Node, reading: &mut Reading) -> Option<Method> {
    let scalar = scalar(node, reading)?;
    let upper = scalar.text.to_ascii_uppercase();
    if &*scalar.text == "*" {
        let message = "\"*\" is not a method";
        reading.wrong(scalar, message, "remove \"method\" to match every method");
        return None;
    }
    match Method::from_bytes(upper.as_bytes()) {
        Ok(method) if upper == *scalar.text => Some(method),
        Ok(_) => {
            let message = format!("{} is not in upper case", quoted(shown(scalar)));
            reading.wrong(scalar, message, format!("write {}", quoted(&upper)));
            None
        }
        Err(_) => {
            reading.wrong(scalar, format!("{} is not a method", quoted(shown(scalar))), "");
            None
        }
    }
}

/// A regular expression whose compiled form is small.
pub(super) fn regex(node: &Node, reading: &mut Reading) -> Option<Regex> {
    let scalar = scalar(node, reading)?;
    let too_large = "this regular expression is too large";
    if scalar.text.len() > 4096 {
        reading.wrong(scalar, too_large, "at most 4096 bytes");
        return None;
    }
    let mut builder = RegexBuilder::new(&scalar.text);
    match builder.size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build() {
        Ok(regex) => Some(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            reading.wrong(scalar, too_large, "lower its repetition counts");
            None
        }
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let message = "this is not a regular expression";
            reading.wrong(scalar, message, reason);
            None
        }
    }
}

/// Largest compiled regular expression. Ten times what a long alternation of words takes.
const REGEX_BYTES: usize = 1 << 20;

/// What could stand where a required key of this shape is missing.
pub(super) fn example(shape: &Shape) -> String {
    use section::Scalar as S;
    match shape {
        Shape::One(S::Address) => "\":443\"".to_owned(),
        Shape::One(S::Url) => "http://127.0.0.1:9000".to_owned(),
        Shape::One(S::Template) => "\"https://{host}{uri}\"".to_owned(),
        Shape::One(S::Rate) => "100/min".to_owned(),
        Shape::One(S::Size) => "10MiB".to_owned(),
        Shape::One(_) => String::new(),
        Shape::Choice(words, _) => words.last().map_or_else(String::new, |word| (*word).to_owned()),
        Shape::List(shape) => example(shape),
        Shape::Any(shapes) => shapes.first().map(example).unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Diagnostics;

    /// What `read` makes of a plain scalar; the error is message and hint.
    fn outcome<T>(
        text: &str,
        read: impl Fn(&Node, &mut Reading) -> Option<T>,
    ) -> Result<T, (String, String)> {
        let mut reading = Reading::new(Diagnostics::new("f", text), PathBuf::from("/base"));
        let node = Node::Scalar(Scalar { text: text.into(), ..Scalar::default() });
        read(&node, &mut reading).ok_or_else(|| {
            let fault = reading.faults.iter().next().expect("a refusal is reported").clone();
            (fault.message, fault.hint)
        })
    }

    #[test]
    fn durations_have_a_unit_and_are_whole() {
        for (text, millis) in [
            ("1ms", 1),
            ("500ms", 500),
            ("5s", 5_000),
            ("2m", 120_000),
            ("24h", 86_400_000),
            ("30d", 2_592_000_000),
            ("007s", 7_000),
        ] {
            assert_eq!(outcome(text, duration), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(outcome("0s", pause), Ok(Duration::ZERO));
        for text in ["", "s", "0s", "1.5s", "-1s", "1w", "1S", "5 s", "0x10s", "3651d", "１s"] {
            assert!(outcome(text, duration).is_err(), "{text}");
        }
        let huge = "99999999999999999999s";
        assert!(outcome(huge, duration).is_err());
        assert_eq!(outcome("30", duration).unwrap_err().1, "write \"30s\"");
        assert_eq!(outcome("5 s", duration).unwrap_err().1, "write \"5s\"");
    }

    #[test]
    fn sizes_have_a_unit_and_a_bare_number_is_spelled_out() {
        for (text, bytes) in
            [("1B", 1), ("64KiB", 65_536), ("1MB", 1_000_000), ("2kB", 2_000), ("1GiB", 1 << 30)]
        {
            assert_eq!(outcome(text, size), Ok(bytes), "{text}");
        }
        for (text, hint) in [
            ("65536", "write \"64KiB\""),
            ("1000", "write \"1000B\""),
            ("2097152", "write \"2MiB\""),
            ("0", "write \"0B\""),
        ] {
            assert_eq!(outcome(text, size).unwrap_err().1, hint);
        }
        for text in ["", "KiB", "0B", "2GiB", "1.5MiB", "1 KiB", "1Kib", "18446744073709551616B"] {
            assert!(outcome(text, size).is_err(), "{text}");
        }
    }

    #[test]
    fn speeds_are_sizes_per_second() {
        for (text, wanted) in [("240B/s", 240), ("1KiB/s", 1024), ("1GiB/s", 1 << 30)] {
            assert_eq!(outcome(text, speed), Ok(wanted), "{text}");
        }
        for (text, hint) in [
            ("240", "write \"240B/s\""),
            ("240/s", "write \"240B/s\""),
            ("1KiB", "write \"1KiB/s\""),
            ("2GiB/s", ""),
            ("0B/s", ""),
            ("1kbit/s", "a size per second, such as \"240B/s\" or \"1KiB/s\""),
        ] {
            assert_eq!(outcome(text, speed).unwrap_err().1, hint, "{text}");
        }
    }

    #[test]
    fn rates_are_whole_and_have_a_period() {
        for (text, wanted) in [("100/s", (100, 1)), ("1/min", (1, 60)), ("5000/h", (5000, 3600))] {
            let wanted = (wanted.0, Duration::from_secs(wanted.1));
            assert_eq!(outcome(text, rate), Ok(wanted), "{text}");
        }
        for (text, hint) in [
            ("100", "write \"100/s\""),
            ("100/sec", "write \"100/s\""),
            ("100 / min", "write \"100/min\""),
            ("100/m", "write \"100/min\""),
            ("100/d", "a whole number per s, min or h, such as \"100/min\""),
            ("0.5/s", "a whole number per s, min or h, such as \"100/min\""),
            ("0/s", "at least 1; `access` refuses everybody"),
            ("99999999999/s", "at most 1000000000"),
        ] {
            assert_eq!(outcome(text, rate).unwrap_err().1, hint, "{text}");
        }
    }

    #[test]
    fn percentages_have_their_sign_and_end_at_a_hundred() {
        for (text, wanted) in [("0%", 0), ("20%", 20), ("100%", 100)] {
            assert_eq!(outcome(text, percent), Ok(wanted), "{text}");
        }
        for (text, hint) in [
            ("20", "write \"20%\""),
            ("20 %", "write \"20%\""),
            ("101%", "a whole number from 0% to 100%"),
            ("0.2", "a whole number from 0% to 100%"),
        ] {
            assert_eq!(outcome(text, percent).unwrap_err().1, hint, "{text}");
        }
    }

    #[test]
    fn counts_are_decimal_and_in_range() {
        let read = |node: &Node, reading: &mut Reading| count(node, 1, 100, reading);
        for (text, number) in [("1", 1), ("100", 100), ("010", 10)] {
            assert_eq!(outcome(text, read), Ok(number), "{text}");
        }
        for text in ["0", "101", "+5", "-1", "1e1", "0x1", "1_0", "", "five"] {
            assert!(outcome(text, read).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_two_words() {
        assert_eq!(outcome("true", boolean), Ok(true));
        assert_eq!(outcome("false", boolean), Ok(false));
        for (text, hint) in [("yes", "write \"true\""), ("Off", "write \"false\""), ("1", "")] {
            assert_eq!(outcome(text, boolean).unwrap_err().1, hint, "{text}");
        }
    }

    #[test]
    fn paths_start_at_the_directory_of_their_file() {
        assert_eq!(outcome("a/b", path), Ok(PathBuf::from("/base/a/b")));
        assert_eq!(outcome("/a", path), Ok(PathBuf::from("/a")));
        assert!(outcome("", path).is_err());
    }

    #[test]
    fn a_value_from_a_reference_is_never_repeated() {
        for read in [
            |node: &Node, reading: &mut Reading| duration(node, reading).map(drop),
            |node: &Node, reading: &mut Reading| size(node, reading).map(drop),
            |node: &Node, reading: &mut Reading| boolean(node, reading).map(drop),
            |node: &Node, reading: &mut Reading| method(node, reading).map(drop),
            |node: &Node, reading: &mut Reading| regex(node, reading).map(drop),
            |node: &Node, reading: &mut Reading| {
                crate::config::listener::BindAddress::read(node, reading).map(drop)
            },
            |node: &Node, reading: &mut Reading| {
                crate::config::upstream::read_target(node, reading).map(drop)
            },
            |node: &Node, reading: &mut Reading| {
                crate::config::template::read_location(node, reading).map(drop)
            },
            |node: &Node, reading: &mut Reading| {
                crate::config::site::read_pattern(node, reading).map(drop)
            },
        ] {
            for text in
                ["hunter2*(", "hunter2://x", "hunter2:80", "{hunter2}", "http://u:hunter2@a"]
            {
                let mut reading = Reading::new(Diagnostics::new("f", "x"), PathBuf::new());
                let is_secret = true;
                let scalar = Scalar { text: text.into(), is_secret, ..Scalar::default() };
                if read(&Node::Scalar(scalar), &mut reading).is_none() {
                    let shown = reading.faults.to_string();
                    assert!(!shown.contains("hunter2") && !shown.is_empty(), "{shown}");
                }
            }
        }
    }
}
