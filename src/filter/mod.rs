//! Filters: the rules that an operator puts before a route.
//!
//! Answers "may this request go on, and which fields do backend and client get?". Called by `proxy`
//! once a request's route is known, whatever the route does with it and whatever the client speaks,
//! upgrades included. Never answers a request, writes a log line or counts for anybody but its own
//! [`Tally`]: verdicts go back as data.
//!
//! A [`Stack`] is what runs for one route: the site's filters, then the route's, named chains
//! expanded, filters with `mode: off` left out. [`Chains`] holds the stacks of one configuration.
//!
//! # Why
//! A named chain's filters exist once however many routes use them, so that its limiters count a
//! client once. What a filter has learnt (buckets, tallies) is carried over to the next
//! configuration while its chain and its position there stay the same.

mod access;
mod buckets;
mod chains;
mod compress;
mod encoder;
mod fields;
mod rate_limit;
mod stack;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::access::Access;
pub use self::buckets::{BUCKET_BYTES, Buckets, Draw, MOST_BUCKETS, Pace};
pub use self::chains::Chains;
use self::compress::Compress;
pub use self::encoder::Encoder;
use self::fields::{RequestHeaders, SecurityHeaders};
use self::rate_limit::RateLimit;
pub use self::stack::{Finding, Passage, Stack};
use crate::config::filter::{Filter, FilterKind, HeaderEdits, Mode};
use crate::net::RequestHead;

/// What filters may know of a request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Its head.
    pub head: &'a RequestHead<'a>,
    /// Who sends it, behind the trusted proxies.
    pub client: IpAddr,
    /// The length that its body is said to have, if it is.
    pub content_length: Option<u64>,
}

/// What a filter says to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It may go on.
    Continue,
    /// It ends here.
    Reject(Rejection),
}

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rejection {
    /// Its client may not come here.
    Denied,
    /// Its client has come too often, and may again after this time.
    RateLimited {
        /// Until there is a token.
        retry_after: Duration,
    },
    /// Its body is longer than allowed.
    BodyTooLarge,
}

/// One filter at its place, with what it has learnt.
#[derive(Debug)]
pub struct Instance {
    /// Where it stands.
    pub place: Place,
    /// Enforce or monitor.
    pub mode: Mode,
    /// What it has decided so far.
    pub tally: Arc<Tally>,
    action: Action,
}

/// Where a filter stands. It keeps what it has learnt over reloads while this stays the same.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Place {
    /// The chain that it is part of.
    pub scope: Scope,
    /// From 0, filters that are off included.
    pub position: usize,
    /// Its key in the configuration, such as `rate_limit`.
    pub filter: &'static str,
}

/// The chain that a filter is part of.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// One under the top-level `filters:`, by name.
    Chain(String),
    /// A site's own, by the site's name.
    Site(String),
    /// A route's own.
    Route {
        /// The site's name.
        site: String,
        /// The route's label.
        route: String,
        /// Counts the site's routes with that label, from 0.
        nth: usize,
    },
}

/// What one filter has decided since the start, for metrics.
#[derive(Debug, Default)]
pub struct Tally {
    allowed: AtomicU64,
    blocked: AtomicU64,
    would_block: AtomicU64,
}

/// What a filter does.
#[derive(Debug)]
enum Action {
    SecurityHeaders(SecurityHeaders),
    Access(Access),
    RateLimit(RateLimit),
    BodyLimit(u64),
    RequestHeaders(RequestHeaders),
    ResponseHeaders(HeaderEdits),
    Compress(Compress),
}

impl Instance {
    /// A filter by `spec` that takes over what `previous`, at the same place, has learnt.
    fn new(place: Place, spec: &Filter, previous: Option<&Self>) -> Self {
        let limiter = previous.and_then(|previous| match &previous.action {
            Action::RateLimit(limiter) => Some(limiter),
            _ => None,
        });
        let action = match &spec.kind {
            FilterKind::SecurityHeaders(spec) => {
                Action::SecurityHeaders(SecurityHeaders::new(spec))
            }
            FilterKind::Access(spec) => Action::Access(Access::new(spec)),
            FilterKind::RateLimit(spec) => Action::RateLimit(RateLimit::new(spec, limiter)),
            FilterKind::BodyLimit(bytes) => Action::BodyLimit(*bytes),
            FilterKind::RequestHeaders(edits) => Action::RequestHeaders(RequestHeaders::new(edits)),
            FilterKind::ResponseHeaders(edits) => Action::ResponseHeaders(edits.clone()),
            FilterKind::Compress(spec) => Action::Compress(Compress::new(spec)),
        };
        let tally = previous.map(|previous| Arc::clone(&previous.tally)).unwrap_or_default();
        Self { place, mode: spec.mode, tally, action }
    }

    /// Whether it gives verdicts; the others only change fields or bodies, and their tallies stay 0.
    #[must_use]
    pub fn is_judge(&self) -> bool {
        matches!(self.action, Action::Access(_) | Action::RateLimit(_) | Action::BodyLimit(_))
    }

    /// The buckets of a limiter.
    #[must_use]
    pub fn buckets(&self) -> Option<&Buckets> {
        match &self.action {
            Action::RateLimit(limiter) => Some(limiter.buckets()),
            _ => None,
        }
    }

    /// Whether what it decides or changes counts.
    fn is_enforced(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// Counts a verdict.
    fn count(&self, verdict: Verdict) {
        let count = match (verdict, self.is_enforced()) {
            (Verdict::Continue, _) => &self.tally.allowed,
            (Verdict::Reject(_), true) => &self.tally.blocked,
            (Verdict::Reject(_), false) => &self.tally.would_block,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tally {
    /// Requests that it let pass. A body that outgrows its limit on the way counts here and then
    /// among the others.
    #[must_use]
    pub fn allowed(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Requests that it ended.
    #[must_use]
    pub fn blocked(&self) -> u64 {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Requests that it would have ended but for `mode: monitor`.
    #[must_use]
    pub fn would_block(&self) -> u64 {
        self.would_block.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Site(site) => write!(f, "site {site}"),
            Self::Route { site, route, nth: 0 } => write!(f, "route {site} {route}"),
            Self::Route { site, route, nth } => write!(f, "route {site} {route} ({})", nth + 1),
        }
    }
}

/// The key of a filter in the configuration.
fn name(kind: &FilterKind) -> &'static str {
    match kind {
        FilterKind::SecurityHeaders(_) => "security_headers",
        FilterKind::Access(_) => "access",
        FilterKind::RateLimit(_) => "rate_limit",
        FilterKind::BodyLimit(_) => "body_limit",
        FilterKind::RequestHeaders(_) => "request_headers",
        FilterKind::ResponseHeaders(_) => "response_headers",
        FilterKind::Compress(_) => "compress",
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::net::HostRef;

    /// GET / by `client`. The head lives as long as the test.
    pub(super) fn request<'a>(client: &str, headers: &'a HeaderMap) -> Request<'a> {
        let (host, _) = HostRef::parse_authority("a.example").unwrap();
        let head = RequestHead {
            method: &Method::GET,
            host,
            path: "/",
            match_key: "/",
            query: None,
            headers,
        };
        Request {
            head: Box::leak(Box::new(head)),
            client: client.parse().unwrap(),
            content_length: None,
        }
    }

    #[test]
    fn a_place_is_told_in_words() {
        let route = |nth| Scope::Route { site: "a.example".into(), route: "/v1/*".into(), nth };
        for (scope, expected) in [
            (Scope::Chain("public".into()), "chain public"),
            (Scope::Site("a.example".into()), "site a.example"),
            (route(0), "route a.example /v1/*"),
            (route(1), "route a.example /v1/* (2)"),
        ] {
            assert_eq!(scope.to_string(), expected);
        }
    }
}
