//! One run over one file: the faults so far, and what every reader may refer to.
//!
//! Answers "which pool, listener or certificate does this name mean?". Handed to every reader.
//! Never outlives the run.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::certificate::Certificate;
use super::client_auth::Served;
use super::diagnostic::{Diagnostics, Span, quoted};
use super::listener::Listener;
use super::nearest::nearest;
use super::tree::{Node, Scalar};
use super::upstream::Upstream;
use crate::net::HostPattern;

/// What the readers share.
pub(super) struct Reading {
    /// Every fault and warning so far.
    pub(super) faults: Diagnostics,
    /// The directory that relative paths start from.
    pub(super) base: PathBuf,
    /// Names under `listeners:`.
    pub(super) listeners: Names,
    /// Names under `upstreams:`.
    pub(super) upstreams: Names,
    /// Names under `certificates:`.
    pub(super) certificates: Names,
    /// Names under `filters:`.
    pub(super) filters: Names,
    /// The names that each certificate is served for, where the file says so.
    pub(super) certified: Vec<Vec<HostPattern>>,
    /// Whether there is an `acme:` section.
    pub(super) has_acme: bool,
    /// Whether it proves names by the DNS; true where it could not be read.
    pub(super) has_dns: bool,
    /// Pools of URLs that stand where a pool's name may; they follow the named ones.
    pub(super) url_pools: Vec<Upstream>,
    /// Where each of those is, by its name.
    pub(super) url_index: HashMap<Arc<str>, usize>,
    /// What each listener speaks, and whether it asks for client certificates.
    pub(super) served: Vec<Served>,
}

impl Reading {
    /// A run that has found nothing yet.
    pub(super) fn new(faults: Diagnostics, base: PathBuf) -> Self {
        Self {
            faults,
            base,
            listeners: Names::new("listener", "listeners"),
            upstreams: Names::new("upstream", "upstreams"),
            certificates: Names::new("certificate", "certificates"),
            filters: Names::new("chain of filters", "filters"),
            certified: Vec::new(),
            has_acme: false,
            has_dns: false,
            url_pools: Vec::new(),
            url_index: HashMap::new(),
            served: Vec::new(),
        }
    }

    /// Takes what the listeners that could be read speak and ask for.
    pub(super) fn know_listeners(&mut self, listeners: &[Listener]) {
        let mode = |listener: &Listener| listener.client_auth.as_ref().map(|auth| auth.mode);
        let by_name: HashMap<&str, _> = listeners
            .iter()
            .map(|listener| (&*listener.name, (listener.protocol, mode(listener))))
            .collect();
        self.served = self.listeners.iter().map(|name| by_name.get(name).copied()).collect();
    }

    /// Takes the names of the certificates that could be read.
    pub(super) fn know_certificates(&mut self, certificates: &[Certificate]) {
        let by_name: HashMap<&str, &[HostPattern]> = certificates
            .iter()
            .map(|certificate| (&*certificate.name, &*certificate.names))
            .collect();
        let names = |name: &str| by_name.get(name).map(|names| names.to_vec()).unwrap_or_default();
        self.certified = self.certificates.iter().map(names).collect();
    }

    /// Reports a fault.
    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.faults.error(span, message);
    }

    /// Reports a fault and what to write instead.
    pub(super) fn error_hint(
        &mut self,
        span: Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.faults.error_hint(span, message, hint);
    }

    /// Reports a fault of a value. What came from the environment or a file is shown neither whole
    /// nor in part, so such a value gets a hint less and a message that names it `***`.
    pub(super) fn wrong(
        &mut self,
        scalar: &Scalar,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let mut message = message.into();
        if !scalar.is_secret {
            return self.faults.error_hint(scalar.span, message, hint);
        }
        if !message.contains("\"***\"") {
            message = "what this refers to cannot stand here".to_owned();
        }
        self.faults.error(scalar.span, message);
    }

    /// Reports something that stops nothing.
    pub(super) fn warning(
        &mut self,
        span: Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.faults.warning(span, message, hint);
    }

    /// Reports something of the grammar that this version does not support.
    pub(super) fn not_yet(&mut self, span: Span, what: &str) {
        self.faults.error(span, format!("{} is not supported yet", quoted(what)));
    }
}

/// The names under one of the sections that others refer to.
pub(super) struct Names {
    noun: &'static str,
    section: &'static str,
    declared: Vec<(Arc<str>, Span)>,
    index: HashMap<Arc<str>, usize>,
    used: Vec<bool>,
}

impl Names {
    fn new(noun: &'static str, section: &'static str) -> Self {
        Self { noun, section, declared: Vec::new(), index: HashMap::new(), used: Vec::new() }
    }

    /// Takes the names under the section `node`, before anything that refers to them is read.
    /// Standard ones stand in no line of the file.
    pub(super) fn declare(&mut self, node: Option<&Node>, is_standard: bool) {
        let Some(Node::Map(map)) = node else { return };
        for entry in &map.entries {
            let span = if is_standard { Span::default() } else { entry.key.span };
            self.index.insert(Arc::clone(&entry.key.text), self.declared.len());
            self.declared.push((Arc::clone(&entry.key.text), span));
        }
        self.used = vec![false; self.declared.len()];
    }

    /// Whether `name` is one of them.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.declared.len()
    }

    /// The indices of all of them, which thereby are used.
    pub(super) fn use_all(&mut self) -> Vec<usize> {
        self.used.fill(true);
        (0..self.len()).collect()
    }

    /// Every name in the order declared.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(|(name, _)| &**name)
    }

    /// The index of the name that `scalar` holds, or a fault that names the nearest one.
    pub(super) fn resolve(&mut self, scalar: &Scalar, out: &mut Diagnostics) -> Option<usize> {
        if let Some(&index) = self.index.get(&scalar.text) {
            self.used[index] = true;
            return Some(index);
        }
        let message = format!("no {} is called {}", self.noun, quoted(shown(scalar)));
        let is_affordable = out.error_count() * self.len() < COMPARED;
        let hint = match is_affordable && !scalar.is_secret {
            true => self.hint(&scalar.text),
            false => String::new(),
        };
        out.error_hint(scalar.span, message, hint);
        None
    }

    /// What to say where `text` names nothing.
    fn hint(&self, text: &str) -> String {
        if let Some(near) = nearest(text, self.iter()) {
            let line = self.index.get(near).map_or(0, |&index| self.declared[index].1.line);
            return match line {
                0 => format!("did you mean {}?", quoted(near)),
                line => format!("did you mean {}? declared at line {line}", quoted(near)),
            };
        }
        let known: Vec<String> = self.iter().take(5).map(quoted).collect();
        match known.len() {
            0 => format!("there is no \"{}\" section", self.section),
            _ if self.len() > known.len() => format!("known: {}, …", known.join(", ")),
            _ => format!("known: {}", known.join(", ")),
        }
    }

    /// Names that nothing referred to.
    pub(super) fn unused(&self) -> Vec<(Arc<str>, Span)> {
        let is_unused =
            |(declared, used): &(&(Arc<str>, Span), &bool)| !**used && declared.1.line > 0;
        let unused = self.declared.iter().zip(&self.used).filter(is_unused);
        unused.map(|(declared, _)| declared.clone()).collect()
    }
}

/// Most comparisons of names for the sake of hints: beyond, a generator made the file.
const COMPARED: usize = 1_000_000;

/// The text of a value as a message may show it.
pub(super) fn shown(scalar: &Scalar) -> &str {
    if scalar.is_secret { "***" } else { &scalar.text }
}
