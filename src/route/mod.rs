//! From a host to its site, from a request to its route, and from there to the path sent upstream.
//!
//! Answers "which entry of the configuration handles this request?". Built once per generation,
//! called by `proxy` for each request. Never answers a request, picks a server or does I/O.
//!
//! # Why
//! Whatever depends on configuration alone is computed in [`Router::new`]; a look-up borrows from
//! the request and yields indices, so it allocates nothing.

pub mod host;
pub mod matcher;
pub mod redirect;
pub mod rewrite;

pub use crate::net::path;

use crate::config::{Config, site};
use crate::net::path::PathError;
use crate::net::{HostRef, RequestHead};
use host::SiteTable;
use matcher::Matcher;
use rewrite::{Rewriter, Target};

/// The sites and routes of one configuration, compiled. All indices are those of [`Config`].
#[derive(Debug)]
pub struct Router {
    /// By listener.
    tables: Vec<SiteTable>,
    /// `None` for a site whose first route takes every request, and as it is: with thousands of such
    /// sites there is nothing to be fetched from memory.
    sites: Vec<Option<Box<Site>>>,
}

#[derive(Debug)]
struct Site {
    matcher: Matcher,
    /// By route.
    rewriters: Vec<Option<Rewriter>>,
}

impl Router {
    /// Compiles the sites of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::of_sites(config.listeners.len(), &config.sites)
    }

    /// The site that serves `host` on a listener: the one with that name, else the one with a
    /// wildcard for it, else `*`. `None` is 421 on https and 404 on http.
    #[must_use]
    pub fn site<'h>(&self, listener: usize, host: impl Into<HostRef<'h>>) -> Option<usize> {
        self.tables.get(listener)?.find(host)
    }

    /// The first of the site's routes that matches.
    #[must_use]
    pub fn route(&self, site: usize, head: &RequestHead<'_>) -> Option<usize> {
        match self.sites.get(site)? {
            Some(site) => site.matcher.find(head),
            None => Some(0),
        }
    }

    /// Path and query that a route sends upstream: rewritten, or as they are.
    ///
    /// # Errors
    /// [`PathError`] when the client's path makes the rewritten one ambiguous: 400.
    pub fn target<'h>(
        &self,
        site: usize,
        route: usize,
        head: &RequestHead<'h>,
    ) -> Result<Target<'h>, PathError> {
        let site = self.sites.get(site).and_then(Option::as_ref);
        let rewriter = site.and_then(|site| site.rewriters.get(route)?.as_ref());
        rewriter.map_or_else(|| Ok(Target::unchanged(head)), |rewriter| rewriter.apply(head))
    }

    fn of_sites(listeners: usize, sites: &[site::Site]) -> Self {
        let table = |listener: usize| {
            let here =
                sites.iter().enumerate().filter(|(_, site)| site.listeners.contains(&listener));
            here.map(|(index, site)| (index, site.patterns.as_slice())).collect()
        };
        Self {
            tables: (0..listeners).map(table).collect(),
            sites: sites.iter().map(|site| Site::new(site).map(Box::new)).collect(),
        }
    }
}

impl Site {
    fn new(site: &site::Site) -> Option<Self> {
        let matcher = Matcher::new(site.routes.iter().map(|route| &route.matcher));
        let is_plain = site.routes.first().is_some_and(|first| first.rewrite.is_none());
        if is_plain && matcher.ends_at_first() {
            return None;
        }
        let rewriters = (site.routes.iter())
            .map(|route| Some(Rewriter::new(route.rewrite.as_ref()?, site.encoded_slashes)))
            .collect();
        Some(Self { matcher, rewriters })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::config::client_auth::SiteClientAuth;
    use crate::config::route::{Action, Match, PathPattern, Rewrite, Route};
    use crate::config::site::{HttpsPolicy, SiteCertificate};
    use crate::net::path::{EncodedSlashes, canonical};
    use crate::net::{Host, HostPattern};

    fn site(patterns: &[&str], listeners: &[usize], prefixes: &[&str]) -> site::Site {
        let route = |prefix: &&str| Route {
            label: String::new(),
            line: 1,
            matcher: Match {
                paths: vec![PathPattern::Prefix((*prefix).to_owned())],
                ..Match::default()
            },
            action: Action::Welcome,
            rewrite: Some(Rewrite::StripPrefix((*prefix).to_owned())),
            request_timeout: None,
            filters: Vec::new(),
        };
        site::Site {
            name: patterns[0].to_owned(),
            patterns: patterns.iter().map(|text| HostPattern::parse(text).unwrap()).collect(),
            listeners: listeners.to_vec(),
            certificate: SiteCertificate::None,
            https: HttpsPolicy::Both,
            client_auth: SiteClientAuth::Inherit,
            encoded_slashes: EncodedSlashes::Refuse,
            filters: Vec::new(),
            routes: prefixes.iter().map(route).collect(),
        }
    }

    fn router() -> Router {
        Router::of_sites(
            2,
            &[
                site(&["example.com", "*.example.com"], &[0, 1], &["/admin", "/v1", ""]),
                site(&["internal.example.com"], &[1], &[""]),
                site(&["*"], &[0], &["/only"]),
            ],
        )
    }

    #[test]
    fn a_first_route_that_takes_everything_needs_no_matcher() {
        let mut plain = site(&["a.test"], &[0], &["", "/v1"]);
        plain.routes[0].rewrite = None;
        let rewritten = site(&["b.test"], &[0], &["", "/v1"]);
        let chosen = site(&["c.test"], &[0], &["/v1", ""]);
        let router = Router::of_sites(1, &[plain, rewritten, chosen]);
        assert_eq!(
            router.sites.iter().map(Option::is_some).collect::<Vec<_>>(),
            [false, true, true]
        );
        for (index, route) in [(0, 0), (1, 0), (2, 1)] {
            let (path, headers) =
                (canonical("/x", EncodedSlashes::Refuse).unwrap(), HeaderMap::new());
            let (key, host) = (path.match_key(), Host::parse("a.test").unwrap());
            let head = RequestHead {
                method: &Method::GET,
                host: host.as_ref(),
                path: path.as_str(),
                match_key: key.as_str(),
                query: None,
                headers: &headers,
            };
            assert_eq!(router.route(index, &head), Some(route), "site {index}");
            assert!(router.target(index, route, &head).unwrap().is("/x"));
        }
    }

    #[test]
    fn a_host_belongs_to_a_site_of_its_listener() {
        let rows = [
            (0, "example.com", Some(0)),
            (1, "example.com", Some(0)),
            (0, "internal.example.com", Some(0)),
            (1, "internal.example.com", Some(1)),
            (0, "example.org", Some(2)),
            (1, "example.org", None),
            (2, "example.com", None),
        ];
        let router = router();
        for (listener, host, site) in rows {
            let host = Host::parse(host).unwrap();
            assert_eq!(router.site(listener, &host), site, "{host} on {listener}");
        }
    }

    #[test]
    fn a_request_reaches_its_route_and_the_backend_gets_what_was_matched() {
        let rows = [
            (0, "/admin", Some((0, "/"))),
            (0, "//admin", Some((0, "/"))),
            (0, "/./admin/x", Some((0, "/x"))),
            (0, "/x/../admin", Some((0, "/"))),
            (0, "/%61dmin/%40", Some((0, "/%40"))),
            (0, "/v1/../admin", Some((0, "/"))),
            (0, "/v1/a?q", Some((1, "/a?q"))),
            (0, "/v10", Some((2, "/v10"))),
            (2, "/only", Some((0, "/"))),
            (2, "/other", None),
        ];
        let router = router();
        for (site, target, expected) in rows {
            let (raw, query) = match target.split_once('?') {
                Some((raw, query)) => (raw, Some(query)),
                None => (target, None),
            };
            let host = Host::parse("example.com").unwrap();
            let path = canonical(raw, EncodedSlashes::Refuse).unwrap();
            let key = path.match_key();
            let head = RequestHead {
                method: &Method::GET,
                host: host.as_ref(),
                path: path.as_str(),
                match_key: key.as_str(),
                query,
                headers: &HeaderMap::new(),
            };
            let found = router
                .route(site, &head)
                .map(|route| (route, router.target(site, route, &head).unwrap().to_string()));
            let found = found.as_ref().map(|(route, target)| (*route, target.as_str()));
            assert_eq!(found, expected, "{target}");
        }
    }
}
