//! The file as written: scalars, lists and maps with their places.
//!
//! Answers "what stands where?" for the section readers, which turn it into checked types. The tree
//! never leaves `config`. It never interprets a scalar: `on`, `0x10` and `1.2` keep their text.
//!
//! # Why
//! Derived serde stops at the first fault and forgets places. We read the events of the parser that
//! `serde-saphyr` is built on, since only they carry the raw text, the quoting and the place of keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use super::diagnostic::{Diagnostics, Span, quoted};
use super::syntax;

/// A value as written.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Text, a number, a boolean: all of them are text here.
    Scalar(Scalar),
    /// `- a` or `[a]`.
    List(List),
    /// `a: b` or `{a: b}`.
    Map(Map),
}

/// A scalar as written, after escapes and `${…}` were resolved.
#[derive(Clone, Default)]
pub(super) struct Scalar {
    /// What it says.
    pub(super) text: Arc<str>,
    /// Where it stands.
    pub(super) span: Span,
    /// Whether it stands in quotes or in a block (`|`, `>`).
    pub(super) is_quoted: bool,
    /// Whether a part of it came from the environment or a file, so that it is never shown.
    pub(super) is_secret: bool,
    /// Whether a `${…}` in it could not be resolved, which has been reported.
    pub(super) is_faulty: bool,
}

/// A sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct List {
    /// In the order written.
    pub(super) items: Vec<Node>,
    /// Where it starts.
    pub(super) span: Span,
}

/// A mapping without duplicate keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Map {
    /// In the order written.
    pub(super) entries: Vec<Entry>,
    /// The key it belongs to, else where it starts.
    pub(super) span: Span,
}

/// One key of a map.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its name.
    pub(super) key: Scalar,
    /// What it is set to.
    pub(super) value: Node,
}

impl Node {
    /// Where the value starts.
    pub(super) const fn span(&self) -> Span {
        match self {
            Self::Scalar(scalar) => scalar.span,
            Self::List(list) => list.span,
            Self::Map(map) => map.span,
        }
    }

    /// What to call it in a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(scalar) if scalar.is_null() => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Scalar(_) => 1,
            Self::List(list) => 1 + list.items.iter().map(Self::size).sum::<usize>(),
            Self::Map(map) => 1 + map.entries.iter().map(|e| 1 + e.value.size()).sum::<usize>(),
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_secret { "***" } else { &self.text })
    }
}

impl Scalar {
    /// Whether nothing was written: an empty value, `~` or `null`, without quotes.
    pub(super) fn is_null(&self) -> bool {
        !self.is_quoted && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Map {
    /// Whether this is `{word}`, which was meant as a text.
    pub(super) fn is_placeholder(&self) -> bool {
        match self.entries.as_slice() {
            [Entry { value: Node::Scalar(scalar), .. }] => scalar.is_null(),
            _ => false,
        }
    }

    /// The entry called `name`.
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| &*entry.key.text == name)
    }
}

/// Longest file that is read, in bytes. 10,000 sites of ten lines each take a third of it.
pub(super) const MAX_BYTES: usize = 8 << 20;

/// Most scalars, lists and maps in one file, after aliases were replaced by what they stand for.
const MAX_NODES: usize = 1_000_000;

/// Deepest nesting; the grammar needs ten.
const MAX_DEPTH: usize = 64;

/// Reads `text` into a tree. Reports a syntax error alone, and every duplicate key, in `out`.
pub(super) fn parse(text: &str, out: &mut Diagnostics) -> Option<Node> {
    if text.len() > MAX_BYTES {
        let mib = MAX_BYTES >> 20;
        out.error(start_of_file(), format!("the file is larger than {mib} MiB"));
        return None;
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let step = match next {
            Ok((event, span)) => builder.take(event, place(&span), tag_place(&span), out),
            Err(error) => {
                syntax::report(&error, text, out);
                return None;
            }
        };
        if let Err(stopped) = step {
            out.error_hint(stopped.span, stopped.message, stopped.hint);
            return None;
        }
    }
    Some(builder.root.unwrap_or_else(|| Node::Map(Map { span: start_of_file(), ..Map::default() })))
}

/// Where a fault of the file as a whole is shown.
pub(super) const fn start_of_file() -> Span {
    Span { line: 1, column: 1, length: 1 }
}

fn place(span: &granit_parser::Span) -> Span {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let (start, end) = (&span.start, &span.end);
    let length = if start.line() == end.line() {
        end.col().saturating_sub(start.col())
    } else {
        end.index().saturating_sub(start.index())
    };
    Span { line: number(start.line()), column: number(start.col() + 1), length: number(length) }
}

/// Where the tag of a node stands.
fn tag_place(span: &granit_parser::Span) -> Span {
    span.tag_span().map_or_else(|| place(span), |tag| place(&tag))
}

/// A fault that ends the reading.
struct Stopped {
    span: Span,
    message: String,
    hint: String,
}

/// A list or map that is still open.
enum Open {
    List { list: List, anchor: usize },
    Map { map: Map, key: Option<Scalar>, seen: HashMap<Arc<str>, u32>, anchor: usize },
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    documents: usize,
}

impl Builder {
    fn take(
        &mut self,
        event: Event<'_>,
        span: Span,
        tag_span: Span,
        out: &mut Diagnostics,
    ) -> Result<(), Stopped> {
        match event {
            Event::DocumentStart(..) => self.start_document(span),
            Event::Scalar(text, style, anchor, tag) => {
                reject_tag(tag.is_some(), tag_span)?;
                let is_quoted = style != ScalarStyle::Plain;
                let scalar = Scalar { text: text.into(), span, is_quoted, ..Scalar::default() };
                self.put(Node::Scalar(scalar), anchor, 1, out)
            }
            Event::SequenceStart(_, anchor, tag) => {
                reject_tag(tag.is_some(), tag_span)?;
                let list = List { items: Vec::new(), span: Span { length: 1, ..span } };
                self.open.push(Open::List { list, anchor });
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                reject_tag(tag.is_some(), tag_span)?;
                let span = self.key_span().unwrap_or(Span { length: 1, ..span });
                let map = Map { entries: Vec::new(), span };
                self.open.push(Open::Map { map, key: None, seen: HashMap::new(), anchor });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(out),
            Event::Alias(anchor) => self.alias(anchor, span, out),
            _ => Ok(()),
        }
    }

    fn start_document(&mut self, span: Span) -> Result<(), Stopped> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        Err(Stopped {
            span: Span { length: 3, ..span },
            message: "a second document starts here".to_owned(),
            hint: "one file holds one configuration: remove \"---\"".to_owned(),
        })
    }

    /// The key whose value comes next, where the innermost open thing is a map.
    fn key_span(&self) -> Option<Span> {
        match self.open.last() {
            Some(Open::Map { key: Some(key), .. }) => Some(key.span),
            _ => None,
        }
    }

    fn close(&mut self, out: &mut Diagnostics) -> Result<(), Stopped> {
        match self.open.pop() {
            Some(Open::List { list, anchor }) => self.put(Node::List(list), anchor, 1, out),
            Some(Open::Map { map, anchor, .. }) => self.put(Node::Map(map), anchor, 1, out),
            None => Ok(()),
        }
    }

    fn alias(&mut self, anchor: usize, span: Span, out: &mut Diagnostics) -> Result<(), Stopped> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            let message = "this alias stands inside the value that it repeats".to_owned();
            return Err(Stopped { span, message, hint: String::new() });
        };
        let size = *size;
        let fits = self.nodes + size <= MAX_NODES;
        let node =
            if fits { node.clone() } else { Node::Scalar(Scalar { span, ..Scalar::default() }) };
        self.put(node, 0, size, out)
    }

    /// Puts a finished node where it belongs: into the open list or map, or at the root.
    fn put(
        &mut self,
        node: Node,
        anchor: usize,
        size: usize,
        out: &mut Diagnostics,
    ) -> Result<(), Stopped> {
        self.nodes += size;
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} values");
            let hint = "aliases count as what they stand for".to_owned();
            return Err(Stopped { span: node.span(), message, hint });
        }
        if anchor > 0 {
            let size = node.size();
            self.nodes += size;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { list, .. }) => list.items.push(node),
            Some(Open::Map { map, key, seen, .. }) => match key.take() {
                None => *key = Some(key_of(node)?),
                Some(key) => insert(map, seen, key, node, out),
            },
        }
        Ok(())
    }
}

/// Adds an entry unless its key is there already.
fn insert(
    map: &mut Map,
    seen: &mut HashMap<Arc<str>, u32>,
    key: Scalar,
    value: Node,
    out: &mut Diagnostics,
) {
    if let Some(line) = seen.get(&key.text) {
        let message = format!("{} is set twice", quoted(&key.text));
        out.error_hint(key.span, message, format!("first set at line {line}"));
        return;
    }
    seen.insert(Arc::clone(&key.text), key.span.line);
    map.entries.push(Entry { key, value });
}

fn key_of(node: Node) -> Result<Scalar, Stopped> {
    let span = node.span();
    let (message, hint) = match node {
        Node::Scalar(key) if key.is_null() => ("a key is empty", "write its name before the \":\""),
        Node::Scalar(key) if &*key.text == "<<" && !key.is_quoted => {
            ("merge keys are not supported", "repeat the keys, or alias the whole value")
        }
        Node::Scalar(key) => return Ok(key),
        Node::List(_) => {
            ("a list cannot be a key", "a key that starts with [ must stand in quotes")
        }
        Node::Map(_) => ("a map cannot be a key", "a key that starts with { must stand in quotes"),
    };
    Err(Stopped { span, message: message.to_owned(), hint: hint.to_owned() })
}

fn reject_tag(is_tagged: bool, span: Span) -> Result<(), Stopped> {
    if !is_tagged {
        return Ok(());
    }
    Err(Stopped {
        span,
        message: "YAML tags (\"!name\") are not supported".to_owned(),
        hint: "a value that starts with ! must stand in quotes".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Node, String> {
        let mut out = Diagnostics::new("f", text);
        let node = parse(text, &mut out);
        match node {
            Some(node) if !out.has_errors() => Ok(node),
            _ => Err(out.iter().map(|entry| entry.message.clone()).collect()),
        }
    }

    fn value(node: &Node, key: &str) -> Scalar {
        let Node::Map(map) = node else { panic!("no map") };
        let Some(Entry { value: Node::Scalar(scalar), .. }) = map.entry(key) else {
            panic!("no scalar {key}")
        };
        scalar.clone()
    }

    #[test]
    fn scalars_keep_the_text_they_were_written_with() {
        for text in ["on", "0x10", "1e3", "2024-01-01", "1.20", ".inf", "007", "1_000", ":443"] {
            let node = tree(&format!("a: {text}")).unwrap();
            assert_eq!(&*value(&node, "a").text, text);
        }
    }

    #[test]
    fn nothing_differs_from_an_empty_text() {
        for (text, is_null) in [("", true), ("~", true), ("null", true), ("\"\"", false)] {
            let node = tree(&format!("a: {text}")).unwrap();
            assert_eq!(value(&node, "a").is_null(), is_null, "{text}");
        }
    }

    #[test]
    fn keys_and_values_know_their_places() {
        let node = tree("a: 1\nb:\n  ключ: \"zwei\"\n").unwrap();
        let Node::Map(map) = node else { panic!("no map") };
        let Node::Map(inner) = &map.entries[1].value else { panic!("no map") };
        assert_eq!(inner.span, Span { line: 2, column: 1, length: 1 }, "the key it belongs to");
        assert_eq!(inner.entries[0].key.span, Span { line: 3, column: 3, length: 4 });
        assert_eq!(inner.entries[0].value.span(), Span { line: 3, column: 9, length: 6 });
    }

    #[test]
    fn aliases_stand_for_their_value_but_not_for_a_bomb() {
        let node = tree("a: &x 5s\nb: *x\n").unwrap();
        assert_eq!(&*value(&node, "b").text, "5s");

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert_eq!(tree(&bomb).unwrap_err(), "the file has more than 1000000 values");
    }

    #[test]
    fn what_yaml_allows_and_we_do_not_is_refused() {
        for (text, message) in [
            ("a: 1\na: 2\n", "\"a\" is set twice"),
            ("a: !x 2\n", "YAML tags (\"!name\") are not supported"),
            ("a: 1\n---\nb: 2\n", "a second document starts here"),
            ("[a]: 1\n", "a list cannot be a key"),
            ("{a: b}: 1\n", "a map cannot be a key"),
            ("~: 1\n", "a key is empty"),
            ("a: &x {b: *x}\n", "this alias stands inside the value that it repeats"),
        ] {
            assert_eq!(tree(text).unwrap_err(), message, "{text}");
        }
    }
}
