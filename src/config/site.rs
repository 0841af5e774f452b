//! `sites:`: which host names are served, with which certificate and policy.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::client_auth::{self, SiteClientAuth};
use super::diagnostic::{Span, quoted};
use super::filter::{self, FilterUse};
use super::grammar::SITE;
use super::keys::Keys;
use super::listener::Protocol;
use super::reading::{Reading, shown};
use super::route::{self, PathPattern, Route, Written};
use super::tree::{Entry, Map, Node, Scalar};
use super::upstream::read_target;
use super::{reach, value};
pub use crate::net::path::EncodedSlashes;
use crate::net::{Host, HostName, HostPattern};

/// One entry of `sites:`.
#[derive(Clone, Debug)]
pub struct Site {
    /// The key under `sites:`, as written; it is the site's label in logs and metrics.
    pub name: String,
    /// The key and its `aliases`, never empty, without duplicates across sites on one listener.
    pub patterns: Vec<HostPattern>,
    /// Indices into [`Config::listeners`](super::Config::listeners), never empty. Default: all.
    pub listeners: Vec<usize>,
    /// Default `auto`, which the reader has already decided for these names.
    pub certificate: SiteCertificate,
    /// Default `redirect`.
    pub https: HttpsPolicy,
    /// Default: the rules of its listeners.
    pub client_auth: SiteClientAuth,
    /// Default `refuse`.
    pub encoded_slashes: EncodedSlashes,
    /// Run for every route of the site, before the route's own.
    pub filters: Vec<FilterUse>,
    /// In the order written; `upstream:` on the site itself is the last one. Never empty.
    pub routes: Vec<Route>,
}

/// Where a site's certificate comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SiteCertificate {
    /// The site has no https listener, so it needs none.
    None,
    /// `internal`, or `auto` where no name is one that a public CA certifies: the local CA.
    Internal,
    /// `acme`, or `auto` where a name is public: the authority of `acme:`. With `auto`, names that no
    /// public CA certifies are left to the local CA.
    Acme {
        /// Whether it is for local names as well, since the authority is the operator's own.
        all: bool,
    },
    /// The index of the named entry in [`Config::certificates`](super::Config::certificates).
    Named(usize),
}

/// What plain HTTP gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HttpsPolicy {
    /// 308 to the https listener. A site without an https listener is served as `Both`.
    Redirect,
    /// Served like https.
    Both,
    /// 404 on plain HTTP.
    Only,
}

/// Reads `sites:`, after listeners, upstreams and certificates were declared.
pub(super) fn read_all(node: &Node, reading: &mut Reading) -> Option<Vec<Site>> {
    value::map(node, reading, |map, reading| {
        let mut claims = Claims::default();
        let read = |entry: &Entry| {
            value::map_with(&entry.value, "upstream", reading, |map, reading| {
                Site::read(&entry.key, map, &mut claims, reading)
            })
        };
        Some(map.entries.iter().filter_map(read).collect())
    })
}

impl Site {
    fn read(name: &Scalar, map: &Map, claims: &mut Claims, reading: &mut Reading) -> Option<Self> {
        let faults = reading.faults.error_count();
        let own = pattern_of(name, reading).map(|pattern| (pattern, name.span));
        let mut keys = map.keys(&SITE, reading);
        let aliases =
            keys.list("aliases", |node, reading| Some((read_pattern(node, reading)?, node.span())));
        let listeners = read_listeners(&mut keys);
        let patterns: Vec<_> = own.into_iter().chain(aliases).collect();
        let kinds = Kinds::of(&listeners, keys.reading);
        let certificate = keys.read("certificate", |node, reading| {
            SiteCertificate::read(node, &patterns, kinds, reading)
        });
        if let (Some(span), true) = (keys.span_of("certificate"), kinds.are_plain()) {
            let hint = "none of its listeners speaks https";
            keys.reading.warning(span, "the site needs no certificate", hint);
        }
        let https = keys.choice("https", &HttpsPolicy::WORDS);
        if let (Some(span), Some(https)) = (keys.span_of("https"), https) {
            check_policy(https, kinds, span, keys.reading);
        }
        let client_auth = read_client_auth(&mut keys, https, &listeners);
        let encoded_slashes = keys.choice(
            "encoded_slashes",
            &[("refuse", EncodedSlashes::Refuse), ("pass", EncodedSlashes::Pass)],
        );
        let filters = filter::read_uses(&mut keys);
        let routes = read_routes(name, &mut keys);
        if encoded_slashes == Some(EncodedSlashes::Refuse) {
            warn_refused(&routes, keys.reading);
        }
        keys.finish();
        if reading.faults.error_count() == faults {
            reach::warn(&routes, reading);
        }
        for (pattern, span) in &patterns {
            claims.add(pattern, *span, &listeners, reading);
        }
        Some(Self {
            name: name.text.to_string(),
            patterns: patterns.into_iter().map(|(pattern, _)| pattern).collect(),
            listeners,
            certificate: certificate?,
            https: https?,
            client_auth: client_auth?,
            encoded_slashes: encoded_slashes?,
            filters,
            routes: routes.into_iter().map(|route| route.checked).collect(),
        })
    }
}

impl HttpsPolicy {
    const WORDS: [(&'static str, Self); 3] =
        [("redirect", Self::Redirect), ("both", Self::Both), ("only", Self::Only)];
}

/// The indices of the listeners that serve the site; all of them unless it says which.
fn read_listeners(keys: &mut Keys<'_, '_>) -> Vec<usize> {
    let mut seen = HashSet::new();
    let listeners = keys.list("listeners", |node, reading| {
        let scalar = value::scalar(node, reading)?;
        let index = reading.listeners.resolve(scalar, &mut reading.faults)?;
        if !seen.insert(index) {
            reading.error(scalar.span, format!("{} stands here twice", quoted(shown(scalar))));
        }
        Some(index)
    });
    match keys.span_of("listeners") {
        Some(_) => listeners,
        None => keys.reading.listeners.use_all(),
    }
}

fn read_client_auth(
    keys: &mut Keys<'_, '_>,
    https: Option<HttpsPolicy>,
    listeners: &[usize],
) -> Option<SiteClientAuth> {
    let is_written = keys.span_of("client_auth").is_some();
    let own = keys.read("client_auth", SiteClientAuth::read);
    let own = if is_written { own } else { Some(SiteClientAuth::Inherit) };
    let served = |index: &usize| keys.reading.served.get(*index).copied().flatten();
    let served: Vec<_> = listeners.iter().map(served).collect();
    client_auth::check_site(keys, own.as_ref(), https, &served);
    own
}

/// The routes as written, and `upstream:` as the last one.
fn read_routes(name: &Scalar, keys: &mut Keys<'_, '_>) -> Vec<Written> {
    let mut routes = keys.list("routes", route::read);
    let last = keys.span_of("upstream");
    if let (Some(target), Some(span)) = (keys.read("upstream", read_target), last) {
        routes.push(Route::last(span, target));
    }
    let is_misspelt = keys.is_misspelt("routes") || keys.is_misspelt("upstream");
    if keys.span_of("routes").is_none() && last.is_none() && !is_misspelt {
        let message = format!("the site {} answers nothing", quoted(&name.text));
        keys.reading.error_hint(name.span, message, "add `upstream: …` or `routes:`");
    }
    routes
}

/// Warns about paths with an encoded slash on a site that refuses them.
fn warn_refused(routes: &[Written], reading: &mut Reading) {
    let is_refused = |path: &PathPattern| {
        let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = path;
        ["%2F", "%5C", "\\"].iter().any(|slash| path.contains(slash))
    };
    for route in routes.iter().filter(|route| route.checked.matcher.paths.iter().any(is_refused)) {
        let message = "the site refuses paths with an encoded slash or backslash";
        reading.warning(route.span, message, "add `encoded_slashes: pass` to the site");
    }
}

/// Reads a name, an address, `*.example.com` or `*`.
pub(super) fn read_pattern(node: &Node, reading: &mut Reading) -> Option<HostPattern> {
    let scalar = value::scalar(node, reading)?;
    pattern_of(scalar, reading)
}

fn pattern_of(scalar: &Scalar, reading: &mut Reading) -> Option<HostPattern> {
    let text = &*scalar.text;
    let error = match HostPattern::parse(text) {
        Ok(pattern) => return Some(pattern),
        Err(error) => error,
    };
    let message = format!("{} is not a host name", quoted(shown(scalar)));
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    let hint = match Host::parse_authority(bare) {
        Ok((host, _)) if text.contains("://") => format!("write \"{host}\""),
        Ok((host, Some(_))) => {
            format!("write \"{host}\"; ports belong to `listeners:`")
        }
        Ok((host, None)) if text.contains('/') => {
            format!("write \"{host}\"; paths belong to `routes:`")
        }
        _ => error.to_string(),
    };
    reading.wrong(scalar, message, hint);
    None
}

/// Which protocols a site's listeners speak. Unknown ones have faults of their own.
#[derive(Clone, Copy)]
struct Kinds {
    has_https: bool,
    is_known: bool,
}

impl Kinds {
    fn of(listeners: &[usize], reading: &Reading) -> Self {
        let kind = |index: &usize| Some((*reading.served.get(*index)?)?.0);
        let kinds: Vec<Option<Protocol>> = listeners.iter().map(kind).collect();
        Self {
            has_https: kinds.contains(&Some(Protocol::Https)),
            is_known: !kinds.contains(&None) && !kinds.is_empty(),
        }
    }

    /// Whether certainly none of them speaks https.
    const fn are_plain(self) -> bool {
        self.is_known && !self.has_https
    }
}

fn check_policy(https: HttpsPolicy, kinds: Kinds, span: Span, reading: &mut Reading) {
    if !kinds.are_plain() {
        return;
    }
    let hint = "none of its listeners speaks https";
    match https {
        HttpsPolicy::Only => reading.error_hint(span, "the site can never be reached", hint),
        HttpsPolicy::Redirect => reading.warning(span, "there is nothing to redirect to", hint),
        HttpsPolicy::Both => {}
    }
}

impl SiteCertificate {
    fn read(
        node: &Node,
        patterns: &[(HostPattern, Span)],
        kinds: Kinds,
        reading: &mut Reading,
    ) -> Option<Self> {
        let scalar = value::scalar(node, reading)?;
        let found = match &*scalar.text {
            "auto" => {
                if patterns.iter().all(|(pattern, _)| is_local(pattern)) {
                    Self::Internal
                } else {
                    if kinds.has_https {
                        check_acme(patterns, is_local, reading);
                    }
                    Self::Acme { all: false }
                }
            }
            "internal" => Self::Internal,
            "acme" => {
                if kinds.has_https {
                    check_acme(patterns, |_| false, reading);
                }
                Self::Acme { all: true }
            }
            _ => {
                let index = reading.certificates.resolve(scalar, &mut reading.faults)?;
                check_names(index, patterns, reading);
                Self::Named(index)
            }
        };
        Some(if kinds.has_https || !kinds.is_known { found } else { Self::None })
    }
}

/// Warns about names of the site that its certificate is not served for.
fn check_names(index: usize, patterns: &[(HostPattern, Span)], reading: &mut Reading) {
    let names = reading.certified.get(index).cloned().unwrap_or_default();
    let is_covered = |pattern: &HostPattern| match pattern {
        HostPattern::Any => true,
        HostPattern::Exact(host) => names.iter().any(|name| name.covers(host)),
        HostPattern::Wildcard(_) => names.contains(pattern) || names.contains(&HostPattern::Any),
    };
    if names.is_empty() {
        return;
    }
    for (pattern, span) in patterns.iter().filter(|(pattern, _)| !is_covered(pattern)) {
        let message = format!("the certificate is not served for {}", quoted(&pattern.to_string()));
        reading.warning(*span, message, "add it to the certificate's `names`");
    }
}

/// Reports the first name that an authority would have to certify and cannot, or could not be asked
/// for. `is_exempt` are names that it is not asked for.
fn check_acme(
    patterns: &[(HostPattern, Span)],
    is_exempt: impl Fn(&HostPattern) -> bool,
    reading: &mut Reading,
) {
    let hint = "add `certificate: internal`, or the name of an entry of `certificates:`";
    for (pattern, span) in patterns.iter().filter(|(pattern, _)| !is_exempt(pattern)) {
        let text = quoted(&pattern.to_string());
        match pattern {
            HostPattern::Any => {
                return reading.error_hint(*span, "\"*\" has no certificate of its own", hint);
            }
            _ if !reading.has_acme => {
                let message = format!("nothing says where the certificate for {text} comes from");
                let hint = "add `acme: { email: you@example.com }`, or `certificate: internal`";
                return reading.error_hint(*span, message, hint);
            }
            HostPattern::Wildcard(_) if !reading.has_dns => {
                let message = format!("an authority certifies {text} by records in the DNS alone");
                let hint = "add `dns: …` or `challenges: [dns-persist-01]` to `acme:`, or name a certificate";
                return reading.error_hint(*span, message, hint);
            }
            _ => {}
        }
    }
}

/// Whether no public CA certifies the name, so that `auto` means the local CA.
#[must_use]
pub fn is_local(pattern: &HostPattern) -> bool {
    let name = match pattern {
        HostPattern::Any => return false,
        HostPattern::Exact(Host::Address(address)) => return is_private(*address),
        HostPattern::Exact(Host::Name(name)) | HostPattern::Wildcard(name) => {
            HostName::as_str(name)
        }
    };
    let ends = |suffix: &&str| {
        name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    ["localhost", "test", "internal", "local", "home.arpa"].iter().any(ends)
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// Which host patterns are taken on which listeners.
#[derive(Default)]
struct Claims {
    taken: HashMap<HostPattern, Vec<(Vec<usize>, Span)>>,
}

impl Claims {
    fn add(
        &mut self,
        pattern: &HostPattern,
        span: Span,
        listeners: &[usize],
        reading: &mut Reading,
    ) {
        let owners = self.taken.entry(pattern.clone()).or_default();
        let shares =
            |(theirs, _): &&(Vec<usize>, Span)| theirs.iter().any(|l| listeners.contains(l));
        if let Some((_, first)) = owners.iter().find(shares) {
            let message = format!("{} is served already", quoted(&pattern.to_string()));
            reading.error_hint(span, message, format!("first named at line {}", first.line));
            return;
        }
        owners.push((listeners.to_vec(), span));
    }
}
