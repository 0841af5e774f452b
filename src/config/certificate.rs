//! `certificates:`: certificates that somebody else manages.

use std::path::PathBuf;

use super::grammar::CERTIFICATE;
use super::reading::Reading;
use super::tree::{Map, Node, Scalar};
use super::{site, value};
use crate::net::HostPattern;

/// One entry of `certificates:`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    /// The key under `certificates:`.
    pub name: String,
    /// PEM file, leaf first.
    pub chain: PathBuf,
    /// PEM file of the leaf's private key.
    pub key: PathBuf,
    /// Names it is served for; empty takes the names in the certificate.
    pub names: Vec<HostPattern>,
    /// Line in the file where the entry starts, from 1.
    pub line: u32,
}

/// Reads `certificates:`.
pub(super) fn read_all(node: &Node, reading: &mut Reading) -> Option<Vec<Certificate>> {
    value::map(node, reading, |map, reading| {
        let read = |entry: &super::tree::Entry| {
            if matches!(&*entry.key.text, "auto" | "internal" | "acme") {
                let message = format!("a certificate cannot be called \"{}\"", entry.key.text);
                reading.error_hint(entry.key.span, message, "a site's `certificate:` reserves it");
            }
            value::map(&entry.value, reading, |map, reading| {
                Certificate::read(&entry.key, map, reading)
            })
        };
        Some(map.entries.iter().filter_map(read).collect())
    })
}

impl Certificate {
    fn read(name: &Scalar, map: &Map, reading: &mut Reading) -> Option<Self> {
        let mut keys = map.keys(&CERTIFICATE, reading);
        let chain = keys.read("chain", value::path);
        let key = keys.read("key", value::path);
        let names = keys.list("names", site::read_pattern);
        keys.finish();
        let (name, line) = (name.text.to_string(), name.span.line);
        Some(Self { name, chain: chain?, key: key?, names, line })
    }
}
