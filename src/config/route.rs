//! `routes:`: which requests match, and what answers them.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;

use super::diagnostic::{Span, quoted};
use super::filter::{self, FilterUse};
use super::grammar::{REDIRECT, RESPOND, ROUTE, ROUTE_TIMEOUTS};
use super::reading::{Reading, shown};
use super::tree::{Map, Node};
use super::{header, template, upstream, value};

/// One entry of a site's `routes:`, or the site's own `upstream:`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Line in the file where the entry starts, from 1.
    pub line: u32,
    /// What it matches in few words, such as `/v1/*`: its name in logs and metrics.
    pub label: String,
    /// What a request must satisfy. An empty one matches everything.
    pub matcher: Match,
    /// What answers.
    pub action: Action,
    /// What is changed in the path before it goes upstream. Only with [`Action::Upstream`].
    pub rewrite: Option<Rewrite>,
    /// Run after the site's, in this order.
    pub filters: Vec<FilterUse>,
    /// Bound on the whole exchange; `None` is no bound.
    pub request_timeout: Option<Duration>,
}

/// `match:`; entries are ANDed, the values of one entry ORed, an empty list is no condition.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Canonical path patterns.
    pub paths: Vec<PathPattern>,
    /// Regular expression over the path's [`MatchKey`](crate::net::path::MatchKey), unanchored
    /// unless it says so.
    pub path_regex: Option<Regex>,
    /// Accepted methods.
    pub methods: Vec<Method>,
    /// Header conditions.
    pub headers: Vec<(HeaderName, Vec<ValuePattern>)>,
    /// Query conditions; keys and values compare after form decoding.
    pub query: Vec<(String, Vec<ValuePattern>)>,
    /// Cookie conditions.
    pub cookies: Vec<(String, Vec<ValuePattern>)>,
}

/// A `path:` pattern in the form of [`MatchKey`](crate::net::path::MatchKey).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathPattern {
    /// `/v1`: this path and no other.
    Exact(String),
    /// `/v1/*`: holds `/v1`; matches `/v1`, `/v1/` and below, not `/v10`. `/*` holds the empty text.
    Prefix(String),
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/*"),
        }
    }
}

/// A value in a header, query or cookie condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ValuePattern {
    /// `"*"`: present, whatever its value.
    Any,
    /// Literal, compared byte by byte.
    Is(String),
}

/// What answers a request that matched.
#[derive(Clone, Debug)]
pub enum Action {
    /// Index into [`Config::upstreams`](super::Config::upstreams).
    Upstream(usize),
    /// `redirect:`.
    Redirect(Redirect),
    /// `respond:`.
    Respond(Respond),
    /// `respond: welcome`: the built-in page that says the gateway works.
    Welcome,
}

/// `redirect: { to, status }`.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// Text of the Location header, cut at its placeholders.
    pub to: Vec<Piece>,
    /// 301, 302, 303, 307 or 308. Default 308.
    pub status: StatusCode,
}

/// A run of a template such as `https://{host}/v1{path}`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    /// Copied as it is.
    Literal(String),
    /// `{path}`: the canonical path.
    Path,
    /// `{query}`: `?` (after a `?` in the template: `&`) and the query, or nothing.
    Query,
    /// `{host}`: the request's host without port.
    Host,
    /// `{uri}`: path and query.
    Uri,
}

/// `respond: { status, body, headers }`.
#[derive(Clone, Debug)]
pub struct Respond {
    /// Default 200.
    pub status: StatusCode,
    /// Default empty.
    pub body: String,
    /// Set on the answer; `Content-Type: text/plain; charset=utf-8` is added when a body has none.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// `rewrite:`, exactly one kind.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// Canonical prefix without a trailing slash, removed on a segment boundary.
    StripPrefix(String),
    /// Template of the new path, and of the query where it contains `?`.
    Path(Vec<Piece>),
    /// Replacement of the first match; `$1` and `${name}` stand for captures.
    Regex {
        /// Matched against the canonical path, or its key where that does not match.
        from: Regex,
        /// Replacement text.
        to: String,
    },
}

/// A route and where a warning about it would point.
pub(super) struct Written {
    /// The route.
    pub(super) checked: Route,
    /// Its `match`, or where it starts.
    pub(super) span: Span,
}

/// Reads one of `routes:`.
pub(super) fn read(node: &Node, reading: &mut Reading) -> Option<Written> {
    let Node::Map(map) = node else {
        let message = format!("a route is a map of keys, not {}", node.kind());
        reading.error(node.span(), message);
        return None;
    };
    Route::read(map, reading)
}

impl Route {
    fn read(map: &Map, reading: &mut Reading) -> Option<Written> {
        let mut keys = map.keys(&ROUTE, reading);
        let matcher =
            keys.read("match", |node, reading| value::map_with(node, "path", reading, Match::read));
        let target = keys.read("upstream", upstream::read_target).map(Action::Upstream);
        let redirect = keys.read("redirect", Redirect::read).map(Action::Redirect);
        let respond = keys.read("respond", Respond::read);
        let rewrite = keys.read("rewrite", Rewrite::read);
        let request_timeout = keys.read("timeouts", |node, reading| {
            value::map(node, reading, |map, reading| {
                let mut keys = map.keys(&ROUTE_TIMEOUTS, reading);
                let request = keys.read("request", value::duration);
                keys.finish();
                request
            })
        });
        let filters = filter::read_uses(&mut keys);
        for name in ["rewrite", "timeouts"] {
            if let (Some(span), None) = (keys.span_of(name), keys.span_of("upstream")) {
                let message = format!("{} has no meaning without \"upstream\"", quoted(name));
                keys.reading.error(span, message);
            }
        }
        let span = keys.span_of("match").map_or(map.span, |span| span);
        keys.finish();
        let action = target.or(redirect).or(respond)?;
        let matcher = matcher?;
        let (line, label) = (map.span.line, matcher.label());
        let checked = Self { line, label, matcher, action, rewrite, request_timeout, filters };
        Some(Written { checked, span })
    }

    /// The route of a site's own `upstream:`.
    pub(super) fn last(span: Span, target: usize) -> Written {
        let checked = Self {
            line: span.line,
            label: Match::default().label(),
            matcher: Match::default(),
            action: Action::Upstream(target),
            rewrite: None,
            request_timeout: None,
            filters: Vec::new(),
        };
        Written { checked, span }
    }
}

impl Redirect {
    fn read(node: &Node, reading: &mut Reading) -> Option<Self> {
        if let Node::Scalar(_) = node {
            let to = template::read_location(node, reading)?;
            return Some(Self { to, status: StatusCode::PERMANENT_REDIRECT });
        }
        if let Node::Map(map) = node
            && map.is_placeholder()
            && map.entry("to").is_none()
        {
            value::scalar(node, reading)?;
        }
        value::map(node, reading, |map, reading| {
            let mut keys = map.keys(&REDIRECT, reading);
            let to = keys.read("to", template::read_location);
            let status = keys.choice(
                "status",
                &[
                    ("301", StatusCode::MOVED_PERMANENTLY),
                    ("302", StatusCode::FOUND),
                    ("303", StatusCode::SEE_OTHER),
                    ("307", StatusCode::TEMPORARY_REDIRECT),
                    ("308", StatusCode::PERMANENT_REDIRECT),
                ],
            );
            keys.finish();
            Some(Self { to: to?, status: status? })
        })
    }
}

impl Respond {
    /// Reads `welcome`, a status, a text, or the long form.
    fn read(node: &Node, reading: &mut Reading) -> Option<Action> {
        if let Node::Scalar(_) = node {
            return Self::read_short(node, reading);
        }
        value::map(node, reading, |map, reading| {
            let mut keys = map.keys(&RESPOND, reading);
            let status = keys.count("status");
            let body = keys.read("body", value::text);
            let headers = keys.read("headers", header::read_fields).unwrap_or_default();
            if let (Some(204 | 205 | 304), Some(span)) = (status, keys.span_of("body")) {
                let message =
                    format!("an answer with status {} has no body", status.unwrap_or(204));
                keys.reading.error_hint(span, message, "remove it (RFC 9110 §6.4.1)");
            }
            keys.finish();
            let status = StatusCode::from_u16(status?).ok()?;
            Some(Action::Respond(Self { status, body: body?, headers }))
        })
    }

    fn read_short(node: &Node, reading: &mut Reading) -> Option<Action> {
        let scalar = value::scalar(node, reading)?;
        let is_number = !scalar.is_quoted && scalar.text.bytes().all(|byte| byte.is_ascii_digit());
        if &*scalar.text == "welcome" {
            return Some(Action::Welcome);
        }
        let answer = Self { status: StatusCode::OK, body: String::new(), headers: Vec::new() };
        if is_number {
            let status = scalar.text.parse().ok().filter(|status| (200..=599).contains(status));
            let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
                let message = format!("{} is not a status from 200 to 599", quoted(shown(scalar)));
                reading.wrong(scalar, message, "a text must stand in quotes if it is a number");
                return None;
            };
            return Some(Action::Respond(Self { status, ..answer }));
        }
        Some(Action::Respond(Self { body: scalar.text.to_string(), ..answer }))
    }
}
