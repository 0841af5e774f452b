//! The configuration in force, with every default written out, as YAML.
//!
//! Answers "what does the gateway run with?" for `wardgate config` and the admin interface. What came
//! from the environment or a file, or is a secret, shows as `***`. Everything else loads again to the same
//! configuration, in the same directory. Never reads a file.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::Diagnostics;
use super::compress::COMPRESSIBLE;
use super::filter::Coding;
use super::grammar::{LISTENER, ROOT, SITE};
use super::grammar_filter::{COMPRESS, RATE_LIMIT};
use super::grammar_upstream::RETRY;
use super::health::IDEMPOTENT;
use super::load::{Loaded, STANDARD_LISTENERS, default_storage};
use super::section::{self, Absent, Key, Section, Shape};
use super::storage;
use super::tree::{self, Map, Node, Scalar};

/// The effective configuration as a YAML document.
#[must_use]
pub fn yaml(loaded: &Loaded) -> String {
    let view = View { loaded };
    let empty = Map::default();
    let map = match &loaded.written.tree {
        Node::Map(map) => map,
        _ => &empty,
    };
    serde_yaml::to_string(&view.section(&ROOT, map)).unwrap_or_default()
}

struct View<'l> {
    loaded: &'l Loaded,
}

impl View<'_> {
    fn section(&self, section: &'static Section, map: &Map) -> Value {
        let mut mapping = Mapping::new();
        for key in section.supported() {
            let value = match map.entry(key.name) {
                Some(entry) => Some(self.value(&key.shape, &entry.value)),
                None => self.absent(section, key, map),
            };
            if let Some(value) = value {
                mapping.insert(key.name.into(), value);
            }
        }
        Value::Mapping(mapping)
    }

    fn absent(&self, section: &'static Section, key: &'static Key, map: &Map) -> Option<Value> {
        let is_about_tls =
            std::ptr::eq(section, &SITE) && matches!(key.name, "certificate" | "https");
        match key.default {
            // Written on a site without an https listener, these would be warned about.
            Absent::Text(_) if is_about_tls && !self.is_on_https(map) => None,
            // Files that are never replaced leave no older ones.
            Absent::Text(_) if key.name == "keep" && map.entry("rotate").is_none() => None,
            Absent::Text(text) => Some(plain(text)),
            // An http listener has no TLS settings, and a plain pool has none either.
            Absent::Defaults if key.name == "tls" && !speaks_tls(section, map) => None,
            // A check that only connects expects no answer.
            Absent::Defaults if key.name == "expect" && map.entry("tcp").is_some() => None,
            Absent::Defaults => {
                let value = self.value(&key.shape, &Node::Map(Map::default()));
                let says_something = value.as_mapping().is_none_or(|mapping| !mapping.is_empty());
                says_something.then_some(value)
            }
            Absent::Required | Absent::Nothing => self.derived(section, key, map),
        }
    }

    /// The default of a key that no single text can state.
    fn derived(&self, section: &'static Section, key: &'static Key, map: &Map) -> Option<Value> {
        let config = &self.loaded.config;
        let is_in = |other: &Section| std::ptr::eq(section, other);
        match key.name {
            "listeners" if is_in(&ROOT) => {
                let mut out = Diagnostics::new("", "");
                let standard = tree::parse(STANDARD_LISTENERS, &mut out)?;
                Some(self.value(&key.shape, &standard))
            }
            "listeners" if is_in(&SITE) => {
                let names = config.listeners.iter().map(|listener| text(&listener.name));
                Some(Value::Sequence(names.collect()))
            }
            "storage" => {
                let base = &self.loaded.written.base;
                let storage = default_storage(base);
                let shown = match storage.strip_prefix(base) {
                    Ok(inside) if inside.as_os_str().is_empty() => Path::new("."),
                    Ok(inside) => inside,
                    Err(_) => &storage,
                };
                Some(text(&shown.display().to_string()))
            }
            "alpn" if is_in(&LISTENER) => {
                let names: &[&str] =
                    if speaks_tls(section, map) { &["h2", "http/1.1"] } else { &["http/1.1"] };
                Some(Value::Sequence(names.iter().map(|name| plain(name)).collect()))
            }
            "methods" if is_in(&RETRY) => {
                Some(Value::Sequence(IDEMPOTENT.iter().map(|name| plain(name.as_str())).collect()))
            }
            "codings" if is_in(&COMPRESS) => {
                Some(Value::Sequence(Coding::WORDS.iter().map(|(name, _)| plain(name)).collect()))
            }
            "types" if is_in(&COMPRESS) => {
                Some(Value::Sequence(COMPRESSIBLE.iter().map(|name| plain(name)).collect()))
            }
            "burst" if is_in(&RATE_LIMIT) => match &map.entry("rate")?.value {
                Node::Scalar(rate) if !rate.is_secret => {
                    Some(rate.text.split('/').next()?.parse::<u64>().ok()?.into())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a site has an https listener.
    fn is_on_https(&self, site: &Map) -> bool {
        let names = |name: &str| match site.entry("listeners").map(|entry| &entry.value) {
            None => true,
            Some(Node::List(list)) => {
                let is_it =
                    |item: &Node| matches!(item, Node::Scalar(found) if *found.text == *name);
                list.items.iter().any(is_it)
            }
            Some(Node::Scalar(found)) => *found.text == *name,
            Some(Node::Map(_)) => false,
        };
        let mut listeners = self.loaded.config.listeners.iter();
        listeners.any(|listener| listener.is_https() && names(&listener.name))
    }

    fn value(&self, shape: &'static Shape, node: &Node) -> Value {
        match (shape, node) {
            (Shape::List(item), Node::List(list)) => {
                Value::Sequence(list.items.iter().map(|node| self.value(item, node)).collect())
            }
            (Shape::List(item), node) => self.value(item, node),
            (Shape::Any(shapes), Node::Map(_)) => {
                let takes_a_map = |shape: &&Shape| matches!(shape, Shape::Section(_));
                let inner = shapes.iter().find(takes_a_map);
                inner.map_or(Value::Null, |shape| self.value(shape, node))
            }
            (Shape::Any(shapes), Node::List(_)) => {
                let inner = shapes.iter().find(|shape| matches!(shape, Shape::List(_)));
                inner.map_or(Value::Null, |shape| self.value(shape, node))
            }
            (Shape::Any(shapes), Node::Scalar(scalar)) if scalar.is_null() => {
                let inner = shapes.iter().find(|shape| matches!(shape, Shape::Section(_)));
                inner.map_or(Value::Null, |shape| self.value(shape, node))
            }
            (Shape::Section(section), Node::Map(map)) => self.section(section, map),
            (Shape::Section(section), _) => self.section(section, &Map::default()),
            (Shape::Named(section), Node::Map(map)) => named(map, |node| match node {
                Node::Map(map) => self.section(section, map),
                _ => self.section(section, &Map::default()),
            }),
            (Shape::Values(shape), Node::Map(map)) => named(map, |node| self.value(shape, node)),
            (Shape::Named(_) | Shape::Values(_), _) => Value::Mapping(Mapping::new()),
            (Shape::One(section::Scalar::Secret), Node::Scalar(_)) => Value::from("***"),
            (Shape::One(section::Scalar::Storage), Node::Scalar(found)) if !found.is_secret => {
                text(&storage::masked(&found.text))
            }
            (_, Node::Scalar(found)) => scalar(found),
            _ => Value::Null,
        }
    }
}

/// Whether a listener or a pool has TLS to configure.
fn speaks_tls(section: &Section, map: &Map) -> bool {
    fn has_https(node: &Node) -> bool {
        match node {
            Node::Scalar(scalar) => scalar.text.to_ascii_lowercase().starts_with("https"),
            Node::List(list) => list.items.iter().any(has_https),
            Node::Map(map) => map.entry("url").is_some_and(|entry| has_https(&entry.value)),
        }
    }
    let key = if std::ptr::eq(section, &LISTENER) { "protocol" } else { "servers" };
    map.entry(key).is_some_and(|entry| has_https(&entry.value))
}

fn named(map: &Map, value: impl Fn(&Node) -> Value) -> Value {
    let entry = |entry: &tree::Entry| (Value::from(&*entry.key.text), value(&entry.value));
    Value::Mapping(map.entries.iter().map(entry).collect())
}

fn scalar(scalar: &Scalar) -> Value {
    match scalar.text.parse::<u64>() {
        _ if scalar.is_secret => Value::from("***"),
        Ok(number) if !scalar.is_quoted && number.to_string() == *scalar.text => number.into(),
        _ => text(&scalar.text),
    }
}

/// A default of the tables: a number where it reads as one, as an operator would write it.
fn plain(text: &str) -> Value {
    match text.parse::<u64>() {
        Ok(number) if number.to_string() == text => number.into(),
        _ => Value::from(text),
    }
}

/// A text that says the same after `$$` was read as a dollar and `${…}` as a reference.
fn text(text: &str) -> Value {
    let mut escaped = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        escaped.push(char);
        if char == '$' && matches!(chars.peek(), Some('$' | '{')) {
            escaped.push('$');
        }
    }
    Value::from(escaped)
}
