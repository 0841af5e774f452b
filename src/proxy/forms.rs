//! Sites and routes as requests need them.
//!
//! Answers "how is a request of this site and route treated, counted and named?". Built once per
//! generation; says the same as its configuration, in another place.
//!
//! # Why
//! With thousands of sites nothing of a request's own is in the processor's caches, and each line of
//! memory that it touches is one to wait for. The configuration spreads a site over a dozen; here all
//! sites stand side by side and are two with their first route, and a name that serves as key of the
//! look-up is the one that is logged. What is counted is asked for before it is needed
//! ([`Forms::expect`]). Measured by `tests/bench/sites.py`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::generation::BoundListener;
use super::reply::Reply;
use crate::config::Config;
use crate::config::client_auth::ClientAuthMode;
use crate::config::listener::Protocol;
use crate::config::route::{Action, Route};
use crate::config::site::{EncodedSlashes, HttpsPolicy, Site};
use crate::net::{Host, HostPattern};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::RouteMetrics;

/// The sites and routes of one configuration.
#[derive(Debug)]
pub struct Forms {
    /// By index of [`Config::sites`].
    sites: Box<[SiteForm]>,
    /// All but the first of one site after the other.
    others: Box<[RouteForm]>,
}

/// What a request needs of its site.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct SiteForm {
    /// Its name in logs.
    pub name: Arc<str>,
    /// Port of its first https listener; `None` when it has none.
    pub https_port: Option<u16>,
    /// What plain HTTP gets.
    pub https: HttpsPolicy,
    /// Whether paths may have them.
    pub encoded_slashes: EncodedSlashes,
    /// Whether everybody has to show a certificate by a rule of the site's own.
    pub requires_certificate: bool,
    /// Where its other routes begin, and how many there are.
    others: (u32, u32),
    /// On a line of its own.
    first: Option<RouteForm>,
}

/// What a request needs of its route.
#[derive(Debug)]
#[repr(align(64))]
pub struct RouteForm {
    /// Its name in logs.
    pub label: Arc<str>,
    /// What its requests count with.
    pub counts: Arc<RouteMetrics>,
    /// Bound on the whole exchange.
    pub request_timeout: Option<Duration>,
    /// Index of the pool that it sends requests to.
    pub pool: Option<usize>,
    /// The answer, where it is always the same.
    pub reply: Option<Box<Reply>>,
}

impl Forms {
    /// The forms of `config`, whose listeners are bound like this.
    #[must_use]
    pub fn new(config: &Config, bound: &[BoundListener], metrics: &Metrics) -> Self {
        let mut labels = HashMap::new();
        let mut others = Vec::new();
        let mut sites = Vec::with_capacity(config.sites.len());
        for site in &config.sites {
            let mut routes = site.routes.iter().map(|route| {
                let label =
                    labels.entry(&*route.label).or_insert_with(|| route.label.as_str().into());
                let counts = metrics.route(&site.name, &route.label);
                RouteForm::new(route, Arc::clone(label), counts)
            });
            let (first, begin) = (routes.next(), others.len());
            others.extend(routes);
            let range = (begin, others.len() - begin);
            sites.push(SiteForm::new(config, site, bound, first, range));
        }
        Self { sites: sites.into(), others: others.into() }
    }

    /// The form of the site at this index.
    #[must_use]
    pub fn site(&self, site: usize) -> Option<&SiteForm> {
        self.sites.get(site)
    }

    /// The form of the site's route at this index.
    #[must_use]
    pub fn route(&self, site: usize, route: usize) -> Option<&RouteForm> {
        let site = self.site(site)?;
        let Some(other) = route.checked_sub(1) else { return site.first.as_ref() };
        let (begin, count) = site.others;
        let is_one = other < count as usize;
        self.others.get(begin as usize + other).filter(|_| is_one)
    }

    /// Has the processor fetch what a request of this site will most likely read and count with, at once
    /// and while other things are done.
    pub fn expect(&self, site: usize) {
        if let Some(route) = self.route(site, 0) {
            route.counts.expect();
        }
    }
}

impl SiteForm {
    fn new(
        config: &Config,
        site: &Site,
        bound: &[BoundListener],
        first: Option<RouteForm>,
        (begin, count): (usize, usize),
    ) -> Self {
        let is_https = |index: &usize| config.listeners[*index].protocol == Protocol::Https;
        let https = site.listeners.iter().copied().find(is_https);
        let own = site.client_auth.own();
        // More routes than memory could hold are past the last, and so none.
        let narrow = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            name: name(site),
            https_port: https.and_then(|index| bound.get(index)).map(|listener| listener.port),
            https: site.https,
            encoded_slashes: site.encoded_slashes,
            requires_certificate: own.is_some_and(|own| own.mode == ClientAuthMode::Require),
            others: (narrow(begin), narrow(count)),
            first,
        }
    }
}

/// The site's name; the very text that requests for it are found by, if that is the same.
fn name(site: &Site) -> Arc<str> {
    match site.patterns.first() {
        Some(HostPattern::Exact(Host::Name(name))) if name.as_str() == site.name => name.shared(),
        _ => site.name.as_str().into(),
    }
}

impl RouteForm {
    fn new(route: &Route, label: Arc<str>, counts: Arc<RouteMetrics>) -> Self {
        let (pool, reply) = match &route.action {
            Action::Upstream(pool) => (Some(*pool), None),
            Action::Respond(respond) => (None, Some(Box::new(Reply::respond(respond)))),
            Action::Redirect(_) | Action::Welcome => (None, None),
        };
        Self { label, counts, request_timeout: route.request_timeout, pool, reply }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_two_lines_of_memory_with_its_first_route_on_the_second() {
        assert_eq!(size_of::<SiteForm>(), 128);
        assert_eq!(std::mem::offset_of!(SiteForm, first), 64);
        assert_eq!(size_of::<RouteForm>(), 64);
    }

    #[test]
    fn each_route_is_found_by_its_site_and_none_beyond_it() {
        let text = "sites:\n  a.example: { routes: [ { match: { path: /x }, respond: x }, { respond: y } ] }\n  \
             \"*.example\": { routes: [ { redirect: \"http://a.example/\" } ] }\n  \
             B.example: { encoded_slashes: pass, upstream: \"http://127.0.0.1:1\" }\n\
             listeners: { web: { bind: \":0\", protocol: http } }\n";
        let loaded = crate::config::from_text("test.yaml", text, std::path::Path::new("."));
        let config = loaded.unwrap().config;
        let metrics = Metrics::new([], std::time::UNIX_EPOCH);
        let forms = Forms::new(&config, &[], &metrics);
        for (index, site) in config.sites.iter().enumerate() {
            let form = forms.site(index).unwrap();
            assert_eq!(*form.name, site.name);
            assert_eq!(form.encoded_slashes, site.encoded_slashes);
            for (number, route) in site.routes.iter().enumerate() {
                let form = forms.route(index, number).unwrap();
                assert_eq!(*form.label, route.label);
                assert_eq!(form.reply.is_some(), matches!(route.action, Action::Respond(_)));
                assert_eq!(form.pool.is_some(), matches!(route.action, Action::Upstream(_)));
                assert!(Arc::ptr_eq(&form.counts, &metrics.route(&site.name, &route.label)));
            }
            assert!(forms.route(index, site.routes.len()).is_none(), "{}", site.name);
        }
        assert!(forms.site(config.sites.len()).is_none());
        let last = |site, route| Arc::as_ptr(&forms.route(site, route).unwrap().label);
        assert_eq!(last(0, 1), last(2, 0), "routes of one name share it");
    }
}
