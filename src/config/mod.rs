//! gateway.yaml: read once, checked whole, handed out as types that need no second look.
//!
//! Answers "what did the operator ask for, and is it sound?". Called by `cli` and `app`. Never opens
//! a socket, and never loads a certificate: it only says which files to load.

pub mod acme;
pub mod acme_event;
pub mod certificate;
pub mod client_auth;
pub mod effective;
pub mod filter;
pub mod health;
pub mod listener;
pub mod process;
pub mod route;
pub mod schema;
pub mod site;
pub mod storage;
pub mod upstream;

mod compress;
mod diagnostic;
mod grammar;
mod grammar_acme;
mod grammar_filter;
mod grammar_process;
mod grammar_upstream;
mod header;
mod interpolate;
mod keys;
mod load;
mod matcher;
mod nearest;
mod outline;
mod reach;
mod reading;
#[cfg(test)]
mod reference;
mod section;
mod security_headers;
mod syntax;
mod system;
mod template;
mod tree;
mod url;
mod value;

use std::path::PathBuf;

pub use diagnostic::{Diagnostic, Diagnostics, Severity, Span, without_excerpts};
pub use load::{LoadError, Loaded, find, from_text, load};
pub(crate) use nearest::nearest;
pub use outline::{Outline, outline};
pub use system::system_directory;

use crate::net::{CidrSet, Host, HostPattern};

/// A whole gateway.yaml, checked: every default is filled in and every reference resolves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Never empty.
    pub listeners: Vec<listener::Listener>,
    /// In the order written; may be empty only for `wardgate check`, which warns.
    pub sites: Vec<site::Site>,
    /// Pools by name, and one for each URL that stands where a name may.
    pub upstreams: Vec<upstream::Upstream>,
    /// Operator-managed certificates.
    pub certificates: Vec<certificate::Certificate>,
    /// Where certificates for public names come from; `None` without the section.
    pub acme: Option<acme::Acme>,
    /// Named chains of filters.
    pub filters: Vec<filter::Chain>,
    /// Directory for what the gateway keeps. Absolute, or relative to the working directory.
    pub storage: PathBuf,
    /// What is shared with the gateways of a fleet, above that directory.
    pub fleet: Option<storage::Redis>,
    /// Whose forwarding headers are believed. Default nobody.
    pub trusted_proxies: CidrSet,
    /// Bounds of the whole process.
    pub limits: process::Limits,
    /// Logs.
    pub log: process::Log,
    /// `None` when `admin: off`.
    pub admin: Option<process::Admin>,
    /// How the process ends.
    pub shutdown: process::Shutdown,
    /// Threads.
    pub runtime: process::Runtime,
}

impl Config {
    /// Puts the names of sites side by side in memory: requests are found by them, and what was read
    /// along with them lies in between.
    pub fn gather_names(&mut self) {
        for pattern in self.sites.iter_mut().flat_map(|site| &mut site.patterns) {
            if let HostPattern::Exact(Host::Name(name)) = pattern {
                *name = name.copied();
            }
        }
    }
}
