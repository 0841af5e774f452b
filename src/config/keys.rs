//! The keys of one map, taken one by one as its section allows.
//!
//! Answers "what is this key set to, and is anything left that nobody knows?". Used by every
//! section's reader. Never accepts a key that its table does not have, and never a reader that leaves
//! a key of its table unread: what is accepted is honoured.

use super::diagnostic::{Span, quoted};
use super::grammar_filter::FILTER;
use super::nearest::nearest;
use super::reading::{Reading, shown};
use super::section::{Absent, Key, Section, Shape};
use super::tree::{Entry, Map, Node, Scalar};
use super::value;

/// The keys of one map, under its section's description.
pub(super) struct Keys<'m, 'r> {
    map: &'m Map,
    section: &'static Section,
    /// Where faults go.
    pub(super) reading: &'r mut Reading,
    asked: Vec<&'static str>,
}

impl Map {
    /// Starts reading this map as `section`.
    pub(super) fn keys<'m, 'r>(
        &'m self,
        section: &'static Section,
        reading: &'r mut Reading,
    ) -> Keys<'m, 'r> {
        Keys { map: self, section, reading, asked: Vec::new() }
    }
}

impl<'m> Keys<'m, '_> {
    /// What `name` is set to, read by `read`; its default, where the section has one.
    ///
    /// `None` is absent without a default, or a fault that has been reported.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Node, &mut Reading) -> Option<T>,
    ) -> Option<T> {
        let key = self.ask(name)?;
        if let Some(entry) = self.map.entry(name) {
            return self.is_written(key, entry).then(|| read(&entry.value, self.reading)).flatten();
        }
        let span = self.map.span;
        match key.default {
            Absent::Nothing => None,
            Absent::Defaults => read(&Node::Map(Map { span, ..Map::default() }), self.reading),
            Absent::Text(text) => {
                let text = text.into();
                let scalar = Scalar { text, span, is_quoted: true, ..Scalar::default() };
                read(&Node::Scalar(scalar), self.reading)
            }
            Absent::Required if self.is_misspelt(name) => None,
            Absent::Required => {
                let example = value::example(&key.shape);
                let hint = if example.is_empty() {
                    String::new()
                } else {
                    format!("add `{name}: {example}`")
                };
                self.reading.error_hint(span, format!("{} is missing", quoted(name)), hint);
                None
            }
        }
    }

    /// The section that `name` holds; its defaults where it is absent and has some.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Map, &mut Reading) -> Option<T>,
    ) -> Option<T> {
        self.read(name, |node, reading| value::map(node, reading, read))
    }

    /// The values of a list, or of the single value that stands for a list of one. Faulty ones are
    /// reported and left out; an absent key is an empty list.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&Node, &mut Reading) -> Option<T>,
    ) -> Vec<T> {
        let all = self.read(name, |node, reading| {
            let mut read = |node: &Node, reading: &mut Reading| match node {
                Node::Scalar(scalar) if scalar.is_faulty => None,
                _ => read(node, reading),
            };
            let Node::List(list) = node else { return Some(vec![read(node, reading)?]) };
            if list.items.is_empty() {
                reading.error(list.span, format!("{} is an empty list", quoted(name)));
            }
            Some(list.items.iter().filter_map(|item| read(item, reading)).collect())
        });
        all.unwrap_or_default()
    }

    /// A whole number in the range that the section gives.
    pub(super) fn count<T: TryFrom<u64>>(&mut self, name: &'static str) -> Option<T> {
        let Some(Shape::Count(min, max)) = self.section.key(name).map(|key| &key.shape) else {
            debug_assert!(false, "{name} is no count");
            return None;
        };
        let number = self.read(name, |node, reading| value::count(node, *min, *max, reading))?;
        T::try_from(number).ok()
    }

    /// One of the words that the section gives, as the type they stand for.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let shape = &self.section.key(name)?.shape;
        self.read(name, |node, reading| value::choice(node, shape, words, reading))
    }

    /// Words of a list, as the type they stand for.
    pub(super) fn choices<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
    ) -> Vec<T> {
        let Some(Shape::List(shape)) = self.section.key(name).map(|key| &key.shape) else {
            debug_assert!(false, "{name} is no list");
            return Vec::new();
        };
        self.list(name, |node, reading| value::choice(node, shape, words, reading))
    }

    /// The place of the key called `name`, if it is written.
    pub(super) fn span_of(&self, name: &str) -> Option<Span> {
        self.map.entry(name).map(|entry| entry.key.span)
    }

    /// Whether an unknown key is probably meant to be `name`: then that is the fault.
    pub(super) fn is_misspelt(&self, name: &str) -> bool {
        let unknown = |entry: &&Entry| self.section.key(&entry.key.text).is_none();
        let known = || self.section.keys.iter().map(|key| key.name);
        let mut unknown = self.map.entries.iter().filter(unknown).take(HINTED);
        unknown.any(|entry| nearest(&entry.key.text, known()) == Some(name))
    }

    /// Reports every key that the section does not have or does not support yet, and a choice of
    /// which not exactly one was made.
    pub(super) fn finish(mut self) {
        let asked = |key: &Key| self.asked.contains(&key.name);
        debug_assert!(self.section.supported().all(asked), "{:?} is not read whole", self.section);
        self.check_one_of();
        for entry in &self.map.entries {
            match self.section.key(&entry.key.text) {
                None => unknown(entry, self.map, self.section, self.reading),
                Some(key) if matches!(key.shape, Shape::Later) => {
                    self.reading.not_yet(entry.key.span, key.name);
                }
                Some(_) => {}
            }
        }
    }

    fn check_one_of(&mut self) {
        let names = self.section.one_of;
        let written: Vec<&Entry> =
            self.map.entries.iter().filter(|entry| names.contains(&&*entry.key.text)).collect();
        // What is not supported yet may have been the choice, and is reported as such.
        let is_later = |entry: &Entry| {
            let key = self.section.key(&entry.key.text);
            key.is_some_and(|key| matches!(key.shape, Shape::Later))
        };
        let is_filter = std::ptr::eq(self.section, &FILTER);
        let all = || names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        match written.as_slice() {
            [] if names.is_empty() || names.iter().any(|name| self.is_misspelt(name)) => {}
            [] if self.map.entries.iter().any(is_later) => {}
            // An unknown key was meant as the filter, and is reported as such.
            [] if is_filter && !self.map.entries.is_empty() => {}
            [] => {
                let message = format!("one of {} is missing", all());
                self.reading.error(self.map.span, message);
            }
            [_] => {}
            [first, rest @ ..] => {
                for entry in rest {
                    let message = format!(
                        "{} cannot stand beside {}",
                        quoted(&entry.key.text),
                        quoted(&first.key.text)
                    );
                    let hint = match is_filter {
                        true => "start each filter of the list with a - of its own".to_owned(),
                        false => format!("exactly one of {}", all()),
                    };
                    self.reading.error_hint(entry.key.span, message, hint);
                }
            }
        }
    }

    fn ask(&mut self, name: &'static str) -> Option<&'static Key> {
        let key = self.section.key(name);
        debug_assert!(key.is_some(), "{name} is not in the table of {}", self.section.title);
        self.asked.push(name);
        key
    }

    /// Whether anything stands behind the key. A section may be left empty: all its defaults.
    fn is_written(&mut self, key: &Key, entry: &'m Entry) -> bool {
        let Node::Scalar(scalar) = &entry.value else { return true };
        if scalar.is_faulty {
            return false;
        }
        if !scalar.is_null() || takes_a_map(&key.shape) {
            return true;
        }
        let rest = self.reading.faults.rest_of_line(entry.key.span);
        let rest = rest.trim_start_matches([':', ' ']);
        let hint = if rest.starts_with('#') {
            "a value that starts with # must stand in quotes"
        } else if rest.starts_with('&') {
            "a value that starts with & must stand in quotes"
        } else {
            "write a value, or remove the key"
        };
        self.reading.error_hint(entry.key.span, format!("{} has no value", quoted(key.name)), hint);
        false
    }
}

/// More unknown keys than this come from a program, which reads no hints.
const HINTED: usize = 1000;

fn takes_a_map(shape: &Shape) -> bool {
    match shape {
        Shape::Section(_) | Shape::Named(_) | Shape::Values(_) => true,
        Shape::Any(shapes) => shapes.iter().any(takes_a_map),
        _ => false,
    }
}

fn unknown(entry: &Entry, map: &Map, section: &'static Section, reading: &mut Reading) {
    let message = format!("unknown key {}", quoted(shown(&entry.key)));
    if reading.faults.error_count() > HINTED {
        return reading.error(entry.key.span, message);
    }
    let has_it = |shape: &Shape| match shape {
        Shape::Section(inner) => inner.key(&entry.key.text).is_some(),
        _ => false,
    };
    // A key that is written already, in whatever form, is where it was meant to stand.
    let is_beside = |key: &&Key| {
        let takes_it = match &key.shape {
            Shape::Any(shapes) => shapes.iter().any(has_it),
            shape => has_it(shape),
        };
        takes_it && map.entry(key.name).is_some()
    };
    let beside = section.supported().find(is_beside);
    let holder = beside.or_else(|| section.supported().find(|key| has_it(&key.shape)));
    if let Some(holder) = holder {
        let hint = format!("it belongs under {}", quoted(holder.name));
        return reading.error_hint(entry.key.span, message, hint);
    }
    let hint = match nearest(&entry.key.text, section.keys.iter().map(|key| key.name)) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None if entry.key.text.starts_with('/') => {
            "paths are written as - match: { path: … }".to_owned()
        }
        None => {
            let known: Vec<&str> = section.supported().map(|key| key.name).collect();
            format!("known here: {}", known.join(", "))
        }
    };
    reading.error_hint(entry.key.span, message, hint);
}
